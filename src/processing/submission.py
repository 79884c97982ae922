"""The methods of a pool that submit calls: from arguments to jobs, and what stands for their results."""

from __future__ import annotations

from .feeding import SIZE_MAX, Feed, length_of
from .iterators import IMapIterator, IMapUnorderedIterator
from .progress import make_bar
from .results import ApplyResult, MapResult

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from .jobs import Jobs
    from .poolqueues import OwnQueues

__all__ = ["Submitting", "checked_retries", "checked_timeout"]

RUN = "RUN"  # the state of a pool that takes calls


class Submitting:
    """What Pool inherits; pool.py owns the attributes."""

    _jobs: Jobs
    _state: str
    _retries: int
    _timeout: float
    _cap: int  # calls in a batch
    _numbers: Iterator[int]  # of jobs
    _call: Callable[..., object]  # the engine's
    _own: OwnQueues | None

    def _check_running(self) -> None:
        raise NotImplementedError

    # -- Single calls

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Any:
        """Has a worker call `func(*args, **kwds)`; blocks until it has returned. Interrupted (Ctrl-C), it is
        stopped."""
        return _wait_for(self.apply_async(func, args, kwds, timeout=timeout, retries=retries))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> ApplyResult:
        """Has a worker call `func(*args, **kwds)`; does not wait. Raises what pickling raises.

        `callback(value)` or `error_callback(exception)` is called in this process, in some thread, before `get`
        returns.
        """
        jobs = self._jobs
        if self._state != RUN or jobs.over is not None:
            self._check_running()
        limit = self._timeout if timeout is None else checked_timeout(timeout)
        job = next(self._numbers)
        call = (func, args, kwds)
        result = ApplyResult(self, jobs, job, call, limit, callback, error_callback)
        jobs.pending[job] = result
        try:
            self._call(
                job, func, args, kwds, limit, self._retries if retries is None else checked_retries(retries)
            )
        except BaseException:
            jobs.pending.pop(job, None)
            raise
        if result._calls is not None:
            jobs.attend(job)
            if result._is_there():
                jobs.attended.pop(job, None)
        if not job & 255:
            jobs.poll()  # results that nobody asks for do not pile up
        return result

    def submit(
        self, func: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """As `concurrent.futures.Executor.submit`: has a worker call `func(*args, **kwargs)`, and gives a Future.

        Its `cancel()` stops the call, also if it is running. So does cancelling asyncio's `run_in_executor(pool, ...)`.
        """
        self._check_running()
        from .futures import PoolFuture, submit

        return submit(self, PoolFuture, func, args, kwargs)

    # -- Maps

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Any = None,
    ) -> list[Any]:
        """A list of `func(item)` for each item. If some calls fail, the first failure (by index) is raised in the end.

        Batches are made as large as the measured time of calls suggests; `chunksize` is the largest.
        """
        result = self._map(func, iterable, chunksize, False, None, None, timeout, retries, progress)
        values: list[Any] = _wait_for(result)
        return values

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Any = None,
    ) -> list[Any]:
        """As `map`, with `func(*item)`."""
        result = self._map(func, iterable, chunksize, True, None, None, timeout, retries, progress)
        values: list[Any] = _wait_for(result)
        return values

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Any = None,
    ) -> MapResult:
        """As `map`, but does not wait."""
        result = self._map(
            func, iterable, chunksize, False, callback, error_callback, timeout, retries, progress
        )
        return self._see_through(result, progress)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Any = None,
    ) -> MapResult:
        """As `starmap`, but does not wait."""
        result = self._map(
            func, iterable, chunksize, True, callback, error_callback, timeout, retries, progress
        )
        return self._see_through(result, progress)

    def _feed(self, func: Any, star: bool, cap: int, timeout: float | None, retries: int | None) -> Feed:
        limit = self._timeout if timeout is None else checked_timeout(timeout)
        tries = self._retries if retries is None else checked_retries(retries)
        return Feed(self._jobs, next(self._numbers), func, star, limit, tries, min(cap, self._cap))

    def _map(
        self,
        func: Any,
        iterable: Iterable[Any],
        chunksize: int | None,
        star: bool,
        callback: Any,
        error_callback: Any,
        timeout: float | None,
        retries: int | None,
        progress: Any,
    ) -> MapResult:
        self._check_running()
        items = iterable if type(iterable) is range else list(iterable)
        if (own := self._own) is not None:
            items, func, star = list(own.items(func, items, star)), own.run, False
        feed = self._feed(func, star, SIZE_MAX if chunksize is None else max(1, chunksize), timeout, retries)
        jobs = self._jobs
        bar = make_bar(len(items), progress)
        result = MapResult(self, jobs, feed, items, callback, error_callback, bar)
        if not items:
            result._complete()
            jobs.run_due()
            return result
        jobs.pending[feed.job] = jobs.hungry[feed.job] = result
        try:
            result._push()
        except BaseException:
            jobs.engine.cancel(feed.job, None)
            result._forget()
            raise
        return result

    def _see_through(self, result: MapResult, progress: Any) -> MapResult:
        """A map that nobody may wait for: the pump does, if something has to be done for it."""
        jobs = self._jobs
        if result._calls is not None or progress or result._job in jobs.hungry:
            jobs.attend(result._job)
            if result._is_there():
                jobs.attended.pop(result._job, None)
        return result

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        window: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Any = None,
    ) -> IMapIterator:
        """An iterator over `func(item)`, in order; its `next(timeout)` can wait for a limited time.

        The input is read no faster than results are taken: at most `window` items more (rounded up to chunks; None: a
        few batches for each worker). Small calls are sent in batches, whatever `chunksize` says; if it is above 1, it
        is the largest. A failed call raises in `next`, and the iterator goes on. If reading the input raises, so does
        `next`, after the results of what had been read. Inputs that could block are read by a thread.
        """
        made: IMapIterator = self._imap(
            IMapIterator, func, iterable, chunksize, False, window, timeout, retries, progress
        )
        return made

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        window: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Any = None,
    ) -> IMapUnorderedIterator:
        """As `imap`, with the results in the order in which the calls end."""
        cls = IMapUnorderedIterator
        made: IMapUnorderedIterator = self._imap(
            cls, func, iterable, chunksize, False, window, timeout, retries, progress
        )
        return made

    def _imap(
        self,
        cls: Any,
        func: Any,
        iterable: Iterable[Any],
        chunksize: int,
        star: bool,
        window: int | None,
        timeout: float | None,
        retries: int | None,
        progress: Any,
    ) -> Any:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        bar = make_bar(length_of(iterable), progress)
        if (own := self._own) is not None:
            iterable, func, star = own.items(func, iterable, star), own.run, False
        feed = self._feed(func, star, SIZE_MAX if chunksize == 1 else chunksize, timeout, retries)
        return cls(self, self._jobs, feed, iterable, chunksize, window, bar)


def _wait_for(result: ApplyResult) -> Any:
    """Of a call that nobody else can wait for: an interrupt stops it."""
    try:
        return result.get()
    except BaseException as error:
        if not isinstance(error, Exception) and not result._is_there():
            result.cancel()
        raise


def checked_timeout(timeout: float | None) -> float:
    """For the engine: seconds, 0.0 for none."""
    if timeout is None:
        return 0.0
    if not timeout > 0:
        raise ValueError(f"timeout must be above 0 seconds, not {timeout!r}")
    return float(timeout)


def checked_retries(retries: int) -> int:
    """For the engine."""
    if not isinstance(retries, int) or not 0 <= retries <= 255:
        raise ValueError(f"retries must be an int from 0 to 255, not {retries!r}")
    return retries
