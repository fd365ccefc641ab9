"""How busy the server is just now, for people who watch; what Prometheus reads is in `metrics.py`."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

SPAN_S = 30.0
RATE_S = 3.0


class Recent:
    """The acts of the last seconds: how many, and how long they took from their arrival to their chunk."""

    def __init__(self) -> None:
        self._acts = deque[tuple[float, float]](maxlen=4096)  # when done, s; latency, s

    def add(self, latency_s: float) -> None:
        """An act is done."""
        self._acts.append((time.monotonic(), latency_s))

    def read(self) -> dict[str, float | None]:
        """Acts a second over RATE_S; median and 95th percentile of the latency over SPAN_S, ms, None without acts."""
        now = time.monotonic()
        while self._acts and self._acts[0][0] < now - SPAN_S:
            self._acts.popleft()
        per_s = sum(when > now - RATE_S for when, _ in self._acts) / RATE_S
        if not self._acts:
            return {"acts_per_s": 0.0, "p50_ms": None, "p95_ms": None}
        p50, p95 = np.percentile([1000 * latency for _, latency in self._acts], (50, 95))
        return {"acts_per_s": round(per_s, 1), "p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1)}
