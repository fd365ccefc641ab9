"""Real-time chunking: every chunk goes on from the one before it (arXiv 2506.07339, 2512.05964).

    observed at        k           k + d                   k + H
    last chunk   ──────┬───────────┬───────────┐
    told to the policy │ committed │  pending  │
    new chunk          └───────────┴── takes over here ────┘

Actions are numbered through, from the robot's last standstill on, one to a step. With the observation at action k the
policy is told which actions are left and that the first d of them are committed; its chunk takes over with action
k + d, however early it comes. So what is committed is carried out as it was announced, once and in order. A chunk that
comes after action k + d has begun was made for a robot that is somewhere else by now, and is discarded.

Where the committed actions hardly move the robot, the policy is told nothing, and its whole chunk follows them: it will
stand then where it is observed. Told of its own stillness, it would take it for the end of a demonstration, and wait
for ever after a grasp that missed. Nor is it told where none is committed: an older chunk's wishes bind nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil, floor, inf

import numpy as np

from aegis_policy.control.checks import Rejection
from aegis_policy.control.plan import Plan
from aegis_policy.control.scheduler import Asynchronous, Layout
from aegis_policy.data.displacements import is_displacement
from aegis_policy.policy import ActionChunk, Pending, PolicyInfo

WINDOW = 10
"""Chunks whose delays count for the next one's: the longest of them, so that jitter is allowed for and spikes pass."""
MOST_LATE = 5
"""Chunks that may be discarded before one comes in time; then something is wrong that waiting does not cure."""
ROUNDING = 1e-4  # steps; clocks that count from 1970 are no finer
STANDING = {"m": 0.001, "rad": 0.01, "1": 0.1}
"""Displacements per step, and how far a set point changes, up to which a robot stands."""


@dataclass(frozen=True)
class _Asked:
    """The number of the action at which was observed, how many from there on are committed, and how many are told."""

    at: int
    delay: int
    told: int


@dataclass(frozen=True)
class _Sequence:
    """The actions [N, A] that are laid out, the number of the first, and when action 0 would have been due (s).

    Attributes:
        observed, taken_over: numbers of the actions at which the newest chunk was observed for, and took over.
    """

    actions: np.ndarray
    first: int
    origin: float
    observed: int
    taken_over: int

    @property
    def end(self) -> int:
        return self.first + len(self.actions)

    def due(self, number: int, step: float) -> float:
        return self.origin + number * step

    def between(self, begin: int, end: int) -> np.ndarray:
        return self.actions[begin - self.first : end - self.first]


