from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.model.checkpoint import Checkpoint, start_policy
from aegis_policy.policy import PolicyInfo
from aegis_policy.training.device import assume_bfloat16
from tests.training.tiny import write_demonstrations, write_questions, write_vlm


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="package", autouse=True)
def float32() -> Iterator[None]:
    """Equations are checked in float32, on a CPU that multiplies bfloat16 in hardware too."""
    with assume_bfloat16(False):
        yield


@pytest.fixture(scope="session")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demonstrations(tmp_path_factory.mktemp("demonstrations") / "pick.hdf5")


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions") / "colours.hdf5")


@pytest.fixture
def start(vlm: Path, demonstrations: Path) -> Checkpoint:
    """The VLM with a fresh expert for chunks of four actions."""
    dataset = Demonstrations([demonstrations], horizon=4)
    info = PolicyInfo(
        "test", tuple(dataset.cameras), dataset.state_features, dataset.action_features, 4, 10.0, ("pick",), ""
    )
    torch.manual_seed(0)
    return start_policy(vlm, info, dataset.norm_stats())
