"""What test_world.py starts by torchrun: one training after the other, by all the processes that there are.

The jobs are a JSON file of recipes by name; a name that has a folder already is a run to go on with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from aegis_policy.training import device, world
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.train import resume, train


def main(jobs: Path) -> None:
    device._cpu_has_bf16 = lambda: False  # bfloat16 would round what is to be compared
    with world.joined():
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
