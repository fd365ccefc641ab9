"""The evaluation scores a policy that does everything right, and one that does nothing right, as what they are."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aegis_policy.inference.remote import RemotePolicy
from aegis_sim import tasks
from aegis_sim.evaluate import MIDDLE_STEP, evaluate, run_episode
from aegis_sim.questions import FAMILIES, Question
from aegis_sim.quiz import Asked, BlindBaselines, by_family, normalised, pick_questions
from aegis_sim.statistics import wilson
from tests.linear_policy import serving
from tests.sim.policies import INFO, Replay, Wandering

EPISODES, SEED = 2, 3
SEEDS = [tasks.episode_seed("eval", SEED, index) for index in range(EPISODES)]


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay("pick", SEEDS)


@pytest.fixture(scope="module")
def wandered():
    return evaluate(Wandering(), "pick", EPISODES, SEED)


@pytest.mark.sim
def test_a_perfect_policy_scores_one_whatever_is_asked_and_however_often_it_plans(replay, tmp_path):
    found = evaluate(replay, "pick", EPISODES, SEED, replan_every=3, videos=1)
    assert found.rates["success"] == found.rates["right_object"] == wilson(EPISODES, EPISODES)
    assert [episode.seed for episode in found.episodes] == SEEDS
    assert all(episode.rollout.failure is None for episode in found.episodes)

    found.save(tmp_path / "out.json", "aegis eval ...")
    data = json.loads((tmp_path / "out.json").read_text())
    assert set(data["success"]) == set(data["vqa"]) == {"rate", "n", "low", "high"}
    assert data["success"]["rate"] == 1 and data["command"] == "aegis eval ..."
    film = Image.open(tmp_path / data["per_episode"][0]["video"])
    assert film.n_frames > data["per_episode"][0]["steps"] / 2  # equal neighbours may be stored as one
    assert "video" not in data["per_episode"][1]


@pytest.mark.sim
def test_a_policy_that_wanders_scores_zero_and_is_told_why(wandered):
    assert wandered.rates["success"] == wilson(0, EPISODES)
    failures = {"nothing lifted", "went to wrong object", "lifted wrong object"}
    assert {episode.rollout.failure for episode in wandered.episodes} <= failures
    for episode in wandered.episodes:
        assert episode.rollout.right_object == (episode.rollout.failure == "nothing lifted")
        assert {one.step for one in episode.asked} == {0, MIDDLE_STEP, episode.rollout.steps}
    assert wandered.rates["vqa"].rate == np.mean([one.answer == one.truth for one in wandered.asked])
    assert {one.answer for one in wandered.asked} <= {"yes", "no"}
    assert sum(rate.n for rate in by_family(wandered.asked).values()) == len(wandered.asked)


@pytest.mark.sim
def test_through_a_server_the_numbers_are_the_same(wandered, tmp_path):
    with serving(tmp_path / "log", sys.executable, str(Path(__file__).with_name("policies.py"))) as server:
        server.wait()
        remote = evaluate(RemotePolicy(server.url), "pick", EPISODES, SEED)
    assert remote.to_dict() == wandered.to_dict()


class Recording(Wandering):
    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []

    def act(self, observation, *, seed=None):
        chunk = super().act(observation, seed=seed)
        self.chunks.append(chunk.actions)
        return chunk


@pytest.mark.sim
def test_neither_asking_nor_filming_changes_a_motion():
    quiet, busy = Recording(), Recording()
    env = tasks.make("pick-moved-camera", render_mode="rgb_array")
    without = run_episode(quiet, env, SEEDS[0], questions_asked=False)
    with_both = run_episode(busy, env, SEEDS[0], film=True)
    env.close()
    assert without.asked == () and with_both.asked
    assert np.array_equal(quiet.chunks, busy.chunks)
    assert dataclasses.replace(with_both.rollout, video=None) == without.rollout
    assert Image.open(io.BytesIO(with_both.rollout.video)).is_animated


@pytest.mark.sim
@pytest.mark.parametrize(
    ("change", "replan_every", "complaint"),
    [
        ({"control_hz": 20.0}, 4, "control rate"),
        ({"cameras": (*INFO.cameras, dataclasses.replace(INFO.cameras[0], name="overhead"))}, 4, "overhead"),
        ({"actions": INFO.actions[:3]}, 4, "actions"),
        ({}, 9, "replan_every is 9: expected 1 to 8"),
    ],
)
def test_a_policy_for_another_robot_is_refused(change, replan_every, complaint):
    policy = Wandering()
    policy.info = dataclasses.replace(INFO, **change)
    with pytest.raises(ValueError, match=complaint):
        evaluate(policy, "pick", 1, 0, replan_every=replan_every)


def test_drawn_scenes_are_scored_on_questions_alone(monkeypatch):
    monkeypatch.setattr("aegis_sim.evaluate.BASELINE_SCENES", 80)
    found = evaluate(Wandering(), "drawn", 5, 0)
    data = found.to_dict()
    assert "success" not in data and "right_object" not in data
    assert data["vqa"]["n"] == sum(len(episode["asked"]) for episode in data["per_episode"])
    assert set(data["baselines"]) == {"majority", "question_only"}
    assert 0.2 < data["baselines"]["majority"]["rate"] < 0.7
    assert evaluate(Wandering(), "drawn", 5, 0).to_dict() == data
    assert evaluate(Wandering(), "drawn", 5, 1).to_dict()["per_episode"] != data["per_episode"]


def test_no_family_is_asked_twice_before_every_one_had_its_turn():
    pool = [Question(f"is there a {index}", "yes", "exists") for index in range(20)]
    pool += [Question("how many objects are there", "2", "count"), Question("point to it", "<loc0016>", "point")]
    picked = pick_questions(pool, 3, np.random.default_rng(0))
    assert sorted(question.family for question in picked) == ["count", "exists", "exists"]
    assert len(pick_questions(pool, 99, np.random.default_rng(0))) == 21
    firsts = {pick_questions(pool, 1, np.random.default_rng(seed))[0].family for seed in range(20)}
    assert firsts == {"count", "exists"}
    assert {question.family for question in picked} <= set(FAMILIES)


def test_blind_baselines_count_what_is_most_frequent():
    sample = [Question("a", "yes", "f")] * 3 + [Question("b", "no", "f")] * 2 + [Question("b", "yes", "f")]
    blind = BlindBaselines.fit([*sample, Question("b", "no", "f")])
    asked = [Asked(text, "f", truth, "") for text, truth in (("a", "yes"), ("b", "no"), ("c", "yes"), ("b", "yes"))]
    scores = blind.score(asked)
    assert scores["majority"] == wilson(3, 4)  # yes, always
    assert scores["question_only"] == wilson(3, 4)  # yes, no, yes (as the family does), no


@pytest.mark.parametrize(("answer", "expected"), [(" Red  cube\n", "red cube"), ("", ""), ("3", "3")])
def test_answers_are_compared_without_case_and_spaces(answer, expected):
    assert normalised(answer) == expected
