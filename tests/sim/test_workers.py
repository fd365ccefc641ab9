"""Work comes back whole and in order from real processes, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_sim.cluster import gpu_share, spread_on_ray
from aegis_sim.workers import MAX_DEATHS, in_order, spread
from tests.sim.tools import Leaving, Squarer, Waiting, refuse


@given(st.permutations(range(9)))
def test_results_come_in_the_order_of_the_items(order):
    closed = []

    def results():
        try:
            yield from ((index, index * index) for index in order)
        finally:
            closed.append(True)

    assert list(in_order(results())) == [index * index for index in range(9)]
    assert closed


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same(workers):
    results = list(spread(Squarer, range(8), workers))
    assert [square for square, _ in results] == [item * item for item in range(8)]
    pids = {pid for _, pid in results}
    assert len(pids) <= workers and (os.getpid() in pids) == (workers == 1)
    assert not active_children()


def test_a_worker_killed_from_outside_is_replaced_and_its_item_worked_on_again(tmp_path: Path):
    victims: list[int] = []

    def kill() -> None:
        path = tmp_path / "1"
        while not path.exists():
            time.sleep(0.01)
        victims.append(int(path.read_text()))
        os.kill(victims[0], signal.SIGKILL)
        while int(path.read_text()) == victims[0]:  # until another process is at it
            time.sleep(0.01)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    results = list(spread(partial(Waiting, tmp_path), range(5), 2))
    killer.join()
    assert [square for square, _ in results] == [0, 1, 4, 9, 16]
    assert results[1][1] != victims[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_tool_raises_is_raised_here(workers):
    with pytest.raises(ValueError, match="13 is unlucky"):
        list(spread(Squarer, [1, 13, 2], workers))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        list(spread(refuse, [1, 2], workers))
    assert not active_children()


def test_work_that_kills_every_worker_is_given_up():
    with pytest.raises(RuntimeError, match=f"{MAX_DEATHS} workers died over the same work, 2: exit code 7"):
        list(spread(Leaving, [1, 2, 3], 2))
    assert not active_children()


def test_whoever_has_enough_ends_the_workers(tmp_path: Path):
    (tmp_path / "go").touch()
    results = spread(partial(Waiting, tmp_path), range(10), 2)
    assert next(results)[0] == 0
    assert len(active_children()) == 2
    results.close()
    assert not active_children()


def test_no_worker_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        spread(Squarer, [1], 0)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "aegis-policy\[ray\]"'):
        list(spread_on_ray("auto", Squarer, [1], 1))


@given(st.integers(1, 40), st.integers(1, 8))
def test_on_a_cluster_all_workers_fit_on_the_gpus(workers, gpus):
    assert 0 < gpu_share(workers, gpus) <= 1
    assert workers <= gpus * int(1 / gpu_share(workers, gpus) + 1e-9)
    assert gpu_share(workers, 0) == 0
