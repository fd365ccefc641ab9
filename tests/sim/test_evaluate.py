"""The evaluation scores a policy that does everything right, and one that does nothing right, as what they are."""

from __future__ import annotations

import dataclasses
import io
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aegis_policy import ActionChunk
from aegis_policy.inference.load import load_policy
from aegis_sim import commands, tasks
from aegis_sim.evaluate import Played, _Found, evaluate
from aegis_sim.questions import FAMILIES, Question
from aegis_sim.quiz import Asked, BlindBaselines, by_family, normalised, pick_questions
from aegis_sim.results import Episode, Evaluation, Latency
from aegis_sim.rollout import INSTANTS, run_episodes
from aegis_sim.statistics import wilson
from tests.linear_policy import serving
from tests.sim.evaluations import OUTCOMES, Scripted, numbers, read_checked
from tests.sim.policies import INFO, Mortal, Replay, Wandering

EPISODES, SEED = 2, 3
SEEDS = [tasks.episode_seed("eval", SEED, index) for index in range(EPISODES)]


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay("pick", SEEDS)


@pytest.fixture(scope="module")
def wandered() -> Evaluation:
    return evaluate(Wandering, "pick", EPISODES, SEED)


@pytest.mark.sim
def test_a_perfect_policy_scores_one_whatever_is_asked_and_however_often_it_plans(replay, tmp_path):
    found = evaluate(lambda: replay, "pick", EPISODES, SEED, replan_every=3, videos=1)
    assert found.rates["success"] == found.rates["right_object"] == wilson(EPISODES, EPISODES)
    assert [episode.seed for episode in found.episodes] == SEEDS
    assert all(episode.rollout.failure is None for episode in found.episodes)

    found.save(tmp_path / "out.json", "aegis eval ...")
    data = read_checked(tmp_path / "out.json")
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
        instants = {one.step for one in episode.asked}  # the arm may hide all that could be asked about
        assert {0, episode.rollout.steps} <= instants <= {*INSTANTS, episode.rollout.steps}
    assert wandered.rates["vqa"].rate == np.mean([one.answer == one.truth for one in wandered.asked])
    assert {one.answer for one in wandered.asked} <= {"yes", "no"}
    assert sum(rate.n for rate in by_family(wandered.asked).values()) == len(wandered.asked)


@pytest.mark.sim
def test_through_a_server_the_numbers_are_the_same(wandered, tmp_path):
    with serving(tmp_path / "log", sys.executable, str(Path(__file__).with_name("policies.py"))) as server:
        server.wait()
        remote = evaluate(partial(load_policy, server.url), "pick", EPISODES, SEED)
    assert numbers(remote) == numbers(wandered)


@pytest.mark.sim
def test_two_workers_one_of_them_killed_find_what_one_finds(wandered, tmp_path):
    """Twice the same evaluation, spread over processes, cut short once and traced: none is lost or comes twice."""
    given: list[Episode] = []
    load = partial(Mortal, tmp_path)
    found = evaluate(load, "pick", EPISODES, SEED, workers=2, record=lambda info, episode: given.append(episode))
    assert numbers(found) == numbers(wandered)
    assert tuple(given) == found.episodes
    assert all(episode.rollout.trace is None for episode in found.episodes)
    for episode in given:
        trace, steps = episode.rollout.trace, episode.rollout.steps
        assert [len(images) for images in trace.images.values()] == [steps + 1] * 2
        assert trace.states.shape == (steps + 1, 7) and trace.actions.shape == (steps, 7)
    processes, places = zip(*map(str.split, (tmp_path / "starts").read_text().splitlines()), strict=True)
    assert (tmp_path / "killed").exists()
    assert len(places) == EPISODES + 1 and len(set(places)) == EPISODES
    assert len(set(processes)) == 3


@pytest.mark.sim
def test_in_lock_step_the_policy_sees_what_it_sees_one_by_one(wandered):
    """Wandering acts for one observation at a time, so here not even the last bits may differ."""
    together = numbers(evaluate(Wandering, "pick", EPISODES, SEED, batch=EPISODES))
    assert together["settings"].pop("batch") == EPISODES
    alone = numbers(wandered)
    assert alone["settings"].pop("batch") == 1
    assert together == alone


@pytest.mark.slow
@pytest.mark.sim
def test_the_shipped_policy_finds_the_same_with_any_number_of_workers():
    alone, shared = (evaluate(partial(load_policy, None), "pick", 3, 0, workers=workers) for workers in (1, 2))
    assert numbers(alone) == numbers(shared)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (3, 1), (10, 1), (1, 2)])
