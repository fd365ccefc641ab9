"""The binary format: what is packed comes back, as openpi reads and writes it, and no message is believed."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aegis_policy.inference.wire import MAX_CONTAINERS, MAX_LENGTH, WireError, pack, unpack
from tests.server import clients

DTYPES = [f"{order}{kind}" for kind in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8") for order in "<>"]
DTYPES += ["|b1", "|i1", "|u1"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4))
)
SCALARS = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.from_dtype(np.dtype(dtype)))
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
SHAPES = st.lists(st.integers(0, 2**63))
KEYS = st.text() | st.integers(0, 2**63) | st.binary().filter(lambda key: not key.startswith(b"__"))
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


@given(array=ARRAYS)
def test_an_array_comes_back_bit_for_bit(array: np.ndarray) -> None:
    found = unpack(pack({"deep": [array]}))["deep"][0]
    assert (found.dtype.str, found.shape) == (array.dtype.str, array.shape)
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable


@given(array=ARRAYS)
def test_a_view_with_strides_comes_back_as_what_it_shows(array: np.ndarray) -> None:
    view = array.T[..., ::-1] if array.ndim else array
    np.testing.assert_array_equal(unpack(pack(view)), view)


@given(scalar=SCALARS)
def test_a_scalar_comes_back_as_its_number(scalar: np.generic) -> None:
    np.testing.assert_equal(unpack(pack(scalar)), scalar.item())


@given(value=VALUES)
def test_what_msgpack_knows_comes_back(value: Any) -> None:
    np.testing.assert_equal(unpack(pack(value)), value)


@pytest.mark.parametrize(
    "value",
    [np.array(["a"]), np.array([object()]), np.zeros(2, "V4"), np.complex64(1), np.longdouble(1), object(), 2**70],
)
def test_nothing_else_is_packed(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot pack"):
        pack(value)


@clients.needed
def test_openpi_s_client_reads_it_and_writes_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [(100 * rng.normal(size=(2, 1, 3))).astype(dtype) for dtype in DTYPES]
    values += [np.zeros((0, 3), np.float32), np.array(2.5), np.float32(0.1), np.int64(-3), np.bool_(True), 7, 2.5]
    path = tmp_path / "packed"
    path.write_bytes(pack(values))
    seen = clients.run("wire_script.py", str(path))
    assert [dtype for dtype, _, _ in seen[: len(DTYPES)]] == DTYPES
    for (_, shape, numbers), value in zip(seen, values, strict=True):
        assert shape == list(np.shape(value))
        np.testing.assert_array_equal(np.reshape(numbers, shape), value)
    assert path.read_bytes() == pack(values)


def peak(data: bytes) -> tuple[str, int]:
    """What is wrong with a message, and the most memory (bytes) that it took to say so."""
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as error:
            unpack(data)
        return str(error.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def lie(data: Any = bytes(8), dtype: Any = "<f4", shape: Any = (2,)) -> bytes:
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


LIES = {
    "a billion": (lie(shape=[10**9]), "not 8 bytes"),
    "a billion of a billion": (lie(shape=[10**9, 10**9, 10**9]), "not 8 bytes"),
    "too few": (lie(shape=[3]), "not 8 bytes"),
    "none for one": (lie(b"", shape=[]), "not 0 bytes"),
    "negative": (lie(shape=[-2]), "expected a list of sizes"),
    "two negatives": (lie(shape=[-2, -1]), "expected a list of sizes"),
    "truth": (lie(shape=[True, 2]), "expected a list of sizes"),
    "fraction": (lie(shape=[2.0]), "expected a list of sizes"),
    "no list": (lie(shape=2), "expected a list of sizes"),
    "a thousand dimensions": (lie(shape=[2] + [1] * 1000), "expected a list of sizes"),
    "nothing, of a size past counting": (lie(b"", shape=[0, 2**62, 2**62]), "shape"),
    "nothing, of a size past 64 bits": (lie(b"", shape=[0, 2**63]), "shape"),
    "objects": (lie(dtype="|O"), "dtype"),
    "void": (lie(dtype="|V8"), "dtype"),
    "text": (lie(dtype="<U2"), "dtype"),
    "times": (lie(dtype="<M8[s]"), "dtype"),
    "complex": (lie(dtype="<c8"), "dtype"),
    "wide": (lie(bytes(32), "<f16"), "dtype"),
    "fields": (lie(dtype="<f4,<f4"), "dtype"),
    "sub-arrays": (lie(dtype="(2,)<f4"), "dtype"),
    "code": (lie(dtype="__import__('os').abort()"), "dtype"),
    "dtype of bytes": (lie(dtype=b"<f4"), "dtype"),
    "no dtype": (lie(dtype=None), "dtype"),
    "data of text": (lie("12345678"), "expected bytes"),
    "no data": (msgpack.packb({b"__ndarray__": True}), "dtype"),
    "scalar of a list": (msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}), "expected a number"),
    "a list of 4 billion": (b"\xdd\xff\xff\xff\xff", "not msgpack"),
    "a text of 4 GB": (b"\xdb\xff\xff\xff\xff", "not msgpack"),
    "lists without end": (b"\x91" * 10**6, "not msgpack"),
    "maps without end": (b"\x81\xa1a" * 10**6, "not msgpack"),
    "a million lists": (msgpack.packb([[]] * 10**6), "not msgpack"),
    "a million lists, folded": (msgpack.packb([[[[]] * 100] * 100] * 100), f"more than {MAX_CONTAINERS} lists"),
    "dimensions without end": (lie(shape=[2**63] * 10**6), "not msgpack"),
    "a list for a key": (b"\x81\x90\x01", "not msgpack"),
    "trailing": (pack(1) + pack(2), "not msgpack"),
    "nothing": (b"", "not msgpack"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_by_name_and_takes_no_memory(name: str) -> None:
    data, reason = LIES[name]
    words, memory = peak(data)
    assert reason in words
    assert memory < len(data) + 100_000


def test_as_much_as_is_allowed_is_taken() -> None:
    assert len(unpack(pack([0] * MAX_LENGTH))) == MAX_LENGTH
    assert len(unpack(pack([[]] * (MAX_CONTAINERS - 1)))) == MAX_CONTAINERS - 1
    with pytest.raises(WireError):
        unpack(pack([[]] * MAX_CONTAINERS))


def is_refused_or_read(data: bytes) -> None:
    with suppress(WireError):  # and nothing else
        unpack(data)


VALID = pack(
    {"observation/front": np.zeros((12, 16, 3), np.uint8), "state": np.ones(3), "n": np.int8(1), "prompt": "pick"}
)


@given(end=st.integers(0, len(VALID) - 1))
def test_no_cut_message_is_read(end: int) -> None:
    with pytest.raises(WireError):
        unpack(VALID[:end])


@settings(max_examples=500)
@given(data=st.binary(max_size=200), at=st.integers(0, len(VALID)))
def test_garbage_raises_nothing_but_a_wire_error(data: bytes, at: int) -> None:
    is_refused_or_read(data)
    is_refused_or_read(VALID[:at] + data + VALID[at + len(data) :])


@settings(max_examples=300)
@given(
    fields=st.fixed_dictionaries(
        {b"__ndarray__": st.just(True)},
        optional={b"data": PLAIN, b"dtype": PLAIN | st.sampled_from(DTYPES), b"shape": VALUES | SHAPES},
    )
)
def test_whatever_says_it_is_an_array_raises_nothing_but_a_wire_error(fields: dict[bytes, Any]) -> None:
    is_refused_or_read(msgpack.packb(fields))
