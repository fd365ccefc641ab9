"""Results are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def check_writable(path: Path) -> None:
    """Raise OSError, before the work and not after it, if `path` can be no file to write; make its folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a folder; name a file")
    if (path.exists() and not path.is_file()) or Path("/dev") in path.absolute().parents:
        raise OSError(f"{path}: a device or the like, which would be replaced; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path.parent}: may not be written to")


def write_atomically(path: Path, content: bytes) -> None:
    """Write `path`, making its folder, by way of a temporary name beside it: a killed process leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
