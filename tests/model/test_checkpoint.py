"""Policies and VLMs from folders and hub names, and what is said when there is something wrong with them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aegis_policy.model.checkpoint import INSTRUCTIONS, Checkpoint, load, load_backbone, resolve, save, start_policy
from aegis_policy.model.config import expert_for
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.processor import Processor, word_tokenizer
from tests.model.builders import (
    HORIZON,
    SIZE,
    TEXTS,
    build_checkpoint,
    build_vlm,
    gaussian,
    norm_stats,
    pixels,
    policy_info,
)

PUBLISHED = (  # transformers' names of today -> the names in the files that google/paligemma2-* publish
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.vision_model.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return build_checkpoint()


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save(checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def vlm_folder(vlm, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    vlm.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def own_copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def expert(vlm):
    return expert_for(vlm.config, state_dim=2, action_dim=3, horizon=HORIZON)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_policy_comes_back_as_it_was(checkpoint, saved):
    loaded = load(saved)
    assert same_weights(loaded.policy, checkpoint.policy)
    assert loaded.policy.vlm.lm_head.weight is loaded.policy.vlm.get_input_embeddings().weight
    assert loaded.policy.expert.config == checkpoint.policy.expert.config
    assert replace(loaded.info, checkpoint="") == checkpoint.info
    for part in ("state", "actions"):
        for name, values in vars(getattr(checkpoint.norm_stats, part)).items():
            assert np.array_equal(getattr(getattr(loaded.norm_stats, part), name), values)
    inputs = pixels(1), *checkpoint.processor.prompt(["cube"])
    with torch.no_grad():
        for policy in (loaded.policy, AegisPolicy.from_pretrained(saved)):
            ours = policy.denoise(policy.encode(*inputs), gaussian(1, 2), gaussian(1, HORIZON, 3))
            theirs = checkpoint.policy.denoise(
                checkpoint.policy.encode(*inputs), gaussian(1, 2), gaussian(1, HORIZON, 3)
            )
            assert torch.equal(ours, theirs)


def test_a_policy_is_safetensors_and_json(saved):
    kinds = {path.suffix for path in saved.iterdir()}
    assert kinds == {".safetensors", ".json"}


def test_the_hash_is_that_of_the_weights(saved, checkpoint, tmp_path):
    save(checkpoint, tmp_path / "again")
    save(build_checkpoint(seed=2), tmp_path / "other")
    first, again, other = (load(folder).info.checkpoint for folder in (saved, tmp_path / "again", tmp_path / "other"))
    assert len(first) == 64 and first == again != other


def test_an_untied_output_head_is_kept(processor, tmp_path):
    untied = build_vlm(processor, seed=5, tie_word_embeddings=False)
    untied.lm_head.weight = torch.nn.Parameter(gaussian(*untied.lm_head.weight.shape, seed=9))
    untied.config.tie_word_embeddings = False
    policy = AegisPolicy(untied, expert(untied))
    save(Checkpoint(policy, processor, policy_info(), norm_stats()), tmp_path)
    assert torch.equal(load(tmp_path).policy.vlm.lm_head.weight, untied.lm_head.weight)


def test_a_vlm_as_hugging_face_saves_it(vlm, vlm_folder):
    policy = AegisPolicy.from_pretrained(vlm_folder, expert(vlm))
    assert same_weights(policy.vlm, vlm)
    assert policy.vlm.lm_head.weight is policy.vlm.get_input_embeddings().weight
    assert policy.expert.config == expert(vlm)


def test_a_vlm_in_shards(vlm, processor, tmp_path):
    vlm.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    processor.save_pretrained(tmp_path)
    backbone, _ = load_backbone(tmp_path)
    assert same_weights(backbone.vlm, vlm)


def test_a_vlm_in_bfloat16_with_the_published_names(vlm, vlm_folder, processor, tmp_path):
    weights = {}
    for name, tensor in vlm.state_dict().items():
        for ours, theirs in PUBLISHED:
            if name.startswith(ours):
                name = name.replace(ours, theirs, 1)
        if name != "lm_head.weight":
            weights[name] = tensor.bfloat16()
    assert {
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear.bias",
    } <= weights.keys()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(vlm_folder / "config.json", tmp_path)
    policy = AegisPolicy.from_pretrained(tmp_path, expert(vlm))
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    for name, tensor in vlm.state_dict().items():
        assert torch.equal(policy.vlm.state_dict()[name], tensor.bfloat16().float()), name


@pytest.fixture
def hub(vlm_folder, tmp_path, monkeypatch) -> str:
    """A name whose files lie in the hub's cache already."""
    assert huggingface_hub.constants.is_offline_mode()
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--paligemma2-small"
    shutil.copytree(vlm_folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "someone/paligemma2-small"


def test_a_vlm_by_its_hub_name(hub, vlm, processor):
    assert resolve(hub) == hub
    assert same_weights(AegisPolicy.from_pretrained(hub, expert(vlm)).vlm, vlm)
    backbone, words = load_backbone(hub)
    assert same_weights(backbone.vlm, vlm)
    assert words.image_size == processor.image_size
    assert words.prompt_ids("the red cube") == processor.prompt_ids("the red cube")
    started = start_policy(hub, policy_info(), norm_stats())
    assert started.policy.expert.config.horizon == HORIZON
    with pytest.raises(FileNotFoundError, match=r"no such folder, .* of a VLM on the hub, make one first"):
        load(hub)


def test_a_hub_name_that_is_not_there(hub, vlm):
    with pytest.raises(OSError, match="cached files"):
        AegisPolicy.from_pretrained("someone/else", expert(vlm))


@pytest.mark.parametrize("source", ["nowhere", "./nowhere/at-all", "/nowhere/at/all", "a/b/c"])
def test_a_missing_folder(source):
    with pytest.raises(FileNotFoundError, match="no checkpoint here"):
        AegisPolicy.from_pretrained(source)


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)


