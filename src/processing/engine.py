"""The engine of a pool of processes: its rings and desks in the arena, and the supervisor that has the workers.

    call, batch ──▶ task ring ──▶ workers ──▶ result ring ──▶ drain
         control socket ──▶ supervisor ──starts, ends, buries──▶ workers

Calls go to the workers and results come back without a thread and without the supervisor, which sleeps until somebody
dies. If the supervisor itself is killed, its workers end with it; whoever waits for results notices, and starts another
one, which deals with what was on the desks.
"""

from __future__ import annotations

import os
from collections import deque
from time import monotonic, monotonic_ns

from . import _calls, _collect, _pool
from .supervisor import SupervisorOptions, start_supervisor
from .synchronize import _Pickles
from .threadengine import WorkerFacts
from .worker import Startup, work

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .workersettings import WorkerSettings

__all__ = ["ArenaPool", "ProcessEngine"]


class ArenaPool(_Pickles, _pool.PoolBase):
    """The handle of a pool's rings and desks."""

    _layout = _pool.POOL


class ProcessEngine:
    """Workers that are processes."""

    def __init__(
        self,
        processes: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
        context: Any,
        *,
        settings: WorkerSettings,
        environment: dict[str, str] | None = None,
    ) -> None:
        if processes > _pool.MOST:
            raise ValueError(f"a pool has at most {_pool.MOST} workers, not {processes}")
        self.processes = processes
        self.pool: Any = _pool.new_pool(ArenaPool, processes)
        if context is None:
            from .context import default_context as context
        self._method: str = context.get_start_method()
        startup: Any = Startup(initializer, initargs, maxtasksperchild or 0, settings)
        self._options = SupervisorOptions(settings.memory_limit, environment)
        if self._method == "fork":
            settings.prepare_forks()
            self._options.prepare = settings.prepare_workers
        else:
            from .sharing import share

            startup = share(startup)
        self._startup = startup
        self._limited = settings.memory_limit > 0
        self._owner = os.getpid()
        self._over = False
        self._announced: Any = None  # what is broadcast just now
        self._smallest = 0.0  # the smallest timeout that the supervisor has been told of
        self._start(False)

    def _start(self, takeover: bool) -> None:
        self._supervisor: Any  # None: has ended, and is buried
        self._supervisor, self._control = start_supervisor(
            self._method, self.pool, self.processes, self._startup, work, self._options, takeover
        )

    # -- Calls

    def call(self, job: int, func: Any, args: Any, kwds: Any, timeout: float, retries: int) -> None:
        _calls.call(self.pool, job, func, args, kwds, timeout, retries)
        if timeout or self._limited:
            self._watch(timeout)

    def batch(
        self, job: int, first: int, func: Any, items: list[Any], star: bool, timeout: float, retries: int
    ) -> None:
        _calls.batch(self.pool, job, first, func, items, star, timeout, retries)
        if timeout or self._limited:
            self._watch(timeout)

    def _watch(self, timeout: float) -> None:
        smaller = timeout and (not self._smallest or timeout < self._smallest)
        if smaller or not self.pool.watching:
            if smaller:
                self._smallest = timeout
            self._say("watch", timeout)

    def cancel(self, job: int, index: int | None) -> None:
        """Stops that call (None: all of the job). What has not begun does not begin any more, from now on; what runs is
        stopped some milliseconds later."""
        self.pool.cancel_queued(job, index)  # if there is no room, the supervisor sees to it
        self._say("cancel", job, index)

    def broadcast(self, job: int, func: Any, args: Any, kwds: Any) -> int:
        """Every worker runs it once, as call `rank` of the job; -> how many will answer. One at a time, and
        `end_broadcast` when it is over."""
        audience = self.processes
        self._announced = _calls.announce(self.pool, job, func, args, kwds, audience)
        return audience

    def end_broadcast(self) -> None:
        _calls.unannounce(self.pool)
        self._announced = None

    def _say(self, *message: object) -> None:
        try:
            self._control.say(*message)
        except OSError:
            pass  # the supervisor is gone: who waits for results notices

    # -- Results

    def fill(self, inbox: deque[Any], block: bool, timeout: float | None) -> None:
        """What has come, appended to `inbox`: at least one event if `block`, unless `timeout` (seconds) is over. One
        thread at a time. A signal loses nothing."""
        pool = self.pool
        _collect.collect(pool, inbox)
        if inbox or not block:
            return
        deadline = None if timeout is None else monotonic() + timeout
        while not inbox:
            found = _collect.await_results(pool, deadline)
            if found is False:
                return
            if found is None and self._look_after_supervisor():
                _collect.collect(pool, inbox)
                inbox.append((_collect.OVER, 0, 0, None, 0))
            _collect.collect(pool, inbox)

    def drain(self, block: bool, timeout: float | None) -> list[Any]:
        """The same as a list."""
        inbox: deque[Any] = deque()
        self.fill(inbox, block, timeout)
        return list(inbox)

    def wake(self) -> None:
        self.pool.report(_collect.WAKE, 0, 0, None)

    def _look_after_supervisor(self) -> bool:
        """Starts another one if it was killed; True if it has ended as it should, and all workers with it."""
        supervisor = self._supervisor
        try:
            if supervisor is not None and supervisor.is_alive():
                return False
            if supervisor is None or self._over or supervisor.exitcode == 0:
                return True
        except ValueError:
            return True  # closed by another thread, which has joined it
        self._control.close()
        self._start(True)
        return False

    # -- Life

    def resize(self, n: int) -> None:
        if n > _pool.MOST:
            raise ValueError(f"a pool has at most {_pool.MOST} workers, not {n}")
        self.pool.grow(n)
        self.processes = n
        self._say("resize", n)

    def close(self) -> None:
        self._say("close")

    def terminate(self) -> None:
        self._over = True
        self._say("terminate")

    def join(self, timeout: float | None) -> bool:
        """Waits until the workers have ended, at most `timeout` seconds; -> whether they have."""
        supervisor = self._supervisor
        try:
            if supervisor is not None:
                supervisor.join(timeout)
                if supervisor.is_alive():
                    return False
                self._over = True
                self._supervisor = None
                self._control.close()
                supervisor.close()
        except ValueError:
            pass  # closed by another thread
        return True

    @property
    def tracing(self) -> bool:
        """Whether workers report when each call began and ended."""
        return self.pool.tracing  # type: ignore[no-any-return]

    @tracing.setter
    def tracing(self, on: bool) -> None:
        self.pool.tracing = on

    def totals(self) -> tuple[int, float, float]:
        """Calls, seconds at work, seconds waiting: of all who have been workers of this pool."""
        desks = [self.pool.desk(rank) for rank in range(self.pool.desks)]
        return (
            sum(desk.calls for desk in desks),
            sum(desk.busy_ns for desk in desks) / 1e9,
            sum(desk.waited_ns for desk in desks) / 1e9,
        )

    def is_running(self, job: int, index: int) -> bool:
        """Whether a worker runs that call just now."""
        return any(facts.running == (job, index) for facts in self.workers())

    def workers(self) -> list[WorkerFacts]:
        found = []
        for rank in range(self.pool.desks):
            desk = self.pool.desk(rank)
            if desk.state == "empty":
                continue
            running = (desk.job, desk.first + desk.done) if desk.running else None
            elapsed = max(0, monotonic_ns() - desk.started_ns) / 1e9 if running else None
            found.append(
                WorkerFacts(
                    rank,
                    desk.owner_pid,
                    desk.state,
                    desk.calls,
                    desk.busy_ns / 1e9,
                    desk.waited_ns / 1e9,
                    _memory_of(desk.owner_pid),
                    running,
                    elapsed,
                )
            )
        return found


def _memory_of(pid: int) -> int:
    """Resident bytes of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
