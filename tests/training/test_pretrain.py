"""Pre-training on a handful of drawn scenes: it learns, stops and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from aegis_policy.data.mosaic import Mosaics
from aegis_policy.data.vqa import Legend, VQASet
from aegis_policy.model.checkpoint import load_backbone
from aegis_policy.training.config import PretrainConfig
from aegis_policy.training.patches import Patches, PatchHeads
from aegis_policy.training.pretrain import Pretrainer, QuestionSampler, pretrain

SIZE, RED = 96, 1


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Eight pictures with a bright square on the left or on the right, and where it is."""
    path, rng = tmp_path / "squares.hdf5", np.random.default_rng(0)
    images = rng.integers(90, 110, (8, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.zeros((8, SIZE, SIZE), np.uint8)
    rows = []
    for i in range(8):
        left = 12 if i % 2 else 60
        images[i, 36:60, left : left + 24] = (220, 20, 20)
        labels[i, 36:60, left : left + 24] = RED
        rows.append(json.dumps([["where is the red cube", "left" if i % 2 else "right", "where"]]))
    with h5py.File(path, "w") as file:
        file["images/front"], file["labels/front"], file["questions"] = images, labels, rows
        file.attrs["colours"], file.attrs["shapes"] = ["red", "green"], ["cube", "ball", "cylinder"]
    return path


def recipe(questions: Path, **changes: object) -> PretrainConfig:
    settings: dict[str, object] = {
        "vqa": (str(questions),),
        "holdout": (str(questions),),
        "steps": 4,
        "vision_steps": 1,
        "rows": 4,
        "questions": 2,
        "eval_every": 2,
        "holdout_questions": 8,
    }
    return PretrainConfig(**(settings | changes))  # type: ignore[arg-type]


def test_loss_falls(questions: Path, tmp_path: Path) -> None:
    trainer = Pretrainer(recipe(questions, steps=40, final_share=0.0), tmp_path / "run", None)
    losses = [trainer.step(step)["loss"] for step in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_resumed_run_ends_where_an_uninterrupted_one_does(questions: Path, tmp_path: Path) -> None:
    whole = pretrain(recipe(questions), tmp_path / "whole")
    interrupted = Pretrainer(recipe(questions), tmp_path / "cut", None)
    interrupted.step = _dies_at(interrupted.step, 3)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = pretrain(PretrainConfig(), tmp_path / "cut", resume=True)
    ours, theirs = load_backbone(whole)[0].state_dict(), load_backbone(resumed)[0].state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, msg=name)
    assert str(tmp_path) not in (resumed / "train_config.json").read_text()  # a checkpoint is made to be published
    assert (resumed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def _dies_at(step_function: Callable[[int], dict[str, float]], last: int) -> Callable[[int], dict[str, float]]:
    def step(step: int) -> dict[str, float]:
        if step == last:
            raise KeyboardInterrupt
        return step_function(step)

    return step


def test_what_is_written_may_be_read_by_whom_the_umask_lets(questions: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    pretrain(recipe(questions, steps=1, vision_steps=0), tmp_path / "run")
    modes = {path.stat().st_mode for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_a_second_run_does_not_overwrite_the_first(questions: Path, tmp_path: Path) -> None:
    pretrain(recipe(questions, steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a training run"):
        pretrain(recipe(questions, steps=1), tmp_path / "run")


def test_forward_pass_is_one_graph_that_is_not_compiled_at_every_step(questions: Path, tmp_path: Path) -> None:
    """A graph that breaks, or is made anew at every step, falls back to eager speed without a word."""
    trainer = Pretrainer(recipe(questions, steps=100, final_share=0.0), tmp_path / "run", None)
    counter = CompileCounter()
    trainer.forward = torch.compile(trainer._forward, backend=counter, fullgraph=True, dynamic=False)
    for step in range(6):
        trainer.step(step)
    assert counter.frame_count <= 2  # the second time, the first step's hooks have gone


def test_sets_without_or_with_another_legend_are_refused(questions: Path, tmp_path: Path) -> None:
    other, bare = tmp_path / "other.hdf5", tmp_path / "bare.hdf5"
    for path in (other, bare):
        path.write_bytes(questions.read_bytes())
    with h5py.File(other, "a") as file:
        file.attrs["colours"] = ["green", "red"]
    with h5py.File(bare, "a") as file:
        del file.attrs["colours"]
    for path, message in ((other, "other colours, shapes or others"), (bare, "needs label images")):
        with pytest.raises(ValueError, match=message):
            pretrain(recipe(questions, vqa=(str(questions), str(path))), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vqa": ()}, "no question sets"),
        ({"rows": 1}, "--rows must be at least 2"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be above 0"),
        ({"two_cameras": 1.5}, "--two-cameras"),
    ],
)
def test_wrong_recipes_are_refused(questions: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(recipe(questions, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_not_finite_ends_the_run(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step \d: the gradient is not finite; try a lower --learning-rate"):
        pretrain(recipe(questions, learning_rate=1e30, vision_steps=0), tmp_path / "run")


def test_patches_name_what_covers_them_and_its_outline(questions: Path) -> None:
    patches = Patches.of(VQASet(questions).stack(np.arange(2), ["front"], labels=True), grid=8)
    shown = torch.zeros(2, 8, 8, dtype=torch.long)
    shown[0, 3:5, 5:7] = RED  # 12 px patches: rows 36..60 are patches 3 and 4, columns 60..84 patches 5 and 6
    shown[1, 3:5, 1:3] = RED
    assert torch.equal(patches.label.reshape(2, 8, 8), shown)
    assert torch.equal(patches.outline.mean(dim=-1).reshape(2, 8, 8), (shown > 0).float())


def test_outline_tells_where_in_a_patch_the_object_is() -> None:
    labels = np.zeros((1, 24, 24), np.uint8)
    labels[0, 12:14, 0:6] = 3  # the top left of the lower left patch: one of six rows, three of six columns
    outline = Patches.of(labels, grid=2).outline.reshape(4, 6, 6)
    expected = torch.zeros(4, 6, 6)
    expected[2, 0, :3] = 1.0
    assert torch.equal(outline, expected)


def test_others_are_neither_a_colour_nor_a_shape_and_not_cut_out_for_mosaics(questions: Path) -> None:
    legend = Legend(("red", "green"), ("cube", "ball", "cylinder"), ("gripper",))
    heads = PatchHeads(width=4, legend=legend, grid=8)
    patches = Patches.of(np.full((1, 24, 24), legend.objects + 1, np.uint8), grid=8)
    with torch.no_grad():
        for head, known in ((heads.colour, len(legend.colours)), (heads.shape, len(legend.shapes))):
            head.weight.zero_()
            head.bias.copy_(30 * torch.eye(known + 2)[known + 1])  # sure that it is the gripper
        sure = heads(torch.zeros(1, 64, 4), patches)
        heads.shape.bias.copy_(30 * torch.eye(5)[1])  # sure that it is a cube
        assert heads(torch.zeros(1, 64, 4), patches) > sure + 25
    with h5py.File(questions, "a") as file:
        file["labels/front"][...] = 7 * (file["labels/front"][...] > 0)
        file.attrs["others"] = ["gripper"]
    with pytest.raises(ValueError, match="no object"):
        Mosaics([VQASet(questions)])


def test_mosaics_are_made_of_labelled_cut_outs(questions: Path) -> None:
    images, labels = Mosaics([VQASet(questions)]).batch(np.random.default_rng(0), 3)
    assert images.shape == (3, 1, SIZE, SIZE, 3)
    red = images[..., 0] == 220
    assert np.array_equal(labels == RED, red)  # every label pixel travelled with its picture
    assert red.mean() > 0.5  # the squares are as large as a tile
    assert (images.max(axis=(1, 2, 3, 4)) > 0).all()


def test_batches_depend_on_the_step_alone(questions: Path) -> None:
    sampler = QuestionSampler([VQASet(questions)], recipe(questions))
    first, again, other = (sampler.batch(step, 2, 4) for step in (7, 7, 8))
    assert np.array_equal(first[0], again[0])
    assert first[2] == again[2]
    assert not np.array_equal(first[0], other[0])
