"""What the HTTP routes share: bodies read, requests given up with their clients, answers as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from aegis_policy import ObservationError
from aegis_policy.inference.wire import CONTENT_TYPE
from aegis_server import refusals
from aegis_server.service import RefusedError

T = TypeVar("T")
JSON = "application/json"
REFUSALS = {
    400: "Not a request that can be answered; the message says where and why",
    401: "No key of this server",
    403: "A page of another site, or a server without a key under a name that is not its own",
    404: "No such model",
    409: "The new checkpoint was not taken, and why; the old one serves on",
    413: "The body is too large",
    415: "The body is of another type than this route reads",
    422: "The request does not fit the policy; `detail` says where and why",
    429: "Too much is waiting; try again after `retry-after` seconds",
    500: "The policy failed; the message says where to look",
    503: "Not ready, or shutting down",
    504: "Not done within its time",
}
DEADLINE = "x-deadline-ms"
DEADLINE_PARAMETER = {
    "name": DEADLINE,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1},
    "description": "How long the caller waits, in ms; what is not done by then is dropped and answered with a 504",
}


def refused_with(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of refusals that have the form of `model`."""
    return {status: {"model": model, "description": REFUSALS[status]} for status in statuses}


def body_type(request: Request, *taken: str) -> str:
    """Which of `taken` the body is. Raises HTTPException, 415, for anything else."""
    said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if said not in taken:
        raise HTTPException(415, f"content-type '{said}': expected a body sent with content-type: {' or '.join(taken)}")
    return said


def deadline_s(request: Request) -> float | None:
    """What the caller allows, if he says. Raises ObservationError for what is no positive number."""
    said = request.headers.get(DEADLINE)
    if said is None:
        return None
    if not said.isdecimal() or not int(said[:12]):
        raise ObservationError(f"header {DEADLINE}: '{said}' is not a positive whole number of milliseconds")
    return int(said[:12]) / 1000


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, which is cancelled when the client goes. Raises HTTPException then, for the log."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(refusals.CLIENT_CLOSED_REQUEST)
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Pieces of an answer as server-sent events, each made by `event`, between those of `before` and `after`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        first: str,
        pieces: AsyncGenerator[str, None],
        event: Callable[[str], str],
        *,
        before: str = "",
        after: Callable[[str], str],
    ) -> None:
        """Send `first`, then `pieces`; `pieces` is closed with the response, also when the client goes away.

        Args:
            request: what is answered. What is refused of it later, the last event says in its protocol's words.
            after: the last event or events, of the whole answer.
        """
        events = self._events(request.url.path, first, pieces, event, before, after)
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.pieces):
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _events(
        path: str,
        first: str,
        pieces: AsyncGenerator[str, None],
        event: Callable[[str], str],
        before: str,
        after: Callable[[str], str],
    ) -> AsyncIterator[str]:
        answer = [first]
        yield before + event(first)
        try:
            async for piece in pieces:
                answer.append(piece)
                yield event(piece)
        except RefusedError as late:
            yield data(refusals.body(path, late.status, str(late)))
            return
        yield after("".join(answer))


def data(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value)}\n\n"


async def whole(request: Request, first: str, pieces: AsyncGenerator[str, None]) -> str:
    """All of an answer at once; given up when the client goes."""

    async def collect() -> str:
        async with aclosing(pieces):
            return "".join([first, *[piece async for piece in pieces]])

    return await unless_gone(request, collect())


def contents(example: dict[str, Any], schema: dict[str, Any], *, binary: str | None = None) -> dict[str, Any]:
    """What OpenAPI says of a body that a route reads by itself: JSON, and in msgpack what `binary` describes."""
    schema = _inlined(schema, schema.get("$defs", {}))
    content: dict[str, Any] = {JSON: {"schema": {**schema, "examples": [example]}}}
    if binary:
        content[CONTENT_TYPE] = {"schema": {"type": "string", "format": "binary", "description": binary}}
    return {"requestBody": {"required": True, "content": content}, "parameters": [DEADLINE_PARAMETER]}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with its references resolved: inside OpenAPI's document they would point nowhere."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key not in ("$defs", "discriminator")}
