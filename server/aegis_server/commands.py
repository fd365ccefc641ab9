"""The `aegis serve` command."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from aegis_policy import Policy

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)


def serve(checkpoint: str | None = None, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a policy over HTTP until SIGTERM or Ctrl+C.

    Args:
        checkpoint: folder; the policy that ships with this package if left out.
        host: address to listen at; the default is reached from this machine only.
        port: port to listen at; 0 takes a free one.
    """
    from aegis_policy.inference.load import load_policy

    run(load_policy(checkpoint), host, port)


def run(policy: Policy, host: str = "127.0.0.1", port: int = 8000, *, grace_s: int = 5) -> None:
    """Serve `policy`; returns after Ctrl+C, exits with 0 after SIGTERM; requests then have `grace_s` seconds to end."""
    import uvicorn

    from aegis_server.app import create_app

    config = uvicorn.Config(
        create_app(policy),
        host=host,
        port=port,
        log_config=None,  # one format for all: the root logger's
        access_log=False,  # a robot asks ten times a second
        timeout_graceful_shutdown=grace_s,
    )
    listener = listen(config)
    _say_how(policy, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn drains, then hands the signal on to this
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def listen(config: uvicorn.Config) -> socket.socket:
    """The socket of `config`, bound; exits with an error when it cannot be had."""
    listener = config.bind_socket()
    # asyncio sets this only on sockets it made itself; without it Nagle's algorithm holds every answer back for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _say_how(policy: Policy, url: str) -> None:
    camera = policy.info.cameras[0]
    body = f"""{{"images": {{"{camera.name}": "'$(base64 -w0 PNG)'"}}, "question": "what colour is the cube?"}}"""
    logger.info("serving %s at %s (the routes: %s/docs)", policy.info.model, url, url)
    logger.info("what it is: curl %s/v1/info", url)
    logger.info(
        "ask it about a %dx%d RGB PNG: curl -N %s/v1/ask -H 'content-type: application/json' -d '%s'",
        camera.width,
        camera.height,
        url,
        body,
    )
