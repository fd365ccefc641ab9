"""From the tokens of an answer to the text that is shown while it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

MAX_ANSWER_TOKENS = 32
UNFINISHED = "\ufffd"
"""What a character decodes to of which only the first bytes have come: Gemma spells rare ones byte by byte."""


def spell(tokens: Iterable[int], text: Callable[[list[int]], str]) -> Iterator[str]:
    """Pieces that join to `text` of all tokens, each as soon as its last character is whole."""
    ids: list[int] = []
    said = whole = ""
    for token in tokens:
        ids.append(token)
        whole = text(ids)
        if whole != said and not whole.endswith(UNFINISHED):
            yield whole[len(said) :]
            said = whole
    if whole != said:
        yield whole[len(said) :]
