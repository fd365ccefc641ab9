"""Arrays in msgpack, exactly as openpi's client and server pack them: the binary format of `aegis serve`.

An array is a map with bytes for keys, {b"__ndarray__": True, b"data", b"dtype", b"shape"}, a NumPy scalar
{b"__npgeneric__": True, b"data", b"dtype"}. Whoever sends them is not trusted: an array is made only if its bytes are
there, as many as its shape and dtype say, so nothing is allocated on anyone's word; and as numbers in quantity come as
arrays, a message of a million small things, each of which would become an object, is refused.
"""

from __future__ import annotations

from itertools import count
from math import prod
from typing import Any

import msgpack
import numpy as np

CONTENT_TYPE = "application/msgpack"
CONTRACT_HEADER = "x-policy-contract"
"""Of an answer to /v1/act: `PolicyInfo.contract` of the policy that acted."""
KINDS = "biuf"
"""Kinds of NumPy dtypes that travel: truth values, integers and floats, of 8 bytes at most."""
MAX_CONTAINERS, MAX_LENGTH, MAX_DIMENSIONS = 256, 4096, 32
"""Of a message: its lists and maps, the entries of each of them, and the dimensions of an array."""


class WireError(ValueError):
    """Bytes that are not msgpack, or an array that contradicts itself; says what is wrong."""


def pack(value: Any) -> bytes:
    """Maps, lists, text, bytes, numbers and arrays as msgpack."""
    packed: bytes = msgpack.packb(value, default=_encode)
    return packed


def unpack(data: bytes) -> Any:
    """What was packed.

    Raises:
        WireError: not msgpack, not an array where one is announced, or more lists and maps than a message needs.
    """
    left = count(MAX_CONTAINERS - 1, -1)

    def counted(found: Any) -> Any:
        if next(left) < 0:
            raise WireError(f"more than {MAX_CONTAINERS} lists and maps: send numbers as arrays")
        return _decode(found) if isinstance(found, dict) else found

    try:
        return msgpack.unpackb(
            data,
            object_hook=counted,
            list_hook=counted,
            strict_map_key=False,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
        )
    except WireError:
        raise
    except Exception as error:  # a hostile message can make the parser raise anything; the message is at fault
        raise WireError(f"not msgpack ({type(error).__name__}: {error})") from error


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and not _travels(value.dtype):
        raise TypeError(f"cannot pack an array of {value.dtype}")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"cannot pack {type(value).__name__}")


def _decode(found: dict[Any, Any]) -> Any:
    if b"__npgeneric__" in found:
        number = found.get(b"data")
        if not isinstance(number, bool | int | float):
            raise WireError(f"a scalar's data is {type(number).__name__}: expected a number")
        return number
    if b"__ndarray__" not in found:
        return found
    data, shape, dtype = found.get(b"data"), found.get(b"shape"), _dtype(found.get(b"dtype"))
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise WireError(f"an array's shape is {_short(shape)}: expected a list of sizes")
    if not isinstance(data, bytes):
        raise WireError(f"an array's data is {type(data).__name__}: expected bytes")
    if prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"an array says {dtype}{_short(shape)}, which is not {len(data)} bytes")
    try:
        return np.frombuffer(data, dtype).reshape(shape).copy() if data else np.zeros(shape, dtype)
    except ValueError as error:  # a size that NumPy cannot count, beside one of 0
        raise WireError(f"an array's shape is {_short(shape)}: {error}") from error


def _dtype(name: Any) -> np.dtype:
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except (TypeError, ValueError, SyntaxError):  # NumPy reads a dtype's text as Python in places
        dtype = None
    if dtype is None or not _travels(dtype):
        raise WireError(f"an array's dtype is {_short(name)}: expected numbers, such as '|u1' or '<f4'")
    return dtype


def _travels(dtype: np.dtype) -> bool:
    return dtype.kind in KINDS and dtype.itemsize <= 8


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
