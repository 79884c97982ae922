"""The caller's side of a pool with a scripted engine: whatever the order of events, each result gets what is its own.

`Script` takes the place of the workers: the test says which event comes when; nothing depends on time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import pickle
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import processing.errors
import processing.jobs
import processing.pool
from helpers import LIMIT, until
from processing.errors import InitializerFailed, TaskTimeout, WorkerDied
from processing.feeding import SIZE_MAX
from processing.jobs import BROKEN, CANCELLED, DONE, FAILED, LOST, TIMEOUT, WORKER

TimeoutError = processing.errors.TimeoutError
DEAD = {"rank": 3, "pid": 812, "signal": 9, "exitcode": None, "peak_memory": 3_900_000_000, "attempts": 1}


class Script:
    """An engine whose events come from the test. With `answer`, it runs what it is given as soon as it is drained."""

    def __init__(self, processes: int = 2, answer: bool = False) -> None:
        self.processes = processes
        self.answer = answer
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.sent: list[tuple[Any, ...]] = []  # (job, first, func, items, star)
        self.cancelled: list[tuple[int, int | None]] = []
        self.waiting = threading.Event()  # somebody is blocked in drain
        self.drains = 0
        self.ended = False
        self.refuse: Callable[[Any], bool] = lambda item: False
        self.ns = 1000

    def tell(self, kind: int, job: int, first: int, payload: Any, ns: int = 0) -> None:
        self.events.put((kind, job, first, payload, ns))

    def call(self, job: int, func: Any, args: Any, kwds: Any, timeout: float, retries: int) -> None:
        self.sent.append((job, 0, func, [args], True))
        if self.answer:
            self.tell(DONE, job, 0, [func(*args, **kwds)])

    def batch(
        self, job: int, first: int, func: Any, items: list[Any], star: bool, timeout: float, retries: int
    ) -> None:
        for item in items:
            if self.refuse(item):
                raise pickle.PicklingError(f"cannot pickle {item}")
        self.sent.append((job, first, func, list(items), star))
        if self.answer:
            values = [func(*item) if star else func(item) for item in items]
            self.tell(DONE, job, first, values, self.ns * len(items))

    def end_broadcast(self) -> None:
        pass

    def _next(self, timeout: float | None) -> Any:
        """In slices: a signal that comes just before a wait is seen at its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 0.1 if deadline is None else deadline - time.monotonic()
            try:
                return self.events.get(True, max(0.0, min(0.1, left)))
            except queue.Empty:
                if left <= 0:
                    raise

    def drain(self, block: bool, timeout: float | None) -> list[Any]:
        self.drains += 1
        taken = []
        try:
            if block:
                self.waiting.set()
                taken.append(self._next(timeout))
            while True:
                taken.append(self.events.get_nowait())
        except queue.Empty:
            pass
        return taken

    def cancel(self, job: int, index: int | None) -> None:
        self.cancelled.append((job, index))

    def broadcast(self, job: int, func: Any, args: Any, kwds: Any) -> int:
        for rank in range(self.processes):
            self.tell(DONE, job, rank, [func(rank, *args, **kwds)])
        return self.processes

    def wake(self) -> None:
        self.events.put((WORKER, 0, 0, None, 0))

    def resize(self, n: int) -> None:
        self.processes = n

    def close(self) -> None:
        self.ended = True

    terminate = close

    def join(self, timeout: float | None) -> bool:
        return self.ended

    def workers(self) -> list[Any]:
        return []


class ScriptedPool(processing.pool.Pool):
    def __init__(self, script: Script, **options: Any) -> None:
        self.script = script
        super().__init__(script.processes, **options)

    def _make_engine(self, *arguments: Any) -> Any:
        return self.script


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def pool(script: Script) -> Iterator[ScriptedPool]:
    with ScriptedPool(script) as made:
        yield made


@pytest.fixture
def answering() -> Iterator[ScriptedPool]:
    with ScriptedPool(Script(answer=True)) as made:
        yield made


def f(x: Any) -> Any:
    return x


# ---- Single calls ---------------------------------------------------------------------------------------------------


def test_results_may_come_in_any_order(script: Script, pool: ScriptedPool) -> None:
    first, second = pool.apply_async(f, (1,)), pool.apply_async(f, (2,))
    script.tell(DONE, second._job, 0, ["second"])
    script.tell(DONE, first._job, 0, ["first"])
    assert first.get() == "first"
    assert second.ready() and second.get() == "second"
    assert not pool._jobs.pending


