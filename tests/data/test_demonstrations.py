from __future__ import annotations

import h5py
import numpy as np
import pytest

from aegis_policy import Camera, Feature
from aegis_policy.data.demonstrations import Demonstrations, half_of_memory
from tests.data.test_displacements import DIFFERENCED
from tests.data.test_inspection import write_reaches
from tests.training.tiny import SIZE, write_demonstrations


@pytest.fixture
def path(tmp_path):
    return write_demonstrations(tmp_path / "pick.hdf5", episodes=12)


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file["data"])
    return path


def test_every_step_of_every_demonstration_in_order(path):
    dataset = Demonstrations([path], horizon=1)
    row = 0
    with h5py.File(path) as file:
        for number in range(12):  # demo_10 after demo_9
            demo = file[f"data/demo_{number}"]
            for step in range(len(demo["actions"])):
                sample = dataset[row]
                np.testing.assert_array_equal(sample.images[0], demo["obs/front_image"][step])
                np.testing.assert_array_equal(sample.images[1], demo["obs/wrist_image"][step])
                np.testing.assert_array_equal(sample.state, demo["obs/state"][step])
                np.testing.assert_array_equal(sample.actions, demo["actions"][step : step + 1])
                assert sample.instruction == demo.attrs["instruction"]
                row += 1
    assert row == len(dataset) and dataset.episodes == 12
    with pytest.raises(IndexError):
        dataset[row]


def test_a_chunk_is_what_was_done_next_and_then_standing_still_with_the_grip_held(path):
    dataset = Demonstrations([path], horizon=4)
    with h5py.File(path) as file:
        actions = file["data/demo_0/actions"][:]
    end = len(actions)
    np.testing.assert_array_equal(dataset[0].actions, actions[:4])
    np.testing.assert_array_equal(dataset[end - 4].actions, actions[-4:])
    hold = [0, 0, actions[-1, 2]]
    np.testing.assert_array_equal(dataset[end - 2].actions, [*actions[-2:], hold, hold])
    np.testing.assert_array_equal(dataset[end - 1].actions, [actions[-1], hold, hold, hold])
    np.testing.assert_array_equal(dataset.actions[:end], actions)  # gathering changed nothing


def test_what_was_executed_instead_is_read_where_a_file_tells(path, tmp_path):
    disturbed = write_demonstrations(tmp_path / "disturbed.hdf5", episodes=2)
    with h5py.File(disturbed, "r+") as file:
        for demo in file["data"].values():
            demo["executed_actions"] = demo["actions"][:] + 1
    dataset, rows = Demonstrations([path, disturbed], horizon=3), np.array([0, 1])
    np.testing.assert_array_equal(dataset.executed(rows), dataset.gather(rows).actions)
    rows += dataset.sizes[0]
    np.testing.assert_array_equal(dataset.executed(rows), dataset.gather(rows).actions + 1)
    last = np.array([len(dataset) - 1])
    assert not dataset.executed(last)[0, 1:, :2].any()  # displacements: beyond the end it stands still


