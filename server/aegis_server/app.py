"""FastAPI in front of a policy: checks requests, lends the policy to one at a time, and says why it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

import aegis_policy
from aegis_policy import ActionChunk, ObservationError, Policy, PolicyInfo
from aegis_server.guard import Guard
from aegis_server.schemas import (
    ActRequest,
    ActResponse,
    AskRequest,
    AskResponse,
    Health,
    Refusal,
    act_example,
    ask_example,
    example_observation,
)
from aegis_server.worker import Worker

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nginx's, for the log: nobody is left to read it
REFUSALS: dict[int | str, dict[str, Any]] = {
    413: {"model": Refusal, "description": "The body is too large"},
    422: {"model": Refusal, "description": "The request does not fit the policy; `detail` says where and why"},
    500: {"model": Refusal, "description": "The policy failed; `detail` says where to look"},
}


def create_app(policy: Policy) -> FastAPI:
    """The server of one policy, whichever backend is behind it.

    Routes: GET /healthz (503 until the policy has warmed up), GET /v1/info, POST /v1/act, POST /v1/ask, and /docs.
    """
    info = policy.info
    worker = Worker()
    act_body, ask_body = Body(examples=[act_example(info)]), Body(examples=[ask_example(info)])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm_up(app, policy, worker))
        yield
        warming.cancel()
        await asyncio.wait([warming])
        worker.close()

    app = FastAPI(title="AEGIS policy server", version=aegis_policy.__version__, lifespan=lifespan)
    app.state.health = "warming up"
    app.add_middleware(Guard, max_body=max_body(info))
    app.add_exception_handler(ObservationError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)

    @app.get("/healthz", responses={503: {"model": Health, "description": "Not ready"}})
    async def healthz(response: Response) -> Health:
        """Whether the policy has warmed up and is ready to act."""
        response.status_code = 200 if app.state.health == "ok" else 503
        return Health(status=app.state.health)

    @app.get("/v1/info")
    async def get_info() -> PolicyInfo:
        """What the policy expects and gives."""
        return info

    @app.post("/v1/act", responses=REFUSALS)
    async def act(body: ActRequest = act_body) -> ActResponse:
        """The next chunk of actions."""
        started = time.perf_counter()
        observation = await asyncio.to_thread(body.observation, info)
        chunk = await worker.run(partial(policy.act, observation, seed=body.seed))
        _check_chunk(info, chunk)
        latency_ms = 1000 * (time.perf_counter() - started)
        return ActResponse(actions=chunk.actions.tolist(), stamp=chunk.stamp, latency_ms=latency_ms)

    @app.post("/v1/ask", response_model=AskResponse, responses={**REFUSALS, 200: _STREAM})
    async def ask(request: Request, body: AskRequest = ask_body) -> Any:
        """The answer to a question: token by token as server-sent events, or at once."""
        images = await asyncio.to_thread(body.camera_images, info)
        pieces = worker.stream(partial(policy.ask, images, body.question))
        # What the policy refuses, it refuses by its first token: before a 200 has gone out.
        first = await anext(pieces, "")
        if body.stream:
            return EventStream(first, pieces)
        answer = [first]
        async with aclosing(pieces):
            async for piece in pieces:
                answer.append(piece)
                if await request.is_disconnected():
                    raise HTTPException(CLIENT_CLOSED_REQUEST)
        return AskResponse(answer="".join(answer))

    return app


def max_body(info: PolicyInfo) -> int:
    """The largest request body read, in bytes: a megabyte, and four bytes a pixel value for base64 and metadata."""
    return 2**20 + sum(4 * 3 * camera.height * camera.width for camera in info.cameras)


class EventStream(StreamingResponse):
    """An answer as server-sent events: `{"token": ...}` for each piece, `{"answer": ...}` as the last."""

    media_type = "text/event-stream"

    def __init__(self, first: str, pieces: AsyncGenerator[str, None]) -> None:
        """Send `first`, then `pieces`; `pieces` is closed with the response, also when the client goes away."""
        super().__init__(self._events(first, pieces), headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.pieces):
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _events(first: str, pieces: AsyncGenerator[str, None]) -> AsyncIterator[str]:
        answer = [first]
        yield _event(token=first)
        async for piece in pieces:
            answer.append(piece)
            yield _event(token=piece)
        yield _event(answer="".join(answer))


_STREAM: dict[str, Any] = {
    "description": 'The answer; with `stream`, events `{"token": ...}` and last `{"answer": ...}`',
    "content": {"text/event-stream": {"example": 'data: {"token": "red"}\n\ndata: {"answer": "red"}\n\n'}},
}


def _event(**data: str) -> str:
    return f"data: {json.dumps(data)}\n\n"


async def _warm_up(app: FastAPI, policy: Policy, worker: Worker) -> None:
    """Act and answer once, so that no client waits for what only the first call costs (compiling, caches)."""
    observation = example_observation(policy.info)
    question = ask_example(policy.info)["question"]
    try:
        await worker.run(partial(policy.act, observation, seed=0))
        async for _ in worker.stream(partial(policy.ask, observation.images, question)):
            pass
    except Exception:
        app.state.health = "the policy failed its warm-up; see the log"
        logger.exception("the policy failed its warm-up: not ready")
    else:
        app.state.health = "ok"
        logger.info("ready")


def _check_chunk(info: PolicyInfo, chunk: ActionChunk) -> None:
    """Raise RuntimeError, for a 500, rather than send a robot what is no action."""
    expected = (info.horizon, len(info.actions))
    if chunk.actions.shape != expected or not np.isfinite(chunk.actions).all():
        raise RuntimeError(f"the policy gave {chunk.actions.shape} actions, or ones not finite; expected {expected}")


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    reason = _reason(error) if isinstance(error, RequestValidationError) else str(error)
    sayable = reason.encode(errors="backslashreplace").decode()  # it may quote a name that is half a character
    return JSONResponse({"detail": sayable}, status_code=422)


def _reason(error: RequestValidationError) -> str:
    """What is wrong with a request's form, in a line: "state[2]: Input should be a finite number"."""
    reasons = []
    for problem in error.errors()[:3]:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"][1:])
        message = problem["msg"]
        if problem["type"] == "json_invalid":
            place, message = "", f"not JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
        elif problem["type"] in ("missing", "model_attributes_type") and not place:
            message = "expected a JSON object, sent with content-type: application/json"
        reasons.append(f"{place.removeprefix('.') or 'body'}: {message}")
    return "; ".join(reasons)
