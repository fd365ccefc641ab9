"""Who is served next: acts before answers, together where there are several, and nobody starves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pytest

from aegis_policy import ActionChunk, Observation
from aegis_policy.inference.example import example_observation
from aegis_server import engine as engine_module
from aegis_server.engine import Capacity, Engine, OverloadedError
from tests.linear_policy import LinearPolicy

T = TypeVar("T")
SEEN = example_observation(LinearPolicy.info)


class Watched(LinearPolicy):
    """The linear policy, which acts for several at once and writes down what it was asked, in order.

    While `hold` is set it begins a pass and does not end it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.hold, self.holding = threading.Event(), threading.Event()
        self.go = threading.Event()
        self.pace_s = 0.0

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
        self.log.append(f"act {len(observations)}")
        if self.hold.is_set():
            self.holding.set()
            self.go.wait(30)
        time.sleep(self.pace_s)
        return [self.act(each, seed=seed) for each, seed in zip(observations, seeds, strict=True)]

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        for number in range(5):
            self.log.append(f"{question} {number}")
            yield f"{number} "


def run(work: Callable[[Engine, Watched], Awaitable[T]], capacity: Capacity | None = None) -> T:
    """`work` with an engine that lives as long as it does."""

    async def whole() -> T:
        policy = Watched()
        engine = Engine(policy, capacity)
        engine.start()
        try:
            return await work(engine, policy)
        finally:
            policy.go.set()
            await asyncio.to_thread(engine.close)

    return asyncio.run(whole())


async def held(engine: Engine, policy: Watched) -> asyncio.Task[object]:
    """An act that the policy is computing and does not finish before `policy.go`."""
    policy.hold.set()
    task = asyncio.ensure_future(engine.act(SEEN, 0))
    await asyncio.to_thread(policy.holding.wait, 30)
    policy.hold.clear()
    return task


async def answer(engine: Engine, name: str) -> str:
    return "".join([piece async for piece in engine.answer(lambda policy: policy.ask(SEEN.images, name))])


def test_those_who_wait_share_a_pass_and_each_gets_his_own() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        first = await held(engine, policy)
        others = [asyncio.ensure_future(engine.act(SEEN, seed)) for seed in range(1, 7)]
        await asyncio.sleep(0.05)
        policy.go.set()
        acted = await asyncio.gather(first, *others)
        assert policy.log == ["act 1", "act 4", "act 2"]
        for seed, each in enumerate(acted):
            np.testing.assert_array_equal(each.chunk.actions, LinearPolicy().act(SEEN, seed=seed).actions)
        assert [each.batch for each in acted] == [1, 4, 4, 4, 4, 2, 2]

    run(work, Capacity(batch=4))


def test_one_alone_does_not_wait_for_company() -> None:
    async def work(engine: Engine, policy: Watched) -> float:
        await engine.act(SEEN, 0)
        began = time.monotonic()
        await engine.act(SEEN, 0)
        return time.monotonic() - began

    assert run(work, Capacity(batch_wait_s=30.0)) < 10.0


def test_those_in_step_wait_for_one_another_and_no_longer_than_stated() -> None:
    async def work(engine: Engine, policy: Watched) -> float:
        first = await held(engine, policy)
        second = asyncio.ensure_future(engine.act(SEEN, 1))
        await asyncio.sleep(0.05)
        policy.go.set()
        await first
        assert (await engine.act(SEEN, 2)).batch == 2  # back at once, and the second has waited
        await second
        began = time.monotonic()
        assert (await engine.act(SEEN, 3)).batch == 1
        waited = time.monotonic() - began
        began = time.monotonic()
        await engine.act(SEEN, 4)  # its companion is gone for good
        assert time.monotonic() - began < 1.9
        return waited

    assert 1.9 < run(work, Capacity(batch_wait_s=2.0)) < 20.0


def test_acts_go_before_answers() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        first = await held(engine, policy)
        asked = asyncio.ensure_future(answer(engine, "a"))
        await asyncio.sleep(0.05)
        later = asyncio.ensure_future(engine.act(SEEN, 1))
        await asyncio.sleep(0.05)
        policy.go.set()
        await asyncio.gather(first, later)
        assert await asked == "0 1 2 3 4 "
        assert policy.log[:2] == ["act 1", "act 1"]

    run(work)


