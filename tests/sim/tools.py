"""Tools for tests of sharing work out: what a worker's process makes and works with, so light to import there."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Squarer:
    """Squares, later items sooner than earlier ones, and refuses 13."""

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 13:
            raise ValueError("13 is unlucky")
        time.sleep(0.05 * (item == 0))
        return item * item, os.getpid()

    def close(self) -> None:
        pass


class Waiting(Squarer):
    """Leaves its process's id in a file named for the item, then waits until there is a file "go"."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, item: int) -> tuple[int, int]:
        path = self._folder / str(item)
        path.with_suffix(".part").write_text(str(os.getpid()))
        path.with_suffix(".part").replace(path)
        while not (self._folder / "go").exists():
            time.sleep(0.01)
        return super().__call__(item)


class Leaving(Squarer):
    """Ends its process at every 2."""

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 2:
            os._exit(7)
        return super().__call__(item)


def refuse() -> Squarer:
    raise FileNotFoundError("no checkpoint there")
