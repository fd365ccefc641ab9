"""Who may ask: holders of a key, and no page of another site in somebody's browser."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from aegis_server import refusals
from aegis_server.settings import Settings

OPEN = ("/livez", "/readyz", "/console", "/docs")
"""Routes, and what lies under them, that need no key: they tell nothing and move nothing."""
SCHEMES = ("bearer", "api-key")  # OpenAI's, and openpi's
SUBPROTOCOL_KEY = "aegis.key."
"""Before the base64url of a key among a websocket's subprotocols: a browser can send no header with one."""


class Access:
    """ASGI middleware: 401 without the key, 403 for another site's page or under a strange name."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._digests = [_digest(key) for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(scope)):
            await refuse(scope, receive, send, *refusal)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not (self.settings.named or self._digests or _is_own(host)):
            return 403, f"host '{host}': without a key this server goes by localhost or an address, not by a name"
        if origin is not None and origin not in self.settings.origins and _authority(origin) != host:
            return 403, f"origin '{origin}': pages of other sites may not use this server (--cors-origin allows one)"
        leads_to_console = (
            scope["path"] == "/" and scope["type"] == "http"
        )  # openpi's websocket there is another matter
        if not self._digests or leads_to_console or _is_open(scope["path"]):
            return None
        if self._knows(_key(headers)):
            return None
        return 401, "send a key of this server, as 'Authorization: Bearer KEY' or 'Authorization: Api-Key KEY'"

    def _knows(self, key: str) -> bool:
        """Whether it is one of ours; takes as long whichever it is, and whatever it begins with."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Answer with `status` and why; a websocket's handshake too."""
    more = {"www-authenticate": "Bearer"} if status == 401 else {}
    body = refusals.body(scope["path"], status, detail)
    await JSONResponse(body, status, headers={**more, **dict(headers)})(scope, receive, send)


def lock(document: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's `document`, which says now of every route that wants the key that it does."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if not _is_open(path):
            for operation in operations.values():
                operation["security"] = [{"key": []}]
    return document


def _key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() in SCHEMES:
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if (protocol := protocol.strip()).startswith(SUBPROTOCOL_KEY):
            encoded = protocol.removeprefix(SUBPROTOCOL_KEY)
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except ValueError:  # not base64, or not text
                return ""
    return ""


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # half an IPv6 address
        return None


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _is_open(path: str) -> bool:
    return any(path == route or path.startswith(f"{route}/") for route in OPEN)


def _is_own(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost":
            return True
        ip_address(name)
    except ValueError:
        return False
    return True
