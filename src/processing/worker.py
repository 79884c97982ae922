"""What a worker of a pool does: sits down at its desk, runs the initializer, then batches until it is told to leave.

    supervisor ──starts──▶ work(pool, rank, startup)
                             Seat     the desk: what this process is at, for whoever has to deal with its death
                             Startup  what the caller wants done first
                             Worker   what the code that runs here sees of it (currentworker.py)

SIGINT means nothing to a worker: Ctrl-C reaches the caller, who ends the pool.
"""

from __future__ import annotations

from . import _work
from .currentworker import Worker, become
from .stackdump import listen
from .workerprocesses import private_memory, signals

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .workersettings import WorkerSettings

__all__ = ["Startup", "work"]


class Startup:
    """What every worker of a pool is told at its start."""

    __slots__ = ("initializer", "initargs", "limit", "settings")

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        limit: int,
        settings: WorkerSettings,
    ) -> None:
        self.initializer = initializer
        self.initargs = initargs
        self.limit = limit  # calls after which a worker leaves; 0: none
        self.settings = settings

    def __reduce__(self) -> Any:
        return Startup, (self.initializer, self.initargs, self.limit, self.settings)


def work(pool: Any, rank: int, startup: Any) -> None:
    """The life of a worker. `startup` is a Startup, or a `Shared` of one."""
    seat = _work.Seat(pool, rank)
    try:
        _ignore_interrupts()
        if type(startup) is not Startup:
            startup = startup.get()
        settings: WorkerSettings = startup.settings
        worker = Worker(rank, seat.event, seat.task, settings.seed_of(rank), settings.shared)
        become(worker)
        listen()
        settings.apply(rank, seat)
        if startup.initializer is not None:
            startup.initializer(*startup.initargs)
        settings.settle(rank)
    except BaseException as error:
        import traceback

        seat.fail("".join(traceback.format_exception(error)))
        return
    seat.ready(private_memory(worker.pid) if settings.memory_limit else 0)
    seat.run(startup.limit)
    if settings.finalizer is not None:
        worker.on_exit(settings.finalizer)
    worker._leave()
    seat.leave()


def _ignore_interrupts() -> None:
    if signals.getsignal(signals.SIGINT) is signals.default_int_handler:
        # Not SIG_IGN: that would go on to programs that a call starts.
        signals.signal(signals.SIGINT, lambda number, frame: None)
