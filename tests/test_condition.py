"""Condition: nobody notified sleeps on, nobody else wakes."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Cells, Flag, child, children, ended, take_seconds, until, until_asleep

NOT_OWNED = (AssertionError, RuntimeError)


@pytest.fixture(params=["default", "Lock", "RLock"])
def condition(request: pytest.FixtureRequest) -> Any:
    if request.param == "default":
        return processing.Condition()
    return processing.Condition(getattr(processing, request.param)())


def test_without_the_lock(condition: Any) -> None:
    for action in (
        lambda: condition.wait(timeout=0),
        lambda: condition.wait_for(lambda: False, timeout=LIMIT),
        condition.notify,
        condition.notify_all,
    ):
        with pytest.raises(NOT_OWNED):
            action()


def test_release_without_the_lock(condition: Any) -> None:
    with pytest.raises((ValueError, AssertionError)):
        condition.release()


def test_timeout_returns_false_with_the_lock_taken(condition: Any) -> None:
    with condition:
        seconds, notified = take_seconds(lambda: condition.wait(0.1))
        assert notified is False
        assert 0.09 <= seconds < 5
        condition.notify()  # needs the lock
    with condition:
        assert condition.wait(timeout=-1) is False


def test_notify_without_waiters_is_not_remembered(condition: Any) -> None:
    with condition:
        condition.notify()
        condition.notify_all()
        assert condition.wait(SHORT) is False


def test_wait_for(condition: Any) -> None:
    with condition:
        assert condition.wait_for(lambda: "done", timeout=0) == "done"
        answers = iter([0])
        seconds, result = take_seconds(lambda: condition.wait_for(lambda: next(answers, []), timeout=0.1))
        assert result == []  # the last one
        assert 0.09 <= seconds < 5


def wait_and_tell(number: int, condition: Any, ready: Flag, woken: Flag) -> None:
    with condition:
        ready.say(number)
        assert condition.wait(LIMIT) is True
        woken.say(number)


def settled(condition: Any, ready: Flag, count: int) -> list[int]:
    """Waits until so many wait. Each said it with the lock in hand; whoever gets that lock knows that they released
    it, which they do by waiting."""
    numbers = [ready.hear() for _ in range(count)]
    with condition:
        return numbers


def test_wait_gives_the_lock_to_others(condition: Any) -> None:
    ready, woken = Flag(), Flag()
    with child(processing, wait_and_tell, 0, condition, ready, woken) as process:
        settled(condition, ready, 1)
        with condition:
            condition.notify()
            # Notified, but not before the lock is free.
            assert not woken.was_said()
        woken.hear()
        ended(process)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 9])
def test_notify_wakes_so_many(count: int) -> None:
    condition = processing.Condition()
    ready, woken = Flag(), Flag()
    with children(processing, 4, wait_and_tell, condition, ready, woken) as processes:
        settled(condition, ready, 4)
        with condition:
            condition.notify(count)
        seen = {woken.hear() for _ in range(min(count, 4))}
        until(lambda: sum(process.is_alive() for process in processes) == 4 - len(seen))
        for process in processes:
            if process.is_alive():
                until_asleep(process.pid)
        assert not woken.was_said()
        with condition:
            condition.notify_all()
        seen |= {woken.hear() for _ in range(4 - len(seen))}
        assert seen == {0, 1, 2, 3}
        ended(*processes)


def test_the_longest_waiting_is_notified_first() -> None:
    condition = processing.Condition()
    ready, woken = Flag(), Flag()
    with children(processing, 1, wait_and_tell, condition, ready, woken) as first:
        settled(condition, ready, 1)
        with child(processing, wait_and_tell, 1, condition, ready, woken) as second:
            settled(condition, ready, 1)
            for expected in (0, 1):
                with condition:
                    condition.notify()
                assert woken.hear() == expected
            ended(*first, second)


def test_notify_all(condition: Any) -> None:
    ready, woken = Flag(), Flag()
    with children(processing, 5, wait_and_tell, condition, ready, woken) as processes:
        settled(condition, ready, 5)
        with condition:
            condition.notify_all()
        assert {woken.hear() for _ in range(5)} == set(range(5))
        ended(*processes)


def test_more_waiters_than_one_cares_to_count() -> None:
    """Threads and one process: 40 waiters."""
    condition = processing.Condition()
    waiting = 0
    woken: list[int] = []

    def wait(number: int) -> None:
        nonlocal waiting
        with condition:
            waiting += 1
            if condition.wait(LIMIT):
                woken.append(number)

    threads = [threading.Thread(target=wait, args=[number]) for number in range(40)]
    for thread in threads:
        thread.start()
    until(lambda: waiting == 40)
    with condition:
        condition.notify(25)
    until(lambda: len(woken) == 25)
    with condition:
        assert len(woken) == 25
        condition.notify_all()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(woken) == list(range(40))


def wait_nested(condition: Any, ready: Flag, go_on: Flag) -> None:
    with condition:
        with condition:
            ready.say()
            assert condition.wait(LIMIT)
            # All levels are back.
        ready.say()
        go_on.hear()


def test_wait_releases_all_levels_of_an_rlock() -> None:
    condition = processing.Condition(processing.RLock())
    ready, go_on = Flag(), Flag()
    with child(processing, wait_nested, condition, ready, go_on) as process:
        settled(condition, ready, 1)
        with condition:
            condition.notify()
        ready.hear()
        assert condition.acquire(timeout=SHORT) is False
        go_on.say()
        ended(process)
    assert condition.acquire(timeout=LIMIT)
    condition.release()


def answer(condition: Any, cells: Cells, rounds: int) -> None:
    for number in range(rounds):
        with condition:
            assert condition.wait_for(lambda: cells[0] == 2 * number + 1, LIMIT)  # noqa: B023
            cells[0] += 1
            condition.notify()


def test_ping_pong() -> None:
    condition = processing.Condition()
    cells = Cells(1)
    with child(processing, answer, condition, cells, 1000) as process:
        for number in range(1000):
            with condition:
                cells[0] += 1
                condition.notify()
                assert condition.wait_for(lambda: cells[0] == 2 * number + 2, LIMIT)  # noqa: B023
        ended(process)


def wait_once(condition: Any, connection: Any) -> None:
    with condition:
        connection.send("waiting")
        connection.send(condition.wait(LIMIT))


def test_between_processes(start_method: Any) -> None:
    condition = start_method.Condition()
    ours, theirs = start_method.Pipe()
    with child(start_method, wait_once, condition, theirs) as process:
        assert ours.poll(LIMIT)
        assert ours.recv() == "waiting"
        with condition:
            condition.notify()
        assert ours.poll(LIMIT)
        assert ours.recv() is True
        ended(process)


def test_two_conditions_of_one_lock() -> None:
    lock = processing.Lock()
    first, second = processing.Condition(lock), processing.Condition(lock)
    ready, woken = Flag(), Flag()
    with child(processing, wait_and_tell, 1, first, ready, woken) as process:
        settled(first, ready, 1)
        with second:
            second.notify_all()
        until_asleep(process.pid)
        assert not woken.was_said()
        with second:  # the same lock
            first.notify()
        woken.hear()
        ended(process)


def test_a_timeout_does_not_eat_a_notification() -> None:
    """One waiter gives up while another waits: each notification still wakes somebody."""
    condition = processing.Condition()
    ready, woken = Flag(), Flag()
    with child(processing, wait_and_tell, 1, condition, ready, woken) as process:
        settled(condition, ready, 1)
        with condition:
            assert condition.wait(SHORT) is False
            condition.notify()
        assert woken.hear() == 1
        ended(process)


def test_acquire_and_release_are_the_locks() -> None:
    lock = processing.Lock()
    condition = processing.Condition(lock)
    assert condition.acquire() is True
    assert lock.locked()
    assert condition.acquire(False) is False
    condition.release()
    assert not lock.locked()


def test_waiting_burns_no_processor() -> None:
    condition = processing.Condition()
    with condition:
        before = time.process_time()
        assert condition.wait(0.5) is False
        assert time.process_time() - before < 0.2


def test_repr() -> None:
    assert repr(processing.Condition()).startswith("<Condition(")
    assert "'bell'" in repr(processing.Condition(name="bell"))
