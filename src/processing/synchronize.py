"""Locks, semaphores, conditions, events and barriers for processes: the API of `threading`.

Each is one object in the program's arena and a handle in every process that has it. Handles pickle at any time: they
go through queues and pipes to processes that already run, not only to children. The fast halves (acquire, release,
`with`) are in `_native`, the waiting halves in `_sync`; the classes here add names, `repr` and `statistics()`.

What happens when a process is killed is said at each class; what a process that ends in an orderly way had acquired
stays acquired, and may be released by another process.
"""

from __future__ import annotations

import time
from threading import BrokenBarrierError

from . import _native, _program, _sync

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    from .counters import (
        BarrierStatistics,
        ConditionStatistics,
        EventStatistics,
        LockStatistics,
        SemaphoreStatistics,
    )

    _T = TypeVar("_T")

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Semaphore",
]

SEM_VALUE_MAX = 2**31 - 1
_BOUNDED_MAX = 1_000_000


def _reopen(cls: type[_T], program: int, offset: int, generation: int) -> _T:
    kind, _, name_at = cls._layout  # type: ignore[attr-defined]
    handle: _T = _native.reopen(cls, kind, program, offset, generation, name_at)
    return handle


def _new(cls: type[_T], name: str | None, more: int = 0) -> _T:
    kind, size, name_at = cls._layout  # type: ignore[attr-defined]
    self: Any = _native.create(cls, kind, size + more, name_at)
    if name:
        self.name = name
    return self  # type: ignore[no-any-return]


class _Pickles:
    """A handle pickles as its place in the arena; a message that carries it keeps the object alive."""

    __slots__ = ()
    _layout: tuple[int, int, int]  # kind, bytes, place of the name

    def __reduce__(self) -> tuple[Any, ...]:
        _program.note(self)
        return _reopen, (type(self), *self._key())  # type: ignore[attr-defined]

    def __copy__(self: _T) -> _T:
        return self

    def __deepcopy__(self: _T, memo: object) -> _T:
        return self


def _tail(self: Any) -> str:
    """The end of a repr: the name, if the object has one."""
    name = self.name if self._is_open else None
    return f" name={name!r}>" if name else ">"


class Lock(_Pickles, _native.Lock):
    """A lock that processes and threads share, as `threading.Lock`.

    Any process may release it. If the process that holds it is killed, the next `acquire` raises LockOwnerDied and
    leaves the lock free.
    """

    __slots__ = ()
    _layout = _sync.LOCK

    def __new__(cls, *, name: str | None = None, ctx: object = None) -> Lock:
        return _new(cls, name)

    def locked(self) -> bool:
        """True if somebody holds it."""
        return bool(_sync.lock_facts(self)[0])

    def statistics(self) -> LockStatistics:
        """Counters, over all processes."""
        locked, owner, _, acquired, contended, died, _ = _sync.lock_facts(self)
        from .counters import LockStatistics

        return LockStatistics(locked, owner, acquired, contended, died)

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__}(closed)>"
        locked, owner, mine, *_, depth = _sync.lock_facts(self)
        who = "None" if not locked else _me() if mine else f"pid {owner}" if owner else "SomeOtherProcess"
        state = f"{who}, {depth}" if self._layout is _sync.RLOCK else f"owner={who}"
        return f"<{type(self).__name__}({state}){_tail(self)}"


def _me() -> str:
    from threading import current_thread, main_thread

    from .process import current_process

    name = current_process().name
    thread = current_thread()
    return name if thread is main_thread() else f"{name}|{thread.name}"


class RLock(_Pickles, _native.RLock):
    """A lock that the thread which holds it may acquire again; it releases as often.

    Owned by one thread of one process: nobody else can release it (AssertionError). If that process is killed, the next
    `acquire` raises LockOwnerDied and leaves the lock free.
    """

    __slots__ = ()
    _layout = _sync.RLOCK

    def __new__(cls, *, name: str | None = None, ctx: object = None) -> RLock:
        return _new(cls, name)

    locked = Lock.locked
    statistics = Lock.statistics
    __repr__ = Lock.__repr__

    def _is_owned(self) -> bool:
        return bool(_sync.lock_facts(self)[2])


def _check_value(value: int, most: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"the value of a semaphore is an int, not {type(value).__name__}")
    if not 0 <= value <= most:
        raise ValueError(f"the value of this semaphore must be from 0 to {most}, not {value}")
    return value


class Semaphore(_Pickles, _native.Semaphore):
    """A counter that `release` raises and `acquire` lowers, waiting while it is zero.

    A permit may stand for a signal from one process to another, so those of a killed process are not given back; use
    BoundedSemaphore for permits that are.
    """

    __slots__ = ()
    _layout = _sync.SEMAPHORE

    def __new__(cls, value: int = 1, *, name: str | None = None, ctx: object = None) -> Semaphore:
        _check_value(value, SEM_VALUE_MAX)
        self = _new(cls, name)
        _sync.semaphore_init(self, value, False)
        return self

    def get_value(self) -> int:
        """How many permits are free now."""
        return int(_sync.semaphore_facts(self, False)[0])

    def statistics(self) -> SemaphoreStatistics:
        """Counters, over all processes."""
        from .counters import SemaphoreStatistics

        return SemaphoreStatistics(*_sync.semaphore_facts(self, False))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value() if self._is_open else 'closed'}){_tail(self)}"


