"""Pieces of constant jerk: the closed forms against a fine walk in small steps, and the shortest stop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.control.motion import Motion, Piece, Reach, stop, travel

MOTIONS = st.builds(Motion, st.floats(-2, 2), st.floats(-1.5, 1.5), st.floats(-6, 6))
PIECES = st.lists(st.builds(Piece, st.floats(0, 0.5), st.floats(-50, 50)), max_size=4)


@given(MOTIONS, PIECES)
def test_a_path_reaches_as_far_as_a_walk_in_small_steps(start, pieces):
    total = sum(piece.duration for piece in pieces)
    _, reach = travel(start, pieces, total)
    seen = [travel(start, pieces, total * i / 400)[0] for i in range(401)]
    for found, walked in [
        (reach.lowest, min(m.position for m in seen)),
        (-reach.highest, -max(m.position for m in seen)),
        (-reach.velocity, -max(abs(m.velocity) for m in seen)),
        (-reach.acceleration, -max(abs(m.acceleration) for m in seen)),
    ]:
        assert found <= walked + 1e-9  # no walker was farther out
        assert found >= walked - 0.5  # and it does not exaggerate: a step of 5 ms hides no more, at this jerk


@given(MOTIONS, PIECES, st.floats(0, 1))
def test_a_path_in_two_parts_is_the_path(start, pieces, share):
    total = sum(piece.duration for piece in pieces) + 0.1
    whole, reach = travel(start, pieces, total)
    half, first = travel(start, pieces, share * total)
    left, rest = share * total, []
    for piece in pieces:
        rest.append(Piece(max(piece.duration - left, 0.0), piece.jerk))
        left = max(left - piece.duration, 0.0)
    end, second = travel(half, rest, total - share * total)
    assert end.position == pytest.approx(whole.position, abs=1e-9)
    assert end.velocity == pytest.approx(whole.velocity, abs=1e-9)
    assert end.acceleration == pytest.approx(whole.acceleration, abs=1e-9)
    assert first.joined(second)[:4] == pytest.approx(reach[:4], abs=1e-9)


@given(MOTIONS, st.floats(0.5, 8), st.floats(5, 500))
def test_a_stop_ends_at_rest_inside_its_limits(motion, acceleration, jerk):
    pieces = stop(motion, acceleration, jerk)
    end, reach = travel(motion, pieces, sum(piece.duration for piece in pieces))
    assert end.velocity == pytest.approx(0, abs=1e-9) and end.acceleration == pytest.approx(0, abs=1e-9)
    assert all(piece.duration >= 0 for piece in pieces)
    assert reach.jerk <= jerk
    assert reach.acceleration <= max(acceleration, abs(motion.acceleration)) + 1e-9


@given(MOTIONS, st.floats(0.5, 8), st.floats(5, 500), st.floats(0, 1))
def test_a_stop_is_the_same_from_anywhere_on_it(motion, acceleration, jerk, share):
    pieces = stop(motion, acceleration, jerk)
    total = sum(piece.duration for piece in pieces)
    end, _ = travel(motion, pieces, total)
    later, _ = travel(motion, pieces, share * total)
    again = stop(later, acceleration, jerk)
    assert travel(later, again, 100.0)[0].position == pytest.approx(end.position, abs=1e-6)


def test_the_shortest_stop_by_hand():
    # from 1 m/s at 2 m/s², 10 m/s³: 0.2 s to build up, 0.3 s at full deceleration, 0.2 s to let go
    pieces = stop(Motion(0.0, 1.0), 2.0, 10.0)
    assert [piece.duration for piece in pieces] == pytest.approx([0.2, 0.3, 0.2])
    assert [piece.jerk for piece in pieces] == [-10.0, 0.0, 10.0]
    assert travel(Motion(0.0, 1.0), pieces, 0.7)[1] == pytest.approx(Reach(0.0, 0.35, 1.0, 2.0, 10.0))
