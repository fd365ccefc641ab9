"""Traces by OpenTelemetry, where the extra `otel` is installed and the environment names a collector.

All settings are OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) turns it on; the
protocol is OTLP over HTTP. A trace is one request, or one observation on a websocket, and continues the traceparent of
the client.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
REQUEST_ID = "aegis.request_id"
LAST_WORDS_S = 2.0


class Tracing:
    """Spans of requests and of their stages; without a collector it does nothing and imports nothing."""

    def __init__(self) -> None:
        self._provider = _provider()
        self._tracer = self._provider and self._provider.get_tracer("aegis_server")

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], request_id: str) -> Iterator[None]:
        """A request is at work; what `stage` is told within it belongs to it."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            name, extract(headers), SpanKind.SERVER, attributes={REQUEST_ID: request_id}
        ):
            yield

    def stage(self, kind: str, stage: str, seconds: float, ago: float = 0.0, **attributes: Any) -> None:
        """A stage of the present request that took `seconds` and ended `ago`."""
        if self._tracer is None:
            return
        from opentelemetry.trace import get_current_span

        if get_current_span().is_recording():
            end = time.time_ns() - int(1e9 * ago)
            span = self._tracer.start_span(
                f"{kind} {stage}", start_time=end - int(1e9 * seconds), attributes=attributes
            )
            span.end(end)

    def outcome(self, method: str, route: str, status: str) -> None:
        """What came of the present request."""
        if self._tracer is None:
            return
        from opentelemetry.trace import StatusCode, get_current_span

        span = get_current_span()
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.request.method": method, "http.route": route})
        if status.isdecimal():
            span.set_attribute("http.response.status_code", int(status))
        if not status.isdecimal() or int(status) >= 500:
            span.set_status(StatusCode.ERROR, status)

    def close(self) -> None:
        """Send what has not been sent, but for `LAST_WORDS_S` at most: a collector often ends before its servers."""
        if self._provider is not None:
            sending = threading.Thread(target=self._provider.shutdown, daemon=True)
            sending.start()
            sending.join(LAST_WORDS_S)


def _provider() -> Any:
    """What makes spans and sends them, of this server alone; None where nobody asked for it."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning('%s is set, but traces need an extra: pip install "aegis-policy[otel]"', ENDPOINTS[1])
        return None
    ours = Resource.create({SERVICE_NAME: "aegis"})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
