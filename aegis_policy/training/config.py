"""The recipe of a fine-tuning run; light, because the command line reads it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from aegis_policy.data.normalize import Normalization

MethodName = Literal[
    "aegis",
    "co-train",
    "distil-features",
    "lora",
    "naive",
    "stop-gradient",
]
OPTIONS_OF: dict[str, tuple[MethodName, ...]] = {
    "strength": ("co-train", "distil-features"),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
    "replay": ("co-train",),
    "replay_share": ("co-train",),
}
"""Settings that are of some methods alone."""
MAX_VQA_SETS = 3
HELD = 0.125
"""Share of a batch's samples that distil-features holds to what was before; all would cost a step and a half."""
_SOURCES = frozenset({"dataset", "vqa", "holdout", "checkpoint", "anchor", "replay"})
"""Settings that name files or checkpoints."""


@dataclass(frozen=True)
class Recipe:
    """Settings that are kept as train_config.json, so that a run can be resumed and repeated."""

    COMMAND: ClassVar[str]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The recipe in a train_config.json; ValueError if another version wrote settings that are not here."""
        settings = json.loads(text)
        unknown = sorted(settings.keys() - {field.name for field in fields(cls)})
        for other in Recipe.__subclasses__() if unknown else ():
            if settings.keys() == {field.name for field in fields(other)}:
                raise ValueError(f"train_config.json is of another command: go on with the run by {other.COMMAND}")
        if unknown:
            raise ValueError(
                f"train_config.json has settings that this version has not ({', '.join(unknown)}): go on with the "
                f"version that began the run"
            )
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def public(self) -> Self:
        """The recipe with names in place of this machine's paths, as it goes into a checkpoint."""
        sources = {name: value for name, value in vars(self).items() if name in _SOURCES and value}
        return replace(
            self,
            **{
                name: source_name(value) if isinstance(value, str) else tuple(map(source_name, value))
                for name, value in sources.items()
            },
        )


