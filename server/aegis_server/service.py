"""A policy being served: ready or not, replaced by its next checkpoint, and let go in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import NamedTuple

import numpy as np
from starlette.requests import HTTPConnection

from aegis_policy import Observation, Policy, PolicyInfo
from aegis_policy.inference.example import EXAMPLE_QUESTION, example_observation
from aegis_policy.policy import CONTRACT, check_chunk
from aegis_server.engine import Acted, Engine, OverloadedError
from aegis_server.gauges import Recent
from aegis_server.logs import request_id
from aegis_server.metrics import Metrics
from aegis_server.settings import Settings
from aegis_server.tracing import Tracing

logger = logging.getLogger(__name__)

READY, WARMING, DRAINING = "ok", "warming up", "shutting down"


class Deadline(NamedTuple):
    """By when a request has to be done (s, the event loop's), and how long it was given from when it was there (s)."""

    at: float
    allowed: float


class RefusedError(Exception):
    """Refused for now and not for what it says: `status` is HTTP's, and after `retry_s` it may be tried again."""

    def __init__(self, status: int, reason: str, detail: str, retry_s: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.reason, self.retry_s = status, reason, retry_s


class ReloadError(Exception):
    """The new checkpoint was not taken; the old one serves on."""


class Service:
    """Everything that the routes share.

    Args:
        policy: what is served.
        settings: what is allowed.
        load: makes the policy anew from where it came, for `reload`.

    Attributes:
        pictures: the one thread for pictures of any size: who sends many waits for his own, and no robot does.
    """

    def __init__(self, policy: Policy, settings: Settings, load: Callable[[], Policy] | None = None) -> None:
        self.settings, self.load = settings, load
        self.engine = Engine(policy, settings.capacity)
        self.pictures = ThreadPoolExecutor(1, "pictures")
        self.metrics = Metrics(self.engine)
        self.tracing = Tracing()
        self.recent = Recent()
        self.health = WARMING
        self._reloading = asyncio.Lock()
        self._active = 0

    @property
    def info(self) -> PolicyInfo:
        return self.engine.policy.info

    async def warm_up(self) -> None:
        """Act and answer once, so that no client waits for what only the first call costs (compiling, caches)."""
        try:
            await self.engine.run(lambda: try_out(self.engine.policy))
        except Exception:
            self._warmed("the policy failed its warm-up; see the log")
            logger.exception("the policy failed its warm-up: not ready")
        else:
            self._warmed(READY)
            logger.info("ready")

    def _warmed(self, health: str) -> None:
        """Take on `health`, unless a reload or the end has come meanwhile."""
        if self.health == WARMING:
            self.health = health

    def due(self, seconds: float | None = None) -> Deadline:
        """When a request that is there now has to be done; `seconds` is what it allows itself."""
        allowed = self.settings.deadline_s if seconds is None else min(seconds, self.settings.deadline_s)
        return Deadline(asyncio.get_running_loop().time() + allowed, allowed)

    @asynccontextmanager
    async def reading(self, kind: str, due: Deadline) -> AsyncIterator[None]:
        """Within it a request's body is made sense of.

        Raises:
            RefusedError: not in time (504), or no policy to use it (503).
        """
        async with self._admitted(due), asyncio.timeout_at(due.at):
            with self.stage(kind, "decode"):
                yield

    async def act(self, observation: Observation, seed: int | None = None, due: Deadline | None = None) -> Acted:
        """The next chunk.

        Raises:
            RefusedError: too many wait (429), not in time (504), or no policy to act (503).
        """
        due = due or self.due()
        async with self._admitted(due), asyncio.timeout_at(due.at):
            acted = await self.engine.act(observation, seed)
        self._spent("act", "queue", acted.queue_s, ago=acted.model_s)
        self._spent("act", "model", acted.model_s, batch=acted.batch)
        self.metrics.batch.observe(acted.batch)
        self.recent.add(acted.queue_s + acted.model_s)
        return acted

    async def answer(
        self, images: Mapping[str, np.ndarray], question: str, due: Deadline | None = None
    ) -> AsyncGenerator[str, None]:
        """The answer, piece by piece.

        Raises:
            RefusedError: as `act`; before the first piece, unless time runs out later.
        """
        took = list[float]()  # by the last piece, in the making
        pieces = self.engine.answer(lambda policy: _timed(policy.ask(images, question), took))
        due = due or self.due()
        async with self._admitted(due), aclosing(pieces):
            while True:
                began = time.perf_counter()
                async with asyncio.timeout_at(due.at):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                model_s = took.pop()
                self._spent("ask", "queue", max(time.perf_counter() - began - model_s, 0.0), ago=model_s)
                self._spent("ask", "model", model_s)
                yield piece

    @asynccontextmanager
    async def _admitted(self, due: Deadline) -> AsyncIterator[None]:
        """Within it a request is at work."""
        self._active += 1
        try:
            if self.health not in (READY, WARMING):
                raise RefusedError(503, "not ready", f"not ready: {self.health}", retry_s=5)
            yield
        except TimeoutError:
            detail = f"not done within {due.allowed:g} s; {self.engine.acts_waiting} observations are waiting"
            raise self._counted(RefusedError(504, "deadline", detail)) from None
        except OverloadedError as error:
            raise self._counted(RefusedError(429, "overloaded", f"{error}; try again", retry_s=1)) from None
        except RefusedError as refused:
            raise self._counted(refused) from None
        finally:
            self._active -= 1

    def _counted(self, refused: RefusedError) -> RefusedError:
        self.metrics.refusals.labels(refused.reason).inc()
        return refused

    @contextmanager
    def stage(self, kind: str, stage: str) -> Iterator[None]:
        """Time a stage of a request, for its trace and the metrics."""
        began = time.perf_counter()
        yield
        self._spent(kind, stage, time.perf_counter() - began)

    @contextmanager
    def observation(self, connection: HTTPConnection) -> Iterator[None]:
        """Within it one observation of a websocket is read, acted on and answered: one trace, and `drain` waits."""
        self._active += 1
        try:
            with self.tracing.request(f"WS {connection.url.path}", connection.headers, request_id.get()):
                yield
        finally:
            self._active -= 1

    def _spent(self, kind: str, stage: str, seconds: float, **more: float) -> None:
        self.metrics.stage.labels(kind, stage).observe(seconds)
        self.tracing.stage(kind, stage, seconds, **more)

    async def reload(self, load: Callable[[], Policy] | None = None, *, patient: bool = False) -> PolicyInfo:
        """Load the checkpoint anew, try it out beside the old one, and serve it from the next pass on.

        Args:
            load: makes the policy, if not as this server was told to.
            patient: after a reload that is under way, which may have read what is older by now.

        Raises:
            ReloadError: it cannot be loaded, fails, or expects or gives something else; the old one serves on. Or the
                server is shutting down.
        """
        self._refuse_to_reload_at_the_end()
        load = load or self.load
        if load is None:
            raise ReloadError("this process cannot tell what to load; with --replicas, send SIGHUP to `aegis serve`")
        if self._reloading.locked() and not patient:
            raise ReloadError("a reload is under way already")
        async with self._reloading:
            try:
                policy = await asyncio.to_thread(self._loaded, load)
            except Exception as error:
                self.metrics.reloads.labels("rolled back").inc()
                logger.exception("the new checkpoint was not taken")
                raise ReloadError(f"{type(error).__name__}: {error}; the old checkpoint serves on") from error
            self._refuse_to_reload_at_the_end()  # which may have come meanwhile
            self.engine.policy, self.health = policy, READY
            self.metrics.reloads.labels("done").inc()
            logger.info("reload: now serving %s, checkpoint %s", policy.info.model, policy.info.checkpoint[:12])
            return policy.info

    def _refuse_to_reload_at_the_end(self) -> None:
        if self.health == DRAINING:
            raise ReloadError("the server is shutting down")

    def _loaded(self, load: Callable[[], Policy]) -> Policy:
        policy = load()
        for part in CONTRACT:
            old, new = getattr(self.info, part), getattr(policy.info, part)
            if old != new:
                raise ValueError(f"its {part}: {new}, where clients rely on {old}; restart the server to change that")
        try_out(policy)
        return policy

    async def drain(self, seconds: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Take on nothing new, and wait until what has begun is done, `seconds` at most, or somebody is `hurried`."""
        self.health = DRAINING
        until = time.monotonic() + seconds
        while self._active and time.monotonic() < until and not hurried():
            await asyncio.sleep(0.02)


def _timed(pieces: Iterator[str], took: list[float]) -> Iterator[str]:
    """Pass pieces on; `took` then ends with the seconds of the last."""
    try:
        while True:
            began = time.perf_counter()
            piece = next(pieces, None)
            if piece is None:
                return
            took.append(time.perf_counter() - began)
            yield piece
    finally:
        getattr(pieces, "close", lambda: None)()


def try_out(policy: Policy) -> None:
    """Act and answer once; raises what the policy raises, and RuntimeError for what is no chunk."""
    observation = example_observation(policy.info)
    check_chunk(policy.info, policy.act(observation, seed=0))
    for _ in policy.ask(observation.images, EXAMPLE_QUESTION):
        pass
