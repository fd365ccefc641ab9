"""/v1/stream: the newest observation of the newest epoch is answered, and nothing else.

The policy acts only while the file `gate` is there, so what comes while it computes is for the test to say.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from aegis_policy import Observation, Pending, PolicyInfo
from aegis_policy.inference.wire import pack, unpack
from tests.linear_policy import LINEAR, LinearPolicy, Server, serving

INFO = LinearPolicy.info
RNG = np.random.default_rng(0)
IMAGES = {camera.name: RNG.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in INFO.cameras}
STATE = np.array([0.1, -0.2, 0.05], np.float32)
INSTRUCTION = "pick up the red cube"


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    gate = tmp_path_factory.mktemp("stream") / "gate"
    gate.touch()
    with serving(gate.with_name("log"), *LINEAR, "--gate", str(gate)) as server:
        server.wait()
        yield server, gate
        assert httpx.get(f"{server.url}/readyz").status_code == 200


@pytest.fixture
def gate(gated: tuple[Server, Path]) -> Path:
    gated[1].touch()
    return gated[1]


def opened(server: Server) -> ClientConnection:
    return connect(f"{server.url.replace('http', 'ws')}/v1/stream", compression=None, proxy=None)


@pytest.fixture
def line(gated: tuple[Server, Path], gate: Path) -> Iterator[ClientConnection]:
    with opened(gated[0]) as line:
        assert PolicyInfo.from_dict(unpack(line.recv())) == INFO
        yield line


def seen(stamp: float = 0.0, **changes: Any) -> dict[str, Any]:
    return {"images": IMAGES, "state": STATE, "instruction": INSTRUCTION, "stamp": stamp, "seed": 3, **changes}


def tell(line: ClientConnection, epoch: int, stamp: float | None = None, **turn: int) -> None:
    line.send(pack({"epoch": epoch, **turn, **({} if stamp is None else {"observation": seen(stamp)})}))


def hear(line: ClientConnection) -> dict[str, Any]:
    return unpack(line.recv(timeout=20))


def settle() -> None:
    """Time for what was sent to arrive, and an act to begin."""
    time.sleep(0.3)


def test_gives_the_policy_s_chunk_with_where_the_loop_stood(line: ClientConnection) -> None:
    tell(line, 7, 12.5, executed=4, delay=2)
    answer = hear(line)
    expected = LinearPolicy().act(Observation(IMAGES, STATE, INSTRUCTION), seed=3).actions
    np.testing.assert_array_equal(answer.pop("actions"), expected)
    assert answer.pop("queue_ms") >= 0 and answer.pop("model_ms") > 0
    assert answer == {"epoch": 7, "executed": 4, "delay": 2, "stamp": 12.5, "batch": 1, "skipped": 0}


def test_goes_on_from_what_is_pending(line: ClientConnection) -> None:
    left = np.array([[0.5, -0.25, 1.0], [0.125, 0.5, 0.0]], np.float32)
    observation = seen(12.5, pending={"actions": left, "delay": 1})
    line.send(pack({"epoch": 1, "executed": 2, "delay": 1, "observation": observation}))
    answer = hear(line)
    assert (answer["executed"], answer["delay"]) == (2, 1)
    expected = Observation(IMAGES, STATE, INSTRUCTION, pending=Pending(left, 1))
    np.testing.assert_array_equal(answer["actions"], LinearPolicy().act(expected, seed=3).actions)
    np.testing.assert_array_equal(answer["actions"][0], left[0])


def test_the_newest_observation_wins(line: ClientConnection, gate: Path) -> None:
    gate.unlink()
    tell(line, 1, 1.0)
    settle()
    for stamp in (2.0, 3.0, 4.0):
        tell(line, 1, stamp)
    settle()
    gate.touch()
    first, second = hear(line), hear(line)
    assert (first["stamp"], first["skipped"]) == (1.0, 2)
    assert (second["stamp"], second["skipped"]) == (4.0, 0)


def test_nothing_of_an_older_epoch_is_sent_though_it_was_being_computed(line: ClientConnection, gate: Path) -> None:
    gate.unlink()
    tell(line, 1, 1.0)
    settle()
    tell(line, 1, 2.0)
    tell(line, 2)
    settle()
    gate.touch()
    with pytest.raises(TimeoutError):
        line.recv(timeout=0.5)
    tell(line, 1, 3.0)
    tell(line, 2, 4.0)
    answer = hear(line)
    assert (answer["epoch"], answer["stamp"], answer["skipped"]) == (2, 4.0, 3)


def test_a_new_epoch_need_not_wait_for_word_of_the_old(line: ClientConnection, gate: Path) -> None:
    gate.unlink()
    tell(line, 1, 1.0)
    settle()
    tell(line, 2, 2.0)
    gate.touch()
    answer = hear(line)
    assert (answer["epoch"], answer["stamp"], answer["skipped"]) == (2, 2.0, 1)


def test_every_observation_is_answered_or_counted_and_epochs_never_fall(line: ClientConnection) -> None:
    rng = np.random.default_rng(0)
    epochs = np.maximum.accumulate(rng.integers(0, 20, 300)) - rng.integers(0, 2, 300)
    for number, epoch in enumerate(epochs):
        tell(line, max(0, int(epoch)), float(number))
    tell(line, 100, 300.0)
    answers = [hear(line)]
    while answers[-1]["epoch"] != 100:
        answers.append(hear(line))
    assert len(answers) + sum(answer["skipped"] for answer in answers) == 301
    heard = [(answer["epoch"], answer["stamp"]) for answer in answers]
    assert heard == sorted(heard)
    assert all(stamp == 300 or max(0, epochs[int(stamp)]) == epoch for epoch, stamp in heard)


WRONG = {
    "text": ("hello", "expected a map in msgpack, as a binary message"),
    "garbage": (b"\xc1", "not msgpack"),
    "list": (pack([1]), "expected a map in msgpack"),
    "no epoch": (pack({"observation": seen()}), "epoch: Field required"),
    "negative epoch": (pack({"epoch": -1}), "epoch: Input should be greater than or equal to 0"),
    "huge epoch": (pack({"epoch": 2**63}), "epoch: Input should be less than"),
    "epoch in words": (pack({"epoch": "1"}), "epoch: Input should be a valid integer"),
    "unknown field": (pack({"epoch": 1, "step": 1}), "step: Extra inputs are not permitted"),
    "executed beyond a chunk": (pack({"epoch": 1, "executed": 5}), "executed, delay: at most 4"),
    "delay beyond a chunk": (pack({"epoch": 1, "delay": 5}), "executed, delay: at most 4"),
    "negative delay": (pack({"epoch": 1, "delay": -1}), "delay: Input should be greater than or equal to 0"),
    "no map": (pack({"epoch": 1, "observation": 1}), "observation: expected a map"),
    "no state": (
        pack({"epoch": 1, "observation": {"images": IMAGES}}),
        "observation: expected a map with images, state",
    ),
    "no camera": (pack({"epoch": 1, "observation": seen(images={})}), "missing camera image: front, wrist"),
    "a seed below 0": (pack({"epoch": 1, "observation": seen(seed=-1)}), "seed: "),
    "long instruction": (
        pack({"epoch": 1, "observation": seen(instruction="x" * 501)}),
        "instruction: String should have at most 500 characters",
    ),
    "long state": (pack({"epoch": 1, "observation": seen(state=np.zeros(4))}), "state: expected 3 floats"),
    "two delays": (
        pack({"epoch": 1, "delay": 2, "observation": seen(pending={"actions": np.zeros((2, 3)), "delay": 1})}),
        "delay is 2, and that of what is pending 1",
    ),
    "megabytes of a name": (pack({"epoch": 1, "x" * 2**20: 1}), "xxx"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_is_malformed_is_said_and_ends_the_line(line: ClientConnection, mistake: str) -> None:
    message, reason = WRONG[mistake]
    line.send(message)
    said = hear(line)["error"]
    assert said.startswith(reason) and len(said) <= 500
    with pytest.raises(ConnectionClosed) as closed:
        line.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_a_failing_policy_is_said_and_ends_the_line(line: ClientConnection) -> None:
    line.send(pack({"epoch": 1, "observation": seen(instruction="break")}))
    assert hear(line) == {"error": "internal error; see the server's log"}
    with pytest.raises(ConnectionClosed) as closed:
        line.recv(timeout=5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011


def test_a_client_that_vanishes_leaves_no_mark(gated: tuple[Server, Path], gate: Path) -> None:
    server, _ = gated
    before = server.log.read_text().count("Traceback")
    gate.unlink()
    with suppress(ConnectionClosed), opened(server) as line:
        tell(line, 1, 1.0)
        settle()
        line.socket.shutdown(socket.SHUT_RDWR)  # without a word of farewell
        settle()
    gate.touch()
    with opened(server) as other:
        other.recv()
        tell(other, 1, 2.0)
        assert hear(other)["stamp"] == 2.0
    assert server.log.read_text().count("Traceback") == before


def test_what_cannot_be_done_now_is_said_and_the_line_stays(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("break")
    with serving(tmp_path / "log", *LINEAR, "--gate", str(gate)) as server:
        server.wait(503)
        while httpx.get(f"{server.url}/readyz").json()["status"] == "warming up":
            time.sleep(0.05)
        with opened(server) as line:
            line.recv()
            for epoch in (1, 2):
                tell(line, epoch, 1.0, executed=1)
                answer = hear(line)
                assert answer.pop("error").startswith("not ready: the policy failed its warm-up")
                assert answer == {"epoch": epoch, "executed": 1, "delay": 0, "retry_ms": 5000}