def test_gathering_from_memory_and_from_the_file_is_the_same(path):
    rows = np.random.default_rng(0).integers(0, 50, 20)
    held, read = (Demonstrations([path], 3, in_memory=size).gather(rows) for size in (2**30, 0))
    for a, b in zip((*held.images, *held[1:]), (*read.images, *read[1:]), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_half_of_a_containers_memory_is_shared_by_the_processes_in_it(monkeypatch, tmp_path):
    limit, none = tmp_path / "memory.max", tmp_path / "unlimited"
    limit.write_text(f"{2**30}\n")
    none.write_text("max\n")
    monkeypatch.setattr("aegis_policy.data.demonstrations.CGROUP_LIMITS", (none, tmp_path / "missing"))
    assert half_of_memory() > 2**29
    monkeypatch.setattr("aegis_policy.data.demonstrations.CGROUP_LIMITS", (none, limit))
    assert half_of_memory() == 2**29
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert half_of_memory() == 2**27


def test_cameras_may_differ_in_size(path):
    def shorten(data):
        for demo in data.values():
            small = demo["obs/wrist_image"][:, :8, :12]
            del demo["obs/wrist_image"]
            demo["obs/wrist_image"] = small

    edit(path, shorten)
    for in_memory in (0, 2**30):
        dataset = Demonstrations([path], 3, in_memory=in_memory)
        assert dataset.cameras == [Camera("front", SIZE, SIZE), Camera("wrist", 8, 12)]
        front, wrist = dataset.gather(np.array([3, 40])).images
        assert front.shape == (2, SIZE, SIZE, 3) and wrist.shape == (2, 8, 12, 3)


def test_a_bad_data_set_is_named_however_many_good_ones_it_comes_with(tmp_path, caplog):
    rng, paths = np.random.default_rng(0), [tmp_path / f"{name}.hdf5" for name in ("good", "better", "bad")]
    for seed, place in enumerate(paths):
        write_demonstrations(place, episodes=20, seed=seed)
        with h5py.File(place, "r+") as file:
            for demo in file["data"].values():
                moves = 0.01 * rng.normal(size=(len(demo["actions"]), 2)).cumsum(axis=0).astype(np.float32)
                demo["obs/state"][:, :2] = np.cumsum(moves, axis=0) - moves
                demo["actions"][:, :2] = np.diff(moves, axis=0, prepend=0) if place.stem == "bad" else moves
    Demonstrations(paths, 3)
    doubted = [record.getMessage() for record in caplog.records if "differenced again" in record.getMessage()]
    assert len(doubted) == 1 and doubted[0].startswith(f"{paths[2]}: ")


def test_a_doubt_that_only_many_small_files_raise_together(tmp_path, caplog):
    paths = [write_reaches(tmp_path / f"{name}.hdf5", DIFFERENCED["first kept"]) for name in "ab"]
    Demonstrations(paths[:1], 3)
    assert "differenced again" not in caplog.text
    Demonstrations(paths, 3)
    assert f"{paths[0]} and what comes with it: dx, dy: displacements that were differenced again" in caplog.text


def test_what_is_no_demonstration_is_named(path):
    def add(data):
        data["extra"] = np.zeros(3)

    with pytest.raises(ValueError, match=r"pick\.hdf5: extra: no group of actions and observations"):
        Demonstrations([edit(path, add)], 3)


def test_several_files_are_one_dataset(path, tmp_path):
    other = write_demonstrations(tmp_path / "more.hdf5", episodes=2, seed=1)
    first, second, both = (Demonstrations(paths, 3) for paths in ([path], [other], [path, other]))
    assert len(both) == len(first) + len(second)
    for ours, theirs in zip(both[len(first)].images, second[0].images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_knows_what_a_policy_must_know(path):
    dataset = Demonstrations([path], 3)
    assert dataset.cameras == [Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE)]
    assert dataset.state_features[2] == Feature("opening", "m") and dataset.control_hz == 10
    assert dataset.instructions == ["pick up the blue cube", "pick up the green cube", "pick up the red cube"]
    assert Demonstrations([path], 3, cameras=["wrist"])[0].images[0].shape == (SIZE, SIZE, 3)
    stats = dataset.norm_stats()
    np.testing.assert_allclose(stats.actions.mean, dataset.actions.mean(0), rtol=1e-5)
    assert len(stats.state.std) == 3


def poison(data):
    data["demo_3/obs/state"][2, 1] = np.nan


def shorten(data):
    values = data["demo_4/obs/state"][:-1]
    del data["demo_4/obs/state"]
    data["demo_4/obs/state"] = values


def widen(data):
    del data["demo_1/actions"]
    data["demo_1/actions"] = np.zeros((data["demo_1"].attrs["num_samples"], 4), np.float32)


def float_images(data):
    values = data["demo_2/obs/front_image"][:].astype(np.float32)
    del data["demo_2/obs/front_image"]
    data["demo_2/obs/front_image"] = values


def link_to_nowhere(data):
    del data["demo_2/obs/front_image"]
    data["demo_2/obs/front_image"] = h5py.ExternalLink("gone.hdf5", "/images")


def put_a_group(data):
    del data["demo_2/obs/front_image"]
    data.create_group("demo_2/obs/front_image")


def spell_out(data):
    values = data["demo_1/actions"][:].astype("S8")
    del data["demo_1/actions"]
    data["demo_1/actions"] = values


def link_a_demonstration(data):
    del data["demo_2"]
    data["demo_2"] = h5py.ExternalLink("gone.hdf5", "/data/demo_2")


def replaced(key, value):
    def change(data):
        del data[key]
        data[key] = value

    return change


def attribute(name, value):
    return lambda data: data.attrs.__setitem__(name, value)


def shorten_executed(data):
    data["demo_1/executed_actions"] = data["demo_1/actions"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorten_executed, r"demo_1: \d executed_actions of \d steps"),
        (poison, r"demo_3: 'obs/state', row 2: not a finite number"),
        (shorten, r"demo_4: \d actions and \d states"),
        (widen, r"demo_1: 'actions' has shape \[\d, 4\], expected \[steps, 3\]"),
        (float_images, r"demo_2: 'obs/front_image' is float32.*expected uint8"),
        (lambda data: data["demo_5/obs"].pop("wrist_image"), r"demo_5: no 'obs/wrist_image'"),
        (lambda data: data["demo_6"].pop("actions"), r"demo_6: no 'actions'"),
        (lambda data: data["demo_7"].attrs.__setitem__("num_samples", 99), r"demo_7: num_samples says 99"),
        (lambda data: data["demo_8"].attrs.__setitem__("instruction", " "), r"demo_8: .*'instruction'"),
        (lambda data: data.attrs.__delitem__("control_hz"), r"'control_hz'"),
        (link_to_nowhere, r"demo_2: no 'obs/front_image'"),
        (put_a_group, r"demo_2: no 'obs/front_image'"),
        (link_a_demonstration, r"demo_2: a link to what is not there"),
        (replaced("demo_2", np.zeros(3)), r"demo_2: no group of actions and observations"),
        (replaced("demo_2/obs", np.zeros(3)), r"demo_2: no 'obs/state'"),
        (replaced("demo_2/obs/front_image", h5py.Empty("u1")), r"demo_2: 'obs/front_image' is uint8.*expected uint8"),
        (replaced("demo_2/obs/front_image", np.uint8(1)), r"demo_2: 'obs/front_image' is uint8\[\], expected uint8"),
        (replaced("demo_1/actions", h5py.Empty("f4")), r"demo_1: 'actions': damaged: "),
        (replaced("demo_1/actions", 1.0), r"demo_1: 'actions': damaged: "),
        (lambda data: data["demo_7"].attrs.__setitem__("num_samples", [5, 5]), r"demo_7: num_samples says \[5, 5\]"),
        (spell_out, r"demo_1: 'actions' is \|S8, expected numbers"),
        (attribute("control_hz", 0), r"control_hz is 0"),
        (attribute("control_hz", [10.0, 20.0]), r"control_hz is \[10.0, 20.0\]"),
        (attribute("control_hz", "fast"), r"control_hz is fast"),
        (attribute("state_features", "[1]"), r"'state_features' is not a JSON list"),
        (attribute("action_features", '["dx", "dy", "gr"]'), r"'action_features' is not a JSON list.* \"dx\" is none"),
        (attribute("action_features", '{"dx": "m"}'), r"'action_features' is not a JSON list"),
        (attribute("action_features", '[["dx", "m"], ["dx", "m"], ["g", "1"]]'), r"has 'dx' more than once"),
    ],
)
def test_says_which_file_demonstration_and_row_is_wrong(path, change, message):
    edit(path, change)
    with pytest.raises(ValueError, match=message) as error:
        Demonstrations([path], 3)
    assert str(path) in str(error.value)


