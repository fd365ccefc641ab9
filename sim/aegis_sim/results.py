"""What an evaluation found: episodes, the rates they amount to, and the JSON file that keeps both."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from aegis_policy import PolicyInfo
from aegis_sim.files import write_atomically
from aegis_sim.quiz import Asked, by_family
from aegis_sim.statistics import Rate, Spread, quantiles, rate_of, rate_of_groups, spread_of

PACKAGES = ("aegis-policy", "gymnasium", "mujoco", "numpy", "robosuite")
UNREPEATABLE = ("command", "latency_ms")
"""Keys of the JSON file that may differ when the same is evaluated again."""


@dataclass(frozen=True)
class Trace:
    """An episode of T control steps at every instant.

    Attributes:
        images: camera -> T + 1 PNGs.
        states: float32 [T + 1, S], in the order and units of `PolicyInfo.state`.
        actions: float32 [T, A], of `PolicyInfo.actions`; each is carried out from the instant of its index on.
    """

    images: dict[str, tuple[bytes, ...]]
    states: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class Rollout:
    """What was to be done in one episode and what came of it.

    Attributes:
        right_object: whether the first object lifted (where none was: the one gone for) is the named one;
            None for tasks of one object.
        lifted: index of the first object lifted, None where none was.
        failure: None on success, else what went wrong, in words.
        jerk: root mean square over the episode, m/s^3, see `statistics.rms_jerk`; None for one too short to have any.
        video: an animated WebP, None where the episode was not filmed.
        trace: None where the episode was not traced.
    """

    instruction: str
    success: bool
    right_object: bool | None
    lifted: int | None
    steps: int
    failure: str | None
    jerk: float | None = None
    video: bytes | None = field(default=None, repr=False)
    trace: Trace | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Episode:
    """One seed of an evaluation: the rollout (None for a scene that is only asked about) and the questions on it."""

    seed: int
    asked: tuple[Asked, ...]
    rollout: Rollout | None = None

    def to_dict(self) -> dict[str, Any]:
        """A plain mapping, without the video and the trace."""
        kept = {} if self.rollout is None else vars(self.rollout)
        rollout = {key: value for key, value in kept.items() if key not in ("video", "trace")}
        return {"seed": self.seed, **rollout, "asked": [one.to_dict() for one in self.asked]}

    def without_trace(self) -> Episode:
        """The same without what takes megabytes."""
        return self if self.rollout is None else replace(self, rollout=replace(self.rollout, trace=None))


@dataclass(frozen=True)
class Latency:
    """How long calls took, s: of `act` (one for a whole batch) and of `ask` (until the answer's last word)."""

    act_s: tuple[float, ...] = ()
    ask_s: tuple[float, ...] = ()

    def __add__(self, other: Latency) -> Latency:
        return Latency(self.act_s + other.act_s, self.ask_s + other.ask_s)

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """In ms: the median and the 95th percentile of each kind of call."""
        found = {}
        for name, calls in (("act", self.act_s), ("ask", self.ask_s)):
            p50, p95 = quantiles((1000 * seconds for seconds in calls), (0.5, 0.95))
            found[name] = {"n": len(calls), "p50": p50, "p95": p95}
        return found


@dataclass(frozen=True)
class Evaluation:
    """All episodes of one evaluation, and the rates they amount to.

    Questions of an episode are about one scene and hang together, which the interval of `vqa` allows for; those of
    families treat them as independent. `success` and `right_object` have one trial an episode.
    """

    task: str
    seed: int
    policy: PolicyInfo
    episodes: tuple[Episode, ...]
    settings: Mapping[str, Any]
    baselines: Mapping[str, Rate] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency, compare=False)

    @property
    def asked(self) -> list[Asked]:
        return [one for episode in self.episodes for one in episode.asked]

    @property
    def rollouts(self) -> list[Rollout]:
        return [episode.rollout for episode in self.episodes if episode.rollout is not None]

    @property
    def rates(self) -> dict[str, Rate]:
        """`success` and `right_object` (where there is a robot to move and a choice), and `vqa`."""
        chosen = [rollout.right_object for rollout in self.rollouts if rollout.right_object is not None]
        rates = {}
        if self.rollouts:
            rates["success"] = rate_of(rollout.success for rollout in self.rollouts)
        if chosen:
            rates["right_object"] = rate_of(chosen)
        return rates | {"vqa": rate_of_groups([[one.right for one in episode.asked] for episode in self.episodes])}

    @property
    def spreads(self) -> dict[str, Spread]:
        """Where there is a robot to move: `time_to_success` of the episodes that succeed, s, and `jerk`, m/s^3."""
        if not self.rollouts:
            return {}
        times = [rollout.steps / self.policy.control_hz for rollout in self.rollouts if rollout.success]
        jerks = [rollout.jerk for rollout in self.rollouts if rollout.jerk is not None]
        return {"time_to_success": spread_of(times), "jerk": spread_of(jerks)}

    def to_dict(self, command: str = "") -> dict[str, Any]:
        """What goes into the JSON file, see docs/evaluation.md and assets/evaluation.schema.json.

        The same evaluation gives the same, but for UNREPEATABLE. `command` is what was typed.
        """
        return {
            **{name: rate.to_dict() for name, rate in self.rates.items()},
            **{name: spread.to_dict() for name, spread in self.spreads.items()},
            "vqa_families": {family: rate.to_dict() for family, rate in by_family(self.asked).items()},
            "baselines": {name: rate.to_dict() for name, rate in self.baselines.items()},
            "task": self.task,
            "episodes": len(self.episodes),
            "seed": self.seed,
            "settings": dict(self.settings),
            "command": command,
            "latency_ms": self.latency.to_dict(),
            "policy": self.policy.to_dict(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "per_episode": [episode.to_dict() for episode in self.episodes],
        }

    def save(self, path: Path, command: str = "") -> None:
        """Write the JSON file and one film for each episode that has one.

        The films go into a folder beside it, `NAME_films/DIGEST`, named by what is in them: evaluating again replaces
        the JSON file but never a film that an earlier one, kept elsewhere, or a report still points to. An episode's
        "video" is then its film's path relative to the JSON file.
        """
        data = self.to_dict(command)
        films = {
            index: episode.rollout.video
            for index, episode in enumerate(self.episodes)
            if episode.rollout is not None and episode.rollout.video is not None
        }
        digest = hashlib.sha256(b"".join(films.values())).hexdigest()[:12]
        for index, film in films.items():
            name = f"{path.stem}_films/{digest}/{index:04d}-seed-{self.episodes[index].seed}.webp"
            write_atomically(path.parent / name, film)
            data["per_episode"][index]["video"] = name
        write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())
