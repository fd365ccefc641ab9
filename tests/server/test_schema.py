"""Every route, as OpenAPI describes it, asked by schemathesis: no server error, and nothing that is not declared."""

from __future__ import annotations

from typing import Any

import httpx
import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aegis_policy.inference.example import example_observation
from aegis_policy.inference.wire import CONTENT_TYPE, pack
from aegis_server.app import create_app
from tests.linear_policy import LinearPolicy, Server
from tests.server.test_app import REFUSED_IMAGES

SEEN = example_observation(LinearPolicy.info)
PACKED = {"images": dict(SEEN.images), "state": SEEN.state, "instruction": "pick up the red cube", "seed": 1}
ANYTHING = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text() | st.binary()
CHANGED = st.dictionaries(st.sampled_from([*PACKED, "question", "stream", "stamp"]), ANYTHING, max_size=3)
schemathesis.openapi.media_type(
    CONTENT_TYPE, CHANGED.map(lambda change: pack({**PACKED, **change})) | st.binary() | ANYTHING.map(msgpack.packb)
)


@schemathesis.check
def no_server_error(context: CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """504 is what a deadline of a millisecond asks for."""
    assert response.status_code < 500 or response.status_code == 504


CHECKS = [no_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


DESCRIBED = schemathesis.openapi.from_dict(create_app(LinearPolicy()).openapi())
ROUTES = [(path, method) for path, methods in DESCRIBED.raw_schema["paths"].items() for method in methods]


def ask(server: Server, path: str, method: str, examples: int) -> None:
    """Requests as described, and ones that break the description somewhere."""
    operation = DESCRIBED[path][method.upper()]
    cases = operation.as_strategy()
    if operation.body or operation.headers or operation.path_parameters:
        cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=server.url, checks=CHECKS)

    run()


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_route_answers_as_it_is_described(server: Server, path: str, method: str) -> None:
    ask(server, path, method, 40 if method == "post" else 10)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_route_answers_as_it_is_described_for_long(server: Server, path: str, method: str) -> None:
    ask(server, path, method, 1000 if method == "post" else 100)


def test_all_routes_are_described_and_all_references_point_somewhere(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        *("/v1/info", "/v1/act", "/v1/ask", "/v1/chat/completions", "/v1/models", "/v1/models/{model}"),
        *("/livez", "/readyz", "/metrics", "/v1/reload"),
    }

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return found.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    for reference in references(described):
        root, *parts = reference.split("/")
        place = described
        assert root == "#"
        for part in parts:
            place = place[part]


@pytest.mark.parametrize("path", ["/v1/act", "/v1/ask", "/v1/chat/completions"])
def test_the_example_of_a_body_runs(client: httpx.Client, path: str) -> None:
    body = client.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert client.post(path, json=body["schema"]["examples"][0]).status_code == 200


@pytest.mark.parametrize("header", ["host", "origin"])
def test_half_an_address_is_refused(client: httpx.Client, header: str) -> None:
    response = client.get("/v1/info", headers={header: "http://[" if header == "origin" else "["})
    assert response.status_code == 403
    assert response.json()["detail"].startswith(header)


@pytest.mark.parametrize("name", ["bomb", "big", "truncated", "empty", "16-bit greyscale"])
def test_a_picture_that_cannot_be_shown_is_a_bad_request(client: httpx.Client, name: str) -> None:
    url = f"data:image/png;base64,{REFUSED_IMAGES[name][0]()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    body = {"model": "linear", "messages": [{"role": "user", "content": parts}]}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("image")


@pytest.mark.parametrize("path", ["/v1/act", "/v1/ask", "/v1/chat/completions"])
def test_millions_of_small_values_are_refused_at_once(client: httpx.Client, path: str) -> None:
    body = b'{"state": [' + b"null," * 3_000_000 + b"0]}"
    response = client.post(path, content=body, headers={"content-type": "application/json"}, timeout=10)
    assert response.status_code in (400, 422)
    assert "more than 20000 values" in response.text