def test_attributes_are_read_however_they_were_written(path):
    def rewrite(data):
        data.attrs["control_hz"] = np.array([20.0])
        for number, of in enumerate((np.bytes_, lambda text: np.array([text], object))):
            data[f"demo_{number}"].attrs["instruction"] = of(data[f"demo_{number}"].attrs["instruction"])
        data["demo_0"].attrs["num_samples"] = str(data["demo_0"].attrs["num_samples"])

    edit(path, rewrite)
    dataset = Demonstrations([path], 3)
    assert dataset.instructions == ["pick up the blue cube", "pick up the green cube", "pick up the red cube"]
    assert dataset.control_hz == 20


def test_says_which_camera_is_missing(path):
    with pytest.raises(ValueError, match=r"no images of camera side; it has \['front', 'wrist'\]"):
        Demonstrations([path], 3, cameras=["front", "side"])


def test_says_in_what_two_files_differ(path, tmp_path):
    other = write_demonstrations(tmp_path / "fast.hdf5", episodes=2)
    edit(other, lambda data: data.attrs.__setitem__("control_hz", 20))
    with pytest.raises(ValueError, match=r"fast\.hdf5: does not go with .*control_hz 20\.0 instead of 10\.0"):
        Demonstrations([path, other], 3)


def test_a_truncated_or_absent_file_is_named(path, tmp_path):
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut\.hdf5: not a whole HDF5 file"):
        Demonstrations([cut], 3)
    with pytest.raises(FileNotFoundError, match=r"none\.hdf5"):
        Demonstrations([tmp_path / "none.hdf5"], 3)
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file["other"] = 1
    with pytest.raises(ValueError, match="no group 'data'"):
        Demonstrations([tmp_path / "empty.hdf5"], 3)
