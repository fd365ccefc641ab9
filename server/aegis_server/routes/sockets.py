"""What the websocket routes share: a reader that knows when its client goes, and how to say what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from fastapi import WebSocket, WebSocketDisconnect

from aegis_server.refusals import in_words

T = TypeVar("T")
PROTOCOL = "aegis"
"""The subprotocol that a browser offers beside its key, and has to be told was taken."""
WAITING = 8
"""Messages that may wait; a client that sends more before it reads is held back by its own socket."""


async def accept(socket: WebSocket) -> None:
    """Take a connection. Of what a browser offers, one has to be chosen or it hangs up; the key must not be told."""
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)


class Reader:
    """Takes messages off a websocket while others are worked on, so that a client that goes is noticed at once."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._messages: asyncio.Queue[bytes | str] = asyncio.Queue(WAITING)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError, WebSocketDisconnect):
            await self._task

    async def next(self) -> bytes | str:
        """The next message. Raises WebSocketDisconnect when the client goes."""
        return await self.unless_gone(self._messages.get())

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """Await `work`, which is cancelled when the client goes. Raises WebSocketDisconnect then."""
        assert self._task is not None
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await self._task
            return task.result()
        finally:
            task.cancel()

    async def _read(self) -> None:
        while True:
            await self._messages.put(await receive(self._socket))


async def receive(socket: WebSocket) -> bytes | str:
    """The next message. Raises WebSocketDisconnect when the client goes."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    found: bytes | str = message["bytes"] if message.get("bytes") is not None else message["text"]
    return found


async def fail(socket: WebSocket, reason: str, code: int) -> None:
    """Say why in a text message, and close with `code`."""
    with suppress(RuntimeError, WebSocketDisconnect):  # the client has gone already
        await socket.send_text(in_words(reason))
        await socket.close(code)


async def first_to_fail(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of it until one ends, which none does but by an error; raises that."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
