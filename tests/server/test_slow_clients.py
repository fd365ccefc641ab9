"""Clients that stall, dawdle or vanish hold up nobody else, and leave nothing behind."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from aegis_policy.inference.example import example_observation
from aegis_policy.inference.wire import CONTENT_TYPE, pack
from aegis_server.schemas import act_example
from tests.linear_policy import LinearPolicy, Server

SEEN = example_observation(LinearPolicy.info)
BODY = json.dumps(act_example(LinearPolicy.info)).encode()
ASK = {"images": dict(SEEN.images), "question": "count", "stream": True}
COUNT = 100


def acts_promptly(client: httpx.Client) -> None:
    for _ in range(20):
        response = client.post("/v1/act", content=BODY, headers={"content-type": "application/json"}, timeout=10)
        assert response.status_code == 200


def request(server: Server, path: str, body: bytes, content_type: str) -> bytes:
    host = urlsplit(server.url).netloc
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def opened(server: Server) -> socket.socket:
    where = urlsplit(server.url)
    return socket.create_connection((where.hostname, where.port), timeout=30)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
def test_requests_that_never_end_hold_up_nobody(client: httpx.Client, server: Server, share: float) -> None:
    """Nothing sent, half of the head, or most of the body."""
    whole = request(server, "/v1/act", BODY, "application/json")
    with ExitStack() as stack:
        for _ in range(COUNT):
            stalled = stack.enter_context(closing(opened(server)))
            stalled.sendall(whole[: int(share * len(whole))])
        acts_promptly(client)
    acts_promptly(client)


def test_a_client_that_goes_while_it_sends_is_no_failure(client: httpx.Client, server: Server) -> None:
    row = 'aegis_requests_total{route="/v1/act",status="499"}'
    before, traces = counted(client, row), server.log.read_text().count("Traceback")
    whole = request(server, "/v1/act", BODY, "application/json")
    with closing(opened(server)) as gone:
        gone.sendall(whole[: len(whole) // 2])
    give_up = time.monotonic() + 30
    while counted(client, row) == before:
        assert time.monotonic() < give_up, client.get("/metrics").text
        time.sleep(0.05)
    assert counted(client, row) == before + 1
    assert server.log.read_text().count("Traceback") == traces


def counted(client: httpx.Client, row: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(row)) for line in lines if line.startswith(row))


def test_answers_that_nobody_reads_hold_up_nobody_and_give_their_places_back(
    client: httpx.Client, server: Server
) -> None:
    whole = request(server, "/v1/ask", pack(ASK), CONTENT_TYPE)
    with ExitStack() as stack:
        for _ in range(40):  # more than may be given at once
            stalled = stack.enter_context(closing(opened(server)))
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(whole)
        acts_promptly(client)
    give_up = time.monotonic() + 30
    while 'aegis_queue_depth{kind="answer"} 0.0' not in client.get("/metrics").text:
        assert time.monotonic() < give_up, "an answer is still being given to someone who has gone"
        time.sleep(0.05)


def test_websockets_that_say_nothing_hold_up_nobody(client: httpx.Client, server: Server) -> None:
    with ExitStack() as stack:
        for path in ("/", "/v1/stream"):
            for _ in range(COUNT // 2):
                stack.enter_context(connect(server.url.replace("http", "ws") + path))
        acts_promptly(client)


def test_websockets_that_vanish_without_a_word_hold_up_nobody(client: httpx.Client, server: Server) -> None:
    sent = {f"observation/{name}": image for name, image in SEEN.images.items()}
    sent |= {"observation/state": SEEN.state, "prompt": SEEN.instruction}
    for _ in range(COUNT):
        with connect(server.url.replace("http", "ws")) as line:
            line.send(pack(sent))
            line.socket.shutdown(socket.SHUT_RDWR)
    acts_promptly(client)
