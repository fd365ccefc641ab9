"""How a refusal reads: in words that any client can take, in the form of the route's own protocol."""

from __future__ import annotations

from typing import Any

MAX_CHARACTERS = 500
"""Of a refusal: it quotes what came, which may be megabytes."""
CLIENT_CLOSED_REQUEST = 499  # nginx's, for the log: nobody is left to read it
_OPENAI = ("/v1/chat/", "/v1/models")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def is_openai(path: str) -> bool:
    """Whether a route is one of OpenAI's, whose errors have their form."""
    return path.startswith(_OPENAI)


def in_words(error: Exception | str) -> str:
    """What went wrong, in UTF-8 and not at length."""
    text = str(error).encode(errors="backslashreplace").decode()  # it may quote a name that is half a character
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."


def body(path: str, status: int, text: str) -> dict[str, Any]:
    """The JSON of a refusal."""
    text = in_words(text)
    if not is_openai(path):
        return {"detail": text}
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}
