"""`aegis data inspect` and `aegis data convert` as a user meets them, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.inspection import GAP, MARGIN, MOMENTS, inspect
from tests.data.test_displacements import DIFFERENCED, reach
from tests.training.tiny import SIZE, write_demonstrations


@pytest.fixture
def path(tmp_path):
    return write_demonstrations(tmp_path / "pick.hdf5", episodes=12)


def aegis(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(sys.executable).with_name("aegis"), *words], capture_output=True, text=True)


def test_says_what_is_inside(path):
    found = inspect(path)
    assert len(found.lengths) == 12 and found.instructions["pick up the red cube"] == 4
    with h5py.File(path) as file:
        actions = np.concatenate([file[f"data/demo_{i}/actions"][:] for i in range(12)])
    column = found.actions[1]
    assert column.feature.name == "dy"
    assert (column.least, column.most) == (actions[:, 1].min(), actions[:, 1].max())
    assert (column.q01, column.q99) == tuple(np.quantile(actions[:, 1].astype(float), [0.01, 0.99]))
    assert found.warnings() == []


def test_the_sheet_shows_some_episodes_from_start_to_end(path):
    sheet = inspect(path).sheet
    tile = SIZE + GAP
    assert sheet.shape == (6 * tile, 2 * (MOMENTS * tile + MARGIN), 3)
    with h5py.File(path) as file:
        last = file["data/demo_11"]
        np.testing.assert_array_equal(sheet[5 * tile :, :SIZE][:SIZE], last["obs/front_image"][0])
        right = MOMENTS * tile + MARGIN + (MOMENTS - 1) * tile
        np.testing.assert_array_equal(sheet[5 * tile :, right : right + SIZE][:SIZE], last["obs/wrist_image"][-1])


def test_what_hardly_varies_is_named(path):
    write_demonstrations(path, episodes=30)
    with h5py.File(path, "r+") as file:
        for number, demo in enumerate(file["data"].values()):
            demo["actions"][:, 1] = 0.3
            demo["obs/state"][:, 2] = 0.0
            demo["obs/state"][0, 2] = float(number == 0)  # one step alone: a spread that says nothing
    still, rare = inspect(path).actions[1], inspect(path).state[2]
    assert still.near_constant and rare.near_constant and rare.std > 1e-3
    assert [warning.split(" is ")[0] for warning in inspect(path).warnings()] == ["state 'opening'", "action 'dy'"]


def write_reaches(path: Path, change=lambda moves, _: moves) -> Path:
    write_demonstrations(path, episodes=6)
    with h5py.File(path, "r+") as file:
        for number, demo in enumerate(file["data"].values()):
            episode, steps = reach(number), int(demo.attrs["num_samples"])
            states = episode.state[:steps, :2]
            demo["obs/state"][:, :2] = states
            demo["actions"][:, :2] = change(episode.actions[:steps, :2], states)
    return path


def test_differences_of_differences_are_refused_and_a_warning_when_training(tmp_path, caplog):
    assert len(inspect(write_reaches(tmp_path / "right.hdf5")).lengths) == 6
    path = write_reaches(tmp_path / "wrong.hdf5", DIFFERENCED["first kept"])
    with h5py.File(path, "r+") as file:
        for number in range(6):  # as short as they are, six would prove nothing
            file.copy(f"data/demo_{number}", f"data/demo_{number + 6}")
    with pytest.raises(ValueError, match=r"wrong\.hdf5: dx, dy: displacements that were differenced again"):
        inspect(path)
    Demonstrations([path], 3)
    assert "differenced again" in caplog.text and "aegis data inspect" in caplog.text


def test_inspect_and_convert_from_the_command_line(path, tmp_path):
    converted = aegis("data", "convert", path, tmp_path / "set")
    assert converted.returncode == 0 and converted.stdout == f"{tmp_path / 'set'}\n"
    seen = aegis("data", "inspect", tmp_path / "set", "--sheet", tmp_path / "made/sheet.png")
    assert seen.returncode == 0
    assert "LeRobot v3.0" in seen.stdout and "front 16 x 16, wrist 16 x 16 px" in seen.stdout
    assert "4 x pick up the red cube" in seen.stdout and "opening" in seen.stdout
    assert Image.open(tmp_path / "made/sheet.png").size[1] == 6 * (SIZE + GAP)


def test_bad_data_ends_the_command_with_one_line_and_no_sheet(path, tmp_path):
    with h5py.File(path, "r+") as file:
        file["data/demo_3/actions"][2, 1] = np.nan
    done = aegis("data", "inspect", path, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "sheet.png").exists()
    assert done.stderr == f"aegis: error: {path}: demo_3: 'actions', row 2: not a finite number\n"
    done = aegis("data", "convert", path, tmp_path / "set")
    assert done.returncode == 2 and "demo_3" in done.stderr and not (tmp_path / "set").exists()
