"""What `apply_async` and `map_async` give: results that will be there.

A result is told of its calls by whoever leads (jobs.py), by `_done`, `_ended` and `_abandon`; reports of a call that
has ended already are ignored: the first wins. What is adjacent there is one step to a signal.

    PENDING ─▶ CALLING_OK / CALLING_FAILED (its callbacks are due) ─▶ OK / FAILED
       └───────────────────── without callbacks ─────────────────────────┘
"""

from __future__ import annotations

import types

from .errors import TimeoutError
from .jobs import CANCELLED, FAILED, LOST, TIMEOUT, report

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from .feeding import Feed
    from .jobs import Jobs

__all__ = ["ApplyResult", "AsyncResult", "BroadcastResult", "MapResult"]

ANSWERS_MAX = 4096  # to a broadcast: no pool has so many workers
PENDING, CALLING_OK, CALLING_FAILED, ENDED_OK, ENDED_FAILED = range(5)


def error_of(kind: int, task: str, index: int, timeout: float, payload: Any) -> BaseException:
    """The exception of a call that ended in that way."""
    if kind == FAILED:
        error: BaseException = payload
        return error
    from . import blame

    facts = payload or {}
    if kind == LOST:
        return blame.worker_died(task, index, facts)
    if kind == TIMEOUT:
        return blame.overtime(task, index, timeout, facts)
    return blame.cancelled(f"{task} was cancelled")


