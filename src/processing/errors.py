"""Every exception of the package.

    Exception
    ├── ProcessingError                     what this package adds
    │   ├── LockOwnerDied (RuntimeError)    the process that held a lock died without releasing it
    │   ├── LostItems (RuntimeError)        consumers of a JoinableQueue died before task_done
    │   ├── StaleHandleError (ValueError)   a handle of an object that is freed, or of another program
    │   ├── WorkerDied (RuntimeError)       the worker of a pool died while it ran this call
    │   ├── InitializerFailed (RuntimeError)  the initializer of a pool failed in every worker
    │   └── RemoteError                     a result or an exception that could not be sent: its text and traceback
    └── ProcessError                        as in the standard library's multiprocessing
        ├── BufferTooShort                  args[0] holds the whole message
        ├── AuthenticationError
        └── TimeoutError                    not the built-in of that name
            └── TaskTimeout (built-in TimeoutError)  a call of a pool ran longer than its `timeout`
    SystemExit
    └── ProcessExit                         raised in the main thread of a stoppable process by Process.stop()

`queue.Empty`, `queue.Full` and `threading.BrokenBarrierError` are the standard library's own classes. All of these
pickle, with their attributes.
"""

from __future__ import annotations

import builtins

__all__ = [
    "ProcessingError",
    "LockOwnerDied",
    "LostItems",
    "StaleHandleError",
    "WorkerDied",
    "InitializerFailed",
    "RemoteError",
    "ProcessError",
    "BufferTooShort",
    "AuthenticationError",
    "TimeoutError",
    "TaskTimeout",
    "ProcessExit",
]


class ProcessingError(Exception):
    """Base of the exceptions that only this package has."""


class LockOwnerDied(ProcessingError, RuntimeError):
    """The process that held a lock died without releasing it; what the lock protects may be half changed.

    Raised once, by the next `acquire`, which leaves the lock free. `name` is the lock's name, `pid` the dead process
    (each None where it is not known).
    """

    def __init__(self, message: str = "", name: str | None = None, pid: int | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.pid = pid


class LostItems(ProcessingError, RuntimeError):
    """Raised by JoinableQueue.join: consumers died between `get` and `task_done`; `count` items may not be done."""

    def __init__(self, message: str = "", count: int = 0) -> None:
        super().__init__(message)
        self.count = count


class StaleHandleError(ProcessingError, ValueError):
    """The object behind a handle has been freed, or belongs to another program."""


class WorkerDied(ProcessingError, RuntimeError):
    """The worker of a pool died (a signal, `os._exit`, out of memory) while it ran this call. Other calls go on.

    `task` is the call, shortened; `index` its position in a map; `worker` the worker's rank and `pid` its process;
    `signal` or `exitcode` how it ended (the other is None); `peak_memory` in bytes, None if not known; `oom` whether
    the control group killed for memory; `attempts` how often the call was begun.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task: str | None = None,
        index: int = 0,
        worker: int | None = None,
        pid: int | None = None,
        signal: int | None = None,
        exitcode: int | None = None,
        peak_memory: int | None = None,
        oom: bool = False,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.index = index
        self.worker = worker
        self.pid = pid
        self.signal = signal
        self.exitcode = exitcode
        self.peak_memory = peak_memory
        self.oom = oom
        self.attempts = attempts


class InitializerFailed(ProcessingError, RuntimeError):
    """The initializer of a pool failed again and again: the pool has no workers and runs nothing any more. The remote
    traceback is its cause; `traceback` is its text."""

    def __init__(self, message: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class RemoteError(ProcessingError):
    """Something of another process that could not be pickled, or not be unpickled here: its text; `traceback` is the
    text of the traceback there."""

    def __init__(self, message: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class ProcessError(Exception):
    """Base of the exceptions known from the standard library."""


class BufferTooShort(ProcessError):
    """The buffer given to `recv_bytes_into` is too small; `args[0]` is the whole message."""


class AuthenticationError(ProcessError):
    """The other end of a connection does not know the key."""


class TimeoutError(ProcessError):
    """A result was not ready in time."""


class TaskTimeout(TimeoutError, builtins.TimeoutError):
    """A call of a pool ran longer than its `timeout` and was stopped. Other calls go on.

    `task` is the call, shortened; `index` its position in a map; `timeout` in seconds; `worker` and `pid` ran it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task: str | None = None,
        index: int = 0,
        timeout: float | None = None,
        worker: int | None = None,
        pid: int | None = None,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.index = index
        self.timeout = timeout
        self.worker = worker
        self.pid = pid


class ProcessExit(SystemExit):
    """Raised by `Process.stop()` in the main thread of the process. Left uncaught it ends the process, exit code 0."""
