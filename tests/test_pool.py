"""What every pool promises: the same tests for each start method, and for threads where it makes sense.

Calls meet through files in a folder of the test (`mark`, `until_marked`), never by sleeping.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import operator
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
import processing.errors
from helpers import LIMIT, take_seconds, until
from processing import _memory
from processing.errors import InitializerFailed, RemoteError, TaskTimeout, WorkerDied
from processing.pool import MaybeEncodingError, Pool, ThreadPool

METHODS = ["fork", "forkserver", "spawn"] if importlib.util.find_spec("processing.engine") else []

Make = Callable[..., Any]


def _maker(kind: str) -> Iterator[Make]:
    made: list[Any] = []

    def make(processes: int = 2, *args: Any, **options: Any) -> Any:
        if kind == "threads":
            pool: Any = ThreadPool(processes, *args, **options)
        else:
            pool = Pool(processes, *args, context=processing.get_context(kind), **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture(params=[*METHODS, "threads"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes pools, and ends them."""
    yield from _maker(request.param)


@pytest.fixture(params=METHODS)
def make_processes(request: pytest.FixtureRequest) -> Iterator[Make]:
    """The same, of processes only."""
    yield from _maker(request.param)


# ---- What calls do --------------------------------------------------------------------------------------------------


def square(x: int = 0) -> int:
    return x * x


def fail(x: object) -> None:
    raise KeyError(x)  # a comment that the remote traceback shows


def fail_at(x: int, bad: int = 3) -> int:
    if x == bad:
        raise KeyError(x)
    return x


def mark(folder: Path, name: str) -> int:
    """Says that it has come so far, and who it is."""
    path = folder / f".{name}.{os.getpid()}"
    path.write_text(str(os.getpid()))
    path.rename(folder / name)
    return os.getpid()


def until_marked(folder: Path, name: str) -> int:
    until((folder / name).exists)
    return int((folder / name).read_text())


def mark_and_wait(folder: Path, name: str, other: str) -> int:
    mark(folder, name)
    return until_marked(folder, other)


