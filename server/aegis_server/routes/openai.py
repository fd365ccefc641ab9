"""Questions by OpenAI's chat completions: whatever speaks it can ask the robot what it sees.

A model of this kind reads images and one question, no conversation: the question is the text of the last message of the
user's, the images are those of the last message that has some, in the order of the policy's cameras. It answers with
the most likely words, so what asks for chance (temperature, top_p, seed) is taken and changes nothing; what asks for
something else altogether (tools, several answers, JSON) is refused.
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from aegis_policy import ObservationError, PolicyInfo
from aegis_policy.inference.images import load_image
from aegis_server.routes.http import JSON, EventStream, body_type, contents, data, deadline_s, unless_gone, whole
from aegis_server.schemas import EXAMPLE_QUESTION, Text, ask_example, check_question, validated
from aegis_server.service import Service

PREFIX = "/v1/chat/"
MODELS = "/v1/models"
TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TextPart(_Part):
    """Words."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Part):
    """An image as a data URI."""

    url: str = Field(description="'data:image/png;base64,...'; remote addresses are refused")


class ImagePart(_Part):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Part):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content or []


class ChatRequest(BaseModel):
    """What of OpenAI's request counts here; the rest is ignored, as other servers do."""

    model_config = ConfigDict(extra="ignore")

    model: Text
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    def question(self) -> str:
        """Raises ObservationError if the user has said nothing."""
        for message in reversed(self.messages):
            texts = [part.text for part in message.parts if isinstance(part, TextPart)]
            if message.role == "user" and texts:
                return " ".join(texts)
        raise ObservationError("messages: no text from the user; ask something")

    def images(self, info: PolicyInfo) -> dict[str, np.ndarray]:
        """Camera name to pixels. Raises ObservationError unless there is one at least, and no more than cameras."""
        found: list[str] = []
        for message in reversed(self.messages):
            if found := [part.image_url.url for part in message.parts if isinstance(part, ImagePart)]:
                break
        if not found:
            raise ObservationError("messages: no image; add a part of type 'image_url' with a data URI")
        if len(found) > len(info.cameras):
            names = ", ".join(camera.name for camera in info.cameras)
            raise ObservationError(f"messages: {len(found)} images, but this policy has {len(info.cameras)}: {names}")
        pictures = [_bytes(url) for url in found]
        try:
            pairs = zip(info.cameras, pictures, strict=False)
            return {camera.name: load_image(camera, picture) for camera, picture in pairs}
        except (OSError, SyntaxError) as error:  # Pillow's PNG reader raises the latter
            raise ObservationError(f"image_url: not a readable image ({type(error).__name__})") from None


def router(service: Service) -> APIRouter:
    """POST /v1/chat/completions, GET /v1/models, GET /v1/models/{model}."""
    routes = APIRouter(tags=["OpenAI"])
    info = service.info
    body_of_chat = contents(_example(info), ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}"))

    @routes.post("/v1/chat/completions", openapi_extra=body_of_chat)
    async def chat(request: Request) -> Response:
        """An answer about an image, at once or streamed, in OpenAI's format."""
        body_type(request, JSON)
        asked = validated(ChatRequest, await request.body())
        _check_model(service.info, asked.model)
        question = asked.question()
        with service.stage("ask", "decode"):
            images = await asyncio.to_thread(asked.images, info)
        check_question(info, images, question)
        answer = Completion(service.info.model, asked.max_completion_tokens or asked.max_tokens)
        pieces = answer.limited(service.answer(images, question, deadline_s(request)))
        first = await unless_gone(request, anext(pieces, ""))
        if asked.stream:
            return EventStream(first, pieces, answer.chunk, before=answer.role(), after=answer.end)
        return JSONResponse(answer.whole(await whole(request, first, pieces)))

    @routes.get(MODELS)
    async def models() -> dict[str, Any]:
        """The one model there is."""
        return {"object": "list", "data": [_model(service.info)]}

    @routes.get(MODELS + "/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """That model."""
        _check_model(service.info, model)
        return _model(service.info)

    return routes


class Completion:
    """One answer in OpenAI's shapes."""

    def __init__(self, model: str, most: int | None) -> None:
        """Of `model`, and of `most` pieces if that is a number."""
        self._most, self._reason = most, "stop"
        self._named = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    async def limited(self, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Its pieces, up to the limit."""
        count = 0
        async with aclosing(pieces):
            async for piece in pieces:
                if count == self._most:
                    self._reason = "length"
                    return
                yield piece
                count += 1

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


def owns(path: str) -> bool:
    """Whether a route is one of these, whose errors have OpenAI's form."""
    return path.startswith((PREFIX, MODELS))


def error_body(text: str, status: int) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def _check_model(info: PolicyInfo, name: str) -> None:
    if name != info.model:
        raise HTTPException(404, f"model '{name}' is not here; this server has '{info.model}'")


def _model(info: PolicyInfo) -> dict[str, Any]:
    return {"id": info.model, "object": "model", "created": 0, "owned_by": "aegis-policy"}


def _bytes(url: str) -> bytes:
    """What a data URI holds."""
    head, comma, encoded = url.partition(",")
    if not head.startswith("data:"):
        raise ObservationError(
            "image_url: expected 'data:image/png;base64,...'; this server fetches nothing from remote addresses"
        )
    if not comma or not head.endswith(";base64"):
        raise ObservationError("image_url: expected base64, as 'data:image/png;base64,...'")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ObservationError(f"image_url: not base64 ({error})") from None


def _example(info: PolicyInfo) -> dict[str, Any]:
    url = f"data:image/png;base64,{next(iter(ask_example(info)['images'].values()))}"
    parts: Sequence[dict[str, Any]] = (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": EXAMPLE_QUESTION},
    )
    return {"model": info.model, "messages": [{"role": "user", "content": list(parts)}]}
