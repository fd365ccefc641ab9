"""An evaluation's file keeps to its schema, and its measures are those of its episodes."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from aegis_sim.quiz import Asked
from aegis_sim.results import Episode, Evaluation, Latency, Rollout
from aegis_sim.statistics import Spread, spread_of, wilson
from tests.sim.evaluations import SCHEMA, read_checked
from tests.sim.policies import INFO

ASKED = (Asked("where is the cube", "where", "left", "right", step=3),)
STEPS, WON, JERKS = [30, 60, 20, 10], [True, False, True, True], [1.5, None, 2.5, 4.0]
FOUND = Evaluation(
    task="pick",
    seed=0,
    policy=INFO,
    episodes=tuple(
        Episode(
            seed, ASKED, Rollout("pick up", won, True, None, steps, None if won else "nothing lifted", jerk, b"film")
        )
        for seed, (steps, won, jerk) in enumerate(zip(STEPS, WON, JERKS, strict=True))
    ),
    settings={"split": "seen", "replan_every": 4, "batch": 1, "questions_per_instant": 4},
    latency=Latency((0.01, 0.02, 0.03), (0.004,)),
)


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_measures_are_those_of_the_episodes(tmp_path: Path) -> None:
    FOUND.save(tmp_path / "found.json", "aegis eval")
    data = read_checked(tmp_path / "found.json")
    assert data["success"] == wilson(3, 4).to_dict() and data["vqa"] == wilson(0, 4).to_dict()
    assert data["time_to_success"] == {"n": 3, "q25": 1.5, "median": 2.0, "q75": 2.5}  # s, at INFO's 10 Hz
    assert data["jerk"] == {"n": 3, "q25": 2.0, "median": 2.5, "q75": 3.25}
    assert data["latency_ms"]["act"] == pytest.approx({"n": 3, "p50": 20.0, "p95": 29.0})
    assert data["latency_ms"]["ask"] == {"n": 1, "p50": 4.0, "p95": 4.0}
    assert [episode["jerk"] for episode in data["per_episode"]] == JERKS
    assert (tmp_path / data["per_episode"][1]["video"]).read_bytes() == b"film"


def test_evaluating_again_leaves_the_films_that_an_earlier_file_points_to(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    FOUND.save(path)
    earlier = read_checked(path)
    one = FOUND.episodes[0]
    again = dataclasses.replace(one, rollout=dataclasses.replace(one.rollout, video=b"another film"))
    dataclasses.replace(FOUND, episodes=(again, *FOUND.episodes[1:])).save(path)
    later = read_checked(path)
    assert [(tmp_path / one["video"]).read_bytes() for one in earlier["per_episode"]] == [b"film"] * 4
    assert [(tmp_path / one["video"]).read_bytes() for one in later["per_episode"]] == [b"another film"] + [b"film"] * 3
    FOUND.save(path)
    assert read_checked(path) == earlier and len(list((tmp_path / "found_films").iterdir())) == 2


def test_nothing_succeeded_and_nothing_asked_is_still_a_file(tmp_path: Path) -> None:
    rollout = Rollout("pick up", False, None, None, 60, "nothing lifted")
    found = dataclasses.replace(FOUND, episodes=(Episode(0, (), rollout),), latency=Latency())
    found.save(tmp_path / "found.json")
    data = read_checked(tmp_path / "found.json")
    assert data["time_to_success"] == spread_of([]).to_dict() == Spread(0, None, None, None).to_dict()
    assert data["latency_ms"]["ask"] == {"n": 0, "p50": None, "p95": None}
    assert "right_object" not in data


def test_questions_alone_have_no_motion(tmp_path: Path) -> None:
    settings = {"questions_per_scene": 8, "baseline_scenes": 500}
    found = Evaluation("drawn", 0, INFO, (Episode(0, ASKED),), settings, {"majority": wilson(1, 2)})
    found.save(tmp_path / "found.json")
    data = read_checked(tmp_path / "found.json")
    assert not {"success", "right_object", "time_to_success", "jerk"} & set(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("vqa"),
        lambda data: data.pop("jerk"),
        lambda data: data["success"].update(rate=1.5),
        lambda data: data["settings"].update(until_width=0.2),
        lambda data: data["per_episode"][0].pop("jerk"),
        lambda data: data["per_episode"][0].update(note="odd"),
        lambda data: data.update(per_episode=[]),
    ],
)
def test_the_schema_refuses_what_is_not_an_evaluation(spoil) -> None:
    data = copy.deepcopy(FOUND.to_dict())
    spoil(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


def test_latencies_add_up() -> None:
    both = Latency((0.1,), ()) + Latency((0.2, 0.3), (0.4,))
    assert both == Latency((0.1, 0.2, 0.3), (0.4,))
    assert np.isclose(both.to_dict()["act"]["p50"], 200)