def kill_self(x: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_self_at(x: int, bad: int) -> int:
    if x == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def kill_self_at_first(folder: Path) -> str:
    if not (folder / "first").exists():
        mark(folder, "first")
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def exit_with(code: int) -> None:
    os._exit(code)


def unpicklable_result() -> Any:
    return lambda: threading.Lock(), threading.Lock()


class Odd(Exception):
    """Its pickle cannot be read."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} and {second}")


def raise_odd() -> None:
    raise Odd(1, 2)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


def fail_to_start() -> None:
    raise KeyError("in the initializer")


STATE: list[object] = []


def remember(value: object) -> None:
    STATE.append(value)


def recall() -> list[object]:
    return STATE


# ---- Calls and maps -------------------------------------------------------------------------------------------------


def test_apply(make: Make) -> None:
    pool = make()
    assert pool.apply(square, (5,)) == 25
    assert pool.apply(square, (), {"x": 3}) == 9
    assert pool.apply_async(square, [4]).get(LIMIT) == 16


def test_maps(make: Make) -> None:
    pool = make()
    for count in (0, 1, 7, 1000):
        expected = [square(x) for x in range(count)]
        assert pool.map(square, range(count)) == expected
        assert pool.map(square, iter(range(count)), chunksize=3) == expected
        assert pool.map_async(square, range(count)).get(LIMIT) == expected
        assert list(pool.imap(square, range(count))) == expected
        assert list(pool.imap(square, iter(range(count)), chunksize=3)) == expected
        assert sorted(pool.imap_unordered(square, range(count))) == expected
        pairs = [(x, 2) for x in range(count)]
        assert pool.starmap(operator.mul, pairs) == [2 * x for x in range(count)]
        assert pool.starmap_async(operator.mul, pairs).get(LIMIT) == [2 * x for x in range(count)]


def test_many_small_calls(make: Make) -> None:
    pool = make()
    results = [pool.apply_async(square, (x,)) for x in range(3000)]
    assert [result.get(LIMIT) for result in results] == [x * x for x in range(3000)]
    assert list(pool.imap(square, range(30_000))) == [x * x for x in range(30_000)]
    assert pool.map(square, range(30_000)) == [x * x for x in range(30_000)]


def test_large_arguments_and_results(make: Make) -> None:
    pool = make()
    items = [bytes([x]) * (1 << 20) for x in range(20)]
    assert pool.map(bytes.upper, items) == items
    assert list(pool.imap(bytes.upper, items)) == items


def test_failures(make: Make) -> None:
    pool = make()
    with pytest.raises(KeyError, match="5"):
        pool.apply(fail, (5,))
    with pytest.raises(KeyError, match="3"):
        pool.map(fail_at, range(10))
    iterator = pool.imap(fail_at, range(6))
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(iterator)
    assert list(iterator) == [4, 5]


def test_callbacks(make: Make) -> None:
    pool = make()
    seen: list[Any] = []
    pool.apply_async(square, (3,), callback=seen.append).wait(LIMIT)
    pool.map_async(square, [1, 2], callback=seen.append).wait(LIMIT)
    pool.apply_async(fail, (3,), callback=seen.append, error_callback=seen.append).wait(LIMIT)
    assert seen[:2] == [9, [1, 4]] and isinstance(seen[2], KeyError)


def test_imap_next_with_timeout(make: Make, tmp_path: Path) -> None:
    pool = make(1)
    iterator = pool.imap(mark_and_wait_star, [(tmp_path, "begun", "go")])
    until_marked(tmp_path, "begun")
    with pytest.raises(processing.TimeoutError):
        iterator.next(timeout=0.01)
    mark(tmp_path, "go")
    assert iterator.next(timeout=LIMIT) == os.getpid()


def mark_and_wait_star(args: Any) -> int:
    return mark_and_wait(*args)


def test_initializer(make: Make) -> None:
    STATE.clear()
    pool = make(1, remember, ("x",))
    assert pool.apply(recall) == ["x"]


def test_broadcast_reaches_every_worker_once(make_processes: Make) -> None:
    pool = make_processes(3)
    until(lambda: len(pool.broadcast(os.getpid)) == 3)
    assert len(set(pool.broadcast(os.getpid))) == 3


def test_futures_and_asyncio(make: Make) -> None:
    pool = make()
    future = pool.submit(square, 5)
    assert isinstance(future, concurrent.futures.Future) and future.result(LIMIT) == 25
    assert isinstance(pool.submit(fail, 1).exception(LIMIT), KeyError)
    done = concurrent.futures.as_completed([pool.submit(square, x) for x in range(20)], LIMIT)
    assert sorted(future.result() for future in done) == [x * x for x in range(20)]

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        return [await pool.apply_async(square, (3,)), await loop.run_in_executor(pool, square, 4)]

    assert asyncio.run(main()) == [9, 16]


# ---- The end of a pool ----------------------------------------------------------------------------------------------


def test_close_and_join_run_everything(make: Make) -> None:
    pool = make()
    results = [pool.apply_async(square, (x,)) for x in range(100)]
    mapped = pool.map_async(square, range(20_000))
    iterator = pool.imap(square, iter(range(5000)))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    for call in (pool.apply, pool.map, pool.imap, pool.submit):
        with pytest.raises(ValueError, match="not running"):
            call(square, [1])
    assert pool.join()
    assert [result.get(0) for result in results] == [x * x for x in range(100)]
    assert mapped.get(0) == [x * x for x in range(20_000)]
    assert list(iterator) == [x * x for x in range(5000)]


def test_context_manager_terminates(make: Make) -> None:
    with make() as pool:
        assert pool.map(square, [1, 2]) == [1, 4]
    pool.join()
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [1])
    with pytest.raises(ValueError), pool:
        pass


def test_a_pool_does_not_pickle(make: Make) -> None:
    pool = make(1)
    with pytest.raises(NotImplementedError, match="cannot be passed"):
        pickle.dumps(pool)
    assert repr(pool).endswith("state=RUN pool_size=1>")


def test_terminate_does_not_wait(make_processes: Make) -> None:
    pool = make_processes(2)
    result = pool.map_async(time.sleep, [300] * 10_000, chunksize=1)
    seconds, _ = take_seconds(lambda: (pool.terminate(), pool.join()))
    assert seconds < 10
    with pytest.raises(concurrent.futures.CancelledError):
        result.get(0)


@pytest.mark.once
def test_maxtasksperchild(make_processes: Make) -> None:
    pool = make_processes(2, maxtasksperchild=5)
    pids = pool.map(os_getpid, range(50))
    assert max(pids.count(pid) for pid in set(pids)) == 5
    assert 10 <= len(set(pids)) <= 11  # the last two may share the rest
    results = [pool.apply_async(square, (x,)) for x in range(30)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == [x * x for x in range(30)]


def os_getpid(x: object) -> int:
    return os.getpid()


# ---- Failure (users.md 1, 6, 8, 24) ---------------------------------------------------------------------------------


def test_remote_traceback(make_processes: Make) -> None:
    pool = make_processes(1)
    with pytest.raises(KeyError) as caught:
        pool.apply(fail, (5,))
    assert "# a comment that the remote traceback shows" in str(caught.value.__cause__)


def test_a_killed_worker_fails_exactly_its_call(make_processes: Make) -> None:
    """users.md 1: the pool hangs for ever when a worker is killed."""
    pool = make_processes(2)
    others = [pool.apply_async(square, (x,)) for x in range(50)]
    lost = pool.apply_async(kill_self, (17,))
    others += [pool.apply_async(square, (x,)) for x in range(50)]
    with pytest.raises(WorkerDied, match=r"SIGKILL.*kill_self\(17\)") as caught:
        lost.get(LIMIT)
    assert (caught.value.signal, caught.value.exitcode, caught.value.attempts) == (signal.SIGKILL, None, 1)
    assert [result.get(LIMIT) for result in others] == [x * x for x in range(50)] * 2
    assert pool.map(square, range(100)) == [x * x for x in range(100)]


def test_a_killed_worker_in_a_map(make_processes: Make) -> None:
    """Blame per call, order kept, although many calls travel in one batch."""
    pool = make_processes(2)
    pairs = [(x, 777) for x in range(2000)]
    with pytest.raises(WorkerDied) as caught:
        pool.starmap(kill_self_at, pairs)
    assert caught.value.index == 777
    values = []
    iterator = pool.imap(kill_at_777, range(2000))
    while True:
        try:
            values.append(next(iterator))
        except WorkerDied as error:
            assert error.index == 777
            values.append(777)
        except StopIteration:
            break
    assert values == list(range(2000))


def kill_at_777(x: int) -> int:
    return kill_self_at(x, 777)


def test_exit_code_of_a_worker_that_left(make_processes: Make) -> None:
    with pytest.raises(WorkerDied, match="exit code 7") as caught:
        make_processes(1).apply(exit_with, (7,))
    assert (caught.value.signal, caught.value.exitcode) == (None, 7)


def test_retries(make_processes: Make, tmp_path: Path) -> None:
    """users.md 6: opt-in retry; a call that kills every worker is set aside."""
    pool = make_processes(2)
    assert pool.apply(kill_self_at_first, (tmp_path,), retries=1) == "second"
    with pytest.raises(WorkerDied) as caught:
        pool.apply(kill_self, retries=2)
    assert caught.value.attempts == 3
    assert pool.apply(square, (2,)) == 4


def test_a_failing_initializer_is_reported(make_processes: Make) -> None:
    """users.md 24: a failing initializer respawns for ever."""
    pool = make_processes(2, fail_to_start)
    with pytest.raises(InitializerFailed, match="in the initializer") as caught:
        pool.apply(square, (1,))
    assert "fail_to_start" in caught.value.traceback


def test_what_cannot_be_pickled(make_processes: Make) -> None:
    """users.md 8: an unpicklable exception or result hangs the caller."""
    pool = make_processes(2)
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        pool.apply_async(square, (Unpicklable(),))
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        pool.map(square, [Unpicklable()] * 10)
    for _ in range(20):
        with pytest.raises(MaybeEncodingError) as caught:
            pool.apply(unpicklable_result)
        assert caught.value.exc and caught.value.value
    with pytest.raises(RemoteError, match="1 and 2") as odd:
        pool.apply(raise_odd)
    assert "raise_odd" in odd.value.traceback


# ---- Control (users.md 7) -------------------------------------------------------------------------------------------


def test_cancel_stops_a_running_call(make_processes: Make, tmp_path: Path, is_running: Any) -> None:
    pool = make_processes(2)
    running = pool.apply_async(mark_and_wait, (tmp_path, "begun", "never"))
    other = pool.apply_async(mark_and_wait, (tmp_path, "other", "go"))
    pid = until_marked(tmp_path, "begun")
    bystander = until_marked(tmp_path, "other")
    assert running.cancel() and running.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        running.get(LIMIT)
    until(lambda: not is_running(pid))
    assert is_running(bystander)
    mark(tmp_path, "go")
    assert other.get(LIMIT) == os.getpid()
    assert pool.map(square, range(10)) == [x * x for x in range(10)]


def test_cancel_of_queued_calls(make: Make, tmp_path: Path) -> None:
    pool = make(1)
    running = pool.apply_async(mark_and_wait, (tmp_path, "begun", "go"))
    until_marked(tmp_path, "begun")
    queued = pool.apply_async(mark, (tmp_path, "queued"))
    assert queued.cancel()
    mark(tmp_path, "go")
    running.get(LIMIT)
    pool.close()
    pool.join()
    assert not (tmp_path / "queued").exists()


def test_timeout_stops_the_call_that_took_too_long(make_processes: Make, tmp_path: Path) -> None:
    pool = make_processes(2)
    with pytest.raises(TaskTimeout, match=r"timeout of 0\.2 s"):
        pool.apply(time.sleep, (300,), timeout=0.2)
    assert pool.map(square, range(100), timeout=60) == [x * x for x in range(100)]


def test_resize(make: Make) -> None:
    pool = make(1)
    pool.resize(3)
    until(lambda: sum(worker.is_alive() for worker in pool._pool) == 3)
    pool.resize(1)
    until(lambda: sum(worker.is_alive() for worker in pool._pool) == 1)
    assert pool.map(square, range(10)) == [x * x for x in range(10)]


def test_statistics(make: Make) -> None:
    pool = make(2)
    pool.map(square, range(100))
    until(lambda: pool.statistics().calls == 100)
    facts = pool.statistics()
    assert facts.processes == 2 and facts.state == "RUN" and facts.pending == 0


# ---- ProcessPoolExecutor --------------------------------------------------------------------------------------------


def test_what_the_last_call_was_given_is_let_go(make_processes: Make) -> None:
    shared = processing.share(b"given")
    pool = make_processes(1)
    assert pool.apply(bytes, (shared,)) == b"given"
    pool.close()
    pool.join()
    until(lambda: _memory.holders(shared) == 1)


@pytest.fixture(params=METHODS)
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    from processing.executor import ProcessPoolExecutor

    with ProcessPoolExecutor(2, processing.get_context(request.param)) as made:
        yield made


def test_executor(executor: Any) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor.submit(square, 3).result(LIMIT) == 9
    assert list(executor.map(operator.mul, range(100), range(100), timeout=LIMIT)) == [
        x * x for x in range(100)
    ]
    with pytest.raises(KeyError):
        list(executor.map(fail_at, range(10)))
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)


def test_executor_heals_itself(executor: Any) -> None:
    """users.md 6: one dead worker breaks the executor for good."""
    with pytest.raises(WorkerDied):
        executor.submit(kill_self).result(LIMIT)
    assert executor.submit(square, 3).result(LIMIT) == 9


def test_executor_cancels_what_has_not_begun_and_stops_what_runs(executor: Any, tmp_path: Path) -> None:
    futures = [executor.submit(mark_and_wait, tmp_path, f"begun{number}", "never") for number in range(2)]
    queued = executor.submit(square, 1)
    for number, future in enumerate(futures):
        until_marked(tmp_path, f"begun{number}")
        assert future.running() and not future.cancel()
    assert not queued.running() and queued.cancel()
    for future in futures:
        assert future.stop() and future.cancelled()
    assert executor.submit(square, 3).result(LIMIT) == 9


def test_executor_map_times_out(executor: Any) -> None:
    results = executor.map(time.sleep, [0, 300], timeout=1)
    assert next(results) is None
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)


def test_executor_with_a_failing_initializer() -> None:
    if not METHODS:
        pytest.skip("needs ProcessEngine")
    from concurrent.futures.process import BrokenProcessPool

    from processing.executor import ProcessPoolExecutor

    with ProcessPoolExecutor(1, initializer=fail_to_start) as executor:
        with pytest.raises(BrokenProcessPool, match="in the initializer"):
            executor.submit(square, 1).result(LIMIT)
        with pytest.raises(BrokenProcessPool):
            executor.submit(square, 1)


@pytest.mark.parametrize("options", [{"max_workers": 0}, {"max_tasks_per_child": 0}])
def test_executor_arguments(options: dict[str, int]) -> None:
    from processing.executor import ProcessPoolExecutor

    with pytest.raises(ValueError):
        ProcessPoolExecutor(**options)  # type: ignore[arg-type]
