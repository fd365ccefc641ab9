"""From HDF5 to LeRobot and back nothing changes but, a little, the images; what appears is whole."""

from __future__ import annotations

import json
from contextlib import closing

import av
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_policy.data import lerobot_write
from aegis_policy.data.convert import convert, write
from aegis_policy.data.source import Episode, Layout, Source, open_source
from aegis_policy.data.video import VideoReader, VideoWriter
from aegis_policy.policy import Feature
from tests.data.lerobot_v21 import pictures, write_v21
from tests.training.tiny import write_demonstrations


def all_images(source: Source, camera: str) -> np.ndarray:
    return np.concatenate(
        [source.images(i, camera, slice(0, len(e.actions))) for i, e in enumerate(source.episodes)]
    ).astype(int)


def assert_same_but_images(one: Source, two: Source) -> None:
    assert one.layout == two.layout and len(one.episodes) == len(two.episodes)
    for a, b in zip(one.episodes, two.episodes, strict=True):
        np.testing.assert_array_equal(a.state, b.state)
        np.testing.assert_array_equal(a.actions, b.actions)
        assert a.instruction == b.instruction and a.state.dtype == b.state.dtype == np.float32


def test_there_and_back(tmp_path):
    first = open_source(write_demonstrations(tmp_path / "pick.hdf5", episodes=11))
    middle, last = convert(first.path, tmp_path / "set"), convert(tmp_path / "set", tmp_path / "back.hdf5")
    assert (middle.kind, last.kind) == ("LeRobot v3.0", "robomimic HDF5")
    assert_same_but_images(first, middle)
    assert_same_but_images(first, last)
    for camera in first.layout.cameras:  # noise, the hardest there is
        assert np.abs(all_images(first, camera) - all_images(middle, camera)).max() <= 3
        np.testing.assert_array_equal(all_images(middle, camera), all_images(last, camera))
    with h5py.File(last.path) as file:
        assert file["data"].attrs["total"] == len(all_images(first, "front"))
        assert file["data/demo_10/dones"][:].tolist()[-2:] == [0, 1]
    assert not list(tmp_path.glob(".*"))


def test_what_was_executed_goes_over_where_there_is_a_place_for_it(tmp_path, caplog):
    first = write_demonstrations(tmp_path / "pick.hdf5")
    with h5py.File(first, "r+") as file:
        for demo in file["data"].values():
            demo["executed_actions"] = demo["actions"][:] + 1
    again = convert(first, tmp_path / "again.hdf5")
    for one, two in zip(open_source(first).episodes, again.episodes, strict=True):
        np.testing.assert_array_equal(one.executed, two.executed)
    assert not caplog.records
    assert all(episode.executed is None for episode in convert(first, tmp_path / "set").episodes)
    assert "what was executed in place of the labels stays behind" in caplog.text


def test_v21_becomes_v3(tmp_path):
    first = open_source(write_v21(tmp_path / "v21", images=True))
    second = convert(first.path, tmp_path / "v3")
    assert second.kind == "LeRobot v3.0"
    assert_same_but_images(first, second)
    assert np.abs(all_images(first, "wrist") - all_images(second, "wrist")).max() <= 3


