"""Which chunk says where to be: one at a time, always the newest, or all of them averaged.

    Synchronous          observe, infer, carry out, stand; then observe again. Steady, and slow
    Asynchronous         infer while moving; the newest chunk takes over from the action that is due by now
    TemporalEnsemble     as asynchronous, but the target is the weighted mean of all chunks that cover the instant
    RealTime             as asynchronous, but a chunk goes on from the one before it; see `real_time`

A scheduler decides when a chunk's first action is due and what becomes of the chunks before it. It knows nothing of
limits: a seam between two chunks is the limiter's to smooth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import exp, inf
from typing import NamedTuple

import numpy as np

from aegis_policy.control.checks import Rejection
from aegis_policy.control.limiter import Target
from aegis_policy.control.plan import Plan
from aegis_policy.policy import ActionChunk, Pending, PolicyInfo


class Layout(NamedTuple):
    """What to follow.

    Attributes:
        actions: [N, A].
        start: s, when the first is due.
        anchor: coordinates [A] that it goes on from; None for where the robot was commanded to be at that time.
        behind: how many of the chunk's actions were due before that; below zero where others come before its first.
    """

    actions: np.ndarray
    start: float
    anchor: np.ndarray | None = None
    behind: int = 0


class Scheduler(ABC):
    """Chunks in, a target for every instant out.

    Attributes:
        trouble: why there is no point in going on; "" while there is.
        seen_from: s; the next chunk may not answer what was seen before that; inf while none may come.
    """

    trouble = ""
    seen_from = -inf

    def __init__(self, execute: int) -> None:
        """Ask for a new chunk every `execute` >= 1 actions."""
        if execute < 1:
            raise ValueError(f"execute is {execute}: expected at least 1 action of a chunk")
        self.execute = execute
        self._plans: list[Plan] = []  # the newest last

    @property
    def newest(self) -> Plan | None:
        return self._plans[-1] if self._plans else None

    def fit(self, info: PolicyInfo) -> None:
        """Get ready for the chunks of a policy. Raises ValueError if it cannot do what this needs."""
        if self.execute > info.horizon:
            raise ValueError(
                f"execute is {self.execute}: a chunk of the policy '{info.model}' has {info.horizon} actions; "
                "choose at most as many"
            )

    def clear(self) -> None:
        """Forget all chunks."""
        self._plans.clear()

    def ask(self, stamp: float) -> Pending | None:
        """What the policy is to be told with the observation of `stamp` (s) that its next chunk is to answer."""
        return None

    def schedule(self, chunk: ActionChunk, now: float) -> Layout | Rejection:
        """What of `chunk` to follow from when on, or why it cannot be followed.

        It is due when it was observed for; the first chunk of all is due now, as the robot has stood since.
        """
        return Layout(chunk.actions, now if self.newest is None else chunk.stamp)

    def wants_chunk(self, now: float, at_rest: bool) -> bool:
        """Whether it is time to observe for the next chunk."""
        plan = self.newest
        return plan is None or now >= plan.start + self.execute * plan.step

    @abstractmethod
    def add(self, plan: Plan) -> None:
        """Take a plan in."""

    @abstractmethod
    def at(self, instant: float) -> Target | None:
        """Where to be at `instant`; None before the first plan."""


class Asynchronous(Scheduler):
    """The newest chunk, from the action that is due now."""

    def add(self, plan: Plan) -> None:
        self._plans = [plan]

    def at(self, instant: float) -> Target | None:
        return self._plans[-1].at(instant) if self._plans else None


class Synchronous(Asynchronous):
    """The first `execute` actions of a chunk from the moment it is there; then standstill until the next.

    A chunk goes on from where the robot stands, so it has to answer what was seen there: displacements that were meant
    for a place on the way would lead past the goal.
    """

    def clear(self) -> None:
        super().clear()
        self.seen_from = -inf

    def schedule(self, chunk: ActionChunk, now: float) -> Layout | Rejection:
        if self.seen_from == inf:
            return Rejection("stamp", "the robot has not stood still since the last chunk")
        if chunk.stamp < self.seen_from:
            return Rejection("stamp", f"observed {self.seen_from - chunk.stamp:.3g} s before the robot stood still")
        return Layout(chunk.actions[: self.execute], now)

    def wants_chunk(self, now: float, at_rest: bool) -> bool:
        if self.newest is None:
            return True
        stands = now >= self.newest.end and at_rest
        if stands and self.seen_from == inf:
            self.seen_from = now
        return stands

    def add(self, plan: Plan) -> None:
        super().add(plan)
        self.seen_from = inf


class TemporalEnsemble(Scheduler):
    """Weights exp(-decay * i) for the i-th oldest of the chunks that cover the instant, as in ACT (arXiv 2304.13705).

    Grippers follow the newest chunk: the mean of open and closed is neither.
    """

    def __init__(self, execute: int = 1, decay: float = 0.01) -> None:
        super().__init__(execute)
        self._decay = decay

    def add(self, plan: Plan) -> None:
        self._plans.append(plan)

    def at(self, instant: float) -> Target | None:
        self._plans = [*(plan for plan in self._plans[:-1] if plan.end > instant), *self._plans[-1:]]
        if not self._plans:
            return None
        newest = self._plans[-1].at(instant)
        covering = [plan for plan in self._plans if plan.start <= instant < plan.end]
        if not covering:
            return newest
        weights = np.array([exp(-self._decay * i) for i in range(len(covering))])
        mean = np.tensordot(
            weights / weights.sum(), np.array([plan.at(instant) for plan in covering]), axes=1
        )  # [2, A]
        return Target(np.where(self._plans[-1].moving, mean[0], newest.position), mean[1])
