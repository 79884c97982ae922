"""Pools of worker processes, and of threads: the API of `multiprocessing.pool`, and more.

    Pool ─▶ engine      call, batch: straight into the workers' ring; no thread of the caller takes part
         ─▶ Jobs        who waits takes the results for all (jobs.py)
    submission.py                            the methods that submit calls
    results.py, iterators.py, futures.py     what the methods give
    feeding.py                               how maps become batches of calls

What can be sent, what happens to a call whose worker dies, when a call is stopped: see `Pool`.
"""

from __future__ import annotations

import itertools
import os
import threading
import warnings

from . import util
from .errors import RemoteError
from .feeding import SIZE_MAX
from .iterators import IMapIterator, IMapUnorderedIterator
from .jobs import Jobs
from .poolviews import PoolStatistics, Viewing
from .remote import RemoteTraceback
from .results import ApplyResult, AsyncResult, BroadcastResult, MapResult
from .submission import Submitting, checked_retries, checked_timeout

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .poolqueues import OwnQueues

__all__ = ["MaybeEncodingError", "Pool", "PoolStatistics", "ThreadPool"]

# Also found here in the standard library.
_ALSO = (ApplyResult, AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult, RemoteTraceback)

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"


class MaybeEncodingError(RemoteError):
    """A result that could not be sent to the caller. `exc` is the text of the exception, `value` that of the result."""

    def __init__(
        self, exc: Any = "", value: Any = "", message: str | None = None, traceback: str = ""
    ) -> None:
        self.exc = exc if isinstance(exc, str) else repr(exc)
        self.value = value if isinstance(value, str) else repr(value)
        text = message or f"Error sending result: '{self.value}'. Reason: '{self.exc}'"
        super().__init__(text, traceback)
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.exc, self.value, self._text, self.traceback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


def _engine(
    processes: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    maxtasksperchild: int | None,
    context: Any,
    wanted: dict[str, Any],
) -> Any:
    """The engine of a pool of processes. wanted: the arguments that are about the workers."""
    from . import workersettings
    from .engine import ProcessEngine

    settings = workersettings.make_settings(processes, **wanted)
    return ProcessEngine(
        *(processes, initializer, initargs, maxtasksperchild, context),
        settings=settings,
        environment=workersettings.thread_environment(settings),
    )


def _end(engine: Any, jobs: Jobs) -> None:
    """The pool was collected, or the process ends."""
    from .blame import cancelled

    engine.terminate()
    jobs.over = jobs.over or cancelled("the pool has ended")
    jobs.attended.clear()
    if jobs.led:
        engine.wake()


class _Worker:
    """A worker, as it looks from its pool."""

    __slots__ = ("rank", "pid", "state")

    def __init__(self, rank: int, pid: int, state: str) -> None:
        self.rank = rank
        self.pid = pid
        self.state = state

    def is_alive(self) -> bool:
        return self.state not in ("left", "empty", "failed")

    def __repr__(self) -> str:
        return f"<worker {self.rank} pid={self.pid} {self.state}>"


