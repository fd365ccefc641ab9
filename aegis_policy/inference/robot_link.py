"""A robot's end of a policy server's `/v1/robot`: reports out, commands in, and how long the server has been silent.

Two threads, so that the control loop never waits for the network. A report that has not gone when the next comes is
dropped. After the link is lost it is made again, and again, until `close`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from aegis_policy.inference.remote import authorization
from aegis_policy.inference.wire import WireError, pack, unpack

logger = logging.getLogger(__name__)

RETRY_S = 1.0
CONNECT_S = 5.0
MAX_COMMAND = 2**16
LOST = {"lost": True}
"""What `command` gives, once, for a link that was lost."""


class ServerLink:
    """A link to the server at `url`, from `open` to `close`.

    Attributes:
        lost: whether a link broke or could not be had, ever; or why the server refused this robot.
    """

    def __init__(self, url: str, description: dict[str, Any]) -> None:
        """`description` is what the robot says of itself, until `describe` says otherwise."""
        self._url = f"{url.rstrip('/').replace('http', 'ws', 1)}/v1/robot"
        self._description = pack(description)
        self.lost: bool | str = False
        self._commands = deque[dict[str, Any]]()
        self._heard = float("-inf")
        self._connected = False
        self._outbox: dict[str, bytes] = {}  # the newest of each kind
        self._something = threading.Condition()
        self._closed = threading.Event()
        self._socket: ClientConnection | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._receive, self._send)]

    def open(self) -> None:
        """Connect, now or as soon as the server is there."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Leave."""
        self._closed.set()
        with self._something:
            self._something.notify()
        if self._socket:
            self._socket.close()
        for thread in self._threads:
            thread.join(CONNECT_S)

    @property
    def silence_s(self) -> float:
        """How long nothing has come from the server; infinite without a link."""
        return time.monotonic() - self._heard if self._connected else float("inf")

    def command(self) -> dict[str, Any] | None:
        """The next command, LOST for a link that was lost, None if there is none."""
        return self._commands.popleft() if self._commands else None

    def report(self, report: dict[str, Any]) -> None:
        """Send this, unless a newer one is there before it goes."""
        self._put("report", pack(report))

    def describe(self, description: dict[str, Any]) -> None:
        """Say anew what this robot is; a report that comes later goes after it."""
        self._description = pack(description)
        self._put("description", self._description)

    def _put(self, kind: str, message: bytes) -> None:
        with self._something:
            self._outbox[kind] = message
            self._something.notify()

    def _receive(self) -> None:
        while not self._closed.is_set():
            try:
                self._converse()
            except (OSError, InvalidHandshake, ConnectionClosed, WireError) as error:
                logger.warning("no link to %s: %s", self._url, error)
            finally:
                was, self._connected, self._socket = self._connected, False, None
                self.lost = self.lost or True
                if was:
                    self._commands.append(LOST)
            self._closed.wait(RETRY_S)

    def _converse(self) -> None:
        with connect(
            self._url,
            additional_headers=authorization(),
            open_timeout=CONNECT_S,
            close_timeout=1,
            max_size=MAX_COMMAND,
            compression=None,
            proxy=None,
        ) as socket:
            socket.send(self._description)
            self._heard, self._connected, self._socket = time.monotonic(), True, socket
            for message in socket:
                told = unpack(message) if isinstance(message, bytes) else None
                if not isinstance(told, dict):
                    raise WireError("the server sent what is no map in msgpack")
                self._heard = time.monotonic()
                if "error" in told:
                    self.lost = str(told["error"])
                    raise ConnectionRefusedError(self.lost)
                if "heartbeat" not in told:
                    self._commands.append(told)

    def _send(self) -> None:
        while not self._closed.is_set():
            with self._something:
                self._something.wait_for(lambda: self._outbox or self._closed.is_set())
                messages = [self._outbox.pop(kind) for kind in ("description", "report") if kind in self._outbox]
            if socket := self._socket:
                with suppress(ConnectionClosed):  # the other thread sees it too
                    for message in messages:
                        socket.send(message)
