"""How a server is set up, apart from its policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aegis_policy import PolicyInfo
from aegis_server.engine import Capacity

MIN_BODY = 16 * 2**20


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    Attributes:
        keys: any of them opens the server; without one it is open to whoever reaches it.
        named: whether it is asked under any name; if not, only as localhost or by address, so that no page in a browser
            can reach it under a name of its own (DNS rebinding).
        origins: other sites whose pages may use it (CORS), such as "https://lab.example"; "*" is not taken.
        capacity: how much is taken on at once.
        deadline_s: longest that a request takes, unless it says so itself.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    named: bool = False
    origins: tuple[str, ...] = ()
    capacity: Capacity = field(default_factory=Capacity)
    deadline_s: float = 30.0


def origin(site: str) -> str:
    """A site as browsers name it, such as "https://lab.example". Raises ValueError for what is none."""
    parts = urlsplit(site)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query or "*" in site:
        raise ValueError(f"--cors-origin '{site}': name each site, as https://lab.example")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def max_body(info: PolicyInfo) -> int:
    """The largest request body or websocket message read, in bytes: four for each pixel value, and 16 MiB at least."""
    return max(MIN_BODY, 2**20 + sum(4 * 3 * camera.height * camera.width for camera in info.cameras))


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line; what follows a '#' is a remark.

    Raises:
        OSError: no such file.
        ValueError: none in it, or one that is too short to keep anyone out, or that no header can carry.
    """
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    keys = tuple(line for line in lines if line)
    if not keys:
        raise ValueError(f"{path}: no key in it; write one a line, for example by: openssl rand -hex 32")
    if weak := [number for number, key in enumerate(keys, 1) if len(key) < 16]:
        raise ValueError(f"{path}: key {weak[0]} has fewer than 16 characters; make one by: openssl rand -hex 32")
    if odd := [number for number, key in enumerate(keys, 1) if not (key.isascii() and key.isprintable())]:
        raise ValueError(
            f"{path}: key {odd[0]} has characters other than printable ASCII; make one by: openssl rand -hex 32"
        )
    return keys
