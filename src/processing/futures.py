"""Futures of calls in a pool: real `concurrent.futures.Future`s, completed by whoever takes results (jobs.py).

Imported when the first Future is made: `concurrent.futures` costs some milliseconds.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

from .results import CALLING_FAILED, CALLING_OK, ApplyResult

__all__ = ["PoolFuture", "QueuedFuture", "cancel_queued", "submit"]


class PoolFuture(concurrent.futures.Future[Any]):
    """What `Pool.submit` gives: a Future whose `cancel` stops the call, also if it is running.

    The worker that runs it is replaced; other calls go on. In a ThreadPool only calls that have not begun are
    cancelled.
    """

    _call: _FutureCall | None = None

    def cancel(self) -> bool:
        """Stops the call; False if it has ended, or cannot be stopped."""
        return self.stop()

    def stop(self) -> bool:
        """Stops the call, also if it is running: the Future is cancelled. False if it has ended, or runs in a
        thread."""
        call = self._call
        if call is None or self.done():
            return super().cancel()
        if call._jobs.engine.cancel(call._job, 0) is False:
            return False
        return self._become_cancelled() and call._let_go()

    def running(self) -> bool:
        """Whether a worker runs the call just now."""
        call = self._call
        return call is not None and not self.done() and call._runs()

    def _become_cancelled(self) -> bool:
        if not super().cancel():
            return False
        try:
            self.set_running_or_notify_cancel()  # for wait() and as_completed()
        except RuntimeError:  # cancelled twice at once
            pass
        return True


class QueuedFuture(PoolFuture):
    """What ProcessPoolExecutor gives, with the standard library's `cancel`: only a call that has not begun is
    cancelled. `stop()` stops a running one."""

    def cancel(self) -> bool:
        """Cancels the call unless it has begun, or ended."""
        return False if self.running() else self.stop()


class _FutureCall(ApplyResult):
    """The call behind a Future."""

    __slots__ = ("_future",)

    def __init__(self, pool: Any, job: int, call: Any, timeout: float, future: PoolFuture) -> None:
        super().__init__(pool, pool._jobs, job, call, timeout)
        self._calls = [None, None]  # it is to be called back
        self._future: PoolFuture | None = future

    def _call_back(self) -> None:
        future = self._future
        if future is None or self._state not in (CALLING_OK, CALLING_FAILED):
            return
        try:
            if self._state == CALLING_OK:
                future.set_result(self._value)
            elif isinstance(self._value, concurrent.futures.CancelledError):
                future._become_cancelled()
            else:
                future.set_exception(self._value)
        except concurrent.futures.InvalidStateError:
            pass  # cancelled just now
        finally:
            self._state += 2
            self._let_go()

    def _let_go(self) -> bool:
        future, self._future = self._future, None
        if future is not None:
            future._call = None
        self._forget()
        self._jobs.stir()
        return True

    def _runs(self) -> bool:
        engine = self._jobs.engine
        ask = getattr(engine, "is_running", None)
        if ask is not None:
            return bool(ask(self._job, 0))
        return any(facts.running == (self._job, 0) for facts in engine.workers())


def submit(
    pool: Any, cls: type[PoolFuture], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PoolFuture:
    """Has a worker of the pool call `func(*args, **kwargs)`."""
    jobs = pool._jobs
    job = next(pool._numbers)
    future = cls()
    call = _FutureCall(pool, job, (func, args, kwargs), pool._timeout, future)
    future._call = call
    jobs.pending[job] = call
    try:
        pool._call(job, func, args, kwargs, pool._timeout, pool._retries)
    except BaseException:
        jobs.pending.pop(job, None)
        raise
    jobs.attend(job)
    if call._is_there():
        jobs.attended.pop(job, None)
    return future


def cancel_queued(pool: Any) -> None:
    """Cancels the Futures of calls that have not begun."""
    for result in list(pool._jobs.pending.values()):
        if isinstance(result, _FutureCall):
            future = result._future
            if future is not None and not future.running():
                future.stop()
