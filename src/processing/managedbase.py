"""What blocked calls wait in, in a manager's server: the base of its queues and locks. No I/O, threads or clock.

    server                                      object (managedqueue.py, managedsync.py)
      a request: call, method, arguments ----->   its result, an exception, or PENDING
      the answer to one that was blocked <-----   call.answer(result) or call.fail(exception), in a later request
      timers.expire(now) --------------------->   overdue calls are answered
      owner_gone, process_gone, forget ------->   waits no more, gives back what it held

A blocked call is an entry in a list, first in, first out; the server needs no thread for it. What becomes free is
handed to the first who waits, so nobody overtakes: a queue that has items has nobody waiting to get one. `answer` and
`fail` are called at most once for a call, only after PENDING was returned for it, and must not call back into the
object. If one returns False, the client is gone: what was handed over goes to the next who waits.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from threading import TIMEOUT_MAX
from time import monotonic

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from typing import Any, ClassVar

__all__ = ["Call", "Managed", "NOBODY", "PENDING", "Timers", "drop_one", "seconds_of"]


class PENDING:
    """The result of a call that is answered later. This class itself, no instance."""


class Call:
    """One request of a client. The server subclasses it, with `answer` and `fail`."""

    __slots__ = ("owner", "process", "deadline", "waiting_at", "_list", "_note")

    def __init__(self, owner: Hashable, process: Hashable) -> None:
        self.owner = owner  # the thread of a client that calls
        self.process = process  # its process; if it has an attribute `pid`, LockOwnerDied says it
        self.deadline: float | None = None  # while it waits with a timeout: monotonic seconds
        self.waiting_at: Managed | None = None
        self._list: deque[Call] | None = None  # which it waits in
        self._note: Any = None  # what the object wants to know about it then

    def answer(self, result: Any) -> bool | None:
        """The call returns `result`. -> False: it could not be delivered."""
        raise NotImplementedError

    def fail(self, exception: BaseException) -> bool | None:
        """The call raises `exception`. -> False: it could not be delivered."""
        raise NotImplementedError


class Timers:
    """The deadlines of all calls that wait in one server. `now` gives monotonic seconds."""

    __slots__ = ("now", "_heap", "_number", "_stale")

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Call]] = []  # entries of calls that wait no more are removed later
        self._number = 0
        self._stale = 0

    def add(self, call: Call) -> None:
        assert call.deadline is not None
        self._number += 1
        heappush(self._heap, (call.deadline, self._number, call))

    def discard(self, call: Call) -> None:
        """The call waits no more, or without a deadline."""
        call.deadline = None
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].deadline == entry[0]]
            heapify(self._heap)
            self._stale = 0

    def next(self) -> float | None:
        """The first deadline; None: there is none."""
        heap = self._heap
        while heap:
            deadline, _, call = heap[0]
            if call.deadline == deadline:
                return deadline
            heappop(heap)
            self._stale -= 1
        return None

    def expire(self, now: float) -> None:
        """Ends the waiting of every call whose deadline is `now` or before."""
        while True:
            first = self.next()
            if first is None or first > now:
                return
            call = heappop(self._heap)[2]
            call.deadline = None
            assert call.waiting_at is not None
            call.waiting_at._timed_out(call)


def seconds_of(timeout: float | None, block: bool = True) -> float | None:
    """How long to wait: a timeout that was given, checked. None: for ever."""
    if not block:
        return 0
    if timeout is None:
        return None
    if timeout != timeout:
        raise ValueError("Invalid value NaN (not a number)")
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return timeout


class Managed:
    """Base of the objects. `exposed`: the methods that clients may call, each with the Call as first argument."""

    __slots__ = ("timers", "name", "_waiting", "__weakref__")

    exposed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, timers: Timers, name: str | None) -> None:
        self.timers = timers
        self.name = name
        self._waiting: deque[Call] = deque()

    def holds_anything(self) -> bool:
        """False: nobody waits here and nobody holds anything, so no end of a client changes anything."""
        return bool(self._waiting)

    def forget(self, call: Call) -> None:
        """The caller is gone or has given up: the call waits no more and is not answered. A barrier breaks."""
        at = call.waiting_at
        if at is not None:
            at._gone([call])

    def owner_gone(self, owner: Hashable) -> None:
        """A thread of a client has ended in an orderly way. Its RLock is released; a Lock stays locked."""
        self._gone([call for call in self._waiters() if call.owner == owner])

    def process_gone(self, process: Hashable, killed: bool) -> None:
        """A process has ended. killed: what it held is released; otherwise as `owner_gone` for its threads."""
        self._gone([call for call in self._waiters() if call.process == process])

    def undelivered(self, call: Call, method: str, result: Any) -> None:
        """`result` of that method did not reach its client, which is gone. A queue takes items back."""

    def _waiters(self) -> Iterable[Call]:
        return self._waiting

    def _block(self, call: Call, seconds: float | None, note: Any, waiting: deque[Call]) -> Any:
        waiting.append(call)
        call._list, call._note, call.waiting_at = waiting, note, self
        if seconds is not None:
            call.deadline = self.timers.now() + seconds
            self.timers.add(call)
        return PENDING

    def _settle(self, call: Call) -> Any:
        """It has left its list: it waits no more. -> its note"""
        note = call._note
        call.waiting_at = call._list = call._note = None
        if call.deadline is not None:
            self.timers.discard(call)
        return note

    def _withdraw(self, call: Call) -> Any:
        """Takes it out of its list. -> its note"""
        assert call._list is not None
        call._list.remove(call)
        return self._settle(call)

    def _gone(self, calls: list[Call]) -> None:
        """These, which wait here, are not to be answered."""
        for call in calls:
            self._withdraw(call)

    def _timed_out(self, call: Call) -> None:
        self._withdraw(call)
        call.answer(False)

    def __repr__(self) -> str:
        name = f" name={self.name!r}" if self.name else ""
        return f"<managed {type(self).__name__} at {id(self):#x} {self._facts()}{name}>"

    def _facts(self) -> str:
        return f"waiting={len(self._waiting)}"


NOBODY = object()  # stands for processes that have ended in an orderly way and left something taken


def drop_one(held: dict[Hashable, int], process: Hashable) -> None:
    """One is given back: of what this process holds, else of what was left, else of who has held some for longest."""
    process = process if process in held else NOBODY if NOBODY in held else next(iter(held), None)
    if held.get(process, 0) > 1:
        held[process] -= 1
    else:
        held.pop(process, None)
