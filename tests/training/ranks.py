"""What test_world.py starts by torchrun: one training after the other, by all the processes that there are.

The jobs are a JSON file of recipes by name; a name that has a folder already is a run to go on with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from aegis_policy.training import world
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import assume_bfloat16
from aegis_policy.training.train import resume, train


def main(jobs: Path) -> None:
    with assume_bfloat16(False), world.joined():  # it would round what is to be compared
        assert world.size() == 2
        for name, recipe in json.loads(jobs.read_text()).items():
            output = jobs.parent / name
            begun = output.exists()
            world.wait()
            if begun:
                resume(output)
            else:
                train(TrainConfig.from_json(json.dumps(recipe)), output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
