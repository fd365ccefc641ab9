"""Names are found, and pointed to where the label images show what they name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aegis_policy.data.vqa import Legend
from aegis_policy.model.processor import word_tokenizer
from aegis_policy.training.grounding import MIN_PIXELS, GroundingHead, Named, Names

LEGEND = Legend(("red", "green"), ("cube", "ball", "cylinder"), ("gripper",))
RED_CUBE, GREEN_BALL, GRIPPER = 1, 5, 7
QUESTIONS = (
    "is the red cube left of the green ball",
    "what colour is the cube",
    "is the gripper holding the red cylinder",
)
SIZE = 32


@pytest.fixture
def labels() -> np.ndarray:
    """Three rows of two images: the red cube in the first image's upper left, the green ball in both."""
    labels = np.zeros((3, 2, SIZE, SIZE), np.uint8)
    labels[:, 0, 2:8, 4:12] = RED_CUBE
    labels[:, 0, 20:28, 20:24] = GREEN_BALL
    labels[:, 1, 10:20, 0:30] = GREEN_BALL
    labels[:, 0, 10:14, 20:32] = GRIPPER
    labels[:, 1, 31, : MIN_PIXELS - 1] = RED_CUBE  # too little of it to be seen
    return labels


@pytest.fixture
def named(labels: np.ndarray) -> Named:
    tokenizer = word_tokenizer(QUESTIONS)
    rows = [tokenizer(text)["input_ids"] for text in QUESTIONS]
    ids = torch.zeros(3, max(map(len, rows)), dtype=torch.long)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return Names(tokenizer, LEGEND).find(ids, labels)


def test_names_are_a_colour_followed_by_a_shape_or_another_thing(named: Named) -> None:
    found = [[text.split()[i] for i in named.is_name[row].nonzero()] for row, text in enumerate(QUESTIONS)]
    assert found == [["cube", "ball"], [], ["gripper", "cylinder"]]


def test_names_point_to_the_middle_of_what_they_name(named: Named, labels: np.ndarray) -> None:
    cube, ball = named.is_name[0].nonzero()[:, 0]
    gripper = named.is_name[2].nonzero()[0, 0]
    assert named.shown[2, gripper].tolist() == [1, 0]
    torch.testing.assert_close(named.place[2, gripper, 0], torch.tensor([26, 12]) / SIZE * 2 - 1)
    assert named.shown[0, cube].tolist() == [1, 0]
    assert named.shown[0, ball].tolist() == [1, 1]
    for token, label, image in ((cube, RED_CUBE, 0), (ball, GREEN_BALL, 0), (ball, GREEN_BALL, 1)):
        y, x = np.nonzero(labels[0, image] == label)
        middle = torch.tensor([x.mean() + 0.5, y.mean() + 0.5]) / SIZE * 2 - 1
        torch.testing.assert_close(named.place[0, token, image], middle.float())


def test_what_is_not_there_is_not_shown(named: Named) -> None:
    _, cylinder = named.is_name[2].nonzero()[:, 0]
    assert named.shown[2, cylinder].tolist() == [0, 0]
    assert (named.place[2, cylinder] == 0).all()


def test_loss_is_about_names_only_and_falls_to_nothing(named: Named) -> None:
    """Hidden states that hold the answer, read off by an identity."""
    head = GroundingHead(6)
    with torch.no_grad():
        head.out.weight.copy_(torch.eye(6))
        head.out.bias.zero_()
    truth = torch.cat([60 * named.shown[..., None] - 30, named.place], dim=-1).flatten(-2)
    assert head(truth, named).item() == pytest.approx(0, abs=1e-6)
    elsewhere = torch.where(named.is_name[..., None], truth, torch.randn_like(truth))
    assert head(elsewhere, named).item() == pytest.approx(0, abs=1e-6)
    assert head(truth + 0.1 * named.is_name[..., None], named).item() > 0.1
    one = Named(named.is_name, named.shown[..., :1], named.place[..., :1, :])  # a single camera
    assert head(truth, one).item() == pytest.approx(0, abs=1e-6)
