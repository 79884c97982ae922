"""Barrier: everybody or nobody."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Cells, Flag, child, children, ended, until


def test_attributes() -> None:
    barrier = processing.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def test_a_party_of_one_never_waits() -> None:
    calls: list[int] = []
    barrier = processing.Barrier(1, action=lambda: calls.append(1))
    for _ in range(3):
        assert barrier.wait(0) == 0
    assert calls == [1, 1, 1]


def in_threads(count: int, action: Any) -> list[Any]:
    """What `action()` returned or raised in so many threads."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    return results


def test_each_gets_a_number_of_its_own() -> None:
    barrier = processing.Barrier(5)
    for _ in range(20):
        assert sorted(in_threads(5, lambda: barrier.wait(LIMIT))) == [0, 1, 2, 3, 4]
    assert barrier.n_waiting == 0


def meet(number: int, barrier: Any, cells: Cells, rounds: int) -> None:
    for turn in range(1, rounds + 1):
        cells[number] = turn
        barrier.wait(LIMIT)
        # All have come to this round, and nobody is further than the next.
        for other in range(3):
            assert turn <= cells[other] <= turn + 1


def test_nobody_passes_alone() -> None:
    barrier = processing.Barrier(3)
    with children(processing, 3, meet, barrier, Cells(3), 500) as processes:
        ended(*processes)
    assert not barrier.broken


def meet_and_tell(number: int, barrier: Any, queue: Any, rounds: int) -> None:
    for _ in range(rounds):
        queue.put(barrier.wait(LIMIT))


def test_between_processes(start_method: Any) -> None:
    barrier = start_method.Barrier(3)
    queue = start_method.Queue()
    with children(start_method, 2, meet_and_tell, barrier, queue, 10) as processes:
        for _ in range(10):
            numbers = [barrier.wait(LIMIT), queue.get(timeout=LIMIT), queue.get(timeout=LIMIT)]
            assert all(0 <= number <= 2 for number in numbers)
        ended(*processes)
    assert queue.empty()


def test_the_action_is_called_once_by_one_of_them() -> None:
    calls: list[str] = []
    barrier = processing.Barrier(3, lambda: calls.append(threading.current_thread().name), LIMIT)
    for turn in range(1, 11):
        in_threads(3, barrier.wait)
        assert len(calls) == turn


def test_an_action_that_fails_breaks_the_barrier() -> None:
    def fail() -> None:
        raise ZeroDivisionError("no")

    barrier = processing.Barrier(3, action=fail)
    results = in_threads(3, lambda: barrier.wait(LIMIT))
    kinds = sorted(type(result).__name__ for result in results)
    assert kinds == ["BrokenBarrierError", "BrokenBarrierError", "ZeroDivisionError"]
    assert barrier.broken


def test_a_timeout_breaks_it_for_all() -> None:
    barrier = processing.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(SHORT)
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(LIMIT)
    barrier.reset()
    assert not barrier.broken
    assert sorted(in_threads(2, lambda: barrier.wait(LIMIT))) == [0, 1]


def test_the_constructors_timeout_is_the_default() -> None:
    barrier = processing.Barrier(2, None, SHORT)
    with pytest.raises(processing.BrokenBarrierError):
        barrier.wait()


def expect_broken(barrier: Any, asking: Flag, outcome: Flag) -> None:
    asking.say()
    try:
        barrier.wait(LIMIT)
    except processing.BrokenBarrierError:
        outcome.say(1)
    else:
        outcome.say(2)


@pytest.mark.parametrize("action", ["abort", "reset"])
def test_abort_and_reset_send_the_waiting_away(action: str) -> None:
    barrier = processing.Barrier(3)
    asking, outcome = Flag(), Flag()
    with child(processing, expect_broken, barrier, asking, outcome) as process:
        asking.hear()
        until(lambda: barrier.n_waiting == 1)
        getattr(barrier, action)()
        assert outcome.hear() == 1
        ended(process)
    assert barrier.broken is (action == "abort")
    assert barrier.n_waiting == 0
    barrier.reset()
    assert sorted(in_threads(3, lambda: barrier.wait(LIMIT))) == [0, 1, 2]


def test_abort_lasts_until_reset() -> None:
    barrier = processing.Barrier(1)
    barrier.abort()
    for _ in range(2):
        with pytest.raises(processing.BrokenBarrierError):
            barrier.wait(LIMIT)
    barrier.reset()
    assert barrier.wait(LIMIT) == 0


def test_repr() -> None:
    assert repr(processing.Barrier(2)).startswith("<Barrier")
    assert "'start'" in repr(processing.Barrier(2, name="start"))
