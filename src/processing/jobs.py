"""Who takes results from the engine: every call of a pool that has not ended, and the threads that wait for them.

    thread A  get() ──▶ leads: fill ──▶ inbox ──▶ handle: each event goes to its result, whoever waits for that
    thread B  get() ──▶ follows: sleeps on its gate until its result is there, or until A is gone and it has to lead
    PoolPump            a thread that leads while callbacks, futures, awaited results or maps nobody waits for need one

There is no thread otherwise: who waits works. Callbacks run outside the lead, one at a time, in the thread that took
the result; what they raise goes to `threading.excepthook`.

A KeyboardInterrupt may strike between any two steps. So an event stays first in the inbox until it is done with, each
result can be told twice, and in the code marked "adjacent" no call stands between the stores (CPython looks for signals
after calls and at jumps only). A wake-up that is lost is made good by the followers' slices.
"""

from __future__ import annotations

import collections
import threading
from time import monotonic

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    Event = tuple[int, int, int, Any, int]

    class Waiter(Protocol):
        def _is_there(self) -> bool: ...


__all__ = ["Jobs", "report"]

DONE, FAILED, LOST, TIMEOUT, CANCELLED, BROKEN, WORKER, PROGRESS, LOG, SPAN, WAKE, OVER = range(12)

SLICE = 0.25  # seconds that a follower sleeps before it looks again
LINGER = 0.05  # seconds that the pump waits for more to do


def report(error: BaseException) -> None:
    """Tells of an exception that has nobody to be raised to."""
    arguments = (type(error), error, error.__traceback__, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(arguments))


