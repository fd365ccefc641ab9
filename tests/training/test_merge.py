"""Between two backbones: the ends are the ends, the middle is the middle, and the expert stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aegis_policy.model import checkpoint as checkpoints
from aegis_policy.model.checkpoint import load, load_backbone
from aegis_policy.training.commands import merge as merge_command
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.train import train


@pytest.fixture(scope="module")
def recipe(vlm, demonstrations) -> TrainConfig:
    return TrainConfig(
        method="naive", dataset=(str(demonstrations),), checkpoint=str(vlm), steps=2, batch_size=2, horizon=3
    )


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("naive") / "policy"
    train(recipe, output)
    return output


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_its_backbone_is_on_the_way_and_its_expert_the_policys(run, vlm, tmp_path, weight, capsys):
    output = tmp_path / "merged"
    merge_command(checkpoint=run, pretrained=str(vlm), weight=weight, output=output)
    assert capsys.readouterr().out.strip() == str(output)
    before, tuned, merged = load_backbone(vlm)[0], load(run), load(output)
    assert merged.info == replace(tuned.info, model="merged", checkpoint=merged.info.checkpoint)
    for name, tensor in merged.policy.state_dict().items():
        if name.startswith("vlm."):
            start = before.state_dict()[name]
            expected = start + weight * (tuned.policy.state_dict()[name] - start)
            torch.testing.assert_close(tensor, expected)
        else:
            assert torch.equal(tensor, tuned.policy.state_dict()[name])


def test_training_goes_on_from_it(run, recipe, vlm, tmp_path):
    merged = tmp_path / "merged"
    merge_command(checkpoint=run, pretrained=str(vlm), output=merged)
    train(replace(recipe, method="stop-gradient", checkpoint=str(merged)), tmp_path / "refitted")
    refitted = load(tmp_path / "refitted").policy
    for name, tensor in load(merged).policy.vlm.state_dict().items():
        assert torch.equal(tensor, refitted.vlm.state_dict()[name])


def full(*_: object, **__: object) -> None:
    raise OSError("no space left on the device")


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(run, vlm, tmp_path):
    output = tmp_path / "merged"
    with pytest.raises(ValueError, match="a share, from 0 to 1"):
        merge_command(checkpoint=run, pretrained=str(vlm), weight=1.5, output=output)
    with pytest.raises(ValueError, match="of another architecture"):
        merge_command(checkpoint=run, pretrained=str(checkpoints.asset("aegis-tiny-vlm")), output=output)
    with pytest.raises(FileNotFoundError, match="no checkpoint here"):
        merge_command(checkpoint=tmp_path / "none", pretrained=str(vlm), output=output)
    assert not output.exists()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(checkpoints, "save_tensors", full)
        merge_command(checkpoint=run, pretrained=str(vlm), output=output)
    assert not output.exists()
    merge_command(checkpoint=run, pretrained=str(vlm), output=output)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    with pytest.raises(ValueError, match="is there already"):
        merge_command(checkpoint=run, pretrained=str(vlm), output=run)
