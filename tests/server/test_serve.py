"""The life of a serving process: not ready, ready, stopped."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from aegis_policy.inference.example import example_observation
from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.policy import PolicyInfo
from aegis_server.process import listen
from aegis_server.schemas import act_example
from tests.linear_policy import LINEAR, LinearPolicy, serving

INFO: PolicyInfo = LinearPolicy.info


def test_is_not_ready_before_its_warm_up_has_ended(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serving(tmp_path / "log", *LINEAR, "--gate", str(gate)) as server:
        server.wait(503)
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "warming up"}
        gate.touch()
        server.wait(200)
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok"}


def test_never_becomes_ready_when_the_warm_up_fails(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("break")
    with serving(tmp_path / "log", *LINEAR, "--gate", str(gate)) as server:
        server.wait(503)
        while (status := httpx.get(f"{server.url}/readyz")).json() == {"status": "warming up"}:
            time.sleep(0.02)
        assert status.status_code == 503
        assert "failed its warm-up" in status.json()["status"]
        assert "a gate that breaks" in server.log.read_text()


def test_a_signal_ends_it_cleanly_in_its_warm_up(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serving(tmp_path / "log", *LINEAR, "--gate", str(gate)) as server:
        server.wait(503)
        server.process.terminate()
        gate.touch()
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "log") as server:
        server.wait()
        answer = RemotePolicy(server.url).ask(example_observation(INFO).images, "what is the mean colour?")
        next(answer)
        server.process.send_signal(number)
        assert "wrist" in next(answer)  # what has begun is finished
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log.read_text()


def test_two_interrupts_end_it_before_its_work_is_done(tmp_path: Path) -> None:
    with serving(tmp_path / "log", *LINEAR, "--grace-s", "60") as server:
        server.wait()
        answer = RemotePolicy(server.url).ask(example_observation(INFO).images, "count")
        next(answer)
        server.process.send_signal(signal.SIGINT)
        while httpx.get(f"{server.url}/readyz").status_code != 503:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log.read_text()


LOADING = """
import os, signal, sys
from aegis_policy.inference import load
from tests.linear_policy import LinearPolicy
def hung_up_on(*_, **__):
    os.kill(os.getpid(), signal.SIGHUP)
    return LinearPolicy()
load.load_policy = hung_up_on
from aegis_server.commands import serve
serve(port=int(sys.argv[2]))
"""


def test_a_reload_that_is_asked_for_while_it_loads_does_not_end_it(tmp_path: Path) -> None:
    with serving(tmp_path / "log", sys.executable, "-c", LOADING) as server:
        server.wait()


def test_who_still_waits_at_the_end_is_told(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serving(tmp_path / "log", *LINEAR, "--gate", str(gate), "--grace-s", "1") as server:
        server.wait(503)
        waiting = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        waiting.request("POST", "/v1/act", json.dumps(act_example(INFO)), {"content-type": "application/json"})
        httpx.get(f"{server.url}/readyz")  # once this has come back, the act, sent before, waits behind the warm-up
        server.process.terminate()
        response = waiting.getresponse()
        assert response.status == 503
        assert json.load(response) == {"detail": "the server is shutting down"}
        gate.touch()
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the command in the log is one for curl")
def test_the_log_says_how_to_use_it_and_the_command_it_gives_works(tmp_path: Path) -> None:
    from PIL import Image

    with serving(tmp_path / "log") as server:
        server.wait()
        picture = tmp_path / "scene.png"
        Image.new("RGB", (16, 12), (200, 0, 0)).save(picture)
        line = next(line for line in server.log.read_text().splitlines() if "curl -N" in line)
        command = line[line.index("curl -N") :].replace("PNG", str(picture))
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith('data: {"answer": "front: 66.67\\n"}\n\n')


def test_a_port_that_is_taken_ends_it_with_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*LINEAR, "--port", port], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()


def test_answers_are_not_held_back_by_the_network_stack() -> None:
    with listen(uvicorn.Config("", host="127.0.0.1", port=0)) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
