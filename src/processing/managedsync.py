"""The locks and their kin that live in a manager's server: pure state machines (how they work: managedbase.py).

What becomes free is handed to the first who waits, so nobody overtakes: a lock that is free has nobody waiting for it.
Errors are those of `threading`; LockOwnerDied is added for what a killed process held.
"""

from __future__ import annotations

from threading import BrokenBarrierError

from . import _failures
from .managedbase import NOBODY, PENDING, Call, Managed, Timers, drop_one, seconds_of

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]
__all__ += ["Call", "Managed", "PENDING", "Timers"]


# ---- Locks ----------------------------------------------------------------------------------------------------------

OPEN, LOCKED, DIED = 0, 1, 2  # DIED: free, but the next who acquires it is told that its owner died


class _Exclusive(Managed):
    """What Lock and RLock have in common. The note of a call that waits: None (acquire) or, if it was moved here by a
    condition, (condition, count to restore, whether it was notified)."""

    __slots__ = ("_state", "_owner", "_process", "_count", "_dead")

    exposed = ("acquire", "release", "locked")
    _recursive = False

    def __init__(self, *, timers: Timers, name: str | None = None) -> None:
        super().__init__(timers, name)
        self._state = OPEN
        self._owner: Hashable = None
        self._process: Hashable = None
        self._count = 1
        self._dead: Hashable = None

    def locked(self, call: Call) -> bool:
        return self._state == LOCKED

    def holds_anything(self) -> bool:
        return self._state == LOCKED  # nobody waits for one that is free

    def process_gone(self, process: Hashable, killed: bool) -> None:
        if self._waiting:
            gone = [call for call in self._waiting if call.process == process]
            # So that a notification is not passed on to another thread of that process.
            for condition in {call._note[0] for call in gone if call._note is not None}:
                Managed.process_gone(condition, process, killed)
            self._gone(gone)
        if self._state == LOCKED and self._process == process:
            if killed:
                self._dead = process
                self._open(DIED)
            else:
                self._ended()

    def _ended(self) -> None:
        """The process that holds it has ended in an orderly way."""
        self._open()

    def _is_owned(self, call: Call) -> bool:
        return self._state == LOCKED and self._owner == call.owner

    def _take(self, call: Call, count: int) -> None:
        self._state, self._count = LOCKED, count
        self._owner, self._process = call.owner, call.process

    def _open(self, state: int = OPEN) -> None:
        self._state = state
        self._owner = self._process = None
        if self._waiting:
            self._advance()

    def _advance(self) -> None:
        """While it is free, hands it to the first who waits."""
        while self._state != LOCKED and self._waiting:
            before = self._state
            call = self._waiting.popleft()
            note = self._settle(call)
            error = self._owner_died() if before == DIED else None
            if note is None and error is not None:
                self._state = OPEN
                if call.fail(error) is False:
                    self._state = DIED
                continue
            # Out of `wait` comes LockOwnerDied with the lock held: the `with` around it will release it.
            self._take(call, 1 if note is None else note[1])
            result = note is None or note[2]
            if (call.answer(result) if error is None else call.fail(error)) is False:
                self._state = before
                self._owner = self._process = None
                if note is not None and note[2]:
                    note[0]._move(1)

    def _owner_died(self) -> BaseException:
        return _failures.owner_died(self, getattr(self._dead, "pid", 0))

    def _acquire_slowly(self, call: Call, blocking: bool, timeout: float | None) -> Any:
        if timeout == -1:
            timeout = None
        elif timeout is not None and not blocking:
            raise ValueError("can't specify a timeout for a non-blocking call")
        elif timeout is not None and timeout < 0:
            raise ValueError("timeout value must be a non-negative number")
        seconds = seconds_of(timeout)
        if self._state == OPEN:
            self._take(call, 1)
            return True
        if self._state == DIED:
            self._state = OPEN
            raise self._owner_died()
        if self._recursive and self._owner == call.owner:
            self._count += 1
            return True
        if not blocking or seconds == 0:
            return False
        return self._block(call, seconds, None, self._waiting)

    def _gone(self, calls: list[Call]) -> None:
        notes = [self._withdraw(call) for call in calls]
        for note in notes:
            if note is not None and note[2]:
                note[0]._move(1)

    def _facts(self) -> str:
        state = ("free", f"owner={self._owner!r}", "free, its owner died")[self._state]
        return f"{state} waiting={len(self._waiting)}"


class Lock(_Exclusive):
    """As `threading.Lock`: anybody may release it."""

    __slots__ = ()

    def acquire(self, call: Call, blocking: bool = True, timeout: float | None = None) -> Any:
        if self._state == 0 and timeout is None:
            self._state = 1
            self._owner = call.owner
            self._process = call.process
            return True
        return self._acquire_slowly(call, blocking, timeout)

    def release(self, call: Call) -> None:
        if self._state != 1:
            raise RuntimeError("release unlocked lock")
        self._state = 0
        self._owner = self._process = None
        if self._waiting:
            self._advance()

    def _ended(self) -> None:
        self._owner = self._process = None


