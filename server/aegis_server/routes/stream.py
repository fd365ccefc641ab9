"""Chunks for a control loop, over one websocket: `/v1/stream`. The newest observation is the only one that matters.

All messages are maps in msgpack. The server says what the policy is, as GET /v1/info does. Then the client sends, as
often as it likes and without waiting,

    {"epoch": 3, "executed": 4, "delay": 2,
     "observation": {"images", "state", "instruction", "stamp"?, "seed"?, "pending"?}}

and gets, for the newest of them each time that the policy is free,

    {"epoch": 3, "executed": 4, "delay": 2, "actions": [H, A], "stamp", "queue_ms", "model_ms", "batch", "skipped"}

`executed` is how many actions of its chunk the robot had carried out when it observed, `delay` how many more it will
have by the time that the answer comes, so the chunk's first `delay` actions are past by then. They come back as they
were sent, so the client need not remember what it asked. For real-time chunking (arXiv 2506.07339) `pending` has the
actions that are left, as in POST /v1/act, and the same `delay`: what a client follows may be of several chunks, and it
alone knows which.

A client begins a new epoch, a higher number, whenever older chunks must not be carried out any more: after a stop, with
a new instruction. From then on nothing of an older epoch is sent. {"epoch": 4} alone does that too. An observation that
is overtaken by a newer one is not answered; `skipped` says how many were since the last answer.

What cannot be done now comes as {"epoch", "error", "retry_ms"?} and the connection stays; what is malformed is said as
{"error"} and ends it (1008), and so does what fails in here (1011).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import Field

from aegis_policy import Observation, ObservationError, PolicyInfo
from aegis_policy.inference.wire import WireError, pack, unpack
from aegis_server.engine import Acted
from aegis_server.refusals import in_words
from aegis_server.routes.sockets import accept, first_to_fail, receive
from aegis_server.schemas import ActOptions, Request, observation_from_map, validated
from aegis_server.service import RefusedError, Service


class Turn(Request):
    """Where a control loop stands."""

    epoch: int = Field(ge=0, lt=2**63)
    executed: int = Field(0, ge=0)
    delay: int = Field(0, ge=0)


@dataclass(frozen=True)
class Asked:
    """An observation, and where the loop stood when it was sent."""

    turn: Turn
    observation: Observation
    seed: int | None


def router(service: Service) -> APIRouter:
    """The websocket at `/v1/stream`."""
    routes = APIRouter()

    @routes.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await accept(socket)
        try:
            await socket.send_bytes(pack(service.info.to_dict()))
            line = Line(socket, service)
            await first_to_fail(line.listen(), line.answer())
        except (ObservationError, WireError) as error:
            await _fail(socket, error, 1008)
        except WebSocketDisconnect:
            pass  # the client has what it came for
        except Exception:
            await _fail(socket, "internal error; see the server's log", 1011)
            raise

    return routes


class Line:
    """One client's connection."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket, self._service = socket, service
        self._epoch, self._skipped = 0, 0
        self._newest: Asked | None = None
        self._come = asyncio.Event()
        self._acting: asyncio.Task[Acted] | None = None

    async def listen(self) -> None:
        """Take in what comes; only the newest observation is kept, and what an older epoch awaits is given up."""
        while True:
            message = await receive(self._socket)
            with self._service.stage("act", "decode"):
                turn, asked = await read(self._service.info, message)
            if turn.epoch < self._epoch:
                self._skipped += asked is not None
                continue
            if turn.epoch > self._epoch:
                self._skipped += self._newest is not None
                self._epoch, self._newest = turn.epoch, None
                if self._acting:
                    self._acting.cancel()
            if asked:
                self._skipped += self._newest is not None
                self._newest = asked
                self._come.set()

    async def answer(self) -> None:
        """Answer the newest observation, again and again."""
        while True:
            await self._come.wait()
            self._come.clear()
            asked, self._newest = self._newest, None
            if asked is None:
                continue
            with self._service.observation(self._socket):
                await self._act(asked)

    async def _act(self, asked: Asked) -> None:
        self._acting = asyncio.ensure_future(self._service.act(asked.observation, asked.seed))
        try:
            await asyncio.wait({self._acting})
        finally:
            self._acting.cancel()
        acted, self._acting = self._acting, None
        if acted.cancelled() or asked.turn.epoch != self._epoch:
            self._skipped += 1
            return
        with self._service.stage("act", "encode"):
            await self._socket.send_bytes(pack({**asked.turn.model_dump(), **self._said(acted)}))

    def _said(self, acted: asyncio.Task[Acted]) -> dict[str, Any]:
        try:
            found = acted.result()
        except RefusedError as error:
            retry = {} if error.retry_s is None else {"retry_ms": 1000 * error.retry_s}
            return {"error": str(error), **retry}
        skipped, self._skipped = self._skipped, 0
        return {
            "actions": found.chunk.actions,
            "stamp": found.chunk.stamp,
            "queue_ms": 1000 * found.queue_s,
            "model_ms": 1000 * found.model_s,
            "batch": found.batch,
            "skipped": skipped,
        }


async def read(info: PolicyInfo, message: bytes | str) -> tuple[Turn, Asked | None]:
    """Where the loop stands, and what it asks if it asks.

    Raises:
        WireError: not msgpack.
        ObservationError: not a map, a field that is wrong or unknown, or an observation that does not fit `info`.
    """
    sent = unpack(message) if isinstance(message, bytes) else None
    if not isinstance(sent, dict):
        raise ObservationError("expected a map in msgpack, as a binary message")
    turn = validated(Turn, {key: value for key, value in sent.items() if key != "observation"})
    if max(turn.executed, turn.delay) > info.horizon:
        raise ObservationError(f"executed, delay: at most {info.horizon}, the actions of a chunk")
    if "observation" not in sent:
        return turn, None
    seen = sent["observation"]
    if not isinstance(seen, dict) or not {"images", "state"} <= seen.keys():
        raise ObservationError("observation: expected a map with images, state and instruction")
    said = validated(ActOptions, {key: value for key, value in seen.items() if key not in ("images", "state")})
    observation = await observation_from_map(info, seen["images"], seen["state"], said)
    if said.pending is not None and said.pending.delay != turn.delay:
        raise ObservationError(f"delay is {turn.delay}, and that of what is pending {said.pending.delay}: say the same")
    return turn, Asked(turn, observation, said.seed)


async def _fail(socket: WebSocket, reason: Exception | str, code: int) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):  # the client has gone already
        await socket.send_bytes(pack({"error": in_words(reason)}))
        await socket.close(code)
