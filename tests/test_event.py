"""Event: a flag to wait for."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, children, ended, take_seconds, until_asleep


def test_set_and_clear() -> None:
    event = processing.Event()
    assert event.is_set() is False
    event.set()
    event.set()
    assert event.is_set() is True
    event.clear()
    event.clear()
    assert event.is_set() is False


def test_wait_tells_whether_it_is_set() -> None:
    event = processing.Event()
    seconds, result = take_seconds(lambda: event.wait(0.1))
    assert result is False
    assert 0.09 <= seconds < 5
    event.set()
    assert event.wait() is True
    assert event.wait(0) is True
    assert event.wait(timeout=SHORT) is True


@pytest.mark.parametrize("timeout", [0, -1])
def test_timeout_of_zero_or_less_does_not_wait(timeout: float) -> None:
    seconds, result = take_seconds(lambda: processing.Event().wait(timeout))
    assert result is False
    assert seconds < 1


def wait_and_tell(number: int, event: Any, asking: Flag, woken: Flag) -> None:
    asking.say()
    assert event.wait(LIMIT) is True
    woken.say(number)


def test_set_wakes_everybody() -> None:
    event = processing.Event()
    asking, woken = Flag(), Flag()
    with children(processing, 5, wait_and_tell, event, asking, woken) as processes:
        for _ in processes:
            asking.hear()
        for process in processes:
            until_asleep(process.pid)
        assert not woken.was_said()
        event.set()
        assert {woken.hear() for _ in range(5)} == set(range(5))
        ended(*processes)


def test_who_waited_is_released_even_if_it_is_cleared_at_once() -> None:
    event = processing.Event()
    asking, woken = Flag(), Flag()
    with children(processing, 3, wait_and_tell, event, asking, woken) as processes:
        for _ in processes:
            asking.hear()
        for process in processes:
            until_asleep(process.pid)
        event.set()
        event.clear()
        assert {woken.hear() for _ in range(3)} == {0, 1, 2}
        ended(*processes)
    assert event.wait(0) is False


def reply(question: Any, answer: Any, rounds: int) -> None:
    for _ in range(rounds):
        assert question.wait(LIMIT)
        question.clear()
        answer.set()


def test_back_and_forth(start_method: Any) -> None:
    question, answer = start_method.Event(), start_method.Event()
    with child(start_method, reply, question, answer, 200) as process:
        for _ in range(200):
            question.set()
            assert answer.wait(LIMIT)
            answer.clear()
        ended(process)


def test_between_threads() -> None:
    event = processing.Event()
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(event.wait(LIMIT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join(LIMIT)
    assert results == [True] * 4


def test_repr_tells_the_state() -> None:
    event = processing.Event(name="go")
    assert repr(event).startswith("<Event")
    assert "'go'" in repr(event)
    assert "unset" in repr(event)
    event.set()
    assert "unset" not in repr(event)
    assert "set" in repr(event)
