"""Checkpoints as folders: safetensors and JSON only, so that loading one never runs code.

A policy's folder holds config.json, model.safetensors, the tokenizer and image settings of its VLM and
norm_stats.json (docs/checkpoint.md). A VLM's folder is PaliGemma's own, as Hugging Face lays it out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from aegis_policy.data.normalize import NormStats
from aegis_policy.model.backbone import Backbone, new_vlm
from aegis_policy.model.config import ExpertConfig, expert_for
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.processor import Processor
from aegis_policy.model.tensors import save_tensors
from aegis_policy.policy import PolicyInfo

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "aegis"
LAST = Path("checkpoints", "last", "pretrained_model")
INSTRUCTIONS = 60
"""Of those that a policy was trained on, so many at most are named in its info."""
SPARE = 1000
"""One in so many rows of an embedding may belong to no token: PaliGemma's has 63 more than its tokenizer, for speed."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a policy is: weights, words, and what its numbers mean.

    `info.checkpoint` is the SHA-256 of the weights' file, empty while there is none.
    """

    policy: AegisPolicy
    processor: Processor
    info: PolicyInfo
    norm_stats: NormStats


def asset(name: str) -> Path:
    """Folder of a checkpoint that ships inside the package: "aegis-tiny" (policy) or "aegis-tiny-vlm"."""
    return Path(str(files("aegis_policy") / "assets" / name))


def resolve(source: str | Path | None) -> str:
    """A training folder -> its newest checkpoint; None -> the shipped policy; anything else as it is.

    Raises:
        FileNotFoundError: it looks like a path and holds no checkpoint.
    """
    if source is None:
        return str(asset("aegis-tiny"))
    path = Path(source)
    if (path / CONFIG).is_file():
        return str(path)
    if (path / LAST / CONFIG).is_file():
        return str((path / LAST).resolve())  # pin it: training may move on
    if path.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
        raise FileNotFoundError(f"{source}: no checkpoint here (neither {CONFIG} nor {LAST})")
    return str(source)  # a name on the hub


def is_policy(source: str) -> bool:
    """Whether a resolved source is a policy of ours rather than a VLM."""
    config = Path(source, CONFIG)
    return config.is_file() and _read(config).get("model_type") == MODEL_TYPE


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: damaged: no JSON object")
    return found


@contextmanager
def _from(path: Path) -> Iterator[None]:
    """What does not fit in a file's content is a ValueError that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, or of another version: {error!r}") from error


