"""One arm carries out one instruction after the other: what happens at each tick, and when a chunk is wanted.

No topics, no threads and no clock in here: `tick` is called at the control rate and `think` as often as one likes, each
with the time, from one thread each; everything else from any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from threading import RLock
from typing import Any

import numpy as np

from aegis_policy import ActionChunk, Observation, Policy
from aegis_policy.control import Controller, Rejection, State
from aegis_ros.answers import Turns
from aegis_ros.arm import KinematicsError, Translator
from aegis_ros.inputs import Inputs, Joints
from aegis_ros.outputs import Output

log = logging.getLogger(__name__)


class Reason(IntEnum):
    """Why an instruction ended; the numbers are those of RunInstruction's result."""

    TIME_LIMIT = 0
    CANCELED = 1
    PREEMPTED = 2
    STALE_INPUT = 3
    POLICY_ERROR = 4
    LIMIT = 5
    STOPPED = 6
    FAULT = 7


FAULTS = (Reason.STALE_INPUT, Reason.POLICY_ERROR, Reason.LIMIT, Reason.FAULT)
BROKEN = ("shape", "finite")
"""Checks of a chunk that a policy in order never fails: it is not asked again, as after a leap, but the arm stops."""


@dataclass(frozen=True)
class Ending:
    """Why an instruction ended, in a word and in words, and what had been done, when the arm had come to rest."""

    reason: Reason
    message: str
    steps: int
    duration: float


@dataclass(frozen=True)
class Progress:
    """Actions waiting, actions executed, and the age that the newest chunk's observation had when it arrived, s."""

    queue: int = 0
    steps: int = 0
    latency: float = 0.0


@dataclass(frozen=True)
class Followed:
    """The chunk that the arm follows.

    Attributes:
        number: counts them, from 1.
        chunk: as the arm is to go.
        start: when its first action is due, s.
        latency: s, from its observation until it was there.
        most: how many of its actions are carried out where no other chunk comes.
    """

    number: int
    chunk: ActionChunk
    start: float
    latency: float
    most: int


class Job:
    """An instruction to carry out for `limit` seconds; `ended` is told once, from whatever thread."""

    def __init__(self, instruction: str, limit: float, ended: Callable[[Ending], None]) -> None:
        self.instruction, self.limit = instruction, limit
        self.began = 0.0
        self.ending: tuple[Reason, str] | None = None  # decided, while the arm comes to rest
        self._ended = ended

    def end(self, now: float, steps: int) -> None:
        assert self.ending is not None
        self._ended(Ending(*self.ending, steps, max(now - self.began, 0.0) if self.began else 0.0))


