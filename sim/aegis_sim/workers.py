"""Work shared among processes of this machine: results come in the order of the items, and a killed process costs time.

Each worker makes its own tool (a policy and environments, say) and works on one item at a time off one shared queue. A
worker that dies is replaced and its item worked on again, from the start, so every item has exactly one result. This is
not concurrent.futures, whose pool is broken for good by one killed process and cannot tell which item killed it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)
R = TypeVar("R")

MAX_DEATHS = 3
"""So many workers may one item take with it before it is given up."""
# A forked child would inherit this process's GL state, and hang.
_SPAWN = multiprocessing.get_context("spawn")


class Tool(Protocol[Item, Result]):
    """What a worker works with."""

    def __call__(self, item: Item, /) -> Result: ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def spread(make: Callable[[], Tool[Any, R]], items: Sequence[Any], workers: int) -> Generator[R, None, None]:
    """The result of each item, in the order of `items`, whoever finished first.

    Closing the iterator early ends the workers. What a tool raises is raised here.

    Args:
        make: makes a tool, once in each worker. For more than one worker it must be importable there: a function or
            class of a module, or a `functools.partial` of one.
        items: what a tool is called with; a tool's result must depend on its item alone. May be a range without end.
        workers: 1 works in this process, more start as many.

    Raises:
        ValueError: fewer than one worker.
        RuntimeError: MAX_DEATHS workers died over the same item.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers: expected at least 1")
    if workers == 1:
        return _here(make, items)
    return in_order(_in_processes(make, items, min(workers, len(items))))


def in_order(results: Iterable[tuple[int, R]]) -> Generator[R, None, None]:
    """(index, result) as they come -> the results of 0, 1, 2, ... Closes `results` when it is closed itself."""
    early: dict[int, R] = {}
    due = 0
    try:
        for index, result in results:
            early[index] = result
            while due in early:
                yield early.pop(due)
                due += 1
    finally:
        getattr(results, "close", lambda: None)()


def _here(make: Callable[[], Tool[Any, R]], items: Sequence[Any]) -> Generator[R, None, None]:
    with closing(make()) as tool:
        for item in items:
            yield tool(item)


def _in_processes(
    make: Callable[[], Tool[Any, R]], items: Sequence[Any], workers: int
) -> Generator[tuple[int, R], None, None]:
    todo, again = iter(range(len(items))), deque[int]()
    deaths = Counter[int]()
    crew: list[_Worker] = []
    try:
        for _ in range(workers):
            crew.append(_Worker(make))
            crew[-1].give(next(todo), items)
        while busy := {worker.pipe: worker for worker in crew if worker.index is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # nothing but pipes was waited for
                index, message = worker.take()
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, _Death):
                    deaths[index] += 1
                    if deaths[index] == MAX_DEATHS:
                        raise RuntimeError(f"{MAX_DEATHS} workers died over the same work, {items[index]}: {message}")
                    log.warning("a worker died at %s: %s; another one does it again", items[index], message)
                    again.append(index)
                due = again.popleft() if again else next(todo, None)
                if due is not None:
                    worker.give(due, items)
                if not isinstance(message, _Death):
                    yield index, message
    finally:
        for worker in crew:
            worker.stop()


class _Death(str):
    """How a process ended that should not have."""


class _Worker:
    """A process, the pipe to it, and the index of the item it works on, if any."""

    def __init__(self, make: Callable[[], Tool[Any, Any]]) -> None:
        self._make = make
        self.index: int | None = None
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(self._make, theirs), daemon=True)
        self._process.start()
        theirs.close()  # now it is the process's alone, and its death ends the pipe

    def give(self, index: int, items: Sequence[Any]) -> None:
        self.index = index
        with suppress(OSError):  # it is dead: `take` will see that
            self.pipe.send(items[index])

    def take(self) -> tuple[int, Any]:
        """The item's index and what came of it: a result, an exception, or a death, after which another one waits."""
        index, self.index = self.index, None
        assert index is not None
        try:
            return index, self.pipe.recv()
        except (EOFError, OSError):  # nothing, or half a message
            self.stop()
            code = self._process.exitcode or 0
            self._start()
            return index, _Death(f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(make: Callable[[], Tool[Any, Any]], pipe: Connection) -> None:
    """What a worker's process runs, until it is killed or the other end of its pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle, and it stops this process
    # One core each: Mesa's software renderer would otherwise start as many threads in every worker as there are cores.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    tool = None
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            item = pipe.recv()
            try:
                if tool is None:
                    tool = make()
                pipe.send(tool(item))
            except Exception as error:
                pipe.send(error)
