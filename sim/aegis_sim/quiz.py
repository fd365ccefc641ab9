"""Questions to a policy, scored: which to ask, what counts as right, and what answers without looking would get."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aegis_policy import Policy
from aegis_sim.question_sets import record_questions
from aegis_sim.questions import POINT, Question
from aegis_sim.statistics import Rate, rate_of

CAMERA = "front"  # the view that all questions are about
ARTICLES = ("a", "an", "the")
NUMERALS = dict(zip(("zero", "one", "two", "three", "four", "five", "six"), "0123456", strict=True))


@dataclass(frozen=True)
class Asked:
    """One question, its true answer, and what the policy said at control step `step` of its episode."""

    question: str
    family: str
    truth: str
    answer: str
    step: int = 0

    @property
    def right(self) -> bool:
        return self.answer == self.truth

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "right": self.right}


def normalised(answer: str) -> str:
    """An answer as it is compared: lower case, no articles, no full stop, numbers in digits (as VQAv2 has it)."""
    words = answer.lower().strip(" \n.!?").split()
    return " ".join(NUMERALS.get(word, word) for word in words if word not in ARTICLES)


def pick_questions(pool: Sequence[Question], count: int, rng: np.random.Generator) -> list[Question]:
    """Up to `count` questions of `pool`, at random, no family a second time before every one had its turn.

    Pointing, which is answered in location tokens and not scored, is left out. Families differ widely in how
    many questions a scene allows; drawing uniformly from the pool would measure little but the largest.
    """
    families: dict[str, list[Question]] = defaultdict(list)
    for index in rng.permutation(len(pool)):
        if pool[index].family != POINT:
            families[pool[index].family].append(pool[index])
    order = rng.permutation(sorted(families))
    turns = chain.from_iterable(zip_longest(*(families[family] for family in order)))
    return [question for question in turns if question is not None][:count]


def ask(policy: Policy, image: np.ndarray, picked: Iterable[Question], step: int = 0) -> list[Asked]:
    """The policy's answers to questions about one front image, uint8 [H, W, 3]."""
    return [
        Asked(
            question=question.text,
            family=question.family,
            truth=normalised(question.answer),
            answer=normalised("".join(policy.ask({CAMERA: image}, question.text))),
            step=step,
        )
        for question in picked
    ]


def question_scenes(
    task: str, scenes: int, seed: int, split: str, size: int
) -> tuple[np.ndarray, list[list[Question]]]:
    """Front images, uint8 [N, size, size, 3], and all questions about each, just as `aegis record` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = record_questions(task, scenes, Path(folder) / "set.hdf5", seed, size=size, split=split)
        with h5py.File(path) as file:
            images = file[f"images/{CAMERA}"][:]
            pools = [[Question(*entry) for entry in json.loads(row)] for row in file["questions"].asstr()[:]]
    return images, pools


def by_family(asked: Iterable[Asked]) -> dict[str, Rate]:
    """Family -> share of right answers, in alphabetical order."""
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for one in asked:
        outcomes[one.family].append(one.right)
    return {family: rate_of(outcomes[family]) for family in sorted(outcomes)}


@dataclass(frozen=True)
class BlindBaselines:
    """What can be answered without seeing: learned from questions about other scenes, scored on the ones asked.

    Attributes:
        majority: family -> its most frequent answer.
        by_text: exact question text -> its most frequent answer; a text never met falls back to its family's majority.
    """

    majority: dict[str, str]
    by_text: dict[str, str]

    @classmethod
    def fit(cls, sample: Iterable[Question]) -> BlindBaselines:
        families: dict[str, Counter[str]] = defaultdict(Counter)
        texts: dict[str, Counter[str]] = defaultdict(Counter)
        for question in sample:
            families[question.family][normalised(question.answer)] += 1
            texts[question.text][normalised(question.answer)] += 1
        return cls(
            majority={family: answers.most_common(1)[0][0] for family, answers in families.items()},
            by_text={text: answers.most_common(1)[0][0] for text, answers in texts.items()},
        )

    def score(self, asked: Sequence[Asked]) -> dict[str, Rate]:
        """Accuracy on the questions asked of always saying the family's, and the text's, most frequent answer."""
        majority = [self.majority.get(one.family) for one in asked]
        question_only = [self.by_text.get(one.question, guess) for one, guess in zip(asked, majority, strict=True)]
        return {
            "majority": rate_of(guess == one.truth for guess, one in zip(majority, asked, strict=True)),
            "question_only": rate_of(guess == one.truth for guess, one in zip(question_only, asked, strict=True)),
        }
