"""A robot's line to the server, and the consoles that watch it, over real sockets: what is told, and what refused."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from aegis_policy.inference.wire import pack, unpack
from aegis_server.app import create_app
from tests.linear_policy import LINEAR, LinearPolicy, Server, serving
from tests.server.robot_client import DESCRIPTION, REPORT, Console, SmallRobot, address, png, reported, watching

ROOT = Path(__file__).resolve().parents[2]
KEY = "a key of sixteen characters or more"


@pytest.fixture
def console(server: Server) -> Iterator[Console]:
    with watching(server.url) as console:
        yield console
        console.send(release=True)
        console.until(lambda seen: seen["stopped"] is None)


def test_a_console_sees_the_robot_start_pause_and_go(server: Server, console: Console) -> None:
    console.until(lambda seen: seen["robot"] is None)
    with SmallRobot(server.url) as robot:
        seen = console.until(lambda seen: seen["robot"] and seen["report"])
        assert seen["robot"] == DESCRIPTION
        frame = seen["report"]["frames"]["front"]
        assert base64.b64decode(frame.removeprefix("data:image/png;base64,")) == robot.report()["frames"]["front"]
        console.send(start=" pick up the blue ball ")
        seen = console.until(lambda seen: seen["report"]["running"] and seen["report"]["chunk"]["executed"] == 2)
        assert seen["report"]["instruction"] == "pick up the blue ball"
        assert np.shape(seen["report"]["chunk"]["actions"]) == (4, 3)
        console.send(pause=True)
        console.until(reported("running", False))
        console.send(reset=True)
        console.until(lambda _: {"reset": True} in robot.told)
    console.until(lambda seen: seen["robot"] is None and seen["report"] is None)


def test_the_stop_latches_on_both_sides_until_it_is_released(server: Server, console: Console) -> None:
    with SmallRobot(server.url) as robot, watching(server.url) as other:
        console.until(lambda seen: seen["robot"] and seen["report"])
        console.send(start="go")
        other.until(reported("running", True))
        other.send(stop=True)
        seen = console.until(reported("stopped", "from the console"))
        assert seen["stopped"] == "from the console"
        assert not seen["report"]["running"]
        for command in ({"start": "go"}, {"reset": True}):
            console.send(**command)
            assert "release the stop first" in console.until(lambda seen: "error" in seen)["error"]
        time.sleep(0.6)
        assert robot.told[-1] == {"stop": True}
        console.send(release=True)
        console.until(lambda seen: seen["stopped"] is None and seen["report"]["stopped"] is None)
        assert not robot.running
        console.send(start="go")
        console.until(reported("running", True))


def test_a_robot_that_comes_back_while_the_stop_is_latched_is_told_to_stop(server: Server, console: Console) -> None:
    console.send(stop=True)  # there is no robot; it counts all the same
    console.until(lambda seen: seen["stopped"])
    with SmallRobot(server.url) as robot:
        console.until(reported("stopped", "from the console"))
        assert robot.told[0] == {"stop": True}
    with SmallRobot(server.url, running=True) as robot:
        console.until(reported("stopped", "from the console"))
        assert not robot.running


def test_a_robot_stopped_on_its_own_side_is_not_started(server: Server, console: Console) -> None:
    console.send(release=True)  # for no robot: it is not kept for the next
    with SmallRobot(server.url, stopped="its own button"):
        console.until(reported("stopped", "its own button"))
        console.send(start="go")
        assert "release the stop first" in console.until(lambda seen: "error" in seen)["error"]
        console.send(release=True)
        console.until(reported("stopped", None))


def test_the_heart_beats_twice_a_second_at_least(server: Server) -> None:
    with SmallRobot(server.url) as robot:
        time.sleep(4)
        assert len(robot.beats) >= 6
        assert max(np.diff(robot.beats)) < 0.5


def test_a_second_robot_is_told_of_the_first_and_takes_its_place_once_it_has_gone(server: Server) -> None:
    with SmallRobot(server.url), watching(server.url) as console:
        console.until(lambda seen: seen["robot"])
        with connect(address(server.url, "/v1/robot"), proxy=None) as second:
            second.send(pack({**DESCRIPTION, "name": "another"}))
            assert "'a small robot' is attached already" in unpack(second.recv(timeout=10))["error"]
            with pytest.raises(ConnectionClosed) as closed:
                second.recv(timeout=10)
            assert closed.value.rcvd and closed.value.rcvd.code == 1013
        assert console.until(lambda seen: seen["robot"])["robot"]["name"] == "a small robot"
    with SmallRobot(server.url), watching(server.url) as console:
        console.until(lambda seen: seen["robot"] and seen["report"])


def test_a_robot_that_falls_silent_loses_its_place(server: Server, console: Console) -> None:
    with connect(address(server.url, "/v1/robot"), proxy=None, close_timeout=1) as silent:
        silent.send(pack(DESCRIPTION))
        console.until(lambda seen: seen["robot"])
        console.until(lambda seen: seen["robot"] is None, 30)
        console.send(start="go")
        assert "no robot is attached" in console.until(lambda seen: "error" in seen)["error"]


BAD_DESCRIPTIONS = {
    "no map": (pack([1]), "expected a map"),
    "no msgpack": (b"\xc1", "not msgpack"),
    "no actions": (pack({**DESCRIPTION, "actions": []}), "actions"),
    "a name without end": (pack({**DESCRIPTION, "name": "x" * 1000}), "name"),
    "too many cameras": (pack({**DESCRIPTION, "cameras": DESCRIPTION["cameras"] * 9}), "cameras"),
    "a field too many": (pack({**DESCRIPTION, "speed": 1}), "speed"),
    "a report first": (pack(REPORT), "name: Field required"),
}
BAD_REPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown camera": ({"frames": {"side": png(8, 8, (0, 0, 0))}}, "frames"),
    "no picture": ({"frames": {"front": b"GIF89a"}}, "frames.front: expected the bytes of a PNG or JPEG"),
    "text for a picture": ({"frames": {"front": "png"}}, "frames.front"),
    "short state": ({"state": np.zeros(2)}, "state: expected an array of numbers [3]"),
    "a number that rounding makes infinite": ({"state": np.array([0, 1e305, 0])}, "state: not finite"),
    "more done than there is": (
        {"chunk": {"number": 1, "executed": 5, "actions": np.zeros((4, 3))}},
        "executed",
    ),
    "no number": ({"state": np.array([0, np.nan, 0])}, "state: not finite"),
    "another chunk": ({"chunk": {"number": 1, "executed": 0, "actions": np.zeros((5, 3))}}, "chunk.actions"),
    "chunk of words": ({"chunk": {"number": "1", "executed": 0, "actions": np.zeros((4, 3))}}, "number"),
    "half a character": ({"note": "x" * 501}, "note"),
    "latency": ({"latency_ms": float("inf")}, "latency_ms"),
    "a field too many": ({"speed": 1}, "speed"),
}


def refusal(server: Server, *messages: bytes) -> tuple[str, int]:
    """What a robot is told last, and the code its connection is closed with."""
    with connect(address(server.url, "/v1/robot"), proxy=None, max_size=None) as socket:
        for message in messages:
            socket.send(message)
        told: dict[str, Any] = {}
        while "error" not in told:
            told = unpack(socket.recv(timeout=10))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd
        return told["error"], closed.value.rcvd.code


@pytest.mark.parametrize("name", BAD_DESCRIPTIONS)
def test_a_description_that_is_none_is_refused(server: Server, name: str) -> None:
    message, reason = BAD_DESCRIPTIONS[name]
    told, code = refusal(server, message)
    assert reason in told
    assert code == 1008


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_a_report_that_is_none_is_refused(server: Server, name: str) -> None:
    change, reason = BAD_REPORTS[name]
    told, code = refusal(server, pack(DESCRIPTION), pack({**REPORT, **change}))
    assert reason in told
    assert code == 1008


def test_a_report_without_bounds_is_refused(server: Server) -> None:
    told, _ = refusal(server, pack(DESCRIPTION), pack({**REPORT, "frames": {"front": bytes(5 * 2**20)}}))
    assert "at most 4194304" in told


@pytest.mark.parametrize(
    ("message", "reason"),
    [("{", "not JSON"), ('{"go": true}', "go"), ('{"stop": "now"}', "stop"), ('{"start": 1}', "start"), ("[]", "body")],
)
def test_a_console_that_says_nonsense_is_let_go(server: Server, message: str, reason: str) -> None:
    with watching(server.url) as console:
        console.socket.send(message)
        assert reason in console.until(lambda seen: "error" in seen)["error"]
        with pytest.raises(ConnectionClosed):
            console.until(lambda seen: False)


def test_an_instruction_that_is_too_long_is_not_cut_and_followed(server: Server) -> None:
    with SmallRobot(server.url), watching(server.url) as console:
        console.until(lambda seen: seen["robot"])
        console.send(start="pick it up " + "x" * 500 + " but not by the handle")
        assert "at most 500" in console.until(lambda seen: "error" in seen)["error"]


def test_a_command_too_long_for_one_lets_the_console_go(server: Server) -> None:
    with watching(server.url) as console:
        console.send(start="x" * 5000)
        assert "at most 4096" in console.until(lambda seen: "error" in seen)["error"]


def test_a_browser_that_does_not_read_misses_frames_and_holds_nobody_up(server: Server, console: Console) -> None:
    with watching(server.url, max_queue=1) as slow, connect(address(server.url, "/v1/robot"), proxy=None) as robot:
        robot.send(pack(DESCRIPTION))
        picture = png(12, 16, (0, 0, 0)) + np.random.default_rng(0).bytes(10**6)  # sockets cannot hold many of them
        for number in range(60):
            robot.send(pack({**REPORT, "frames": {"front": picture}, "note": f"report {number}"}))
            console.until(reported("note", f"report {number}"))
        kept = 0
        while (slow.seen.get("report") or {}).get("note") != "report 59":
            slow.seen |= json.loads(slow.socket.recv(timeout=10))
            kept += 1
        assert kept < 40


def test_gauges_are_of_the_acts_just_now(server: Server, console: Console, client: httpx.Client) -> None:
    body = json.loads(json.dumps(client.get("/openapi.json").json()["paths"]["/v1/act"]["post"]["requestBody"]))
    example = body["content"]["application/json"]["schema"]["examples"][0]
    for _ in range(3):
        assert client.post("/v1/act", json=example).status_code == 200
    seen = console.until(lambda seen: seen["server"]["acts_per_s"] >= 1)
    assert 0 < seen["server"]["p50_ms"] <= seen["server"]["p95_ms"] < 5000
    assert seen["server"]["waiting"] == 0
    assert seen["server"]["room"] == 64


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(KEY)
    with serving(folder / "log", *LINEAR, "--keys", str(folder / "keys")) as server:
        server.wait()
        yield server


def test_a_key_opens_both_lines_and_nothing_else_does(locked: Server) -> None:
    for route in ("/v1/robot", "/v1/console", "/"):
        with pytest.raises(InvalidStatus, match="401"):
            connect(address(locked.url, route), proxy=None)
    encoded = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    with (
        SmallRobot(locked.url, key=KEY),
        watching(locked.url, subprotocols=["aegis", f"aegis.key.{encoded}"]) as console,
    ):
        assert console.socket.subprotocol == "aegis"
        console.until(lambda seen: seen["robot"] and seen["report"])
    with pytest.raises(InvalidStatus, match="401"):
        connect(address(locked.url, "/v1/console"), proxy=None, subprotocols=["aegis", "aegis.key.bm8"])  # type: ignore[list-item]


def test_the_page_needs_no_key_and_no_other_file_is_given(locked: Server) -> None:
    with httpx.Client(base_url=locked.url, trust_env=False) as client:
        leads = client.get("/")
        assert leads.status_code == 307
        assert client.get(
            leads.headers["location"] if leads.headers["location"].startswith("/") else "/console"
        ).is_success
        page = client.get("/console")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert client.get("/console/console.js").headers["content-type"].startswith("text/javascript")
        for name in ("nothing.js", "..%2Fapp.py", "%2Fetc%2Fpasswd"):
            assert client.get(f"/console/{name}").status_code == 404
        assert client.get("/v1/info").status_code == 401


@pytest.mark.parametrize("alone", [True, False])
def test_one_of_several_replicas_takes_no_robot_and_shows_no_stop(alone: bool) -> None:
    app = create_app(LinearPolicy(), alone=alone)

    async def is_open(path: str, kind: str) -> bool:
        coming = iter([{"type": f"{kind}.connect"}, {"type": f"{kind}.disconnect", "code": 1000}])
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return next(coming) if kind == "websocket" else {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1")]
        scope = {
            "type": kind,
            "path": path,
            "headers": headers,
            "query_string": b"",
            "method": "GET",
            "subprotocols": [],
        }
        await app(scope, receive, send)
        return sent[0]["type"] == "websocket.accept" or sent[0].get("status") == 200

    async def all_open() -> list[bool]:
        asked = (("/console", "http"), ("/v1/robot", "websocket"), ("/v1/console", "websocket"), ("/v1/info", "http"))
        return [await is_open(*each) for each in asked]

    assert asyncio.run(all_open()) == [alone, alone, alone, True]


def test_another_site_s_page_may_not_watch(server: Server) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(address(server.url, "/v1/console"), proxy=None, origin="https://elsewhere.example")  # type: ignore[arg-type]
