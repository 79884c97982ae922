"""Every exception of the package.

    Exception
    ├── ProcessingError                     what this package adds
    │   ├── LockOwnerDied (RuntimeError)    the process that held a lock died without releasing it
    │   ├── LostItems (RuntimeError)        consumers of a JoinableQueue died before task_done
    │   └── StaleHandleError (ValueError)   a handle of an object that is freed, or of another program
    └── ProcessError                        as in the standard library's multiprocessing
        ├── BufferTooShort                  args[0] holds the whole message
        ├── AuthenticationError
        └── TimeoutError                    not the built-in of that name
    SystemExit
    └── ProcessExit                         raised in the main thread of a stoppable process by Process.stop()

`queue.Empty`, `queue.Full` and `threading.BrokenBarrierError` are the standard library's own classes. All of these
pickle, with their attributes.
"""

from __future__ import annotations

__all__ = [
    "ProcessingError",
    "LockOwnerDied",
    "LostItems",
    "StaleHandleError",
    "ProcessError",
    "BufferTooShort",
    "AuthenticationError",
    "TimeoutError",
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


class ProcessError(Exception):
    """Base of the exceptions known from the standard library."""


class BufferTooShort(ProcessError):
    """The buffer given to `recv_bytes_into` is too small; `args[0]` is the whole message."""


class AuthenticationError(ProcessError):
    """The other end of a connection does not know the key."""


class TimeoutError(ProcessError):
    """A result was not ready in time."""


class ProcessExit(SystemExit):
    """Raised by `Process.stop()` in the main thread of the process. Left uncaught it ends the process, exit code 0."""
