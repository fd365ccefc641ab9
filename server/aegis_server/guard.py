"""The outermost layer: bounds what comes in, names every request, and turns the unforeseen into an honest 500."""

from __future__ import annotations

import asyncio
import logging
import uuid

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


class Guard:
    """ASGI middleware. Every response carries `x-request-id`; a failure is logged with it and the process stays up.

    A failure after the response has begun cannot be told with a status any more: the connection is broken off, which
    no client can take for the end of an answer.
    """

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        """Guard `app`; `max_body` is the largest request body it reads, in bytes."""
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        received = 0
        begun = False

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise self._too_large()
            return message

        async def named_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        async def refuse(status: int, detail: str) -> None:
            # Closing tells a client that is still sending its body to stop.
            response = JSONResponse({"detail": detail}, status, headers={"connection": "close"})
            await response(scope, receive, named_send)

        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.max_body:
            await refuse(413, self._too_large().detail)
            return
        try:
            await self.app(scope, bounded_receive, named_send)
        except asyncio.CancelledError:  # the server's time to finish after SIGTERM is over, and so is this task
            logger.warning("request %s: %s %s ended by the shutdown", request_id, scope["method"], scope["path"])
            if not begun:
                await refuse(503, "the server is shutting down")
        except Exception:
            logger.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if not begun:
                await refuse(500, f"internal error; the server's log has it under request {request_id}")

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"request body: larger than {self.max_body} bytes")
