"""ProcessPoolExecutor: the API of `concurrent.futures`, on a Pool.

It heals itself: a worker that dies fails the call that it ran, with WorkerDied, and is replaced; BrokenProcessPool is
raised only if the initializer fails again and again. `Future.cancel` is the standard library's (only what has not
begun); the Futures have a `stop()` besides, which also stops a running call.
"""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from time import monotonic
from typing import Any

from . import util
from .errors import InitializerFailed, TimeoutError
from .futures import QueuedFuture, submit
from .iterators import IMapIterator
from .pool import Pool

TYPE_CHECKING = False  # as typing has it
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["ProcessPoolExecutor"]


class _ExecutorPool(Pool):
    """The pool of an executor, which need not be closed."""

    def __del__(self, *unused: Any) -> None:
        pass


def _finish(reference: weakref.ref[Pool]) -> None:
    """At the end of the program: what was submitted is run, as with the standard library."""
    pool = reference()
    if pool is not None:
        pool.shutdown()


def _broken(error: InitializerFailed) -> BaseException:
    from concurrent.futures.process import BrokenProcessPool

    class BrokenPool(InitializerFailed, BrokenProcessPool):
        """Every worker failed in its initializer."""

    broken = BrokenPool(str(error), error.traceback)
    broken.__cause__ = error.__cause__
    return broken


class ProcessPoolExecutor(concurrent.futures.Executor):
    """Runs calls in worker processes, which are started with the first call.

    `max_workers`: how many (None: as many CPUs as this process may use). `mp_context`: a context of this package or of
    `multiprocessing`. `max_tasks_per_child`: a worker is replaced after so many calls; works with every start method.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        from .context import BaseContext, default_context, get_context

        if mp_context is not None and not isinstance(mp_context, BaseContext):
            mp_context = get_context(mp_context.get_start_method())
        self._max_workers = max_workers or default_context.cpu_count(usable=True)
        self._mp_context = mp_context
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._max_tasks_per_child = max_tasks_per_child
        self._pool: Pool | None = None
        self._finalize: util.Finalize | None = None
        self._shut_down = False
        self._lock = threading.Lock()

    def _make_pool(self) -> Pool:
        return _ExecutorPool(
            self._max_workers, self._initializer, self._initargs, self._max_tasks_per_child, self._mp_context
        )

    def _running_pool(self) -> Pool:
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            pool = self._pool
            if pool is None:
                pool = self._pool = self._make_pool()
                # Before the pool's own, which terminates it.
                self._finalize = util.Finalize(pool, _finish, (weakref.ref(pool),), exitpriority=20)
            error = pool._jobs.over
        if isinstance(error, InitializerFailed):
            raise _broken(error)
        return pool

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Has a worker call `fn(*args, **kwargs)`. Raises what pickling raises, here and now."""
        return submit(self._running_pool(), _ExecutorFuture, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """An iterator over `fn(*items)` for the items of each iterable, in order.

        `timeout`: seconds from now until all results have to be there. Small calls are sent in batches by themselves,
        `chunksize` above 1 is the largest. The iterables are read at once, unless `buffersize` says how many items may
        be read whose results have not been taken.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else monotonic() + timeout
        pool = self._running_pool()
        calls: Any = zip(*iterables, strict=False)
        if buffersize is None:
            calls = list(calls)
        results = pool._imap(IMapIterator, fn, calls, chunksize, True, buffersize, None, None, None)
        if buffersize is None:
            results._lift()
            pool._jobs.attend(results._job)
            if results._job not in pool._jobs.pending:
                pool._jobs.attended.pop(results._job, None)
        return _results(results, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls. `wait`: until all have been run and the workers have ended. `cancel_futures`: what has not
        begun is cancelled."""
        with self._lock:
            self._shut_down = True
            pool, finalize = self._pool, self._finalize
        if pool is not None:
            pool.shutdown(wait, cancel_futures=cancel_futures)
            if wait and finalize is not None:
                finalize.cancel()

    def __repr__(self) -> str:
        where = f"{type(self).__module__}.{type(self).__qualname__}"
        state = "shut down" if self._shut_down else "idle" if self._pool is None else repr(self._pool)
        return f"<{where} max_workers={self._max_workers} {state}>"


class _ExecutorFuture(QueuedFuture):
    """A Future that tells of a failing initializer as the standard library does."""

    def set_exception(self, exception: BaseException | None) -> None:
        super().set_exception(_broken(exception) if type(exception) is InitializerFailed else exception)


def _results(results: IMapIterator, deadline: float | None) -> Iterator[Any]:
    try:
        while True:
            try:
                value = results.next(None if deadline is None else deadline - monotonic())
            except StopIteration:
                return
            except TimeoutError as error:
                if type(error) is TimeoutError:
                    raise concurrent.futures.TimeoutError() from None
                raise
            yield value
    finally:
        if not results._is_over():
            results.cancel()
