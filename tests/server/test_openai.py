"""OpenAI's unmodified client against the server: it lists the model, asks about an image, and hears of mistakes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.inference.text import Cut, spell
from aegis_server.chat import before
from tests.linear_policy import LINEAR, Server, serving
from tests.server import clients

pytestmark = clients.needed
EOS = 1
TALKATIVE = """
import sys
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_server.process import run
from tests.model.builders import build_checkpoint
run(TorchPolicy(build_checkpoint(0), "cpu"), port=int(sys.argv[2]))
"""
ANSWER = "front: 66.67\n"  # the mean of (200, 0, 0)


@pytest.fixture(scope="module")
def found(server: Server) -> dict[str, Any]:
    """What openai_script.py saw."""
    return clients.run("openai_script.py", server.url)


def test_lists_the_model(found: dict[str, Any]) -> None:
    assert found["models"] == ["linear"]
    assert found["model"] == "linear"
    kind, status, words, _ = found["unknown model"]
    assert (kind, status) == ("NotFoundError", 404)
    assert words == "model 'gpt/5' is not here; this server has 'linear'"


def test_answers_about_an_image_at_once_and_streamed(found: dict[str, Any]) -> None:
    name, kind, model = found["ids"]
    assert name.startswith("chatcmpl-") and (kind, model) == ("chat.completion", "linear")
    assert found["whole"] == ["assistant", ANSWER, "stop"]
    assert found["streamed"] == [["assistant", "", None], [None, ANSWER, None], [None, None, "stop"]]
    assert found["chance"] == found["whole"]


def test_an_answer_is_cut_at_the_tokens_allowed(found: dict[str, Any]) -> None:
    assert found["cut"] == ["assistant", "0 1 2 ", "length"]
    assert found["cut by the new name"] == ["assistant", "0 1 ", "length"]
    expected = [["assistant", "", None], [None, "0 ", None], [None, "1 ", None], [None, None, "length"]]
    assert found["cut in the stream"] == expected


def test_an_answer_ends_before_the_first_stop(found: dict[str, Any]) -> None:
    assert found["stopped"] == ["assistant", "0 1 2 ", "stop"]
    expected = [["assistant", "", None], [None, "0 ", None], [None, "1 ", None], [None, None, "stop"]]
    assert found["stopped in the stream"] == expected


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real model, of random weights, which finds no end."""
    with serving(tmp_path_factory.mktemp("talkative") / "log", sys.executable, "-c", TALKATIVE) as server:
        server.wait()
        yield server


def test_an_answer_is_cut_at_what_the_policy_may_say(talkative: Server) -> None:
    def said(**options: Any) -> tuple[str, str]:
        found = httpx.post(f"{talkative.url}/v1/chat/completions", json={**body, **options}, timeout=60).json()
        return found["choices"][0]["message"]["content"], found["choices"][0]["finish_reason"]

    paths = httpx.get(f"{talkative.url}/openapi.json").json()["paths"]
    content = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]
    body = content["application/json"]["schema"]["examples"][0]
    body["messages"][0]["content"][1]["text"] = "what colour is the ball"
    whole, reason = said()
    assert len(whole.split()) == 32 and reason == "length"
    assert said(stop=whole) == ("", "stop")  # which is found in the last piece
    lines = httpx.post(f"{talkative.url}/v1/chat/completions", json={**body, "stream": True}, timeout=60).text
    assert '"finish_reason": "length"' in lines and '"finish_reason": "stop"' not in lines


def test_an_answer_that_ends_by_itself_with_its_last_token_is_not_cut() -> None:
    for tokens, cut in (([7] * 31, False), ([7] * 31 + [EOS], False), ([7] * 32, True)):
        pieces = list(spell(tokens, lambda ids: "x" * ids.count(7)))
        assert "".join(pieces) == "x" * tokens.count(7)
        assert [isinstance(piece, Cut) for piece in pieces] == [False] * (len(pieces) - 1) + [cut]


@given(st.lists(st.text("ab", max_size=3), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_said_before_a_stop_does_not_depend_on_the_pieces(pieces: list[str], stops: list[str]) -> None:
    async def said() -> str:
        async def spoken() -> AsyncGenerator[str, None]:
            for piece in pieces:
                yield piece

        return "".join([piece async for piece in before(stops, spoken())])

    text = "".join(pieces)
    assert asyncio.run(said()) == text[: min((text.index(stop) for stop in stops if stop in text), default=None)]


REASONS = {
    "remote url": "image_url: expected 'data:image/png;base64,...'; this server fetches nothing from remote addresses",
    "file url": "image_url: expected 'data:image/png;base64,...'; this server fetches nothing from remote addresses",
    "no picture": "image_url: not a readable image",
    "question": "question: too long",
    "long question": "messages: the last text has more than 500 characters",
    "long stop": "stop.",
    "no tokens": "max_tokens: Input should be greater than or equal to 1",
    "tools": "tools: ",
    "functions": "functions: ",
    "speech": "modalities[1]: Input should be 'text'",
    "JSON": "response_format.type: Input should be 'text'",
    "two answers": "n: Input should be 1",
    "five stops": "stop.",
    "probabilities": "logprobs: Input should be False",
}


@pytest.mark.parametrize("mistake", REASONS)
def test_the_client_raises_a_bad_request_in_our_words(found: dict[str, Any], mistake: str) -> None:
    kind, status, words, category = found["refused"][mistake]
    assert (kind, status, category) == ("BadRequestError", 400, "invalid_request_error")
    assert words.startswith(REASONS[mistake])


def test_the_client_raises_a_refusal_of_the_policy_also_where_it_would_stream(found: dict[str, Any]) -> None:
    assert found["refused, streamed"][:3] == ["BadRequestError", 400, "question: too long"]


def test_the_client_knows_an_unknown_model_and_a_failure_by_their_kinds(found: dict[str, Any]) -> None:
    assert found["refused"]["model"][:2] == ["NotFoundError", 404]
    kind, status, words, category = found["refused"]["bug"]
    assert (kind, status, category) == ("InternalServerError", 500, "server_error")
    assert "the server's log has it" in words
    assert found["broken off"] == "APIConnectionError"  # and not an answer that ends early
    assert found["too late"].startswith("not done within 0.3 s")


def test_the_client_s_key_opens_the_server_and_no_other_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-enough-characters")
    with serving(tmp_path / "log", *LINEAR, "--keys", str(keys)) as server:
        server.wait()
        found = clients.run("openai_script.py", server.url, keys.read_text(), "another")
    assert found[keys.read_text()] is None
    kind, status, words, category = found["another"]
    assert (kind, status, category) == ("AuthenticationError", 401, "authentication_error")
    assert words.startswith("send a key of this server")
