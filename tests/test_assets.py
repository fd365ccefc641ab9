"""What ships inside the package fits together, is small enough, and names no place on the machine that made it."""

from __future__ import annotations

import json

import pytest

from aegis_policy.data.vqa import UNSCORED, VQASet
from aegis_policy.model.checkpoint import asset, load, load_backbone

CHECKPOINTS = ("aegis-tiny", "aegis-tiny-vlm")
MEGABYTES_16 = 16 * 10**6


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_are_small_and_say_how_they_were_made(name: str) -> None:
    files = list(asset(name).iterdir())
    assert sum(file.stat().st_size for file in files) <= MEGABYTES_16
    assert {"README.md", "config.json", "model.safetensors", "train_config.json", "metrics.jsonl"} <= {
        file.name for file in files
    }
    for file in files:
        if file.suffix in (".json", ".jsonl", ".md"):
            assert not any(place in file.read_text() for place in ("/root", "/home", "/work", "/tmp")), file.name


def test_policy_goes_by_its_name_and_takes_what_the_question_sets_show() -> None:
    shipped = load(None)
    assert shipped.info.model == "aegis-tiny"
    for path in asset("questions").glob("*.hdf5"):
        questions = VQASet(path)
        for name in questions.cameras:
            camera = next(camera for camera in shipped.info.cameras if camera.name == name)
            assert questions.images[name].shape[1:] == (camera.height, camera.width, 3)
        unknown = shipped.processor.tokenizer.unk_token_id
        for row in questions.questions:
            for question in row:
                assert unknown not in shipped.processor.prompt_ids(question.text), question.text
        assert {q.family for row in questions.questions for q in row} >= {"colour", "shape", "count", UNSCORED}


def test_vlm_loads_as_transformers_lays_it_out() -> None:
    backbone, processor = load_backbone(asset("aegis-tiny-vlm"))
    assert json.loads((asset("aegis-tiny-vlm") / "config.json").read_text())["model_type"] == "paligemma"
    assert backbone.vlm.config.vision_config.image_size == processor.image_size
