"""The loop: it learns, writes what it promises, refuses what is wrong before it starts, and resumes to the bit."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aegis_policy.data.convert import convert
from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.model.checkpoint import load, load_backbone
from aegis_policy.training import state
from aegis_policy.training.anchor import Anchor, anchor_of_sets
from aegis_policy.training.batches import Batches
from aegis_policy.training.commands import anchor as anchor_command
from aegis_policy.training.commands import train as train_command
from aegis_policy.training.config import MethodName, TrainConfig, source_name
from aegis_policy.training.train import FINAL_RATE, ForgettingError, Trainer, rate_factor, resume, train
from aegis_policy.training.vqa_eval import score
from tests.training.tiny import write_demonstrations

PARTS = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"),
    *("norm_stats.json", "anchor.safetensors", "train_config.json", "metrics.jsonl", "README.md"),
}


@pytest.fixture(scope="module")
def anchor(vlm, questions, tmp_path_factory):
    path = tmp_path_factory.mktemp("anchor") / "anchor.safetensors"
    anchor_command(vqa=(questions,), checkpoint=str(vlm), output=path, questions=12)
    return path


@pytest.fixture(scope="module")
def config(vlm, demonstrations, questions, anchor) -> TrainConfig:
    return TrainConfig(
        method="aegis",
        dataset=(str(demonstrations),),
        checkpoint=str(vlm),
        anchor=str(anchor),
        vqa=(str(questions),),
        steps=12,
        batch_size=4,
        noise_samples=2,
        horizon=3,
        warmup_steps=2,
        log_every=1,
        eval_every=6,
        save_every=6,
        keep=0,
    )


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finished run with aegis, checkpoints at 6 and 12."""
    output = tmp_path_factory.mktemp("run") / "policy"
    train(config, output)
    return output


