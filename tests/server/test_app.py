"""The server over a real socket: what it answers, what it refuses and why, and that it stays up."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from aegis_policy import Observation, PolicyInfo
from aegis_policy.inference.images import encode_image
from aegis_policy.inference.wire import pack
from tests.linear_policy import LinearPolicy, Server

INFO = LinearPolicy.info
RNG = np.random.default_rng(0)
IMAGES = {camera.name: RNG.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in INFO.cameras}
ENCODED = {name: encode_image(image) for name, image in IMAGES.items()}
ACT = {"images": ENCODED, "state": [0.1, -0.2, 0.05], "instruction": "pick up the red cube", "stamp": 12.5, "seed": 3}
ASK = {"images": ENCODED, "question": "what is the mean colour?"}


def file(image: Image.Image, format: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def png(width: int, height: int, depth: int, colour_type: int, pixels: bytes) -> str:
    """A PNG put together by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def events(response: httpx.Response) -> list[dict[str, str]]:
    return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]


def test_info_is_the_policy_s(client: httpx.Client) -> None:
    assert PolicyInfo.from_dict(client.get("/v1/info").json()) == INFO


def test_acts_as_the_policy_itself_does(client: httpx.Client) -> None:
    answer = client.post("/v1/act", json=ACT).json()
    state = np.asarray(ACT["state"], np.float32)
    expected = LinearPolicy().act(Observation(IMAGES, state, "pick up the red cube"), seed=3)
    np.testing.assert_array_equal(np.asarray(answer["actions"], np.float32), expected.actions)
    assert answer["stamp"] == 12.5
    assert 0 < answer["latency_ms"] < 5000


def test_goes_on_from_what_is_pending(client: httpx.Client) -> None:
    pending = {"actions": [[0.5, -0.25, 1], [0.125, 0.5, 0.0]], "delay": 1}
    answer = client.post("/v1/act", json={**ACT, "pending": pending}).json()
    plain = client.post("/v1/act", json=ACT).json()
    assert answer["actions"][0] == pending["actions"][0]
    assert answer["actions"][1] != plain["actions"][1] and answer["actions"][2:] == plain["actions"][2:]


@pytest.mark.parametrize(
    ("pending", "reason"),
    [
        ({"actions": [[0.0, 0.0, 0.0]]}, "pending.delay: Field required"),
        ({"actions": [[0.0, 0.0, 0.0]], "delay": 1.0}, "pending.delay: Input should be a valid integer"),
        ({"actions": [[0.0, 0.0, 0.0]], "delay": 2}, "pending.delay is 2: expected 0 to 1"),
        ({"actions": [[0.0, 0.0, None]], "delay": 0}, "pending.actions[0][2]: Input should be a valid number"),
        ({"actions": [[0.0, 0.0, 0.0], [0.0]], "delay": 0}, "pending.actions: expected actions of one length"),
        ({"actions": [[0.0, 0.0]], "delay": 0}, "pending.actions: expected 1 to 4 actions of 3 floats"),
        ({"actions": [], "delay": 0}, "pending.actions: expected 1 to 4 actions of 3 floats"),
        ({"actions": [[1e300, 0.0, 0.0]], "delay": 0}, "pending.actions: expected finite floats"),
        ({"actions": [[0.0, 0.0, 0.0]], "delay": 0, "executed": 1}, "pending.executed: Extra inputs"),
    ],
)
def test_refuses_what_cannot_be_pending(client: httpx.Client, pending: dict[str, Any], reason: str) -> None:
    response = client.post("/v1/act", json={**ACT, "pending": pending})
    assert response.status_code == 422 and response.json()["detail"].startswith(reason), response.text


