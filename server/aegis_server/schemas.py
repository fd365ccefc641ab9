"""What travels over HTTP, as pydantic models, and examples of it that fit the policy at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from aegis_policy import Observation, ObservationError, PolicyInfo
from aegis_policy.inference.images import decode_images, encode_image
from aegis_policy.policy import check_images, check_observation


def _is_text(value: str) -> str:
    value.encode()  # JSON can spell half a character ("\\ud800"), which no tokenizer takes; this is a ValueError
    return value


Text = Annotated[str, AfterValidator(_is_text)]
Images = Annotated[
    dict[str, str], Field(description="Camera name to the base64 of an 8-bit RGB PNG or JPEG file of the camera's size")
]


class Request(BaseModel):
    # Strict: a number sent as text, or a misspelt field, is a mistake that the sender wants to hear of.
    model_config = ConfigDict(strict=True, extra="forbid")


class ActRequest(Request):
    """One observation."""

    images: Images
    state: list[FiniteFloat] = Field(description="Proprioception in SI units, in the order of the policy's `state`")
    instruction: Text = Field(description="What to do, in words")
    stamp: FiniteFloat = Field(0.0, description="When the observation was taken, in seconds of the caller's clock")
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same observation and seed give the same actions")

    def observation(self, info: PolicyInfo) -> Observation:
        """The observation sent. Raises ObservationError unless it fits `info`."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused by name below
            state = np.asarray(self.state, dtype=np.float32)
        observation = Observation(decode_images(info, self.images), state, self.instruction, self.stamp)
        check_observation(info, observation)
        return observation


class ActResponse(BaseModel):
    """The next chunk of actions."""

    actions: list[list[float]] = Field(description="[H, A] in SI units, in the order of the policy's `actions`")
    stamp: float = Field(description="The observation's own")
    latency_ms: float = Field(description="From a complete request to its actions, waiting for the policy included")


class AskRequest(Request):
    """A question about one or more camera images."""

    images: Images
    question: Text
    stream: bool = Field(True, description="Send each token when it is there, as server-sent events")

    def camera_images(self, info: PolicyInfo) -> dict[str, np.ndarray]:
        """The images sent. Raises ObservationError unless they fit `info` and something is asked."""
        if not self.question.strip():
            raise ObservationError("question: empty; ask something, for example 'what colour is the cube?'")
        images = decode_images(info, self.images)
        check_images(info, images, all_cameras=False)
        return images


class AskResponse(BaseModel):
    """The whole answer."""

    answer: str


class Health(BaseModel):
    """Whether the server is ready to act."""

    status: str


class Refusal(BaseModel):
    """Why a request was refused, or failed."""

    detail: str


def example_observation(info: PolicyInfo) -> Observation:
    """An observation that fits `info`: grey images, a state of zeros, an instruction it was trained on."""
    images = {camera.name: np.full((camera.height, camera.width, 3), 128, np.uint8) for camera in info.cameras}
    instruction = info.instructions[0] if info.instructions else "pick up the red cube"
    return Observation(images, np.zeros(len(info.state), np.float32), instruction)


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
    return {"images": _encode(example_observation(info).images), "question": "what colour is the cube?", "stream": True}


def _encode(images: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: encode_image(image) for name, image in images.items()}
