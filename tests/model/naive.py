"""Gemma 2 and the action expert as their papers have them, one number at a time in float64.

Written from the papers (Gemma 2: arXiv 2408.00118, RoPE: 2104.09864, GQA: 2305.13245, pi0: 2410.24164), with loops
over layers, heads and queries and a list of keys for every query: no mask, no padding, no batch, no cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sizes:
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    query_scale: float
    softcap: float
    rope_base: float = 10000.0


def rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt(np.mean(x**2) + 1e-6) * (1 + weight)


def rotated(x: Array, position: int, base: float) -> Array:
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position * base ** (-2 * i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(query: Array, keys: Sequence[Array], values: Sequence[Array], sizes: Sizes) -> Array:
    scores = [sizes.softcap * math.tanh(query @ key / math.sqrt(sizes.query_scale) / sizes.softcap) for key in keys]
    weights = [math.exp(score) for score in scores]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def run(
    weights: Mapping[str, Array],
    sizes: Sizes,
    hidden: Sequence[Array],
    positions: Sequence[int],
    sees: Sequence[Sequence[int]],
    past: Sequence[tuple[Array, Array]] | None = None,
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """Tokens through all layers and the last norm.

    Args:
        sees: for each token, which of these tokens it attends to.
        past: per layer, keys and values [heads, P, head_dim] that every token attends to besides.

    Returns:
        The tokens' outputs, and per layer their own keys and values [heads, n, head_dim].
    """
    made = []
    for layer in range(sizes.layers):

        def w(name: str, layer: int = layer) -> Array:
            return weights[f"layers.{layer}.{name}.weight"]

        normed = [rms_norm(x, w("input_layernorm")) for x in hidden]
        keys: list[list[Array]] = []
        values: list[list[Array]] = []
        for head in range(sizes.key_heads):
            rows = slice(head * sizes.head_dim, (head + 1) * sizes.head_dim)
            projected = [w("self_attn.k_proj")[rows] @ x for x in normed]
            keys.append([rotated(k, p, sizes.rope_base) for k, p in zip(projected, positions, strict=True)])
            values.append([w("self_attn.v_proj")[rows] @ x for x in normed])
        made.append((np.array(keys), np.array(values)))
        after = []
        for i, x in enumerate(normed):
            heads = []
            for head in range(sizes.heads):
                rows = slice(head * sizes.head_dim, (head + 1) * sizes.head_dim)
                query = rotated(w("self_attn.q_proj")[rows] @ x, positions[i], sizes.rope_base)
                group = head // (sizes.heads // sizes.key_heads)
                seen_keys = [keys[group][j] for j in sees[i]]
                seen_values = [values[group][j] for j in sees[i]]
                if past is not None:
                    seen_keys += list(past[layer][0][group])
                    seen_values += list(past[layer][1][group])
                heads.append(attend(query, seen_keys, seen_values, sizes))
            mixed = w("self_attn.o_proj") @ np.concatenate(heads)
            x = hidden[i] + rms_norm(mixed, w("post_attention_layernorm"))
            inner = rms_norm(x, w("pre_feedforward_layernorm"))
            gated = gelu_tanh(w("mlp.gate_proj") @ inner) * (w("mlp.up_proj") @ inner)
            after.append(x + rms_norm(w("mlp.down_proj") @ gated, w("post_feedforward_layernorm")))
        hidden = after
    return [rms_norm(x, weights["norm.weight"]) for x in hidden], made


def time_embedding(time: float, width: int) -> Array:
    half = width // 2
    periods = [4e-3 * (4.0 / 4e-3) ** (i / (half - 1)) for i in range(half)]
    angles = np.array([2 * math.pi * time / period for period in periods])
    return np.concatenate([np.sin(angles), np.cos(angles)])


def velocity(
    weights: Mapping[str, Array],
    sizes: Sizes,
    past: Sequence[tuple[Array, Array]],
    state: Array,
    noisy: Array,
    time: float,
) -> Array:
    """One noisy chunk [H, A] -> velocity [H, A]; `past` is the prefix's, of any length."""

    def linear(name: str, x: Array) -> Array:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    tokens = [linear("state_in", state)]
    for action in noisy:
        embedded = linear("action_in", action)
        inner = linear("time_in", np.concatenate([embedded, time_embedding(time, len(embedded))]))
        tokens.append(linear("time_out", inner / (1 + np.exp(-inner))))
    length, n = past[0][0].shape[1], len(tokens)
    decoder = {name.removeprefix("decoder."): value for name, value in weights.items()}
    sees = [[0]] + [list(range(n))] * len(noisy)
    hidden, _ = run(decoder, sizes, tokens, [length + 1 + i for i in range(n)], sees, past)
    return np.array([linear("velocity_out", x) for x in hidden[1:]])
