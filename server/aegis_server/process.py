"""The serving process: its socket, its signals, its way out."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from aegis_policy import Policy
from aegis_server.app import create_app
from aegis_server.companion import Companion
from aegis_server.robot import Link
from aegis_server.service import READY, ReloadError, Service
from aegis_server.settings import Settings, max_body

logger = logging.getLogger(__name__)


def run(
    policy: Policy,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    load: Callable[[], Policy] | None = None,
    *,
    grace_s: float = 5,
    tls: tuple[Path, Path] | None = None,
    companion: Companion | None = None,
) -> None:
    """Serve `policy`; returns after Ctrl+C, exits with 0 after SIGTERM; requests then have `grace_s` seconds to end.

    Args:
        settings: what is allowed.
        load: makes the policy anew, for a reload.
        tls: PEM files of a certificate and its private key.
        companion: started once the policy is ready, and ended first.
    """
    app = create_app(policy, settings, load)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,  # one format for all: the root logger's
        access_log=False,  # a robot asks ten times a second
        ws_max_size=max_body(policy.info),
        ws_max_queue=4,
        ws_per_message_deflate=False,  # images do not get smaller; compressing them costs milliseconds
        timeout_graceful_shutdown=1,  # after `drain`, which has waited already
        ssl_certfile=tls and tls[0],
        ssl_keyfile=tls and tls[1],
    )
    listener = listen(config)
    scheme = "https" if config.is_ssl else "http"
    port = listener.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    _say_how(policy, f"{scheme}://{name}:{port}")
    if companion:
        own = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, name)
        companion.url = f"{scheme}://{own}:{port}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn drains, then hands the signal on to this
    with suppress(KeyboardInterrupt):
        _Server(config, app.state.service, grace_s, companion, app.state.link).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Reloads on SIGHUP, and on its way out lets what has begun be finished."""

    def __init__(
        self, config: uvicorn.Config, service: Service, grace_s: float, companion: Companion | None, link: Link
    ) -> None:
        super().__init__(config)
        self._service, self._grace_s, self._companion, self._link = service, grace_s, companion, link
        self._beside: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
        if self._companion:
            self._beside = loop.create_task(self._accompany(self._companion))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._beside:
            self._beside.cancel()
            await asyncio.wait([self._beside])
        await self._service.drain(self._grace_s, lambda: self.force_exit)
        await super().shutdown(sockets)

    async def _accompany(self, companion: Companion) -> None:
        self._link.expecting = True
        while self._service.health != READY:
            await asyncio.sleep(0.05)
        await companion.run()
        self._link.expecting = False

    async def _reload(self) -> None:
        try:
            await self._service.reload(patient=True)
        except ReloadError as error:
            logger.error("reload: %s", error)


def listen(config: uvicorn.Config) -> socket.socket:
    """The socket of `config`, bound; exits with an error when it cannot be had."""
    listener = config.bind_socket()
    listener.set_inheritable(False)  # uvicorn lets its workers have it; here the robot beside would keep the port
    # asyncio sets this only on sockets it made itself; without it Nagle's algorithm holds every answer back for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _say_how(policy: Policy, url: str) -> None:
    camera = policy.info.cameras[0]
    body = f"""{{"images": {{"{camera.name}": "'$(base64 -w0 PNG)'"}}, "question": "what colour is the cube?"}}"""
    logger.info("serving %s at %s (the console: %s/console, the routes: %s/docs)", policy.info.model, url, url, url)
    logger.info("what it is: curl %s/v1/info", url)
    logger.info(
        "ask it about a %dx%d RGB PNG: curl -N %s/v1/ask -H 'content-type: application/json' -d '%s'",
        camera.width,
        camera.height,
        url,
        body,
    )