class RLock(_Exclusive):
    """As `threading.RLock`: owned by the thread (`call.owner`) that acquired it."""

    __slots__ = ()

    _recursive = True

    def acquire(self, call: Call, blocking: bool = True, timeout: float | None = None) -> Any:
        if timeout is None:
            if self._state == 0:
                self._state = self._count = 1
                self._owner = call.owner
                self._process = call.process
                return True
            if self._owner == call.owner and self._state == 1:
                self._count += 1
                return True
        return self._acquire_slowly(call, blocking, timeout)

    def release(self, call: Call) -> None:
        if self._state != 1 or self._owner != call.owner:
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._state = 0
            self._owner = self._process = None
            if self._waiting:
                self._advance()

    def owner_gone(self, owner: Hashable) -> None:
        super().owner_gone(owner)
        if self._state == LOCKED and self._owner == owner:
            self._open()


class Condition(Managed):
    """As `threading.Condition`, over a managed Lock or RLock (an RLock of its own by default).

    The caller of `wait` and `notify` must itself have acquired the lock, a plain Lock too. A waiter that is notified
    or timed out moves to the list of the lock, and is answered when it has the lock. If it goes before that, the
    notification goes to the next waiter.
    """

    __slots__ = ("_lock", "acquire", "release")

    exposed = ("acquire", "release", "wait", "notify", "notify_all")

    acquire: Callable[..., Any]
    release: Callable[[Call], None]

    def __init__(self, lock: Lock | RLock | None = None, *, timers: Timers, name: str | None = None) -> None:
        super().__init__(timers, name)
        if lock is None:
            lock = RLock(timers=timers, name=name)
        elif not isinstance(lock, _Exclusive):
            raise TypeError(f"the lock of a Condition is a managed Lock or RLock, not {type(lock).__name__}")
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release

    def wait(self, call: Call, timeout: float | None = None) -> Any:
        lock = self._lock
        if not lock._is_owned(call):
            raise RuntimeError("cannot wait on un-acquired lock")
        seconds = seconds_of(timeout)
        count = lock._count
        lock._open()
        if seconds is None or seconds > 0:
            return self._block(call, seconds, count, self._waiting)
        if lock._state == OPEN:
            lock._take(call, count)
            return False
        return lock._block(call, None, (self, count, False), lock._waiting)

    def notify(self, call: Call, n: int = 1) -> None:
        if not self._lock._is_owned(call):
            raise RuntimeError("cannot notify on un-acquired lock")
        self._move(n)

    def notify_all(self, call: Call) -> None:
        self.notify(call, len(self._waiting))

    def _move(self, n: int) -> None:
        """Notifies the n that have waited longest: they wait for the lock from now on."""
        lock = self._lock
        while n > 0 and self._waiting:
            n -= 1
            call = self._waiting.popleft()
            lock._block(call, None, (self, self._settle(call), True), lock._waiting)
        lock._advance()

    def _timed_out(self, call: Call) -> None:
        lock = self._lock
        lock._block(call, None, (self, self._withdraw(call), False), lock._waiting)
        lock._advance()

    def holds_anything(self) -> bool:
        return bool(self._waiting) or self._lock.holds_anything()

    def owner_gone(self, owner: Hashable) -> None:
        super().owner_gone(owner)
        self._lock.owner_gone(owner)

    def process_gone(self, process: Hashable, killed: bool) -> None:
        super().process_gone(process, killed)
        self._lock.process_gone(process, killed)

    def _facts(self) -> str:
        return f"waiting={len(self._waiting)} of {self._lock!r}"


class Semaphore(Managed):
    """As `threading.Semaphore`. Permits of a killed process are not given back: they may stand for signals."""

    __slots__ = ("_value",)

    exposed = ("acquire", "release")

    def __init__(self, value: int = 1, *, timers: Timers, name: str | None = None) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        super().__init__(timers, name)
        self._value = value

    def acquire(self, call: Call, blocking: bool = True, timeout: float | None = None) -> Any:
        if self._value and timeout is None:
            self._value -= 1
            return True
        return self._acquire_slowly(call, blocking, timeout)

    def _acquire_slowly(self, call: Call, blocking: bool, timeout: float | None) -> Any:
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        seconds = seconds_of(timeout)
        if self._value:
            self._value -= 1
            self._record(call, True)
            return True
        if not blocking or (seconds is not None and seconds <= 0):
            return False
        return self._block(call, seconds, None, self._waiting)

    def release(self, call: Call, n: int = 1) -> None:
        if n < 1:
            raise ValueError("n must be one or more")
        self._value += n
        if self._waiting:
            self._advance()

    def _advance(self) -> None:
        while self._value and self._waiting:
            call = self._waiting.popleft()
            self._settle(call)
            self._value -= 1
            self._record(call, True)
            if call.answer(True) is False:
                self._value += 1
                self._record(call, False)

    def _record(self, call: Call, taken: bool) -> None:
        pass

    def _facts(self) -> str:
        return f"value={self._value} waiting={len(self._waiting)}"