def metrics(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_checkpoint_is_whole_and_loads(run, config):
    assert [path.name for path in state.checkpoints(run)] == ["000006", "000012"]
    assert (run / "checkpoints/last").readlink().name == "000012"
    folder = run / "checkpoints/last/pretrained_model"
    assert {path.name for path in folder.iterdir()} == PARTS
    checkpoint = load(run)
    assert checkpoint.info.horizon == 3 and checkpoint.info.control_hz == 10
    assert [camera.name for camera in checkpoint.info.cameras] == ["front", "wrist"]
    assert TrainConfig.from_json((run / "train_config.json").read_text()) == config
    public = TrainConfig.from_json((folder / "train_config.json").read_text())
    assert public == replace(
        config,
        dataset=("pick.hdf5",),
        vqa=("colours.hdf5",),
        checkpoint=Path(config.checkpoint).name,
        anchor="anchor.safetensors",
    )
    assert torch.equal(Anchor.load(folder / "anchor.safetensors").mean, Anchor.load(config.anchor).mean)
    card = (folder / "README.md").read_text()
    assert "step 12 of 12" in card and "| colours | 12 |" in card


def test_what_is_written_may_be_read_by_whom_the_umask_lets(run, tmp_path):
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in run.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_metrics_tell_losses_projection_and_vqa(run):
    rows = metrics(run / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    for row in steps:
        assert 0 <= row["shed_mean"] <= row["shed_max"] <= 1
        assert row["layers_projected"] in (0, 0.5, 1)
    assert [row["step"] for row in rows if "vqa" in row] == [0, 6, 12]
    assert rows[0]["vqa"]["colours"]["n"] == 12
    inside = metrics(run / "checkpoints/000006/pretrained_model/metrics.jsonl")
    assert inside == rows[: len(inside)] and inside[-1]["step"] == 6
    assert list((run / "tensorboard").iterdir())


def test_resumed_ends_bit_identical(run, tmp_path):
    other = tmp_path / "policy"
    shutil.copytree(run, other, symlinks=True)
    shutil.rmtree(other / "checkpoints/000012")
    (other / "checkpoints/last").unlink()  # as if killed between rename and link
    (other / "checkpoints/.000012.partial").mkdir()
    (other / "checkpoints/.000012.partial/junk").write_text("half")
    resume(other)
    assert sorted(path.name for path in (other / "checkpoints").iterdir()) == ["000006", "000012", "last"]
    for name in ("pretrained_model/model", "training_state/optimizer"):
        expected = load_file(run / f"checkpoints/000012/{name}.safetensors")
        got = load_file(other / f"checkpoints/last/{name}.safetensors")
        assert expected.keys() == got.keys()
        for key in expected:
            assert torch.equal(expected[key], got[key]), key
    timeless = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in metrics(folder / "metrics.jsonl")]
        for folder in (run, other)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("method", [name for name in get_args(MethodName) if name != "aegis"])
def test_every_method_learns_is_saved_plain_and_resumes_bit_identical(method, config, questions, tmp_path):
    options = {"co-train": {"replay": (str(questions),)}, "lora": {"lora_rank": 2}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    recipe = replace(config, method=method, steps=4, save_every=2, eval_every=0, **options.get(method, {}))
    train(recipe, whole)
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints/000004")
    resume(cut)
    for name in ("pretrained_model/model", "training_state/optimizer"):
        expected, got = (load_file(run / f"checkpoints/000004/{name}.safetensors") for run in (whole, cut))
        assert expected.keys() == got.keys()
        for key in expected:
            assert torch.equal(expected[key], got[key]), key
    before, after = load_backbone(config.checkpoint)[0], load(whole).policy  # its architecture is the plain one
    layer = "language_model.layers.0.self_attn.q_proj.weight"
    changed = not torch.equal(*(backbone.vlm.model.state_dict()[layer] for backbone in (before, after)))
    assert changed == (method != "stop-gradient")


def test_learns_and_leaves_the_backbone_alone_under_stop_gradient(config, vlm, tmp_path):
    train(
        replace(config, method="stop-gradient", anchor=None, steps=40, eval_every=0, save_every=40, learning_rate=1.0),
        tmp_path / "policy",
    )
    rows = metrics(tmp_path / "policy/metrics.jsonl")
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert "learning_rate" not in rows[-1] and 0 < rows[-1]["expert_learning_rate"] < config.expert_learning_rate
    before = load_backbone(vlm)[0].vlm.state_dict()
    after = load(tmp_path / "policy").policy.vlm.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "policy/checkpoints/last/pretrained_model/anchor.safetensors").exists()


def test_a_policy_goes_on_with_its_own_expert_statistics_and_anchor(run, config, tmp_path, caplog):
    other = write_demonstrations(tmp_path / "other.hdf5", seed=5)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            demo["obs/state"][:, 0] += 50
            demo.attrs["instruction"] = "grasp the red cube"
    with caplog.at_level(logging.WARNING):
        train(
            replace(
                config,
                dataset=(str(other),),
                checkpoint=str(run),
                anchor=None,
                steps=1,
                horizon=None,
                vqa=(),
                temperature=0.25,
            ),
            tmp_path / "more",
        )
    assert "state x: this data lies far outside" in caplog.text
    assert "does not know every word of: grasp the red cube" in caplog.text
    before, after = load(run), load(tmp_path / "more")
    assert after.info.horizon == 3
    assert (before.policy.expert.config.temperature, after.policy.expert.config.temperature) == (1, 0.25)
    np.testing.assert_array_equal(before.norm_stats.state.mean, after.norm_stats.state.mean)
    weight = "decoder.layers.0.self_attn.q_proj.weight"
    change = after.policy.expert.state_dict()[weight] - before.policy.expert.state_dict()[weight]
    assert 0 < change.abs().max() < 2e-3  # one step of Adam away


def fall(monkeypatch: pytest.MonkeyPatch, *lost: float) -> None:
    """Have VQA, measured as ever, lose so much at one measurement after the other."""
    losses = iter(lost)

    def measured(*arguments):
        return replace(score(*arguments), accuracy=0.9 - next(losses))

    monkeypatch.setattr("aegis_policy.training.train.score", measured)


def test_what_was_measured_of_the_start_is_what_was_before(run, config, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(run / "checkpoints/last/pretrained_model", start)
    found = {"pick, seen": {"success": {"rate": 0.5, "n": 2, "low": 0.1, "high": 0.9}}}
    (start / "measured.json").write_text(json.dumps({"before": {}, "after": found}))
    output = tmp_path / "policy"
    train(replace(config, checkpoint=str(start), steps=4, save_every=2), output)
    shutil.rmtree(output / "checkpoints/000004")
    resume(output)
    for step in ("000002", "000004"):
        kept = json.loads((output / f"checkpoints/{step}/pretrained_model/measured.json").read_text())
        assert kept == {"before": found, "after": {}}


def test_a_gpu_without_enough_memory_is_told_what_takes_less(config, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 0 bytes free.")

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(MemoryError, match=r"suffice \(CUDA out of memory\).*--accumulate.*--method stop-gradient"):
        train(config, tmp_path / "run")


def test_a_gradient_that_is_not_finite_ends_the_run(config, tmp_path):
    diverging = replace(config, learning_rate=1e30, expert_learning_rate=1e30, warmup_steps=1, save_every=1, keep=0)
    with pytest.raises(
        FloatingPointError, match=r"step \d+: .* try a lower --learning-rate and --expert-learning-rate"
    ):
        train(diverging, tmp_path / "run")


def test_it_stops_when_too_much_is_forgotten_and_keeps_what_had_not(config, tmp_path, monkeypatch):
    fall(monkeypatch, 0.0, 0.019, 0.021)
    limited = replace(config, max_vqa_drop=2.0, eval_every=4, save_every=1)
    with pytest.raises(ForgettingError, match=r"step 8: VQA on colours fell from 90.0% to 87.9%, 2.1 points, limit 2"):
        train(limited, tmp_path / "run")
    kept = [path.name for path in state.checkpoints(tmp_path / "run")]
    assert kept == ["000004"] and load(tmp_path / "run").info.model == "run"
    fall(monkeypatch, 0.021)  # resumed, it knows what there was before
    with pytest.raises(ForgettingError, match=r"the last good checkpoint is .*000004") as error:
        resume(tmp_path / "run")
    assert load(re.search(r"checkpoint is (\S+);", str(error.value))[1]).info.model == "run"


def test_under_a_limit_that_is_kept_training_goes_to_its_end(config, tmp_path, monkeypatch):
    fall(monkeypatch, 0.0, -0.05, 0.02, 0.0)
    train(replace(config, max_vqa_drop=2.0, eval_every=4), tmp_path / "run")
    assert [path.name for path in state.checkpoints(tmp_path / "run")] == ["000004", "000008", "000012"]


def test_without_any_good_checkpoint_it_says_so(config, tmp_path, monkeypatch):
    fall(monkeypatch, 0.0, 0.5)
    with pytest.raises(ForgettingError, match="no checkpoint was good; forget less with a lower --learning-rate"):
        train(replace(config, max_vqa_drop=0.0), tmp_path / "run")
    assert not state.checkpoints(tmp_path / "run")


def test_keeps_the_newest(config, tmp_path):
    train(replace(config, steps=6, save_every=2, keep=2, eval_every=0), tmp_path / "policy")
    assert [path.name for path in state.checkpoints(tmp_path / "policy")] == ["000004", "000006"]


def test_batches_are_a_function_of_seed_and_step(config, vlm):
    dataset = Demonstrations(config.dataset, 3)
    processor = load_backbone(vlm)[1]

    def batches(seed: int) -> Batches:
        return Batches(dataset, processor, dataset.norm_stats(), batch_size=5, noise_samples=2, seed=seed)

    first, again, other = batches(0), batches(0), batches(1)
    again.batch(0), again.batch(30)  # whatever came before
    for name, tensor in vars(first.batch(7)).items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, getattr(again.batch(7), name)), name
    assert not torch.equal(first.batch(7).noise, other.batch(7).noise)
    assert not torch.equal(first.batch(7).noise, first.batch(8).noise)
    length = len(dataset)
    seen = np.concatenate([first.rows(step) for step in range(length)])  # five passes
    for epoch in range(5):
        assert sorted(seen[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_a_path_becomes_a_name():
    assert source_name("/somewhere/runs/vlm/checkpoints/005500/pretrained_model") == "vlm"
    assert source_name("/somewhere/demos.hdf5") == "demos.hdf5"
    assert source_name("google/paligemma2-3b-mix-224") == "google/paligemma2-3b-mix-224"


def test_learning_rate_warms_up_and_falls():
    factors = [rate_factor(step, 1000, 50) for step in range(1000)]
    assert factors[0] == pytest.approx(0.02, rel=0.01)
    assert max(factors) > 0.98 and np.argmax(factors) == 49
    assert factors[-1] == pytest.approx(FINAL_RATE, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": ()}, "--dataset"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a positive number"),
        ({"temperature": -0.1}, "--temperature must be within 0 and 1"),
        ({"max_delay": -1}, "--max-delay must be at least 0"),
        ({"max_delay": 3, "horizon": 3}, "--max-delay 3: a chunk has 3 actions, and needs one to learn: at most 2"),
        ({"vqa": ("a", "b", "c", "d")}, "up to 3"),
        ({"max_vqa_drop": -1.0}, "--max-vqa-drop must be at least 0"),
        ({"max_vqa_drop": 2.0, "vqa": ()}, "--max-vqa-drop needs VQA to be measured"),
        ({"max_vqa_drop": 2.0, "eval_every": 0}, "--max-vqa-drop needs VQA to be measured"),
        ({"anchor": None}, "needs an anchor"),
        ({"anchor": "none.safetensors"}, "no such anchor"),
        ({"dataset": ("none.hdf5",)}, "no such demonstration file"),
        ({"checkpoint": "./nowhere"}, "no checkpoint here"),
        ({"lora_rank": 8}, "--lora-rank is of lora, not of aegis"),
        ({"strength": 2.0}, "--strength is of co-train and distil-features, not of aegis"),
        ({"method": "distil-features", "strength": -1.0}, "--strength must be at least 0"),
        ({"method": "lora", "lora_rank": 0}, "--lora-rank must be at least 1"),
        ({"method": "co-train"}, "name at least one with --replay"),
        ({"method": "co-train", "replay": ("a",), "replay_share": 1.0}, "is 4 pictures: expected from 1 to 3"),
        ({"method": "co-train", "replay": ("none.hdf5",)}, "none.hdf5"),
    ],
)
def test_refuses_before_it_writes(config, tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(replace(config, **change), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_takes_a_lerobot_folder_like_a_file(config, tmp_path):
    convert(Path(config.dataset[0]), tmp_path / "set")
    recipe = replace(config, steps=1, eval_every=0)
    from_file = load(train(recipe, tmp_path / "file/run"))
    from_folder = load(train(replace(recipe, dataset=(str(tmp_path / "set"),)), tmp_path / "folder/run"))
    assert replace(from_file.info, checkpoint="") == replace(from_folder.info, checkpoint="")
    np.testing.assert_array_equal(from_file.norm_stats.actions.std, from_folder.norm_stats.actions.std)


def test_does_not_overwrite_a_run(run, config):
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match="--resume"):
        train(config, run)
    assert (run / "metrics.jsonl").read_text() == before


def test_a_recipe_of_another_version_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    recipe = json.loads((run / "train_config.json").read_text()) | {"prompts": None, "method": "distil-answers"}
    (tmp_path / "run/train_config.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match=r"this version has not \(prompts\): go on with the version that began"):
        resume(tmp_path / "run")


def test_command_line_refuses_contradictions(run, tmp_path):
    with pytest.raises(ValueError, match="--output"):
        train_command(TrainConfig(dataset=("a",)))
    with pytest.raises(ValueError, match="no other option"):
        train_command(TrainConfig(steps=5), resume=run)
    with pytest.raises(FileNotFoundError, match="no training run here"):
        train_command(resume=tmp_path)


def test_an_anchor_command_without_questions_says_so(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr("aegis_policy.training.commands._shipped_questions", list)
    with pytest.raises(ValueError, match="--vqa"):
        anchor_command(checkpoint=str(vlm), output=tmp_path / "anchor.safetensors")
    with pytest.raises(ValueError, match="--questions 0: expected 1 or more"):
        anchor_command(checkpoint=str(vlm), output=tmp_path / "anchor.safetensors", questions=0)
    with pytest.raises(IsADirectoryError, match="a folder; name a file"):
        anchor_command(checkpoint=str(vlm), output=tmp_path)


def test_the_anchor_does_not_depend_on_the_batching(vlm, questions):
    backbone, processor = load_backbone(vlm)
    few = anchor_of_sets(backbone, processor, [questions], 12)
    again = anchor_of_sets(backbone, processor, [questions, questions], 24)
    torch.testing.assert_close(few.mean, again.mean)
    torch.testing.assert_close(few.std, again.std)
