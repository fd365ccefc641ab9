"""A robot's line to the server: `/v1/robot`. The robot is the client; people watch and command it in the console.

All messages are maps in msgpack. The robot says what it is, and may say so again when that changes,

    {"name", "cameras": [{"name", "height", "width"}], "state": [{"name", "unit"}], "actions": [{"name", "unit"}],
     "horizon": H, "control_hz", "instructions": [...]}

then, about ten times a second, how it stands,

    {"frames": {camera: PNG or JPEG file}, "state": [S], "running", "instruction", "stopped": why or None,
     "chunk": {"number", "actions": [H, A], "executed"} or None, "latency_ms": of the last act or None,
     "success": so far, None if unknown, "note": a few words for people}

and is told {"start": instruction}, {"pause": True}, {"stop": True}, {"release": True}, {"reset": True}, or, at least
every BEAT_S, {"heartbeat": True}. While the stop is latched in the server, that beat is {"stop": True} instead.

What keeps people safe is the robot's: it halts by itself when the line breaks or says nothing for a second, it latches
its stop, and after either it moves only when told to start. One robot at a time; another is told why not, as {"error"},
and closed on with 1013, a malformed message with 1008, and a robot that falls silent for SILENCE_S with 1001.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from aegis_policy import ObservationError
from aegis_policy.inference.wire import WireError, pack, unpack
from aegis_server.robot import Description, Link, read_report
from aegis_server.routes.sockets import accept, first_to_fail, receive
from aegis_server.schemas import validated

BEAT_S = 0.25
SILENCE_S = 10.0
"""Long enough for a robot on a machine that is busy; the page says sooner that nothing comes."""
MAX_MESSAGE = 4 * 2**20


def router(link: Link) -> APIRouter:
    """The websocket at `/v1/robot`."""
    routes = APIRouter()

    @routes.websocket("/v1/robot")
    async def robot(socket: WebSocket) -> None:
        await accept(socket)
        attached = False
        try:
            description = validated(Description, await _map(socket))
            if link.description is not None:
                other = f"robot '{link.description.name}' is attached already; one at a time"
                await _refuse(socket, other, 1013)
                return
            link.attach(description)
            attached = True
            await first_to_fail(_listen(socket, link), _tell(socket, link))
        except (ObservationError, WireError) as error:
            await _refuse(socket, str(error), 1008)
        except TimeoutError:
            await _refuse(socket, f"nothing came from, or went to, the robot for {SILENCE_S:g} s", 1001)
        except WebSocketDisconnect:
            pass
        finally:
            if attached:
                link.detach()

    return routes


async def _listen(socket: WebSocket, link: Link) -> None:
    while True:
        sent = await _map(socket)
        if "cameras" in sent:
            link.attach(validated(Description, sent))
        else:
            assert link.description is not None
            link.take(read_report(link.description, sent))


async def _tell(socket: WebSocket, link: Link) -> None:
    if link.stopped is not None:
        await socket.send_bytes(pack({"stop": True}))
    while True:
        for command in await link.commands(BEAT_S):
            async with asyncio.timeout(SILENCE_S):
                await socket.send_bytes(pack(command))


async def _map(socket: WebSocket) -> dict[str, Any]:
    async with asyncio.timeout(SILENCE_S):
        message = await receive(socket)
    if len(message) > MAX_MESSAGE:
        raise ObservationError(f"a message of {len(message)} bytes: at most {MAX_MESSAGE}")
    sent = unpack(message) if isinstance(message, bytes) else None
    if not isinstance(sent, dict):
        raise ObservationError("expected a map in msgpack, as a binary message")
    return sent


async def _refuse(socket: WebSocket, why: str, code: int) -> None:
    with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):  # it has gone, or does not read
        async with asyncio.timeout(SILENCE_S):
            await socket.send_bytes(pack({"error": why}))
            await socket.close(code)
