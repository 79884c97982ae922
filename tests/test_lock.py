"""Lock: exclusion, timeouts, who may release."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Cells, Flag, child, children, ended, take_seconds, until_asleep


def test_acquire_and_release() -> None:
    lock = processing.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(block=False) is False
    lock.release()
    assert lock.acquire(False) is True
    lock.release()


def test_locked() -> None:
    lock = processing.Lock()
    assert lock.locked() is False
    lock.acquire()
    assert lock.locked() is True
    lock.release()
    assert lock.locked() is False


def test_it_is_not_recursive() -> None:
    lock = processing.Lock()
    with lock:
        assert lock.acquire(timeout=SHORT) is False


@pytest.mark.parametrize("count", [0, 1])
def test_release_of_an_unlocked_lock(count: int) -> None:
    lock = processing.Lock()
    for _ in range(count):
        lock.acquire()
        lock.release()
    with pytest.raises(ValueError):
        lock.release()
    assert lock.acquire(timeout=LIMIT)
    lock.release()


def test_timeout_is_in_seconds() -> None:
    lock = processing.Lock()
    lock.acquire()
    seconds, taken = take_seconds(lambda: lock.acquire(True, 0.2))
    assert taken is False
    assert 0.19 <= seconds < 5
    lock.release()


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
def test_timeout_of_zero_or_less_does_not_wait(timeout: float) -> None:
    lock = processing.Lock()
    assert lock.acquire(timeout=timeout) is True
    seconds, taken = take_seconds(lambda: lock.acquire(timeout=timeout))
    assert taken is False
    assert seconds < 1
    lock.release()


def test_with_releases_after_an_exception() -> None:
    lock = processing.Lock()
    with pytest.raises(ZeroDivisionError):
        with lock:
            assert lock.locked()
            1 / 0  # noqa: B018
    assert not lock.locked()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_enter_and_exit_are_methods(kind: str) -> None:
    """They are made by _native itself, for speed: bound, kept, called by hand and by ExitStack."""
    cls = getattr(processing, kind)
    lock = cls()
    enter, leave = lock.__enter__, lock.__exit__
    for _ in range(3):
        assert enter() is True
        assert leave(None, None, None) is None
    assert (enter.__name__, enter.__self__, cls.__exit__.__name__) == ("__enter__", lock, "__exit__")
    assert cls.__enter__(lock) is True
    cls.__exit__(lock, None, None, None)
    with ExitStack() as stack:
        stack.enter_context(lock)
        stack.enter_context(cls())
    for wrong in (
        lambda: cls.__enter__(),
        lambda: cls.__enter__(5),
        lambda: enter(1),
        lambda: enter(block=False),
    ):
        with pytest.raises(TypeError):
            wrong()
    del lock, leave
    assert enter() is True  # a bound method keeps its lock
    enter.__self__.release()
    many = [cls().__enter__ for _ in range(100)]
    assert all(method() for method in many)


def test_with_gives_what_acquire_does() -> None:
    with processing.Lock() as taken:
        assert taken is True


def test_another_thread_may_release() -> None:
    lock = processing.Lock()
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    assert lock.acquire(timeout=LIMIT)
    thread.join()
    lock.release()


def release(lock: Any) -> None:
    lock.release()


def test_another_process_may_release(start_method: Any) -> None:
    lock = start_method.Lock()
    lock.acquire()
    with child(start_method, release, lock) as process:
        assert lock.acquire(timeout=LIMIT)
        ended(process)
    lock.release()


def take_and_tell(lock: Any, asking: Flag, taken: Flag) -> None:
    asking.say()
    assert lock.acquire()
    taken.say()


def test_a_waiter_wakes_on_release() -> None:
    lock = processing.Lock()
    lock.acquire()
    asking, taken = Flag(), Flag()
    with child(processing, take_and_tell, lock, asking, taken) as process:
        asking.hear()
        until_asleep(process.pid)
        assert not taken.was_said()
        lock.release()
        taken.hear()
        ended(process)
    # Its owner ended normally: still locked, and free for anybody to release.
    assert lock.acquire(False) is False
    lock.release()


def test_every_waiter_gets_its_turn() -> None:
    lock = processing.Lock()
    lock.acquire()
    asking, taken = Flag(), Flag()
    with children(processing, 5, take_turn, lock, asking, taken) as processes:
        for _ in processes:
            asking.hear()
        for process in processes:
            until_asleep(process.pid)
        lock.release()
        assert sorted(taken.hear() for _ in processes) == [0, 1, 2, 3, 4]
        ended(*processes)
    assert not lock.locked()


def take_turn(number: int, lock: Any, asking: Flag, taken: Flag) -> None:
    asking.say()
    with lock:
        taken.say(number)


def count_up(number: int, lock: Any, path: Path, rounds: int) -> None:
    cells = Cells(1, path)
    for _ in range(rounds):
        with lock:
            before = cells[0]
            cells[0] = before + 1


def test_exclusion_between_processes(start_method: Any, tmp_path: Path) -> None:
    lock = start_method.Lock()
    path = tmp_path / "counter"
    cells = Cells(1, path)
    with children(start_method, 3, count_up, lock, path, 3000) as processes:
        ended(*processes)
    assert cells[0] == 9000
    cells.close()


def test_exclusion_between_threads() -> None:
    lock = processing.Lock()
    inside = 0
    worst = 0

    def work() -> None:
        nonlocal inside, worst
        for _ in range(2000):
            with lock:
                inside += 1
                worst = max(worst, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert (worst, inside) == (1, 0)
    assert not lock.locked()


def test_a_blocked_thread_does_not_stop_the_others() -> None:
    lock = processing.Lock()
    lock.acquire()
    blocked = threading.Thread(target=lock.acquire)
    blocked.start()
    # Would not get here if the blocked thread kept the interpreter to itself.
    assert sum(range(10_000)) == 49_995_000
    lock.release()
    blocked.join(LIMIT)
    assert not blocked.is_alive()
    lock.release()


def test_repr_tells_the_owner() -> None:
    lock = processing.Lock()
    assert repr(lock).startswith("<Lock(owner=None")
    with lock:
        assert repr(lock).startswith("<Lock(owner=MainProcess")
    assert "'table'" in repr(processing.Lock(name="table"))


def test_repr_of_a_lock_that_another_process_has() -> None:
    lock = processing.Lock()
    taken, go_on = Flag(), Flag()
    with child(processing, hold, lock, taken, go_on) as process:
        taken.hear()
        text = repr(lock)
        go_on.say()
        ended(process)
    assert text.startswith("<Lock(owner=")
    assert not text.startswith("<Lock(owner=None")
    assert not text.startswith("<Lock(owner=MainProcess")


def hold(lock: Any, taken: Flag, go_on: Flag) -> None:
    with lock:
        taken.say()
        go_on.hear()


def test_two_locks_are_two() -> None:
    first, second = processing.Lock(), processing.Lock()
    with first:
        assert second.acquire(False)
        second.release()
