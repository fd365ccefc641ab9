"""`make demo`: the whole way once, each step as one would type it.

New demonstrations of a table seen from another side -> fine-tuning -> the HTTP server -> closed-loop
evaluation through it on unseen episodes, before and after -> a table and a report. Nothing here has a short cut: every
step is a process of its own that runs the `aegis` command printed above it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from aegis_policy.training.config import TrainConfig
from aegis_sim.report import text_table, write_report

TASK = ("--task", "pick", "--split", "moved-camera")
DEMONSTRATIONS = 80
TRAINING_STEPS = 400
EPISODES = 40  # before, and the same ones after
FILMS = 12
SEED = 0
WORKERS = 2  # processes that record
FOLDER = Path("runs/demo")
START_UP_S = 120.0  # the longest a server may take until it answers

TITLE = "A table seen from another side, before and after fine-tuning"
INTRO = (
    "The shipped policy met a camera position, a table and a light it had never seen. Then it was fine-tuned on "
    f"{DEMONSTRATIONS} demonstrations of them ({TRAINING_STEPS} steps of {TrainConfig.method}). Both policies drove "
    f"the same {EPISODES} unseen episodes through the HTTP server, answering questions about what the camera showed."
)

_typed: list[str] = []  # every command line, for the report


def main() -> None:
    """Run the demo; leaves everything in runs/demo."""
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)  # what an earlier demo left
    FOLDER.mkdir(parents=True)
    demonstrations, policy = FOLDER / "demonstrations.hdf5", FOLDER / "policy"
    results = {"before": FOLDER / "before.json", "after": FOLDER / "after.json"}
    try:
        _run(
            *("record", *TASK, "--episodes", DEMONSTRATIONS, "--workers", WORKERS),
            *("--output", demonstrations),
        )
        _evaluate_served(results["before"])
        _run(
            *("train", "--dataset", demonstrations, "--steps", TRAINING_STEPS),
            *("--output", policy),
        )
        _evaluate_served(results["after"], "--checkpoint", policy)
    except subprocess.CalledProcessError as failed:
        sys.exit(f"demo: '{shlex.join(map(str, failed.cmd))}' ended with {failed.returncode}; see above")
    report = FOLDER / "report.html"
    write_report(report, TITLE, results, metrics=policy / "metrics.jsonl", intro=INTRO, commands=_typed)

    minutes = (time.monotonic() - started) / 60
    print(f"\npick, moved camera, {EPISODES} unseen episodes, 95% Wilson intervals; {minutes:.1f} minutes in all\n")
    print(text_table({label: json.loads(file.read_text()) for label, file in results.items()}))
    print(f"\nreport    {report.resolve()}\npolicy    {policy.resolve()}")
    print("serve it  make serve, then http://127.0.0.1:8000/docs")


def _run(*arguments: str | int | Path) -> None:
    """Run one `aegis` command in the foreground."""
    subprocess.run(_command(*arguments), check=True)


def _evaluate_served(result: Path, *serve_arguments: str | Path) -> None:
    """Evaluate a policy through a server of its own."""
    with _serving(result.with_suffix(".server.log"), *serve_arguments) as url:
        evaluation = ("eval", "--checkpoint", url, *TASK, "--episodes", EPISODES, "--seed", SEED)
        _run(*evaluation, "--json", result, "--videos", FILMS)


@contextmanager
def _serving(log: Path, *arguments: str | Path) -> Iterator[str]:
    """`aegis serve` in the background on a free port, as long as the context lasts; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(_command("serve", *arguments, "--port", port), stdout=output, stderr=output)
    try:
        _wait_for(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_UP_S
    while time.monotonic() < give_up and server.poll() is None:
        with suppress(httpx.TransportError):
            # trust_env: a proxy for the web could not reach this machine's own address
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        time.sleep(0.2)
    sys.exit(f"demo: no server at {url}; its log, {log}, ends with\n{log.read_text()[-2000:]}")


def _command(*arguments: str | int | Path) -> list[str]:
    """Print an `aegis` command as one would type it; returns it with the `aegis` of this Python's environment."""
    words = [str(argument) for argument in arguments]
    _typed.append(shlex.join(["aegis", *words]))
    print(f"\n$ {_typed[-1]}", flush=True)
    return [str(Path(sys.executable).with_name("aegis")), *words]


if __name__ == "__main__":
    main()
