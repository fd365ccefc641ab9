"""How an evaluation may differ from the demonstrations, by name: fixed, so that everyone means the same by them."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_sim.scenery import CameraView, Look

HELD_OUT_PAIRS = frozenset({("red", "ball"), ("blue", "cylinder"), ("yellow", "cube")})
"""Colours of shapes that no demonstration shows; both words occur in others."""
SEEN_WORDINGS = 2
"""Of each kind of instruction, so many wordings are demonstrated; the others are not."""


_NOMINAL = Look()


@dataclass(frozen=True)
class Split:
    """One way in which episodes may be new.

    Attributes:
        look: the room.
        unseen_pairs: the thing to take is of HELD_OUT_PAIRS; otherwise none of them is on the table.
        unseen_wordings: the instruction is in words that no demonstration used.
        distractors: two of the four things on the table are of kinds and colours that no demonstration shows.
    """

    look: Look = _NOMINAL
    unseen_pairs: bool = False
    unseen_wordings: bool = False
    distractors: bool = False


_MOVED = Look(
    # 35 degrees around the table's middle, a little lower, and another table: what a policy trained on the nominal room
    # has never seen, though a person would hardly hesitate.
    front=CameraView(position=(0.42, 0.30, 1.24), target=(-0.01, 0.0, 0.85), fovy=38.0),
    table_texture="light-wood",
    light_position=(0.4, -0.8, 1.6),
    light_diffuse=(0.7, 0.7, 0.65),
)

SPLITS: dict[str, Split] = {
    "seen": Split(),
    "unseen-pairs": Split(unseen_pairs=True),
    "unseen-wordings": Split(unseen_wordings=True),
    "moved-camera": Split(look=_MOVED),
    "distractors": Split(distractors=True),
}
"""Demonstrations are of the split "seen" unless one asks for another; their seeds never meet those of evaluations."""


def split_named(name: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SPLITS:
        raise ValueError(f"split '{name}': expected one of {', '.join(SPLITS)}")
    return SPLITS[name]
