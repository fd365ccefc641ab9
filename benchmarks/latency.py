"""How fast the engine acts and answers: `python benchmarks/latency.py WORK [--lerobot PYTHON]`.

Of the policy that ships, on one thread, and of a 300M-class one with random weights, on all cores; either on the GPU
where there is one; by torch, and exported, by onnxruntime. In every round each takes its turn, so all meet the same
machine, and ratios are of medians of one run. Beside them:

    re-encode   the model as it stands, which reads images and instruction anew at each Euler step
    generate    transformers' own way to an answer, of the same tokens
    lerobot     PI0 of the same sizes, by lerobot, in its own Python (`pip install "lerobot[pi]"`), tensors to tensors
    products    the matrix products of an act alone, and how long they would take at the rate of a large one

Ours begin with pictures and words and end with SI units or text. Writes benchmarks/results/latency.json, the table in
docs/engine.md and the plot beside it. `--size` measures one size and keeps the other's figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_models import QUESTION, SIZES, onnx_folder, scenes, sizes, torch_folder
from latency_peers import LeRobot, Plain, Products, answer, rate, timed
from latency_report import write
from provenance import ROOT, provenance
from tqdm import tqdm

from aegis_policy import Observation, Policy, act_many
from aegis_policy.inference.load import load_policy
from aegis_policy.model.checkpoint import load

RESULTS = ROOT / "benchmarks" / "results" / "latency.json"
ROUNDS = {"tiny": 60, "300M": 8}
BATCHES = (1, 2, 4, 8, 16)
BATCH_ROUNDS = {"tiny": 5, "300M": 1}
THREADS = {"tiny": 1, "300M": len(os.sched_getaffinity(0))}
"""As `TorchPolicy` and `OnnxPolicy` have it by themselves: a small model on one, a large one on all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for the policies")
    parser.add_argument("--lerobot", type=Path, help="a Python that has lerobot[pi]")
    parser.add_argument("--size", choices=SIZES, help="this one alone")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text())["configurations"] if RESULTS.exists() else {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for size in [arguments.size] if arguments.size else SIZES:
        found[size] = measure(size, arguments.work.absolute(), arguments.lerobot)
        measured = {"configurations": {name: found[name] for name in SIZES if name in found}, "threads": THREADS}
        RESULTS.write_text(json.dumps({**measured, "device": device, **provenance()}, indent=1) + "\n")
    write(json.loads(RESULTS.read_text()))


def measure(size: str, work: Path, lerobot: Path | None) -> dict[str, Any]:
    """All figures of one size."""
    folders = {"torch": torch_folder(size, work), "onnx": onnx_folder(size, work)}
    ours = {backend: load_policy(folder) for backend, folder in folders.items()}
    torch.set_num_threads(THREADS[size])
    checkpoint = load(folders["torch"])
    seen = scenes(checkpoint.info, max(BATCHES))
    plain = Plain(checkpoint, seen[0], QUESTION)
    said = {answer(policy, seen[0], QUESTION) for policy in ours.values()} | {plain.generate()}
    if len(said) > 1:
        raise SystemExit(f"{size}: answers differ, so their times say nothing: {said}")
    products = Products(lambda: ours["torch"].act(seen[0], seed=0))
    calls = turns(ours, seen[0]) | {
        "act re-encode": partial(timed, plain.re_encode),
        "ask generate": partial(timed, plain.generate),
        "act products": partial(timed, products.run),
        "act at the rate": lambda: products.flops / rate(),
    }
    if lerobot:
        words = plain.instruction[0].shape[1]
        peer = LeRobot(lerobot, sizes(plain.policy, len(checkpoint.info.cameras), words) | {"threads": THREADS[size]})
        calls["act lerobot"] = peer.seconds
    seconds = in_turn(calls, ROUNDS[size], size)
    memory = {backend: peak_of(folder) for backend, folder in folders.items()}
    parameters = {"ours": sum(each.numel() for each in plain.policy.parameters())}
    if lerobot:
        peer.close()
        memory["lerobot"], parameters["lerobot"] = peer.peak_mb, peer.parameters
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "ms": {name: spread(values) for name, values in seconds.items()},
        "ratios": ratios(medians, min(("torch", "onnx"), key=lambda backend: medians[f"act {backend}"])),
        "ratios_by_backend": {backend: ratios(medians, backend) for backend in ours},
        "acts_per_s": {backend: throughput(policy, seen, size) for backend, policy in ours.items()},
        "peak_mb": memory,
        "parameters": parameters,
        "gflop_per_act": products.flops / 1e9,
        "gflop_per_s": products.flops / medians["act at the rate"] / 1e9,
        "answer_tokens": len(plain.generated()),
    }


def turns(ours: dict[str, Policy], seen: Observation) -> dict[str, Callable[[], float]]:
    """Each backend's act, answer, and first piece of an answer."""
    found: dict[str, Callable[[], float]] = {}
    for backend, policy in ours.items():
        found[f"act {backend}"] = partial(timed, partial(policy.act, seen, seed=0))
        found[f"ask {backend}"] = partial(timed, partial(answer, policy, seen, QUESTION))
        if answer(policy, seen, QUESTION):  # random weights say nothing but line ends, of which no word is made
            found[f"first {backend}"] = partial(timed, partial(_first, policy, seen))
    return found


def _first(policy: Policy, seen: Observation) -> str:
    return next(iter(policy.ask(seen.images, QUESTION)))


def in_turn(calls: dict[str, Callable[[], float]], rounds: int, size: str) -> dict[str, list[float]]:
    """Seconds of every call in every round; a first one, in which they warm up, does not count."""
    seconds = defaultdict(list)
    for turn in tqdm(range(rounds + 1), desc=size):
        for name, call in calls.items():
            took = call()
            if turn:
                seconds[name].append(took)
    return dict(seconds)


def ratios(medians: dict[str, float], backend: str) -> dict[str, Any]:
    act, ask = medians[f"act {backend}"], medians[f"ask {backend}"]
    found: dict[str, Any] = {
        "backend": backend,
        "act_vs_reencode": act / medians["act re-encode"],
        "ask_vs_generate": ask / medians["ask generate"],
        "act_vs_gemm_floor": act / medians["act at the rate"],
        "act_vs_products": act / medians["act products"],
    }
    if "act lerobot" in medians:
        found["act_vs_lerobot"] = act / medians["act lerobot"]
    return found


def spread(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {"p50": float(p50), "p95": float(p95)}


def throughput(policy: Policy, seen: list[Observation], size: str) -> dict[str, float]:
    """Acts a second, by how many are computed together."""
    found = {}
    for batch in BATCHES:
        act = partial(act_many, policy, seen[:batch], list(range(batch)))
        found[str(batch)] = batch / float(np.median([timed(act) for _ in range(BATCH_ROUNDS[size])]))
    return found


def peak_of(folder: Path) -> float:
    """Megabytes that a process needs to load a policy, act and answer."""
    line = [sys.executable, Path(__file__).with_name("latency_peak.py"), folder]
    return float(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main()
