"""What Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from aegis_server.engine import Engine

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STAGES = ("decode", "queue", "model", "encode")
"""Of an act or an answer: its images unpacked; its turn awaited; computed; packed.

Of an answer, each token has a turn and is computed, and none is packed.
"""


class Metrics:
    """Counts and times of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._of(Counter, "aegis_requests", "Requests by route and status", "route", "status")
        self.refusals = self._of(Counter, "aegis_refusals", "Requests that were refused, by reason", "reason")
        self.reloads = self._of(Counter, "aegis_reloads", "Reloads of the checkpoint, by result", "result")
        self.stage = Histogram(
            "aegis_stage_seconds",
            "Time that a request spends in each stage",
            ("kind", "stage"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "aegis_batch_size",
            "Acts computed in one pass of the model",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        waiting = Gauge("aegis_queue_depth", "Acts that wait, answers being given", ("kind",), registry=self.registry)
        waiting.labels("act").set_function(lambda: engine.acts_waiting)
        waiting.labels("answer").set_function(lambda: engine.answers)
        running = Gauge("aegis_acts_running", "Acts in the pass that is being computed", registry=self.registry)
        running.set_function(lambda: engine.acts_running)

    def _of(self, kind: type[Counter], name: str, text: str, *labels: str) -> Counter:
        return kind(name, text, labels, registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
