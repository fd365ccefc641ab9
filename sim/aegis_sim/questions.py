"""Questions about a scene of coloured objects, with their true answers.

A `Scene` says what one image shows; `questions` asks everything about it that has exactly one defensible answer. Every
place, side and "nothing" is meant as a reader of the picture would mean it: left is left in the image. What a
reader could argue about (two objects almost above one another, an object that is mostly hidden) is not asked.

Answers are balanced on purpose: as many yes as no, "nothing" about as often as something, so that neither the most
frequent answer nor the question alone gets far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("cube", "ball", "cylinder")
MAX_OBJECTS = 4
GRIPPER = "gripper"
GRIPPER_LABEL = 1 + len(COLOURS) * len(SHAPES)
"""Of the hand's and the fingers' pixels in a label image, where `label` gives those of objects."""

FAMILIES = ("colour", "shape", "count", "exists", "left", "what-left", "where", "held")
"""The families accuracy is reported on."""
POINT = "point"
"""Trained on beside them (grounding), and answered in location tokens."""

PICK = ("pick up the {a}", "lift the {a}", "grab the {a}", "take the {a}")
PLACE_ON = ("place the {a} on the {b}", "put the {a} on the {b}", "set the {a} on the {b}", "stack the {a} on the {b}")
PLACE_BESIDE = ("put the {a} {side} of the {b}", "place the {a} {side} of the {b}", "move the {a} {side} of the {b}")
"""What a robot may be told to do. The VLM reads every wording; demonstrations use some of them, see `splits.py`."""

MIN_VISIBLE = 0.005
"""An object counts as seen when at least this share of the image's pixels shows it (21 pixels of 64 x 64)."""
EDGE = 0.03
"""... and its centre is at least this far inside the image."""
SIDE_MARGIN = 0.09
"""Two objects are left and right of one another when their centres differ by this share of the image's width."""
CELL_MARGIN = 0.03
"""A place is asked for only this far from the lines that cut the image in three by three."""
HELD_SHARE = 0.35
"""The share of scenes with something in the gripper for which the answers of the family "held" are balanced."""

LOCATION_BINS = 32
_LOCATIONS = 1024  # PaliGemma's own scale

_ROWS = ("back", "middle", "front")
_COLUMNS = ("left", "center", "right")
NOTHING = "nothing"

# Wordings, in one place: the vocabulary is read off them. {a} and {b} are objects such as "red cube".
_COLOUR = ("what colour is the {shape}", "what color is the {shape}")
_SHAPE = "what shape is the {colour} object"
_COUNT_ALL = "how many objects are there"
_COUNT_SHAPE = "how many {shape}s are there"
_COUNT_COLOUR = "how many {colour} objects are there"
_EXISTS = ("is there a {a}", "is there an {a}")  # before a consonant, before a vowel
_SIDE = ("is the {a} {side} of the {b}", "is the {a} to the {side} of the {b}")
_WHAT_SIDE = ("what is {side} of the {a}", "what is to the {side} of the {a}")
_WHERE = "where is the {a}"
HOLDING = "is the gripper holding the {a}"
WHAT_HELD = "what is the gripper holding"
_POINT_TO = "point to the {a}"


def location_token(value: float) -> str:
    """PaliGemma's location token for a coordinate in [0, 1], quantised to `LOCATION_BINS` bins (their centres)."""
    bin_ = min(max(int(value * LOCATION_BINS), 0), LOCATION_BINS - 1)
    return f"<loc{int(_LOCATIONS * (bin_ + 0.5) / LOCATION_BINS):04d}>"


