"""Torch's normal numbers without torch: a seed means the same noise, and so the same chunk, to every backend.

`torch.randn` on the CPU draws from a Mersenne Twister (Matsumoto and Nishimura, 1998) and turns uniform numbers into
normal ones by Box and Muller's formula: 16 or more of them in float32, in blocks of eight pairs; fewer in float64, pair
by pair. Here as there to the last bits: its vectorised logarithm and cosine round a little differently from numpy's.
"""

from __future__ import annotations

import numpy as np

BLOCK = 16
"""Numbers that torch makes at a time, eight radii before their eight angles, and from how many on."""


def randn(seed: int | None, *shape: int) -> np.ndarray:
    """float32 standard normal numbers, as `torch.randn(shape, generator=torch.Generator().manual_seed(seed))`.

    Args:
        seed: its low 32 bits count; None draws a fresh one.
    """
    count = int(np.prod(shape))
    twister = _twister(int(np.random.default_rng().integers(2**32)) if seed is None else seed)
    return (_many if count >= BLOCK else _few)(twister, count).reshape(shape)


def _twister(seed: int) -> np.random.MT19937:
    key = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        key.append(1812433253 * (key[-1] ^ key[-1] >> 30) + i & 0xFFFFFFFF)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(key, np.uint32), "pos": 624}}
    return twister


def _many(twister: np.random.MT19937, count: int) -> np.ndarray:
    """Whole blocks first; what remains is the end of a block of its own, which is laid over the last numbers."""
    numbers = np.empty(count, np.float32)
    uniform = _uniform32(twister, count)
    whole = count // BLOCK * BLOCK
    numbers[:whole] = _blocks(uniform[:whole])
    if whole < count:
        numbers[-BLOCK:] = _blocks(_uniform32(twister, BLOCK))
    return numbers


def _uniform32(twister: np.random.MT19937, count: int) -> np.ndarray:
    """float32 in [0, 1): 24 bits of a word each."""
    return (twister.random_raw(count) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)


def _blocks(uniform: np.ndarray) -> np.ndarray:
    pairs = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    angle = np.float32(2 * np.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _few(twister: np.random.MT19937, count: int) -> np.ndarray:
    """Of each pair of uniform numbers, 53 bits of two words, the first is the angle and the second the radius."""
    words = twister.random_raw((count + 1) // 2 * 4).astype(np.uint64).reshape(-1, 2, 2)
    uniform = ((words[..., 0] << 32 | words[..., 1]) & (2**53 - 1)) * 2.0**-53
    angle, radius = 2 * np.pi * uniform[:, 0], np.sqrt(-2 * np.log1p(-uniform[:, 1]))
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[:count].astype(np.float32)
