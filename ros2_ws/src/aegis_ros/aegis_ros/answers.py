"""One policy for two: who acts goes first, and who answers fits in between the words.

A policy of this process is one caller's at a time (`TorchPolicy` says so). An answer is made word by word, so it needs
the policy only for one word at a time, and waits for the next while an action is wanted. No second copy of a large
model is needed; an action waits for one word at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Condition

import numpy as np

from aegis_policy import Policy


class Turns:
    """A lock for two kinds of callers, one of which goes first.

    Args:
        needed: False for a policy that serves any number at once, as a server does: it has its own order, and an action
            that waited here for a word would wait for whoever else is served as well.
    """

    def __init__(self, needed: bool = True) -> None:
        self._needed = needed
        self._condition = Condition()
        self._taken, self._urgent = False, 0

    @contextmanager
    def first(self) -> Iterator[None]:
        """Before all who wait for `between`."""
        if not self._needed:
            yield
            return
        with self._condition:
            self._urgent += 1
            self._condition.wait_for(lambda: not self._taken)
            self._urgent -= 1
            self._taken = True
        with self._given_back():
            yield

    @contextmanager
    def between(self) -> Iterator[None]:
        """When nobody wants to be first."""
        if not self._needed:
            yield
            return
        with self._condition:
            self._condition.wait_for(lambda: not self._taken and not self._urgent)
            self._taken = True
        with self._given_back():
            yield

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._condition:
                self._taken = False
                self._condition.notify_all()


def answer(
    policy: Policy,
    turns: Turns,
    images: Mapping[str, np.ndarray],
    question: str,
    said: Callable[[str], bool],
) -> tuple[str, bool]:
    """Ask, letting actions go first.

    Args:
        said: told everything so far after each piece; says whether to go on.

    Returns:
        The answer and whether it is whole.
    """
    text = ""
    with turns.between():
        pieces = policy.ask(images, question)
    with closing(pieces):  # type: ignore[type-var]  # policies' iterators are generators, which end when closed
        while True:
            with turns.between():
                piece = next(pieces, None)
            if piece is None:
                return text, True
            text += piece
            if not said(text):
                return text, False
