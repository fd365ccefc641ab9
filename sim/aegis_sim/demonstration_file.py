"""A file of demonstrations in robomimic's HDF5 layout, whoever makes them: the scripted expert or a person.

data                attributes total, env_args (JSON), control_hz, state_features, action_features (JSON)
data/demo_N         attributes num_samples, model_file, instruction, seed, success, short, device, on the tabletop
                    primitives (JSON)
  actions           float32 [T, 7], the labels      executed_actions  float32 [T, 7], disturbed
  states            float64 [T, *], MuJoCo's, before each action
  rewards, dones    [T]
  obs/front_image   uint8 [T, S, S, 3]; obs/wrist_image likewise; obs/state float32 [T, 7]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aegis_policy.data.robomimic import GYM
from aegis_sim.env import ACTION_FEATURES, CAMERAS, STATE_FEATURES, ArmEnv
from aegis_sim.table_env import TableEnv
from aegis_sim.tasks import ENVIRONMENTS, TABLE_TASKS

PACKAGES = ("robosuite", "mujoco", "gymnasium", "numpy")


@dataclass(frozen=True)
class Demonstration:
    """One episode, T steps; arrays as in the file."""

    instruction: str
    seed: int
    success: bool
    short: bool
    device: str
    primitives: str | None
    control_hz: float
    model_file: str
    actions: np.ndarray
    executed_actions: np.ndarray
    states: np.ndarray
    observations: dict[str, np.ndarray]


class Take:
    """An attempt as it is made.

    Args:
        env: as the attempt begins.
        seed: that it was reset with.
        device: who acts: "expert", or what a person acts through.
        short: whether it starts on the way.
    """

    def __init__(self, env: ArmEnv, seed: int, device: str, *, short: bool = False) -> None:
        self._env, self._seed, self._device, self._short = env, seed, device, short
        self._observations: list[dict[str, Any]] = []
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._executed: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._actions)

    def note(self, observation: dict[str, Any], action: np.ndarray, executed: np.ndarray) -> None:
        """What is seen now, what is to be learnt and what is about to be carried out (float32 [7] each)."""
        self._observations.append(observation)
        self._states.append(self._env.arm.sim.get_state().flatten())
        self._actions.append(action)
        self._executed.append(executed)

    def demonstration(self, info: Mapping[str, Any]) -> Demonstration:
        """The whole of it; `info` is the last step's."""
        env, seen = self._env, self._observations
        return Demonstration(
            instruction=info["instruction"],
            seed=self._seed,
            success=info["success"],
            short=self._short,
            device=self._device,
            primitives=_primitives(env),
            control_hz=env.control_hz,
            model_file=env.arm.sim.model.get_xml(),
            actions=np.array(self._actions),
            executed_actions=np.array(self._executed),
            states=np.array(self._states),
            observations={
                **{f"{name}_image": np.array([item["images"][name] for item in seen]) for name in CAMERAS},
                "state": np.array([item["state"] for item in seen]),
            },
        )


def _primitives(env: ArmEnv) -> str | None:
    """What stands on the tabletop, JSON; None elsewhere."""
    return json.dumps([asdict(item) for item in env.table.primitives]) if isinstance(env, TableEnv) else None


class DemonstrationFile:
    """Written under another name; `output` appears, or is replaced, when `finish` is called. A context manager.

    Whatever kills the process, what has been added lies under that name until then, and can be read.

    Attributes:
        kept: how many demonstrations it holds.
    """

    def __init__(self, output: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self.kept = 0
        self._output = output
        self._partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
        self._file = h5py.File(self._partial, "w")
        self._data = self._file.create_group("data")

    def __enter__(self) -> DemonstrationFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, demonstration: Demonstration) -> None:
        """Append one; if that fails, the file is as it was before."""
        name = f"demo_{self.kept}"
        try:
            _write(self._data.create_group(name), demonstration)
        except BaseException:
            del self._data[name]
            raise
        self._data.attrs["control_hz"] = demonstration.control_hz
        self.kept += 1
        self._file.flush()

    def describe(self, task: str, split: str, recording: Mapping[str, Any]) -> None:
        """Say what is in it.

        Args:
            task, split: what was demonstrated.
            recording: the settings it was recorded with, for JSON.
        """
        data = self._data
        data.attrs["total"] = sum(demo.attrs["num_samples"] for demo in data.values())
        data.attrs["env_args"] = json.dumps(
            {
                "env_name": ENVIRONMENTS[task],
                "type": GYM,
                "task": task,
                "env_kwargs": {"split": split} if task in TABLE_TASKS else {},
                "versions": {name: version(name) for name in PACKAGES},
                "recording": dict(recording),
            }
        )
        for name, features in (("state_features", STATE_FEATURES), ("action_features", ACTION_FEATURES)):
            data.attrs[name] = json.dumps([[feature.name, feature.unit] for feature in features])

    def finish(self, *, replaces: bool = True) -> None:
        """Give it its name.

        Raises:
            FileExistsError: there is another by that name, and this one does not replace it: it keeps the one it has.
        """
        self._file.close()
        if replaces:
            self._partial.replace(self._output)
            return
        kept, self._partial = self._partial, self._partial.with_suffix(".none")  # which from here on stays
        try:
            try:
                os.link(kept, self._output)
                kept.unlink()
            except FileExistsError:
                raise
            except OSError:  # FAT, for one, has no links
                self._output.touch(exist_ok=False)
                kept.replace(self._output)
        except FileExistsError as error:
            raise FileExistsError(f"{self._output} is there by now; what was recorded is in {kept}") from error
        except OSError as error:
            raise OSError(f"{self._output}: {error.strerror}; what was recorded is in {kept}") from error


def _write(group: h5py.Group, demo: Demonstration) -> None:
    steps = len(demo.actions)
    for name in ("instruction", "seed", "success", "short", "device", "primitives", "model_file"):
        if (value := getattr(demo, name)) is not None:
            group.attrs[name] = value
    group.attrs["num_samples"] = steps
    ended = np.arange(steps) == steps - 1
    arrays = {
        "actions": demo.actions,
        "executed_actions": demo.executed_actions,
        "states": demo.states,
        "rewards": ended.astype(np.float32),
        "dones": ended.astype(np.uint8),
        **{f"obs/{name}": value for name, value in demo.observations.items()},
    }
    for name, value in arrays.items():
        group.create_dataset(name, data=value, compression="gzip", compression_opts=1)
