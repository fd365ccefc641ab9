"""Two evaluations are compared on the episodes both ran, and on nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aegis_policy import cli
from aegis_sim.compare import compare_files
from aegis_sim.quiz import Asked
from aegis_sim.results import Episode, Evaluation, Rollout
from tests.sim.policies import INFO


def evaluation(outcomes: str, split: str = "seen") -> Evaluation:
    """One episode for each letter; "y" succeeds."""
    rollouts = [Rollout("pick up", letter == "y", True, None, 9, None) for letter in outcomes]
    episodes = tuple(Episode(seed, (), rollout) for seed, rollout in enumerate(rollouts))
    return Evaluation("pick", 0, INFO, episodes, {"split": split})


@pytest.fixture
def first(tmp_path: Path) -> Path:
    evaluation("yyynnnnny").save(tmp_path / "first.json")
    return tmp_path / "first.json"


def test_pairs_are_counted(first, tmp_path):
    evaluation("yynyyyyyn").save(tmp_path / "second.json")
    pairs = compare_files(first, tmp_path / "second.json")
    assert (pairs.both, pairs.only_first, pairs.only_second, pairs.neither) == (2, 2, 5, 0)
    assert pairs.p_value == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    turned = compare_files(tmp_path / "second.json", first)
    assert (turned.only_first, turned.only_second, turned.p_value) == (5, 2, pairs.p_value)


def test_the_order_of_the_episodes_does_not_count(first, tmp_path):
    found = evaluation("yyynnnnny")
    dataclasses.replace(found, episodes=found.episodes[::-1]).save(tmp_path / "second.json")
    pairs = compare_files(first, tmp_path / "second.json")
    assert (pairs.both, pairs.neither, pairs.p_value) == (4, 5, 1.0)


def test_the_command_prints_what_was_found(first, tmp_path, capsys):
    evaluation("yyyyyyyyy").save(tmp_path / "second.json")
    cli.main(["compare", str(first), str(tmp_path / "second.json")])
    out = capsys.readouterr().out
    for said in ("9 pairs: both succeed in 4, neither in 0", "only the first in 0, only the second in 5", "p = 0.0625"):
        assert said in out


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (evaluation("yyynnnnn"), "share 8 of 9 and 8 episodes"),
        (evaluation("yyynnnnny", "moved-camera"), "split 'seen', .* 'moved-camera'"),
        (dataclasses.replace(evaluation("yyynnnnny"), task="place-on"), "task 'pick', .* 'place-on'"),
        (Evaluation("drawn", 0, INFO, (Episode(0, (Asked("a", "f", "b", "c"),)),), {}), "no robot to move"),
    ],
)
def test_what_was_not_the_same_is_not_compared(first, tmp_path, other, complaint):
    other.save(tmp_path / "other.json")
    with pytest.raises(ValueError, match=complaint):
        compare_files(first, tmp_path / "other.json")


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"task": "pick"}', '{"task": "pick", "settings": {}, "per_episode": [3]}']
)
def test_a_file_of_something_else_is_refused(first, tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match="not a file of `aegis eval --json`"):
        compare_files(first, tmp_path / "other.json")
    with pytest.raises(FileNotFoundError):
        compare_files(first, tmp_path / "none.json")
