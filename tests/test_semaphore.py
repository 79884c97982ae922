"""Semaphore and BoundedSemaphore: permits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Cells, Flag, child, children, ended, take_seconds, until_asleep

KINDS = ["Semaphore", "BoundedSemaphore"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return getattr(processing, request.param)


def test_permits_are_counted(kind: Any) -> None:
    semaphore = kind(3)
    for left in (2, 1, 0):
        assert semaphore.acquire() is True
        assert semaphore.get_value() == left
    assert semaphore.acquire(False) is False
    assert semaphore.acquire(timeout=SHORT) is False
    assert semaphore.get_value() == 0
    semaphore.release()
    assert semaphore.get_value() == 1
    assert semaphore.acquire(block=False) is True


def test_one_permit_by_default(kind: Any) -> None:
    assert kind().get_value() == 1


def test_no_permit_at_first() -> None:
    semaphore = processing.Semaphore(0)
    assert semaphore.acquire(False) is False
    semaphore.release()
    assert semaphore.acquire(timeout=LIMIT) is True


def test_negative_value(kind: Any) -> None:
    with pytest.raises(ValueError):
        kind(-1)


def test_semaphore_may_exceed_its_initial_value() -> None:
    semaphore = processing.Semaphore(1)
    for _ in range(10):
        semaphore.release()
    assert semaphore.get_value() == 11


@pytest.mark.parametrize("value", [0, 1, 5])
def test_bounded_semaphore_may_not(value: int) -> None:
    semaphore = processing.BoundedSemaphore(value)
    with pytest.raises(ValueError):
        semaphore.release()
    assert semaphore.get_value() == value
    if value:
        semaphore.acquire()
        semaphore.release()
        with pytest.raises(ValueError):
            semaphore.release()


def test_timeout(kind: Any) -> None:
    semaphore = kind(1)
    semaphore.acquire()
    seconds, taken = take_seconds(lambda: semaphore.acquire(True, 0.1))
    assert taken is False
    assert 0.09 <= seconds < 5
    seconds, taken = take_seconds(lambda: semaphore.acquire(timeout=-1))
    assert taken is False
    assert seconds < 1


def test_with(kind: Any) -> None:
    semaphore = kind(2)
    with pytest.raises(ZeroDivisionError):
        with semaphore:
            assert semaphore.get_value() == 1
            1 / 0  # noqa: B018
    assert semaphore.get_value() == 2


def give(semaphore: Any) -> None:
    semaphore.release()


def test_another_process_gives_the_permit(start_method: Any) -> None:
    semaphore = start_method.Semaphore(0)
    with child(start_method, give, semaphore) as process:
        assert semaphore.acquire(timeout=LIMIT)
        ended(process)
    assert semaphore.get_value() == 0


def take(number: int, semaphore: Any, asking: Flag, taken: Flag) -> None:
    asking.say()
    assert semaphore.acquire()
    taken.say(number)


def test_each_release_wakes_one_waiter() -> None:
    semaphore = processing.Semaphore(0)
    asking, taken = Flag(), Flag()
    with children(processing, 3, take, semaphore, asking, taken) as processes:
        for _ in processes:
            asking.hear()
        for process in processes:
            until_asleep(process.pid)
        seen = set()
        for _ in range(3):
            assert not taken.was_said()
            semaphore.release()
            seen.add(taken.hear())
        assert seen == {0, 1, 2}
        ended(*processes)
    assert semaphore.get_value() == 0


def pass_through(number: int, semaphore: Any, lock: Any, path: Path, rounds: int) -> None:
    cells = Cells(2, path)  # how many are inside, and the most there were
    for _ in range(rounds):
        with semaphore:
            with lock:
                cells[0] += 1
                cells[1] = max(cells[1], cells[0])
            with lock:
                cells[0] -= 1


@pytest.mark.parametrize("name", KINDS)
def test_no_more_than_the_permits_allow(name: str, start_method: Any, tmp_path: Path) -> None:
    semaphore = getattr(start_method, name)(2)
    path = tmp_path / "cells"
    cells = Cells(2, path)
    with children(start_method, 4, pass_through, semaphore, start_method.Lock(), path, 500) as processes:
        ended(*processes)
    assert cells[0] == 0
    assert 1 <= cells[1] <= 2
    assert semaphore.get_value() == 2
    cells.close()


def test_bounded_permits_may_be_released_by_another_process() -> None:
    semaphore = processing.BoundedSemaphore(1)
    semaphore.acquire()
    with child(processing, give, semaphore) as process:
        ended(process)
    assert semaphore.get_value() == 1
    with pytest.raises(ValueError):
        semaphore.release()


def test_repr() -> None:
    assert repr(processing.Semaphore(3)).startswith("<Semaphore(value=3")
    assert repr(processing.BoundedSemaphore(3)).startswith("<BoundedSemaphore(value=3, maxvalue=3")
    assert "'slots'" in repr(processing.Semaphore(name="slots"))
    assert "'slots'" in repr(processing.BoundedSemaphore(name="slots"))