class Jobs:
    """The calls of one pool that have not ended, and the taking of their results."""

    __slots__ = (
        "engine", "fill", "pending", "inbox", "leader", "led", "followers", "hungry", "attended", "due", "runner",
        "guard", "pump", "summons", "hurried", "over", "listeners", "__weakref__",
    )  # fmt: skip

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        # fill(inbox, block, timeout): as drain, but what it takes is in the inbox at once, so that no signal can lose
        # it.
        self.fill: Callable[[Any, bool, float | None], object] = getattr(engine, "fill", self._fill)
        self.pending: dict[int, Any] = {}  # job -> its result
        self.inbox: collections.deque[Event] = collections.deque()
        self.leader = threading.RLock()  # held by the thread that fills and handles
        self.led = False  # somebody may be blocked in fill
        self.followers: dict[Any, Waiter] = {}  # gate (a locked lock) -> what its thread waits for
        self.hungry: dict[int, Any] = {}  # job -> a map that is not fed up
        self.attended: dict[int, bool] = {}  # jobs that the pump is to see through
        self.due: collections.deque[Any] = (
            collections.deque()
        )  # results whose callbacks are to be run, and news
        self.runner = threading.RLock()  # held by the thread that runs callbacks
        self.guard = threading.Lock()  # over the pump
        self.pump: threading.Thread | None = None
        self.summons = threading.Event()
        self.hurried = False  # the pump does not linger: nothing more will come
        self.over: BaseException | None = None  # the pool has ended: what is still pending fails with this
        self.listeners: dict[
            int, Callable[[int, int, int, Any], object]
        ] = {}  # kind -> who hears of such events

    def _fill(self, inbox: collections.deque[Event], block: bool, timeout: float | None) -> None:
        inbox.extend(self.engine.drain(block, timeout))

    # -- Waiting

    def wait(self, who: Waiter, timeout: float | None = None) -> bool:
        """Until `who._is_there()`, at most `timeout` seconds; takes whatever comes meanwhile. -> whether it is
        there."""
        deadline = None if timeout is None else monotonic() + timeout
        tried = False
        while True:
            if self.due:
                self.run_due()
            if who._is_there():
                return True
            if tried and deadline is not None and monotonic() >= deadline:
                return False
            if not self._lead(who, deadline):
                self._follow(who, deadline)
            tried = True

    def poll(self) -> None:
        """Takes what is there, without waiting."""
        self._lead(_NOBODY, 0.0)
        if self.due:
            self.run_due()

    def _lead(self, who: Waiter, deadline: float | None) -> bool:
        """Fills and handles until `who` is there or it is time; False if another thread does."""
        leader = self.leader
        inbox = self.inbox
        try:
            if not leader.acquire(False):
                return False
            while True:
                if inbox:
                    self.handle()
                # Before it is looked whether there is anything to wait for: who brings that about wakes us then.
                self.led = True
                if self.over is not None:
                    self._sweep()
                if self.hungry:
                    self._feed()
                if self.due or who._is_there():
                    return True
                if deadline is None:
                    self.fill(inbox, True, None)
                else:
                    left = deadline - monotonic()
                    if left <= 0:
                        self.fill(inbox, False, 0.0)
                        if inbox:
                            self.handle()
                        return True
                    self.fill(inbox, True, left)
                if inbox:
                    self.handle()
                if self.followers:
                    self.notify()
        finally:
            try:
                if leader._is_owned():  # type: ignore[attr-defined]
                    self.led = False
                leader.release()
                if self.followers:
                    self.notify(promote=True)
            except RuntimeError:
                pass  # another thread leads

    def _follow(self, who: Waiter, deadline: float | None) -> None:
        """Sleeps until `who` is there, the lead is free, or for a slice."""
        gate = threading.Lock()
        gate.acquire()
        self.followers[gate] = who
        try:
            # The leader may have left, or `who` come, before the gate stood.
            if who._is_there() or self._lead(who, deadline):
                return
            left = SLICE if deadline is None else min(SLICE, deadline - monotonic())
            if left > 0:
                gate.acquire(True, left)
        finally:
            self.followers.pop(gate, None)

    def notify(self, promote: bool = False) -> None:
        """Wakes the followers whose results are there; `promote`: one of them in any case, to lead."""
        woken = False
        for gate, who in list(self.followers.items()):
            if (who._is_there() or (promote and not woken)) and self.followers.pop(gate, None) is not None:
                woken = True
                gate.release()

    def stir(self) -> None:
        """Something has come true outside of the lead: whoever waits for it looks again."""
        if self.led:
            self.engine.wake()
        if self.followers:
            self.notify()

    def post(self, event: Event) -> None:
        """An event of our own, as if it had come from the engine."""
        self.inbox.append(event)
        if self.led:
            self.engine.wake()

    # -- Handling; by the leader only

    def handle(self) -> None:
        inbox = self.inbox
        pending = self.pending
        while inbox:
            kind, job, first, payload, ns = inbox[0]
            try:
                if kind == DONE:
                    result = pending.get(job)
                    if result is not None:
                        result._done(first, payload, ns)
                else:
                    self._other(kind, job, first, payload)
            except Exception as error:  # a fault of this package; the others are to get their results
                report(error)
            del inbox[0]

    def _other(self, kind: int, job: int, first: int, payload: Any) -> None:
        result = self.pending.get(job)
        if kind == BROKEN:
            from .blame import initializer_failed

            self.over = initializer_failed(payload)
            self._sweep()
        elif kind == OVER:
            from .blame import cancelled

            self.over = self.over or cancelled("the workers of the pool have ended")
            self._sweep()
        elif kind <= CANCELLED:
            if result is not None:
                result._ended(kind, first, payload)
            if kind in self.listeners:
                self.due.append((self.listeners[kind], kind, job, first, payload))
        elif kind == PROGRESS:
            if result is not None:
                result._progress(first, payload)
        else:
            listener = self.listeners.get(kind)
            if listener is not None:
                self.due.append((listener, kind, job, first, payload))

    def _sweep(self) -> None:
        """The pool has ended: so does what is pending."""
        error = self.over
        self.hungry.clear()
        self.attended.clear()
        for result in list(self.pending.values()):
            result._abandon(error)
        if self.followers:
            self.notify()

    def _feed(self) -> None:
        for result in list(self.hungry.values()):
            result._push()

    def end(self, error: BaseException) -> None:
        """The pool has been terminated: what is pending fails with `error`."""
        self.over = self.over or error
        try:
            while not self.leader.acquire(timeout=SLICE if self.led else 0.0):
                self.engine.wake()
            if self.inbox:
                self.handle()
            self._sweep()
        finally:
            try:
                self.leader.release()
            except RuntimeError:
                pass  # interrupted before it was ours
        if self.due:
            self.run_due()

    # -- Callbacks

    def run_due(self) -> None:
        """Runs the callbacks that are due, unless another thread does."""
        due = self.due
        while due:
            try:
                if not self.runner.acquire(False):
                    return
                while due:
                    task = due[0]
                    if type(task) is tuple:
                        del due[0]
                        try:
                            task[0](*task[1:])
                        except Exception as error:
                            report(error)
                    else:
                        task._call_back()
                        self.stir()
                        if due and due[0] is task:  # no callback of it has been here meanwhile
                            del due[0]
            finally:
                try:
                    self.runner.release()
                except RuntimeError:
                    pass

    # -- The pump

    def attend(self, job: int) -> None:
        """Has the pump see that job through, whether or not anybody waits for it."""
        with self.guard:
            self.attended[job] = True
            if self.pump is not None:
                self.summons.set()
                return
            self.pump = threading.Thread(target=self._pump_main, name="PoolPump", daemon=True)
            try:
                self.pump.start()
            except RuntimeError:  # the interpreter is ending: who waits drains
                self.pump = None

    def _pump_main(self) -> None:
        idle = _Idle(self)
        while True:
            try:
                self.wait(idle)
            except Exception as error:
                report(error)
                return
            if self.summons.wait(LINGER):
                self.summons.clear()
                if not self.hurried:
                    continue
            with self.guard:
                if not self.attended:
                    self.pump = None
                    return

    def join_pump(self) -> None:
        """Until the pump has ended, as it does by itself once nothing needs it. The pool has ended: no job comes any
        more."""
        pump = self.pump
        if pump is not None and pump is not threading.current_thread():
            self.hurried = True
            self.summons.set()
            pump.join(10 * LINGER)


class _Idle:
    """What the pump waits for: that nothing needs it."""

    __slots__ = ("jobs",)

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def _is_there(self) -> bool:
        return not self.jobs.attended


class _Nobody:
    __slots__ = ()

    def _is_there(self) -> bool:
        return False


_NOBODY = _Nobody()
