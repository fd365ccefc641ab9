"""Demonstrations of robosuite's own tasks: the tabletop's layout, without what only a tabletop has."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

from aegis_sim import commands

pytestmark = pytest.mark.sim


def test_a_demonstration_of_lifting_is_recorded_like_any_other(tmp_path: Path) -> None:
    commands.record("lift", 1, tmp_path / "lift.hdf5", noise=0.01)
    with h5py.File(tmp_path / "lift.hdf5") as file:
        data, demo = file["data"], file["data/demo_0"]
        settings = json.loads(data.attrs["env_args"])
        assert settings["env_name"] == "aegis/Lift-v0" and settings["env_kwargs"] == {}
        assert data.attrs["control_hz"] == 20
        assert demo.attrs["instruction"] == "lift the red cube" and demo.attrs["success"]
        assert "primitives" not in demo.attrs
        assert len(demo["obs/front_image"]) == len(demo["actions"]) == demo.attrs["num_samples"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"short_fraction": 0.5}, "only pick, place-on, place-beside"), ({"split": "distractors"}, "'seen' alone")],
)
def test_what_only_the_tabletop_has_is_refused(tmp_path: Path, options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        commands.record("lift", 1, tmp_path / "lift.hdf5", **options)
