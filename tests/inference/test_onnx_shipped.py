"""The policy that ships, exported as a user does, in front of scenes that the simulator draws."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aegis_policy.inference.load import load_policy

pytestmark = [pytest.mark.slow, pytest.mark.sim, pytest.mark.timeout(1800)]

AEGIS = str(Path(sys.executable).with_name("aegis"))
SCENES = 50
QUESTIONS = ("how many objects are there?", "what color is the cube?", "is there a red ball?")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "exported"
    done = subprocess.run([AEGIS, "export", "--output", folder], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{folder}: same answers, and actions within ")
    return folder


def test_acts_and_answers_as_with_torch(exported: Path) -> None:
    from aegis_sim.driving import for_policy
    from aegis_sim.tasks import episode_seed, make

    ours, theirs = load_policy(exported), load_policy()
    assert ours.info == theirs.info
    answers = set()
    with closing(make("place-on", image_size=96)) as env:
        env.action_space.seed(0)
        for number in range(SCENES):
            observation, info = env.reset(seed=episode_seed("eval", 1, number))
            for _ in range(number % 8):  # not always from the home pose
                observation, *_, info = env.step(env.action_space.sample())
            seen = for_policy(ours.info, observation, info["instruction"], 0.0)
            actions = [policy.act(seen, seed=number).actions for policy in (ours, theirs)]
            np.testing.assert_allclose(*actions, rtol=0, atol=1e-5)
            for question in QUESTIONS:
                said = ["".join(policy.ask({"front": seen.images["front"]}, question)) for policy in (ours, theirs)]
                assert said[0] == said[1]
                answers.add(said[0])
    assert len(answers) > 4


def test_does_as_well_on_the_same_episodes(exported: Path, tmp_path: Path) -> None:
    found = []
    for name, options in (("onnx", ["--checkpoint", exported]), ("torch", [])):
        file = tmp_path / f"{name}.json"
        subprocess.run([AEGIS, "eval", *options, "--episodes", "3", "--json", file], check=True, capture_output=True)
        found.append(json.loads(file.read_text()))
    for key in ("success", "right_object", "vqa", "policy"):
        assert found[0][key] == found[1][key]
