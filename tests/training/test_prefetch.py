"""Batches made ahead come in order, bring their errors along, and leave no thread behind."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from aegis_policy.training.prefetch import prefetched


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_one_is_made_while_the_one_before_is_in_use():
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step

    taken = []
    for step in prefetched(make, range(3, 9)):
        deadline = time.monotonic() + 10
        while len(made) < min(len(taken) + 2, 6):  # nobody has asked for the next yet
            assert time.monotonic() < deadline
            time.sleep(0.001)
        taken.append(step)
        assert made == list(range(3, min(step + 2, 9)))  # and never two ahead
    assert taken == list(range(3, 9)) and not threads()


def test_nothing_to_make_makes_nothing():
    assert list(prefetched(lambda step: step, range(0))) == [] and not threads()


def test_an_error_comes_at_its_step_with_its_message():
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("video 7: no frame 3")
        return step

    taken = []
    with pytest.raises(ValueError, match="video 7: no frame 3"):
        for step in prefetched(make, range(5)):
            taken.append(step)
    assert taken == [0, 1] and not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whoever_stops_early_leaves_no_thread(error):
    finished = threading.Event()

    def make(step: int) -> int:
        if step == 1:
            time.sleep(0.2)
            finished.set()
        return step

    with pytest.raises(error), closing(prefetched(make, range(100))) as batches:
        next(batches)
        raise error
    assert finished.is_set() and not threads()