class RealTime(Asynchronous):
    """As asynchronous, for a policy that can begin a chunk with the actions that are carried out meanwhile.

    Those actions are committed that will have begun when the chunk comes, if it takes as long as the longest of the
    last few. The first chunk after a start commits none, as the robot stands, and its time counts for the second alone:
    it may be the policy's very first, which takes longest.

    Nobody starves while a chunk takes less than about half of its own length: see docs/control.md.
    """

    def __init__(self, execute: int) -> None:
        super().__init__(execute)
        self._horizon, self._most, self._step = 0, 0, 0.0
        self._displaced, self._standing = np.zeros(0, bool), np.zeros(0)  # [A]
        self._begin()

    def fit(self, info: PolicyInfo) -> None:
        super().fit(info)
        if not info.max_delay:
            raise ValueError(
                f"real-time chunking: the policy '{info.model}' cannot go on from actions that are carried out "
                f"meanwhile (its max_delay is 0); choose another scheduler, such as the asynchronous one"
            )
        self._horizon, self._most, self._step = info.horizon, info.max_delay, 1 / info.control_hz
        self._displaced = np.array([is_displacement(feature, info.state) for feature in info.actions], bool)
        self._standing = np.array([STANDING.get(feature.unit, 0.0) for feature in info.actions])

    def clear(self) -> None:
        super().clear()
        self._begin()

    def _begin(self) -> None:
        """A new epoch: nothing that was asked for before is followed."""
        self._sequence: _Sequence | None = None
        self._next: _Sequence | None = None
        self._asked: dict[float, _Asked | None] = {}  # by the observation's stamp; None for the first
        self._delays = deque[float](maxlen=WINDOW)  # s, from observation to chunk
        self._first = inf  # s, of the first
        self._late, self.trouble = 0, ""

    def wants_chunk(self, now: float, at_rest: bool) -> bool:
        going = self._sequence
        if going is None:
            return True
        # In time for the answer to be there before the actions are at their end, however many are to be carried out. Of
        # a policy that takes longer than it can be told, no sooner than what it is told of reaches to there.
        takes = ceil(max(self._delays, default=self._first) / self._step - ROUNDING)
        latest = going.end - min(takes, self._most)
        asks = min(going.observed + self.execute, max(latest, going.taken_over))
        return now >= going.due(asks, self._step)

    def ask(self, stamp: float) -> Pending | None:
        going = self._sequence
        if going is None:
            self._asked[stamp] = None
            return None
        at = min(max(round((stamp - going.origin) / self._step), going.first), going.end)
        left = going.between(at, min(going.end, at + self._horizon))  # a whole chunk may follow committed actions
        comes = (stamp + max(self._delays, default=self._first) - going.origin) / self._step  # number of an action
        delay = ceil(min(max(comes - ROUNDING - at, 0), self._most, len(left)))
        delay = max(delay, going.taken_over - at)  # what was once committed stays so
        told = 0 if self._stands(going, at, delay) else delay
        self._asked[stamp] = _Asked(at, delay, told)
        return Pending(np.asarray(left, np.float32), delay) if told else None

    def _stands(self, going: _Sequence, at: int, delay: int) -> bool:
        """Whether the committed actions leave the robot where it is; of set points that is not known."""
        committed = going.between(at, at + delay)
        before = going.between(max(at - 1, going.first), at + delay)
        moved = np.where(self._displaced, committed, np.ptp(before, axis=0) if delay else 0.0)
        return bool(self._displaced.any() and (np.abs(moved) <= self._standing).all())

    def schedule(self, chunk: ActionChunk, now: float) -> Layout | Rejection:
        if chunk.stamp not in self._asked:
            return Rejection("stamp", "it was not asked for since the start, or since another took over")
        asked, going = self._asked.pop(chunk.stamp), self._sequence
        if asked is None or going is None or self.newest is None:
            # The first: the robot has stood since, and time begins now.
            self._first = now - chunk.stamp
            self._next = _Sequence(chunk.actions, 0, now, 0, 0)
            return Layout(chunk.actions, now)
        if len(chunk.actions) <= asked.told:
            return Rejection("shape", f"{len(chunk.actions)} actions, expected more than the {asked.told} committed")
        self._delays.append(now - chunk.stamp)
        # Displacements go on from where those before them lead, and not from where the robot has got to by now: what
        # the limits hold back of them for a moment is made up for, and not lost. And a chunk leads where it says from
        # where it was observed: as far as its beginning differs from what was committed, its first own action makes up
        # for that.
        fresh, over = np.array(chunk.actions[asked.told :], np.float64), asked.at + asked.delay
        differs = chunk.actions[: asked.told] - going.between(asked.at, asked.at + asked.told)
        fresh[0] += np.where(self._displaced, differs.sum(axis=0), 0.0)
        steps = (now - going.origin) / self._step
        if steps - ROUNDING > over:
            if over < going.end:
                return self._discard(ceil(steps) - asked.at, asked.delay)
            # The robot has run out of actions, and stands where the chunk goes on.
            self._next = _Sequence(fresh, over, now - over * self._step, asked.at, over)
            return Layout(fresh, now, self.newest.places[-1], asked.told)
        present = max(min(floor(steps + ROUNDING), over), going.first)
        begin = min(present, asked.at)
        actions = np.concatenate([going.between(begin, over), fresh])
        self._next = _Sequence(actions, begin, going.origin, asked.at, over)
        self._late = 0
        start, ahead = going.due(present, self._step), self._next.between(present, self._next.end)
        return Layout(ahead, start, self.newest.at(start).position, present - over + asked.told)

    def add(self, plan: Plan) -> None:
        super().add(plan)
        self._sequence = self._next
        self._asked.clear()  # whoever was asked besides was told of actions that are carried out no more

    def _discard(self, took: int, delay: int) -> Rejection:
        self._late += 1
        reason = f"it took {took} actions, and {delay} were committed"
        if self._late >= MOST_LATE:
            self.trouble = (
                f"chunk: {self._late} came too late and none in time: the last took {took} actions, {delay} committed"
            )
        return Rejection("late", reason)
