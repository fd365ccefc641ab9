"""What a server takes on and what it refuses; that it lets go of what nobody awaits, and changes policy on the run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import HTTPConnection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from aegis_policy import ActionChunk, Observation
from aegis_policy.inference.example import example_observation
from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.wire import CONTENT_TYPE, pack, unpack
from aegis_server.service import DRAINING, READY, Service
from aegis_server.settings import Settings
from tests.linear_policy import LINEAR, LinearPolicy, Server, serving

SEEN = example_observation(LinearPolicy.info)
ACT: dict[str, Any] = {"images": dict(SEEN.images), "state": SEEN.state, "instruction": SEEN.instruction, "seed": 0}
OPENPI = {
    **{f"observation/{name}": image for name, image in SEEN.images.items()},
    "observation/state": SEEN.state,
    "prompt": SEEN.instruction,
}


def act(client: httpx.Client, headers: dict[str, str] | None = None, **change: Any) -> httpx.Response:
    headers = {"content-type": CONTENT_TYPE, **(headers or {})}
    return client.post("/v1/act", content=pack({**ACT, **change}), headers=headers)


def metrics(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


@dataclass(frozen=True)
class Gated:
    """A server where two acts may wait, and the file without which none is finished."""

    server: Server
    gate: Path


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    """Warm, and its gate shut."""
    gate = tmp_path / "gate"
    gate.touch()
    with serving(tmp_path / "log", *LINEAR, "--gate", str(gate), "--queue", "2", "--grace-s", "60") as server:
        server.wait()
        gate.unlink()
        yield Gated(server, gate)
        gate.touch()  # or it could not end


def open_client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, trust_env=False, timeout=30)


def begin_act(pool: ThreadPoolExecutor, client: httpx.Client) -> Future[httpx.Response]:
    """An act that is being computed, and is finished when the gate is open."""
    begun = pool.submit(act, client)
    wait_until(
        lambda: (now := metrics(client))['aegis_queue_depth{kind="act"}'] == 0 and now["aegis_acts_running"] == 1
    )
    return begun


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_too_many_at_once_are_refused_at_once_and_told_when_to_come_back(gated: Gated) -> None:
    with open_client(gated.server) as client, ThreadPoolExecutor(8) as pool:
        first = begin_act(pool, client)
        others = [pool.submit(act, client) for _ in range(5)]
        wait_until(lambda: sum(other.done() for other in others) == 3)
        gated.gate.touch()
        assert first.result().status_code == 200
        responses = [other.result() for other in others]
        assert sorted(response.status_code for response in responses) == [200, 200, 429, 429, 429]
        refused = next(response for response in responses if response.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert "2 observations are waiting" in refused.json()["detail"]
        assert metrics(client)['aegis_refusals_total{reason="overloaded"}'] == 3
        assert act(client).status_code == 200


def test_what_is_not_done_in_its_time_is_dropped(client: httpx.Client) -> None:
    late = act(client, {"x-deadline-ms": "100"}, instruction="slowly")
    assert late.status_code == 504
    assert "not done within 0.1 s" in late.json()["detail"]
    assert act(client, {"x-deadline-ms": "20000"}).status_code == 200
    for wrong in ("0", "-1", "soon", "1.5"):
        response = act(client, {"x-deadline-ms": wrong})
        assert response.status_code == 422
        assert "x-deadline-ms" in response.json()["detail"]


def test_an_answer_whose_time_is_over_says_so_where_it_stops(tmp_path: Path) -> None:
    with serving(tmp_path / "log", *LINEAR, "--deadline-s", "2") as server:
        server.wait()
        said = RemotePolicy(server.url).ask(SEEN.images, "count")
        assert "".join(islice(said, 5)).split() == ["0", "1", "2", "3", "4"]
        with pytest.raises(ConnectionError, match=r"not done within 2 s"):
            list(said)
        with open_client(server) as client:
            assert metrics(client)['aegis_refusals_total{reason="deadline"}'] == 1
    assert "Traceback" not in server.log.read_text()


def test_an_act_whose_client_has_gone_is_not_computed(gated: Gated) -> None:
    with open_client(gated.server) as client, ThreadPoolExecutor(2) as pool:
        first = begin_act(pool, client)
        with suppress(httpx.ReadTimeout), httpx.Client(base_url=gated.server.url, timeout=0.3) as impatient:
            act(impatient)
        with connect(gated.server.url.replace("http", "ws")) as socket:
            socket.recv()
            socket.send(pack(OPENPI))
            wait_until(lambda: metrics(client)['aegis_queue_depth{kind="act"}'] >= 1)
        wait_until(lambda: metrics(client)['aegis_queue_depth{kind="act"}'] == 0)
        gated.gate.touch()
        assert first.result().status_code == 200
        assert act(client).status_code == 200
        assert metrics(client)["aegis_batch_size_sum"] == 2


def test_prometheus_can_read_what_happened(client: httpx.Client) -> None:
    before = metrics(client)
    assert act(client).status_code == 200
    act(client, instruction=" ")
    after = metrics(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert more('aegis_requests_total{route="/v1/act",status="200"}') == 1
    assert more('aegis_requests_total{route="/v1/act",status="422"}') == 1
    for stage in ("decode", "queue", "model", "encode"):
        assert more(f'aegis_stage_seconds_count{{kind="act",stage="{stage}"}}') >= 1
    assert more("aegis_batch_size_count") == 1
    assert after['aegis_queue_depth{kind="act"}'] == 0
    assert after["process_resident_memory_bytes"] > 1e6


def test_msgpack_and_json_say_the_same(client: httpx.Client) -> None:
    response = act(client, stamp=1.5)
    assert response.headers["content-type"] == CONTENT_TYPE
    answer = unpack(response.content)
    np.testing.assert_array_equal(answer["actions"], LinearPolicy().act(SEEN, seed=0).actions)
    assert answer["actions"].dtype == np.float32
    assert answer["stamp"] == 1.5
    assert answer["batch"] == 1
    assert answer["queue_ms"] + answer["model_ms"] <= answer["latency_ms"]


@pytest.fixture
def gained(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server, and the file that it loads its policy from."""
    gain = tmp_path / "gain"
    gain.write_text("1")
    with serving(tmp_path / "log", *LINEAR, "--gain", str(gain)) as server:
        server.wait()
        yield server, gain


