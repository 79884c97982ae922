"""ThreadPool: what is different with threads. What all pools have in common is in test_pool.py."""

from __future__ import annotations

import concurrent.futures
import threading
import warnings
from typing import Any

import pytest

from helpers import LIMIT, until
from processing.errors import InitializerFailed
from processing.pool import ThreadPool


def test_nothing_is_pickled() -> None:
    with ThreadPool(2) as pool:
        thing = threading.Lock()
        assert pool.apply(lambda x: x, (thing,)) is thing
        assert pool.map(lambda x: x, [thing])[0] is thing
    pool.join()


def test_calls_run_in_threads_of_this_process() -> None:
    barrier = threading.Barrier(3)

    def meet() -> str:
        barrier.wait(LIMIT)
        return threading.current_thread().name

    with ThreadPool(3) as pool:
        names = {result.get(LIMIT) for result in [pool.apply_async(meet) for _ in range(3)]}
        assert len(names) == 3 and all(name.startswith("PoolWorker-") for name in names)
    pool.join()


def test_initializer_runs_in_each_thread() -> None:
    seen: list[Any] = []
    with ThreadPool(2, seen.append, ["x"]) as pool:
        until(lambda: seen == ["x", "x"])
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


def test_a_failing_initializer_stops_after_some_tries() -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise KeyError("initializer")

    with ThreadPool(1, fail) as pool:
        with pytest.raises(InitializerFailed, match="KeyError"):
            pool.apply(abs, (1,))
        assert len(tries) == 3
    pool.join()


def test_a_thread_has_no_timeout() -> None:
    with ThreadPool(1) as pool:
        for call in (pool.apply, pool.map):
            with pytest.raises(ValueError, match="a thread cannot be stopped"):
                call(abs, [1], timeout=1)
    pool.join()


def test_only_what_has_not_begun_is_cancelled() -> None:
    gate, begun = threading.Event(), threading.Event()

    def block() -> int:
        begun.set()
        assert gate.wait(LIMIT)
        return 1

    with ThreadPool(1) as pool:
        running = pool.apply_async(block)
        queued = pool.apply_async(abs, (1,))
        future = pool.submit(abs, 1)
        assert begun.wait(LIMIT)
        assert not running.cancel() and not running.cancelled()
        assert queued.cancel() and future.cancel()
        gate.set()
        assert running.get(LIMIT) == 1
        with pytest.raises(concurrent.futures.CancelledError):
            queued.get(LIMIT)
        assert pool.apply(abs, (-2,)) == 2
    pool.join()


def test_exceptions_are_those_very_objects() -> None:
    error = KeyError("x")

    def fail() -> None:
        raise error

    with ThreadPool(1) as pool:
        with pytest.raises(KeyError) as caught:
            pool.apply(fail)
        assert caught.value is error and error.__cause__ is None
        with pytest.raises(SystemExit):  # ends neither the thread nor the caller's wait
            pool.apply(exit)
        assert pool.apply(abs, (-2,)) == 2
    pool.join()


def test_broadcast_reaches_every_thread_once() -> None:
    with ThreadPool(4) as pool:
        for _ in range(20):
            assert len(set(pool.broadcast(threading.get_ident))) == 4
    pool.join()


def test_resize() -> None:
    with ThreadPool(1) as pool:
        pool.resize(3)
        assert len(set(pool.broadcast(threading.get_ident))) == 3
        pool.resize(1)
        until(lambda: sum(worker.is_alive() for worker in pool._pool) == 1)
        assert pool.map(abs, range(10)) == list(range(10))
        with pytest.raises(ValueError):
            pool.resize(0)
    pool.join()


def test_statistics() -> None:
    with ThreadPool(2) as pool:
        pool.map(abs, range(100))
        facts = pool.statistics()
        assert facts.processes == 2 and facts.calls == 100 and facts.pending == 0 and facts.state == "RUN"
        assert len(facts.workers) == 2
    pool.join()


def test_collected_unclosed() -> None:
    pool: Any = ThreadPool(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
    assert [str(warning.message)[:42] for warning in caught] == ["unclosed running multiprocessing pool <pro"]