def _vocabulary() -> tuple[str, ...]:
    templates = [*_COLOUR, *_EXISTS, *_SIDE, *_WHAT_SIDE, _SHAPE, _COUNT_ALL, _COUNT_SHAPE, _COUNT_COLOUR, _WHERE]
    templates += [HOLDING, WHAT_HELD, _POINT_TO, *PICK, *PLACE_ON, *PLACE_BESIDE]
    words = {
        word
        for text in templates
        for colour, shape, side in product(COLOURS, SHAPES, ("left", "right"))
        for word in text.format(a=colour, b=colour, colour=colour, shape=shape, side=side).split()
    }
    words |= {"yes", "no", NOTHING, *_ROWS, *_COLUMNS, *map(str, range(MAX_OBJECTS + 1))}
    bins = [location_token((bin_ + 0.5) / LOCATION_BINS) for bin_ in range(LOCATION_BINS)]
    return (*sorted(words), *bins)


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word of every question and answer, lower-case, the location tokens last: what a word-level tokenizer needs."""


@dataclass(frozen=True)
class SceneObject:
    """One object as one image shows it.

    Attributes:
        colour, shape: of `COLOURS` and `SHAPES`.
        u, v: its centre in the image, u to the right and v down, both in [0, 1].
        visible: share of the image's pixels that show it (0 when it is hidden or outside).
        standing: whether it stands on the table. One that is held, or stands on another one, is high in the image
            without being at the back.
    """

    colour: str
    shape: str
    u: float
    v: float
    visible: float
    standing: bool = True

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def seen(self) -> bool:
        inside = EDGE <= self.u <= 1 - EDGE and EDGE <= self.v <= 1 - EDGE
        return inside and self.visible >= MIN_VISIBLE


@dataclass(frozen=True)
class Scene:
    """What one image shows. No two objects have the same colour and shape.

    Attributes:
        objects: all objects of the scene, also those this image hides.
        held: index of the object in the gripper, None when it is empty.
        gripper: whether the image shows the gripper, so that one can ask what it holds.
        upright: whether up in the image is away from the viewer, so that back and front mean something.
        strangers: whether the image shows things that have no name here.
    """

    objects: tuple[SceneObject, ...]
    held: int | None = None
    gripper: bool = False
    upright: bool = True
    strangers: bool = False

    @property
    def clear(self) -> bool:
        """Whether every thing has a name and is either well seen or not in the image at all."""
        return not self.strangers and all(thing.seen or thing.visible == 0 for thing in self.objects)


class View(NamedTuple):
    """What one camera gives: image uint8 [S, S, 3], labels uint8 [S, S] (see `label`) and what they show.

    The scene is None where a reader of the picture could argue about what it shows.
    """

    image: np.ndarray
    labels: np.ndarray
    scene: Scene | None


class Question(NamedTuple):
    text: str
    answer: str
    family: str


def label(colour: str, shape: str) -> int:
    """The value of an object's pixels in a label image: 1 + colour * 3 + shape (0 is neither object nor gripper)."""
    return 1 + COLOURS.index(colour) * len(SHAPES) + SHAPES.index(shape)


