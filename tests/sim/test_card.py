"""What was measured goes on the card of a checkpoint of one's own, and nowhere else."""

from __future__ import annotations

import json
import shutil

import pytest

from aegis_policy.inference.load import own_folder, pinned
from aegis_policy.model.checkpoint import asset
from aegis_sim.card import add_to_card
from aegis_sim.commands import evaluate
from aegis_sim.results import Episode, Evaluation, Rollout
from tests.sim.policies import INFO

CARD = "# mine\n\n## What it expects\n- cameras\n"


def evaluation(successes: int, split: str = "seen") -> Evaluation:
    rollouts = [Rollout("pick up", i < successes, True, None, steps=3, failure=None) for i in range(10)]
    episodes = tuple(Episode(i, (), rollout) for i, rollout in enumerate(rollouts))
    return Evaluation("pick", 0, INFO, episodes, {"split": split})


def test_each_task_and_split_is_on_the_card_once(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    for successes, split in ((3, "seen"), (5, "moved-camera"), (8, "seen")):
        add_to_card(tmp_path, evaluation(successes, split))
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(CARD) and text.count("## What was measured") == 1
    assert "| task, split | what | rate | n |" in text
    assert "| pick, seen | success | 0.800 [0.490, 0.943] | 10 |" in text and "0.300" not in text
    assert "| pick, moved-camera | success | 0.500 [0.237, 0.763] | 10 |" in text


def test_what_was_before_stands_beside_it(tmp_path):
    add_to_card(tmp_path, evaluation(2))
    start = json.loads((tmp_path / "measured.json").read_text())["after"]
    (tmp_path / "measured.json").write_text(json.dumps({"before": start, "after": {}}))
    add_to_card(tmp_path, evaluation(9))
    add_to_card(tmp_path, evaluation(7, "moved-camera"))
    text = (tmp_path / "README.md").read_text()
    assert "| pick, seen | success | 0.200 [0.057, 0.510] | 0.900 [0.596, 0.982] | 10 |" in text
    assert "| pick, moved-camera | success | - | 0.700 [0.397, 0.892] | 10 |" in text


def test_what_somebody_wrote_below_stays(tmp_path):
    add_to_card(tmp_path, evaluation(2))
    card = tmp_path / "README.md"
    card.write_text(card.read_text() + "\n## License\n\nCC-BY-4.0, data by Jane Doe.\n")
    for successes in (5, 9):
        add_to_card(tmp_path, evaluation(successes))
    text = card.read_text()
    assert text.endswith("\n## License\n\nCC-BY-4.0, data by Jane Doe.\n")
    assert text.count("## ") == 2 and "0.900" in text and "0.500" not in text


def test_a_training_folder_means_what_was_newest_when_it_was_named(tmp_path):
    for step in ("000500", "001000"):
        shutil.copytree(asset("aegis-tiny"), tmp_path / "run/checkpoints" / step / "pretrained_model")
    (tmp_path / "run/checkpoints/last").symlink_to("000500")
    assert pinned(str(tmp_path / "run")) == str(tmp_path / "run/checkpoints/000500/pretrained_model")
    for source in (None, "http://127.0.0.1:8000"):
        assert pinned(source) == source


@pytest.mark.parametrize("source", [None, "http://127.0.0.1:9", "someone/policy"])
def test_a_checkpoint_that_is_not_ones_own_is_refused_before_anything_runs(source):
    with pytest.raises(ValueError, match="not a folder of your own"):
        evaluate(source, card=True)


@pytest.mark.sim
def test_aegis_eval_puts_it_there(tmp_path):
    shutil.copytree(asset("aegis-tiny"), tmp_path / "mine")
    evaluate(str(tmp_path / "mine"), task="drawn", episodes=2, card=True, report=tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file() and (tmp_path / "report.json").is_file()
    assert own_folder(tmp_path / "mine") == tmp_path / "mine"
    known = json.loads((tmp_path / "mine/measured.json").read_text())
    assert known["after"]["drawn"]["vqa"]["n"] == 16
    assert "| drawn | vqa |" in (tmp_path / "mine/README.md").read_text()