def test_the_newest_checkpoint_of_a_training_folder(saved, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(saved, tmp_path / "checkpoints" / "000002" / "pretrained_model")
    (tmp_path / "checkpoints" / "last").symlink_to("000002")
    assert resolve(tmp_path) == str(tmp_path / "checkpoints" / "000002" / "pretrained_model")


def test_an_expert_for_whom_there_is_none_or_one_too_many(saved, vlm_folder, vlm):
    with pytest.raises(ValueError, match="give `expert` for a VLM"):
        AegisPolicy.from_pretrained(vlm_folder)
    with pytest.raises(ValueError, match="none for a policy"):
        AegisPolicy.from_pretrained(saved, expert(vlm))
    with pytest.raises(ValueError, match="a VLM, not a policy"):
        load(vlm_folder)


def with_words(*texts):
    return lambda folder: Processor(word_tokenizer(texts), SIZE).save_pretrained(folder)


def with_numbers_exchanged(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["red"], words["cube"] = words["cube"], words["red"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (with_words("pick up the red cube"), r"another model's: it has 11 tokens, the model \d+"),
        (with_words(*TEXTS, "and a word more"), r"another model's: it has \d+ tokens, the model \d+"),
        (with_numbers_exchanged, "another model's: its tokens have other numbers than in training"),
    ],
)
def test_another_tokenizer_is_refused(own_copy, change, complaint):
    change(own_copy)
    with pytest.raises(ValueError, match=complaint) as error:
        load(own_copy)
    assert str(own_copy) in str(error.value)


def test_a_vlm_with_another_tokenizer_is_refused(vlm_folder, tmp_path):
    folder = Path(shutil.copytree(vlm_folder, tmp_path / "vlm"))
    with_words("pick up the red cube")(folder)
    with pytest.raises(ValueError, match="the tokenizer is another model's"):
        load_backbone(folder)
    with pytest.raises(ValueError, match="the tokenizer is another model's"):
        start_policy(folder, policy_info(), norm_stats())


def without_expert(weights):
    return {name: tensor for name, tensor in weights.items() if not name.startswith("expert.")}


def with_a_stranger(weights):
    return weights | {"stranger": torch.zeros(1)}


def with_a_wider_state(weights):
    return weights | {"expert.state_in.weight": torch.zeros(20, 5)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_expert, r"missing: expert\..* and \d+ more"),
        (with_a_stranger, "unexpected: stranger"),
        (with_a_wider_state, r"of another shape: expert\.state_in\.weight"),
    ],
)
def test_wrong_weights_are_refused(own_copy, change, complaint):
    path = own_copy / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ValueError, match=complaint) as error:
        load(own_copy)
    assert str(path) in str(error.value)


