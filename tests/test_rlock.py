"""RLock: taken again by the thread that has it, by nobody else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Cells, Flag, child, children, ended, take_seconds, until_asleep


def in_thread(action: Any) -> Any:
    """What `action()` returns or raises in another thread."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(action())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    return result[0]


def test_it_is_free_when_released_as_often_as_acquired() -> None:
    lock = processing.RLock()
    for _ in range(5):
        assert lock.acquire() is True
    for _ in range(5):
        assert in_thread(lambda: lock.acquire(False)) is False
        lock.release()
    assert in_thread(lambda: lock.acquire(False)) is True


def test_release_by_one_who_does_not_have_it() -> None:
    lock = processing.RLock()
    with pytest.raises(AssertionError):
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(AssertionError):
        lock.release()


def test_release_by_another_thread() -> None:
    lock = processing.RLock()
    with lock:
        assert isinstance(in_thread(lock.release), AssertionError)
        assert in_thread(lambda: lock.acquire(timeout=SHORT)) is False


def try_to_use(lock: Any) -> None:
    with pytest.raises(AssertionError):
        lock.release()
    assert lock.acquire(timeout=SHORT) is False


def test_another_process_is_not_the_owner(start_method: Any) -> None:
    """Not even a fork of the owner, whose thread has the same number."""
    lock = start_method.RLock()
    with lock:
        with child(start_method, try_to_use, lock) as process:
            ended(process)


def test_nested_with_and_exceptions() -> None:
    lock = processing.RLock()
    with pytest.raises(ZeroDivisionError):
        with lock:
            with lock:
                1 / 0  # noqa: B018
    assert in_thread(lambda: lock.acquire(False) and lock.release()) is None


def test_timeout() -> None:
    lock = processing.RLock()
    lock.acquire()
    seconds, taken = in_thread(lambda: take_seconds(lambda: lock.acquire(True, 0.1)))
    assert taken is False
    assert 0.09 <= seconds < 5
    lock.release()


def take_twice(lock: Any, asking: Flag, taken: Flag) -> None:
    asking.say()
    with lock:
        assert lock.acquire(timeout=LIMIT)
        lock.release()
        taken.say()


def test_a_waiter_wakes_only_on_the_last_release() -> None:
    lock = processing.RLock()
    lock.acquire()
    lock.acquire()
    asking, taken = Flag(), Flag()
    with child(processing, take_twice, lock, asking, taken) as process:
        asking.hear()
        until_asleep(process.pid)
        lock.release()
        until_asleep(process.pid)
        assert not taken.was_said()
        lock.release()
        taken.hear()
        ended(process)
    assert lock.acquire(timeout=LIMIT)
    lock.release()


def count_up(number: int, lock: Any, path: Path, rounds: int) -> None:
    cells = Cells(1, path)
    for _ in range(rounds):
        with lock:
            before = cells[0]
            with lock:
                cells[0] = before + 1


def test_exclusion_between_processes(start_method: Any, tmp_path: Path) -> None:
    path = tmp_path / "counter"
    cells = Cells(1, path)
    with children(start_method, 3, count_up, start_method.RLock(), path, 2000) as processes:
        ended(*processes)
    assert cells[0] == 6000
    cells.close()


def test_exclusion_between_threads() -> None:
    lock = processing.RLock()
    total = [0]

    def work() -> None:
        for _ in range(1000):
            with lock:
                with lock:
                    before = total[0]
                    total[0] = before + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert total == [4000]


def test_repr() -> None:
    lock = processing.RLock(name="tree")
    assert repr(lock).startswith("<RLock(None, 0")
    assert "'tree'" in repr(lock)
    with lock:
        with lock:
            assert repr(lock).startswith("<RLock(MainProcess, 2")