def save(checkpoint: Checkpoint, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a policy's folder; atomicity is the caller's business (`training.state`).

    Args:
        weights: to be written in place of the policy's own, under the same names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    policy = checkpoint.policy
    checkpoint.processor.save_pretrained(folder)
    config = {
        "model_type": MODEL_TYPE,
        "vlm": {k: v for k, v in policy.vlm.config.to_dict().items() if k != "_name_or_path"},
        "vocabulary": Processor.from_pretrained(folder).vocabulary(),  # as it will be read
        "expert": asdict(policy.expert.config),
        "interface": {k: v for k, v in checkpoint.info.to_dict().items() if k not in ("checkpoint", "max_delay")},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    weights = stored_weights(policy) if weights is None else weights
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_tensors(stored, folder / WEIGHTS, metadata={"format": "pt"})
    checkpoint.norm_stats.save(folder)


def load(source: str | Path | None) -> Checkpoint:
    """Load a policy: a checkpoint's folder, a training folder (its newest), or None for the one that ships.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is a VLM without an action expert, or its weights or its tokenizer do not fit its configuration;
            says which.
    """
    folder = Path(resolve(source))
    if not folder.is_dir():  # a VLM may come from the hub, a policy may not
        raise FileNotFoundError(
            f"{folder}: no such folder, which a policy is loaded from; of a VLM on the hub, make one first "
            f"(aegis train --checkpoint {folder} ...)"
        )
    if not is_policy(str(folder)):
        raise ValueError(f"{folder}: a VLM, not a policy; fine-tune it first (aegis train --checkpoint {folder} ...)")
    config = _read(folder / CONFIG)
    if missing := [part for part in ("vlm", "expert", "interface") if part not in config]:
        raise ValueError(f"{folder / CONFIG}: not a policy's, or damaged: it lacks '{missing[0]}'")
    with _from(folder / CONFIG):
        policy = AegisPolicy(new_vlm(PaliGemmaConfig.from_dict(config["vlm"])), ExpertConfig(**config["expert"]))
        info = PolicyInfo.from_dict(config["interface"] | {"checkpoint": ""})
    with (folder / WEIGHTS).open("rb") as file:  # before safetensors, which takes one that it may not read for none
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _fill(policy, folder / WEIGHTS)
    info = replace(info, checkpoint=digest)
    processor = _processor(folder, policy.vlm.config)
    vocabulary = processor.vocabulary()
    if config.get("vocabulary", vocabulary) != vocabulary:
        raise ValueError(f"{folder}: the tokenizer is another model's: its tokens have other numbers than in training")
    norm_stats = NormStats.load(folder)
    norm_stats.check(len(info.state), len(info.actions), folder)
    return Checkpoint(policy.eval(), processor, info, norm_stats)


def _processor(source: str | Path, config: PaliGemmaConfig) -> Processor:
    """The words and images of the VLM at `source`; ValueError if its tokenizer is of another vocabulary's size."""
    processor, table = Processor.from_pretrained(source), config.text_config.vocab_size
    if not 0 <= table - len(processor.tokenizer) <= table // SPARE:
        raise ValueError(
            f"{source}: the tokenizer is another model's: it has {len(processor.tokenizer)} tokens, the model {table}"
        )
    return processor


def stored_weights(policy: AegisPolicy) -> dict[str, Tensor]:
    """What is stored of a policy: its state, without the output head where that is the word embedding itself."""
    weights = policy.state_dict()
    if policy.vlm.lm_head.weight is policy.vlm.get_input_embeddings().weight:
        del weights["vlm.lm_head.weight"]
    return weights


def _fill(policy: AegisPolicy, path: Path) -> None:
    """Load the weights at `path` into `policy`; ValueError unless they are all its weights and nothing else."""
    try:
        found, expected = load_file(path), stored_weights(policy)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut off: {error}") from error
    _refuse("missing", expected.keys() - found.keys(), path)
    _refuse("unexpected", found.keys() - expected.keys(), path)
    _refuse("of another shape", {name for name in found if found[name].shape != expected[name].shape}, path)
    policy.load_state_dict(found, strict=False)


def _refuse(problem: str, names: Iterable[str], source: str | Path) -> None:
    if names := sorted(names):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{source}: not this model's weights: {problem}: {', '.join(names[:3])}{more}")


def load_vlm(source: str | Path) -> PaliGemmaForConditionalGeneration:
    """A VLM from a folder or hub name in PaliGemma's layout, float32.

    Raises:
        OSError: there is nothing to load.
        ValueError: it is not a PaliGemma 2, or its weights do not fit its configuration.
    """
    vlm, report = PaliGemmaForConditionalGeneration.from_pretrained(
        str(source),
        attn_implementation="eager",
        dtype=torch.float32,
        use_safetensors=True,  # nothing is unpickled
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, with missing ones, which transformers makes up
    )
    language = vlm.config.text_config.model_type
    if language != "gemma2":
        raise ValueError(f"{source}: not a PaliGemma 2: its language model is {language}, not gemma2")
    _refuse("missing", report["missing_keys"], source)
    _refuse("of another shape", [name for name, *_ in report["mismatched_keys"]], source)
    return vlm


def load_backbone(source: str | Path | None) -> tuple[Backbone, Processor]:
    """A VLM as `load_vlm`, or the backbone of a policy of ours.

    Raises:
        OSError: there is nothing to load.
        ValueError: it is no VLM of this kind, or its weights or its tokenizer do not fit its configuration.
    """
    source = resolve(source)
    if is_policy(source):
        checkpoint = load(source)
        return checkpoint.policy, checkpoint.processor
    vlm = load_vlm(source)
    return Backbone(vlm).eval(), _processor(source, vlm.config)


def start_policy(source: str | Path | None, info: PolicyInfo, norm_stats: NormStats) -> Checkpoint:
    """Where fine-tuning begins: a policy goes on with its own expert and statistics; a VLM gets a fresh expert.

    Args:
        source: as `load`, or a VLM as `load_vlm`.
        info, norm_stats: of the new data: cameras, features, horizon, rate, instructions.

    Raises:
        ValueError: a policy whose cameras, state, actions or rate are not those of the data, or what `load` and
            `load_vlm` refuse.
    """
    source = resolve(source)
    if not is_policy(source):
        vlm = load_vlm(source)
        policy = AegisPolicy(vlm, expert_for(vlm.config, len(info.state), len(info.actions), info.horizon))
        info = replace(info, instructions=_sample(info.instructions))
        return Checkpoint(policy, _processor(source, vlm.config), info, norm_stats)
    checkpoint = load(source)
    for part in ("cameras", "state", "actions", "control_hz"):
        ours, theirs = getattr(checkpoint.info, part), getattr(info, part)
        if ours != theirs:
            raise ValueError(f"{source}: its {part} are {ours}, the data's are {theirs}")
    instructions = _sample(tuple(dict.fromkeys(checkpoint.info.instructions + info.instructions)))
    return replace(checkpoint, info=replace(checkpoint.info, model=info.model, instructions=instructions))


def _sample(instructions: tuple[str, ...]) -> tuple[str, ...]:
    """INSTRUCTIONS of them at most, from the whole range."""
    return instructions[:: max(1, math.ceil(len(instructions) / INSTRUCTIONS))]
