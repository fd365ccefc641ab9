"""The console: a page at `/console`, and the websocket `/v1/console` that it watches and commands the robot by.

All messages are JSON. The server sends what has changed, at most as often as the browser takes it:

    {"stopped": why or null, "expecting": whether a robot is being started, "server": gauges,
     "robot"?: the robot's description or null, "report"?: its newest or null}

and {"error"} for a command that cannot be carried out. The browser sends the commands of `/v1/robot`, one a message. A
browser can send no header with a websocket: it offers the subprotocols `aegis` and `aegis.key.<base64url of a key>`.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
from contextlib import suppress
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import RedirectResponse

from aegis_policy import ObservationError
from aegis_server.robot import CommandError, Link
from aegis_server.routes.sockets import accept, first_to_fail, receive
from aegis_server.schemas import MAX_TEXT, Request, Text, validated
from aegis_server.service import Service

MAX_BROWSERS = 32
MAX_MESSAGE = 4096
FASTEST_S, GAUGES_S = 0.05, 0.5
"""The shortest and the longest between two messages to a browser."""
STUCK_S = 20.0
"""A browser that takes nothing for so long is let go."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Command(Request):
    """One of these, and nothing else."""

    start: Text | None = None
    pause: bool = False
    stop: bool = False
    release: bool = False
    reset: bool = False


def router(service: Service, link: Link) -> APIRouter:
    """GET /, /console and the files of the page; the websocket at `/v1/console`."""
    routes = APIRouter(include_in_schema=False)
    folder = files("aegis_server").joinpath("static")
    static = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    watching = 0

    @routes.get("/")
    async def root() -> Response:
        return RedirectResponse("console")

    @routes.get("/console")
    async def page() -> Response:
        return Response(static["console.html"], media_type="text/html", headers=HEADERS)

    @routes.get("/console/{name}")
    async def part(name: str) -> Response:
        if name not in static:
            raise HTTPException(404, f"the console has no '{name}'")
        return Response(static[name], media_type=mimetypes.guess_type(name)[0], headers=HEADERS)

    @routes.websocket("/v1/console")
    async def console(socket: WebSocket) -> None:
        nonlocal watching
        await accept(socket)
        if watching >= MAX_BROWSERS:
            await socket.close(1013, f"{watching} consoles are open already")
            return
        watching += 1
        try:
            await first_to_fail(_show(socket, service, link), _obey(socket, link))
        except ObservationError as error:
            with suppress(RuntimeError, WebSocketDisconnect):
                await socket.send_json({"error": str(error)})
                await socket.close(1008)
        except TimeoutError:
            with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(1):
                    await socket.close(1001)
        except WebSocketDisconnect:
            pass
        finally:
            watching -= 1

    return routes


async def _show(socket: WebSocket, service: Service, link: Link) -> None:
    """Send the newest again and again. What comes while a browser takes its time is left out, never queued."""
    version = identity = -1
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(GAUGES_S):
                await link.change(version)
        known = {"stopped": link.stopped, "expecting": link.expecting, "server": _gauges(service)}
        parts = [json.dumps(known)[1:-1]]
        if identity != link.identity:
            identity = link.identity
            parts.append(f'"robot": {link.description.model_dump_json() if link.description else "null"}')
        if version != link.version:
            version = link.version
            parts.append(f'"report": {link.report_json()}')
        async with asyncio.timeout(STUCK_S):
            await socket.send_text("{" + ", ".join(parts) + "}")
        await asyncio.sleep(FASTEST_S)


async def _obey(socket: WebSocket, link: Link) -> None:
    """Pass a browser's commands on."""
    while True:
        message = await receive(socket)
        if len(message) > MAX_MESSAGE:
            raise ObservationError(f"a command of {len(message)} characters: at most {MAX_MESSAGE}")
        command = validated(Command, message.encode() if isinstance(message, str) else message)
        try:
            _carry_out(command, link)
        except CommandError as error:
            await socket.send_json({"error": str(error)})


def _carry_out(command: Command, link: Link) -> None:
    """A stop comes before whatever else the message may say."""
    if command.stop:
        link.stop("from the console")
    elif command.pause:
        link.pause()
    elif command.release:
        link.release()
    elif command.reset:
        link.reset()
    elif command.start is not None:
        if not command.start.strip():
            raise CommandError("say what to do, for example 'pick up the red cube'")
        if len(command.start) > MAX_TEXT:
            raise CommandError(f"an instruction of {len(command.start)} characters: at most {MAX_TEXT}")
        link.start(command.start.strip())


def _gauges(service: Service) -> dict[str, object]:
    engine = service.engine
    return {
        "health": service.health,
        "waiting": engine.acts_waiting,
        "room": engine.capacity.acts,
        "answers": engine.answers,
        **service.recent.read(),
    }