def gain_of(client: httpx.Client) -> float:
    actions = unpack(act(client).content)["actions"]
    return float((actions / LinearPolicy().act(SEEN, seed=0).actions).mean())


@pytest.mark.parametrize("how", ["route", "signal"])
def test_reloads_under_load_lose_nothing(gained: tuple[Server, Path], how: str) -> None:
    server, gain = gained
    seen: list[float] = []
    done = threading.Event()

    def robot() -> None:
        policy = RemotePolicy(server.url)
        while not done.is_set():
            chunk = policy.act(SEEN, seed=0)
            seen.append(float((chunk.actions / LinearPolicy().act(SEEN, seed=0).actions).mean()))

    def curious() -> None:
        policy = RemotePolicy(server.url)
        while not done.is_set():
            assert "".join(policy.ask(SEEN.images, "mean?")).startswith("front: ")

    with open_client(server) as client, ThreadPoolExecutor(5) as pool:
        users = [*(pool.submit(robot) for _ in range(4)), pool.submit(curious)]
        while not seen and not any(user.done() for user in users):
            time.sleep(0.01)
        for number in ("2", "3"):
            gain.write_text(number)
            if how == "route":
                assert client.post("/v1/reload").json()["model"] == "linear"
            else:
                server.process.send_signal(signal.SIGHUP)
            give_up = time.monotonic() + 30
            while gain_of(client) != pytest.approx(float(number)) and time.monotonic() < give_up:
                time.sleep(0.05)
            time.sleep(0.2)
        done.set()
        for user in users:
            user.result()  # raises what went wrong
    assert {round(value, 3) for value in seen} == {1.0, 2.0, 3.0}  # the old or the new, and nothing between


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("no number", "could not convert"),
        ("nan", "not finite"),  # loads, and fails its self-test
        ("other", "its control_hz: 20.0, where clients rely on 10.0"),
    ],
)
def test_a_reload_that_fails_leaves_the_old_policy(gained: tuple[Server, Path], written: str, reason: str) -> None:
    server, gain = gained
    gain.write_text(written)
    with open_client(server) as client:
        response = client.post("/v1/reload")
        assert response.status_code == 409
        assert reason in response.json()["detail"]
        assert "the old checkpoint serves on" in response.json()["detail"]
        assert gain_of(client) == pytest.approx(1.0)
        assert client.get("/readyz").status_code == 200
        assert metrics(client)['aegis_reloads_total{result="rolled back"}'] == 1


def test_a_reload_does_not_make_a_server_ready_that_is_shutting_down(tmp_path: Path) -> None:
    gate, gain = tmp_path / "gate", tmp_path / "gain"
    gate.touch()
    os.mkfifo(gain)  # whoever reads it waits until someone writes
    command = (*LINEAR, "--gate", str(gate), "--gain", str(gain), "--grace-s", "60")
    with serving(tmp_path / "log", *command) as server, open_client(server) as client, ThreadPoolExecutor(2) as pool:
        server.wait()
        gate.unlink()
        begun = begin_act(pool, client)
        reload = pool.submit(client.post, "/v1/reload")
        time.sleep(0.3)  # until the policy is being loaded
        server.process.terminate()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        late = client.post("/v1/reload")
        while not reload.done():
            with suppress(OSError), os.fdopen(os.open(gain, os.O_WRONLY | os.O_NONBLOCK), "w") as file:
                file.write("2")  # unless nobody reads it now
            time.sleep(0.05)
        for refused in (reload.result(), late):
            assert refused.status_code == 409
            assert refused.json()["detail"] == "the server is shutting down"
        assert client.get("/readyz").json() == {"status": "shutting down"}
        assert act(client).status_code == 503
        gate.touch()
        assert begun.result().status_code == 200
        assert server.process.wait(timeout=30) == 0