def test_the_first_report_of_a_call_wins(script: Script, pool: ScriptedPool) -> None:
    result, last = pool.apply_async(f, (1,)), pool.apply_async(f, (2,))
    script.tell(DONE, result._job, 0, ["once"])
    script.tell(DONE, result._job, 0, ["twice"])
    script.tell(LOST, result._job, 0, DEAD)
    script.tell(DONE, last._job, 0, [None])
    last.get()
    assert result.get() == "once"


def test_get_times_out_and_the_result_is_not_lost(script: Script, pool: ScriptedPool) -> None:
    result = pool.apply_async(f, (1,))
    with pytest.raises(TimeoutError, match=r"f\(1\)"):
        result.get(timeout=0)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    script.tell(DONE, result._job, 0, [5])
    assert result.get(timeout=LIMIT) == 5
    assert result.successful()


def test_worker_died_says_what_happened(script: Script, pool: ScriptedPool) -> None:
    result = pool.apply_async(f, (17,))
    script.tell(LOST, result._job, 0, DEAD)
    with pytest.raises(
        WorkerDied, match=r"worker 3 \(pid 812\) was killed by SIGKILL.*f\(17\).*3\.9 GB"
    ) as caught:
        result.get()
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.task, error.worker, error.pid, error.signal, error.attempts) == ("f(17)", 3, 812, 9, 1)
    assert isinstance(error, RuntimeError) and error.peak_memory == 3_900_000_000 and not error.oom


def test_task_timeout_is_both_kinds_of_timeout(script: Script, pool: ScriptedPool) -> None:
    import builtins

    result = pool.apply_async(f, (17,), timeout=2.5)
    script.tell(TIMEOUT, result._job, 0, {"rank": 0, "pid": 1})
    with pytest.raises(TaskTimeout, match=r"f\(17\) ran longer than its timeout of 2\.5 s"):
        result.get()
    assert isinstance(result._value, TimeoutError) and isinstance(result._value, builtins.TimeoutError)


def test_cancel(script: Script, pool: ScriptedPool) -> None:
    result = pool.apply_async(f, (1,))
    assert not result.cancelled()
    assert result.cancel() and result.cancelled() and result.ready()
    assert script.cancelled == [(result._job, 0)]
    with pytest.raises(concurrent.futures.CancelledError):
        result.get()
    script.tell(CANCELLED, result._job, 0, None)
    ended = pool.apply_async(f, (1,))
    script.tell(DONE, ended._job, 0, [1])
    assert ended.get() == 1 and not ended.cancel()


def test_a_failing_initializer_fails_everything(script: Script, pool: ScriptedPool) -> None:
    results = [pool.apply_async(f, (1,)), pool.map_async(f, range(3))]
    iterator = pool.imap(f, range(3))
    script.tell(BROKEN, 0, 0, {"traceback": "Traceback\nKeyError: 'key'"})
    for result in results:
        with pytest.raises(InitializerFailed, match="KeyError: 'key'"):
            result.get()
    with pytest.raises(InitializerFailed):
        next(iterator)
    with pytest.raises(InitializerFailed):
        pool.apply_async(f, (1,))


def test_terminate_ends_what_waits(script: Script) -> None:
    pool = ScriptedPool(script)
    result = pool.apply_async(f, (1,))
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            result.get()
        except concurrent.futures.CancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert script.waiting.wait(LIMIT)
    pool.terminate()
    thread.join(LIMIT)
    assert len(caught) == 1
    with pytest.raises(ValueError, match="not running"):
        pool.apply_async(f, (1,))


def test_dropped_results_do_not_pile_up(answering: ScriptedPool) -> None:
    for number in range(2000):
        answering.apply_async(f, (number,))
    assert len(answering._jobs.pending) < 600


# ---- Several threads ------------------------------------------------------------------------------------------------


