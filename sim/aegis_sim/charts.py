"""Small charts as inline SVG: no library, no pixels, and their colours follow the page they stand in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 24  # margins in which the axes' labels stand
TICKS = 4
SMOOTHING = 30  # a noisy curve also gets its running mean over this fraction of its length

Points = Sequence[tuple[float, float]]


def line_chart(title: str, series: Mapping[str, Points], *, unit_interval: bool = False, markers: bool = False) -> str:
    """One or a few curves against the training step, with their last values beside their names.

    Args:
        title: what is drawn; also the chart's text for screen readers.
        series: name ("" for an only curve) -> (step, value), at least one, in order of step.
        unit_interval: draw the y axis from 0 to 1, as for an accuracy.
        markers: mark every point (few, exact measurements); else a running mean is laid over the noise.
    """
    everything = [point for points in series.values() for point in points]
    last_step = max(1, *(step for step, _ in everything))
    values = [value for _, value in everything]
    x_ticks = [tick for tick in _ticks(0, last_step) if tick <= last_step]
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if unit_interval else _ticks(min(0, *values), max(1e-9, *values))
    x = _scale(0, last_step, LEFT, WIDTH - RIGHT)
    y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    grid = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    ]
    grid += [f'<text x="{x(tick):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:g}</text>' for tick in x_ticks]
    curves = "".join(
        f'<g class="series-{index}">{_curve([(x(step), y(value)) for step, value in points], markers)}</g>'
        for index, points in enumerate(series.values())
    )
    names = "".join(
        f'<span class="series-{index}">{escape(name)} <b>{points[-1][1]:.3g}</b></span>'
        for index, (name, points) in enumerate(series.items())
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span>{names}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} against training step">'
        f'<g class="grid">{"".join(grid)}</g>{curves}</svg></figure>'
    )


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and its `reach` neighbours on both sides (fewer at the ends)."""
    return [
        math.fsum(window) / len(window)
        for window in (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    ]


def _curve(path: Points, markers: bool) -> str:
    """A curve given in the chart's own coordinates."""
    if markers:
        return _polyline(path, "curve") + "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in path)
    smooth = running_mean([py for _, py in path], max(1, len(path) // SMOOTHING))
    smoothed = [(px, py) for (px, _), py in zip(path, smooth, strict=True)]
    return _polyline(path, "noise") + _polyline(smoothed, "curve")


def _polyline(path: Points, css_class: str) -> str:
    coordinates = " ".join(f"{px:.1f},{py:.1f}" for px, py in path)
    return f'<polyline class="{css_class}" points="{coordinates}"/>'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """About `TICKS` round numbers that enclose [low, high], steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step - 1e-9) + 1)]
