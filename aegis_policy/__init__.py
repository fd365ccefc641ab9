"""AEGIS policy: teach a vision-language model to move a robot without making it forget what it knows."""

from aegis_policy.policy import ActionChunk, Camera, Feature, Observation, ObservationError, Policy, PolicyInfo

__all__ = ["ActionChunk", "Camera", "Feature", "Observation", "ObservationError", "Policy", "PolicyInfo"]
__version__ = "0.1.0"