def test_several_threads_wait_and_one_drains(script: Script, pool: ScriptedPool) -> None:
    results = [pool.apply_async(f, (number,)) for number in range(8)]
    got: dict[int, Any] = {}

    def wait(number: int) -> None:
        got[number] = results[number].get(LIMIT)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(pool._jobs.followers) == 7)
    order = list(range(8))
    random.Random(1).shuffle(order)
    for number in order:  # the leader changes each time its own result comes
        script.tell(DONE, results[number]._job, 0, [number])
        until(lambda number=number: number in got)
    for thread in threads:
        thread.join(LIMIT)
    assert got == {number: number for number in range(8)}
    assert not pool._jobs.followers


def test_an_interrupted_leader_hands_over(script: Script, pool: ScriptedPool) -> None:
    """KeyboardInterrupt in get(): nothing is lost, and a thread that followed leads."""
    mine, other = pool.apply_async(f, (1,)), pool.apply_async(f, (2,))
    got = []
    main = threading.get_ident()

    def follow() -> None:
        assert script.waiting.wait(LIMIT)
        thread = threading.Thread(target=lambda: got.append(other.get(LIMIT)))
        thread.start()
        until(lambda: pool._jobs.followers)
        script.waiting.clear()
        signal.pthread_kill(main, signal.SIGINT)
        thread.join(LIMIT)

    helper = threading.Thread(target=follow)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        mine.get(LIMIT)
    assert script.waiting.wait(LIMIT)  # the follower drains now
    script.tell(DONE, mine._job, 0, ["mine"])
    script.tell(DONE, other._job, 0, ["other"])
    helper.join(LIMIT)
    assert got == ["other"]
    assert mine.get(LIMIT) == "mine"


class Filling(Script):
    """As an engine has to be that loses nothing when a signal strikes: from queue to inbox without a step in Python."""

    def fill(self, inbox: Any, block: bool, timeout: float | None) -> None:
        try:
            if block:
                inbox.extend(map(self.events.get, (True,), (timeout,)))
            inbox.extend(map(self.events.get, itertools.repeat(False, 100)))
        except queue.Empty:
            pass


# An interrupt in a destructor is shown, not raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pumped", [False, True])
def test_interrupts_lose_nothing(pumped: bool) -> None:
    """A signal at any step of waiting and handling: all results come in the end, each once."""

    class Interrupt(BaseException):
        pass

    def strike(number: int, frame: Any) -> None:
        raise Interrupt

    struck = 0
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with ScriptedPool(Filling(answer=True)) as pool:
            for count in range(600):
                length = 40 + count % 7
                # Without a pump, this thread does everything itself.
                make: Any = (
                    pool.map_async if pumped else functools.partial(pool._map, star=False, callback=None)
                )
                options = (
                    {} if pumped else dict.fromkeys(("error_callback", "timeout", "retries", "progress"))
                )
                result = make(f, range(length), chunksize=3, **options)
                single = pool.apply_async(f, (count,))
                armed = True
                while True:
                    try:
                        if armed:
                            armed = False
                            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + count % 197))
                        assert result.get(LIMIT) == list(range(length))
                        assert single.get(LIMIT) == count
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        break
                    except Interrupt:
                        struck += 1
            pool.apply(f, (1,))
            assert not pool._jobs.inbox and not pool._jobs.pending and not pool._jobs.followers
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert struck > 50


# ---- Callbacks, futures, asyncio ------------------------------------------------------------------------------------


def pump_is_gone(pool: ScriptedPool) -> bool:
    return pool._jobs.pump is None


def test_the_pump_runs_callbacks_and_ends(script: Script, pool: ScriptedPool) -> None:
    seen: list[Any] = []
    called = threading.Event()
    result = pool.apply_async(f, (1,), callback=lambda value: (seen.append(value), called.set()))
    assert any(thread.name == "PoolPump" for thread in threading.enumerate())
    script.tell(DONE, result._job, 0, [7])
    assert called.wait(LIMIT)
    assert seen == [7] and result.get(LIMIT) == 7
    until(lambda: pump_is_gone(pool))


@pytest.mark.parametrize("end", ["terminate", "join"])
def test_the_end_does_not_wait_until_the_pump_is_tired(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing.jobs, "LINGER", 1e6)
    with processing.pool.ThreadPool(1) as pool:
        called = threading.Event()
        pool.apply_async(f, (1,), callback=lambda value: called.set())
        assert called.wait(LIMIT)
        if end == "join":
            pool.close()
            assert pool.join(LIMIT)
    assert pump_is_gone(pool)


