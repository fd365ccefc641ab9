"""Kill the real training process at random moments: the newest checkpoint always loads, and the run goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aegis_policy.model.checkpoint import load
from aegis_policy.training import state


def start(*options: str) -> subprocess.Popen[bytes]:
    """Ctrl-C reaches it as from a terminal, also where the tests run in the background, whose children ignore it."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("aegis"), "train", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def newest(run: Path) -> int:
    return max((int(path.name) for path in state.checkpoints(run)), default=0)


def check(run: Path) -> int:
    """The newest checkpoint loads, by `last` and by name; returns its step."""
    load(run)
    folder = state.checkpoints(run)[-1]
    load(folder / state.MODEL)
    step = json.loads((folder / state.STATE / "state.json").read_text())["step"]
    assert step == int(folder.name)
    return step


def wait_for_progress(run: Path, reached: int, process: subprocess.Popen[bytes]) -> None:
    while newest(run) <= reached:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)


def wait_for_a_write(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a checkpoint of a later step appears, under whatever name: half done."""
    known = latest_started(run)
    while latest_started(run) == known:
        assert process.poll() is None, process.communicate()[1].decode()


def latest_started(run: Path) -> int:
    names = (path.name for path in (run / state.CHECKPOINTS).iterdir())
    return max(int("".join(filter(str.isdecimal, name)) or 0) for name in names)


@pytest.mark.parametrize(
    ("kills", "from_the_start", "steps"),
    [(3, False, 60), pytest.param(20, True, 500, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_survives_sigkill(vlm, demonstrations, tmp_path, kills, from_the_start, steps):
    """Every step writes a checkpoint, so that most kills come while one is being written or an old one removed.

    `from_the_start`: at any moment since the process was started, its loading included; else every other kill comes
    just as a checkpoint begins to be written.
    """
    run, rng = tmp_path / "run", random.Random(0)
    first = (
        *("--dataset", str(demonstrations), "--checkpoint", str(vlm), "--method", "naive", "--steps", str(steps)),
        *("--output", str(run), "--save-every", "1", "--keep", "2", "--eval-every", "0"),
        *("--batch-size", "4", "--noise-samples", "1"),
    )
    reached, began, loading = 0, time.monotonic(), 0.0
    for kill in range(kills):
        process = start(*first) if not kill else start("--resume", str(run))
        if not from_the_start or not kill:
            wait_for_progress(run, reached, process)
            loading = loading or time.monotonic() - began
        if not from_the_start and kill % 2 == 0:
            wait_for_a_write(run, process)
        else:
            time.sleep(rng.uniform(0, 1.3 * loading if from_the_start else 0.3))
        process.kill()
        process.communicate()
        step = check(run)
        assert step >= reached
        reached = step
    assert reached < steps, "it finished before the last kill: nothing was tested"
    process = start("--resume", str(run))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    assert check(run) == steps
    assert sorted(path.name for path in (run / state.CHECKPOINTS).iterdir()) == [
        f"{steps - 1:06d}",
        f"{steps:06d}",
        "last",
    ]


def test_ctrl_c_ends_it_at_once_and_it_goes_on(vlm, demonstrations, tmp_path):
    run = tmp_path / "run"
    process = start(
        *("--dataset", str(demonstrations), str(demonstrations), "--dataset-weights", "3", "1"),
        *("--checkpoint", str(vlm), "--normalization", "quantiles", "--method", "naive", "--steps", "100000"),
        *("--output", str(run), "--save-every", "5", "--eval-every", "0", "--batch-size", "4"),
    )
    wait_for_progress(run, 5, process)  # the second checkpoint: it may be stopped before `last` points to it
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    reached = check(run)
    process = start("--resume", str(run))
    wait_for_progress(run, reached, process)
    process.kill()
    process.communicate()
