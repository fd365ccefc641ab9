"""The outermost layer: bounds what comes in, names every request, and turns the unforeseen into an honest 500."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aegis_server.access import refuse
from aegis_server.logs import request_id
from aegis_server.metrics import Metrics
from aegis_server.refusals import CLIENT_CLOSED_REQUEST
from aegis_server.tracing import Tracing

logger = logging.getLogger(__name__)

TRACED = "/v1/"  # not what is polled: /livez, /readyz, /metrics
_PLAIN = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class Guard:
    """ASGI middleware. Every response carries `x-request-id`; a failure is logged with it and the process stays up.

    A client may name its request itself, by the same header. A failure after the response has begun cannot be told with
    a status any more: the connection is broken off, which no client can take for the end of an answer.
    """

    def __init__(self, app: ASGIApp, max_body: int, metrics: Metrics, tracing: Tracing) -> None:
        """Guard `app`; `max_body` is the largest request body it reads, in bytes."""
        self.app, self.max_body, self.metrics, self.tracing = app, max_body, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        named = headers.get("x-request-id", "")
        request_id.set(named if _PLAIN.fullmatch(named) else uuid.uuid4().hex)
        if scope["type"] == "http" and scope["path"].startswith(TRACED):
            with self.tracing.request(scope["path"], headers, request_id.get()):
                await self._http(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        received, status = 0, 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise self._too_large()
            return message

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id.get()
            await send(message)

        async def fail(status: int, detail: str) -> None:
            # Closing tells a client that is still sending its body to stop.
            await refuse(scope, receive, named_send, status, detail, {"connection": "close"}.items())

        announced = Headers(scope=scope).get("content-length", "0")
        try:
            if announced.isdecimal() and int(announced) > self.max_body:
                await fail(413, self._too_large().detail)
            else:
                await self.app(scope, bounded_receive, named_send)
        except asyncio.CancelledError:  # the server's time to finish after SIGTERM is over, and so is this task
            logger.warning("%s %s ended by the shutdown", scope["method"], scope["path"])
            if not status:
                await fail(503, "the server is shutting down")
        except ClientDisconnect:  # before it had sent all: nobody is left to answer, and nothing has failed
            status = status or CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("request %s: %s %s failed", request_id.get(), scope["method"], scope["path"])
            if not status:
                await fail(500, f"internal error; the server's log has it under request {request_id.get()}")
        finally:
            self._count(scope, str(status or "broken off"))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A failure is the route's to tell, in its own protocol; this is for the log."""
        try:
            await self.app(scope, receive, send)
        except Exception:
            logger.exception("request %s: websocket %s failed", request_id.get(), scope["path"])
            raise
        finally:
            self._count(scope, "websocket")

    def _count(self, scope: Scope, status: str) -> None:
        route = getattr(scope.get("route"), "path", "none")  # its pattern: whatever else is asked for is one row
        self.metrics.requests.labels(route, status).inc()
        if scope["type"] == "http":
            self.tracing.outcome(scope["method"], route, status)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"request body: larger than {self.max_body} bytes")
