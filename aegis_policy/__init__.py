"""AEGIS policy: teach a vision-language model to move a robot without making it forget what it knows."""

from aegis_policy.policy import (
    ActionChunk,
    BatchedPolicy,
    Camera,
    Feature,
    Observation,
    ObservationError,
    Pending,
    Policy,
    PolicyInfo,
    act_many,
)

__all__ = [
    "ActionChunk",
    "BatchedPolicy",
    "Camera",
    "Feature",
    "Observation",
    "ObservationError",
    "Pending",
    "Policy",
    "PolicyInfo",
    "act_many",
]
__version__ = "0.1.0"