def test_what_lerobot_needs_is_there(tmp_path):
    convert(write_demonstrations(tmp_path / "pick.hdf5", episodes=4), tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["fps"] == 10 and isinstance(info["fps"], int) and info["total_episodes"] == 4
    assert info["features"]["action"]["names"] == ["dx", "dy", "gripper"]
    assert info["features"]["action"]["units"] == ["m", "m", "1"]
    data = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet", partitioning=None)
    assert set(data.column_names) == {key for key, feature in info["features"].items() if feature["dtype"] != "video"}
    assert data["index"].to_pylist() == list(range(info["total_frames"]))
    episodes = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet", partitioning=None).to_pylist()
    ends = [row["dataset_to_index"] for row in episodes]
    assert [row["dataset_from_index"] for row in episodes] == [0, *ends[:-1]] and ends[-1] == info["total_frames"]
    assert [row["videos/observation.images.front/to_timestamp"] for row in episodes] == [end / 10 for end in ends]
    tasks = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    actions = np.array(data["action"].to_pylist())
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0), rtol=1e-6)
    with h5py.File(tmp_path / "pick.hdf5") as file:
        pixels = np.concatenate([demo["obs/front_image"][:] for demo in file["data"].values()]) / 255
    np.testing.assert_allclose(
        np.ravel(stats["observation.images.front"]["std"]), pixels.std(axis=(0, 1, 2)), rtol=1e-6
    )


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    path = write_demonstrations(tmp_path / "pick.hdf5", episodes=3)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(lerobot_write, "_place", full_disk)
    with pytest.raises(OSError, match="No space left"):
        convert(path, tmp_path / "set")
    with pytest.raises(ValueError, match=r"pick\.hdf5: there already"):
        convert(path, path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_conversion_that_nothing_could_read_leaves_nothing(tmp_path):
    source = Made(tmp_path / "made", [3], (16, 16), 10.0)
    layout = source.layout
    source.layout = Layout(layout.cameras, layout.state, (layout.actions[0], layout.actions[0]), layout.control_hz)
    with pytest.raises(ValueError, match="has 'dq' more than once"):
        write(source, tmp_path / "set.hdf5")
    assert list(tmp_path.iterdir()) == []


class Made:
    """Demonstrations that no file holds."""

    def __init__(self, path, lengths, size, rate):
        self.path, self.kind, self._size = path, "made", size
        self.layout = Layout({"eye": size}, (Feature("q", "rad"),), (Feature("dq", "rad"), Feature("grip", "1")), rate)
        rng = np.random.default_rng(0)
        self.episodes = [
            Episode(str(i), *(rng.normal(size=(n, d)).astype(np.float32) for d in (1, 2)), f"task {i % 2}")
            for i, n in enumerate(lengths)
        ]

    def images(self, episode, camera, steps):
        height, width = self._size
        whole = pictures(episode, steps.stop)
        return np.tile(whole, (1, 2, 2, 1))[steps, :height, :width]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    size=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    rate=st.sampled_from([3.0, 7.5, 10.0, 29.97, 30.0, 50.0]),
)
def test_any_lengths_sizes_and_rates_come_back(tmp_path_factory, lengths, size, rate):
    root = tmp_path_factory.mktemp("made") / "set"
    source = Made(root, lengths, size, rate)
    lerobot_write.write_lerobot(source, root)
    back = open_source(root)
    assert_same_but_images(source, back)
    assert np.abs(all_images(source, "eye") - all_images(back, "eye")).max() <= 3


def test_frames_are_found_wherever_they_are(tmp_path):
    shown = pictures(3, 20)
    with VideoWriter(tmp_path / "a.mp4", shown.shape[1:3], 10) as video:
        for start, end in ((0, 7), (7, 8), (8, 20)):
            video.append(shown[start:end])
    with closing(VideoReader(tmp_path / "a.mp4")) as video:
        assert video.info.frames == 20
        for begin, first, last in ((0.0, 0, 20), (0.7, 0, 1), (0.7, 6, 12), (0.0, 13, 19), (0.0, 2, 3)):
            seen = video.frames(begin, 10, slice(first, last)).astype(int)
            assert np.abs(seen - shown[round(begin * 10) :][first:last]).max() <= 3
            with pytest.raises(ValueError, match=r"a\.mp4: no frame 20 \(at 2\.000 s\)"):
                video.frames(0.0, 10, slice(18, 22))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "12"}),
        ("libx264", {"g": "12", "bf": "5"}),
        ("libx265", {"g": "12", "x265-params": "log-level=error"}),
        ("libsvtav1", {"g": "2"}),
    ],
)
def test_any_frame_of_anybodys_video_is_found(tmp_path, codec, options):
    """Few key frames, frames stored in another order than they are shown in; each asked for alone, at random."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream(codec, 10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(50):
            shown = np.full((64, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    with closing(VideoReader(tmp_path / "a.mp4")) as video:
        for number in np.random.default_rng(0).permutation(50).tolist():
            assert abs(video.frames(0.0, 10, slice(number, number + 1)).mean() - 5 * number) < 2.5
