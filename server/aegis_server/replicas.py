"""Several processes of the same server behind one port, by Ray Serve (extra `ray`), each with a policy of its own.

Ray's proxy takes the connections and gives each request, or websocket, to the replica with the least to do. What a
server does by itself it does in each replica: keys, deadlines, limits, its own queue. Ray starts one that dies anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from aegis_policy import Policy
from aegis_server.app import create_app
from aegis_server.service import DRAINING, READY, WARMING, ReloadError, Service
from aegis_server.settings import Settings

logger = logging.getLogger(__name__)
NAME = "aegis"
CONNECTIONS = 1024
"""Requests and websockets that a replica is given at once: more than it admits, so that it is what refuses."""


class Replica:
    """What runs in each process, apart from the app."""

    app: FastAPI  # by serve.ingress

    def __init__(self, load: Callable[[], Policy]) -> None:
        self._load = load

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    async def check_health(self) -> None:
        """Ray sends nothing here before this has once returned, and replaces a replica in which it raises."""
        while self.service.health == WARMING:
            await asyncio.sleep(0.05)
        if self.service.health not in (READY, DRAINING):
            raise RuntimeError(self.service.health)

    async def reload(self) -> str:
        """What came of a reload here."""
        try:
            info = await self.service.reload(self._load)
        except ReloadError as error:
            return str(error)
        return f"now serving {info.model}, checkpoint {info.checkpoint[:12]}"


def run(
    load: Callable[[], Policy],
    replicas: int,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    *,
    grace_s: float = 5,
    tls: tuple[Path, Path] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl+C, with `replicas` processes on this machine; SIGHUP reloads in all of them.

    Args:
        load: makes the policy, in each process.
        settings: what each process allows.
        grace_s: how long requests then have to end.
        tls: PEM files of a certificate and its private key.

    Raises:
        ValueError: Ray Serve is not installed.
        OSError: the port is taken.
    """
    # Ray would say it in a minute, and at length.
    socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    # Who reaches Ray's own ports runs code in its processes: let them take orders from this process alone.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # its 5 s are too few for a busy machine
    try:
        import ray
        from ray import serve
    except ModuleNotFoundError as error:
        raise ValueError('--replicas needs Ray Serve: pip install "aegis-policy[ray]"') from error

    ray.init(address="local", include_dashboard=False, configure_logging=False)
    stop, again = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, lambda *_: again.set())
    try:
        certificate, key = tls or (None, None)
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": host,
                "port": port,
                "ssl_certfile": certificate and str(certificate),
                "ssl_keyfile": key and str(key),
            },
        )
        handle = serve.run(_application(load, replicas, settings, grace_s, ray.cluster_resources()), name=NAME)
        logger.info("serving with %d replicas at %s:%d", replicas, host, port)
        while not stop.wait(0.2):
            if again.is_set():
                again.clear()
                _reload(handle)
    finally:
        serve.shutdown()
        ray.shutdown()


def _reload(handle: Any) -> None:
    """In all replicas; one that dies of it, Ray starts anew, and the others serve on."""
    try:
        outcomes = handle.broadcast("reload").results(return_exceptions=True)
    except Exception:
        logger.exception("reload")
        return
    for outcome in outcomes:
        logger.log(logging.ERROR if isinstance(outcome, Exception) else logging.INFO, "reload: %s", outcome)


def _application(
    load: Callable[[], Policy], replicas: int, settings: Settings | None, grace_s: float, resources: dict[str, Any]
) -> Any:
    """What Ray deploys: nothing of the app is made before a replica makes it."""
    from ray import serve

    def build() -> FastAPI:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        return create_app(load(), settings, alone=False)

    deployed = serve.deployment(
        name=NAME,
        num_replicas=replicas,
        max_ongoing_requests=CONNECTIONS,
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=2,
        ray_actor_options={
            "num_cpus": resources.get("CPU", 0) // replicas,
            "num_gpus": min(1.0, resources.get("GPU", 0) / replicas),
        },
    )
    return deployed(serve.ingress(build)(Replica)).bind(load)
