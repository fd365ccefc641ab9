"""Small charts as inline SVG: no library, no pixels, and their colours follow the page they stand in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise, zip_longest
from typing import Any, TypeVar

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 12, 24  # margins in which the axes' labels stand
TICKS = 4
SMOOTHING = 30  # a noisy curve also gets its running mean over this fraction of its length
LETTER, ROW, ROW_GAP, BAR = 6.2, 14, 10, 9  # of charts in rows: a letter's usual width, a line's and a bar's height
TONES = ("tone-last", "tone-1", "tone-0")
"""CSS classes, each a colour of the page."""

Points = Sequence[tuple[float, float]]
Mark = TypeVar("Mark")


def line_chart(
    title: str,
    series: Mapping[str, Points],
    draw: Callable[[Points], str],
    *,
    tones: Sequence[str] = TONES,
    against: str = "training step",
    unit_interval: bool = False,
) -> str:
    """One or a few curves, with their last values beside their names.

    Args:
        title: what is drawn; also the chart's text for screen readers.
        series: name ("" for an only curve) -> (x, y), at least one, in order of x, which is not negative.
        draw: how: `noisy`, `marked` or `stairs`.
        tones: the colour of each curve.
        against: what x is.
        unit_interval: draw the y axis from 0 to 1, as for an accuracy.
    """
    everything = [point for points in series.values() for point in points]
    last_x = max(1, *(x for x, _ in everything))
    values = [value for _, value in everything]
    x_ticks = [tick for tick in _ticks(0, last_x) if tick <= last_x]
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if unit_interval else _ticks(min(0, *values), max(1e-9, *values))
    x = _scale(0, last_x, LEFT, WIDTH - RIGHT)
    y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    grid = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    ]
    grid += [f'<text x="{x(tick):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:g}</text>' for tick in x_ticks]
    curves = "".join(
        f'<g class="{tone}">{draw([(x(place), y(value)) for place, value in points])}</g>'
        for tone, points in zip(tones, series.values(), strict=False)
    )
    names = {name: f"{points[-1][1]:.3g}" for name, points in series.items()}
    return _figure(
        title, f"{title} against {against}", names, tones, HEIGHT, f'<g class="grid">{"".join(grid)}</g>{curves}'
    )


def noisy(path: Points) -> str:
    """A curve, given in the chart's own coordinates, with its running mean over the noise."""
    smooth = running_mean([py for _, py in path], max(1, len(path) // SMOOTHING))
    smoothed = [(px, py) for (px, _), py in zip(path, smooth, strict=True)]
    return _polyline(path, "noise") + _polyline(smoothed, "curve")


def marked(path: Points) -> str:
    """A curve of few, exact measurements, each of them marked."""
    return _polyline(path, "curve") + "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in path)


def stairs(path: Points) -> str:
    """A curve that keeps each value until the next one."""
    corners = [(px, py) for (_, py), (px, _) in pairwise(path)]
    return _polyline([point for both in zip_longest(path, corners) for point in both if point], "curve")


def bar_chart(title: str, rows: Mapping[str, Sequence[int]], names: Mapping[str, str], tones: Sequence[str]) -> str:
    """Counts as horizontal bars.

    Args:
        title: what is counted.
        rows: kind -> how many, for each of `names`; at least one of them is more than 0.
        names: of who is counted -> what to say beside it.
        tones: the colour of each of them.
    """
    start = LETTER * max(map(len, rows)) + 8
    x = _scale(0, max(map(max, rows.values())), start, WIDTH - 30)

    def bar(count: int, y: float) -> str:
        return (
            f'<rect x="{start:.1f}" y="{y - BAR / 2:.1f}" width="{x(count) - start:.1f}" height="{BAR}" rx="2"/>'
            f'<text x="{x(count) + 5:.1f}" y="{y + 3.5:.1f}">{count}</text>'
        )

    height, drawn = _rows(rows, tones, start, bar)
    return _figure(title, title, names, tones, height, drawn)


def interval_chart(
    title: str, rows: Mapping[str, Sequence[Mapping[str, Any] | None]], names: Mapping[str, str], tones: Sequence[str]
) -> str:
    """Rates as dots on a scale from 0 to 1, each with its interval.

    Args:
        title: what the rates are of.
        rows: kind -> a rate (as `statistics.Rate.to_dict`), or None, for each of `names`.
        names: of whose rates they are -> what to say beside it.
        tones: the colour of each of them.
    """
    texts = [_of(rate) for marks in rows.values() for rate in marks]
    start, end = LETTER * max(map(len, rows)) + 8, WIDTH - LETTER * max(map(len, texts)) - 20  # a percent sign is wide
    x = _scale(0, 1, start, end)

    def dot(rate: Mapping[str, Any] | None, y: float) -> str:
        if rate is None or rate["rate"] is None:
            return ""
        return (
            f'<line class="whisker" x1="{x(rate["low"]):.1f}" x2="{x(rate["high"]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle cx="{x(rate["rate"]):.1f}" cy="{y:.1f}" r="4"/>'
            f'<text x="{end + 10:.1f}" y="{y + 3.5:.1f}">{_of(rate)}</text>'
        )

    height, drawn = _rows(rows, tones, start, dot)
    ticks = "".join(
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height}"/>'
        f'<text x="{x(tick):.1f}" y="{height + 14}" text-anchor="middle">{100 * tick:g}%</text>'
        for tick in (0, 0.5, 1)
    )
    return _figure(title, title, names, tones, height + 20, f'<g class="grid">{ticks}</g>{drawn}')


def _of(rate: Mapping[str, Any] | None) -> str:
    return "" if rate is None or rate["rate"] is None else f"{100 * rate['rate']:.0f}%, n = {rate['n']}"


def _rows(
    rows: Mapping[str, Sequence[Mark]], tones: Sequence[str], start: float, draw: Callable[[Mark, float], str]
) -> tuple[int, str]:
    """A name at the left of each row, and the row's marks, a line each; the height of it all, and all of it."""
    drawn, top = [], ROW_GAP // 2
    for name, marks in rows.items():
        middle = top + ROW * len(marks) / 2
        drawn.append(f'<text x="{start - 8:.1f}" y="{middle + 3.5:.1f}" text-anchor="end">{escape(name)}</text>')
        for line, (tone, mark) in enumerate(zip(tones, marks, strict=True)):
            drawn.append(f'<g class="{tone}">{draw(mark, top + ROW * (line + 0.5))}</g>')
        top += ROW * len(marks) + ROW_GAP
    return top - ROW_GAP // 2, "".join(drawn)


def _figure(
    title: str, description: str, names: Mapping[str, str], tones: Sequence[str], height: int, drawn: str
) -> str:
    """A chart under its title and, for each name, what there is to say of it in its colour."""
    said = "".join(
        f'<span class="{tone}">{escape(name)} <b>{escape(value)}</b></span>'
        for tone, (name, value) in zip(tones, names.items(), strict=False)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span>{said}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">{drawn}</svg></figure>'
    )


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and its `reach` neighbours on both sides (fewer at the ends)."""
    return [
        math.fsum(window) / len(window)
        for window in (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    ]


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
