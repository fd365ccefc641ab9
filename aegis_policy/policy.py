"""The one contract: what a policy is to everything that uses one.

The torch model, the ONNX runtime and a remote client stand behind it; the HTTP server, the ROS 2 node and the
simulation harness stand in front of it. This file knows numpy and nothing heavier, so that whoever is in front never
imports torch through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

CONTRACT = ("cameras", "state", "actions", "horizon", "control_hz", "max_delay")
"""Of a `PolicyInfo`, what whoever acts by it relies on."""
LARGEST = 1e12
"""In SI units no robot measures more, not even the time since 1970. What is beyond would overflow in a model."""


class ObservationError(ValueError):
    """An observation, or a set of images, that a policy cannot take; says which part, and what was expected."""


@dataclass(frozen=True)
class Camera:
    """One RGB camera: its images are uint8 [height, width, 3], the right way up."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class Feature:
    """One dimension of a state or an action: its name and its unit ("m", "rad", "1" for a pure number)."""

    name: str
    unit: str


@dataclass(frozen=True)
class PolicyInfo:
    """What a policy expects and gives.

    Attributes:
        model: name of the checkpoint, for people.
        cameras: the images `act` wants, in the order the model reads them.
        state, actions: names and units of the S state and the A action dimensions.
        horizon: H, the number of actions in a chunk.
        control_hz: how many actions a second the chunk was trained for.
        instructions: instructions it was trained on (a sample when there are many).
        checkpoint: SHA-256 of the model's weights.
        max_delay: the most committed actions that `act` can begin a chunk with, see `Pending`; 0 if it cannot.
    """

    model: str
    cameras: tuple[Camera, ...]
    state: tuple[Feature, ...]
    actions: tuple[Feature, ...]
    horizon: int
    control_hz: float
    instructions: tuple[str, ...]
    checkpoint: str
    max_delay: int = 0

    def contract(self) -> str:
        """A digest of what callers rely on, CONTRACT: another one means other numbers, even of the same shapes."""
        found = self.to_dict() | {"control_hz": float(self.control_hz)}
        parts = {part: found[part] for part in CONTRACT}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PolicyInfo:
        return cls(
            model=data["model"],
            cameras=tuple(Camera(**camera) for camera in data["cameras"]),
            state=tuple(Feature(**feature) for feature in data["state"]),
            actions=tuple(Feature(**feature) for feature in data["actions"]),
            horizon=data["horizon"],
            control_hz=data["control_hz"],
            instructions=tuple(data["instructions"]),
            checkpoint=data["checkpoint"],
            max_delay=data.get("max_delay", 0),  # servers from before there was a choice do not say
        )


@dataclass(frozen=True)
class Pending:
    """What the robot is yet to carry out of its last chunk, which the next is to go on from: real-time chunking.

    An action that displaces does so from where the one before it led, not from where the robot was observed. So a
    chunk's actions mean the same in the next chunk, and are handed on as they are.

    Attributes:
        actions: float32 [1 to H, A], SI units; the first is the one that is due at the observation's stamp.
        delay: d, how many of them are committed: they are carried out whatever the next chunk says, which therefore
            begins with them and takes over with its action d. The others are a wish.
    """

    actions: np.ndarray
    delay: int


