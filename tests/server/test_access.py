"""Who may ask: keys, pages of other sites, names, and addresses beyond this machine."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.wire import unpack
from aegis_server.commands import serve
from aegis_server.schemas import act_example
from aegis_server.settings import Settings, origin, read_keys
from tests.linear_policy import LinearPolicy, Server, serving

KEYS = ("a key of sixteen characters", "another, with a space?>")
PROGRAM = """
import json, sys
from pathlib import Path
from aegis_server.logs import log_as_json
from aegis_server.process import run
from aegis_server.settings import Settings
from tests.linear_policy import LinearPolicy
import logging
logging.basicConfig(level=logging.INFO)
log_as_json()
settings, tls = json.loads(sys.argv[1])
settings = Settings(**{name: tuple(value) for name, value in settings.items()})
run(LinearPolicy(), port=int(sys.argv[3]), settings=settings, tls=tls and tuple(map(Path, tls)))
"""
EVERY_WEBSOCKET = pytest.mark.parametrize("path", ["/", "/v1/stream"])


def command(settings: dict[str, tuple[str, ...]], tls: tuple[str, str] | None = None) -> tuple[str, ...]:
    return (sys.executable, "-c", PROGRAM, json.dumps([settings, tls]))


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys, and one site that may use it."""
    settings = {"keys": KEYS, "origins": ("https://lab.example",)}
    with serving(tmp_path_factory.mktemp("locked") / "log", *command(settings)) as server:
        server.wait()
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def websocket(server: Server, path: str) -> str:
    return server.url.replace("http", "ws") + path


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Api-Key"])
def test_any_key_opens_in_either_form(locked: Server, scheme: str) -> None:
    for key in KEYS:
        headers = {"authorization": f"{scheme} {key}"}
        assert httpx.get(f"{locked.url}/v1/info", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(KEYS[0][:-1]), {"authorization": f"Basic {KEYS[0]}"}])