@dataclass(frozen=True)
class TrainConfig(Recipe):
    """Recipe of `aegis train`, kept as train_config.json so that a run can be resumed and repeated.

    Attributes:
        dataset: Demonstrations, HDF5 files (robomimic layout) or LeRobot folders, alike in cameras, features and rate.
        dataset_weights: How often each of them is seen, one number for each, in any unit: 3 1 for three samples of the
            first to one of the second, however large they are. If left out, every sample once per pass.
        method: What is done against forgetting: distil-features (holds what the backbone makes of the robot's images),
            stop-gradient (only the expert learns), naive (nothing), aegis (bends the gradient away from what would undo
            the anchor), or one of those in docs/method.md.
        strength: Weight of what co-train and distil-features add to the flow loss; each has a default of its own.
        lora_rank: Rank of the adapters of lora.
        lora_alpha: Their scale is this divided by the rank.
        replay: Question sets (HDF5) that co-train learns from beside the demonstrations.
        replay_share: Share of a step's samples that are their pictures, with eight questions each.
        freeze_vision: Leave vision tower, projector and token embeddings as they are.
        steps: Optimizer steps.
        checkpoint: Where to start: a policy, or a VLM in PaliGemma's layout, which gets a fresh expert; folder or hub
            name. The policy that ships, if left out.
        anchor: Anchor file for aegis; the start's own anchor.safetensors, if left out.
        vqa: Up to three question sets whose scores are followed while training.
        batch_size: B, samples in a step, of all processes and micro-batches together.
        accumulate: How many micro-batches a step's samples are taken in, one after the other, to save memory.
        noise_samples: M, draws of noise and time for each sample; its images and prompt are read once for all of them.
        learning_rate: Peak for the backbone; warm-up, then cosine to 4%.
        expert_learning_rate: Peak for the action expert.
        warmup_steps: Steps of linear warm-up.
        clip: Largest norm of the whole gradient.
        ema: Decay of a running average of the weights, such as 0.999: the finished policy has the average. None, if
            left out.
        augment: Vary the images' brightness and contrast.
        horizon: H, actions in a chunk of a fresh expert, 10 if left out; a policy keeps its own.
        normalization: Of states and actions, for a fresh expert: mean-std, or quantiles (1% and 99% become -1 and 1).
            If left out a policy keeps its own, and a fresh expert has mean-std.
        temperature: Of the noise that the finished policy's chunks start from: 1 as in training, 0 for precision
            without variety. If left out a policy keeps its own, and a fresh expert has 1.
        max_delay: Train for real-time chunking: each draw is given its first 0 to so many actions, disturbed, and
            learns the rest. The finished policy then goes on from up to so many actions that are carried out while it
            thinks. If left out a policy keeps its own, and a fresh expert has 0.
        eval_every: Steps between measurements of VQA; 0 for never.
        vqa_questions: How many questions of each set are asked then.
        max_vqa_drop: Percentage points of accuracy that VQA on any of the sets may lose: beyond them training stops.
            Checkpoints are then written where VQA is measured, while it has not lost more. No limit, if left out.
        log_every: Steps between lines of metrics.jsonl.
        save_every: Steps between checkpoints; the last step is always saved.
        keep: How many checkpoints stay, the newest; 0 keeps all.
        seed: Of a fresh expert, the order of samples, noise and augmentation.
        threads: Of torch on the CPU.
        compile: Compile the model first: minutes once, then faster steps.
        gradient_checkpointing: Keep of each layer its input alone and compute the rest again in the backward pass: less
            memory, slower steps.
        shard: Let each process hold only its part of weights, gradients and optimizer (FSDP2; with torchrun).
    """

    COMMAND = "aegis train"

    dataset: tuple[str, ...] = ()
    dataset_weights: tuple[float, ...] = ()
    method: MethodName = "distil-features"
    strength: float | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    replay: tuple[str, ...] = ()
    replay_share: float = 0.25
    freeze_vision: bool = False
    steps: int = 2000
    checkpoint: str | None = None
    anchor: str | None = None
    vqa: tuple[str, ...] = ()
    batch_size: int = 24
    accumulate: int = 1
    noise_samples: int = 4
    learning_rate: float = 4e-4
    expert_learning_rate: float = 1e-3
    warmup_steps: int = 50
    clip: float = 1.0
    ema: float | None = None
    augment: bool = True
    horizon: int | None = None
    normalization: Normalization | None = None
    temperature: float | None = None
    max_delay: int | None = None
    eval_every: int = 250
    vqa_questions: int = 512
    max_vqa_drop: float | None = None
    log_every: int = 10
    save_every: int = 250
    keep: int = 2
    seed: int = 0
    threads: int = 1
    compile: bool = False
    gradient_checkpointing: bool = False
    shard: bool = False

    def check(self, processes: int = 1) -> None:
        """Raise ValueError, naming the option, unless the recipe can be followed by so many processes."""
        if not self.dataset:
            raise ValueError("no demonstrations: name at least one file or folder with --dataset")
        if self.dataset_weights and len(self.dataset_weights) != len(self.dataset):
            raise ValueError(
                f"--dataset-weights takes one number for each --dataset, got {len(self.dataset_weights)} for "
                f"{len(self.dataset)}"
            )
        if not all(0 < weight < math.inf for weight in self.dataset_weights):
            raise ValueError(f"--dataset-weights must be positive numbers, got {list(self.dataset_weights)}")
        if len(self.vqa) > MAX_VQA_SETS:
            raise ValueError(f"--vqa takes up to {MAX_VQA_SETS} question sets, got {len(self.vqa)}")
        self._check_method()
        lowest = dict.fromkeys(("steps", "batch_size", "accumulate", "noise_samples", "horizon"), 1)
        lowest |= dict.fromkeys(("lora_rank", "lora_alpha", "log_every", "save_every", "threads", "vqa_questions"), 1)
        lowest |= dict.fromkeys(("eval_every", "warmup_steps", "keep", "seed"), 0)
        for name, least in lowest.items():
            if (given := getattr(self, name)) is not None and given < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {given}")
        for name in ("learning_rate", "expert_learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must be a positive number, got {getattr(self, name)}")
        if self.max_vqa_drop is not None and not self.max_vqa_drop >= 0:
            raise ValueError(f"--max-vqa-drop must be at least 0, got {self.max_vqa_drop}")
        if self.max_vqa_drop is not None and not (self.vqa and self.eval_every):
            raise ValueError(
                "--max-vqa-drop needs VQA to be measured: question sets (--vqa) and an --eval-every above 0"
            )
        if self.temperature is not None and not 0 <= self.temperature <= 1:
            raise ValueError(f"--temperature must be within 0 and 1, got {self.temperature}")
        if self.max_delay is not None and self.max_delay < 0:
            raise ValueError(f"--max-delay must be at least 0, got {self.max_delay}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"--ema is a decay between 0 and 1, got {self.ema}")
        for name in ("gradient_checkpointing", "shard"):
            if self.compile and getattr(self, name):
                raise ValueError(f"--compile and --{name.replace('_', '-')} do not go together: leave out one of them")
        self._check_parts(processes)

    def _check_parts(self, processes: int) -> None:
        """Raise ValueError unless a batch can be divided evenly among processes and micro-batches."""
        parts = processes * self.accumulate
        among = f"{parts} ({processes} processes x --accumulate {self.accumulate})"
        if self.batch_size % parts:
            raise ValueError(f"--batch-size {self.batch_size} cannot be divided evenly by {among}")
        if self.replayed % parts:
            raise ValueError(
                f"--replay-share {self.replay_share} of --batch-size {self.batch_size} is {self.replayed} pictures, "
                f"which cannot be divided evenly by {among}"
            )

    def _check_method(self) -> None:
        """Raise ValueError unless the method has what it needs, and nothing that is another's."""
        default = TrainConfig()
        for name, methods in OPTIONS_OF.items():
            if self.method not in methods and getattr(self, name) != getattr(default, name):
                raise ValueError(f"--{name.replace('_', '-')} is of {' and '.join(methods)}, not of {self.method}")
        if self.strength is not None and not 0 <= self.strength < math.inf:
            raise ValueError(f"--strength must be at least 0, got {self.strength}")
        if self.method == "co-train":
            if not self.replay:
                raise ValueError("co-train learns from question sets: name at least one with --replay")
            if not 1 <= self.replayed < self.batch_size:
                raise ValueError(
                    f"--replay-share {self.replay_share} of a batch of {self.batch_size} is {self.replayed} pictures: "
                    f"expected from 1 to {self.batch_size - 1}"
                )

    @property
    def replayed(self) -> int:
        """How many of a step's samples are pictures with questions."""
        return round(self.replay_share * self.batch_size) if self.method == "co-train" else 0

    def held(self, processes: int) -> int:
        """How many of a step's samples are held to what was before: of each micro-batch as many, and one at least."""
        parts = processes * self.accumulate
        share = max(math.ceil(HELD * self.batch_size), parts)
        if self.accumulate > 1:  # each micro-batch counts the same, however many of its samples are held
            share = math.ceil(share / parts) * parts
        return share if self.method == "distil-features" else 0


def source_name(source: str) -> str:
    """What people call a file, a checkpoint's folder (by its run) or a hub name."""
    path = Path(source)
    if path.name == "pretrained_model" and len(path.parents) > 2:
        return path.parents[2].name
    return path.name if path.is_absolute() else source


@dataclass(frozen=True)
class PretrainConfig(Recipe):
    """Recipe of `aegis pretrain`, kept as train_config.json so that a run can be resumed and repeated.

    Attributes:
        vqa: Question sets to learn from (HDF5, with label images); the tokenizer is made of their words.
        holdout: Question sets whose scores are followed.
        checkpoint: VLM to go on from (folder or hub name); from scratch, at aegis-tiny's size, if left out.
        steps: Optimizer steps.
        vision_steps: Steps of the vision tower alone before them, when starting from scratch.
        rows: Images in a step.
        questions: Questions packed on each image.
        two_cameras: Share of the steps that show a second camera, where a set has one.
        learning_rate: Peak; warm-up, a fifth at the peak, then cosine to 4%.
        final_share: This last share of the steps asks one question an image, under PaliGemma's exact mask.
        auxiliary: Weight of the losses beside the answers': what each patch shows, where each name points.
        eval_every: Steps between evaluations, each followed by a checkpoint.
        holdout_questions: How many questions of each hold-out set are asked then.
        seed: Of the weights, the order of scenes and questions, and augmentation.
        threads: Of torch on the CPU.
        compile: Compile the model first: minutes once, then faster steps.
    """

    COMMAND = "aegis pretrain"

    vqa: tuple[str, ...] = ()
    holdout: tuple[str, ...] = ()
    checkpoint: str | None = None
    steps: int = 6000
    vision_steps: int = 1500
    rows: int = 24
    questions: int = 8
    two_cameras: float = 0.3
    learning_rate: float = 9e-4
    final_share: float = 0.08
    auxiliary: float = 1.0
    eval_every: int = 1000
    holdout_questions: int = 512
    seed: int = 0
    threads: int = 1
    compile: bool = False

    def check(self) -> None:
        """Raise ValueError, naming the option, unless the recipe can be followed."""
        if not self.vqa:
            raise ValueError(
                "no question sets: name at least one with --vqa ('aegis record --task questions' makes one)"
            )
        least = dict.fromkeys(("steps", "questions", "eval_every", "holdout_questions", "threads"), 1)
        for name, bound in {**least, "rows": 2, "seed": 0}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {bound}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be above 0, got {self.learning_rate}")
        for name in ("two_cameras", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} is a share, from 0 to 1, got {getattr(self, name)}")
