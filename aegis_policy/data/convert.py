"""From one layout of demonstrations to the other. What appears is whole: it is written under another name first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from aegis_policy.data.source import HDF5_SUFFIXES, Source, open_source


def convert(source: Path, target: Path) -> Source:
    """Write the demonstrations at `source` to `target`, see `write`.

    Raises:
        ValueError: `source` is not sound, or `target` is there already.
        ModuleNotFoundError: one of them is LeRobot's, and the extra `lerobot` is not installed.
    """
    refuse_existing(target)
    return write(open_source(source), target)


def write(source: Source, target: Path) -> Source:
    """Write demonstrations to `target`: robomimic HDF5 if its name ends so, else a LeRobot v3 folder.

    States, actions, instructions, names, units and the rate go over exactly, images exactly into HDF5 and nearly so
    into LeRobot's videos. Executed actions go over into HDF5 alone. What imitation does not need (the simulator's
    states, seeds, rewards) stays behind.

    Returns:
        The new data, opened.

    Raises:
        ValueError: `source` is not sound, or `target` is there already.
        ModuleNotFoundError: `target` is to be LeRobot's, and the extra `lerobot` is not installed.
    """
    refuse_existing(target)
    to_file = target.suffix in HDF5_SUFFIXES
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if to_file:
            from aegis_policy.data.robomimic import write_robomimic

            write_robomimic(source, partial)
        else:
            from aegis_policy.data import lerobot  # noqa: F401 - it says which extra is missing
            from aegis_policy.data.lerobot_write import write_lerobot

            write_lerobot(source, partial)
        open_source(partial)  # or the target would stand in the way of another try
        partial.rename(target)
    finally:
        if to_file:
            partial.unlink(missing_ok=True)
        else:
            shutil.rmtree(partial, ignore_errors=True)
    return open_source(target)


def refuse_existing(target: Path) -> None:
    """Raises ValueError where there is something at `target`: before the work, not after it."""
    if target.exists():
        raise ValueError(f"{target}: there already; remove it, or name another target")