class Pool(Submitting, Viewing):
    """Worker processes that run calls.

    `processes`: how many workers (None: as many CPUs as this process may use). `initializer(*initargs)` is called in
    each worker as it starts; `maxtasksperchild`: a worker is replaced after so many calls. `context`: how workers are
    started.

    All methods may be called from several threads. What cannot be pickled raises where it is given. A worker that dies
    fails exactly the call that it ran, with WorkerDied, unless `retries` of that call are left; it is replaced, all
    other calls run. The methods that submit calls take, by keyword:

    `timeout`: seconds that one call may run before it is stopped and raises TaskTimeout (default: the constructor's);
    `retries`: how often a call is begun again after its worker died (default: the constructor's);
    `progress`: show a bar; True, or the text before it, or a dict of tqdm's options.

    What the workers are like (`processing.current_worker()` is what calls see of it):

    `memory_limit`: bytes that a worker may get beyond what it has when its initializer has been run. A call that wants
    more gets a MemoryError; if its worker has more all the same, it fails with WorkerDied. Counted is private memory,
    not what lies in shared memory.
    `pin`: True: each worker runs on its share of the CPUs; or a list with a CPU, or a list of CPUs, for each rank.
    `threads`: how many threads BLAS and OpenMP libraries start in each worker (None: as many as there are CPUs for each
    worker; 0: no limit). Set in the environment, unless it is set there already; libraries loaded before a fork are
    limited if threadpoolctl is installed.
    `seed`: an int: `random` and numpy's global generator (if numpy is loaded when the initializer has been run) are
    seeded with a number that follows from it and the rank; None: differently in each worker.
    `finalizer()` is called in each worker that leaves in an orderly way.
    `shared`: a value that is put into shared memory once: `current_worker().shared`, arrays in it as views.
    `logs`: True, or the level of the workers' root logger: what workers log is handled in this process, by the loggers
    of the same names and their handlers, in some thread; handlers that workers inherit are dropped.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        retries: int = 0,
        timeout: float | None = None,
        memory_limit: int | None = None,
        pin: Any = None,
        threads: int | None = None,
        seed: int | None = None,
        finalizer: Callable[[], object] | None = None,
        shared: Any = None,
        logs: bool | int | str = False,
    ) -> None:
        self._state = INIT
        if processes is None:
            from .context import default_context

            processes = default_context.cpu_count(usable=True)
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._retries = checked_retries(retries)
        self._timeout = checked_timeout(timeout)
        self._cap = min(maxtasksperchild or SIZE_MAX, SIZE_MAX)
        self._numbers = itertools.count(1)
        self._pid = os.getpid()
        self._closing = False
        self._ranks = threading.Lock()  # over which workers there are to be
        initargs = tuple(initargs)
        own = None
        if type(self)._setup_queues is not Pool._setup_queues:
            own = self._own_queues(context)
            initializer, initargs = own.initializer(initializer, initargs)
        arguments = (
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context,
            {
                "memory_limit": memory_limit,
                "pin": pin,
                "threads": threads,
                "seed": seed,
                "finalizer": finalizer,
                "shared": shared,
                "logs": logs,
            },
        )
        self._engine = engine = self._make_engine(*arguments)
        self._jobs = Jobs(engine)
        self._own = own
        self._call = engine.call if own is None else own.call_of(engine)
        self._finalize = util.Finalize(self, _end, (engine, self._jobs), exitpriority=15)
        util.register_after_fork(self, Pool._disown)
        if logs is not False:
            self._relay_logs()
        self._state = RUN

    def _make_engine(self, *arguments: Any) -> Any:
        return _engine(*arguments)

    def _setup_queues(self) -> None:
        """A subclass may make queues here, `_inqueue` and `_outqueue`, that pickle calls and results in a way of their
        own: of pipes of `self._ctx`, with the end that is written to as `_writer`. As in the standard library."""

    def _own_queues(self, context: Any) -> OwnQueues:
        from .context import default_context
        from .poolqueues import OwnQueues

        return OwnQueues(self, context or default_context)

    # The default arguments stay reachable while the interpreter tears the module down.
    def __del__(self, _warn: Any = warnings.warn, RUN: str = RUN) -> None:
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        size = self._engine.processes if "_engine" in self.__dict__ else 0
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={size}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Any:
        self._check_running()
        return self

    def __exit__(self, *unused: object) -> None:
        self.terminate()

    def _disown(self) -> None:
        """In a forked child: the workers are the parent's."""
        self._state = TERMINATE
        self._jobs = Jobs(self._engine)
        self._jobs.over = ValueError("Pool not running")

    def _check_running(self) -> None:
        if self._jobs.over is not None and self._state == RUN:
            raise self._jobs.over
        if self._state != RUN:
            what = f": it belongs to process {self._pid}" if self._pid != os.getpid() else ""
            raise ValueError(f"Pool not running{what}")

    # -- All workers

    def broadcast(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        """Has every worker call `func(*args, **kwargs)` once, after what it does just now; blocks until all have.

        -> what they returned, by rank. Raises the first failure, once all have answered. A worker that is just being
        replaced is not left out: its successor runs it. Calls from several threads take turns."""
        self._check_running()
        feed = self._feed(func, True, 1, None, 0)
        result = BroadcastResult(self, self._jobs, feed, (func, args, kwargs))
        with self._ranks:
            self._jobs.pending[feed.job] = result
            try:
                result.expect(self._engine.broadcast(feed.job, func, args, kwargs))
                answers: list[Any] = result.get()
            except BaseException:
                result._forget()
                raise
            finally:
                self._engine.end_broadcast()
        return answers

    def resize(self, processes: int) -> None:
        """Has so many workers from now on: the missing are started, those too many leave after what they do just
        now. Waits for a `broadcast` that another thread makes."""
        self._check_running()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        with self._ranks:
            self._engine.resize(processes)

    @property
    def _pool(self) -> list[_Worker]:
        """For compatibility: the workers, once all are there (at most 5 seconds)."""
        from time import monotonic, sleep

        deadline = monotonic() + 5.0
        while True:
            found = [_Worker(facts.rank, facts.pid, facts.state) for facts in self._engine.workers()]
            if len(found) >= self._engine.processes or self._state != RUN or monotonic() > deadline:
                return found
            sleep(0.001)

    def _repopulate_pool(self) -> None:
        """For compatibility: workers are replaced without it."""

    # -- The end

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """A process of that context, as multiprocessing's pools make their workers; ours are made by a supervisor."""
        return ctx.Process(*args, **kwds)

    def close(self) -> None:
        """No more calls: the workers end when all have been run. Does not wait; see `join`."""
        if self._state == RUN:
            self._state = CLOSE
            self._close_engine()

    def _close_engine(self) -> bool:
        """Once all calls have been sent."""
        if not self._closing:
            if any(result._unfed() for result in list(self._jobs.pending.values())):
                return False
            self._closing = True
            self._engine.close()
        return True

    def terminate(self) -> None:
        """Ends the workers at once, whatever they do: `get` of what has not ended raises CancelledError."""
        from .blame import cancelled

        if self._pid != os.getpid():
            return
        self._state = TERMINATE
        self._engine.terminate()
        self._jobs.end(cancelled("the pool was terminated before the call had ended"))
        self._end_views()
        self._jobs.join_pump()

    def join(self, timeout: float | None = None) -> bool:
        """After `close` or `terminate`: blocks until the workers have ended, at most `timeout` seconds; -> whether they
        have. All calls are run, the rest of the inputs of imaps included; their results can still be taken."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._pid != os.getpid():
            return True
        from time import monotonic

        deadline = None if timeout is None else monotonic() + timeout
        if self._state == CLOSE:
            jobs = self._jobs
            for condition in (_AllSent(self), _AllEnded(self)):
                if not jobs.wait(condition, None if deadline is None else deadline - monotonic()):
                    return False
                self._close_engine()
        ended: bool = self._engine.join(None if deadline is None else max(0.0, deadline - monotonic()))
        if ended:
            self._end_views()
            self._jobs.join_pump()
        return ended

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`: close, and join if `wait`. `cancel_futures`: Futures of calls that
        have not begun are cancelled."""
        if self._state == TERMINATE:
            return
        self.close()
        if cancel_futures:
            from .futures import cancel_queued

            cancel_queued(self)
        if wait:
            self.join()


class _AllSent:
    """That every call has been sent to the workers."""

    __slots__ = ("jobs",)

    def __init__(self, pool: Pool) -> None:
        self.jobs = pool._jobs
        for result in list(self.jobs.pending.values()):
            result._lift()

    def _is_there(self) -> bool:
        return not any(result._unfed() for result in list(self.jobs.pending.values()))


class _AllEnded:
    """That every call has ended."""

    __slots__ = ("jobs",)

    def __init__(self, pool: Pool) -> None:
        self.jobs = pool._jobs

    def _is_there(self) -> bool:
        return not self.jobs.pending


class ThreadPool(Pool):
    """A pool of threads of this process, with the methods of Pool. Nothing is pickled.

    A thread cannot be stopped: there is no `timeout=`, and only calls that have not begun are cancelled. After
    `terminate`, `join` waits for what runs.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(processes, initializer, initargs)

    def _make_engine(self, *arguments: Any) -> Any:
        from .threadengine import ThreadEngine

        return ThreadEngine(*arguments[:3])


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
