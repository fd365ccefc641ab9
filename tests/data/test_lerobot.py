"""LeRobot folders are read as they are published, v3 and v2.1, and refused with the line that says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aegis_policy import Camera, Feature
from aegis_policy.data.convert import convert
from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.lerobot_meta import features_of
from aegis_policy.data.source import open_source
from aegis_policy.data.video import VideoWriter
from tests.data.lerobot_v21 import FPS, JOINTS, SIZE, TASKS, pictures, write_v21, write_video
from tests.training.tiny import write_demonstrations


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """One folder of each layout; tests that change one take a copy."""
    root = tmp_path_factory.mktemp("lerobot")
    write_demonstrations(root / "pick.hdf5", episodes=4)
    convert(root / "pick.hdf5", root / "v3")
    return {"v3": root / "v3", "v21": write_v21(root / "v21"), "v21 images": write_v21(root / "images", images=True)}


@pytest.fixture
def copy(made, tmp_path):
    def copied(kind: str) -> Path:
        subprocess.run(["cp", "-r", made[kind], tmp_path / "set"], check=True)
        return tmp_path / "set"

    return copied


def change_column(path: Path, name: str, change) -> None:
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index(name)
    column = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
    pq.write_table(table.set_column(place, name, column), path)


def change_info(root: Path, change) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("kind", ["v21", "v21 images"])
def test_v21_as_it_is_published(made, kind, caplog):
    dataset = Demonstrations([made[kind]], horizon=3)
    assert dataset.episodes == 3 and len(dataset) == 28 and dataset.control_hz == FPS
    assert dataset.cameras == [Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE)]
    assert dataset.instructions == sorted(TASKS) and dataset[9].instruction == TASKS[1]
    assert dataset.action_features == tuple(Feature(name, "1") for name in JOINTS)
    assert "'action' has no 'units'" in caplog.text and "displacements" in caplog.text
    table = pq.read_table(made[kind] / "data/chunk-000/episode_000001.parquet", partitioning=None)
    np.testing.assert_array_equal(dataset.state[9:21], np.array(table["observation.state"].to_pylist()))
    np.testing.assert_array_equal(dataset.actions[9:21], np.array(table["action"].to_pylist()))
    np.testing.assert_array_equal(dataset[20].actions, dataset.actions[[20, 20, 20]])  # set points are held
    seen = dataset.gather(np.arange(9, 21)).images
    assert np.abs(seen[0] - pictures(1, 12).astype(float)).mean() < 4
    wrist = np.abs(seen[1] - pictures(51, 12).astype(float))
    assert wrist.max() == 0 if kind == "v21 images" else wrist.mean() < 4


@pytest.mark.parametrize("kind", ["v3", "v21", "v21 images"])
def test_images_from_memory_and_one_by_one_are_the_same(made, kind):
    held, read = (Demonstrations([made[kind]], 2, in_memory=size) for size in (2**30, 0))
    rows = np.random.default_rng(0).integers(0, len(held), 12)
    for ours, theirs in zip(held.gather(rows).images, read.gather(rows).images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_camera_can_be_asked_for(made):
    assert Demonstrations([made["v21"]], 2, cameras=["wrist"])[0].images[0].shape == (SIZE, SIZE, 3)
    with pytest.raises(ValueError, match=r"no images of camera side; it has \['front', 'wrist'\]"):
        Demonstrations([made["v3"]], 2, cameras=["side"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ({"motors": ["a", "b"]}, ["a", "b"]),
        ({"b": 1, "a": 0}, ["a", "b"]),
        (["state"], ["state_0", "state_1"]),
        (["a", "a"], ["state_0", "state_1"]),
        ([None, None], ["state_0", "state_1"]),
        (None, ["state_0", "state_1"]),
    ],
)
def test_names_in_every_form_that_has_been_published(names, expected):
    features = features_of("observation.state", {"shape": [2], "names": names, "units": ["m", "rad"]}, Path("x"))
    assert features == (Feature(expected[0], "m"), Feature(expected[1], "rad"))


def test_tasks_whose_index_has_no_name(copy):
    root = copy("v3")
    path = root / "meta/tasks.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["task_index", "__index_level_0__"]), path)
    assert open_source(root).episodes[0].instruction == "pick up the red cube"


def test_a_task_without_text_is_no_instruction(copy):
    root = copy("v3")
    change_column(root / "meta/tasks.parquet", "task", lambda rows: [None] * len(rows))
    with pytest.raises(ValueError, match=r"episode 0: task \d has no text in the meta files"):
        open_source(root)


def test_lists_of_any_kind_are_read(copy, made):
    root = copy("v3")
    path = root / DATA["v3"]
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index("action")
    large = table["action"].cast(pa.large_list(pa.float32()))
    pq.write_table(table.set_column(place, "action", large), path)
    found, expected = open_source(root), open_source(made["v3"])
    np.testing.assert_array_equal(found.episodes[1].actions, expected.episodes[1].actions)


def test_two_cameras_of_one_name_are_refused(copy):
    root = copy("v21")

    def twice(info):
        info["features"]["observation.front"] = info["features"]["observation.images.front"]

    change_info(root, twice)
    with pytest.raises(
        ValueError, match=r"'observation.images.front' and 'observation.front' would both be the camera"
    ):
        open_source(root)


def test_damaged_tasks_are_named(copy):
    root = copy("v3")
    (root / "meta/tasks.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"tasks\.parquet: not a whole parquet file"):
        open_source(root)


def test_depth_is_no_camera(copy):
    root = copy("v21")
    change_info(root, lambda info: info["features"]["observation.images.wrist"]["info"].update(is_depth_map=True))
    assert list(open_source(root).layout.cameras) == ["front"]


DATA = {"v3": "data/chunk-000/file-000.parquet", "v21": "data/chunk-000/episode_000001.parquet"}
FRONT = "observation.images.front"
VIDEO = {"v3": f"videos/{FRONT}/chunk-000/file-000.mp4", "v21": f"videos/chunk-000/{FRONT}/episode_000001.mp4"}


def first_of_episode_1(root: Path, kind: str) -> int:
    return pq.read_table(root / DATA[kind], columns=["episode_index"], partitioning=None)[0].to_pylist().index(1)


@pytest.mark.parametrize("kind", ["v3", "v21"])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("action", [0.0, float("nan"), 0.0], r"'action', row 2: not a finite number"),
        ("observation.state", [0.0, 0.0, float("inf")], r"'observation.state', row 2: not a finite number"),
        ("timestamp", 9.0, r"'timestamp', row 2: 9, expected 0\.\d+"),
        ("frame_index", 3, r"'frame_index', row 2: 3, expected 2"),
        ("task_index", 7, r"'task_index', row 2: 7, expected [01]"),
    ],
)
def test_a_wrong_number_is_named_by_file_episode_and_row(copy, kind, column, value, message):
    root = copy(kind)
    row = first_of_episode_1(root, kind) + 2
    change_column(root / DATA[kind], column, lambda rows: [*rows[:row], value, *rows[row + 1 :]])
    with pytest.raises(ValueError, match=rf"{DATA[kind]}: episode 1: {message}"):
        open_source(root)


@pytest.mark.parametrize("kind", ["v3", "v21"])
def test_missing_rows_are_counted(copy, kind):
    root = copy(kind)
    table = pq.read_table(root / DATA[kind], partitioning=None)
    first = first_of_episode_1(root, kind)
    pq.write_table(pa.concat_tables([table[:first], table[first + 1 :]]), root / DATA[kind])
    with pytest.raises(ValueError, match=rf"{DATA[kind]}: episode 1: \d+ rows, but the meta files say \d+"):
        open_source(root)


@pytest.mark.parametrize("kind", ["v3", "v21"])
@pytest.mark.parametrize("file", [DATA, VIDEO], ids=["data", "video"])
def test_a_file_that_is_cut_short_or_missing_is_named(copy, kind, file):
    root = copy(kind)
    path = root / file[kind]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{file[kind]}: not a whole (parquet file|video)"):
        open_source(root)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{file[kind]}: no such (file|video)"):
        open_source(root)


def test_a_video_of_another_length_or_size_is_named(copy):
    root = copy("v21")
    for shown, message in (
        (pictures(1, 11), "has 11 frames, expected 12"),
        (pictures(1, 13), "has 13 frames, expected 12"),
        (pictures(1, 12).repeat(2, axis=1), r"is \[64, 32\], expected \[32, 32\]"),
    ):
        write_video(root / VIDEO["v21"], shown)
        with pytest.raises(ValueError, match=rf"episode 1: camera 'front': .*{VIDEO['v21']} {message}"):
            open_source(root)


def test_a_shared_video_that_ends_early_names_the_episode(copy):
    root = copy("v3")
    source = open_source(root)
    lengths = [len(episode.actions) for episode in source.episodes]
    with VideoWriter(root / VIDEO["v3"], source.layout.cameras["front"], 10) as video:
        video.append(np.zeros((sum(lengths[:3]) - 1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"episode 2: camera 'front': .* expected {sum(lengths[:3])}"):
        open_source(root)


def test_one_episode_without_a_camera_is_named(copy):
    root = copy("v3")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    change_column(path, f"videos/{FRONT}/from_timestamp", lambda times: [*times[:2], None, *times[3:]])
    with pytest.raises(ValueError, match=rf"episode 2: no images of camera '{FRONT}'"):
        open_source(root)


def test_a_stretch_of_video_of_another_length_is_named(copy):
    root = copy("v3")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    change_column(path, f"videos/{FRONT}/to_timestamp", lambda times: [*times[:2], times[2] + 0.1, *times[3:]])
    with pytest.raises(ValueError, match=rf"episode 2: '{FRONT}' lasts [\d.]+ s, which are not \d frames at 10 Hz"):
        open_source(root)


def test_a_damaged_image_inside_parquet_is_named(copy):
    root = copy("v21 images")
    path = root / DATA["v21"]
    key = "observation.images.wrist"
    change_column(path, key, lambda cells: [*cells[:4], {**cells[4], "bytes": cells[4]["bytes"][:40]}, *cells[5:]])
    source = open_source(root)
    with pytest.raises(ValueError, match=rf"episode 1: camera 'wrist': .*{path.name}: '{key}', row 4: not a whole"):
        source.images(1, "wrist", slice(0, 12))
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns([key]), path)
    with pytest.raises(ValueError, match=rf"{path.name}: no column '{key}'"):
        open_source(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(codebase_version="v1.6"), r"info\.json: LeRobot's layout v1\.6; this reads v3\.0"),
        (lambda info: info.update(fps=0), r"info\.json: fps is 0"),
        (lambda info: info.pop("features"), r"info\.json: lacks 'features'"),
        (lambda info: info["features"].pop("action"), r"info\.json: no feature 'action'; it has \["),
        (lambda info: info.update(total_episodes=9), r"total_episodes says 9, but there are 3"),
        (
            lambda info: info["features"]["action"].update(shape=[2]),
            r"'action' has shape \[9, 3\], expected \[steps, 2\]",
        ),
        (lambda info: info["features"]["action"].update(shape=[3, 1]), r"'action' has the shape \[3, 1\]"),
        (lambda info: info["features"].update(index="int64"), r"not in LeRobot's layout v2\.1: AttributeError"),
        (lambda info: info.pop("chunks_size"), r"not in LeRobot's layout v2\.1: KeyError\('chunks_size'\)"),
    ],
)
def test_wrong_meta_files_are_named(copy, change, message):
    root = copy("v21")
    change_info(root, change)
    with pytest.raises(ValueError, match=message):
        open_source(root)


def test_folders_that_are_something_else(tmp_path, copy):
    with pytest.raises(ValueError, match=r"not a LeRobot data set: there is no meta/info\.json"):
        open_source(tmp_path)
    root = copy("v21")
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0,\n')
    with pytest.raises(ValueError, match=r"episodes\.jsonl: line 1 is not JSON"):
        open_source(root)
    with pytest.raises(FileNotFoundError, match="no such demonstration file or folder"):
        open_source(tmp_path / "none")


def test_a_missing_extra_is_named(made):
    program = (
        "import sys\nsys.modules['pyarrow'] = None\nfrom aegis_policy.data.source import open_source\n"
        "try:\n    open_source(sys.argv[1])\nexcept ModuleNotFoundError as error:\n    print(error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", program, made["v3"]], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pyarrow") and 'pip install "aegis-policy[lerobot]"' in done.stdout
