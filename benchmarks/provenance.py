"""Where a figure comes from: the command, the commit, the machine and the day. Standard library only."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def provenance() -> dict[str, str]:
    """What goes into every JSON file under results/, beside the figures."""
    changed = "+changes" * bool(_git("status", "--porcelain", "--untracked-files=no", "--", "*.py"))
    machine = (platform.machine(), _processor(), f"{os.cpu_count()} cores", platform.system())
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": _git("rev-parse", "HEAD") + changed,
        "machine": f"{', '.join(machine)}, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def keep(file: Path, measured: dict[str, Any]) -> None:
    """Write one of many runs, with its commit, machine and day; a file that is there is whole."""
    origin = {key: value for key, value in provenance().items() if key in ("commit", "machine", "date")}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({**measured, **origin}, indent=1) + "\n")
    partial.replace(file)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
