"""A remote policy is the policy behind it: the same info, actions, answers and errors; and `aegis ask` at a URL."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aegis_policy import Camera, Feature, Observation, ObservationError, Pending, Policy, PolicyInfo
from aegis_policy.inference.remote import RemotePolicy
from tests.linear_policy import LinearPolicy, Server, serving

RNG = np.random.default_rng(1)
IMAGES = {
    camera.name: RNG.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
    for camera in LinearPolicy.info.cameras
}
STATE = np.array([0.4, -0.1, 0.08], np.float32)


def observation(**change: object) -> Observation:
    return Observation(
        **{"images": IMAGES, "state": STATE, "instruction": "pick up the red cube", "stamp": 7.25} | change
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("remote") / "log") as server:
        server.wait()
        yield server


@pytest.fixture(scope="module")
def remote(server: Server) -> Iterator[RemotePolicy]:
    policy = RemotePolicy(server.url)
    yield policy
    policy.close()


def test_is_the_policy_behind_it(remote: RemotePolicy) -> None:
    local = LinearPolicy()
    assert isinstance(remote, Policy)
    assert remote.info == local.info
    chunk, expected = remote.act(observation(), seed=5), local.act(observation(), seed=5)
    np.testing.assert_array_equal(chunk.actions, expected.actions)
    assert chunk.actions.dtype == np.float32
    assert chunk.stamp == expected.stamp == 7.25
    assert list(remote.ask(IMAGES, "what is the mean colour?")) == list(local.ask(IMAGES, "what is the mean colour?"))
    one = {"wrist": IMAGES["wrist"]}
    assert list(remote.ask(one, "and here?")) == list(local.ask(one, "and here?"))


def test_draws_a_fresh_seed_when_there_is_none(remote: RemotePolicy) -> None:
    assert not np.array_equal(remote.act(observation()).actions, remote.act(observation()).actions)


@settings(max_examples=15)
@given(state=st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), seed=st.integers(0, 2**63 - 1))
def test_no_digit_is_lost_on_the_way(remote: RemotePolicy, state: list[float], seed: int) -> None:
    seen = observation(state=np.asarray(state, np.float32))
    np.testing.assert_array_equal(remote.act(seen, seed=seed).actions, LinearPolicy().act(seen, seed=seed).actions)


@settings(max_examples=15)
@given(
    rows=st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    delay=st.integers(0, 3),
)
def test_what_is_pending_goes_along(remote: RemotePolicy, rows: list[list[float]], delay: int) -> None:
    seen = observation(pending=Pending(np.asarray(rows, np.float32), min(delay, len(rows))))
    chunk = remote.act(seen, seed=1).actions
    np.testing.assert_array_equal(chunk, LinearPolicy().act(seen, seed=1).actions)
    np.testing.assert_array_equal(chunk[: seen.pending.delay], seen.pending.actions[: seen.pending.delay])


def test_a_server_that_never_heard_of_it_has_no_policy_for_it() -> None:
    old = {name: value for name, value in LinearPolicy.info.to_dict().items() if name != "max_delay"}
    assert PolicyInfo.from_dict(old).max_delay == 0


NAMES = st.text(max_size=8)
FEATURES = st.lists(st.builds(Feature, NAMES, NAMES), max_size=3).map(tuple)
INFOS = st.builds(
    PolicyInfo,
    model=NAMES,
    cameras=st.lists(st.builds(Camera, NAMES, st.integers(1, 999), st.integers(1, 999)), max_size=3).map(tuple),
    state=FEATURES,
    actions=FEATURES,
    horizon=st.integers(1, 99),
    control_hz=st.floats(0.1, 1000),
    instructions=st.lists(NAMES, max_size=3).map(tuple),
    checkpoint=NAMES,
    max_delay=st.integers(0, 98),
)


@given(info=INFOS)
def test_info_survives_json(info: PolicyInfo) -> None:
    assert PolicyInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


def test_says_what_is_wrong_as_a_policy_does(remote: RemotePolicy) -> None:
    with pytest.raises(ObservationError, match="missing camera image: wrist"):
        remote.act(observation(images={"front": IMAGES["front"]}))
    with pytest.raises(ObservationError, match="camera 'front': expected uint8"):
        remote.act(observation(images={**IMAGES, "front": IMAGES["front"].astype(np.float32)}))
    with pytest.raises(ObservationError, match="state: not a finite number: x"):
        remote.act(observation(state=np.array([np.nan, 0, 0], np.float32)))
    with pytest.raises(ObservationError, match="unknown camera 'side'"):
        remote.ask({"side": IMAGES["front"]}, "what is the mean colour?")
    with pytest.raises(ObservationError, match=r"^question: empty"):  # the server's word
        next(remote.ask(IMAGES, ""))
    with pytest.raises(ObservationError, match=r"^question: too long"):  # the policy's own
        next(remote.ask(IMAGES, "too long?"))


def test_a_failure_of_the_server_is_a_connection_error_that_names_it(remote: RemotePolicy, server: Server) -> None:
    with pytest.raises(ConnectionError, match=f"{server.url}: 500 .*request"):
        remote.act(observation(instruction="break"))
    answer = remote.ask(IMAGES, "break midway?")
    assert next(answer).startswith("front")
    with pytest.raises(ConnectionError, match=server.url):
        list(answer)


def test_one_connection_serves_for_all(remote: RemotePolicy) -> None:
    def connections() -> list[object]:
        return list(remote._client._transport._pool.connections)  # type: ignore[attr-defined]

    remote.act(observation())
    before = connections()
    assert "".join(remote.ask(IMAGES, "mean?")) and connections() == before and len(before) == 1


@pytest.mark.parametrize("key", ["one key\nand another", "clé", "mine\r\nx-more: 1"])
def test_what_is_no_key_is_not_shown(key: str) -> None:
    with pytest.raises(ConnectionError, match="AEGIS_API_KEY: not a key; expected one line") as error:
        RemotePolicy("http://127.0.0.1:9", api_key=key)
    assert key.splitlines()[0] not in str(error.value)


def test_an_answer_closed_early_is_closed_on_the_server(remote: RemotePolicy) -> None:
    def given_up() -> int:
        return int("".join(remote.ask(IMAGES, "how many answers were given up?")))

    before = given_up()
    answer = remote.ask(IMAGES, "count")
    next(answer)
    answer.close()  # type: ignore[attr-defined]
    give_up = time.monotonic() + 30
    while given_up() == before and time.monotonic() < give_up:
        time.sleep(0.05)
    assert given_up() == before + 1


def test_no_server_is_a_connection_error_that_says_what_to_do() -> None:
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:1: no policy server there .* `aegis serve`"):
        RemotePolicy("http://127.0.0.1:1/")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000:8000", "http://127.0.0.1:80a"])
def test_a_mistyped_address_is_named(url: str) -> None:
    with pytest.raises(ConnectionError, match=f"{url}: not an address"):
        RemotePolicy(url)


@contextmanager
def other_server(answer: bytes, delay_s: float = 0.0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_s)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"{}", b"[]"])
def test_another_kind_of_server_is_not_taken_for_a_policy(answer: bytes) -> None:
    with other_server(answer) as url, pytest.raises(ConnectionError, match=f"{url}: .*is this `aegis serve`"):
        RemotePolicy(url)


def test_a_server_that_does_not_answer_is_given_up() -> None:
    with other_server(b"{}", delay_s=0.5) as url, pytest.raises(ConnectionError, match=f"{url}: no answer in time"):
        RemotePolicy(url, timeout=0.1)


def test_a_server_that_dies_is_a_connection_error(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server:
        server.wait()
        policy = RemotePolicy(server.url)
        answer = policy.ask(IMAGES, "count")
        next(answer)
        server.process.kill()
        with pytest.raises(ConnectionError, match=server.url):
            list(answer)
        with pytest.raises(ConnectionError, match=server.url):
            policy.act(observation())


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("aegis")), "ask", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_ask_command_prints_the_answer_alone(server: Server, tmp_path: Path) -> None:
    Image.new("RGBA", (160, 120), (30, 60, 90, 255)).save(tmp_path / "a=b.png")
    done = ask("--image", str(tmp_path / "a=b.png"), "--checkpoint", server.url, "what is the mean colour?")
    assert done.stdout == "front: 60.00\n\n", done.stderr
    assert "converted from RGBA to RGB" in done.stderr
    assert "resized from 160x120 to 16x12 for camera 'front'" in done.stderr
    both = [f"--image={camera}={tmp_path / 'a=b.png'}" for camera in ("front", "wrist")]
    assert ask(*both, "--checkpoint", server.url, "?").stdout == "front: 60.00\nwrist: 60.00\n\n"
    unnamed = ask("--image", "x.png", "--image", "y.png", "--checkpoint", server.url, "?")
    assert unnamed.returncode != 0
    assert "say which camera, as CAMERA=FILE; this policy has ['front', 'wrist']" in unnamed.stderr
    assert unnamed.stdout == ""
