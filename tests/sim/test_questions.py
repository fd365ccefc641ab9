"""Every family's answers against scenes made by hand, and how far one gets without looking."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from aegis_sim.drawn import draw
from aegis_sim.questions import (
    COLOURS,
    FAMILIES,
    GRIPPER_LABEL,
    HELD_SHARE,
    LOCATION_BINS,
    MIN_VISIBLE,
    PICK,
    PLACE_BESIDE,
    PLACE_ON,
    SHAPES,
    VOCABULARY,
    Question,
    Scene,
    SceneObject,
    draw_objects,
    label,
    location_token,
    questions,
)

WORD = re.compile(r"<loc\d{4}>|\w+")


def thing(name: str, u: float, v: float = 0.5, visible: float = 0.01) -> SceneObject:
    colour, shape = name.split()
    return SceneObject(colour, shape, u, v, visible)


def asked(scene: Scene, family: str, tries: int = 100) -> dict[str, str]:
    """Every question of a family that can be drawn about a scene, with its answer, which must always be the same."""
    answers: dict[str, str] = {}
    for seed in range(tries):
        for question in questions(scene, np.random.default_rng(seed)):
            if question.family == family:
                assert answers.setdefault(question.text, question.answer) == question.answer
    return answers


THREE = Scene((thing("red cube", 0.2, 0.15), thing("red ball", 0.5, 0.5), thing("blue cylinder", 0.85, 0.9)))


def test_colour_and_shape_are_asked_where_one_object_is_meant() -> None:
    scene = Scene((thing("red cube", 0.2), thing("red ball", 0.5), thing("blue ball", 0.8)))
    assert asked(scene, "colour") == {"what colour is the cube": "red", "what color is the cube": "red"}
    assert asked(scene, "shape") == {"what shape is the blue object": "ball"}


def test_counts() -> None:
    answers = asked(THREE, "count")
    assert answers.pop("how many objects are there") == "3"
    assert [answers.pop(f"how many {shape}s are there") for shape in SHAPES] == ["1", "1", "1"]
    assert answers["how many red objects are there"] == "2"
    assert answers["how many blue objects are there"] == "1"
    assert {answers[f"how many {c} objects are there"] for c in COLOURS if c not in ("red", "blue")} == {"0"}


def test_exists_is_balanced_and_true() -> None:
    answers = asked(THREE, "exists")
    present = {"is there a red cube", "is there a red ball", "is there a blue cylinder"}
    assert {text for text, answer in answers.items() if answer == "yes"} == present
    assert answers["is there a red cylinder"] == answers["is there a blue cube"] == "no"
    assert answers["is there an orange cube"] == "no"
    once = [q.answer for q in questions(THREE, np.random.default_rng(0)) if q.family == "exists"]
    assert sorted(once) == ["no"] * 3 + ["yes"] * 3


def test_left_is_left_in_the_image() -> None:
    answers = asked(THREE, "left")
    assert answers["is the red cube left of the blue cylinder"] == "yes"
    assert answers["is the red cube to the left of the red ball"] == "yes"
    assert answers["is the red cube right of the blue cylinder"] == "no"
    assert answers["is the blue cylinder to the right of the red ball"] == "yes"
    assert answers["is the blue cylinder left of the red ball"] == "no"


def test_nothing_is_asked_about_sides_of_objects_above_one_another() -> None:
    scene = Scene((thing("red cube", 0.50, 0.2), thing("blue ball", 0.55, 0.8)))
    assert asked(scene, "left") == {}
    assert asked(scene, "what-left") == {}


def test_what_is_left_names_the_only_object_there_or_nothing() -> None:
    answers = asked(THREE, "what-left")
    assert answers["what is left of the red cube"] == "nothing"
    assert answers["what is to the left of the red ball"] == "red cube"
    assert answers["what is right of the red ball"] == "blue cylinder"
    assert answers["what is to the right of the blue cylinder"] == "nothing"
    assert not any("left of the blue cylinder" in text for text in answers), "two objects are left of it"


def test_where_names_the_third_of_the_image_away_from_its_lines() -> None:
    assert asked(THREE, "where") == {
        "where is the red cube": "back left",
        "where is the red ball": "middle center",
        "where is the blue cylinder": "front right",
    }
    assert asked(Scene((thing("red cube", 0.34, 0.5),)), "where") == {}
    assert asked(Scene((thing("red cube", 0.5, 0.65),)), "where") == {}
    assert asked(Scene((thing("red cube", 0.5),), upright=False), "where") == {}


def test_held() -> None:
    pair = (thing("red cube", 0.3), thing("blue ball", 0.7))
    assert asked(Scene(pair, held=1, gripper=True), "held") == {
        "what is the gripper holding": "blue ball",
        "is the gripper holding the blue ball": "yes",
        "is the gripper holding the red cube": "no",
    }
    assert asked(Scene(pair, gripper=True), "held") == {
        "what is the gripper holding": "nothing",
        "is the gripper holding the red cube": "no",
        "is the gripper holding the blue ball": "no",
    }
    assert asked(Scene(pair), "held") == {}, "no gripper in the picture"
    hanging = (pair[0], replace(pair[1], standing=False))
    assert "where is the blue ball" not in asked(Scene(hanging, held=1, gripper=True), "where"), "it hangs in the air"


def test_point_answers_in_location_tokens() -> None:
    answers = asked(Scene((thing("green cube", 0.96, 0.1),)), "point")
    texts = ["point to the green cube", *(wording.format(a="green cube") for wording in PICK)]
    assert answers == dict.fromkeys(texts, "<loc0112><loc0976>")
    tokens = {location_token(value) for value in np.linspace(0, 1, 500)}
    assert len(tokens) == LOCATION_BINS
    assert {location_token(0.0), location_token(1.0)} == {"<loc0016>", "<loc1008>"}


def test_told_to_place_one_points_from_the_first_to_the_second() -> None:
    answers = asked(Scene((thing("green cube", 0.96, 0.1), thing("red ball", 0.03, 0.1))), "point")
    there, back = "<loc0112><loc0976><loc0112><loc0016>", "<loc0112><loc0016><loc0112><loc0976>"
    for wording in (*PLACE_ON, *PLACE_BESIDE):
        for side in ("left", "right"):
            assert answers[wording.format(a="green cube", b="red ball", side=side)] == there
            assert answers[wording.format(a="red ball", b="green cube", side=side)] == back


def test_half_hidden_objects_make_nothing_uncertain() -> None:
    faint = thing("blue ball", 0.6, visible=MIN_VISIBLE / 2)
    scene = Scene((thing("red cube", 0.2), thing("green ball", 0.9), faint))
    texts = {q.text for seed in range(200) for q in questions(scene, np.random.default_rng(seed))}
    assert not any("blue ball" in text for text in texts)
    assert not any(text.startswith(("how many", "what is left", "what is right")) for text in texts)
    assert "what colour is the ball" not in texts, "a reader may see the second ball"
    assert "is the red cube left of the green ball" in texts


def test_hidden_objects_are_not_there() -> None:
    scene = Scene((thing("red cube", 0.2), thing("blue ball", 0.6, visible=0.0)))
    assert asked(scene, "count")["how many objects are there"] == "1"
    assert asked(scene, "exists")["is there a blue ball"] == "no"


def test_an_empty_picture_can_be_counted() -> None:
    assert asked(Scene(()), "count")["how many objects are there"] == "0"


def test_same_generator_same_questions() -> None:
    assert questions(THREE, np.random.default_rng(7)) == questions(THREE, np.random.default_rng(7))


def test_the_vocabulary_is_small_and_covers_everything() -> None:
    used: set[str] = set(WORD.findall(" ".join((*PICK, *PLACE_ON, *PLACE_BESIDE)).format(a="", b="", side="left")))
    for question in drawn_questions(300) + held_questions(300):
        used.update(WORD.findall(question.text) + WORD.findall(question.answer))
    assert used <= set(VOCABULARY)
    assert len(VOCABULARY) == len(set(VOCABULARY)) < 90
    assert all(word == word.lower() for word in VOCABULARY)


def test_labels_number_every_colour_and_shape() -> None:
    values = [label(colour, shape) for colour in COLOURS for shape in SHAPES]
    assert [*values, GRIPPER_LABEL] == list(range(1, len(COLOURS) * len(SHAPES) + 2))


def test_objects_are_distinct_and_of_every_number() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_objects(rng) for _ in range(800)]
    assert all(len(set(pairs)) == len(pairs) for pairs in drawn)
    counts = Counter(len(pairs) for pairs in drawn)
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 0.2 * len(drawn)


def drawn_questions(scenes: int, seed: int = 0) -> list[Question]:
    rng = np.random.default_rng(seed)
    return [question for _ in range(scenes) for question in questions(draw(rng, 32).scene, rng)]


def held_questions(scenes: int) -> list[Question]:
    """About hand-made scenes, a quarter of which hold something."""
    rng = np.random.default_rng(1)
    asked: list[Question] = []
    for _ in range(scenes):
        things = tuple(thing(f"{c} {s}", *rng.uniform(0.1, 0.9, 2)) for c, s in draw_objects(rng))
        held = int(rng.integers(len(things))) if rng.random() < HELD_SHARE else None
        asked += [q for q in questions(Scene(things, held, gripper=True), rng) if q.family == "held"]
    return asked


def blind_accuracy(sample: Iterable[Question], by_text: bool) -> dict[str, float]:
    """Family -> accuracy of its most frequent answer, or (by_text) of each question's; learned on one half only."""
    halves: list[dict[str, list[Question]]] = [defaultdict(list), defaultdict(list)]
    for i, question in enumerate(sample):
        halves[i % 2][question.family].append(question)
    result: dict[str, float] = {}
    for family, learned in halves[0].items():
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for question in learned:
            counts[question.text if by_text else family][question.answer] += 1
            counts[""][question.answer] += 1
        guesses = {text: answers.most_common(1)[0][0] for text, answers in counts.items()}
        scored = halves[1][family]
        right = sum(guesses.get(q.text if by_text else family, guesses[""]) == q.answer for q in scored)
        result[family] = right / len(scored)
    return result


@pytest.fixture(scope="module")
def many() -> list[Question]:
    return drawn_questions(1500) + held_questions(4000)


def test_every_family_is_asked(many: list[Question]) -> None:
    assert {question.family for question in many} == {*FAMILIES, "point"}


@pytest.mark.parametrize("by_text", [False, True], ids=["majority", "question-only"])
def test_one_does_not_get_far_without_looking(many: list[Question], by_text: bool) -> None:
    accuracy = blind_accuracy(many, by_text)
    assert max(accuracy.values()) < 0.6, accuracy


def test_yes_is_as_likely_as_no(many: list[Question]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in many:
        if question.answer in ("yes", "no"):
            answers[question.family][question.answer] += 1
    assert set(answers) == {"exists", "left", "held"}
    for family, counts in answers.items():
        assert 0.45 < counts["yes"] / counts.total() < 0.55, (family, counts)