def test_no_thread_without_need(answering: ScriptedPool) -> None:
    before = threading.active_count()
    answering.apply(f, (1,))
    answering.map(f, range(5000))
    list(answering.imap(f, range(100)))
    assert threading.active_count() == before


def test_callbacks_have_run_when_get_returns(answering: ScriptedPool) -> None:
    seen: list[Any] = []
    for number in range(50):
        assert answering.apply_async(f, (number,), callback=seen.append).get(LIMIT) == number
        assert seen[-1] == number
    answering.map_async(f, [1, 2], callback=seen.append).wait()
    assert seen[-1] == [1, 2]


def test_a_callback_may_use_the_pool(answering: ScriptedPool) -> None:
    inner: list[Any] = []
    answering.apply_async(f, (1,), callback=lambda value: inner.append(answering.apply(f, (2,)))).get(LIMIT)
    assert inner == [2]


def test_what_a_callback_raises_is_reported(answering: ScriptedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))

    def fail(value: Any) -> None:
        raise KeyError(value)

    assert answering.apply_async(f, (1,), callback=fail).get(LIMIT) == 1
    assert [str(error) for error in told] == ["1"]


def test_error_callback(script: Script, pool: ScriptedPool) -> None:
    seen: list[Any] = []
    result = pool.apply_async(f, (1,), error_callback=seen.append, callback=seen.append)
    error = ValueError("x")
    script.tell(FAILED, result._job, 0, error)
    with pytest.raises(ValueError):
        result.get(LIMIT)
    assert seen == [error]


def test_add_done_callback(script: Script, pool: ScriptedPool) -> None:
    seen: list[Any] = []
    result = pool.apply_async(f, (1,))
    result.add_done_callback(seen.append)
    result.add_done_callback(seen.append)
    script.tell(DONE, result._job, 0, [1])
    until(lambda: len(seen) == 2)
    result.add_done_callback(seen.append)
    assert seen == [result] * 3
    until(lambda: pump_is_gone(pool))


def test_futures(script: Script, pool: ScriptedPool) -> None:
    good, bad, stopped = (pool.submit(f, number) for number in range(3))
    script.tell(DONE, 1, 0, ["good"])
    script.tell(FAILED, 2, 0, KeyError("bad"))
    assert good.result(LIMIT) == "good"
    assert isinstance(bad.exception(LIMIT), KeyError)
    assert stopped.cancel() and stopped.cancelled() and script.cancelled == [(3, 0)]
    done, pending = concurrent.futures.wait([good, bad, stopped], LIMIT)
    assert len(done) == 3 and not pending
    until(lambda: pump_is_gone(pool))


def test_await(answering: ScriptedPool) -> None:
    async def main() -> Any:
        one = await answering.apply_async(f, (1,))
        many = await answering.map_async(f, range(3))
        two = await asyncio.get_running_loop().run_in_executor(answering, f, 2)
        return one, many, two

    assert asyncio.run(main()) == (1, [0, 1, 2], 2)


def test_a_cancelled_await_cancels_the_call(script: Script, pool: ScriptedPool) -> None:
    result = pool.apply_async(f, (1,))

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(result, 0.01)

    asyncio.run(main())
    assert result.cancelled() and script.cancelled == [(result._job, 0)]


# ---- Maps -----------------------------------------------------------------------------------------------------------


def test_map_of_events_in_pieces_and_twice(script: Script, pool: ScriptedPool) -> None:
    """Batches reported in parts, overlapping, repeated, in any order."""
    for seed in range(200):
        rng = random.Random(seed)
        length = rng.randrange(1, 30)
        result = pool.map_async(f, range(length), rng.choice([None, 1, 3, 100]))
        told: set[int] = set()
        while not result.ready():
            open_calls = [
                first + at
                for job, first, _, items, _ in script.sent
                if job == result._job
                for at in range(len(items))
            ]
            first = rng.choice(open_calls)
            count = rng.randrange(1, 4)
            while first + count - 1 not in open_calls:
                count -= 1
            # A repeated report says something else: it must not count.
            values = [index if index not in told else "again" for index in range(first, first + count)]
            told.update(range(first, first + count))
            script.tell(DONE, result._job, first, values)
        assert result.get() == list(range(length))
    assert not pool._jobs.pending and not pool._jobs.hungry


