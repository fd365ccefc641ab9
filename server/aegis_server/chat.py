"""What of OpenAI's chat completions is read and written here, as pydantic models."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from aegis_policy import ObservationError, PolicyInfo
from aegis_policy.inference.images import load_image
from aegis_server.schemas import MAX_TEXT, Text


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


Stop = Annotated[str, Field(max_length=MAX_TEXT)]
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


class TextFormat(_Part):
    """What an answer is: words, and nothing that a schema could promise."""

    type: Literal["text"]


class ChatRequest(BaseModel):
    """What of OpenAI's request counts here; the rest is ignored, as other servers do."""

    model_config = ConfigDict(extra="ignore")

    model: Text
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    stop: Stop | Annotated[list[Annotated[Stop, Field(min_length=1)]], Field(max_length=4)] | None = Field(
        None, description="The answer ends before the first of these"
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Before what an answer ends."""
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop or ()))

    def question(self) -> str:
        """Raises ObservationError if the user has said nothing, or too much."""
        for message in reversed(self.messages):
            texts = [part.text for part in message.parts if isinstance(part, TextPart)]
            if message.role == "user" and texts:
                question = " ".join(texts)
                if len(question) > MAX_TEXT:
                    raise ObservationError(f"messages: the last text has more than {MAX_TEXT} characters")
                return question
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
        except ObservationError:
            raise
        except Exception as error:  # as in decode_file: a hostile file can make a decoder raise anything
            raise ObservationError(f"image_url: not a readable image ({type(error).__name__})") from None


async def before(stops: Sequence[str], pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The pieces, up to the first of `stops`, none of which is empty; what may become one is held back."""
    held = ""
    async with aclosing(pieces):
        async for piece in pieces:
            held += piece
            if found := [held.index(stop) for stop in stops if stop in held]:
                held = held[: min(found)]
                break
            begun = (stop[:length] for stop in stops for length in range(1, len(stop)))
            clear = len(held) - max((len(part) for part in begun if held.endswith(part)), default=0)
            said, held = held[:clear], held[clear:]
            if said:
                yield said
    if held:
        yield held


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


class Answer(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str


class Choice(BaseModel):
    """The one answer there is."""

    index: Literal[0]
    message: Answer
    finish_reason: Literal["stop", "length"]
    logprobs: None


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since 1970")
    model: str
    choices: list[Choice]


class Model(BaseModel):
    """The policy, as OpenAI lists models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "aegis-policy"


class ModelList(BaseModel):
    """All models there are, which is one."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(BaseModel):
    """Why a request was refused, or failed."""

    message: str
    type: str
    param: None
    code: None


class ErrorResponse(BaseModel):
    """The form of all of OpenAI's errors."""

    error: ErrorBody
