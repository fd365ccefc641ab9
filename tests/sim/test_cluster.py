"""On a Ray cluster the numbers are those of one process, also when a worker of the cluster is killed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from aegis_sim.cluster import spread_on_ray
from aegis_sim.evaluate import evaluate
from aegis_sim.workers import MAX_DEATHS
from tests.sim.evaluations import numbers
from tests.sim.policies import Mortal, Wandering
from tests.sim.tools import Leaving, Squarer, refuse

EPISODES, SEED = 2, 3
pytestmark = pytest.mark.slow  # Ray itself takes half a minute to come up
ray = pytest.importorskip("ray")


@pytest.mark.sim
def test_two_workers_on_ray_one_of_them_killed_find_what_one_process_finds(tmp_path: Path) -> None:
    found = evaluate(partial(Mortal, tmp_path), "pick", EPISODES, SEED, workers=2, ray="local")
    assert numbers(found) == numbers(evaluate(Wandering, "pick", EPISODES, SEED))
    processes, places = zip(*map(str.split, (tmp_path / "starts").read_text().splitlines()), strict=True)
    assert len(places) == EPISODES + 1 and len(set(places)) == EPISODES
    assert str(os.getpid()) not in processes
    assert not ray.is_initialized()


def test_results_errors_and_deaths_are_those_of_local_workers() -> None:
    squares = [square for square, _ in spread_on_ray("local", Squarer, range(8), 2)]
    assert squares == [item * item for item in range(8)]
    with pytest.raises(ValueError, match="13 is unlucky"):
        list(spread_on_ray("local", Squarer, [1, 13], 1))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        list(spread_on_ray("local", refuse, [1], 1))
    with pytest.raises(RuntimeError, match=f"{MAX_DEATHS} workers died"):
        list(spread_on_ray("local", Leaving, [2], 1))
    assert not ray.is_initialized()


def test_more_workers_than_the_cluster_has_cpus_would_wait_for_ever() -> None:
    with pytest.raises(ValueError, match="--workers 4096: the cluster at 'local' has"):
        list(spread_on_ray("local", Squarer, [1], 4096))