def test_map_raises_the_first_failure_after_all_calls(script: Script, pool: ScriptedPool) -> None:
    result = pool.map_async(f, "abc", 1)
    job = result._job
    script.tell(FAILED, job, 2, KeyError(2))
    script.tell(LOST, job, 1, DEAD)
    assert not result.ready()
    script.tell(FAILED, job, 1, ValueError("late"))
    script.tell(DONE, job, 0, [0])
    with pytest.raises(WorkerDied, match=r"f\('b'\)") as caught:
        result.get()
    assert caught.value.index == 1


def test_map_is_fed_lazily(script: Script, pool: ScriptedPool) -> None:
    result = pool._map(f, range(100_000), 10, False, None, None, None, None, None)
    assert sum(len(items) for _, _, _, items, _ in script.sent) < 200
    result.cancel()


def test_batches_grow_with_short_calls_only() -> None:
    for ns, largest in ((1000, range(250, SIZE_MAX + 1)), (5_000_000, range(1, 2))):
        script = Script(answer=True)
        script.ns = ns
        with ScriptedPool(script) as pool:
            # What is known of the calls beforehand is nothing: so the first batches are small.
            assert list(pool.imap(f, iter(range(3000)).__iter__())) == list(range(3000))
            assert max(len(items) for _, _, _, items, _ in script.sent) in largest


@pytest.mark.parametrize("maxtasks", [1, 7])
def test_no_batch_is_larger_than_a_worker_may_run(maxtasks: int) -> None:
    script = Script(answer=True)
    with ScriptedPool(script, maxtasksperchild=maxtasks) as pool:
        assert pool.map(f, range(500)) == list(range(500))
    assert max(len(items) for _, _, _, items, _ in script.sent) == maxtasks


def test_explicit_chunksize_is_the_largest_batch(answering: ScriptedPool) -> None:
    assert answering.map(f, range(500), chunksize=20) == list(range(500))
    assert max(len(items) for _, _, _, items, _ in answering.script.sent) <= 20


def test_large_items_travel_one_by_one(answering: ScriptedPool) -> None:
    items = [bytes(1 << 20)] * 40
    assert answering.map(f, items) == items
    assert max(len(batch) for _, _, _, batch, _ in answering.script.sent) == 1


def test_what_cannot_be_pickled_fails_alone(answering: ScriptedPool) -> None:
    answering.script.refuse = lambda item: item == 700
    with pytest.raises(pickle.PicklingError, match="700"):
        answering.map(f, range(1000))
    assert sum(len(items) for _, _, _, items, _ in answering.script.sent) == 999
    iterator = answering.imap(f, range(698, 703))
    assert [next(iterator), next(iterator)] == [698, 699]
    with pytest.raises(pickle.PicklingError):
        next(iterator)
    assert list(iterator) == [701, 702]


def test_what_cannot_be_pickled_at_all_raises_at_the_call(script: Script, pool: ScriptedPool) -> None:
    script.refuse = lambda item: True
    with pytest.raises(pickle.PicklingError):
        pool.map_async(f, range(10))
    assert not pool._jobs.pending and not pool._jobs.hungry


def test_empty_maps(pool: ScriptedPool) -> None:
    assert pool.map(f, []) == []
    seen: list[Any] = []
    assert pool.map_async(f, [], callback=seen.append).get() == [] and seen == [[]]
    assert list(pool.imap(f, [])) == list(pool.imap_unordered(f, iter([]))) == []


def test_an_interrupted_map_is_cancelled(script: Script, pool: ScriptedPool) -> None:
    main = threading.get_ident()

    def strike() -> None:
        assert script.waiting.wait(LIMIT)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pool.map(f, range(10))
    thread.join()
    assert script.cancelled and not pool._jobs.pending


# ---- Iterators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 5, 100])
@pytest.mark.parametrize("threaded", [False, True])
def test_imap_reads_no_faster_than_results_are_taken(window: int, threaded: bool) -> None:
    """users.md 19: back-pressure by default."""
    read = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    script = Script(answer=True)
    with ScriptedPool(script) as pool:
        source: Any = items() if threaded else range(1000)
        iterator = pool.imap(f, source, window=window)
        for number in range(1000):
            assert next(iterator) == number
            fed = iterator._feed.fed + len(iterator._unsent)
            assert fed <= number + 1 + window
            assert len(read) <= number + 2 + window
        with pytest.raises(StopIteration):
            next(iterator)


