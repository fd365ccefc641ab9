"""What tests look at of an evaluation: its numbers, its file held against the schema, and one without a simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

import aegis_sim
from aegis_sim.evaluate import Played
from aegis_sim.results import UNREPEATABLE, Episode, Evaluation, Latency, Rollout
from tests.sim.policies import INFO

SCHEMA = json.loads((Path(aegis_sim.__file__).parent / "assets/evaluation.schema.json").read_text())
OUTCOMES = [True, True, False, True, True, True, True, False, True, True]


def numbers(found: Evaluation) -> dict[str, Any]:
    """What has to be the same every time."""
    return {key: value for key, value in found.to_dict().items() if key not in UNREPEATABLE}


def read_checked(path: Path) -> dict[str, Any]:
    """What a file says, after it was held against the schema."""
    data = json.loads(path.read_text())
    jsonschema.validate(data, SCHEMA, cls=jsonschema.Draft202012Validator)
    return data


class Scripted:
    """In a Player's place: episodes that end as OUTCOMES say."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __call__(self, indices: range) -> Played:
        rollouts = [Rollout("pick up", OUTCOMES[i], None, None, steps=i, failure=None) for i in indices]
        episodes = tuple(Episode(i, (), rollout) for i, rollout in zip(indices, rollouts, strict=True))
        return Played(INFO, episodes, Latency(act_s=(0.01,) * len(indices)))

    def close(self) -> None:
        pass