@dataclass(frozen=True)
class Observation:
    """What the robot sees and feels at one instant.

    Attributes:
        images: camera name -> uint8 [H, W, 3].
        state: float32 [S], SI units, in the order of `PolicyInfo.state`.
        instruction: what to do, in words.
        stamp: when it was taken, in seconds (of whatever clock the caller keeps).
        pending: what of the last chunk is still to be carried out, for a policy whose `max_delay` is above 0.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str
    stamp: float = 0.0
    pending: Pending | None = None


@dataclass(frozen=True)
class ActionChunk:
    """The next H actions, float32 [H, A], unnormalised, SI units; `stamp` is that of the observation they answer."""

    actions: np.ndarray
    stamp: float


@runtime_checkable
class Policy(Protocol):
    @property
    def info(self) -> PolicyInfo: ...

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        """The next chunk of actions. The same observation and `seed` give the same chunk; None draws a fresh seed.

        Raises:
            ObservationError: a camera is missing or unknown, a shape, a dtype or a number is wrong.
        """
        ...

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        """The answer to a question about one or more camera images, streamed in pieces of text that join to the whole.

        Raises:
            ObservationError: no image, an unknown camera, a wrong shape or dtype.
        """
        ...


@runtime_checkable
class BatchedPolicy(Policy, Protocol):
    """A policy that acts for several robots at once faster than for one after the other, as on a GPU."""

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
        """See `act_many`, the function."""
        ...


def act_many(policy: Policy, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
    """One chunk for each of N observations, as `Policy.act` gives them: in one go where the policy can.

    The same N observations and seeds in the same order give the same chunks. A chunk may differ in its last bits from
    the one that `act` gives for its observation alone: matrix products of another shape add up in another order.

    Raises:
        ObservationError: as `Policy.act`, for any of them.
        ValueError: not as many seeds as observations.
    """
    if len(observations) != len(seeds):
        raise ValueError(f"{len(observations)} observations and {len(seeds)} seeds: expected one seed for each")
    if isinstance(policy, BatchedPolicy) and observations:
        return policy.act_many(observations, seeds)
    return [policy.act(observation, seed=seed) for observation, seed in zip(observations, seeds, strict=True)]


def check_chunk(info: PolicyInfo, chunk: ActionChunk) -> None:
    """Raise RuntimeError rather than send a robot what is no action."""
    expected = (info.horizon, len(info.actions))
    if chunk.actions.shape != expected or not np.isfinite(chunk.actions).all():
        raise RuntimeError(f"the policy gave {chunk.actions.shape} actions, or ones not finite; expected {expected}")


def find_camera(info: PolicyInfo, name: str) -> Camera:
    """The camera of that name. Raises ObservationError if there is none."""
    for camera in info.cameras:
        if camera.name == name:
            return camera
    raise ObservationError(f"unknown camera '{name}': this policy has {sorted(each.name for each in info.cameras)}")


def check_image(camera: Camera, image: np.ndarray) -> None:
    """Raise ObservationError unless `image` is what `camera` promises."""
    expected = (camera.height, camera.width, 3)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != expected:
        got = f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ObservationError(f"camera '{camera.name}': expected uint8{list(expected)}, got {got}")


def check_images(info: PolicyInfo, images: Mapping[str, np.ndarray], *, all_cameras: bool) -> None:
    """Raise ObservationError unless `images` are known cameras of the right form (and, for acting, all of them)."""
    for name, image in images.items():
        check_image(find_camera(info, name), image)
    missing = [camera.name for camera in info.cameras if camera.name not in images]
    if (all_cameras and missing) or not images:
        raise ObservationError(f"missing camera image: {', '.join(missing)}")


def check_text(what: str, text: str, advice: str) -> None:
    """Raise ObservationError for an empty text, or one that is no Unicode, such as bytes of another encoding."""
    if not text.strip():
        raise ObservationError(f"{what}: empty; {advice}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ObservationError(f"{what}: not valid Unicode: {text!a}")


def check_question(info: PolicyInfo, images: Mapping[str, np.ndarray], question: str) -> None:
    """Raise ObservationError unless it can be asked about `images`."""
    check_images(info, images, all_cameras=False)
    check_text("question", question, "ask something, for example 'how many objects are there?'")


def check_observation(info: PolicyInfo, observation: Observation) -> None:
    """Raise ObservationError, saying what is wrong and what was expected, unless `observation` fits `info`."""
    check_images(info, observation.images, all_cameras=True)
    state = np.asarray(observation.state)
    names = [feature.name for feature in info.state]
    if state.shape != (len(names),) or not np.issubdtype(state.dtype, np.floating):
        raise ObservationError(f"state: expected {len(names)} floats {names}, got {state.dtype}{list(state.shape)}")
    if not np.isfinite(state).all():
        bad = [name for name, value in zip(names, state, strict=True) if not np.isfinite(value)]
        raise ObservationError(f"state: not a finite number: {', '.join(bad)}")
    if (far := np.abs(state) > LARGEST).any():
        worst = int(np.argmax(far))
        raise ObservationError(f"state: {names[worst]} is {state[worst]:g}, beyond {LARGEST:g}: what no robot measures")
    check_text("instruction", observation.instruction, "say what to do, for example 'pick up the red cube'")
    if observation.pending is not None:
        _check_pending(info, observation.pending)


def _check_pending(info: PolicyInfo, pending: Pending) -> None:
    if not info.max_delay:
        raise ObservationError("pending: this policy begins every chunk anew (its max_delay is 0); leave it out")
    actions, width = np.asarray(pending.actions), len(info.actions)
    if actions.ndim != 2 or not 1 <= len(actions) <= info.horizon or actions.shape[1] != width:
        raise ObservationError(
            f"pending.actions: expected 1 to {info.horizon} actions of {width} floats, got shape {list(actions.shape)}"
        )
    if not np.issubdtype(actions.dtype, np.floating) or not np.isfinite(actions).all():
        raise ObservationError(f"pending.actions: expected finite floats, got {actions.dtype}, or one is not finite")
    if np.abs(actions).max() > LARGEST:
        raise ObservationError(f"pending.actions: {np.abs(actions).max():g} is beyond {LARGEST:g}")
    if not 0 <= pending.delay <= min(info.max_delay, len(actions)):
        raise ObservationError(
            f"pending.delay is {pending.delay}: expected 0 to {min(info.max_delay, len(actions))}, for "
            f"{len(actions)} pending actions and this policy's max_delay of {info.max_delay}"
        )
