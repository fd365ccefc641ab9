"""An action waits for one word of an answer at most, and an answer for all actions that want to go."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

from aegis_ros.answers import Turns, answer

PATIENCE = 30.0  # s, before a test says that something hangs


class Speaker:
    """Says its words one by one; `before` is called before each, `closed` is set when nobody listens any more."""

    def __init__(self, *words: str, before: Callable[[str], Any] = lambda word: None) -> None:
        self.words, self.before, self.closed = words, before, Event()

    def ask(self, images: object, question: str) -> Iterator[str]:
        try:
            for word in self.words:
                self.before(word)
                yield word
        finally:
            self.closed.set()


def in_background(work: Callable[[], Any]) -> Thread:
    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread


def finish(*threads: Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "hangs"


def wait_until_wanted(turns: Turns) -> None:
    """Until someone waits to be first."""
    until = time.monotonic() + PATIENCE
    while not turns._urgent:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_an_answer_grows_and_is_whole() -> None:
    heard: list[str] = []
    found = answer(Speaker("a", " red", " cube"), Turns(), {}, "what?", lambda text: not heard.append(text))
    assert found == ("a red cube", True) and heard == ["a", "a red", "a red cube"]


def test_an_answer_that_nobody_wants_any_more_ends_and_lets_go_of_the_policy() -> None:
    speaker = Speaker("a", " red", " cube")
    assert answer(speaker, Turns(), {}, "what?", lambda text: "red" not in text) == ("a red", False)
    assert speaker.closed.is_set()


def test_an_action_waits_for_the_word_that_is_being_made_and_goes_before_the_next() -> None:
    turns, order = Turns(), list[str]()
    speaking, go_on = Event(), Event()

    def say(word: str) -> None:
        order.append(word)
        if word == "a":
            speaking.set()
            assert go_on.wait(PATIENCE)

    answering = in_background(lambda: answer(Speaker("a", "b", "c", before=say), turns, {}, "?", lambda text: True))
    assert speaking.wait(PATIENCE)

    def act() -> None:
        with turns.first():
            order.append("act")

    acting = in_background(act)
    wait_until_wanted(turns)
    assert order == ["a"]
    go_on.set()
    finish(acting, answering)
    assert order == ["a", "act", "b", "c"]


def test_who_fails_gives_his_turn_back() -> None:
    turns = Turns()
    for turn in (turns.first, turns.between):
        with pytest.raises(ConnectionError), turn():
            raise ConnectionError

    def fail(word: str) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        answer(Speaker("a", before=fail), turns, {}, "?", lambda text: True)
    done = Event()

    def act() -> None:
        with turns.first():
            done.set()

    finish(in_background(act))
    assert done.is_set()


def test_a_policy_that_serves_several_at_once_is_asked_while_it_answers() -> None:
    turns, acted = Turns(needed=False), Event()

    def act(word: str) -> None:
        def first() -> None:
            with turns.first():
                acted.set()

        finish(in_background(first))

    assert answer(Speaker("a", before=act), turns, {}, "what?", lambda text: True) == ("a", True)
    assert acted.is_set()
