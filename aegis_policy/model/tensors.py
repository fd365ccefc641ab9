"""Files of tensors, for whoever the umask lets: safetensors makes them for their owner alone.

A server, which runs as another user, could not read what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """As safetensors' `save_file`. Raises OSError if it cannot be written."""
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    open_up(Path(path))


def open_up(path: Path) -> None:
    """Give a file the mode that a new one gets."""
    new = path.with_name(f".{path.name}.new")
    new.touch()
    path.chmod(new.stat().st_mode)
    new.unlink()
