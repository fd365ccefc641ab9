"""The one thread that touches the policy, so that the event loop never waits for a model and no model is shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """Runs work in the order it comes. An answer takes the thread one token at a time, and acts go in between."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")

    async def run(self, work: Callable[[], T]) -> T:
        """Await `work()`. Work whose waiter is cancelled before its turn is never begun."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def stream(self, start: Callable[[], Iterator[str]]) -> AsyncGenerator[str, None]:
        """Pass on what `start()` yields; once this generator is closed or fails, the one of `start` is closed too."""
        pieces = await self.run(start)
        try:
            while (piece := await self.run(partial(next, pieces, None))) is not None:
                yield piece
        finally:
            # Not awaited, for this may run while its task is being cancelled; and on the worker, behind a token that
            # may still be in the making: a generator cannot be closed while it runs.
            with suppress(RuntimeError):  # the process is ending and the thread is gone already
                self._pool.submit(getattr(pieces, "close", lambda: None))

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)
