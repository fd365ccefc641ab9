"""What travels over HTTP, as pydantic models, and examples of it that fit the policy at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from aegis_policy import Observation, ObservationError, Pending, PolicyInfo, policy
from aegis_policy.inference.example import EXAMPLE_QUESTION, example_observation
from aegis_policy.inference.images import decode_file, decode_images, encode_image
from aegis_policy.policy import check_observation, find_camera

MAX_TEXT = 500
"""Of an instruction or a question, in characters."""
MAX_VALUES = 20_000
"""Of a body in JSON, which has a comma between any two of them, and in base64 has none."""
ModelT = TypeVar("ModelT", bound=BaseModel)


def _is_text(value: str) -> str:
    value.encode()  # JSON can spell half a character ("\\ud800"), which no tokenizer takes; this is a ValueError
    return value


def _listed(value: Any) -> Any:
    """In msgpack, numbers come as arrays; one of a size that no request has is refused as it is."""
    return value.tolist() if isinstance(value, np.ndarray) and value.size <= MAX_VALUES else value


Text = Annotated[str, AfterValidator(_is_text)]
Words = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_is_text)]
Actions = Annotated[list[list[FiniteFloat]], BeforeValidator(_listed)]
Images = Annotated[
    dict[str, str], Field(description="Camera name to the base64 of an 8-bit RGB PNG or JPEG file of the camera's size")
]


class Request(BaseModel):
    # Strict: a number sent as text, or a misspelt field, is a mistake that the sender wants to hear of.
    model_config = ConfigDict(strict=True, extra="forbid")


class PendingActions(Request):
    """What the robot is yet to carry out of its last chunk, which the next is to go on from."""

    actions: Actions = Field(description="[1 to H, A] in SI units, from the one that is due at the stamp on")
    delay: int = Field(ge=0, description="How many of them are carried out in any case, at most `max_delay`")


class ActOptions(Request):
    """What an act request says besides what was seen and felt."""

    instruction: Words = Field(description="What to do, in words")
    stamp: FiniteFloat = Field(0.0, description="When the observation was taken, in seconds of the caller's clock")
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same observation and seed give the same actions")
    pending: PendingActions | None = Field(None, description="For real-time chunking, where `max_delay` is above 0")


class ActRequest(ActOptions):
    """One observation, as JSON."""

    images: Images
    state: list[FiniteFloat] = Field(description="Proprioception in SI units, in the order of the policy's `state`")

    def observation(self, info: PolicyInfo) -> Observation:
        """The observation sent. Raises ObservationError unless it fits `info`."""
        return make_observation(info, decode_images(info, self.images), self.state, self)


class ActResponse(BaseModel):
    """The next chunk of actions. In msgpack, `actions` is an array of float32."""

    actions: list[list[float]] = Field(description="[H, A] in SI units, in the order of the policy's `actions`")
    stamp: float = Field(description="The observation's own")
    latency_ms: float = Field(description="From a complete request to its actions")
    queue_ms: float = Field(description="Of that, how long it waited for the policy")
    model_ms: float = Field(description="Of that, how long the policy computed")
    batch: int = Field(description="How many acts it computed together")


class AskOptions(Request):
    """What an ask request says besides its images."""

    question: Words
    stream: bool = Field(True, description="Send each token when it is there, as server-sent events")


class AskRequest(AskOptions):
    """A question about one or more camera images, as JSON."""

    images: Images

    def camera_images(self, info: PolicyInfo) -> dict[str, np.ndarray]:
        """The images sent. Raises ObservationError unless they fit `info` and something is asked."""
        return check_question(info, decode_images(info, self.images), self.question)


class AskResponse(BaseModel):
    """The whole answer."""

    answer: str


class Health(BaseModel):
    """Whether the server is ready to act."""

    status: str


class Detail(BaseModel):
    """Why a request was refused, or failed."""

    detail: str


def make_observation(info: PolicyInfo, images: Mapping[str, np.ndarray], state: Any, said: ActOptions) -> Observation:
    """An observation from its parts. Raises ObservationError unless it fits `info`."""
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused by name below
            numbers = np.asarray(state)
            numbers = numbers.astype(np.float32) if numbers.dtype.kind in "iuf" else numbers
    except (ValueError, TypeError) as error:
        raise ObservationError(f"state: {error}") from None
    observation = Observation(images, numbers, said.instruction, said.stamp, _pending(said.pending))
    check_observation(info, observation)
    return observation


async def observation_from_map(info: PolicyInfo, images: Any, state: Any, said: ActOptions) -> Observation:
    """An observation from the parts of a map in msgpack. Raises ObservationError unless it fits `info`."""
    if isinstance(images, dict) and any(isinstance(image, bytes) for image in images.values()):
        # A file can be made to take long, which only its sender is to wait for; arrays are there already.
        images = await asyncio.to_thread(images_from_map, info, images)
    else:
        images = images_from_map(info, images)
    return make_observation(info, images, state, said)


def _pending(said: PendingActions | None) -> Pending | None:
    if said is None:
        return None
    try:
        with np.errstate(over="ignore"):  # as with the state
            return Pending(np.array(said.actions, np.float32), said.delay)
    except ValueError:
        raise ObservationError("pending.actions: expected actions of one length") from None


def images_from_map(info: PolicyInfo, sent: Any) -> dict[str, np.ndarray]:
    """Camera name to pixels, uint8 [H, W, 3], or to a PNG or JPEG file, from msgpack."""
    if not isinstance(sent, dict):
        raise ObservationError(f"images: expected a map from camera to image, got {type(sent).__name__}")
    return {
        name: decode_file(find_camera(info, name), image) if isinstance(image, bytes) else image
        for name, image in sent.items()
    }


def check_question(info: PolicyInfo, images: dict[str, np.ndarray], question: str) -> dict[str, np.ndarray]:
    """`images`. Raises ObservationError unless they fit `info` and something is asked."""
    policy.check_question(info, images, question)
    return images


def validated(model: type[ModelT], data: Any) -> ModelT:
    """A model from JSON's bytes or from a map. Raises ObservationError, with where and why in a line."""
    if isinstance(data, bytes) and data.count(b",") > MAX_VALUES:  # each could be an error of its own, of a kilobyte
        raise ObservationError(f"body: more than {MAX_VALUES} values; no request has so many")
    try:
        return model.model_validate_json(data) if isinstance(data, bytes) else model.model_validate(data)
    except ValidationError as error:
        raise ObservationError(reason(error)) from None


def reason(error: ValidationError) -> str:
    """What is wrong with a request's form: "state[2]: Input should be a finite number"."""
    reasons = []
    for problem in error.errors(include_url=False, include_input=False)[:3]:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        message = problem["msg"]
        if problem["type"] == "json_invalid":
            message = f"not JSON: {problem['ctx']['error']}"
        reasons.append(f"{place.removeprefix('.') or 'body'}: {message}")
    return "; ".join(reasons)


def act_example(info: PolicyInfo) -> dict[str, Any]:
    """The body of an act request that the policy accepts."""
    observation = example_observation(info)
    return {
        "images": _encode(observation.images),
        "state": observation.state.tolist(),
        "instruction": observation.instruction,
        "seed": 0,
    }


def ask_example(info: PolicyInfo) -> dict[str, Any]:
    """The body of an ask request that the policy accepts."""
    return {"images": _encode(example_observation(info).images), "question": EXAMPLE_QUESTION, "stream": True}


def _encode(images: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: encode_image(image) for name, image in images.items()}