class BoundedSemaphore(Semaphore):
    """As `threading.BoundedSemaphore`. It knows which process holds its permits: those of a killed one come back.

    Anybody may release: permits of its own process first, then those that processes left which ended in good order.
    """

    __slots__ = ("_initial", "_held")

    def __init__(self, value: int = 1, *, timers: Timers, name: str | None = None) -> None:
        super().__init__(value, timers=timers, name=name)
        self._initial = value
        self._held: dict[Hashable, int] = {}

    def acquire(self, call: Call, blocking: bool = True, timeout: float | None = None) -> Any:
        if self._value and timeout is None:
            self._value -= 1
            process = call.process
            self._held[process] = self._held.get(process, 0) + 1
            return True
        return self._acquire_slowly(call, blocking, timeout)

    def release(self, call: Call, n: int = 1) -> None:
        if n < 1:
            raise ValueError("n must be one or more")
        if self._value + n > self._initial:
            raise ValueError("Semaphore released too many times")
        self._value += n
        for _ in range(n):
            drop_one(self._held, call.process)
        if self._waiting:
            self._advance()

    def holds_anything(self) -> bool:
        return bool(self._held or self._waiting)

    def process_gone(self, process: Hashable, killed: bool) -> None:
        super().process_gone(process, killed)
        count = self._held.pop(process, 0)
        if killed:
            self._value += count
            self._advance()
        elif count:
            self._held[NOBODY] = self._held.get(NOBODY, 0) + count

    def _record(self, call: Call, taken: bool) -> None:
        if taken:
            self._held[call.process] = self._held.get(call.process, 0) + 1
        else:
            drop_one(self._held, call.process)


class Event(Managed):
    """As `threading.Event`. `set` releases everybody who waits, even if `clear` follows at once."""

    __slots__ = ("_flag",)

    exposed = ("is_set", "set", "clear", "wait")

    def __init__(self, *, timers: Timers, name: str | None = None) -> None:
        super().__init__(timers, name)
        self._flag = False

    def is_set(self, call: Call) -> bool:
        return self._flag

    def set(self, call: Call) -> None:
        self._flag = True
        while self._waiting:
            waiter = self._waiting.popleft()
            self._settle(waiter)
            waiter.answer(True)

    def clear(self, call: Call) -> None:
        self._flag = False

    def wait(self, call: Call, timeout: float | None = None) -> Any:
        seconds = seconds_of(timeout)
        if self._flag:
            return True
        if seconds is not None and seconds <= 0:
            return False
        return self._block(call, seconds, None, self._waiting)

    def _facts(self) -> str:
        return f"{'set' if self._flag else 'unset'} waiting={len(self._waiting)}"


class Barrier(Managed):
    """As `threading.Barrier`. The action runs here, in the call that arrives last.

    It breaks when one that has arrived times out, is forgotten or ends, and when the action fails.
    """

    __slots__ = ("parties", "broken", "_action", "_timeout")

    exposed = ("wait", "abort", "reset", "_get_parties", "_get_n_waiting", "_get_broken")

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        timers: Timers,
        name: str | None = None,
    ) -> None:
        if parties < 1:
            raise ValueError("parties must be >= 1")
        super().__init__(timers, name)
        self.parties = parties
        self.broken = False
        self._action = action
        self._timeout = timeout

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def wait(self, call: Call, timeout: float | None = None) -> Any:
        seconds = seconds_of(self._timeout if timeout is None else timeout)
        if self.broken:
            raise BrokenBarrierError
        index = len(self._waiting)
        if index + 1 < self.parties:
            if seconds is None or seconds > 0:
                return self._block(call, seconds, None, self._waiting)
            self._break(True)
            raise BrokenBarrierError
        if self._action is not None:
            try:
                self._action()
            except BaseException:
                self._break(True)
                raise
        for arrival in range(index):
            waiter = self._waiting.popleft()
            self._settle(waiter)
            waiter.answer(arrival)
        return index

    def reset(self, call: Call) -> None:
        self._break(False)

    def abort(self, call: Call) -> None:
        self._break(True)

    def _break(self, broken: bool) -> None:
        self.broken = broken
        while self._waiting:
            waiter = self._waiting.popleft()
            self._settle(waiter)
            waiter.fail(BrokenBarrierError())

    def _timed_out(self, call: Call) -> None:
        self._break(True)

    def _gone(self, calls: list[Call]) -> None:
        super()._gone(calls)
        if calls:
            self._break(True)

    def _get_parties(self, call: Call) -> int:
        return self.parties

    def _get_n_waiting(self, call: Call) -> int:
        return len(self._waiting)

    def _get_broken(self, call: Call) -> bool:
        return self.broken

    def _facts(self) -> str:
        return "broken" if self.broken else f"waiting={len(self._waiting)}/{self.parties}"