def test_it_stops_at_the_first_episode_that_makes_the_interval_narrow_enough(monkeypatch, batch, workers):
    monkeypatch.setattr("aegis_sim.evaluate.Player", Scripted)
    width = 0.55
    ends = next(n for n in range(1, 11) if wilson(sum(OUTCOMES[:n]), n).width < width)
    assert 1 < ends < 10
    found = evaluate(Wandering, "pick", 10, 0, batch=batch, until_width=width, workers=workers)
    assert found.rates["success"] == wilson(sum(OUTCOMES[:ends]), ends)
    assert found.settings["until_width"] == width and found.settings["episodes_at_most"] == 10
    whole = evaluate(Wandering, "pick", 10, 0, batch=batch, until_width=0.01)
    assert len(whole.episodes) == 10
    assert whole.episodes[:ends] == found.episodes
    assert "until_width" not in evaluate(Wandering, "pick", 10, 0).settings


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"until_width": 1.0}, "until_width is 1.0"),
        ({"until_width": 0.2, "task": "drawn"}, "no success rate"),
        ({"record": lambda info, episode: None, "task": "drawn"}, "no motion to record"),
        ({"videos": 3, "task": "drawn"}, "no motion to record"),
        ({"split": "moved-camera", "task": "questions"}, "the task 'questions' has the split 'seen' alone"),
        ({"task": "juggle"}, "juggle"),
    ],
)
def test_wrong_settings_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        evaluate(**{"load": Wandering, "task": "pick", "episodes": 1, "seed": 0} | change)


def test_what_two_policies_did_is_no_measurement():
    other = dataclasses.replace(INFO, checkpoint="another")
    played = (Played(info, (Episode(0, ()),), Latency()) for info in (INFO, INFO, other))
    found = []
    with pytest.raises(ValueError, match="the policy is another by now"):
        found.extend(_Found().episodes(played))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"videos": 2}, "--videos: films go into a file or a report"),
        ({"json": "folder"}, "folder: a folder; name a file"),
        ({"report": "folder"}, "folder: a folder; name a file"),
        ({"report": "one.json"}, "each needs a file of its own"),
        ({"json": "one.html", "report": "folder/../one.html"}, "each needs a file of its own"),
    ],
)
def test_what_would_be_lost_is_refused_before_anything_runs(tmp_path, options, complaint):
    (tmp_path / "folder").mkdir()
    options = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises((ValueError, OSError), match=complaint):
        commands.evaluate("http://127.0.0.1:9", **options)
    with pytest.raises(IsADirectoryError, match="folder: a folder; name a file"):
        commands.record("pick", 1, tmp_path / "folder")
    with pytest.raises(ValueError, match="--split, --short-fraction and --takeover are of demonstrations"):
        commands.record("drawn", 1, tmp_path / "drawn.hdf5", split="moved-camera")


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
    env = tasks.make("pick", "moved-camera", render_mode="rgb_array")
    (without,) = run_episodes(quiet, [env], SEEDS[:1], questions_asked=False)
    (with_both,) = run_episodes(busy, [env], SEEDS[:1], films=[True])
    env.close()
    assert without.asked == () and with_both.asked
    assert np.array_equal(quiet.chunks, busy.chunks)
    assert dataclasses.replace(with_both.rollout, video=None) == without.rollout
    assert Image.open(io.BytesIO(with_both.rollout.video)).is_animated


class Still(Wandering):
    """Sees by its wrist alone, and stays where it is."""

    info = dataclasses.replace(INFO, cameras=tuple(camera for camera in INFO.cameras if camera.name == "wrist"))

    def act(self, observation, *, seed=None):
        assert list(observation.images) == ["wrist"]
        return ActionChunk(np.zeros((self.info.horizon, len(self.info.actions)), np.float32), observation.stamp)


@pytest.mark.sim
def test_a_policy_without_the_camera_that_questions_are_about_is_driven_and_not_asked():
    found = evaluate(Still, "pick", 1, 0)
    assert found.rates["success"].n == 1 and found.rates["vqa"].n == 0


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
        evaluate(lambda: policy, "pick", 1, 0, replan_every=replan_every)


def test_drawn_scenes_are_scored_on_questions_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("aegis_sim.evaluate.BASELINE_SCENES", 80)
    found = evaluate(Wandering, "drawn", 5, 0)
    found.save(tmp_path / "drawn.json")
    data = read_checked(tmp_path / "drawn.json")
    assert "success" not in data and "right_object" not in data
    assert data["vqa"]["n"] == sum(len(episode["asked"]) for episode in data["per_episode"])
    assert set(data["baselines"]) == {"majority", "question_only"}
    assert 0.2 < data["baselines"]["majority"]["rate"] < 0.7
    assert numbers(evaluate(Wandering, "drawn", 5, 0, workers=2)) == numbers(found)
    assert evaluate(Wandering, "drawn", 5, 1).to_dict()["per_episode"] != data["per_episode"]


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


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(" Red  cube\n", "red cube"), ("", ""), ("3", "3"), ("Yes.", "yes"), ("A red cube", "red cube"), ("two", "2")],
)
def test_answers_are_compared_by_what_they_say(answer, expected):
    assert normalised(answer) == expected


class Drifting(Wandering):
    """Up and away from the table."""

    def act(self, observation, *, seed=None):
        chunk = super().act(observation, seed=seed)
        return dataclasses.replace(
            chunk, actions=np.tile(np.float32([0, 0, 0.05, 0, 0, 0, 0]), (len(chunk.actions), 1))
        )


@pytest.mark.sim
@pytest.mark.parametrize("split", ["seen", "moved-camera"])
def test_a_hand_that_leaves_the_picture_fails_and_ends_no_evaluation(split):
    found = evaluate(Drifting, "pick", 2, 0, split=split)
    assert found.rates["success"] == wilson(0, 2)
