"""The engine room: the one thread that touches the policy, and who it serves next.

    acts      come first, as many at a time as are waiting: one pass of the model for several robots
    answers   take the thread for one token at a time, and only while no act waits

So an act that finds the thread at an answer waits for one token. Acts without end would starve answers: those that have
waited for PATIENCE_S get a token or more between two passes, until SHARE of the time that the pass took is used up.

An act alone is computed at once. Where several clients have been acting at the same time, the first to come back waits
for the others, but never longer than `Capacity.batch_wait_s`: they were in step when they got their chunks together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from aegis_policy import ActionChunk, Observation, Policy
from aegis_policy.policy import act_many, check_chunk

T = TypeVar("T")
PATIENCE_S, SHARE = 0.25, 0.25


@dataclass(frozen=True)
class Capacity:
    """How much is taken on; what is beyond it is refused at once, rather than answered late.

    Attributes:
        batch: most acts in one pass of the model.
        batch_wait_s: longest that an act waits for others to share a pass with.
        acts: most acts that wait.
        answers: most answers that are being given.
    """

    batch: int = 16
    batch_wait_s: float = 0.005
    acts: int = 64
    answers: int = 32


class OverloadedError(Exception):
    """The queue is full; says of what."""


class Acted(NamedTuple):
    """A chunk, how long its act waited and was computed (s), and how many were computed with it."""

    chunk: ActionChunk
    queue_s: float
    model_s: float
    batch: int


@dataclass(eq=False, repr=False)
class _Job(Generic[T]):
    """Something to do, and whoever awaits it. One whose waiter has gone is never begun."""

    future: Future[T] = field(default_factory=Future, init=False)
    since: float = field(default_factory=time.monotonic, init=False)


@dataclass(eq=False, repr=False)
class _Act(_Job[Acted]):
    observation: Observation
    seed: int | None


@dataclass(eq=False, repr=False)
class _Step(_Job[Any]):
    work: Callable[[], Any]


class Engine:
    """Runs a policy for many, from `start` to `close`.

    Attributes:
        policy: what is run; another may be put in its place at any time, and serves from the next pass on. An answer
            that has begun is finished by the one that began it.
        answers, acts_running: how many answers are being given, how many acts computed.
    """

    def __init__(self, policy: Policy, capacity: Capacity | None = None) -> None:
        self.policy, self.capacity = policy, capacity or Capacity()
        self.answers = self.acts_running = 0
        self._acts, self._steps = deque[_Act](), deque[_Step]()
        self._changed = threading.Condition()
        self._closed = False
        self._company = 1  # acts that were computed in the last pass, or waiting at its end
        self._owed_s = 0.0  # that answers may still take before the next pass, though acts wait
        self._thread = threading.Thread(target=self._run, name="policy")

    def start(self) -> None:
        """Begin; what is asked before that waits."""
        self._thread.start()

    @property
    def acts_waiting(self) -> int:
        return len(self._acts)

    async def act(self, observation: Observation, seed: int | None = None) -> Acted:
        """The policy's next chunk. Cancelled before its turn, it is never begun.

        Raises:
            OverloadedError: too many wait already.
            RuntimeError: the policy gave what is no chunk.
        """
        if len(self._acts) >= self.capacity.acts:
            raise OverloadedError(f"{len(self._acts)} observations are waiting for their actions already")
        job = _Act(observation, seed)
        self._put(self._acts, job)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            with self._changed, suppress(ValueError):  # its turn has come
                self._acts.remove(job)
            raise

    async def run(self, work: Callable[[], T]) -> T:
        """Await `work()` on the policy's thread, after the acts."""
        job = _Step(work)
        self._put(self._steps, job)
        found: T = await asyncio.wrap_future(job.future)
        return found

    async def answer(self, start: Callable[[Policy], Iterator[str]]) -> AsyncGenerator[str, None]:
        """Pass on what `start(policy)` yields; once this generator is closed or fails, that one is closed too.

        A token is computed when it is asked for, so a slow reader costs nothing but its place.

        Raises:
            OverloadedError: too many answers are being given already.
        """
        if self.answers >= self.capacity.answers:
            raise OverloadedError(f"{self.answers} answers are being given already")
        self.answers += 1
        pieces: Iterator[str] | None = None

        def piece() -> str | None:
            nonlocal pieces
            if pieces is None:
                pieces = start(self.policy)
            return next(pieces, None)

        def close() -> None:
            getattr(pieces, "close", lambda: None)()

        try:
            while (found := await self.run(piece)) is not None:
                yield found
        finally:
            self.answers -= 1
            # Not awaited, for this may run while its task is being cancelled; and on the policy's thread, behind a
            # token that may still be in the making: a generator cannot be closed while it runs.
            with suppress(RuntimeError):  # the engine is closed already
                self._put(self._steps, _Step(close))

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for job in [*self._acts, *self._steps]:
            job.future.cancel()

    def _put(self, queue: deque[Any], job: _Job[Any]) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            queue.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while turn := self._next():
            began = time.monotonic()
            if isinstance(turn, _Step):
                _settle(turn.future, turn.work)
                self._owed_s -= time.monotonic() - began
            else:
                self.acts_running = len(turn)
                self._pass(turn)
                self.acts_running = 0
                self._owed_s = SHARE * (time.monotonic() - began)

    def _next(self) -> _Step | list[_Act] | None:
        """Whose turn it is; waits until it is someone's. None once closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._steps and (not self._acts or self._is_owed(self._steps[0], now)):
                    step = self._steps.popleft()
                    if step.future.set_running_or_notify_cancel():
                        return step
                elif not self._acts:
                    self._changed.wait()
                elif (left := self._patience(now)) > 0:
                    self._changed.wait(left)
                else:
                    acts = [self._acts.popleft() for _ in range(min(len(self._acts), self.capacity.batch))]
                    if acts := [act for act in acts if act.future.set_running_or_notify_cancel()]:
                        return acts
        return None

    def _patience(self, now: float) -> float:
        """How long the first act still waits for company (s)."""
        complete = len(self._acts) >= min(self._company, self.capacity.batch)
        return 0.0 if complete else self._acts[0].since + self.capacity.batch_wait_s - now

    def _is_owed(self, step: _Step, now: float) -> bool:
        return self._owed_s > 0 and now - step.since > PATIENCE_S

    def _pass(self, acts: list[_Act]) -> None:
        """Compute all of them together; should that fail, each alone, so that one bad act fails no other."""
        policy, began, now = self.policy, time.perf_counter(), time.monotonic()
        try:
            chunks = act_many(policy, [act.observation for act in acts], [act.seed for act in acts])
            for chunk in chunks:
                check_chunk(policy.info, chunk)
        except Exception as error:
            if len(acts) == 1:
                acts[0].future.set_exception(error)
            else:
                for act in acts:
                    self._pass([act])
            return
        model_s = time.perf_counter() - began
        self._company = len(acts) + len(self._acts)  # before anyone has his chunk and comes back
        for act, chunk in zip(acts, chunks, strict=True):
            act.future.set_result(Acted(chunk, now - act.since, model_s, len(acts)))


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
