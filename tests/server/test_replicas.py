"""Two replicas behind one port: minutes, most of them Ray's own start."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from aegis_policy.inference.example import example_observation
from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.wire import pack, unpack
from aegis_server.replicas import _reload
from aegis_server.schemas import act_example, ask_example
from tests.linear_policy import LinearPolicy, Server, serving

INFO = LinearPolicy.info
KEY = "the key of the replicas"
BEARER = {"authorization": f"Bearer {KEY}"}
PROGRAM = f"""
import logging, sys
from aegis_server.replicas import run
from aegis_server.settings import Settings
from tests.linear_policy import LinearPolicy
logging.basicConfig(level=logging.INFO)
run(LinearPolicy, 2, port=int(sys.argv[2]), settings=Settings(keys=({KEY!r},)))
"""


def replicas(server: Server) -> set[int]:
    found = set()
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie among them
            if "ServeReplica" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def until(met: Callable[[], bool], seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a_replica_that_dies_of_a_reload_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Handle:
        def __init__(self, *outcomes: object) -> None:
            self.outcomes = outcomes

        def broadcast(self, method: str) -> Handle:
            assert method == "reload"
            return self

        def results(self, *, return_exceptions: bool) -> list[object]:
            if not return_exceptions or not self.outcomes:
                raise RuntimeError("a replica died")
            return list(self.outcomes)

    with caplog.at_level("INFO"):
        _reload(Handle("now serving linear", RuntimeError("a replica died")))
        _reload(Handle())
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said[:2] == [("INFO", "reload: now serving linear"), ("ERROR", "reload: a replica died")]
    assert said[2] == ("ERROR", "reload")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_replicas_serve_and_outlive_one_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for Ray's processes, to find the policy
    with (
        serving(tmp_path / "log", sys.executable, "-c", PROGRAM) as server,
        httpx.Client(base_url=server.url, headers=BEARER, timeout=60) as client,
    ):
        server.wait(seconds=240)
        until(lambda: len(replicas(server)) == 2)

        # The same server in each: the key, the limits, the deadlines, the websockets.
        assert httpx.post(f"{server.url}/v1/act", json=act_example(INFO)).status_code == 401
        assert client.post("/v1/act", content=b"x" * 2**25).status_code == 413
        assert client.post("/v1/act", json=act_example(INFO), headers={"x-deadline-ms": "soon"}).status_code == 422
        assert client.post("/v1/ask", json=ask_example(INFO)).text.endswith("\n\n")
        assert client.post("/v1/reload").status_code == 409
        seen = example_observation(INFO)
        expected = LinearPolicy().act(seen, seed=1).actions.tolist()
        assert RemotePolicy(server.url, api_key=KEY).act(seen, seed=1).actions.tolist() == expected
        with pytest.raises(InvalidStatus, match="401"):
            connect(server.url.replace("http", "ws") + "/v1/stream").__enter__()
        with connect(server.url.replace("http", "ws") + "/v1/stream", additional_headers=BEARER) as socket:
            socket.recv()
            sent = {"images": dict(seen.images), "state": seen.state, "instruction": seen.instruction, "seed": 1}
            socket.send(pack({"epoch": 0, "observation": sent}))
            assert unpack(socket.recv(timeout=30))["actions"].tolist() == expected
        starts = re.compile(r"^process_start_time_seconds (\S+)", re.M)
        both: set[str] = set()
        until(lambda: both.update(starts.findall(client.get("/metrics").text)) or len(both) == 2)

        # One dies under load: what it was computing is lost, nothing else, and it is replaced.
        outcomes: Counter[str] = Counter()
        done = threading.Event()

        def load() -> None:
            with httpx.Client(base_url=server.url, headers=BEARER, timeout=60) as client:
                while not done.is_set():
                    try:
                        outcomes[str(client.post("/v1/act", json=act_example(INFO)).status_code)] += 1
                    except httpx.TransportError as error:
                        outcomes[type(error).__name__] += 1

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: outcomes["200"] > 20)
        before = replicas(server)
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(replicas(server) - before) == 1)
        answered = outcomes["200"]
        until(lambda: outcomes["200"] > answered + 20)
        done.set()
        for thread in threads:
            thread.join()
        print(dict(outcomes))
        assert sum(outcomes.values()) - outcomes["200"] <= 8, outcomes

        # A reload goes to all of them, a SIGTERM ends them all.
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.log.read_text().count("reload: now serving linear") >= 2)
        descendants = psutil.Process(server.process.pid).children(recursive=True)
        server.process.terminate()
        assert server.process.wait(timeout=120) == 0
        _, alive = psutil.wait_procs(descendants, timeout=30)
        assert alive == []