def test_a_websocket_s_last_act_is_answered_before_the_end(gated: Gated) -> None:
    server = gated.server
    with open_client(server) as client, connect(server.url.replace("http", "ws")) as socket:
        unpack(socket.recv())
        socket.send(pack(OPENPI))
        wait_until(lambda: metrics(client)["aegis_acts_running"] == 1)
        server.process.terminate()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        refused = act(client)
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["detail"]
        gated.gate.touch()
        assert unpack(socket.recv())["actions"].shape == (4, 3)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012  # service restart
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in server.log.read_text()


def test_the_end_waits_until_an_answer_is_on_its_websocket() -> None:
    """What has been acted on is not yet answered: a robot must not lose its last chunk to the server's end."""
    connection = HTTPConnection({"type": "websocket", "path": "/", "headers": [], "server": ("robot", 80)})

    async def ended() -> None:
        service = Service(LinearPolicy(), Settings())
        with service.observation(connection):
            end = asyncio.ensure_future(service.drain(30))
            await asyncio.sleep(0.1)
            assert not end.done()
        await asyncio.wait_for(end, 5)

    asyncio.run(ended())


def test_the_time_of_a_word_is_not_that_of_the_acts_before_it() -> None:
    class Slow(LinearPolicy):
        def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
            time.sleep(0.2)
            return super().act(observation, seed=seed)

        def ask(self, images: Any, question: str) -> Iterator[str]:
            yield from "abc"

    async def beside() -> dict[str, float]:
        service = Service(Slow(), Settings())
        service.health = READY
        service.engine.start()
        acts = [asyncio.ensure_future(service.act(SEEN, seed)) for seed in range(3)]
        await asyncio.sleep(0.05)
        assert [piece async for piece in service.answer(SEEN.images, "what?")] == ["a", "b", "c"]
        await asyncio.gather(*acts)
        service.engine.close()
        lines = service.metrics.text().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    spent = asyncio.run(beside())
    queue, model = (spent[f'aegis_stage_seconds_sum{{kind="ask",stage="{stage}"}}'] for stage in ("queue", "model"))
    assert queue > 0.1 > model


def test_a_warm_up_that_fails_late_does_not_undo_the_end(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("break")

    async def ended() -> str:
        service = Service(LinearPolicy(gate), Settings())
        service.engine.start()
        await service.drain(0)
        await service.warm_up()
        service.engine.close()
        return service.health

    assert asyncio.run(ended()) == DRAINING


def test_a_server_that_dies_is_a_clear_error_and_its_successor_is_found(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server:
        server.wait()
        port = server.url.rpartition(":")[2]
        policy = RemotePolicy(server.url)
        failed: list[str] = []

        def slowly() -> None:
            with pytest.raises(ConnectionError) as error:
                policy.act(Observation(SEEN.images, SEEN.state, "slowly"))
            failed.append(str(error.value))

        waiting = threading.Thread(target=slowly)
        waiting.start()
        time.sleep(0.2)
        server.process.kill()
        waiting.join()
        assert failed
        server.process.wait()
        with pytest.raises(ConnectionError, match=server.url):
            policy.act(SEEN)
        with serving(tmp_path / "log2", *LINEAR, port=int(port)) as successor:
            successor.wait()
            assert policy.act(SEEN, seed=0).actions.shape == (4, 3)
        other = tmp_path / "other"
        other.write_text("other")
        with serving(tmp_path / "log3", *LINEAR, "--gain", str(other), port=int(port)) as stranger:
            stranger.wait()
            with pytest.raises(ConnectionError, match="another policy is served there by now"):
                policy.act(SEEN, seed=0)
            assert RemotePolicy(server.url).act(SEEN, seed=0).actions.shape == (4, 3)


def test_every_response_names_its_request(client: httpx.Client) -> None:
    """By the client's own name, if that is a plain one."""
    assert act(client, {"x-request-id": "robot-7.1"}).headers["x-request-id"] == "robot-7.1"
    forged = act(client, {"x-request-id": "a b"}).headers["x-request-id"]
    assert forged != "a b"
    assert len(forged) == 32
    assert json.loads(client.get("/livez").text) == {"status": "ok"}