def test_no_other_key_does(locked: Server, headers: dict[str, str]) -> None:
    for path in ("/v1/info", "/metrics", "/openapi.json", "/v1/models", "/nothing"):
        response = httpx.get(locked.url + path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "send a key" in response.text
    assert httpx.post(f"{locked.url}/v1/act", json=act_example(LinearPolicy.info), headers=headers).status_code == 401
    assert httpx.post(f"{locked.url}/v1/reload", headers=headers).status_code == 401
    assert httpx.get(f"{locked.url}/livez").status_code == httpx.get(f"{locked.url}/readyz").status_code == 200


def test_openapi_says_which_routes_want_the_key(locked: Server, server: Server) -> None:
    document = httpx.get(f"{locked.url}/openapi.json", headers=bearer(KEYS[0])).json()
    scheme = document["components"]["securitySchemes"]
    assert scheme == {"key": {"type": "http", "scheme": "bearer"}}
    wanted = {
        (method, path): operation.get("security") == [{"key": []}]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert wanted["post", "/v1/act"]
    assert not wanted["get", "/readyz"]
    for (method, path), keyed in wanted.items():
        assert (httpx.request(method, locked.url + path).status_code == 401) == keyed
    assert "securitySchemes" not in httpx.get(f"{server.url}/openapi.json").json()["components"]


def test_the_client_s_key_comes_from_its_environment(locked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_API_KEY", KEYS[0])
    assert RemotePolicy(locked.url).info == LinearPolicy.info
    with pytest.raises(ConnectionError, match="401 Unauthorized: send a key"):
        RemotePolicy(locked.url, api_key="not a key of this server")


@EVERY_WEBSOCKET
def test_a_websocket_takes_a_key_as_header_or_as_subprotocol(locked: Server, path: str) -> None:
    with connect(websocket(locked, path), additional_headers=bearer(KEYS[0])) as socket:
        assert unpack(socket.recv(timeout=10))["model"] == "linear"
    encoded = base64.urlsafe_b64encode(KEYS[1].encode()).decode().rstrip("=")
    protocols = [Subprotocol("aegis"), Subprotocol(f"aegis.key.{encoded}")]
    with connect(websocket(locked, path), subprotocols=protocols) as socket:
        assert unpack(socket.recv(timeout=10))["model"] == "linear"


@pytest.mark.parametrize("path", ["/", "/v1/stream", "/v1/robot", "/v1/console"])
def test_a_websocket_agrees_to_a_subprotocol_as_browsers_want_and_never_to_the_key(locked: Server, path: str) -> None:
    encoded = base64.urlsafe_b64encode(KEYS[1].encode()).decode().rstrip("=")
    protocols = [Subprotocol("aegis"), Subprotocol(f"aegis.key.{encoded}")]
    with connect(websocket(locked, path), subprotocols=protocols) as socket:
        assert socket.subprotocol == "aegis"
    with connect(websocket(locked, path), subprotocols=protocols[1:]) as socket:
        assert socket.subprotocol is None
    with connect(websocket(locked, path), additional_headers=bearer(KEYS[0])) as socket:
        assert socket.subprotocol is None


@EVERY_WEBSOCKET
def test_a_websocket_is_refused_in_its_handshake(locked: Server, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(websocket(locked, path)):
        pass
    assert refused.value.response.status_code == 401
    bad = Subprotocol("aegis.key.AAAA")
    with pytest.raises(InvalidStatus) as refused, connect(websocket(locked, path), subprotocols=[bad]):
        pass
    assert refused.value.response.status_code == 401


@EVERY_WEBSOCKET
@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://[", ""])
def test_another_site_s_page_is_refused_even_with_a_key(locked: Server, path: str, origin: str) -> None:
    response = httpx.get(f"{locked.url}/v1/info", headers={**bearer(KEYS[0]), "origin": origin})
    assert response.status_code == 403
    assert "--cors-origin" in response.json()["detail"]
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(websocket(locked, path), additional_headers=bearer(KEYS[0]), origin=Origin(origin)),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_its_own_pages_and_an_allowed_site_s_are_taken(locked: Server) -> None:
    for site in (locked.url, "https://lab.example"):
        assert httpx.get(f"{locked.url}/v1/info", headers={**bearer(KEYS[0]), "origin": site}).status_code == 200
        headers = bearer(KEYS[0])
        with connect(websocket(locked, "/v1/stream"), additional_headers=headers, origin=Origin(site)) as socket:
            socket.recv(timeout=10)


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def test_cors_is_told_to_the_allowed_site_alone(locked: Server, server: Server) -> None:
    def preflight(to: Server, origin: str) -> httpx.Response:
        return httpx.options(f"{to.url}/v1/act", headers={**PREFLIGHT, "origin": origin})

    allowed = preflight(locked, "https://lab.example")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://lab.example"
    assert "access-control-allow-origin" not in preflight(locked, "https://evil.example").headers
    refused = preflight(server, "https://lab.example")  # one that was given no site
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_without_a_key_it_goes_by_no_strange_name(locked: Server, server: Server) -> None:
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"):
        response = httpx.get(f"{server.url}/v1/info", headers={"host": host})
        assert response.status_code == 403, host
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "192.0.2.7"):
        assert httpx.get(f"{server.url}/v1/info", headers={"host": host}).status_code == 200, host
    headers = {**bearer(KEYS[0]), "host": "robot.example"}  # with a key, no page knows it
    assert httpx.get(f"{locked.url}/v1/info", headers=headers).status_code == 200


def test_the_log_is_json_with_the_request_that_a_line_is_about(locked: Server) -> None:
    broken = {**act_example(LinearPolicy.info), "instruction": "break"}
    headers = {**bearer(KEYS[0]), "x-request-id": "this-one"}
    assert httpx.post(f"{locked.url}/v1/act", json=broken, headers=headers).status_code == 500
    lines = [json.loads(line) for line in locked.log.read_text().splitlines()]
    failed = [line for line in lines if line["request_id"] == "this-one"]
    assert len(failed) == 1
    assert failed[0]["level"] == "ERROR"
    assert "a bug in the policy" in failed[0]["exc_info"]
    assert {line["request_id"] for line in lines if line["message"] == "ready"} == {"-"}
    assert not [key for key in KEYS if key in locked.log.read_text()]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=robot -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=certificate)
    with serving(tmp_path / "log", *command({"keys": KEYS}, (certificate, key))) as plain:
        url = plain.url.replace("http", "https")
        with httpx.Client(verify=trusting, transport=httpx.HTTPTransport(verify=trusting, retries=20)) as client:
            assert client.get(f"{url}/v1/info", headers=bearer(KEYS[0])).json()["model"] == "linear"
        with connect(f"{url.replace('http', 'ws')}/", ssl=trusting, additional_headers=bearer(KEYS[0])) as socket:
            assert unpack(socket.recv(timeout=10))["model"] == "linear"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/livez")
        with pytest.raises(ConnectionError, match=r"its certificate is not trusted here; .* variable SSL_CERT_FILE"):
            RemotePolicy(url, api_key=KEYS[0])
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        assert RemotePolicy(url, api_key=KEYS[0]).info.model == "linear"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{plain.url}/livez")


def test_it_refuses_to_listen_beyond_this_machine_without_a_key() -> None:
    program = "from aegis_policy.cli import main; main(['serve', '--host', '0.0.0.0'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--host 0.0.0.0 is reached from other machines, and whoever reaches it moves the robot" in done.stderr
    assert "Traceback" not in done.stderr
    for host in ("::", "192.0.2.7", "robot.example", "localhost.evil.example", ""):
        with pytest.raises(ValueError, match="--key-file, or --without-key"):
            serve(host=host)


def test_it_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        serve(key_file=tmp_path / "keys")
    with pytest.raises(ValueError, match="--tls-certificate and --tls-key go together"):
        serve(tls_key=tmp_path / "keys")
    with pytest.raises(ValueError, match="--log-json: with --replicas, Ray writes the log"):
        serve(replicas=2, log_json=True)
    for option in ("replicas", "batch", "queue"):
        with pytest.raises(ValueError, match=f"--{option} 0: expected 1 or more"):
            serve(**{option: 0})
    for times in ({"deadline_s": 0.0}, {"deadline_s": float("nan")}, {"batch_wait_ms": -1.0}):
        with pytest.raises(ValueError, match=r"--deadline-s .*, --batch-wait-ms .*: expected a time"):
            serve(**times)
    for site in ("*", "lab.example", "https://", "ftp://lab.example", "https://lab.example/page"):
        with pytest.raises(ValueError, match=f"--cors-origin '{re.escape(site)}': name each site"):
            serve(cors_origin=(site,))
    assert origin("https://Lab.example/") == "https://lab.example"
    for port in (-1, 70000):
        with pytest.raises(ValueError, match=f"--port {port}: expected 0 to 65535"):
            serve(port=port)
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(
        ValueError, match=r"--tls-key .*no\.pem: .*; expected PEM files of a certificate and of its key"
    ):
        serve(tls_certificate=tmp_path / "no.pem", tls_key=tmp_path / "no.pem")
    (tmp_path / "no.pem").unlink()
    with pytest.raises(FileNotFoundError, match=r"no\.pem"):
        serve(tls_certificate=tmp_path / "no.pem", tls_key=tmp_path / "no.pem")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(replicas=2, port=taken.getsockname()[1])


def test_a_key_file_has_keys_that_keep_someone_out(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# the lab's\n\n  a key of sixteen characters  # whose\nanother key, as long\n")
    assert read_keys(keys) == ("a key of sixteen characters", "another key, as long")
    keys.write_text("# none\n\n")
    with pytest.raises(ValueError, match="no key in it; write one a line"):
        read_keys(keys)
    keys.write_text("a key of sixteen characters\nshort\n")
    with pytest.raises(ValueError, match="key 2 has fewer than 16 characters"):
        read_keys(keys)
    keys.write_text("ein Schlüssel aus Köln\n")
    with pytest.raises(ValueError, match="key 1 has characters other than printable ASCII"):
        read_keys(keys)


def test_settings_do_not_show_their_keys() -> None:
    assert KEYS[0] not in repr(Settings(keys=KEYS))
