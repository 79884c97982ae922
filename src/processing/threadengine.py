"""The engine of ThreadPool: real threads in this process, the same events as from workers (jobs.py).

    call, batch ─▶ tasks ─▶ worker threads ─▶ events ─▶ fill

Nothing is pickled or copied. A thread cannot be stopped: no `timeout`, and only calls that have not begun are
cancelled.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections import deque, namedtuple
from time import monotonic, monotonic_ns, perf_counter_ns, sleep

from .currentworker import Worker, become_here
from .jobs import BROKEN, CANCELLED, DONE, FAILED, SPAN, WORKER

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .jobs import Event

__all__ = ["ThreadEngine", "WorkerFacts"]

FLUSH = 1_000_000  # nanoseconds after which the results of an unfinished batch are passed on
TRIES = 3  # of an initializer, in one thread

# Of one worker. busy, waiting: seconds; memory: bytes (0: not known); running: (job, index), or None.
WorkerFacts = namedtuple("WorkerFacts", "rank pid state calls busy waiting memory running elapsed")

_LEAVE = ("leave",)
_LOOK = ("look",)  # there may be something in your mail
_WAKE: Event = (WORKER, 0, 0, None, 0)


class _Worker:
    """One thread and its counters."""

    __slots__ = ("rank", "thread", "mail", "running", "since", "calls", "busy", "born", "__weakref__")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.mail: deque[tuple[Any, ...]] = deque()  # broadcasts
        self.running: tuple[int, int] | None = None
        self.since = 0.0  # when that began
        self.calls = 0
        self.busy = 0
        self.born = monotonic()
        self.thread: threading.Thread


class ThreadEngine:
    """See `Engine` in the documentation of pools; this one has threads for workers."""

    def __init__(
        self, processes: int, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
    ) -> None:
        self.processes = processes
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancelled: dict[tuple[int, int | None], None] = {}
        self.tracing = False  # threads report when each call began and ended
        self._ending = False
        self._closed = False
        self._ranks = itertools.count()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()  # over the list of workers
        try:
            self._hire()
        except BaseException:
            self.terminate()
            raise

    def _hire(self) -> None:
        with self._lock:
            self._workers = [worker for worker in self._workers if worker.thread.is_alive()]
            while len(self._workers) < self.processes:
                worker = _Worker(next(self._ranks))
                name = f"PoolWorker-{worker.rank + 1}"
                worker.thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
                worker.thread.start()
                self._workers.append(worker)

    # -- The caller's

    def _check(self, timeout: float) -> None:
        if timeout:
            raise ValueError("a ThreadPool has no timeout=: a thread cannot be stopped; use Pool")
        if self._closed:
            raise ValueError("Pool not running")

    def call(self, job: int, func: Any, args: Any, kwds: Any, timeout: float = 0.0, retries: int = 0) -> None:
        if timeout or self._closed:
            self._check(timeout)
        self._tasks.put((job, func, args, kwds))

    def batch(
        self,
        job: int,
        first: int,
        func: Any,
        items: list[Any],
        star: bool,
        timeout: float = 0.0,
        retries: int = 0,
    ) -> None:
        if timeout or self._closed:
            self._check(timeout)
        self._tasks.put((job, first, func, items, star))

    def fill(self, inbox: deque[Event], block: bool, timeout: float | None) -> None:
        """As drain, into `inbox`. All in C from queue to inbox: a signal cannot come between."""
        get = self._events.get
        try:
            if block:
                inbox.extend(map(get, (True,), (timeout,)))
            inbox.extend(map(get, itertools.repeat(False, 1000)))
        except queue.Empty:
            pass

    def drain(self, block: bool, timeout: float | None) -> list[Event]:
        """What has come, at least one event if `block`, unless `timeout` (seconds) is over or `wake` was called."""
        inbox: deque[Event] = deque()
        self.fill(inbox, block, timeout)
        return [event for event in inbox if event is not _WAKE]

    def wake(self) -> None:
        self._events.put(_WAKE)

    def cancel(self, job: int, index: int | None) -> bool:
        """Keeps that call (None: the job's) from beginning; False if it has begun."""
        if index is not None and any(worker.running == (job, index) for worker in list(self._workers)):
            return False
        self._cancelled[job, index] = None
        if len(self._cancelled) > 10_000:
            del self._cancelled[next(iter(self._cancelled))]
        return True

    def is_running(self, job: int, index: int) -> bool:
        return any(worker.running == (job, index) for worker in list(self._workers))

    def broadcast(self, job: int, func: Any, args: Any, kwds: Any) -> int:
        if self._closed:
            self._check(0.0)
        with self._lock:
            workers = [worker for worker in self._workers if worker.thread.is_alive()]
        for index, worker in enumerate(workers):
            worker.mail.append((job, index, func, args, kwds))
        for _ in workers:
            self._tasks.put(_LOOK)
        return len(workers)

    def end_broadcast(self) -> None:
        pass

    def idents(self) -> dict[int, int | None]:
        """Of the threads, by rank."""
        return {worker.rank: worker.thread.ident for worker in list(self._workers)}

    def totals(self) -> tuple[int, float, float]:
        """Calls, seconds at work, seconds waiting."""
        facts = self.workers()
        return (
            sum(one.calls for one in facts),
            sum(one.busy for one in facts),
            sum(one.waiting for one in facts),
        )

    def resize(self, n: int) -> None:
        fewer = self.processes - n
        self.processes = n
        if fewer > 0:
            for _ in range(fewer):
                self._tasks.put(_LEAVE)
        else:
            self._hire()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._dismiss()

    def terminate(self) -> None:
        """What has not begun never will; what runs ends in its own time, its results are dropped."""
        self._ending = self._closed = True
        try:
            while True:
                self._tasks.get_nowait()
        except queue.Empty:
            pass
        self._dismiss()

    def _dismiss(self) -> None:
        for _ in range(len(self._workers) + 1):
            self._tasks.put(_LEAVE)

    def join(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        here = threading.current_thread()
        for worker in list(self._workers):
            if worker.thread is not here:
                worker.thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        return not any(worker.thread.is_alive() for worker in self._workers)

    def workers(self) -> list[WorkerFacts]:
        facts = []
        for worker in list(self._workers):
            running = worker.running
            alive = worker.thread.is_alive()
            busy = worker.busy / 1e9
            state = "left" if not alive else "idle" if running is None else "taken"
            waiting = max(0.0, monotonic() - worker.born - busy)
            elapsed = monotonic() - worker.since if running else None
            facts.append(
                WorkerFacts(worker.rank, os.getpid(), state, worker.calls, busy, waiting, 0, running, elapsed)
            )
        return facts

    # -- In the worker threads

    def _work(self, worker: _Worker) -> None:
        def tell(kind: int, payload: Any) -> None:
            job, index = worker.running or (0, 0)
            self._events.put((kind, job, index, payload, 0))

        seen = Worker(worker.rank, tell, lambda: worker.running, None, None)
        become_here(seen)
        if not self._initialize():
            return
        try:
            self._serve(worker)
        finally:
            seen._leave()

    def _serve(self, worker: _Worker) -> None:
        get = self._tasks.get
        while True:
            task = get()
            if worker.mail and not self._ending:
                self._run_call(worker, *worker.mail.popleft())
            if self._ending or task is _LEAVE:
                return
            if task is _LOOK:
                if any(other.mail and other.thread.is_alive() for other in list(self._workers)):
                    self._tasks.put(_LOOK)  # it was another's
                    sleep(0.001)
            elif len(task) == 4:
                self._run_call(worker, task[0], 0, *task[1:])
            else:
                self._run_batch(worker, *task)
            task = None  # its arguments are not to be kept alive

    def _initialize(self) -> bool:
        if self._initializer is None:
            return True
        for _ in range(TRIES):
            try:
                self._initializer(*self._initargs)
                return True
            except BaseException as error:
                import traceback

                text = "".join(traceback.format_exception(error))
        self._events.put((BROKEN, 0, 0, {"traceback": text}, 0))
        return False

    def _is_cancelled(self, job: int, index: int) -> bool:
        return (job, index) in self._cancelled or (job, None) in self._cancelled

    def _run_call(self, worker: _Worker, job: int, index: int, func: Any, args: Any, kwds: Any) -> None:
        if self._cancelled and self._is_cancelled(job, index):
            self._cancelled.pop((job, index), None)
            self._events.put((CANCELLED, job, index, None, 0))
            return
        worker.since = monotonic()
        worker.running = (job, index)
        start = perf_counter_ns()
        try:
            kind: int = DONE
            payload: Any = [func(*args, **kwds)]
        except BaseException as error:
            kind, payload = FAILED, error
        ns = perf_counter_ns() - start
        if self.tracing:
            self._note_span(worker, func, monotonic_ns() - ns, kind == DONE)
        worker.running = None
        worker.calls += 1
        worker.busy += ns
        self._events.put((kind, job, index, payload, ns if kind == DONE else 0))

    def _note_span(self, worker: _Worker, func: Any, began: int, ok: bool) -> None:
        job, index = worker.running or (0, 0)
        name = getattr(func, "__qualname__", None) or type(func).__name__
        span = (job, index, name, began, monotonic_ns(), ok)
        self._events.put((SPAN, job, index, (worker.rank, os.getpid(), [span]), 0))

    def _run_batch(
        self, worker: _Worker, job: int, first: int, func: Any, items: list[Any], star: bool
    ) -> None:
        put = self._events.put
        values: list[Any] = []
        begin = first
        start = perf_counter_ns()
        for index, item in enumerate(items, first):
            failure: BaseException | None = None
            if self._cancelled and self._is_cancelled(job, index):
                self._cancelled.pop((job, index), None)
                kind = CANCELLED
            else:
                worker.since = monotonic()
                worker.running = (job, index)
                worker.calls += 1
                began = monotonic_ns() if self.tracing else 0
                try:
                    values.append(func(*item) if star else func(item))
                    kind = DONE
                except BaseException as error:
                    kind, failure = FAILED, error
                if began:
                    self._note_span(worker, func, began, kind == DONE)
            ns = perf_counter_ns() - start
            if kind != DONE or ns > FLUSH:
                worker.busy += ns
                if values:
                    put((DONE, job, begin, values, ns))
                if kind != DONE:
                    put((kind, job, index, failure, 0))
                values = []
                begin = index + 1
                start = perf_counter_ns()
                if self._ending:
                    break
        ns = perf_counter_ns() - start
        worker.busy += ns
        worker.running = None
        if values:
            put((DONE, job, begin, values, ns))
