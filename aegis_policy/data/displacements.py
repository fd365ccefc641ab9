"""Are actions that are called displacements really displacements? Their names say so; the state's motion can tell.

Where a state has the axis an action displaces (x for dx, in the same unit), the episodes are asked which of three
readings of the action goes with the motion s[t+1] - s[t]:

    the action itself             a displacement, as named
    its running sum               a displacement that was differenced once more, a frequent mistake in preparing data
    the action against s itself   a set point: where to be, not how far to go

Each answer is one correlation, over all such axes and episodes, each episode about its own mean, so that neither where
an episode happens nor a constant in a sum matters. A controller's lag is allowed for; its gain does not matter.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np

from aegis_policy.data.source import Episode, Layout, Source
from aegis_policy.policy import Feature

log = logging.getLogger(__name__)

LAG = 0.2  # s, at most, between a command and the motion it causes
FEWEST = 50  # steps to judge by
CONVINCING, AHEAD = 0.5, 0.25  # correlation of the other reading; by how much it must beat the named one
LIKE_STATE, SLOPE = 0.8, (0.4, 2.5)  # correlation with, and metres per metre of, the state itself


DELTA = re.compile(r"d_|delta_?|d")
OF_A_HAND = re.compile(r"dr?[xyz]|(d_|delta_).+")


def is_displacement(action: Feature, state: Sequence[Feature]) -> bool:
    """Whether an action is a displacement per step and not a set point; one is in m or rad, and its name says so.

    That is d, d_ or delta_ before what the state names, or, whatever the state has, dx to drz, d_... and delta_....
    Not any d... ("desired_x", "dof_1"), nor what the state calls by the same name and has no undisplaced one of.
    """
    place = displaced_by(action) in state
    named = place or OF_A_HAND.fullmatch(action.name)
    return bool(named and action.unit in ("m", "rad") and (action not in state or place))


def displaced_by(action: Feature) -> Feature:
    """The state's dimension that a displacement changes: "x" in m of "dx" in m."""
    return Feature(DELTA.sub("", action.name, count=1) if DELTA.match(action.name) else "", action.unit)


def doubt(layout: Layout, episodes: Sequence[Episode]) -> str | None:
    """Why the displacements of some episodes cannot be what their names say; None when nothing speaks against them.

    Only lengths are judged: rotation vectors do not add up.
    """
    pairs = _pairs(layout)
    motions = [
        (episode.actions[:-1, action].astype(float), episode.state[:, axis].astype(float))
        for episode in episodes
        for action, axis in pairs
        if len(episode.actions) > 2
    ]
    if sum(len(commanded) for commanded, _ in motions) < FEWEST * max(1, len(pairs)):
        return None
    names = ", ".join(layout.actions[action].name for action, _ in pairs)
    positions = [(commanded, state[:-1]) for commanded, state in motions]
    alike, slope = _correlation(positions), _slope(positions)
    if alike > LIKE_STATE and SLOPE[0] < slope < SLOPE[1]:
        return (
            f"{names}: not displacements but set points: they follow the state itself (correlation {alike:.2f}, "
            f"{slope:.2f} per unit); name them without the d, or take their differences to the state once"
        )
    moved = [(commanded, np.diff(state)) for commanded, state in motions]
    summed = [(np.cumsum(commanded), motion) for commanded, motion in moved]
    lags = range(1 + max(1, round(LAG * layout.control_hz)))
    as_named, as_sum = (max(_correlation(kind, lag) for lag in lags) for kind in (moved, summed))
    if as_sum > CONVINCING and as_sum > as_named + AHEAD:
        return (
            f"{names}: displacements that were differenced again: their running sum goes with the state's motion "
            f"(correlation {as_sum:.2f}), they themselves do not ({as_named:.2f}); take differences once"
        )
    return None


def warn_of_doubtful(sources: Sequence[Source]) -> None:
    """Log what `doubt` says, if anything, of each: among many, one would not be noticed; else of all together.

    Args:
        sources: of the same layout.
    """
    found = {str(source.path): doubt(source.layout, source.episodes) for source in sources}
    if not any(found.values()):  # files of a few steps each prove nothing alone
        everything = [episode for source in sources for episode in source.episodes]
        found = {f"{sources[0].path} and what comes with it": doubt(sources[0].layout, everything)}
    for where, reason in found.items():
        if reason:
            log.warning("%s: %s ('aegis data inspect' refuses this data)", where, reason)


def _pairs(layout: Layout) -> list[tuple[int, int]]:
    """(index of an action in m, index of the state's dimension that it displaces)."""
    return [
        (i, layout.state.index(displaced_by(action)))
        for i, action in enumerate(layout.actions)
        if action.unit == "m" and is_displacement(action, layout.state) and displaced_by(action) in layout.state
    ]


def _correlation(pairs: Sequence[tuple[np.ndarray, np.ndarray]], lag: int = 0) -> float:
    """Of first[t] with second[t + lag], each series about its own mean; 0 where nothing varies."""
    xy, xx, yy = _products(pairs, lag)
    return xy / np.sqrt(xx * yy) if xx * yy > 0 else 0.0


def _slope(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of first over second."""
    xy, _, yy = _products(pairs, 0)
    return xy / yy if yy > 0 else 0.0


def _products(pairs: Sequence[tuple[np.ndarray, np.ndarray]], lag: int) -> tuple[float, float, float]:
    total = np.zeros(3)
    for first, second in pairs:
        x, y = first[: len(first) - lag], second[lag:]
        if len(x) > 1:
            x, y = x - x.mean(), y - y.mean()
            total += x @ y, x @ x, y @ y
    return float(total[0]), float(total[1]), float(total[2])
