"""May the robot be commanded? One machine answers, and nothing else does.

                              start                        first chunk and on
           ┌──────┐ ───────────────────────────► ┌─────────┐
           │ IDLE │                              │ RUNNING │  commands follow the policy
           └──────┘ ◄────────┐          ┌──────► └─────────┘
         no command          │          │             │
               ▲             │ reset    │ start       │ halt: asked for, or a fault
               │             │          │             ▼
               │          ┌─────────────────┐  rest  ┌──────────┐
               │          │     STOPPED     │ ◄───── │ STOPPING │  commands brake inside the limits
               │          └─────────────────┘        └──────────┘
               │            commands hold
               │
               │ reset    ┌─────────────────┐  estop
               └───────── │      ESTOP      │ ◄───── from everywhere, at once
                          └─────────────────┘
                            no command, latched

`reset` leads to IDLE, where nothing is commanded: it never moves the robot. Nor does `start` on its own: the first
chunk that was observed after it does. What is not drawn is refused: no reset on the move, no start out of ESTOP. A stop
may be asked for anywhere; where nothing moves it changes nothing.
"""

from __future__ import annotations

import logging
from enum import Enum

log = logging.getLogger(__name__)


class State(Enum):
    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ESTOP = "emergency stop"


class TransitionError(RuntimeError):
    """What was asked for does not lead out of the present state."""


class SafetyMachine:
    """The state, and why the robot was last stopped ("" while nothing was wrong)."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self.reason = ""

    @property
    def commands(self) -> bool:
        """Whether there may be a command at all."""
        return self.state in (State.RUNNING, State.STOPPING, State.STOPPED)

    def start(self) -> None:
        """Follow the policy from now on.

        Raises:
            TransitionError: not IDLE or STOPPED.
        """
        self._leave("start", State.IDLE, State.STOPPED)
        self._enter(State.RUNNING, "")

    def halt(self, reason: str) -> None:
        """Brake to standstill and hold; nothing where nothing runs."""
        if self.state is State.RUNNING:
            self._enter(State.STOPPING, reason)

    def rest(self) -> None:
        """The stop is over."""
        self._leave("rest", State.STOPPING)
        self._enter(State.STOPPED, self.reason)

    def estop(self, reason: str) -> None:
        """No command from now on, until `reset` and `start`; the first reason stays."""
        if self.state is not State.ESTOP:
            self._enter(State.ESTOP, reason)

    def reset(self) -> None:
        """Let go: no command until `start`.

        Raises:
            TransitionError: the robot is, or may be, moving.
        """
        self._leave("reset", State.IDLE, State.STOPPED, State.ESTOP)
        self._enter(State.IDLE, "")

    def _leave(self, wish: str, *states: State) -> None:
        if self.state not in states:
            raise TransitionError(
                f"{wish}: not while {self.state.value}{f' ({self.reason})' if self.reason else ''}; "
                f"only while {' or '.join(state.value for state in states)}"
            )

    def _enter(self, state: State, reason: str) -> None:
        log.log(logging.WARNING if reason else logging.INFO, "%s -> %s %s", self.state.value, state.value, reason)
        self.state, self.reason = state, reason
