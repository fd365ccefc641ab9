"""This server's own routes: what the policy is, act, ask; JSON for people, msgpack for robots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from aegis_policy import Observation, ObservationError, PolicyInfo
from aegis_policy.inference.wire import CONTENT_TYPE, CONTRACT_HEADER, pack, unpack
from aegis_server.engine import Acted
from aegis_server.routes.http import (
    JSON,
    EventStream,
    body_type,
    contents,
    data,
    deadline_s,
    refused_with,
    unless_gone,
    whole,
)
from aegis_server.schemas import (
    ActOptions,
    ActRequest,
    ActResponse,
    AskOptions,
    AskRequest,
    AskResponse,
    Detail,
    act_example,
    ask_example,
    check_question,
    images_from_map,
    observation_from_map,
    validated,
)
from aegis_server.service import Service

BINARY = "The same map as in JSON; images as arrays, uint8 [H, W, 3], or as files; arrays as openpi packs them"
STREAM: dict[str, Any] = {
    "description": 'The answer; with `stream`, events `{"token": ...}` and last `{"answer": ...}`, '
    'or `{"detail": ...}` if its time is over first',
    "content": {"text/event-stream": {"example": 'data: {"token": "red"}\n\ndata: {"answer": "red"}\n\n'}},
}
PACKED: dict[str, Any] = {"content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


def router(service: Service) -> APIRouter:
    """GET /v1/info, POST /v1/act, POST /v1/ask."""
    routes = APIRouter(tags=["policy"], responses=refused_with(Detail, 401, 403, 500))
    refusals = refused_with(Detail, 413, 415, 422, 429, 503, 504)
    info = service.info  # what clients rely on in it outlasts a reload
    relied_on = {CONTRACT_HEADER: info.contract()}
    act_body = contents(act_example(info), ActRequest.model_json_schema(), binary=BINARY)
    ask_body = contents(ask_example(info), AskRequest.model_json_schema(), binary=BINARY)

    @routes.get("/v1/info")
    async def get_info() -> PolicyInfo:
        """What the policy expects and gives."""
        return service.info

    @routes.post("/v1/act", response_model=ActResponse, responses={**refusals, 200: PACKED}, openapi_extra=act_body)
    async def act(request: Request) -> Response:
        """The next chunk of actions; answered in the format it was asked in."""
        form, allowed = body_type(request, JSON, CONTENT_TYPE), deadline_s(request)
        body = await request.body()
        began, due = time.perf_counter(), service.due(allowed)

        async def work() -> Acted:
            async with service.reading("act", due):
                if form == JSON:
                    observation, seed = await asyncio.to_thread(_read_act, info, body)
                else:
                    observation, seed = await _unpack_act(info, body)
            return await service.act(observation, seed, due)

        acted = await unless_gone(request, work())
        with service.stage("act", "encode"):
            answer = _answer(acted, began)
            if form == CONTENT_TYPE:
                return Response(pack({**answer, "actions": acted.chunk.actions}), 200, relied_on, CONTENT_TYPE)
            shown = ActResponse(**answer, actions=acted.chunk.actions.tolist())
            return Response(shown.model_dump_json(), 200, relied_on, JSON)

    @routes.post("/v1/ask", response_model=AskResponse, responses={**refusals, 200: STREAM}, openapi_extra=ask_body)
    async def ask(request: Request) -> Any:
        """The answer to a question: token by token as server-sent events, or at once."""
        form, allowed = body_type(request, JSON, CONTENT_TYPE), deadline_s(request)
        body = await request.body()
        due = service.due(allowed)

        async def begin() -> tuple[AskOptions, AsyncGenerator[str, None], str]:
            async with service.reading("ask", due):
                images, said = await asyncio.to_thread(_read_ask if form == JSON else _unpack_ask, info, body)
            pieces = service.answer(images, said.question, due)
            # What the policy refuses, it refuses by its first token: before a 200 has gone out.
            return said, pieces, await anext(pieces, "")

        said, pieces, first = await unless_gone(request, begin())
        if said.stream:
            piece, end = (lambda piece: data({"token": piece})), (lambda answer: data({"answer": answer}))
            return EventStream(request, first, pieces, piece, after=end)
        return AskResponse(answer=await whole(request, first, pieces))

    return routes


def _answer(acted: Acted, began: float) -> dict[str, Any]:
    return {
        "stamp": acted.chunk.stamp,
        "latency_ms": 1000 * (time.perf_counter() - began),
        "queue_ms": 1000 * acted.queue_s,
        "model_ms": 1000 * acted.model_s,
        "batch": acted.batch,
    }


def _read_act(info: PolicyInfo, body: bytes) -> tuple[Observation, int | None]:
    request = validated(ActRequest, body)
    return request.observation(info), request.seed


async def _unpack_act(info: PolicyInfo, body: bytes) -> tuple[Observation, int | None]:
    fields, parts = _parts(body, "images", "state")
    said = validated(ActOptions, fields)
    return await observation_from_map(info, parts["images"], parts["state"], said), said.seed


def _read_ask(info: PolicyInfo, body: bytes) -> tuple[dict[str, np.ndarray], AskOptions]:
    request = validated(AskRequest, body)
    return request.camera_images(info), request


def _unpack_ask(info: PolicyInfo, body: bytes) -> tuple[dict[str, np.ndarray], AskOptions]:
    fields, parts = _parts(body, "images")
    said = validated(AskOptions, fields)
    return check_question(info, images_from_map(info, parts["images"]), said.question), said


def _parts(body: bytes, *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A packed map without some of its parts, and those. Raises ObservationError for one that is missing."""
    sent = unpack(body)
    if not isinstance(sent, dict):
        raise ObservationError(f"body: expected a map, got {type(sent).__name__}")
    if missing := [name for name in names if name not in sent]:
        raise ObservationError(f"{missing[0]}: Field required")
    return {key: value for key, value in sent.items() if key not in names}, {name: sent[name] for name in names}
