"""What a robot is told to do on the tabletop, and when it is done.

Left and right are the front camera's, as in every question: a person looks at the picture, not at the robot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

from aegis_sim.questions import PICK, PLACE_BESIDE, PLACE_ON, draw_objects
from aegis_sim.scenery import (
    AREA_X,
    AREA_Y,
    MAX_OBJECTS,
    ODD_COLOURS,
    ODD_SHAPES,
    SPACING,
    TABLE_HEIGHT,
    Look,
    Primitive,
    half_height,
    random_primitives,
)
from aegis_sim.splits import HELD_OUT_PAIRS, SEEN_WORDINGS, Split

Kind = Literal["pick", "place-on", "place-beside"]
WORDINGS: dict[Kind, tuple[str, ...]] = {"pick": PICK, "place-on": PLACE_ON, "place-beside": PLACE_BESIDE}

LIFT_HEIGHT = 0.04  # m above where it stood: picked up
FLAT = ("cube", "cylinder")  # what something can be placed on
BESIDE = 0.095  # m between the centres of two things that stand beside one another: fingers fit between them
NEAR_ON, NEAR_BESIDE, LEVEL = 0.02, 0.045, 0.008  # m beside and above the place, within which a thing is there
AT_REST = 0.02  # m/s


@dataclass(frozen=True)
class Goal:
    """What is to be done: `target` and `reference` are indices of objects, `wording` a template of the instruction."""

    kind: Kind
    target: int
    wording: str
    reference: int | None = None
    side: str = ""

    def instruction(self, primitives: Sequence[Primitive]) -> str:
        reference = "" if self.reference is None else primitives[self.reference].name
        return self.wording.format(a=primitives[self.target].name, b=reference, side=self.side)

    def place(self, primitives: Sequence[Primitive], reference: np.ndarray, look: Look) -> np.ndarray:
        """Where the target's centre shall come to rest, [3], world, m, for a reference whose centre is at [3]."""
        assert self.reference is not None, "picked up, a thing may be anywhere"
        height = half_height(primitives[self.target].shape)
        if self.kind == "place-on":
            return reference + np.array([0.0, 0.0, half_height(primitives[self.reference].shape) + height])
        x, y = reference[:2] + look.front.right()[:2] * (BESIDE if self.side == "right" else -BESIDE)
        return np.array([x, y, TABLE_HEIGHT + height])

    @property
    def near(self) -> float:
        """How far beside that place, m, still counts."""
        return NEAR_ON if self.kind == "place-on" else NEAR_BESIDE


def draw_episode(kind: Kind, split: Split, rng: np.random.Generator) -> tuple[list[Primitive], Goal]:
    """Objects and what to do with them: always something that is not done yet and can be."""
    while True:
        pairs = draw_objects(rng)
        if split.distractors:
            pairs = pairs[: MAX_OBJECTS - 2]
        named = len(pairs)
        if named < (1 if kind == "pick" else 2) or (not split.unseen_pairs and HELD_OUT_PAIRS & set(pairs)):
            continue
        if split.distractors:
            pairs += [(str(rng.choice(list(ODD_COLOURS))), shape) for shape in ODD_SHAPES]
        primitives = random_primitives(rng, pairs)
        goal = _draw_goal(kind, split, primitives[:named], rng)
        if split.unseen_pairs and pairs[goal.target] not in HELD_OUT_PAIRS:
            continue
        if _possible(goal, primitives, split.look):
            return primitives, goal


def possible_goals(primitives: Sequence[Primitive], look: Look) -> list[Goal]:
    """Everything that can be asked for in a scene, in the first wording of each kind; things stand where they began."""
    goals = [goal for goal in _all_goals(primitives) if goal.wording == WORDINGS[goal.kind][0]]
    return [goal for goal in goals if _possible(goal, primitives, look)]


def find_goal(instruction: str, primitives: Sequence[Primitive]) -> Goal | None:
    """What a person means by `instruction`, in any of the wordings; None for what this table does not know."""
    said = " ".join(instruction.lower().rstrip(".! ").split())
    return next((goal for goal in _all_goals(primitives) if goal.instruction(primitives) == said), None)


def _all_goals(primitives: Sequence[Primitive]) -> Iterator[Goal]:
    named = [index for index, thing in enumerate(primitives) if thing.shape not in ODD_SHAPES]
    for kind, wordings in WORDINGS.items():
        for wording in wordings:
            if kind == "pick":
                yield from (Goal(kind, target, wording) for target in named)
                continue
            sides = ("left", "right") if kind == "place-beside" else ("",)
            for target, reference in permutations(named, 2):
                yield from (Goal(kind, target, wording, reference, side) for side in sides)


def _draw_goal(kind: Kind, split: Split, named: Sequence[Primitive], rng: np.random.Generator) -> Goal:
    wordings = WORDINGS[kind]
    known = wordings[SEEN_WORDINGS:] if split.unseen_wordings else wordings[:SEEN_WORDINGS]
    wording = str(rng.choice(known))
    if kind == "pick":
        return Goal(kind, int(rng.integers(len(named))), wording)
    target, reference = map(int, rng.permutation(len(named))[:2])
    side = str(rng.choice(("left", "right"))) if kind == "place-beside" else ""
    return Goal(kind, target, wording, reference, side)


def _possible(goal: Goal, primitives: Sequence[Primitive], look: Look) -> bool:
    """Whether there is room where the target shall go, in reach and in sight, and it is not there already."""
    if goal.reference is None:
        return True
    if goal.kind == "place-on":
        return primitives[goal.reference].shape in FLAT
    reference = primitives[goal.reference]
    x, y = goal.place(primitives, np.array([reference.x, reference.y, TABLE_HEIGHT]), look)[:2]
    if not (AREA_X[0] <= x <= AREA_X[1] and AREA_Y[0] <= y <= AREA_Y[1]):
        return False
    away = [float(np.hypot(thing.x - x, thing.y - y)) for thing in primitives]
    others = [away[i] for i in range(len(primitives)) if i not in (goal.target, goal.reference)]
    return away[goal.target] > 2 * NEAR_BESIDE and min(others, default=np.inf) >= 0.9 * SPACING