def draw_objects(rng: np.random.Generator) -> list[tuple[str, str]]:
    """1 to 4 different (colour, shape) pairs, uniform in number.

    Half of the objects after the first share their colour or their shape with another one: scenes in which either word
    alone would do teach nobody to read both.
    """
    chosen: list[tuple[str, str]] = []
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    while len(chosen) < count:
        colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        if chosen and rng.random() < 0.3:
            colour = chosen[rng.integers(len(chosen))][0]
        elif chosen and rng.random() < 0.3:
            shape = chosen[rng.integers(len(chosen))][1]
        if (colour, shape) not in chosen:
            chosen.append((colour, shape))
    return chosen


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Every applicable, unambiguous question about the scene, family by family; `rng` draws wordings and negatives."""
    return [Question(text, answer, family) for family, ask in _ASK.items() for text, answer in ask(scene, rng)]


_Asked = Iterator[tuple[str, str]]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _one_of(wordings: Sequence[str], rng: np.random.Generator) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def _is_there(name: str) -> str:
    return _EXISTS[name[0] in "aeiou"].format(a=name)


def _visible(scene: Scene) -> list[SceneObject]:
    return [thing for thing in scene.objects if thing.visible > 0]


def _seen(scene: Scene) -> list[SceneObject]:
    return [thing for thing in scene.objects if thing.seen]


def _ask_colour(scene: Scene, rng: np.random.Generator) -> _Asked:
    shapes = [thing.shape for thing in _visible(scene)]
    for thing in _seen(scene):
        if shapes.count(thing.shape) == 1:
            yield _one_of(_COLOUR, rng).format(shape=thing.shape), thing.colour


def _ask_shape(scene: Scene, rng: np.random.Generator) -> _Asked:
    colours = [thing.colour for thing in _visible(scene)]
    for thing in _seen(scene):
        if colours.count(thing.colour) == 1:
            yield _SHAPE.format(colour=thing.colour), thing.shape


def _ask_count(scene: Scene, rng: np.random.Generator) -> _Asked:
    if not scene.clear:
        return
    things = _seen(scene)
    yield _COUNT_ALL, str(len(things))
    for shape in SHAPES:
        yield _COUNT_SHAPE.format(shape=shape), str(sum(thing.shape == shape for thing in things))
    colours = [thing.colour for thing in things]
    absent = [colour for colour in COLOURS if colour not in colours]
    for colour in ([_one_of(colours, rng)] if colours else []) + [_one_of(absent, rng)]:
        yield _COUNT_COLOUR.format(colour=colour), str(colours.count(colour))


def _ask_exists(scene: Scene, rng: np.random.Generator) -> _Asked:
    """One yes and one no per object; three of four negatives share a colour or a shape with something that is there."""
    present = {(thing.colour, thing.shape) for thing in _visible(scene)}
    things = _seen(scene)
    for thing in things:
        yield _is_there(thing.name), "yes"
    absent: set[tuple[str, str]] = set()
    while len(absent) < len(things):
        colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        like, kind = things[rng.integers(len(things))], rng.random()
        if kind < 0.375:
            colour = like.colour
        elif kind < 0.75:
            shape = like.shape
        if (colour, shape) not in present | absent:
            absent.add((colour, shape))
            yield _is_there(f"{colour} {shape}"), "no"


def _ask_left(scene: Scene, rng: np.random.Generator) -> _Asked:
    """One question per pair that is clearly side by side; order and side are drawn, so yes is as likely as no."""
    for pair in combinations(_seen(scene), 2):
        if abs(pair[0].u - pair[1].u) < SIDE_MARGIN:
            continue
        a, b = pair if rng.random() < 0.5 else pair[::-1]
        side = _one_of(("left", "right"), rng)
        text = _one_of(_SIDE, rng).format(a=a.name, b=b.name, side=side)
        yield text, _yes((a.u < b.u) == (side == "left"))


def _ask_what_left(scene: Scene, rng: np.random.Generator) -> _Asked:
    """Asked where exactly one object, or none, is on that side, and every other one is clearly on the other side."""
    things = sorted(_seen(scene), key=lambda thing: thing.u)
    if not scene.clear or len(things) < 2:
        return
    empty: list[tuple[str, str]] = []
    for side, order in (("left", things), ("right", things[::-1])):
        first, second = order[0], order[1]
        if abs(first.u - second.u) < SIDE_MARGIN:
            continue
        empty.append((_one_of(_WHAT_SIDE, rng).format(a=first.name, side=side), NOTHING))
        if len(order) == 2 or abs(order[2].u - second.u) >= SIDE_MARGIN:
            yield _one_of(_WHAT_SIDE, rng).format(a=second.name, side=side), first.name
    if empty and rng.random() < 0.75:  # about a third of the answers
        yield empty[rng.integers(len(empty))]


def _cell(value: float, names: Sequence[str]) -> str | None:
    """Which third of [0, 1] the value is in, None near a boundary."""
    if min(abs(value - 1 / 3), abs(value - 2 / 3)) < CELL_MARGIN:
        return None
    return names[min(int(value * 3), 2)]


def _ask_where(scene: Scene, rng: np.random.Generator) -> _Asked:
    if not scene.upright:
        return
    for thing in _seen(scene):
        row, column = _cell(thing.v, _ROWS), _cell(thing.u, _COLUMNS)
        if row and column and thing.standing:
            yield _WHERE.format(a=thing.name), f"{row} {column}"


def _ask_held(scene: Scene, rng: np.random.Generator) -> _Asked:
    """A scene with an empty gripper asks seldom, as such scenes are many: see `HELD_SHARE`."""
    if not scene.gripper:
        return
    if scene.held is None:
        if rng.random() < 0.5 * HELD_SHARE / (1 - HELD_SHARE):
            yield WHAT_HELD, NOTHING
        things = _seen(scene)
        if things and rng.random() < 0.65 * HELD_SHARE / (1 - HELD_SHARE):
            yield HOLDING.format(a=things[rng.integers(len(things))].name), "no"
        return
    held = scene.objects[scene.held]
    if not held.seen:
        return
    yield WHAT_HELD, held.name
    yield HOLDING.format(a=held.name), "yes"
    others = [thing for thing in _seen(scene) if thing is not held]
    if others and rng.random() < 0.5:
        yield HOLDING.format(a=others[rng.integers(len(others))].name), "no"


def _ask_point(scene: Scene, rng: np.random.Generator) -> _Asked:
    """Where things are, and, told what to do, where to go: to the object named, or from the first one to the second."""
    standing = [thing for thing in _seen(scene) if thing.standing]
    for thing in _seen(scene):
        yield _POINT_TO.format(a=thing.name), _place(thing)
    for thing in standing:
        yield _one_of(PICK, rng).format(a=thing.name), _place(thing)
    if len(standing) > 1:
        for wordings in (PLACE_ON, PLACE_BESIDE):
            first, second = (standing[i] for i in rng.permutation(len(standing))[:2])
            side = _one_of(("left", "right"), rng)
            yield _one_of(wordings, rng).format(a=first.name, b=second.name, side=side), _place(first) + _place(second)


def _place(thing: SceneObject) -> str:
    return location_token(thing.v) + location_token(thing.u)


_ASK: dict[str, Callable[[Scene, np.random.Generator], _Asked]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "count": _ask_count,
    "exists": _ask_exists,
    "left": _ask_left,
    "what-left": _ask_what_left,
    "where": _ask_where,
    "held": _ask_held,
    POINT: _ask_point,
}
