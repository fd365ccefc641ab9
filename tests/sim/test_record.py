"""Recorded demonstrations: the layout, that they can be replayed, and that only whole files appear."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aegis_policy.data.convert import convert
from aegis_policy.data.displacements import doubt
from aegis_policy.data.source import Episode, open_source
from aegis_policy.model.checkpoint import asset
from aegis_sim import commands, demonstration_file, tasks
from aegis_sim.demonstration_file import DemonstrationFile
from aegis_sim.demonstrations import Recording, record_demonstrations
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES
from aegis_sim.files import check_writable
from aegis_sim.table_env import CONTROL_HZ
from aegis_sim.tasks import IMAGE_SIZE

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "made" / "demos.hdf5"
    commands.record("pick", 4, path, seed=1, noise=0.03, short_fraction=0.5)
    return path


def contents(path: Path) -> dict[str, np.ndarray | str]:
    """Every dataset and attribute of a file."""
    found: dict[str, np.ndarray | str] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": str(value) for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            found[name] = item[:]

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def test_layout_is_robomimics(recorded: Path) -> None:
    with h5py.File(recorded) as file:
        data = file["data"]
        assert sorted(data) == [f"demo_{i}" for i in range(4)]
        assert data.attrs["total"] == sum(demo.attrs["num_samples"] for demo in data.values())
        settings = json.loads(data.attrs["env_args"])
        assert (
            settings["task"] == "pick"
            and settings["env_kwargs"] == {"split": "seen"}
            and {"robosuite", "mujoco"} <= set(settings["versions"])
        )
        assert data.attrs["control_hz"] == CONTROL_HZ
        assert json.loads(data.attrs["state_features"]) == [[f.name, f.unit] for f in STATE_FEATURES]
        assert json.loads(data.attrs["action_features"]) == [[f.name, f.unit] for f in ACTION_FEATURES]
        for demo in data.values():
            steps = demo.attrs["num_samples"]
            assert demo.attrs["success"] and demo.attrs["instruction"].startswith(("pick up the ", "lift the "))
            assert demo.attrs["model_file"].startswith("<mujoco") and demo.attrs["seed"] % 2 == 0
            for name in ("obs/front_image", "obs/wrist_image"):
                assert demo[name].shape == (steps, IMAGE_SIZE, IMAGE_SIZE, 3) and demo[name].dtype == np.uint8
            for name in ("actions", "obs/state"):
                assert demo[name].shape == (steps, 7) and demo[name].dtype == np.float32
            assert demo["states"].shape[0] == steps and demo["states"].dtype == np.float64
            assert demo["rewards"][:].tolist() == [0.0] * (steps - 1) + [1.0] == demo["dones"][:].tolist()


def test_episodes_replay_to_the_last_bit(recorded: Path) -> None:
    env = tasks.make("pick", cameras=())
    with h5py.File(recorded) as file:
        full = [demo for demo in file["data"].values() if not demo.attrs["short"]]
        assert 0 < len(full) < 4, "the seed should give both kinds"
        for demo in full:
            _, info = env.reset(seed=int(demo.attrs["seed"]))
            assert info["instruction"] == demo.attrs["instruction"]
            for state, seen, action in zip(demo["states"], demo["obs/state"], demo["executed_actions"], strict=True):
                assert np.array_equal(env.table.sim.get_state().flatten(), state)
                assert np.array_equal(env.state(), seen)
                terminated = env.step(action)[2]
            assert terminated
    env.close()


@pytest.mark.parametrize("task", ["place-on", "place-beside"])
def test_placing_may_begin_with_the_thing_in_the_hand(task: str, tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    record_demonstrations(Recording(task, seed=1, noise=0.03, short_fraction=1.0), 6, path)
    with h5py.File(path) as file:
        assert json.loads(file["data"].attrs["env_args"])["env_name"].startswith("aegis/Place")
        begun = [bool(demo["actions"][0, 6] >= 0.5) for demo in file["data"].values()]
        assert any(begun) and not all(begun)
        for demo in file["data"].values():
            assert demo["actions"][-1, 6] < 0.5, "it lets go at the end"


def test_the_expert_takes_over_from_a_policy(tmp_path: Path) -> None:
    paths = [tmp_path / f"{workers}.hdf5" for workers in (1, 2)]
    for workers, path in enumerate(paths, start=1):
        commands.record("pick", 2, path, seed=3, takeover=str(asset("aegis-tiny")), workers=workers)
    one, two = map(contents, paths)
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    env = tasks.make("pick", cameras=())
    with h5py.File(paths[0]) as file:
        for demo in file["data"].values():
            _, info = env.reset(seed=int(demo.attrs["seed"]))
            assert info["instruction"] == demo.attrs["instruction"] and demo.attrs["success"]
            assert not np.array_equal(env.state(), demo["obs/state"][0]), "the policy has moved the hand by then"
    env.close()


def test_only_what_is_executed_is_disturbed(recorded: Path) -> None:
    with h5py.File(recorded) as file:
        for demo in file["data"].values():
            label, executed = demo["actions"][:], demo["executed_actions"][:]
            grasping = label[:, 6] >= 0.5
            assert np.array_equal(label[grasping], executed[grasping])
            assert np.array_equal(label[:, 6], executed[:, 6])
        assert any((demo["actions"][:] != demo["executed_actions"][:]).any() for demo in file["data"].values())


def test_the_file_does_not_depend_on_the_workers(recorded: Path, tmp_path: Path) -> None:
    record_demonstrations(Recording("pick", seed=1, noise=0.03, short_fraction=0.5), 4, tmp_path / "b.hdf5", workers=2)
    one, two = contents(recorded), contents(tmp_path / "b.hdf5")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_demonstrations_go_to_lerobot_and_back(recorded: Path, tmp_path: Path) -> None:
    first = open_source(recorded)
    middle, last = convert(recorded, tmp_path / "set"), convert(tmp_path / "set", tmp_path / "back.hdf5")
    assert first.layout == middle.layout == last.layout
    for number, episode in enumerate(first.episodes):
        for other in (middle, last):
            assert np.array_equal(episode.state, other.episodes[number].state)
            assert np.array_equal(episode.actions, other.episodes[number].actions)
            assert episode.instruction == other.episodes[number].instruction
            for camera in first.layout.cameras:
                steps = slice(0, len(episode.actions))
                images, seen = (source.images(number, camera, steps).astype(int) for source in (first, other))
                assert np.abs(images - seen).max() <= 3 and np.abs(images - seen).mean() < 0.5


def test_the_experts_displacements_are_told_from_what_they_are_not(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    record_demonstrations(Recording("pick", seed=1, noise=0.03), 6, path)
    source = open_source(path)
    assert doubt(source.layout, source.episodes) is None

    def judged(change: Callable[[Episode], np.ndarray]) -> str:
        changed = [replace(episode, actions=change(episode)) for episode in source.episodes]
        return str(doubt(source.layout, changed))

    for kept in ({"prepend": 0}, {"append": 0}):
        assert "differenced again" in judged(lambda demo, kept=kept: np.diff(demo.actions, axis=0, **kept))
    assert "set points" in judged(lambda demo: demo.actions + demo.state)


def test_an_interrupted_recording_leaves_the_old_file(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "demos.hdf5"
    path.write_bytes(recorded.read_bytes())

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(demonstration_file, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        record_demonstrations(Recording("pick", seed=2), 1, path)
    assert path.read_bytes() == recorded.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_recording_leaves_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = DemonstrationFile.add

    def copied(file: DemonstrationFile, demonstration: Any) -> None:
        add(file, demonstration)
        (tmp_path / "left.hdf5").write_bytes(file._partial.read_bytes())

    monkeypatch.setattr(DemonstrationFile, "add", copied)
    record_demonstrations(Recording("pick", seed=2), 1, tmp_path / "demos.hdf5")
    assert len(open_source(tmp_path / "left.hdf5").episodes) == 1


def test_without_links_a_file_of_demonstrations_gets_its_name_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(demonstration_file.os, "link", none)
    for name in ("first", "second"):
        with DemonstrationFile(tmp_path / "demos.hdf5") as file:
            file._data.attrs["who"] = name
            if name == "first":
                file.finish(replaces=False)
                continue
            with pytest.raises(FileExistsError, match="is there by now; what was recorded is in"):
                file.finish(replaces=False)
    names = {}
    for path in tmp_path.iterdir():
        with h5py.File(path) as found:
            names[found["data"].attrs["who"]] = path.name
    assert names["first"] == "demos.hdf5" and names["second"].endswith(".partial")


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/stdout")):
        with pytest.raises(OSError, match="a device or the like"):
            check_writable(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "drawn"}, "there are experts for pick"),
        ({"episodes": 0}, "at least 1"),
        ({"noise": -1.0}, "noise must be"),
        ({"noise": float("nan")}, "noise must be"),
        ({"split": "hard"}, "expected one of seen"),
        ({"short_fraction": 1.5}, "short_fraction"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, change: dict, reason: str) -> None:
    settings = {"task": "pick", **change}
    episodes = settings.pop("episodes", 1)
    with pytest.raises(ValueError, match=reason):
        record_demonstrations(Recording(**settings), episodes, tmp_path / "x.hdf5")
    assert not list(tmp_path.iterdir())
