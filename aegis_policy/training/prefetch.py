"""The next batch is made while this one trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Made = TypeVar("Made")


def prefetched(make: Callable[[int], Made], steps: Iterable[int]) -> Generator[Made]:
    """make(step) of every step, in order, always one ahead, in a thread of its own.

    Whoever does not take them all closes it (`contextlib.closing`): what is being made is waited for, and the thread
    ends.

    Raises:
        Exception: what `make` raises, when it is that step's turn.
    """
    waiting = iter(steps)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = deque(thread.submit(make, step) for step in islice(waiting, 1))
        while ahead:
            made = ahead.popleft().result()
            ahead.extend(thread.submit(make, step) for step in islice(waiting, 1))
            yield made
