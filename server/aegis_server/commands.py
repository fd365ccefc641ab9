"""The `aegis serve` command."""

from __future__ import annotations

import math
import signal
import ssl
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from aegis_server.companion import Companion


def serve(
    checkpoint: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    sim: str | None = None,
    key_file: Path | None = None,
    without_key: bool = False,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    cors_origin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    batch: int = 16,
    batch_wait_ms: float = 5.0,
    queue: int = 64,
    deadline_s: float = 30.0,
    log_json: bool = False,
    replicas: int = 1,
    compile: bool = False,
) -> None:
    """Serve a policy over HTTP until SIGTERM or Ctrl+C; SIGHUP loads the checkpoint anew.

    Args:
        checkpoint: folder; the policy that ships with this package if left out.
        host: address to listen at; the default is reached from this machine only.
        port: port to listen at; 0 takes a free one.
        sim: robot task, such as pick: attach a simulated robot, to be commanded and watched at /console.
        key_file: file with keys, one a line; any of them opens the server, and none but these.
        without_key: listen beyond this machine without a key: whoever reaches the port moves the robot.
        tls_certificate: PEM file; with `tls_key`, the server speaks HTTPS.
        tls_key: PEM file of its private key.
        cors_origin: another site whose pages may use this server; give it once for each.
        batch: most observations in one pass of the model.
        batch_wait_ms: longest that an observation waits for others to share a pass with.
        queue: most observations that wait; what comes beyond is refused with a 429.
        deadline_s: longest that a request takes before it is dropped.
        log_json: log in JSON, a line for each event.
        replicas: processes on this machine that share the work, each with its own policy, by Ray Serve (extra `ray`).
        compile: compile the model before listening: minutes, then faster acts and answers.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is being loaded is as new as a reload would be
    from aegis_policy.inference.load import load_policy
    from aegis_server.engine import Capacity
    from aegis_server.logs import log_as_json
    from aegis_server.process import run
    from aegis_server.replicas import run as run_replicas
    from aegis_server.settings import Settings, origin, read_keys

    keys = read_keys(key_file) if key_file else ()
    check_exposure(host, bool(keys), without_key)
    if (tls_certificate is None) != (tls_key is None):
        raise ValueError("--tls-certificate and --tls-key go together")
    for option, least, given in (("replicas", 1, replicas), ("batch", 1, batch), ("queue", 1, queue)):
        if given < least:
            raise ValueError(f"--{option} {given}: expected {least} or more")
    if not (deadline_s > 0 and 0 <= batch_wait_ms < math.inf):
        raise ValueError(f"--deadline-s {deadline_s:g}, --batch-wait-ms {batch_wait_ms:g}: expected a time")
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: expected 0 to 65535")
    origins = tuple(map(origin, cors_origin))
    tls = None if tls_certificate is None or tls_key is None else (tls_certificate, tls_key)
    if tls:
        check_certificate(*tls)
    if replicas > 1 and sim:
        raise ValueError("--sim: with --replicas there is no console, as a stop would reach one of them only")
    if replicas > 1 and log_json:
        raise ValueError("--log-json: with --replicas, Ray writes the log, and puts words of its own before each line")
    if log_json:
        log_as_json()
    settings = Settings(
        keys, without_key, origins, Capacity(batch, batch_wait_ms / 1000, acts=queue), deadline_s=deadline_s
    )
    companion = None if sim is None else simulated_robot(sim, keys, tls_certificate is not None)
    load = partial(load_policy, checkpoint, compiled=compile)
    if replicas == 1:
        run(load(), host, port, settings, load, tls=tls, companion=companion)
    else:
        run_replicas(load, replicas, host, port, settings, tls=tls)


def simulated_robot(task: str, keys: tuple[str, ...], encrypted: bool) -> Companion:
    """The process of a simulated robot. Raises ValueError if the server is encrypted."""
    from aegis_server.companion import Companion

    if encrypted:
        raise ValueError("--sim reaches this server without TLS; start it apart: python -m aegis_sim.live --server URL")
    advice = 'where a package is missing: pip install "aegis-policy[sim]" && pip install --no-deps robosuite==1.5.2'
    return Companion(("aegis_sim.live", "--task", task, "--once"), keys[0] if keys else None, advice)


def check_certificate(certificate: Path, key: Path) -> None:
    """Raise ValueError or OSError for files that TLS cannot be made of."""
    for file in (certificate, key):
        file.open().close()  # says which is not there, or not to be read
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        wanted = "expected PEM files of a certificate and of its key, without a pass phrase"
        raise ValueError(f"--tls-certificate {certificate}, --tls-key {key}: {error.reason}; {wanted}") from None


def check_exposure(host: str, has_keys: bool, allowed: bool) -> None:
    """Raise ValueError for an address beyond this machine without a key."""
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    if not (local or has_keys or allowed):
        raise ValueError(
            f"--host {host} is reached from other machines, and whoever reaches it moves the robot: "
            "give --key-file, or --without-key if that is what you want"
        )
