"""Whatever a websocket can be sent, at random and by a seed: does the server stay up and say why?"""

from __future__ import annotations

import copy
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from aegis_policy import PolicyInfo
from aegis_policy.inference.example import example_observation
from aegis_policy.inference.wire import pack, unpack

ROUTES = ("/", "/v1/stream")
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 2**63, 2**64 - 1, float("nan"), float("inf"), "", "x" * 70_000, "\0", b"", bytes(1000), [], {}),
    *([[]] * 300, [0] * 5000, {1: 2}, {b"__ndarray__": True}, {b"__npgeneric__": True}, msgpack.ExtType(5, b"x")),
    *(
        np.float32(1),
        np.zeros((12, 16, 3), np.float64),
        np.zeros((3, 12, 16), np.uint8),
        np.zeros((0, 3)),
        np.ones(3, bool),
    ),
    *(
        {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
        for data, dtype, shape in (
            (bytes(8), "<f4", [10**9]),
            (bytes(8), "<f4", [10**9, 10**9]),
            (bytes(8), "|u1", [-8]),
            (bytes(8), "|O", [1]),
            (bytes(8), "|V8", [1]),
            (bytes(8), "<M8[s]", [1]),
            (bytes(8), "(2,)<f4", [1]),
            (b"", "<f4", [0, 2**62, 2**62]),
            ("text", "<f4", [1]),
            (bytes(12), "<f4", [3]),
        )
    ),
)


@dataclass
class Tally:
    """What came of the cases; an `error` is the server's own fault, with the case that brought it."""

    cases: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)


def fuzz(url: str, cases: int, seed: int) -> dict[str, Any]:
    """Send `cases` messages, each over a connection of its own, to the server at `url` ("http://...").

    Returns:
        `cases` sent; `refused` with words; `server_errors`, and the first of them in `errors`.
    """
    rng = random.Random(seed)
    info = PolicyInfo.from_dict(httpx.get(f"{url}/v1/info", trust_env=False).json())
    tally = Tally()
    for number in range(cases):
        route = rng.choice(ROUTES)
        send = _frame if rng.random() < 0.25 else _message
        try:
            send(url, route, info, rng, tally)
        except OSError as error:
            tally.errors.append(f"case {number}: {send.__name__} to {route}: {type(error).__name__}: {error}")
        tally.cases += 1
        if number % 50 == 49 or number == cases - 1:
            ready = httpx.get(f"{url}/readyz", trust_env=False, timeout=20)
            if ready.status_code != 200:
                tally.errors.append(f"case {number}: not ready: {ready.text}")
    return {
        "cases": tally.cases,
        "refused": tally.refused,
        "server_errors": len(tally.errors),
        "errors": tally.errors[:5],
    }


def _valid(route: str, info: PolicyInfo) -> dict[str, Any]:
    seen = example_observation(info)
    if route == "/":
        images = {f"observation/{name}": image for name, image in seen.images.items()}
        return {**images, "observation/state": seen.state, "prompt": seen.instruction}
    observation = {"images": dict(seen.images), "state": seen.state, "instruction": seen.instruction, "seed": 1}
    return {"epoch": 3, "executed": 1, "delay": 1, "observation": observation}


def _twisted(value: Any, rng: random.Random) -> Any:
    """A map with one entry, at any depth, replaced, dropped or added."""
    changed = copy.deepcopy(value)
    place = changed
    while True:
        key = rng.choice(list(place))
        if isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        action = rng.randrange(4)
        if action == 0:
            del place[key]
        elif action == 1:
            place[rng.choice(("epoch", "step", "", 7, b"x", None, "x" * 5000))] = rng.choice(HOSTILE)
        else:
            place[key] = rng.choice(HOSTILE)
        return changed


def _mangled(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut off, put in or doubled."""
    at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(60, len(data)))
    return rng.choice(
        (
            data[:at],
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:],
            data + data[:at],
            rng.randbytes(at),
        )
    )


def _message(url: str, route: str, info: PolicyInfo, rng: random.Random, tally: Tally) -> None:
    """One message that is whole; then a text, which is always refused, so that the end of the answers is known."""
    make: tuple[Callable[[], bytes | str], ...] = (
        lambda: msgpack.packb(_twisted(_valid(route, info), rng), default=_packed),
        lambda: _mangled(pack(_valid(route, info)), rng),
        lambda: rng.choice(("", "hello", "{}", "\0" * 100, "é" * 5000)),
        lambda: pack(rng.choice([each for each in HOSTILE if not isinstance(each, msgpack.ExtType)])),
    )
    message = rng.choice(make)()
    words, code = "", None
    with connect(url.replace("http", "ws") + route, compression=None, max_size=None, proxy=None) as line:
        try:
            line.recv(timeout=20)
            line.send(message)
            with suppress(ConnectionClosed):  # what was said before is still to be read
                line.send("")
            while True:
                words = _words(line.recv(timeout=20))
        except ConnectionClosed as closed:
            code = closed.rcvd and closed.rcvd.code
        except TimeoutError:
            code = "none in 20 s"
    if not words or "internal error" in words or code not in (1008, 1011):
        tally.errors.append(f"case {tally.cases}: {message[:80]!r} to {route}: said {words!r}, closed with {code}")
    else:
        tally.refused += 1


def _packed(array: Any) -> Any:
    """An array as `pack` packs it, for msgpack's own packer, which also packs what `pack` refuses."""
    return msgpack.unpackb(pack(array), strict_map_key=False)


def _words(answer: bytes | str) -> str:
    return answer if isinstance(answer, str) else str(unpack(answer).get("error", ""))


def _frame(url: str, route: str, info: PolicyInfo, rng: random.Random, _: Tally) -> None:
    """A frame that is cut off, lies about its length, or breaks the protocol; then the client is gone."""
    payload = pack(_valid(route, info))
    length = struct.pack(">BBH", 0x82, 0x80 | 126, len(payload)) + os.urandom(4)
    frames = (
        (length + payload)[: rng.randrange(1, len(payload))],
        struct.pack(">BBQ", 0x82, 0x80 | 127, 2**62) + rng.randbytes(100),  # an exabyte is to come
        struct.pack(">BBQ", 0x82, 0x80 | 127, 2**63 + 5) + rng.randbytes(100),
        bytes([0x82, 5]) + b"hello",  # not masked
        bytes([0x80 | rng.randrange(3, 8), 0x80]) + bytes(4),  # an opcode that is none
        bytes([0xF2, 0x81]) + bytes(5),  # reserved bits
        bytes([0x09, 0xFE, 0x10, 0x00]) + bytes(4),  # a ping in fragments, and too long
        bytes([0x80, 0x85]) + bytes(9),  # a continuation of nothing
        bytes([0x81, 0x82]) + bytes(4) + b"\xff\xfe",  # a text that is none
        bytes([0x88, 0x81]) + bytes(5),  # a farewell of one byte
        rng.randbytes(rng.randrange(1, 200)),
    )
    with upgraded(url, route) as raw:
        raw.sendall(rng.choice(frames))


@contextmanager
def upgraded(url: str, route: str) -> Iterator[socket.socket]:
    """A socket whose websocket handshake is done, and nothing else. Raises ConnectionError if it is refused."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(
            f"GET {route} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        if not raw.recv(4096).startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"no handshake at {route}")
        yield raw
