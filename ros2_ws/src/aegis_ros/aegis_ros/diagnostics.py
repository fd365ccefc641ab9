"""What `/diagnostics` says of the policy node, once a second, as ROS's own tools show it."""

from __future__ import annotations

import time
from typing import Any

from aegis_interfaces.msg import PolicyStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from aegis_ros.conversions import to_seconds
from aegis_ros.loop import Pace
from aegis_ros.parts import Parts

STATES = {
    PolicyStatus.INACTIVE: (DiagnosticStatus.OK, "inactive"),
    PolicyStatus.IDLE: (DiagnosticStatus.OK, "waits for an instruction"),
    PolicyStatus.RUNNING: (DiagnosticStatus.OK, "carries out an instruction"),
    PolicyStatus.HOLDING: (DiagnosticStatus.WARN, "holds"),
    PolicyStatus.STOPPED: (DiagnosticStatus.ERROR, "stopped"),
}


class Diagnostics:
    """Counts what happened between one message and the next.

    Args:
        name: the node's, before the colon of every status.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._received: dict[str, int] = {}
        self._said = time.monotonic()

    def message(self, status: PolicyStatus, parts: Parts | None, pace: Pace | None) -> DiagnosticArray:
        """The policy, each stream that comes in, and the control loop, as far as they are there."""
        elapsed, self._said = time.monotonic() - self._said, time.monotonic()
        found = [self._policy(status, parts)]
        for health in parts.inputs.health(to_seconds(status.stamp)) if parts else ():
            since = health.received - self._received.get(health.name, health.received)
            rate = max(since, 0) / elapsed  # configured anew, it counts from 0 again
            self._received[health.name] = health.received
            level = DiagnosticStatus.ERROR if health.wrong else DiagnosticStatus.OK
            values = {"age, s": f"{health.age:.3f}", "rate, Hz": f"{rate:.1f}", "received": health.received}
            found.append(self._status(health.name, level, health.wrong or "fresh", **values))
        if pace is not None:
            ticks, longest = pace.counted()
            values = {"rate, Hz": f"{ticks / elapsed:.1f}", "longest period, s": f"{longest:.4f}"}
            found.append(self._status("control loop", DiagnosticStatus.OK, "runs", **values))
        message = DiagnosticArray(status=found)
        message.header.stamp = status.stamp
        return message

    def _policy(self, status: PolicyStatus, parts: Parts | None) -> DiagnosticStatus:
        level, words = STATES[status.state]
        if status.state == PolicyStatus.INACTIVE and status.message:  # it could not be configured
            level = DiagnosticStatus.ERROR
        values: dict[str, Any] = {}
        if parts is not None:
            values = {"model": status.model, "checkpoint": status.checkpoint, "instruction": status.instruction}
            values |= {"executed steps": status.executed_steps, "latency, s": f"{status.latency:.3f}"}
        return self._status("policy", level, status.message or words, **values)

    def _status(self, what: str, level: bytes, message: str, **values: Any) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return DiagnosticStatus(level=level, name=f"{self._name}: {what}", message=message, values=pairs)
