"""What a console is shown of a ROS robot, in the maps of a server's `/v1/robot`: docs/console.md says what each means.

No topics and no threads in here: whoever hears something puts it in, with the time, s of a clock of this machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from aegis_interfaces.msg import ActionChunk, PolicyStatus

from aegis_policy import PolicyInfo
from aegis_policy.inference.images import encode_png
from aegis_policy.inference.ros_images import ConversionError
from aegis_ros import chunks
from aegis_ros.inputs import Gates, Inputs

SILENT = 1.0  # s: a picture that is older is no news
STATUS_SILENT = 3.0  # s; a policy node says how it stands once a second
WORDS = 500  # characters that a server takes of a text
INSTRUCTIONS = 256  # that it takes of suggestions
GATES = Gates(image_age=SILENT, joint_age=SILENT, skew=SILENT, ahead=SILENT)


class View:
    """One robot.

    Attributes:
        inputs: its cameras and joints.
        status, chunk: the policy node's newest.
        told: what the robot itself says that it is to do; "" if it says nothing.

    Args:
        info: of the policy that the server serves.
        decoders: camera -> what makes uint8 [H, W, 3] of its messages, in the policy's size.
        joints: the arm's.
    """

    def __init__(self, info: PolicyInfo, decoders: Mapping[str, Callable[[Any], Any]], joints: Sequence[str]) -> None:
        self._info, self._joints = info, tuple(joints)
        self._cameras = [camera for camera in info.cameras if camera.name in decoders]
        self.inputs = Inputs({camera.name: decoders[camera.name] for camera in self._cameras}, joints, (), GATES)
        self.status = PolicyStatus(state=PolicyStatus.INACTIVE)
        self._status_at = float("-inf")
        self.chunk: ActionChunk | None = None
        self.told = ""
        self._sent: dict[str, int] = {}  # how many pictures of a camera had come when one was sent last

    def hear(self, status: PolicyStatus, now: float) -> None:
        """How the policy node stands."""
        self.status, self._status_at = status, now
        if status.state != PolicyStatus.RUNNING:
            self.chunk = None

    def there(self, now: float) -> bool:
        """Whether the policy node has been heard lately."""
        return now - self._status_at < STATUS_SILENT

    def running(self, now: float) -> bool:
        """Whether it carries out an instruction, as far as one can know."""
        return self.status.state == PolicyStatus.RUNNING and self.there(now)

    def description(self, name: str) -> dict[str, Any]:
        """What the robot is; its state is there once joint states have come."""
        suggestions = [self.told, *self._info.instructions] if self.told else list(self._info.instructions)
        known = self._joints if self.inputs.joints() else ()
        return {
            "name": name,
            "cameras": [{"name": c.name, "height": c.height, "width": c.width} for c in self._cameras],
            "state": [{"name": joint, "unit": "rad"} for joint in known],
            "actions": [{"name": feature.name, "unit": feature.unit} for feature in self._info.actions],
            "horizon": self._info.horizon,
            "control_hz": float(self._info.control_hz),
            "instructions": [each[:WORDS] for each in dict.fromkeys(suggestions)][:INSTRUCTIONS],
        }

    def report(self, now: float, robots_now: float, stopped: str | None, note: str) -> dict[str, Any]:
        """How it stands.

        Args:
            now: s.
            robots_now: the same, s of the robot's clock.
            stopped: why, where it is.
            note: a few words; what is wrong with what comes in goes before them.
        """
        frames, wrong = self._frames(now)
        if not self.there(now):
            wrong.append("the policy node is silent")
        running = self.running(now)
        return {
            "frames": frames,
            "state": self._state(),
            "running": running,
            "instruction": self.status.instruction[:WORDS] if running else "",
            "stopped": stopped and stopped[:WORDS],
            "chunk": self._chunk(robots_now) if running else None,
            "latency_ms": 1000 * max(self.chunk.latency, 0.0) if self.chunk else None,
            "success": None,
            "note": "; ".join([*wrong, note] if note else wrong)[:WORDS],
        }

    def _frames(self, now: float) -> tuple[dict[str, bytes], list[str]]:
        """Pictures that have not been sent yet, and what is wrong with what comes in, in words that stay the same."""
        *cameras, joints = self.inputs.health(now)
        frames, wrong = dict[str, bytes](), list[str]()
        for camera, health in zip(self._cameras, cameras, strict=True):
            if health.wrong is not None:
                wrong.append(f"{health.name}: no picture of the last second")
            elif health.received != self._sent.get(camera.name):
                self._sent[camera.name] = health.received
                try:
                    images, _ = self.inputs.pictures([camera.name])
                    frames[camera.name] = encode_png(images[camera.name])
                except ConversionError as error:
                    wrong.append(f"{health.name}: {error}")
        if joints.wrong is not None:
            wrong.append("no joint states of the last second")
        return frames, wrong

    def _state(self) -> np.ndarray:
        """Positions of the joints in the description, rad."""
        joints = self.inputs.joints()
        return np.nan_to_num(joints.positions) if joints else np.zeros(0)  # a server takes finite numbers only

    def _chunk(self, robots_now: float) -> dict[str, Any] | None:
        """The chunk that is followed, if it is one of the server's policy."""
        message, expected = self.chunk, self._info
        names = [feature.name for feature in expected.actions]
        if message is None or list(message.names) != names or len(message.actions) != expected.horizon * len(names):
            return None
        executed = chunks.executed(message, robots_now)
        return {"number": message.number, "actions": chunks.actions(message), "executed": executed}