def test_imap_is_bounded_by_default(answering: ScriptedPool) -> None:
    iterator = answering.imap(f, range(1_000_000))
    for _ in range(1000):
        next(iterator)
    assert iterator._feed.fed < 30_000


def test_imap_in_order_whatever_comes_first(script: Script, pool: ScriptedPool) -> None:
    iterator = pool.imap(f, "abcd", window=4)
    unordered = pool.imap_unordered(f, "abcd", window=4)
    for made, job in ((iterator, 1), (unordered, 2)):
        assert made._job == job
        for index in (2, 0, 3, 1):
            script.tell(DONE, job, index, [index])
            script.tell(DONE, job, index, ["again"])
    assert list(iterator) == [0, 1, 2, 3]
    assert list(unordered) == [2, 0, 3, 1]
    assert not pool._jobs.pending


def test_a_failed_item_raises_in_next_and_the_iterator_goes_on(script: Script, pool: ScriptedPool) -> None:
    iterator = pool.imap(f, "abc", window=3)
    script.tell(DONE, 1, 0, [0])
    script.tell(LOST, 1, 1, DEAD)
    script.tell(DONE, 1, 2, [2])
    assert next(iterator) == 0
    with pytest.raises(WorkerDied, match=r"f\('b'\)"):
        next(iterator)
    assert list(iterator) == [2]


def test_next_times_out_and_loses_nothing(script: Script, pool: ScriptedPool) -> None:
    iterator = pool.imap(f, "ab")
    with pytest.raises(TimeoutError):
        iterator.next(timeout=0)
    script.tell(DONE, 1, 0, [0, 1])
    assert iterator.next(timeout=LIMIT) == 0
    assert iterator.next(timeout=0) == 1


def test_an_input_that_needs_results_to_go_on(answering: ScriptedPool) -> None:
    """A queue that results are put into again: reading ahead in the thread that takes results would hang."""
    todo: queue.Queue[Any] = queue.Queue()
    todo.put(3)
    seen = []
    for number in answering.imap_unordered(f, iter(todo.get, None)):
        seen.append(number)
        todo.put(number - 1 if number else None)
    assert seen == [3, 2, 1, 0]


@pytest.mark.parametrize("chunksize, good", [(1, 7), (2, 6), (4, 4)])
def test_an_input_that_fails(answering: ScriptedPool, chunksize: int, good: int) -> None:
    def items() -> Iterator[int]:
        yield from range(7)
        raise KeyError("input")

    iterator = answering.imap(f, items(), chunksize)
    assert [next(iterator) for _ in range(good)] == list(range(good))
    with pytest.raises(KeyError, match="input"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("source", [list, iter], ids=["at once", "by a reader"])
def test_join_runs_what_is_left_of_an_imap(source: Any) -> None:
    script = Script(answer=True)
    pool = ScriptedPool(script)
    iterator = pool.imap(f, source(list(range(5000))), window=1)
    pool.close()
    assert not script.ended  # calls are still to be sent
    pool.join()
    assert script.ended
    assert list(iterator) == list(range(5000))


def test_threads_share_an_iterator(answering: ScriptedPool) -> None:
    iterator = answering.imap(f, range(20_000))
    taken: list[list[int]] = [[], [], []]
    threads = [threading.Thread(target=lambda some=some: some.extend(iterator)) for some in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(number for some in taken for number in some) == list(range(20_000))


# ---- The rest -------------------------------------------------------------------------------------------------------


def test_broadcast(pool: ScriptedPool) -> None:
    assert pool.broadcast(lambda rank, x: (rank, x), 5) == [(0, 5), (1, 5)]
    assert not pool._jobs.pending


def test_arguments_and_results_are_let_go(answering: ScriptedPool) -> None:
    import weakref

    class Thing:
        pass

    things = [Thing() for _ in range(10)]
    references = [weakref.ref(thing) for thing in things]
    answering.map(f, things)
    list(answering.imap(f, things))
    answering.script.sent.clear()
    del things
    gc.collect()
    assert not any(reference() for reference in references)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"maxtasksperchild": 0.5}, ValueError),
        ({"maxtasksperchild": "12"}, ValueError),
        ({"initializer": 5}, TypeError),
        ({"retries": -1}, ValueError),
        ({"timeout": 0}, ValueError),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        processing.pool.Pool(**options)