def test_weights_cut_off_are_refused(own_copy):
    path = own_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load(own_copy)


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 4), ("intermediate_size", 52)])
def test_a_vlms_weights_are_never_made_up(vlm_folder, tmp_path, key, value):
    folder = Path(shutil.copytree(vlm_folder, tmp_path / "vlm"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][key] = value
    if key == "num_hidden_layers":
        config["text_config"]["layer_types"] = ["sliding_attention", "full_attention"] * 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not this model's weights: (missing|of another shape)"):
        load_backbone(folder)


def test_a_vlm_that_would_be_unpickled_is_refused(vlm_folder, tmp_path):
    folder = Path(shutil.copytree(vlm_folder, tmp_path / "vlm"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_backbone(folder)


@pytest.mark.parametrize("kind", ["state", "actions"])
def test_another_robots_normalisation_is_refused(own_copy, kind):
    path = own_copy / "norm_stats.json"
    content = json.loads(path.read_text())
    of = content["norm_stats"][kind]
    of |= {name: values[:1] for name, values in of.items() if isinstance(values, list)}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"normalisation of 1 numbers of {kind}, and the policy has"):
        load(own_copy)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config.pop("expert"), "lacks 'expert'"),
        (lambda config: config["interface"]["actions"].pop(), "normalisation of 3 numbers of actions"),
        (lambda config: config["expert"].update(state_dim=9), "of another shape"),
        (lambda config: config["expert"].update(strange=1), r"config\.json: damaged, or of another version"),
        (lambda config: config["interface"].pop("horizon"), r"config\.json: damaged, or of another version.*horizon"),
    ],
)
def test_a_configuration_that_is_damaged_is_refused(own_copy, change, complaint):
    path = own_copy / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=complaint):
        load(own_copy)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config.json", "[]", r"config\.json: damaged: no JSON object"),
        ("config.json", "{", r"config\.json: damaged: "),
        ("preprocessor_config.json", "{}", "expected SigLIP's image size"),
        ("tokenizer.json", "{", "its tokenizer cannot be read"),
        ("tokenizer.json", None, r"no tokenizer\.json or tokenizer\.model here"),
    ],
)
def test_a_file_that_is_damaged_or_missing_is_named(own_copy, name, content, complaint):
    (own_copy / name).unlink()
    if content is not None:
        (own_copy / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as error:
        load(own_copy)
    assert str(own_copy) in str(error.value)


def test_other_language_models_are_refused(vlm_folder, tmp_path):
    folder = Path(shutil.copytree(vlm_folder, tmp_path / "vlm"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "gemma"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its language model is gemma, not gemma2"):
        load_backbone(folder)


def test_fine_tuning_goes_on_only_with_the_same_interface(saved):
    goes_on = start_policy(saved, replace(policy_info(), instructions=("push the cube",)), norm_stats())
    assert goes_on.info.instructions == ("pick up the red cube", "push the cube")
    for part, value in {"control_hz": 20.0, "cameras": policy_info().cameras[:1]}.items():
        with pytest.raises(ValueError, match=f"its {part} are"):
            start_policy(saved, replace(policy_info(), **{part: value}), norm_stats())


def test_of_many_instructions_a_sample_from_the_whole_range_is_named(saved):
    many = tuple(f"push cube {i}" for i in range(500))
    named = start_policy(saved, replace(policy_info(), instructions=many), norm_stats()).info.instructions
    assert INSTRUCTIONS / 2 < len(named) <= INSTRUCTIONS
    assert set(named) <= {"pick up the red cube", *many}
    assert named[-1] in many[-20:]
