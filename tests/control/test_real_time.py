"""Real-time chunking on a virtual clock: whatever latencies, drops and resets come, what is committed is carried out.

Every action carries a name of its own (chunk, index) in two coordinates, so that what is carried out at each step can
be told. The policy names them all anew, the committed ones too: guided, it only comes close to those.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aegis_policy import ActionChunk, Feature, Pending, PolicyInfo
from aegis_policy.control import ActionSpace, Controller, RealTime, Rejection, State
from aegis_policy.control.plan import Plan
from aegis_policy.control.real_time import MOST_LATE, WINDOW
from tests.control.robot import CONTROL_HZ, HOME, INFO, LIMITS, PERIOD, TIMEOUTS, chunk, controller, measured, steady

H, STEP, TICKS, PATIENCE = 8, 0.1, 5, 0.6
FAR = 20_000  # µm
NAMES = PolicyInfo(
    "names", (), (Feature("q1", "rad"), Feature("q2", "rad")), (Feature("q1", "rad"), Feature("q2", "rad")),
    H, 1 / STEP, ("go",), "", max_delay=H - 1,
)  # fmt: skip
SPACE = ActionSpace(NAMES)


@dataclass
class Request:
    """A chunk being computed: what it goes on from, when it comes, and in which epoch it was asked for."""

    number: int
    stamp: float
    pending: Pending | None
    arrives: float
    epoch: int

    @property
    def delay(self) -> int:
        return self.pending.delay if self.pending else 0


@dataclass
class World:
    """A control loop of `TICKS` ticks to a step."""

    scheduler: RealTime
    lag: float  # s, of the camera
    now: float = 1.7e9
    taken: list[Request] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    asked, epoch, clock_ticks = 0, 0, 0
    info = NAMES

    def run(self, latencies, resets=()):
        """Until a chunk was asked for with each of `latencies` (s; None: it never comes), and a chunk's time after.

        Who has waited for PATIENCE asks anew; what was given up may come all the same.
        """
        self.scheduler.fit(self.info)
        latencies, asked_at, left = list(latencies), -np.inf, 2 * H * TICKS
        while latencies or left:
            self.tick()
            left -= not latencies
            for request in [request for request in self.waiting if request.arrives <= self.now]:
                self.waiting.remove(request)
                self.take(request)
                asked_at = -np.inf if request.number == self.asked - 1 else asked_at
            if self.asked in resets and self.waiting:
                resets = [reset for reset in resets if reset != self.asked]
                self.scheduler.clear()
                self.epoch, asked_at = self.epoch + 1, -np.inf
            if latencies and self.now > asked_at + PATIENCE and self.scheduler.wants_chunk(self.now, True):
                stamp, latency, asked_at = self.now - self.lag, latencies.pop(0), self.now
                arrives = self.now + (1e9 if latency is None else latency)
                request = Request(self.asked, stamp, self.scheduler.ask(stamp), arrives, self.epoch)
                self.asked += 1
                if latency == 0:
                    self.take(request)
                    asked_at = -np.inf
                else:
                    self.waiting.append(request)
        return self

    def tick(self):
        self.clock_ticks += 1
        self.now = 1.7e9 + self.clock_ticks * STEP / TICKS

    def chunk(self, request: Request) -> ActionChunk:
        return ActionChunk(np.array([(request.number, i) for i in range(H)], np.float32), request.stamp)

    def name(self, action: np.ndarray) -> tuple[int, ...]:
        return tuple(int(x) for x in action)

    def take(self, request: Request):
        laid_out = self.scheduler.schedule(self.chunk(request), self.now)
        if isinstance(laid_out, Rejection):
            self.refused.append(laid_out.check)
            return
        assert request.epoch == self.epoch, "a chunk of another epoch is followed"
        assert laid_out.start <= self.now + 1e-4  # or the robot would stand until then
        self.taken.append(request)
        plan = Plan(SPACE, laid_out.actions, start=laid_out.start, anchor=np.zeros(2), stamp=request.stamp)
        self.scheduler.add(plan)


@dataclass
class Logged(World):
    """Writes down which action is in force from each tick to the next."""

    log: list[tuple[float, tuple[int, int] | None]] = field(default_factory=list)

    def tick(self):
        plan, middle = self.scheduler.newest, self.now + STEP / TICKS / 2
        i = -1 if plan is None else int((middle - plan.start) / STEP)
        there = plan is not None and plan.start <= middle and i < len(plan.actions)
        self.log.append((self.now, self.name(plan.actions[i]) if there else None))
        super().tick()

    def in_force(self):
        """Each run of ticks with the same action, (action, ticks)."""
        runs: list[list] = []
        for _, action in self.log:
            if runs and runs[-1][0] == action:
                runs[-1][1] += 1
            else:
                runs.append([action, 1])
        return [(action, ticks) for action, ticks in runs]


LATENCY = st.one_of(st.none(), st.floats(0.0, 1.2), st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4]))


@given(
    st.lists(LATENCY, min_size=1, max_size=25),
    st.integers(1, H),
    st.sampled_from([0.0, 0.02, 0.04, 0.06]),
    st.sets(st.integers(1, 25), max_size=3),
    st.integers(1, H - 1),
)
@settings(max_examples=150, deadline=None)
def test_no_latencies_drops_and_resets_repeat_skip_or_reorder_a_committed_action(
    latencies, execute, lag, resets, max_delay
):
    world = Logged(RealTime(execute), lag)
    world.scheduler.fit(NAMES)
    fit = world.scheduler.fit
    world.scheduler.fit = lambda info: fit(replace(info, max_delay=max_delay))
    world.run(latencies, sorted(resets))
    runs = world.in_force()
    actions = [action for action, _ in runs if action is not None]
    assert len(actions) == len(set(actions)), "an action was carried out twice"
    for request in world.taken:
        if request.delay and request.epoch == world.epoch:
            committed = [tuple(int(x) for x in action) for action in request.pending.actions[: request.delay]]
            at = actions.index(committed[0])
            assert actions[at : at + len(committed)] == committed, "what was committed is not what was carried out"
            after = actions[at + len(committed)]
            assert after == (request.number, request.delay) or after[0] > request.number, "it took over elsewhere"
    for (action, _), (after, _) in pairwise(runs):
        if action is not None and after is not None and after[0] == action[0]:
            assert after[1] == action[1] + 1, "an action of a chunk was skipped or came too early"
    whole = [ticks for action, ticks in runs[:-1] if action is not None]
    if not resets:  # which break an action off, as they are to
        assert all(ticks == TICKS for ticks in whole), "an action was cut short or drawn out"


@dataclass
class Displaced(Logged):
    """Names are tiny displacements, to which chunks that move add a large one; the policy repeats what it is told."""

    moves: tuple[bool, ...] = (True,)
    info = replace(NAMES, actions=(Feature("dx", "m"), Feature("dy", "m")))

    def chunk(self, request: Request) -> ActionChunk:
        far = FAR * self.moves[request.number % len(self.moves)]
        actions = np.array([(request.number, far + i) for i in range(H)], np.float32) * 1e-6
        if request.pending:
            actions[: request.delay] = request.pending.actions[: request.delay]
        return ActionChunk(actions, request.stamp)

    def name(self, action: np.ndarray) -> tuple[int, int]:
        return round(action[0] * 1e6), round(action[1] * 1e6) % FAR


@given(
    st.lists(LATENCY, min_size=1, max_size=25),
    st.integers(1, H),
    st.sampled_from([0.0, 0.02, 0.04]),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
@example([0.3, 0.3, 0.3, 0.0, 0.3, 0.3], 1, 0.0, [False, False, False, True])  # more is pending than a chunk has
@settings(max_examples=150, deadline=None)
def test_a_robot_that_stands_is_not_told_of_it_and_follows_the_whole_chunk(latencies, execute, lag, moves):
    world = Displaced(RealTime(execute), lag, moves=tuple(moves)).run(latencies)
    runs = world.in_force()
    actions = [action for action, _ in runs if action is not None]
    assert len(actions) == len(set(actions)), "an action was carried out twice"
    assert all(ticks == TICKS for action, ticks in runs[:-1] if action is not None), "an action was cut short"
    for request in world.taken:
        if request.pending:
            committed = list(map(world.name, request.pending.actions[: request.delay]))
            assert len(request.pending.actions) <= H
            assert not committed or any(moves[number % len(moves)] for number, _ in committed), "it was told to stand"
            at = actions.index(committed[0]) if committed else 0
            assert actions[at : at + len(committed)] == committed
    for (action, _), (after, _) in pairwise([(None, 0), *runs]):
        if after is None:
            continue
        if action is not None and after[0] == action[0]:
            assert after[1] == action[1] + 1, "an action of a chunk was skipped"
        else:
            request = next(request for request in world.taken if request.number == after[0])
            assert after[1] == request.delay, "it took over elsewhere"


def test_whoever_closes_the_gripper_stands_but_is_told():
    """What was seen is older than the closing: a whole chunk made from it would open the gripper again."""
    scheduler = RealTime(2)
    scheduler.fit(replace(INFO, max_delay=3))

    def offered(stamp: float, grip: float) -> Pending | None:
        pending = scheduler.ask(stamp)
        laid_out = scheduler.schedule(steady(stamp=stamp, gripper=grip), stamp + 0.2)
        assert not isinstance(laid_out, Rejection)
        anchor = np.append(HOME, 0.0)
        scheduler.add(Plan(ActionSpace(INFO), laid_out.actions, start=laid_out.start, anchor=anchor, stamp=stamp))
        return pending

    assert offered(0.0, 0.0) is None  # the first
    assert offered(0.4, 1.0) is None  # it stands, and the gripper stays open until this takes over
    closing = offered(0.6, 1.0)
    assert closing is not None and closing.delay == 2
    assert offered(0.8, 1.0) is None  # it stands, closed


@given(st.floats(0.0, 0.3), st.integers(1, H), st.sampled_from([0.0, 0.02, 0.04]))
@settings(max_examples=60, deadline=None)
def test_a_steady_latency_starves_nobody_and_is_what_is_committed(latency, execute, lag):
    world = Logged(RealTime(execute), lag).run([latency] * 20)
    log = [action for _, action in world.log]
    moving = log[next(i for i, action in enumerate(log) if action is not None) :]
    assert None not in moving[: -2 * H * TICKS]
    assert world.refused in ([], ["late"])  # by a tick, which the first did not take
    took = (latency + lag) / STEP
    delays = [request.delay for request in world.taken]
    assert delays[0] == 0
    assert all(took - 0.5 <= delay <= took + 2 for delay in delays[H:])


def test_the_estimate_is_the_longest_of_the_last_few_without_the_first():
    world = World(RealTime(2), 0.0).run([0.55] + [0.15] * 5 + [0.35] + [0.15] * (WINDOW + 6))
    delays = [request.delay for request in world.taken]
    assert delays[:2] == [0, H - 2]  # the first takes 0.55 s, which counts for the second alone
    assert delays[2:6] == [4, 2, 2, 2]  # of the 6 that were committed, 4 are left
    assert world.refused == ["late"]  # the spike is discarded, and remembered...
    assert delays[6] == 2  # all that is left by then
    assert delays[7 : 6 + WINDOW] == [4] * (WINDOW - 1)
    assert delays[-1] == 2  # ...until it is out of the window


def test_who_takes_longer_than_there_are_actions_stands_and_goes_on_where_it_stood():
    world = Logged(RealTime(4), 0.0).run([0.5] * 4)
    runs = world.in_force()
    assert any(action is None for action, _ in runs[1:-1])
    assert not world.refused
    actions = [action for action, _ in runs if action is not None]
    assert actions[: H + 1] == [(0, i) for i in range(H)] + [(1, 5)]


def test_a_policy_that_is_always_later_than_it_can_be_told_stops_the_robot_and_says_so():
    control = Controller(replace(INFO, max_delay=1), LIMITS, RealTime(1), TIMEOUTS, CONTROL_HZ)
    control.start(0.0)
    now, late, command = 0.0, 0, None
    while control.state is State.RUNNING and now < 20:
        stamp, pending = now, control.ask(now)
        for _ in range(round(0.25 / PERIOD)):
            now += PERIOD
            command = control.tick(now, measured(command), now)
        rejection = control.offer(steady(stamp=stamp), now)
        late += rejection is not None and rejection.check == "late"
        assert pending is None or pending.delay == 1
    assert late == MOST_LATE
    assert (
        control.state is State.STOPPING
        and "came too late and none in time: the last took 3 actions, 1 committed" in control.reason
    )


@pytest.mark.parametrize(("execute", "latency", "max_delay"), [(8, 0.3, 1), (5, 0.62, 5), (5, 0.42, 7)])
def test_who_takes_longer_than_it_can_be_told_but_is_not_hurried_goes_on(execute, latency, max_delay):
    """The robot runs out of actions, and goes on from where it stands."""
    info, timeouts = replace(INFO, max_delay=max_delay), replace(TIMEOUTS, chunk=3.0)
    control = Controller(info, LIMITS, RealTime(execute), timeouts, CONTROL_HZ)
    control.start(0.0)
    now, asked, command = 0.0, None, None
    while now < 15:
        now += PERIOD
        command = control.tick(now, measured(command), now)
        if asked is None and control.wants_chunk(now):
            asked = now
            control.ask(now)
        elif asked is not None and now >= asked + latency:
            turning = chunk(*[[0.2, 0.5, 0.0, 0.02, 0.0]] * 8, stamp=asked)
            rejection = control.offer(turning, now)
            assert rejection is None or now < 3  # the first ones, of which it is learned how long they take
            asked = None
    assert control.state is State.RUNNING


def test_what_was_not_asked_for_is_refused():
    scheduler = RealTime(4)
    scheduler.fit(NAMES)
    chunk = ActionChunk(np.zeros((H, 2), np.float32), 1.0)
    assert scheduler.schedule(chunk, 1.1).check == "stamp"
    assert scheduler.ask(1.0) is None
    scheduler.clear()
    assert scheduler.schedule(chunk, 1.1).check == "stamp"  # of an epoch that is over


def test_a_policy_that_begins_every_chunk_anew_is_refused():
    with pytest.raises(ValueError, match=r"policy 'test' cannot go on .* \(its max_delay is 0\)"):
        Controller(replace(INFO, max_delay=0), LIMITS, RealTime(4), TIMEOUTS, CONTROL_HZ)


@pytest.mark.parametrize("latency", [0.0, 0.14, 0.26, 0.3])
def test_displacements_mean_the_same_in_the_next_chunk(latency):
    """A policy that goes a winding way by displacements, and tells its place on it from what is committed.

    Whatever the latency, and though the limits hold the robot back at the start, each displacement is gone once: 40
    actions later the robot is where all of them together lead.
    """
    way = 0.012 * np.sin(0.4 * np.arange(60) + 0.3) * np.exp(-0.05 * np.arange(60))  # m, in a step
    turns = 0.05 * np.cos(0.3 * np.arange(60))
    control = controller(RealTime(4))
    control.start(0.0)
    now, command, asked, at, ticks = 0.0, None, None, 0, 0
    while at < 40 or asked:
        ticks += 1
        now = ticks * PERIOD
        command = control.tick(now, measured(command), now)
        if asked is None and at < 40 and control.wants_chunk(now):
            asked = now, control.ask(now)
        if asked and asked[0] + latency <= now:
            stamp, pending = asked
            if pending is not None:  # where on the way it is, is what the pending actions say
                there = int(np.abs(way - pending.actions[0, 2]).argmin())
                np.testing.assert_allclose(pending.actions[:, 2], way[there : there + len(pending.actions)], atol=1e-6)
            else:  # the first, or nothing is committed: it is where the last chunk has led
                there = 0 if control.plan is None else at + 4
            actions = np.array([[0.2, 0.5, way[i], turns[i], 0.0] for i in range(there, there + 8)])
            rejection = control.offer(chunk(*actions, stamp=stamp), now)
            assert rejection is None or rejection.check == "late"  # by a tick
            at = there if rejection is None else at
            asked = None
    for _ in range(100):
        ticks += 1
        command = control.tick(ticks * PERIOD, measured(command), ticks * PERIOD)
    assert command.position[2] == pytest.approx(HOME[2] + way[: at + 8].sum(), abs=1e-6)
    assert command.position[3] == pytest.approx(turns[: at + 8].sum(), abs=1e-6)


@pytest.mark.parametrize("latency", [0.0, 0.1, 0.2])
def test_a_chunk_of_displacements_leads_where_it_says_from_where_it_was_observed(latency):
    """What its beginning differs from the committed actions is made up for, at once and once."""
    control = controller(RealTime(4))
    control.start(0.0)
    now, command, stamps = 0.0, None, []
    while len(stamps) < 2 or now < stamps[-1] + latency + 1.5:
        now += PERIOD
        command = control.tick(now, measured(command), now)
        if len(stamps) < 2 and control.wants_chunk(now):
            stamps.append(now)
            pending = control.ask(now)
            ahead = now + latency
            while now < ahead - 1e-9:
                now += PERIOD
                command = control.tick(now, measured(command), now)
            assert (pending is None) == (not latency or not stamps[1:])  # nothing is committed, nothing is told
            far = 0.006 if stamps[1:] else 0.004
            assert control.offer(steady(dx=far, stamp=stamps[-1]), now) is None
    assert command.position[2] == pytest.approx(HOME[2] + 4 * 0.004 + 8 * 0.006, abs=1e-6)