class Driver:
    """See the file's docstring.

    Args:
        translator: between the policy's numbers and the arm's joints.
        controller: decides what is commanded.
        inputs: what the robot sends.
        output: makes the arm's messages of what is commanded.
        policy, turns: acts, when it is its turn.
        send: takes a message to the arm's controller, and the gripper's command, if any, to the hand's.
        latest_tick: s; after a longer pause the arm has begun to stop by itself, and is left to.
        first_chunk: s, the longest to wait for the first chunk of an instruction.
    """

    def __init__(
        self,
        translator: Translator,
        controller: Controller,
        inputs: Inputs,
        output: Output,
        policy: Policy,
        turns: Turns,
        send: Callable[[Any, float | None], None],
        *,
        latest_tick: float,
        first_chunk: float,
    ) -> None:
        self._translator, self._controller = translator, controller
        self._inputs, self._output, self._send = inputs, output, send
        self._policy, self._turns = policy, turns
        self._latest_tick, self._first_chunk = latest_tick, first_chunk
        self._moved = False  # whether anything has been commanded since the arm last was at rest
        self._job: Job | None = None
        self._next: Job | None = None
        self._rejection: Rejection | None = None
        self._first_stamp: float | None = None  # when the first chunk of the job came
        self._latency, self._executed = 0.0, 0.0
        self._unseen = ""  # why there was nothing to observe when it was wanted last
        self._last, self._silent = 0.0, False
        self._trouble = ""
        self._followed: Followed | None = None
        self._accepted = 0  # chunks
        self._lock = RLock()

    # -- from any thread -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._controller.state

    @property
    def at_rest(self) -> bool:
        """Whether nothing is carried out, and the arm is not braking either."""
        with self._lock:
            return self._job is None and self._controller.state is not State.STOPPING

    @property
    def trouble(self) -> str:
        """Why the last instruction was broken off by a fault, or the emergency stop's reason; else ""."""
        with self._lock:
            return self._controller.reason if self._controller.state is State.ESTOP else self._trouble

    @property
    def instruction(self) -> str:
        """What is being carried out; "" if nothing."""
        with self._lock:
            return self._job.instruction if self._job else ""

    @property
    def followed(self) -> Followed | None:
        """The newest chunk of the instruction that is being carried out; None before its first."""
        with self._lock:
            return self._followed if self._job else None

    def progress(self, now: float) -> Progress:
        """Of the instruction that is being carried out, or was last."""
        with self._lock:
            return Progress(self._queue(now), self._steps, self._latency)

    def request(self, job: Job) -> None:
        """Carry this out next; what is being carried out is preempted, and the arm comes to rest in between."""
        with self._lock:
            if self._next is not None:
                self._next.ending = (Reason.PREEMPTED, "another instruction took over before it began")
                self._next.end(0.0, 0)
            self._next = job
            if self._job is not None:
                self.end(self._job, Reason.PREEMPTED, f"another instruction took over: {job.instruction}")

    def end(self, job: Job, reason: Reason, message: str) -> None:
        """Brake, and end this instruction when the arm is at rest; nothing if it ends already."""
        with self._lock:
            if job is self._next:
                self._next = None
                job.ending = (reason, message)
                job.end(0.0, 0)
            elif job is self._job and job.ending is None:
                job.ending = (reason, message)
                self._controller.stop(message)

    def stop(self, reason: Reason, message: str) -> None:
        """Brake, and end whatever is being carried out or waits."""
        with self._lock:
            for job in (self._next, self._job):
                if job is not None:
                    self.end(job, reason, message)
            self._controller.stop(message)

    def estop(self, reason: str) -> None:
        """Command nothing from now on, until `reset`."""
        with self._lock:
            if self._job is not None:
                self._job.ending = (Reason.STOPPED, reason)
            self._controller.estop(reason)
            self._settle(self._last)

    def reset(self) -> None:
        """Out of the emergency stop; nothing moves.

        Raises:
            TransitionError: while the arm moves.
        """
        with self._lock:
            self._controller.reset()
            self._trouble = ""

    # -- the control loop's thread -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """One command, if there may be one. Whatever fails stops the arm; what fails while stopping silences it."""
        with self._lock:
            try:
                self._tick(now)
            except KinematicsError as error:
                self._fail(Reason.FAULT, str(error), now)
            except Exception as error:
                log.exception("control loop: the arm stops")
                self._fail(Reason.FAULT, f"control loop: {type(error).__name__}: {error}", now)

    def _tick(self, now: float) -> None:
        elapsed, self._last = now - self._last, now
        in_time = 0 <= elapsed <= self._latest_tick
        if not in_time and self._controller.state in (State.RUNNING, State.STOPPING):
            self._silent = True  # by now the arm goes its own way to rest; a command would tear it back
        joints = self._inputs.joints()
        if in_time and self._controller.state is State.RUNNING:  # else it is the clock that is wrong
            self._look(now, joints)
        if joints is not None:
            state = self._translator.state(joints.positions, joints.fingers)
            command = self._controller.tick(now, state, joints.stamp)
            if command is not None and not self._silent:
                if not self._moved:
                    self._output.begin(joints.positions)
                    self._moved = True
                dt = min(max(elapsed, 0.0), self._latest_tick)
                braking = self._controller.state is not State.RUNNING
                message = self._output.message(command, joints.positions, dt, braking)
                self._send(message, self._translator.gripper(command.position))
        self._count(now, elapsed)
        self._settle(now)

    def _look(self, now: float, joints: Joints | None) -> None:
        """End what can no longer be carried out."""
        job = self._job
        assert job is not None
        if wrong := self._inputs.wrong(now):
            self.end(job, Reason.STALE_INPUT, wrong)
        elif self._moved and joints is not None and (wrong := self._output.astray(joints.positions)):
            self.end(job, Reason.LIMIT, wrong)
        elif now - job.began >= job.limit:
            self.end(job, Reason.TIME_LIMIT, f"the time is up: {job.limit:g} s")
        elif self._first_stamp is None and now - job.began > self._first_chunk:
            why = self._unseen or (f"the last {self._rejection}" if self._rejection else "")
            reason = Reason.STALE_INPUT if self._unseen else Reason.POLICY_ERROR
            self.end(job, reason, f"no actions within {self._first_chunk:g} s{why and f'; {why}'}")

    def _settle(self, now: float) -> None:
        """End what has come to rest, and begin what waits."""
        state = self._controller.state
        if state is State.ESTOP and self._next is not None:
            self.end(self._next, Reason.STOPPED, self._controller.reason)
        if self._job is not None and state in (State.STOPPED, State.ESTOP, State.IDLE):
            job, self._job = self._job, None
            if job.ending is None:
                job.ending = self._blame(self._controller.reason)
            self._trouble = job.ending[1] if job.ending[0] in FAULTS else ""
            job.end(now, self._steps)
        if self._job is None and state is State.STOPPED:
            self._controller.reset()
            self._moved = False
        if self._job is None and self._controller.state is State.IDLE and self._next is not None:
            self._begin(now)

    def _begin(self, now: float) -> None:
        job, self._next = self._next, None
        assert job is not None
        if wrong := self._inputs.wrong(now):
            job.ending, self._trouble = (Reason.STALE_INPUT, wrong), wrong
            job.end(now, 0)
            return
        self._controller.start(now)
        self._job, job.began = job, now
        self._moved, self._silent, self._trouble = False, False, ""
        self._first_stamp, self._latency, self._executed, self._rejection = None, 0.0, 0.0, None
        self._followed, self._unseen = None, ""

    def _blame(self, fault: str) -> tuple[Reason, str]:
        """What the controller's fault is called."""
        if fault.startswith("state:"):
            return Reason.STALE_INPUT, fault
        if fault.startswith("chunk:"):
            if self._unseen:
                return Reason.STALE_INPUT, f"{fault}; {self._unseen}"
            if self._rejection is None:
                return Reason.POLICY_ERROR, f"{fault}; the policy was too late"
            broken = self._rejection.check in ("jump", "jerk")
            return Reason.LIMIT if broken else Reason.POLICY_ERROR, f"{fault}; the last {self._rejection}"
        return (Reason.LIMIT if fault.startswith("following:") else Reason.FAULT), fault

    def _fail(self, reason: Reason, message: str, now: float) -> None:
        """Stop, without going through what has just failed again."""
        self._silent = True
        if self._job is not None and self._job.ending is None:
            self._job.ending = (reason, message)
        self._controller.estop(message)
        self._settle(now)

    @property
    def _steps(self) -> int:
        """Actions executed; their sum is of many small parts."""
        return int(self._executed + 1e-6)

    def _count(self, now: float, elapsed: float) -> None:
        """Not while the arm stands and waits for the next chunk."""
        if self._controller.state is State.RUNNING and (plan := self._controller.plan) is not None:
            carried = min(now, plan.end) - max(now - elapsed, plan.start)
            self._executed += max(carried, 0.0) / plan.step

    def _follow(self, chunk: ActionChunk) -> None:
        """Remember what has just been accepted, to be shown."""
        if (plan := self._controller.plan) is not None:
            self._accepted += 1
            start, most = plan.start - plan.behind * plan.step, plan.behind + len(plan.actions)
            self._followed = Followed(self._accepted, chunk, start, self._latency, most)

    def _queue(self, now: float) -> int:
        plan = self._controller.plan
        if plan is None or self._controller.state is not State.RUNNING:
            return 0
        return max(0, int(np.ceil((plan.end - now) / plan.step)))

    # -- the inference thread ------------------------------------------------------------------------------------

    def think(self, clock: Callable[[], float]) -> bool:
        """Observe, act and hand in the chunk, if one is wanted; returns whether the policy was asked."""
        with self._lock:
            job = self._job
            if job is None or not self._controller.wants_chunk(clock()):
                return False
        try:
            return self._act(job, clock)
        except Exception as error:  # whatever a policy or a picture raises, the arm must not wait for it
            log.exception("policy: the arm stops")
            self.end(job, Reason.POLICY_ERROR, f"policy: {type(error).__name__}: {error}")
            return True

    def _act(self, job: Job, clock: Callable[[], float]) -> bool:
        view, newest = self._inputs.view(), self._controller.plan
        self._unseen = view if isinstance(view, str) else ""
        if isinstance(view, str) or view.stamp < self._controller.seen_from or (newest and view.stamp <= newest.stamp):
            return False  # not seen yet; if it lasts, the watchdog ends it
        state = self._translator.state(view.joints.positions, view.joints.fingers)
        pending = self._controller.ask(view.stamp)
        if pending is not None:
            actions = self._translator.to_policy(pending.actions).astype(np.float32)
            pending = replace(pending, actions=actions)
        with self._turns.first():
            chunk = self._policy.act(Observation(view.images, state, job.instruction, view.stamp, pending))
        chunk = ActionChunk(self._translator.actions(chunk.actions), view.stamp)
        now = clock()
        with self._lock:
            if self._job is not job or self._controller.state is not State.RUNNING:
                return True  # too late to matter, and not why the arm stops
            self._rejection = self._controller.offer(chunk, now)
            if self._rejection is not None and self._rejection.check in BROKEN:
                self.end(job, Reason.POLICY_ERROR, str(self._rejection))
            elif self._rejection is None:
                self._latency = now - view.stamp
                self._follow(chunk)
                if self._first_stamp is None:
                    self._first_stamp = now
        return True
