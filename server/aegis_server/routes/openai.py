"""Questions by OpenAI's chat completions: whatever speaks it can ask the robot what it sees.

A model of this kind reads images and one question, no conversation: the question is the text of the last message of the
user's, the images are those of the last message that has some, in the order of the policy's cameras. It answers with
the most likely words, so what asks for chance (temperature, top_p, seed) is taken and changes nothing; what asks for
something else altogether (tools, several answers, JSON, probabilities) is refused.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from aegis_policy import PolicyInfo
from aegis_policy.inference.example import EXAMPLE_QUESTION
from aegis_policy.inference.text import Cut
from aegis_server.chat import ChatCompletion, ChatRequest, ErrorResponse, Model, ModelList, before
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
from aegis_server.schemas import ask_example, check_question, validated
from aegis_server.service import Service

STREAM: dict[str, Any] = {
    "description": "The answer; with `stream`, events of OpenAI's chat.completion.chunk and last `[DONE]`",
    "content": {
        "text/event-stream": {"example": 'data: {"choices": [{"delta": {"content": "red"}}]}\n\ndata: [DONE]\n\n'}
    },
}


def router(service: Service) -> APIRouter:
    """POST /v1/chat/completions, GET /v1/models, GET /v1/models/{model}."""
    routes = APIRouter(tags=["OpenAI"], responses=refused_with(ErrorResponse, 401, 403, 500))
    info = service.info
    body = contents(_example(info), ChatRequest.model_json_schema())
    refusals = refused_with(ErrorResponse, 400, 404, 413, 415, 429, 503, 504)

    @routes.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={**refusals, 200: STREAM},
        openapi_extra=body,
    )
    async def chat(request: Request) -> Response:
        """An answer about an image, at once or streamed, in OpenAI's format."""
        body_type(request, JSON)
        allowed = deadline_s(request)
        asked = validated(ChatRequest, await request.body())
        due = service.due(allowed)
        _check_model(service.info, asked.model)
        question = asked.question()
        answer = Completion(service.info.model, asked.max_completion_tokens or asked.max_tokens)

        async def begin() -> tuple[AsyncGenerator[str, None], str]:
            async with service.reading("ask", due):
                images = await asyncio.get_running_loop().run_in_executor(service.pictures, asked.images, info)
            check_question(info, images, question)
            pieces = before(asked.stops, answer.limited(service.answer(images, question, due)))
            return pieces, await anext(pieces, "")

        pieces, first = await unless_gone(request, begin())
        if asked.stream:
            return EventStream(request, first, pieces, answer.chunk, before=answer.role(), after=answer.end)
        return JSONResponse(answer.whole(await whole(request, first, pieces)))

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """The one model there is."""
        return ModelList(data=[Model(id=service.info.model)])

    # "4XX" keeps FastAPI from promising a 422: any name is a name.
    @routes.get(
        "/v1/models/{model:path}", responses={**refused_with(ErrorResponse, 404), "4XX": {"model": ErrorResponse}}
    )
    async def model(model: str) -> Model:
        """That model."""
        _check_model(service.info, model)
        return Model(id=service.info.model)

    return routes


class Completion:
    """One answer in OpenAI's shapes."""

    def __init__(self, model: str, most: int | None) -> None:
        """Of `model`, and of `most` pieces if that is a number."""
        self._most, self._reason = most, "stop"
        self._named = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    async def limited(self, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Its pieces, up to the limit: the request's or, where that is nearer, the policy's own."""
        count = 0
        async with aclosing(pieces):
            async for piece in pieces:
                if count == self._most:
                    self._reason = "length"
                    return
                yield piece
                count += 1
                if isinstance(piece, Cut):  # asked for only after it has been read: a stop in it comes before
                    self._reason = "length"

    def whole(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": self._reason, "logprobs": None}
        return {**self._named, "object": "chat.completion", "choices": [choice]}

    def role(self) -> str:
        return self._event({"role": "assistant", "content": ""})

    def chunk(self, piece: str) -> str:
        return self._event({"content": piece})

    def end(self, answer: str) -> str:
        return self._event({}, self._reason) + "data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return data({**self._named, "object": "chat.completion.chunk", "choices": [choice]})


def _check_model(info: PolicyInfo, name: str) -> None:
    if name != info.model:
        raise HTTPException(404, f"model '{name}' is not here; this server has '{info.model}'")


def _example(info: PolicyInfo) -> dict[str, Any]:
    url = f"data:image/png;base64,{next(iter(ask_example(info)['images'].values()))}"
    parts: Sequence[dict[str, Any]] = (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": EXAMPLE_QUESTION},
    )
    return {"model": info.model, "messages": [{"role": "user", "content": list(parts)}]}