@pytest.mark.parametrize("actions", [np.zeros((200, 200)), np.full((1, 3), np.nan), np.float32(1), np.zeros(3), "0"])
def test_refuses_an_array_that_cannot_be_pending(client: httpx.Client, actions: Any) -> None:
    packed = {**ACT, "images": IMAGES, "state": np.zeros(3, np.float32), "pending": {"actions": actions, "delay": 0}}
    response = client.post("/v1/act", content=pack(packed), headers={"content-type": "application/msgpack"})
    assert response.status_code == 422 and response.json()["detail"].startswith("pending.actions"), response.text


def test_answers_as_the_policy_itself_does_streamed_and_whole(client: httpx.Client) -> None:
    pieces = list(LinearPolicy().ask(IMAGES, "what is the mean colour?"))
    with client.stream("POST", "/v1/ask", json=ASK) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert events(response) == [*({"token": piece} for piece in pieces), {"answer": "".join(pieces)}]
    assert client.post("/v1/ask", json={**ASK, "stream": False}).json() == {"answer": "".join(pieces)}


def test_examples_in_the_docs_are_accepted(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/act", "/v1/ask"):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        schema_examples = content.get("examples") or content["schema"]["examples"]
        example = schema_examples[0]
        assert client.post(path, json=example).status_code == 200, path
    assert client.get("/docs").status_code == 200


def grey() -> Image.Image:
    return Image.new("L", (16, 12))


REFUSED_IMAGES = {
    "RGBA": (lambda: file(Image.new("RGBA", (16, 12))), "expected an image of 16x12 8-bit RGB, got 16x12 8-bit RGBA"),
    "greyscale": (lambda: file(grey()), "got 16x12 8-bit greyscale"),
    "grey JPEG": (lambda: file(grey(), "JPEG"), "got 16x12 8-bit greyscale"),
    "16-bit greyscale": (lambda: file(grey().convert("I;16")), "got 16x12 16-bit greyscale"),
    "16-bit RGB": (lambda: png(16, 12, 16, 2, bytes(12 * (1 + 16 * 6))), "got 16x12 16-bit RGB"),
    "palette": (lambda: file(Image.new("P", (16, 12))), "got 16x12 8-bit palette"),
    "1-bit": (lambda: file(Image.new("1", (16, 12))), "got 16x12 1-bit black and white"),
    "size": (lambda: file(Image.new("RGB", (12, 16))), "got 12x16 8-bit RGB"),
    "bomb": (lambda: png(50000, 50000, 8, 2, bytes(10**6)), "front"),
    "big": (lambda: png(8000, 8000, 8, 2, bytes(10**6)), "got 8000x8000 8-bit RGB"),
    "truncated": (lambda: ENCODED["front"][: len(ENCODED["front"]) // 8 * 4], "not a readable PNG or JPEG"),
    "GIF": (lambda: file(Image.new("RGB", (16, 12)), "GIF"), "not a readable PNG or JPEG"),
    "empty": (lambda: "", "not a readable PNG or JPEG"),
    "base64": (lambda: ENCODED["front"][:-3], "not base64"),
    "prefix": (lambda: "data:image/png;base64," + ENCODED["front"], "without line breaks or a 'data:' prefix"),
    "not ASCII": (lambda: "é", "not base64"),
}


@pytest.mark.parametrize("name", REFUSED_IMAGES)
def test_refuses_an_image_that_is_not_the_camera_s_saying_what_it_is(client: httpx.Client, name: str) -> None:
    make, reason = REFUSED_IMAGES[name]
    for path, body in (("/v1/act", ACT), ("/v1/ask", ASK)):
        response = client.post(path, json={**body, "images": {**ENCODED, "front": make()}})
        assert response.status_code == 422
        assert "camera 'front'" in response.json()["detail"]
        assert reason in response.json()["detail"]


def test_takes_a_jpeg_held_sideways_upright(client: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    image = Image.new("RGB", (16, 12), "red")
    image.paste("blue", (0, 0, 16, 6))
    turned, plain = file(image, "JPEG", exif=exif, quality=100), file(image.rotate(180), "JPEG", quality=100)
    chunks = [
        client.post("/v1/act", json={**ACT, "images": {**ENCODED, "front": text}}).json()["actions"]
        for text in (turned, plain)
    ]
    np.testing.assert_allclose(*chunks, atol=0.02)


REFUSED_ACTS = {
    "missing camera": ({"images": {"front": ENCODED["front"]}}, "missing camera image: wrist"),
    "unknown camera": ({"images": {**ENCODED, "side": ENCODED["front"]}}, "unknown camera 'side'"),
    "short state": ({"state": [0.0, 0.0]}, "expected 3 floats ['x', 'y', 'opening']"),
    "nested state": ({"state": [[0.0, 0.0, 0.0]]}, "state[0]: Input should be a valid number"),
    "text in state": ({"state": [0.0, "0.0", 0.0]}, "state[1]: Input should be a valid number"),
    "null in state": ({"state": [0.0, None, 0.0]}, "state[1]"),
    "truth in state": ({"state": [0.0, True, 0.0]}, "state[1]"),
    "NaN": ({"state": [0.0, float("nan"), 0.0]}, "state[1]: Input should be a finite number"),
    "infinity": ({"state": [0.0, 0.0, float("-inf")]}, "state[2]: Input should be a finite number"),
    "beyond float32": ({"state": [0.0, 1e39, 0.0]}, "state: not a finite number: y"),
    "NaN stamp": ({"stamp": float("nan")}, "stamp: Input should be a finite number"),
    "fraction of a seed": ({"seed": 0.5}, "seed"),
    "negative seed": ({"seed": -1}, "seed"),
    "no instruction": ({"instruction": " "}, "instruction: empty"),
    "instruction of another type": ({"instruction": ["pick"]}, "instruction: Input should be a valid string"),
    "long instruction": ({"instruction": "x" * 501}, "instruction: String should have at most 500 characters"),
    "misspelt field": ({"instructions": "pick"}, "instructions: Extra inputs are not permitted"),
    "images by position": ({"images": [ENCODED["front"], ENCODED["wrist"]]}, "images: "),
    "half a character": ({"instruction": "\ud800"}, "body: not JSON"),
    "camera of half a character": ({"images": {"\ud800": ENCODED["front"]}}, "body: not JSON"),
    "field of half a character": ({"\ud800": 1}, "body: not JSON"),
}


@pytest.mark.parametrize("name", REFUSED_ACTS)
def test_refuses_an_act_saying_where_and_why(client: httpx.Client, name: str) -> None:
    change, reason = REFUSED_ACTS[name]
    body = json.dumps({**ACT, **change})
    response = client.post("/v1/act", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert reason in response.json()["detail"]


def test_takes_words_up_to_their_limit(client: httpx.Client) -> None:
    assert client.post("/v1/act", json={**ACT, "instruction": "x" * 500}).status_code == 200
    assert client.post("/v1/ask", json={**ASK, "question": "x" * 500}).status_code == 200


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "question: empty"),
        ({"question": "x" * 501}, "question: String should have at most 500 characters"),
        ({"images": {}}, "missing camera image"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"question": "too long?"}, "question: too long"),  # the policy's own refusal, from inside its generator
    ],
)
def test_refuses_a_question_before_any_200(client: httpx.Client, change: dict[str, Any], reason: str) -> None:
    response = client.post("/v1/ask", json={**ASK, **change})
    assert response.status_code == 422
    assert reason in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b'{"state": [', "application/json", 422, "body: not JSON"),
        (b"", "application/json", 422, "body: not JSON"),
        (b"[]", "application/json", 422, "body: Input should be an object"),
        (json.dumps(ACT).encode(), "application/x-www-form-urlencoded", 415, "content-type: application/json"),
        (pack(ACT)[:-1], "application/msgpack", 422, "not msgpack"),
        (pack([1]), "application/msgpack", 422, "body: expected a map, got list"),
    ],
)
def test_refuses_what_is_not_a_request(
    client: httpx.Client, body: bytes, content_type: str, status: int, reason: str
) -> None:
    response = client.post("/v1/act", content=body, headers={"content-type": content_type})
    assert response.status_code == status
    assert reason in response.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_refuses_a_body_beyond_the_limit(client: httpx.Client, chunked: bool) -> None:
    body = json.dumps({**ACT, "instruction": "x" * 2**25}).encode()
    pieces = (body[start : start + 2**20] for start in range(0, len(body), 2**20))
    response = client.post("/v1/act", content=pieces if chunked else body, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert "larger than" in response.json()["detail"]


@pytest.mark.parametrize("instruction", ["break", "diverge"])
def test_a_failing_policy_is_a_500_with_an_id_that_the_log_knows(
    client: httpx.Client, server: Server, instruction: str
) -> None:
    response = client.post("/v1/act", json={**ACT, "instruction": instruction})
    assert response.status_code == 500
    request_id = response.headers["x-request-id"]
    assert request_id in response.json()["detail"]
    log = server.log.read_text()
    assert request_id in log
    assert "RuntimeError" in log[log.index(request_id) :]
    assert client.post("/v1/act", json=ACT).status_code == 200


def test_an_answer_that_fails_midway_is_broken_off_and_not_ended(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/ask", json={**ASK, "question": "break midway?"}) as response:
        lines = response.iter_lines()
        assert "front" in next(lines)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert client.post("/v1/ask", json={**ASK, "question": "break midway?", "stream": False}).status_code == 500
    assert client.get("/readyz").status_code == 200


def given_up(client: httpx.Client, expected: int = 0) -> int:
    """How many answers the policy was stopped in; waits until there are as many as `expected`."""
    body = {**ASK, "question": "how many answers were given up?", "stream": False}
    give_up = time.monotonic() + 30
    while (count := int(client.post("/v1/ask", json=body).json()["answer"])) < expected and time.monotonic() < give_up:
        time.sleep(0.05)
    return count


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_has_its_answer_closed(client: httpx.Client, stream: bool) -> None:
    before = given_up(client)
    body = {**ASK, "question": "count", "stream": stream}
    with suppress(httpx.ReadTimeout), client.stream("POST", "/v1/ask", json=body, timeout=1) as response:
        next(response.iter_lines())
    assert given_up(client, before + 1) == before + 1


def test_acts_go_between_the_tokens_of_an_answer(client: httpx.Client) -> None:
    before = given_up(client)
    with client.stream("POST", "/v1/ask", json={**ASK, "question": "count"}) as response:
        next(response.iter_lines())
        assert client.post("/v1/act", json=ACT).status_code == 200
    # Had the act waited for the end of the answer, there would have been nothing left to give up.
    assert given_up(client, before + 1) == before + 1


def test_many_at_once_each_get_their_own(client: httpx.Client) -> None:
    answers: dict[int, Any] = {}

    def act(seed: int) -> None:
        answers[seed] = client.post("/v1/act", json={**ACT, "seed": seed}).json()["actions"]

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = np.asarray(ACT["state"], np.float32)
    for seed, actions in answers.items():
        expected = LinearPolicy().act(Observation(IMAGES, state, "pick up the red cube"), seed=seed)
        np.testing.assert_array_equal(np.asarray(actions, np.float32), expected.actions)
    assert len(answers) == 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["images", "state", "instruction", "stamp", "seed", "question", "stream"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/v1/act", "/v1/ask"]), change=st.dictionaries(FIELDS, JSON, min_size=1, max_size=3))
def test_no_json_whatever_is_a_server_error(client: httpx.Client, path: str, change: dict[str, Any]) -> None:
    body = json.dumps({**(ACT if path == "/v1/act" else ASK), **change})
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (200, 422)
    if response.status_code == 422:
        assert isinstance(response.json()["detail"], str)