def test_answers_take_turns() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        assert await asyncio.gather(answer(engine, "a"), answer(engine, "b")) == ["0 1 2 3 4 "] * 2
        assert policy.log[:4] == ["a 0", "b 0", "a 1", "b 1"]

    run(work)


def test_acts_without_end_do_not_starve_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PATIENCE_S", 0.05)

    async def work(engine: Engine, policy: Watched) -> None:
        done, policy.pace_s = asyncio.Event(), 0.02

        async def act_on() -> None:
            while not done.is_set():
                await engine.act(SEEN, 0)

        robots = [asyncio.ensure_future(act_on()) for _ in range(6)]
        try:
            async with asyncio.timeout(30):
                assert await answer(engine, "a") == "0 1 2 3 4 "
        finally:
            done.set()
            await asyncio.gather(*robots)
        tokens = [index for index, entry in enumerate(policy.log) if entry.startswith("a ")]
        assert all(later - earlier > 1 for earlier, later in pairwise(tokens))

    run(work, Capacity(batch=2))


def test_who_gives_up_before_his_turn_is_never_computed() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        first = await held(engine, policy)
        gone = asyncio.ensure_future(engine.act(SEEN, 1))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        policy.go.set()
        await first
        await engine.act(SEEN, 2)
        assert policy.log == ["act 1", "act 1"]

    run(work)


def test_what_is_beyond_the_queue_is_refused_at_once() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        first = await held(engine, policy)
        waiting = [asyncio.ensure_future(engine.act(SEEN, seed)) for seed in (1, 2)]
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError, match="2 observations are waiting"):
            await engine.act(SEEN, 3)
        answers = [engine.answer(lambda policy: policy.ask(SEEN.images, "a")) for _ in range(2)]
        begun = asyncio.ensure_future(anext(answers[0]))
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError, match="1 answers are being given"):
            await anext(answers[1])
        policy.go.set()
        await asyncio.gather(first, *waiting, begun)
        await answers[0].aclose()
        assert await answer(engine, "b") == "0 1 2 3 4 "  # its place is free again

    run(work, Capacity(acts=2, answers=1))


def test_an_act_that_fails_fails_no_other() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        first = await held(engine, policy)
        bad = Observation(SEEN.images, SEEN.state, "break")
        wild = Observation(SEEN.images, SEEN.state, "diverge")
        acts = [asyncio.ensure_future(engine.act(seen, 1)) for seen in (SEEN, bad, SEEN, wild)]
        await asyncio.sleep(0.05)
        policy.go.set()
        found = await asyncio.gather(first, *acts, return_exceptions=True)
        assert [type(each).__name__ for each in found] == ["Acted", "Acted", "RuntimeError", "Acted", "RuntimeError"]
        assert "expected (4, 3)" in str(found[4])

    run(work)


def test_another_policy_takes_over_and_what_has_begun_is_finished_by_the_first() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        pieces = engine.answer(lambda policy: policy.ask(SEEN.images, "a"))
        await anext(pieces)
        second = Watched()
        engine.policy = second
        assert "".join([piece async for piece in pieces]) == "1 2 3 4 "
        assert await answer(engine, "b") == "0 1 2 3 4 "
        await engine.act(SEEN, 0)
        assert policy.log == [f"a {number}" for number in range(5)]
        assert second.log == [*(f"b {number}" for number in range(5)), "act 1"]

    run(work)


def test_closing_waits_for_what_has_begun_and_drops_the_rest() -> None:
    async def work(engine: Engine, policy: Watched) -> None:
        first = await held(engine, policy)
        waiting = asyncio.ensure_future(engine.act(SEEN, 1))
        await asyncio.sleep(0.05)
        closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
        await asyncio.sleep(0.1)
        assert not closing.done()
        policy.go.set()
        await closing
        await first
        with suppress(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        assert policy.log == ["act 1"]
        with pytest.raises(RuntimeError, match="closed"):
            await engine.act(SEEN, 2)

    run(work)
