"""What every robot needs between a chunk and its joints, free of ROS and of any clock: see docs/control.md."""

from aegis_policy.control.checks import Rejection
from aegis_policy.control.controller import Command, Controller
from aegis_policy.control.limiter import TOLERANCE
from aegis_policy.control.limits import AxisLimits, GripperLimits, Limits, read_limits
from aegis_policy.control.real_time import RealTime
from aegis_policy.control.safety import State, TransitionError
from aegis_policy.control.scheduler import Asynchronous, Scheduler, Synchronous, TemporalEnsemble
from aegis_policy.control.space import ActionSpace
from aegis_policy.control.watchdog import Timeouts

__all__ = [
    "TOLERANCE",
    "ActionSpace",
    "Asynchronous",
    "AxisLimits",
    "Command",
    "Controller",
    "GripperLimits",
    "Limits",
    "RealTime",
    "Rejection",
    "Scheduler",
    "State",
    "Synchronous",
    "TemporalEnsemble",
    "Timeouts",
    "TransitionError",
    "read_limits",
]