class ApplyResult:
    """The result of a call that runs in a pool.

    May be used from several threads. Dropping it does not stop the call. Can be awaited: `await pool.apply_async(f)`;
    if the awaiting task is cancelled, so is the call.
    """

    __slots__ = ("_pool", "_jobs", "_job", "_state", "_value", "_calls", "_call", "_timeout", "__weakref__")
    _value: Any

    def __init__(
        self,
        pool: Any,
        jobs: Jobs,
        job: int,
        call: Any,
        timeout: float,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._pool = pool  # a pool lives as long as somebody waits for a result of it
        self._jobs = jobs
        self._job = job
        self._state = PENDING
        self._call = call  # (func, args, kwds), for messages
        self._timeout = timeout
        self._calls: list[Any] | None = None  # [callback, error_callback, function, function, ...]
        if callback is not None or error_callback is not None:
            self._calls = [callback, error_callback]

    __class_getitem__: Any = classmethod(types.GenericAlias)

    # -- For users

    def ready(self) -> bool:
        """Whether the call has ended (and its callbacks have been run). Does not block."""
        if self._state < ENDED_OK:
            self._jobs.poll()
        return self._state >= ENDED_OK

    def successful(self) -> bool:
        """Whether the call ended without an exception. ValueError if it has not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._state == ENDED_OK

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until the call has ended, at most `timeout` seconds."""
        if self._state < ENDED_OK:
            self._jobs.wait(self, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """What the call returned, as soon as it has; raises what it raised, with its remote traceback as the cause.

        processing.TimeoutError after `timeout` seconds; the call goes on. WorkerDied, TaskTimeout, CancelledError,
        RemoteError, InitializerFailed: see `processing.errors`.
        """
        if self._state < ENDED_OK and not self._jobs.wait(self, timeout):
            raise TimeoutError(f"{self._task()} has not ended within {timeout:g} s")
        if self._state == ENDED_OK:
            return self._value
        try:
            raise self._value
        finally:
            del self  # no cycle through the traceback

    def cancel(self) -> bool:
        """Stops the call, also if it is running: `get` raises concurrent.futures.CancelledError from now on.

        The worker that runs it is replaced; other calls go on. False if the call has ended already, or runs in a
        thread, which cannot be stopped. Does not wait: the call is gone some milliseconds later.
        """
        if self._state != PENDING:
            return self.cancelled()
        if self._jobs.engine.cancel(self._job, self._what_to_cancel()) is False:
            self._jobs.poll()  # it may have ended
            return False
        return self._give_up(f"{self._task()} was cancelled")

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        if self._state not in (CALLING_FAILED, ENDED_FAILED):
            return False
        from concurrent.futures import CancelledError

        return isinstance(self._value, CancelledError)

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """Has `function(result)` called once the call has ended, in some thread of this process; at once if it has."""
        added: list[Any] = [None, None, function]
        calls = self._calls
        if calls is None and self._state == PENDING:
            self._calls = added  # adjacent
        elif calls is not None and self._state < ENDED_OK:
            calls.append(function)  # adjacent: before the callbacks have all been run
        else:
            function(self)
            return
        self._jobs.attend(self._job)
        if self._state >= ENDED_OK:
            self._jobs.attended.pop(self._job, None)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._state < ENDED_OK:
            from asyncio import CancelledError, get_running_loop

            loop = get_running_loop()
            future = loop.create_future()

            def wake() -> None:
                if not future.done():
                    future.set_result(None)

            def ended(result: Any) -> None:
                try:
                    loop.call_soon_threadsafe(wake)
                except RuntimeError:
                    pass  # the loop is closed

            self.add_done_callback(ended)
            try:
                yield from future
            except CancelledError:
                self.cancel()
                raise
        return self.get()

    def __repr__(self) -> str:
        state = ("pending", "pending", "pending", "ended", "failed")[self._state]
        if self._state == ENDED_FAILED:
            state = f"raised {type(self._value).__name__}"
        where = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{where} at {id(self):#x} job={self._job} {state}>"

    # -- For jobs.py

    def _is_there(self) -> bool:
        return self._state >= ENDED_OK

    def _task(self, index: int = 0) -> str:
        from .blame import describe

        call = self._call
        return "the call" if call is None else describe(*call)

    def _what_to_cancel(self) -> int | None:
        return 0

    def _unfed(self) -> bool:
        """Whether there are calls that have not been sent yet."""
        return False

    def _lift(self) -> None:
        """The pool is being joined: all calls are to be sent, whoever waits."""

    def _done(self, first: int, payload: list[Any], ns: int) -> None:
        if self._state:
            if self._state >= ENDED_OK:
                self._forget()
        elif self._calls is None:
            self._value = payload[0]  # adjacent
            self._state = ENDED_OK
            del self._jobs.pending[self._job]
            self._pool = self._call = None
        else:
            self._settle(True, payload[0])

    def _ended(self, kind: int, first: int, payload: Any) -> None:
        if self._state == PENDING:
            self._settle(False, error_of(kind, self._task(), 0, self._timeout, payload))
        elif self._state >= ENDED_OK:
            self._forget()

    def _abandon(self, error: BaseException | None) -> None:
        if self._state == PENDING:
            self._settle(False, error)

    def _progress(self, index: int, payload: Any) -> None:
        pass

    def _settle(self, ok: bool, value: Any) -> bool:
        """It has ended; -> False if it had before."""
        if self._calls is not None:
            self._jobs.due.append(self)
        if self._state:
            return False
        if self._calls is None:
            self._value = value  # adjacent
            self._state = ENDED_OK if ok else ENDED_FAILED
            self._forget()
        else:
            self._value = value  # adjacent
            self._state = CALLING_OK if ok else CALLING_FAILED
        return True

    def _give_up(self, text: str) -> bool:
        """Ends as cancelled, from any thread; -> False if it had ended."""
        from .blame import cancelled

        if not self._settle(False, cancelled(text)):
            return False
        self._jobs.run_due()
        self._jobs.stir()
        return True

    def _forget(self) -> None:
        jobs = self._jobs
        jobs.pending.pop(self._job, None)
        jobs.attended.pop(self._job, None)
        self._pool = self._call = None

    def _call_back(self) -> None:
        """Runs the callbacks, and is ready then."""
        if self._state not in (CALLING_OK, CALLING_FAILED):
            return
        calls = self._calls
        assert calls is not None
        ok = self._state == CALLING_OK
        function = calls[0 if ok else 1]
        calls[0] = calls[1] = None  # adjacent: once only, also if a callback waits and comes here again
        try:
            if function is not None:
                function(self._value)
        except Exception as error:
            report(error)
        finally:
            self._state = ENDED_OK if ok else ENDED_FAILED
            self._forget()
        self._jobs.stir()
        while len(calls) > 2:
            function = calls[2]
            del calls[2]  # adjacent
            try:
                function(self)
            except Exception as error:
                report(error)


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """The results of a map, in order. The first failure, by index, is raised once all calls have ended."""

    __slots__ = ("_values", "_left", "_error", "_failed_at", "_feed", "_items", "_bar")

    def __init__(
        self,
        pool: Any,
        jobs: Jobs,
        feed: Feed,
        items: Any,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        bar: Any = None,
    ) -> None:
        super().__init__(pool, jobs, feed.job, None, feed.timeout, callback, error_callback)
        self._feed = feed
        self._items = items
        self._left = len(items)
        self._values: Any = [None] * self._left
        self._error: BaseException | None = None
        self._failed_at = -1
        self._bar = bar

    def _task(self, index: int = 0) -> str:
        from .blame import describe

        items = self._items
        if items is None or index >= len(items):
            return "the map"
        return describe(self._feed.func, items[index] if self._feed.star else (items[index],))

    def _what_to_cancel(self) -> int | None:
        return None

    def _done(self, first: int, payload: list[Any], ns: int) -> None:
        feed = self._feed
        count = len(payload)
        feed.ns += ns
        feed.calls += count
        batch = feed.batches.get(first)
        values = self._values
        if values is None:  # cancelled just now
            return
        if batch is not None and batch[2] is None and batch[1] == count:
            values[first : first + count] = payload  # adjacent
            del feed.batches[first]
            self._left -= count
        else:
            for at, fresh, batch, mark in feed.fresh(first, payload):
                many = len(fresh)
                marked = b"\1" * many
                values[at : at + many] = fresh  # adjacent
                batch[2][mark] = marked
                batch[1] -= many
                self._left -= many
        if self._bar is not None:
            self._bar.show(len(values) - self._left, first, count)
        if not self._left:
            self._complete()

    def _ended(self, kind: int, first: int, payload: Any) -> None:
        if self._feed.is_open(first):
            error = error_of(kind, self._task(first), first, self._timeout, payload)
            if kind == CANCELLED and self._error is not None:
                pass
            elif self._error is None or first < self._failed_at:
                self._error = error  # adjacent
                self._failed_at = first
            self._done(first, [None], 0)
        elif not self._left:
            self._complete()

    def _complete(self) -> None:
        if self._state >= ENDED_OK:
            self._forget()
        elif self._error is not None:
            self._settle(False, self._error)
        else:
            self._settle(True, self._values)

    def _forget(self) -> None:
        super()._forget()
        self._jobs.hungry.pop(self._job, None)
        self._values = self._items = None
        self._feed.drop()
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def _progress(self, index: int, payload: Any) -> None:
        if self._bar is not None:
            self._bar.inside(index, *payload)

    # -- Feeding

    def _unfed(self) -> bool:
        items = self._items
        return items is not None and self._feed.fed < len(items)

    def _push(self) -> None:
        """Sends as much as is wanted just now; what cannot be pickled fails alone."""
        feed = self._feed
        try:
            if not feed.lock.acquire(False):
                return
            items = self._items
            if items is None or self._state:
                self._jobs.hungry.pop(self._job, None)
                return
            total = len(items)
            while feed.fed < total:
                size = feed.size_now(total - feed.fed, items[feed.fed])
                if size == 0 or not feed.send(items[feed.fed : feed.fed + size]):
                    return
            self._jobs.hungry.pop(self._job, None)
        finally:
            try:
                feed.lock.release()
            except RuntimeError:
                pass  # another thread sends


class BroadcastResult(MapResult):
    """What every worker answered. How many there are is known once the call has been sent, when some may have come."""

    __slots__ = ()

    def __init__(self, pool: Any, jobs: Jobs, feed: Feed, call: Any) -> None:
        super().__init__(pool, jobs, feed, range(ANSWERS_MAX))
        self._items = call
        feed.batches[0] = [self._values, ANSWERS_MAX, bytearray(ANSWERS_MAX)]

    def _unfed(self) -> bool:
        return False

    def expect(self, count: int) -> None:
        """So many answers will come."""
        del self._values[count:]
        self._left -= ANSWERS_MAX - count
        if not self._left:
            self._complete()

    def _task(self, index: int = 0) -> str:
        from .blame import describe

        call = self._items
        return "the broadcast" if call is None else f"the broadcast of {describe(*call)}"
