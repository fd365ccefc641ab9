"""What recording by hand cannot do, it says before anything begins."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from aegis_sim import commands
from aegis_sim.by_hand import record_by_hand
from aegis_sim.demonstrations import Recording

MISSING = [name for name in ("pynput", "Xlib", "hid", "tkinter") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def test_no_screen_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = Recording("pick", device="keyboard")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match="needs a screen, and DISPLAY is not set"):
        record_by_hand(wanted, 1, tmp_path / "x.hdf5")
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(ValueError, match="X display ':4711' cannot be opened"):
        record_by_hand(wanted, 1, tmp_path / "x.hdf5")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"short_fraction": 0.5}, "the scripted expert's"),
        ({"takeover": "runs/mine"}, "the scripted expert's"),
        ({"workers": 2}, "one worker"),
        ({"episodes": 0}, "at least 1"),
        ({"task": "questions"}, "task 'questions'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, options: dict, complaint: str) -> None:
    settings = {"task": "pick", "episodes": 1, "output": tmp_path / "x.hdf5", "device": "keyboard", **options}
    with pytest.raises(ValueError, match=complaint):
        commands.record(**settings)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    path.write_text("an hour's work")
    with pytest.raises(ValueError, match="exists"):
        commands.record("pick", 1, path, device="keyboard")
    assert path.read_text() == "an hour's work"