class BoundedSemaphore(_Pickles, _native.BoundedSemaphore):
    """A semaphore that knows who holds its permits.

    Releasing more than was acquired is a ValueError. The permits of a killed process are taken back by the next who
    waits (within a fraction of a second). At most 1,000,000 permits, four bytes of shared memory each.
    """

    __slots__ = ()
    _layout = _sync.BOUNDED_SEMAPHORE

    def __new__(cls, value: int = 1, *, name: str | None = None, ctx: object = None) -> BoundedSemaphore:
        _check_value(value, _BOUNDED_MAX)
        self = _new(cls, name, 4 * value)
        _sync.semaphore_init(self, value, True)
        return self

    def get_value(self) -> int:
        """How many permits are free now."""
        return int(_sync.semaphore_facts(self, True)[0])

    def statistics(self) -> SemaphoreStatistics:
        """Counters, over all processes."""
        from .counters import SemaphoreStatistics

        return SemaphoreStatistics(*_sync.semaphore_facts(self, True))

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__}(closed)>"
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={_sync.bounded_permits(self)}){_tail(self)}"


class Condition(_Pickles, _sync.ConditionBase):
    """A condition variable over a Lock or RLock (an RLock of its own by default), as `threading.Condition`.

    A waiter that is killed costs nobody a notification: if it had been notified, the next one is. If the process that
    holds the lock is killed, whoever takes the lock next, in `acquire` or on the way out of `wait`, gets LockOwnerDied.
    """

    _layout = _sync.CONDITION
    _lock: Lock | RLock

    def __new__(
        cls, lock: Lock | RLock | None = None, *, name: str | None = None, ctx: object = None
    ) -> Condition:
        if lock is None:
            lock = RLock()
        elif not isinstance(lock, (Lock, RLock)):
            raise TypeError(
                f"the lock of a Condition is a processing Lock or RLock, not {type(lock).__name__}"
            )
        self = _new(cls, name)
        self._set_lock(lock)
        return self

    def _set_lock(self, lock: Lock | RLock) -> None:
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release

    def __reduce__(self) -> tuple[Any, ...]:
        _program.note(self)
        return _reopen_condition, (type(self), self._lock, *self._key())

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock, blocks until notified or for `timeout` seconds, takes the lock again; -> notified?

        AssertionError if the caller does not hold the lock.
        """
        return self._wait(self._lock, timeout)

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Waits until `predicate()` is true, at most `timeout` seconds; -> its last value."""
        result = predicate()
        end = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while not result:
            self.wait(left)
            result = predicate()
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    break
        return result

    def notify(self, n: int = 1) -> None:
        """Wakes the `n` that have waited longest. AssertionError if the caller does not hold the lock."""
        self._notify(self._lock, n)

    def notify_all(self) -> None:
        """Wakes everybody who waits."""
        self._notify(self._lock, 2**32 - 1)

    def statistics(self) -> ConditionStatistics:
        """Counters, over all processes."""
        from .counters import ConditionStatistics

        return ConditionStatistics(self._waiting(), *self._counts())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock!r}, {self._waiting() if self._is_open else 'closed'}){_tail(self)}"


def _reopen_condition(
    cls: type[Condition], lock: Lock | RLock, program: int, offset: int, generation: int
) -> Condition:
    self = _reopen(cls, program, offset, generation)
    if not hasattr(self, "_lock"):
        self._set_lock(lock)
    return self


class Event(_Pickles, _sync.EventBase):
    """A flag to wait for, as `threading.Event`.

    `set` releases everybody who waits, even if `clear` follows at once. That the process which should set it has
    died is nothing an event can know: give `wait` a timeout.
    """

    _layout = _sync.EVENT

    def __new__(cls, *, name: str | None = None, ctx: object = None) -> Event:
        return _new(cls, name)

    def statistics(self) -> EventStatistics:
        """Counters, over all processes."""
        from .counters import EventStatistics

        return EventStatistics(self.is_set(), self._sets())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {'set' if self.is_set() else 'unset'}{_tail(self)}"


class Barrier(_Pickles, _sync.BarrierBase):
    """A place where `parties` processes or threads meet, as `threading.Barrier`.

    `wait` returns a different number from 0 to parties - 1 to each. The barrier breaks (BrokenBarrierError for all,
    until `reset`) when one that has arrived is killed, gives up by timeout, or when the action fails. The action and
    the default timeout belong to the handle: they travel with it when it is pickled.
    """

    _layout = _sync.BARRIER
    _action: Callable[[], object] | None
    _timeout: float | None

    def __new__(
        cls,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        name: str | None = None,
        ctx: object = None,
    ) -> Barrier:
        if parties < 1:
            raise ValueError(f"a barrier needs at least one party, not {parties}")
        self = _new(cls, name, 8 * parties)
        self._init(parties)
        self._action, self._timeout = action, timeout
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Blocks until all parties have arrived, at most `timeout` seconds (the barrier's own by default)."""
        return self._wait(self._action, self._timeout if timeout is None else timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        _program.note(self)
        return _reopen_barrier, (type(self), self._action, self._timeout, *self._key())

    def statistics(self) -> BarrierStatistics:
        """Counters, over all processes."""
        from .counters import BarrierStatistics

        return BarrierStatistics(self.parties, self.n_waiting, self._passed(), self.broken)

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__}(closed)>"
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{type(self).__name__} at {id(self):#x}: {state}{_tail(self)}"


def _reopen_barrier(
    cls: type[Barrier],
    action: Callable[[], object] | None,
    timeout: float | None,
    program: int,
    offset: int,
    generation: int,
) -> Barrier:
    self = _reopen(cls, program, offset, generation)
    if not hasattr(self, "_action"):
        self._action, self._timeout = action, timeout
    return self


for _cls, _base in (
    (Lock, _native.Lock),
    (RLock, _native.RLock),
    (Semaphore, _native.Semaphore),
    (BoundedSemaphore, _native.BoundedSemaphore),
):
    _native.own(_cls, _base)


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
