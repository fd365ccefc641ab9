"""What a training step of each method costs beside naive's: `python benchmarks/step_cost.py WORK`.

Time: one process and one thread, in which every method takes its step in turn, on the same batch, round after round;
each step is compared with naive's of the same round, in seconds of the processor, so that other work on the machine
does not count. Memory: a process for each method, and how much it grows from before its first step to the most it ever
is. What is already in WORK is kept. Some 15 minutes on two slow cores. Writes benchmarks/results/step_cost.json and a
table in docs/method.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pages import fill, table
from provenance import ROOT, provenance
from tqdm import tqdm
from transformers import PaliGemmaConfig

from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.checkpoint import asset, load_vlm
from aegis_policy.model.config import expert_for, paligemma2_3b
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.anchor import w2_loss
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.cost import UNCOUNTED, count_step, new_method, random_batch
from aegis_policy.training.methods import Batch, Method, method_class
from aegis_policy.training.methods.aegis import Aegis
from aegis_policy.training.projection import project
from aegis_policy.training.train import make_optimizer

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "step_cost.json", ROOT / "docs" / "method.md"
METHODS: tuple[MethodName, ...] = get_args(MethodName)
BOOTSTRAPS, CAMERAS, PROMPT = 10_000, 2, 16
STATE, ACTIONS, HORIZON = 7, 7, 10


@dataclass(frozen=True)
class Setting:
    """A model, and how much it is given in a step."""

    vlm: Callable[[], Any]
    batch_size: int
    rounds: int

    def config(self, method: MethodName) -> TrainConfig:
        """Of a step; of its own, co-train has a quarter of questions and distil-features holds an eighth."""
        return TrainConfig(method=method, batch_size=self.batch_size)

    def policy(self) -> AegisPolicy:
        torch.manual_seed(0)
        vlm = self.vlm()
        return AegisPolicy(vlm, expert_for(vlm.config, STATE, ACTIONS, HORIZON))


def halved_paligemma2() -> PaliGemmaConfig:
    """PaliGemma 2 3B at half its width, eight layers deep, with images of 64 tokens and 32,000 words.

    With an expert beside it 0.3 billion parameters, shared out among its parts as in the large one.
    """
    large = paligemma2_3b()
    vision = large.vision_config.to_dict() | {
        **{"hidden_size": 576, "intermediate_size": 2152, "num_hidden_layers": 8, "num_attention_heads": 8},
        **{"image_size": 112, "projection_dim": 1152},
    }
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    text = large.text_config.to_dict() | {
        **{"hidden_size": 1152, "intermediate_size": 4608, "num_hidden_layers": 8, "layer_types": None},
        **{"head_dim": 128, "query_pre_attn_scalar": 128, "vocab_size": 32_000, **tokens},
    }
    return PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=31_999, projection_dim=1152, **tokens
    )


SETTINGS = {
    "tiny": Setting(lambda: load_vlm(asset("aegis-tiny-vlm")), batch_size=24, rounds=20),
    "300M": Setting(lambda: new_vlm(halved_paligemma2()), batch_size=8, rounds=8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for what has been measured")
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    steps = sum(len(METHODS) * (setting.rounds + 2) for setting in SETTINGS.values())
    with tqdm(total=steps, unit="step") as progress:
        results = {name: measure(work, name, progress) for name in SETTINGS}
    settings = {"cameras": CAMERAS, "prompt_tokens": PROMPT, "threads": 1, "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"settings": results, **settings, **provenance()}, indent=1) + "\n")
    write_table(results)


def measure(work: Path, name: str, progress: tqdm) -> dict[str, Any]:
    """Time and memory of every method in one setting."""
    setting = SETTINGS[name]
    rounds = take_rounds(setting, work / f"{name}-rounds.jsonl", progress)
    naive = np.array([each["naive"] for each in rounds])
    results: dict[str, Any] = {}
    for method in METHODS:
        file = work / f"{name}-{method}-memory.json"
        progress.set_description(f"{name} {method}, memory")
        if not file.exists():
            file.write_text(json.dumps(alone(grown, name, method)) + "\n")
        progress.update()
        time_ratio = summary(np.array([each[method] for each in rounds]) / naive)
        results[method] = {"time": time_ratio, **json.loads(file.read_text()), **counted(setting, method)}
    for cost in results.values():
        for what in ("growth_mib", "counted_growth_mib", "flops"):
            if what in cost:
                cost[f"{what.removesuffix('_mib')}_ratio"] = round(cost[what] / results["naive"][what], 3)
    parts = {part: summary(np.array([each["parts"][part] for each in rounds]) / naive) for part in rounds[0]["parts"]}
    sizes = {"batch_size": setting.batch_size, "parameters": sum(p.numel() for p in setting.policy().parameters())}
    return {**sizes, "naive_seconds": round(float(np.median(naive)), 3), "parts": parts, "methods": results}


def take_rounds(setting: Setting, file: Path, progress: tqdm) -> list[dict[str, Any]]:
    """Seconds of a step by method, and of parts of one, in each round; those in `file` are taken already."""
    rounds = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    progress.update(len(METHODS) * (len(rounds) + (len(rounds) == setting.rounds)))
    bench = Bench(setting) if len(rounds) < setting.rounds else None
    warm = False
    while bench and len(rounds) < setting.rounds:
        seconds: dict[str, Any] = {}
        for method in METHODS:
            progress.set_description(f"{method}")
            seconds[method] = bench.seconds(method)
            progress.update()
        if warm:
            rounds.append({**seconds, "parts": bench.parts()})
            with file.open("a") as lines:
                lines.write(json.dumps(rounds[-1]) + "\n")
        warm = True
    return rounds


class Bench:
    """One model that all methods take turns with; but for lora, which changes its layers and has one of its own."""

    def __init__(self, setting: Setting):
        self.setting, self.policy = setting, setting.policy()
        self.before = deepcopy(self.policy.vlm)
        self.lora = new_method(setting.config("lora"), deepcopy(self.policy), self.before)
        self.lora_optimizer = make_optimizer(self.lora, setting.config("lora"))
        naive = new_method(setting.config("naive"), self.policy)
        self.optimizer = make_optimizer(naive, setting.config("naive"))

    def seconds(self, name: MethodName) -> float:
        """Of a whole step."""
        config = self.setting.config(name)
        own = name == "lora"
        method = self.lora if own else new_method(config, self.policy, self.before)
        torch.manual_seed(0)
        batch = random_batch(config, method.policy, CAMERAS, PROMPT)
        began = time.process_time()
        update(method, self.lora_optimizer if own else self.optimizer, batch)
        return time.process_time() - began

    def parts(self) -> dict[str, float]:
        """Seconds of the forward pass, of the optimizer, and of what aegis does besides drawing a second gradient."""
        config, seconds = self.setting.config("aegis"), dict[str, float]()
        aegis = new_method(config, self.policy)
        assert isinstance(aegis, Aegis)
        batch = random_batch(config, self.policy, CAMERAS, PROMPT)
        with stopwatch(seconds, "forward"):
            loss, valid, states = aegis.flow_loss(batch)
        loss.backward()
        states = [state.detach().requires_grad_() for state in states]
        with stopwatch(seconds, "anchor_loss"):
            w2_loss(states, valid, aegis.anchor).backward()
        with stopwatch(seconds, "projection"):
            for layer in aegis.layers:  # the weights are a direction like any other
                project([parameter.grad for parameter in layer], [parameter.detach() for parameter in layer])
        with stopwatch(seconds, "optimizer"):
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.clip).item()
            self.optimizer.step()
        return seconds


def update(method: Method, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """What a step of training does between its batch and its log, on fixed weights: the learning rate is zero."""
    method.backward(batch)
    torch.nn.utils.clip_grad_norm_(method.policy.parameters(), TrainConfig.clip).item()
    optimizer.step()


@contextmanager
def stopwatch(into: dict[str, float], name: str) -> Iterator[None]:
    began = time.process_time()
    yield
    into[name] = time.process_time() - began


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, where every larger tensor is a mapping of its own.

    So what is freed goes back to the system at once, and the process is as large as its tensors.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def grown(name: str, method: MethodName) -> dict[str, float]:
    """Mebibytes that this process has before its first step, and by how many it grows at most in two."""
    torch.set_num_threads(1)
    config, policy = SETTINGS[name].config(method), SETTINGS[name].policy()
    before = deepcopy(policy.vlm) if method_class(method).needs_before else None
    chosen = new_method(config, policy, before)
    optimizer, batch = make_optimizer(chosen, config), random_batch(config, policy, CAMERAS, PROMPT)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
    start = kilobytes("VmRSS")
    for _ in range(2):
        update(chosen, optimizer, batch)
    return {"start_mib": round(start / 1024), "growth_mib": round((kilobytes("VmHWM") - start) / 1024, 1)}


def kilobytes(what: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[what].split()[0])


def counted(setting: Setting, method: MethodName) -> dict[str, float]:
    """What the same step should take, by counting; nothing for methods that cannot be counted."""
    if method in UNCOUNTED:
        return {}
    vlm = setting.policy().vlm.config
    expert = expert_for(vlm, STATE, ACTIONS, HORIZON)
    cost = count_step(setting.config(method), vlm, expert, cameras=CAMERAS, prompt=PROMPT, bfloat16=False)
    return {"counted_growth_mib": round((cost.peak - cost.weights) / 1024**2, 1), "flops": cost.flops}


def summary(ratios: np.ndarray) -> dict[str, Any]:
    """Median with a bootstrap 95% interval."""
    drawn = np.random.default_rng(0).choice(ratios, (BOOTSTRAPS, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"ratio": round(float(np.median(ratios)), 3), "ci95": [round(low, 3), round(high, 3)], "n": len(ratios)}


def write_table(results: dict[str, Any]) -> None:
    """Put the figures into the page."""
    head = ["method", *(f"{what}, {name}" for what in ("step time", "growth in memory") for name in results)]
    rows = []
    for method in METHODS:
        costs = [setting["methods"][method] for setting in results.values()]
        times = [f"{c['time']['ratio']:.2f} [{c['time']['ci95'][0]:.2f}, {c['time']['ci95'][1]:.2f}]" for c in costs]
        rows.append([f"`{method}`", *times, *(f"{c['growth_ratio']:.2f}" for c in costs)])
    fill(PAGE, "step cost", table(head, rows))


if __name__ == "__main__":
    main()
