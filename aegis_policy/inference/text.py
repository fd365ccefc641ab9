"""How long what is asked may be, and from the tokens of an answer to the text that is shown while it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aegis_policy.policy import ObservationError

MAX_PROMPT_TOKENS = 256
"""Of an instruction or a question: each costs time and memory, of all that share its pass."""
MAX_ANSWER_TOKENS = 32
UNFINISHED = "\ufffd"
"""What a character decodes to of which only the first bytes have come: Gemma spells rare ones byte by byte."""


def check_prompt(text: str, tokens: int) -> None:
    """Raise ObservationError if `text` makes more tokens than a prompt may have."""
    if tokens > MAX_PROMPT_TOKENS:
        begun = text if len(text) <= 40 else f"{text[:40]}..."
        raise ObservationError(f"prompt {begun!r}: {tokens} tokens, at most {MAX_PROMPT_TOKENS}; say it in fewer words")


class Cut(str):
    """The last piece of an answer that may be no longer: its token MAX_ANSWER_TOKENS still said something."""

    __slots__ = ()


def spell(tokens: Iterable[int], text: Callable[[list[int]], str]) -> Iterator[str]:
    """Pieces that join to `text` of all tokens, each as soon as its last character is whole; a `Cut` if it is one."""
    ids: list[int] = []
    said = whole = ""
    for token in tokens:
        ids.append(token)
        whole = text(ids)
        if whole != said and not whole.endswith(UNFINISHED):
            yield _piece(whole[len(said) :], len(ids))
            said = whole
    if whole != said:
        yield _piece(whole[len(said) :], len(ids))


def _piece(text: str, tokens: int) -> str:
    return Cut(text) if tokens == MAX_ANSWER_TOKENS else text
