"""The environment of the clients that others wrote, and how to run a script in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("AEGIS_CLIENTS_VENV", ROOT / ".venv-clients")) / "bin" / "python"

needed = pytest.mark.skipif(
    not PYTHON.exists() and "CI" not in os.environ,  # where it has to be there, these tests fail without it
    reason="no environment of clients; `make test` makes one",
)


def run(script: str, *arguments: str) -> Any:
    """What a script beside this one, run in that environment, prints as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(PYTHON), str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
