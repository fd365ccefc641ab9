"""Tests of the ROS 2 nodes: real processes over real DDS, in a domain that nobody else on this machine uses.

Imports wait inside: without ROS 2 the tests of this folder are skipped, and say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ros.robot import Robot, Watcher


@pytest.fixture(scope="session", autouse=True)
def ros() -> Iterator[None]:
    from tests.ros.robot import own_domain

    with own_domain():
        yield


@pytest.fixture(scope="module")
def robot() -> Iterator[Robot]:
    from tests.ros.robot import Robot

    with Robot("-p", "seed:=1") as running:
        yield running


@pytest.fixture(scope="module")
def watcher(robot: Robot) -> Iterator[Watcher]:
    from tests.ros.robot import Watcher

    watching = Watcher()
    watching.wait_for(lambda: watching.images["front"] and watching.images["wrist"], "the first images")
    yield watching
    watching.destroy_node()
