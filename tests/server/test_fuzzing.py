"""The websockets against whatever can be sent to them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.linear_policy import Server
from tests.server.fuzzing import ROUTES, fuzz, upgraded

BAD_UTF8 = re.compile(r"^ERROR:uvicorn.error:Invalid UTF-8.*?^UnicodeDecodeError.*?$", re.MULTILINE | re.DOTALL)
"""What uvicorn says of a text frame that is none, before it closes with 1007: all that is expected."""


def complaints(log: Path) -> list[str]:
    words = ("Traceback", "ERROR", "exception was never retrieved", "was never awaited")
    return [line for line in BAD_UTF8.sub("", log.read_text()).splitlines() if any(word in line for word in words)]


def check(server: Server, cases: int, seed: int) -> None:
    before = len(complaints(server.log))
    found = fuzz(server.url, cases, seed)
    assert found["server_errors"] == 0, found["errors"]
    assert found["cases"] == cases
    assert found["refused"] > cases / 2
    assert complaints(server.log)[before:] == []


def test_no_message_or_frame_is_a_server_error(server: Server) -> None:
    check(server, cases=400, seed=0)


@pytest.mark.slow
def test_no_message_or_frame_is_a_server_error_for_long(server: Server) -> None:
    check(server, cases=8_000, seed=1)


@pytest.mark.parametrize("route", ROUTES)
def test_a_message_beyond_the_limit_closes_with_1009(server: Server, route: str) -> None:
    with upgraded(server.url, route) as raw:
        raw.sendall(struct.pack(">BBQ", 0x82, 0x80 | 127, 2**24 + 1) + bytes(4))  # announced is enough
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    assert b"\x88" in answer
    farewell = answer[answer.rindex(b"\x88") :]
    assert struct.unpack(">H", farewell[2:4]) == (1009,)
