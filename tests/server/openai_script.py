"""What a program that speaks OpenAI's protocol does, by their unmodified client; run by test_openai.py elsewhere."""

import base64
import io
import json
import sys

import openai
from PIL import Image

buffer = io.BytesIO()
Image.new("RGB", (16, 12), (200, 0, 0)).save(buffer, "PNG")
PICTURE = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(client, question="what is the mean colour?", url=PICTURE, model="linear", **options):
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}], **options)


def refusal(act):
    try:
        act()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.body.get("message"), error.body.get("type")]
    return None


def told(choice):
    return [choice.message.role, choice.message.content, choice.finish_reason]


def streamed(chunks):
    """The role, the pieces and the reason to finish, as they come."""
    choices = [each.choices[0] for each in chunks]
    return [[choice.delta.role, choice.delta.content, choice.finish_reason] for choice in choices]


FUNCTION = {"type": "function", "function": {"name": "move"}}
WRONG = {
    "remote url": {"url": "http://127.0.0.1:1/scene.png"},
    "file url": {"url": "file:///etc/hostname"},
    "no picture": {"url": PICTURE[:22] + "AAAA"},
    "model": {"model": "gpt-5"},
    "question": {"question": "too long?"},
    "long question": {"question": "x" * 501},
    "long stop": {"stop": "x" * 501},
    "no tokens": {"max_tokens": 0},
    "tools": {"tools": [FUNCTION]},
    "functions": {"functions": [FUNCTION["function"]]},
    "speech": {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    "JSON": {"response_format": {"type": "json_object"}},
    "two answers": {"n": 2},
    "probabilities": {"logprobs": True},
    "five stops": {"stop": list("abcde")},
    "bug": {"question": "break midway?"},
}


def main(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    whole = ask(client)
    found = {
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve("linear").id,
        "unknown model": refusal(lambda: client.models.retrieve("gpt/5")),
        "ids": [whole.id, whole.object, whole.model],
        "whole": told(whole.choices[0]),
        "streamed": streamed(ask(client, stream=True)),
        "cut": told(ask(client, "count", max_tokens=3).choices[0]),
        "cut by the new name": told(ask(client, "count", max_completion_tokens=2).choices[0]),
        "cut in the stream": streamed(ask(client, "count", max_tokens=2, stream=True)),
        "stopped": told(ask(client, "count", stop=["zero", "3"]).choices[0]),
        "stopped in the stream": streamed(ask(client, "count", stop="2 3", stream=True)),
        "chance": told(ask(client, temperature=0.7, top_p=0.9, seed=3).choices[0]),
        "refused": {name: refusal(lambda wrong=wrong: ask(client, **wrong)) for name, wrong in WRONG.items()},
        "refused, streamed": refusal(lambda: list(ask(client, "too long?", stream=True))),
    }
    try:
        list(ask(client, "break midway?", stream=True))
    except openai.APIConnectionError as error:
        found["broken off"] = type(error).__name__
    try:
        list(ask(client, "count", stream=True, extra_headers={"x-deadline-ms": "300"}))
    except openai.APIError as error:
        found["too late"] = str(error)
    print(json.dumps(found))


def keyed(url, *keys):
    clients = {key: openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) for key in keys}
    print(json.dumps({key: refusal(lambda client=client: ask(client)) for key, client in clients.items()}))


if __name__ == "__main__":
    (keyed if len(sys.argv) > 2 else main)(*sys.argv[1:])
