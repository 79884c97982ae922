"""What code that runs in a worker of a pool can ask and tell: `processing.current_worker()`.

    initializer, calls, hooks ──▶ current_worker() ──▶ Worker   rank, state, seed, shared; progress, on_exit

One object for each worker, as long as that lives: a process of a Pool, a thread of a ThreadPool.
"""

from __future__ import annotations

import os
import threading
from time import monotonic

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Worker", "current_worker"]

PROGRESS = 7  # a kind of events, as in jobs.py
PACE = 0.05  # seconds between two reports of progress

_here = threading.local()  # .worker: in threads of a ThreadPool
_process: list[Worker] = []  # the worker that this process is


class Worker:
    """A worker, seen from inside.

    rank: 0 to the number of workers - 1; whoever replaces this worker has the same one. pid: its process.
    state: a dict that lives as long as the worker, for whatever initializers and calls want to keep there.
    seed: the number from which the random generators of this worker were seeded; None: from the operating system.
    """

    __slots__ = ("rank", "pid", "state", "seed", "_shared", "_hooks", "_tell", "_task", "_told")

    def __init__(
        self,
        rank: int,
        tell: Callable[[int, Any], object],
        task: Callable[[], object],
        seed: int | None,
        shared: Any,
    ) -> None:
        self.rank = rank
        self.pid = os.getpid()
        self.state: dict[Any, Any] = {}
        self.seed = seed
        self._shared = shared  # a handle; () once it was opened: (value,)
        self._hooks: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]] = []
        self._tell = tell
        self._task = task  # identifies the call that runs; None
        self._told: tuple[object, float, bool] = (None, 0.0, False)

    @property
    def shared(self) -> Any:
        """The value that the pool was made with as `shared=`. Arrays in it are views of memory that all workers share.
        ValueError if there is none."""
        shared = self._shared
        if shared is None:
            raise ValueError("the pool was made without shared=")
        if type(shared) is not tuple:
            shared = self._shared = (shared.get(),)
        return shared[0]

    def progress(self, n: float, total: float | None = None) -> None:
        """Tells the caller how far the running call is: `n` of `total` (None: of 1.0). Shown in the bar of
        `progress=True`.

        May be called as often as wanted: it is sent 20 times a second at most, and once when `n` reaches `total`.
        Does nothing outside of a call.
        """
        task = self._task()
        if task is None:
            return
        now = monotonic()
        over = n >= (1.0 if total is None else total)
        before, since, was_over = self._told
        if before == task and now - since < PACE and (was_over or not over):
            return
        self._told = task, now, over
        self._tell(PROGRESS, (n, total))

    def on_exit(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> Callable[..., object]:
        """Has `function(*args, **kwargs)` called when this worker leaves: the pool is closed or made smaller, or the
        worker has run `maxtasksperchild` calls. Last registered, first called. Not when it is killed or terminated.

        What it raises is printed to stderr, and no more. -> `function`, so that this is a decorator.
        """
        self._hooks.append((function, args, kwargs))
        return function

    def _leave(self) -> None:
        while self._hooks:
            function, args, kwargs = self._hooks.pop()
            try:
                function(*args, **kwargs)
            except BaseException:
                import traceback

                traceback.print_exc()

    def __repr__(self) -> str:
        return f"<worker {self.rank} of a pool, pid {self.pid}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Worker means something in its own process only; send its rank")


def current_worker() -> Worker | None:
    """The worker of a pool that this process (in a ThreadPool: this thread) is; None: none."""
    worker: Worker | None = getattr(_here, "worker", None)
    if worker is None and _process:
        worker = _process[0]
    if worker is not None and worker.pid != os.getpid():
        return None  # a process that a call has forked
    return worker


def become(worker: Worker) -> None:
    """This process is that worker from now on."""
    _process[:] = [worker]


def become_here(worker: Worker) -> None:
    """This thread is."""
    _here.worker = worker
