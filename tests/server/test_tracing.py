"""Traces, as a collector gets them from a server process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from aegis_policy.inference.example import example_observation
from aegis_policy.inference.wire import pack
from aegis_server import tracing
from aegis_server.schemas import act_example, ask_example
from tests.linear_policy import LinearPolicy, serving

INFO = LinearPolicy.info
ONE, OTHER, PARENT = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def within(trace: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{PARENT}-01"}


class Collector:
    """An OTLP receiver; `spans` is what it has got."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            said = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            self.services.add(said["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def of(self, name: str, count: int = 1) -> list[Any]:
        """The spans of the traces that have one of this name, in order; waits until there are `count` of these."""
        give_up = time.monotonic() + 30
        while len(found := [span for span in self.spans if span.name == name]) < count and time.monotonic() < give_up:
            time.sleep(0.05)
        traces = {span.trace_id for span in found}
        return sorted(
            (span for span in self.spans if span.trace_id in traces), key=lambda span: span.start_time_unix_nano
        )


@contextmanager
def collecting() -> Iterator[tuple[str, Collector]]:
    collector = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", collector
        server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def test_a_collector_gets_every_request_in_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with collecting() as (url, collector):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with serving(tmp_path / "log") as server:
            server.wait()
            headers = {**within(ONE), "x-request-id": "mine"}
            assert httpx.post(f"{server.url}/v1/act", json=act_example(INFO), headers=headers).status_code == 200
            assert httpx.post(f"{server.url}/v1/ask", json=ask_example(INFO)).status_code == 200
            broken = {**act_example(INFO), "instruction": "break"}
            assert httpx.post(f"{server.url}/v1/act", json=broken).status_code == 500
            with connect(server.url.replace("http", "ws") + "/v1/stream", additional_headers=within(OTHER)) as socket:
                socket.recv()
                seen = example_observation(INFO)
                sent = {"images": dict(seen.images), "state": seen.state, "instruction": seen.instruction}
                socket.send(pack({"epoch": 0, "observation": sent}))
                socket.recv()
            act = [span for span in collector.of("POST /v1/act", 2) if span.trace_id.hex() == ONE]
            ask = collector.of("POST /v1/ask")
            stream = collector.of("WS /v1/stream")
            server.process.terminate()
            assert server.process.wait(timeout=30) == 0
    assert collector.services == {"aegis"}
    root = next(span for span in act if span.name == "POST /v1/act")
    assert root.parent_span_id.hex() == PARENT
    assert attributes(root) == {
        "aegis.request_id": "mine",
        "http.request.method": "POST",
        "http.route": "/v1/act",
        "http.response.status_code": 200,
    }
    stages = [span for span in act if span.parent_span_id == root.span_id]
    assert [span.name for span in stages] == ["act decode", "act queue", "act model", "act encode"]
    assert attributes(stages[2]) == {"batch": 1}
    for span in stages:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert [span.name for span in ask][:2] == ["POST /v1/ask", "ask decode"]
    assert {span.name for span in ask[2:]} == {"ask queue", "ask model"}
    failed = [span for span in collector.spans if attributes(span).get("http.response.status_code") == 500]
    assert len(failed) == 1
    assert failed[0].status.code == 2
    assert {span.trace_id.hex() for span in stream} == {OTHER}
    assert [span.name for span in stream] == ["WS /v1/stream", "act queue", "act model", "act encode"]
    assert not [span for span in collector.spans if "readyz" in span.name]


def test_a_collector_that_takes_nothing_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        taken = threading.Event()
        shutdown = taken.wait

        def get_tracer(self, name: str) -> None:
            pass

    monkeypatch.setattr(tracing, "LAST_WORDS_S", 0.1)
    monkeypatch.setattr(tracing, "_provider", Silent)
    tracing.Tracing().close()
    assert not Silent.taken.is_set()
    Silent.taken.set()


PROGRAM = """
import json, sys
from aegis_server.app import create_app
from tests.linear_policy import LinearPolicy
create_app(LinearPolicy())
print(json.dumps([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]))
"""


def test_without_a_collector_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []
