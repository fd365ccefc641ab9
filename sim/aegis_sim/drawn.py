"""Drawn scenes: the second visual domain, which no robot data ever shows.

The same colours, shapes and questions as in the simulator, but flat drawings on coloured paper: what a policy forgets
here, it has forgotten without anybody overwriting it. Everything scales with the size of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from aegis_sim.questions import Scene, SceneObject, View, draw_objects, label

_INK = {
    "red": (215, 30, 35),
    "green": (40, 165, 60),
    "blue": (45, 75, 220),
    "yellow": (240, 215, 45),
    "purple": (145, 50, 190),
    "orange": (250, 130, 25),
}
_SUPERSAMPLE = 2
_RADIUS = (0.075, 0.125)  # of an object, in image widths
_CLEARANCE = 0.85  # two objects overlap by no more than this leaves of the sum of their radii


class _Spot(NamedTuple):
    x: float
    y: float
    radius: float


def draw(rng: np.random.Generator, size: int) -> View:
    """Draw one scene of 1 to 4 objects, `size` pixels square."""
    pairs = draw_objects(rng)
    spots = _place(rng, len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: spots[i].y)  # from the back to the front
    pixels = size * _SUPERSAMPLE
    picture = Image.fromarray(_background(rng, pixels))
    mask = Image.new("L", (pixels, pixels))
    outline = _outline(rng, pixels)
    for i in order:
        colour, shape = pairs[i]
        spot = _Spot(*(value * pixels for value in spots[i]))
        _draw_object(rng, picture, mask, spot, shape, _INK[colour], outline, label(colour, shape))
    image = np.asarray(picture.reduce(_SUPERSAMPLE)).astype(np.int16)
    image = image + rng.integers(-6, 7, (size, size, 1), dtype=np.int16)
    labels = np.asarray(mask)[::_SUPERSAMPLE, ::_SUPERSAMPLE].copy()
    objects = tuple(
        SceneObject(colour, shape, spot.x, spot.y, float((labels == label(colour, shape)).mean()))
        for (colour, shape), spot in zip(pairs, spots, strict=True)
    )
    return View(np.clip(image, 0, 255).astype(np.uint8), labels, Scene(objects))


def _place(rng: np.random.Generator, count: int) -> list[_Spot]:
    """Spots all over the paper, apart enough that every object can be told."""
    while True:
        spots: list[_Spot] = []
        for _ in range(40):
            radius = rng.uniform(*_RADIUS)
            edge = radius * 1.25
            spot = _Spot(rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge), radius)
            gaps = [np.hypot(spot.x - s.x, spot.y - s.y) - _CLEARANCE * (spot.radius + s.radius) for s in spots]
            if min(gaps, default=1.0) > 0:
                spots.append(spot)
            if len(spots) == count:
                return spots


def _paper(rng: np.random.Generator) -> np.ndarray:
    """A pale or dark tone without much colour, so that no object can be lost in it."""
    tone = rng.uniform(165, 245) if rng.random() < 0.7 else rng.uniform(25, 80)
    return np.clip(tone + rng.uniform(-14, 14, 3), 0, 255)


def _background(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """uint8 [pixels, pixels, 3]: plain, striped, chequered, dotted or graded paper."""
    first = _paper(rng)
    second = np.clip(first + rng.choice([-1, 1]) * rng.uniform(12, 40), 0, 255)
    x, y = np.meshgrid(np.arange(pixels) / pixels, np.arange(pixels) / pixels)
    period = rng.uniform(0.08, 0.3)
    kind = rng.integers(6)
    if kind == 0:
        share = np.zeros_like(x)
    elif kind == 1:
        angle = rng.uniform(0, np.pi)
        share = ((x * np.cos(angle) + y * np.sin(angle)) / period % 1 < rng.uniform(0.15, 0.6)).astype(float)
    elif kind == 2:
        share = (((x + 1) // period + (y + 1) // period) % 2).astype(float)
    elif kind == 3:
        share = (((x / period % 1 - 0.5) ** 2 + (y / period % 1 - 0.5) ** 2) < 0.06).astype(float)
    elif kind == 4:
        angle = rng.uniform(0, 2 * np.pi)
        share = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)
    else:
        share = (y > rng.uniform(0.1, 0.9)).astype(float)
    mixed = first + share[:, :, None] * (second - first)
    return mixed.astype(np.uint8)


def _outline(rng: np.random.Generator, pixels: int) -> tuple[tuple[int, int, int] | None, int]:
    """Colour and width of the pen the whole drawing is outlined with; None is none."""
    pens = (None, (15, 15, 20), (250, 250, 250))
    return pens[rng.choice(3, p=(0.4, 0.45, 0.15))], max(1, round(pixels * rng.uniform(0.006, 0.016)))


def _shade(colour: np.ndarray, factor: float) -> tuple[int, int, int]:
    red, green, blue = np.clip(colour * factor, 0, 255).astype(int).tolist()
    return red, green, blue


def _draw_object(
    rng: np.random.Generator,
    picture: Image.Image,
    mask: Image.Image,
    spot: _Spot,
    shape: str,
    ink: tuple[int, int, int],
    outline: tuple[tuple[int, int, int] | None, int],
    value: int,
) -> None:
    """Draw one object into the picture, and its silhouette, as `value`, into the mask."""
    colour = np.clip(np.array(ink) + rng.uniform(-16, 16, 3), 0, 255) * rng.uniform(0.85, 1.05)
    pen, width = outline
    faces = {"cube": _cube, "ball": _ball, "cylinder": _cylinder}[shape](rng, spot)
    canvas, silhouette = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    for kind, corners, factor in faces:
        fill = _shade(colour, factor)
        if kind == "polygon":
            canvas.polygon(corners, fill=fill)
            silhouette.polygon(corners, fill=value)
            if pen:
                canvas.line([*corners, corners[0]], fill=pen, width=width)
        elif kind == "shine":
            canvas.ellipse(corners, fill=fill)
        else:
            canvas.ellipse(corners, fill=fill, outline=pen, width=width if pen else 0)
            silhouette.ellipse(corners, fill=value)


_Corners = list[tuple[float, float]]
_Face = tuple[str, _Corners, float]  # kind, corners, brightness


def _cube(rng: np.random.Generator, spot: _Spot) -> list[_Face]:
    """A box seen from above and from one side, in oblique projection."""
    half = 0.68 * spot.radius
    depth = rng.uniform(0.35, 0.6) * spot.radius * rng.choice([-1, 1])
    rise = rng.uniform(0.3, 0.55) * spot.radius
    left, right = spot.x - half - depth / 2, spot.x + half - depth / 2
    top, bottom = spot.y - half + rise / 2, spot.y + half + rise / 2
    near, far = (right, right + depth) if depth > 0 else (left, left + depth)
    return [
        ("polygon", [(left, top), (right, top), (right, bottom), (left, bottom)], 0.95),
        ("polygon", [(left, top), (left + depth, top - rise), (right + depth, top - rise), (right, top)], 1.2),
        ("polygon", [(near, top), (far, top - rise), (far, bottom - rise), (near, bottom)], 0.68),
    ]


def _ball(rng: np.random.Generator, spot: _Spot) -> list[_Face]:
    x, y, radius = spot.x, spot.y, 0.92 * spot.radius
    shine, angle = rng.uniform(0.2, 0.35) * radius, rng.uniform(-2.6, -0.6)
    cx, cy = x + 0.45 * radius * np.cos(angle), y + 0.45 * radius * np.sin(angle)
    return [
        ("ellipse", [(x - radius, y - radius), (x + radius, y + radius)], 0.95),
        ("shine", [(cx - shine, cy - shine), (cx + shine, cy + shine)], 1.3),
    ]


def _cylinder(rng: np.random.Generator, spot: _Spot) -> list[_Face]:
    x, y = spot.x, spot.y
    half, lid = 0.66 * spot.radius, rng.uniform(0.2, 0.34) * spot.radius
    top, bottom = y - spot.radius + lid, y + spot.radius - lid
    rim = [(x + half * np.cos(angle), bottom + lid * np.sin(angle)) for angle in np.linspace(0, np.pi, 9)]
    return [
        ("polygon", [(x - half, top), (x + half, top), *rim], 0.8),
        ("ellipse", [(x - half, top - lid), (x + half, top + lid)], 1.2),
    ]
