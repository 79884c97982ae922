"""The queues that live in a manager's server: pure state machines (how they work: managedbase.py)."""

from __future__ import annotations

import sys
from bisect import insort_left, insort_right
from collections import deque
from functools import partial
from queue import Empty, Full

from .errors import LostItems
from .managedbase import NOBODY, PENDING, Call, Managed, Timers, drop_one, seconds_of

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """The queue has been shut down. As `queue.ShutDown`, which this is from Python 3.13 on."""


TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from typing import Any

    Storage = tuple[Any, Callable[[Any], object], Callable[[], Any], Callable[[Any], object]]

__all__ = ["JoinableQueue", "LifoQueue", "PriorityQueue", "Queue", "ShutDown"]
__all__ += ["Call", "Managed", "PENDING", "Timers"]


class Queue(Managed):
    """As `queue.Queue` of Python 3.13, with the batches of `processing.Queue`.

    An item that was handed to a getter who turns out to be gone goes back to the front: `answer` returned False, or
    `undelivered` was called. `join` returns whether all is done; it is False only after a timeout.
    """

    # Notes of getters (_waiting): None or the most for `get_many`; of _putters: what is not in yet, how many in all.
    __slots__ = (
        "maxsize", "_limit", "_items", "_add", "_take", "_back", "_putters", "_joiners", "_unfinished", "_lost",
        "_held", "_closed", "_cut_off",
    )  # fmt: skip

    exposed = (
        "qsize", "empty", "full", "put", "put_nowait", "put_many", "get", "get_nowait", "get_many", "task_done", "join",
        "shutdown",
    )  # fmt: skip

    def __init__(self, maxsize: int = 0, *, timers: Timers, name: str | None = None) -> None:
        super().__init__(timers, name)
        self.maxsize = maxsize
        self._limit = maxsize if maxsize > 0 else sys.maxsize  # 0 after shutdown
        self._putters: deque[Call] = deque()
        self._joiners: deque[Call] = deque()
        self._unfinished = 0
        self._lost = 0
        self._held: dict[Hashable, int] = {}  # JoinableQueue: process -> items it took that are not done
        self._closed = False
        self._cut_off = False  # was shut down at once: there are no items any more
        self._items, self._add, self._take, self._back = self._storage()

    def _storage(self) -> Storage:
        """The items, and how to put one, take one, take one back."""
        items: deque[Any] = deque()
        return items, items.append, items.popleft, items.appendleft

    def qsize(self, call: Call) -> int:
        return len(self._items)

    def empty(self, call: Call) -> bool:
        return not self._items

    def full(self, call: Call) -> bool:
        return 0 < self.maxsize <= len(self._items)

    def put(self, call: Call, item: Any, block: bool = True, timeout: float | None = None) -> Any:
        if timeout is None and len(self._items) < self._limit and not self._waiting:
            self._add(item)
            self._unfinished += 1
            return None
        return self.put_many(call, (item,), block, timeout)

    def put_late(self, item: Any) -> None:
        """A put whose client has not waited for it. It came before a shutdown, if there was one since."""
        if self._cut_off:
            return
        self._add(item)
        self._unfinished += 1
        if self._waiting:
            self._pump()

    def takes_all(self) -> bool:
        """Whether no put has to wait."""
        return self._limit == sys.maxsize

    def put_nowait(self, call: Call, item: Any) -> Any:
        return self.put(call, item, False)

    def put_many(self, call: Call, items: Any, block: bool = True, timeout: float | None = None) -> Any:
        """Puts them as there is room. queue.Full has an attribute `put`: how many were put."""
        if self._closed:
            raise ShutDown
        seconds = self._seconds(block, timeout) if self.maxsize > 0 else None
        pending = deque(items)
        count = len(pending)
        while pending and len(self._items) < self._limit:
            self._add(pending[0])
            pending.popleft()
            self._unfinished += 1
            if self._waiting:
                self._pump()
        if not pending:
            return None
        if seconds is None or seconds > 0:
            return self._block(call, seconds, (pending, count), self._putters)
        raise self._full(pending, count)

    def get(self, call: Call, block: bool = True, timeout: float | None = None) -> Any:
        if timeout is None and self._items and not self._putters:
            return self._take()
        return self._get(call, None, block, timeout)

    def get_nowait(self, call: Call) -> Any:
        return self.get(call, False)

    def get_many(
        self, call: Call, max_items: int | None = None, block: bool = True, timeout: float | None = None
    ) -> Any:  # fmt: skip
        """Takes what is there, at most `max_items` (None: all), as a list; waits like `get` for the first."""
        if max_items is None:
            max_items = sys.maxsize
        elif max_items < 1:
            raise ValueError(f"max_items must be at least 1, or None for all, not {max_items}")
        return self._get(call, max_items, block, timeout)

    def task_done(self, call: Call) -> None:
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._held:
            drop_one(self._held, call.process)
        if not self._unfinished:
            self._finished()

    def join(self, call: Call, timeout: float | None = None) -> Any:
        seconds = seconds_of(timeout)
        if not self._unfinished:
            if self._lost:
                lost, self._lost = self._lost, 0
                raise self._lost_items(lost)
            return True
        if seconds is not None and seconds <= 0:
            return False
        return self._block(call, seconds, None, self._joiners)

    def shutdown(self, call: Call, immediate: bool = False) -> None:
        self._closed = True
        self._limit = 0
        if immediate:
            self._cut_off = True
            self._unfinished = max(0, self._unfinished - len(self._items))
            self._items.clear()
            if not self._unfinished:
                self._finished()
        for waiting in (self._putters, self._waiting):
            while waiting:
                waiter = waiting.popleft()
                self._settle(waiter)
                waiter.fail(ShutDown())

    def holds_anything(self) -> bool:
        return bool(self._waiting or self._putters or self._joiners or self._held)

    def undelivered(self, call: Call, method: str, result: Any) -> None:
        if method in ("get", "get_nowait", "get_many"):
            self._take_back(call, result if method == "get_many" else [result])
            self._pump()

    def _waiters(self) -> Iterable[Call]:
        return [*self._waiting, *self._putters, *self._joiners]

    def _seconds(self, block: bool, timeout: float | None) -> float | None:
        if block and timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        return seconds_of(timeout, block)

    def _full(self, pending: deque[Any], count: int) -> Full:
        error = Full()
        error.put = count - len(pending)  # type: ignore[attr-defined]
        return error

    def _get(self, call: Call, most: int | None, block: bool, timeout: float | None) -> Any:
        if self._closed and not self._items:
            raise ShutDown
        seconds = self._seconds(block, timeout)
        if self._items:
            got = self._grab(call, most)
            if self._putters:
                self._pump()
            return got
        if seconds is None or seconds > 0:
            return self._block(call, seconds, most, self._waiting)
        raise Empty

    def _grab(self, call: Call, most: int | None) -> Any:
        """What a getter gets; there is something."""
        if most is None:
            return self._take()
        return [self._take() for _ in range(min(most, len(self._items)))]

    def _take_back(self, call: Call, items: list[Any]) -> None:
        for item in reversed(items):
            self._back(item)

    def _pump(self) -> None:
        """Lets putters and getters go on for as long as they can."""
        while True:
            while self._putters and len(self._items) < self._limit:
                call = self._putters[0]
                pending, _ = call._note
                try:
                    self._add(pending[0])
                except Exception as error:  # a PriorityQueue whose items do not compare
                    self._withdraw(call)
                    call.fail(error)
                    continue
                pending.popleft()
                self._unfinished += 1
                if not pending:
                    self._withdraw(call)
                    call.answer(None)
            if not self._waiting or not self._items:
                return
            call = self._waiting.popleft()
            most = self._settle(call)
            got = self._grab(call, most)
            if call.answer(got) is False:
                self._take_back(call, [got] if most is None else got)

    def _timed_out(self, call: Call) -> None:
        if call._list is self._joiners:
            super()._timed_out(call)
        elif call._list is self._putters:
            call.fail(self._full(*self._withdraw(call)))
        else:
            self._withdraw(call)
            call.fail(Empty())

    def _finished(self) -> None:
        """Nothing is unfinished: those who join go on."""
        lost = self._lost
        while self._joiners:
            call = self._joiners.popleft()
            self._settle(call)
            if not lost:
                call.answer(True)
            elif call.fail(self._lost_items(lost)) is not False:
                self._lost = 0

    def _lost_items(self, count: int) -> LostItems:
        what = f"{count} item{'s' if count > 1 else ''} of {self!r} had been taken by processes that died"
        why = "before task_done(); whether their work was done is not known. All other items are done"
        return LostItems(f"{what} {why}", count)

    def _facts(self) -> str:
        return f"size={len(self._items)}{' shut down' if self._closed else ''}"


class JoinableQueue(Queue):
    """A Queue that knows which process took the items that are not done. Those of a killed process count as done;
    `join` raises LostItems for them, once, when all others are done."""

    __slots__ = ()

    def get(self, call: Call, block: bool = True, timeout: float | None = None) -> Any:
        return self._get(call, None, block, timeout)

    def process_gone(self, process: Hashable, killed: bool) -> None:
        super().process_gone(process, killed)
        count = self._held.pop(process, 0)
        # Some may be done: who calls task_done for an item before taking it is not found out.
        count = min(count, self._unfinished - len(self._items))
        if count > 0 and not killed:
            self._held[NOBODY] = self._held.get(NOBODY, 0) + count
        elif count > 0:
            self._lost += count
            self._unfinished -= count
            if not self._unfinished:
                self._finished()

    def _grab(self, call: Call, most: int | None) -> Any:
        got = super()._grab(call, most)
        count = 1 if most is None else len(got)
        self._held[call.process] = self._held.get(call.process, 0) + count
        return got

    def _take_back(self, call: Call, items: list[Any]) -> None:
        super()._take_back(call, items)
        for _ in items:
            if call.process in self._held or NOBODY in self._held:
                drop_one(self._held, call.process if call.process in self._held else NOBODY)
            elif self._lost:
                self._lost -= 1  # its process was found dead before: not lost after all
        self._unfinished = max(self._unfinished, len(self._items) + sum(self._held.values()))


class LifoQueue(Queue):
    """As `queue.LifoQueue`."""

    __slots__ = ()

    def _storage(self) -> Storage:
        items: list[Any] = []
        return items, items.append, items.pop, items.append


class PriorityQueue(Queue):
    """As `queue.PriorityQueue`; equal items leave in the order in which they came."""

    __slots__ = ()

    def _storage(self) -> Storage:
        # Sorted, not a heap: an item that does not compare must leave the others as they were.
        items: list[Any] = []
        return items, partial(insort_right, items), partial(items.pop, 0), partial(insort_left, items)
