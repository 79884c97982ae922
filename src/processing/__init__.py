"""Several processes as easily as threads: the API of `threading` and `queue`, for processes.

Names are loaded when they are first used, so importing the package is quick and starts nothing. The reference is in
docs/.
"""

from __future__ import annotations

import sys

if not sys.platform.startswith("linux"):
    raise ImportError(
        f"processing needs Linux 5.10 or newer on x86-64 or aarch64; this is {sys.platform}. "
        f"Windows and macOS are not supported for now."
    )

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .connection import Pipe
    from .context import (
        allow_connection_pickling,
        cpu_count,
        freeze_support,
        get_all_start_methods,
        get_context,
        get_start_method,
        set_executable,
        set_forkserver_preload,
        set_start_method,
    )
    from .currentworker import current_worker
    from .errors import (
        AuthenticationError,
        BufferTooShort,
        InitializerFailed,
        LockOwnerDied,
        LostItems,
        ProcessError,
        ProcessExit,
        ProcessingError,
        RemoteError,
        StaleHandleError,
        TaskTimeout,
        TimeoutError,
        WorkerDied,
    )
    from .executor import ProcessPoolExecutor
    from .local import LocalManager
    from .managers import Manager
    from .memory import memory_limit, memory_usage, set_memory_limit
    from .pool import Pool, ThreadPool
    from .posixqueue import PosixQueue
    from .process import Process, active_children, current_process, parent_process
    from .queues import BufferedQueue, JoinableQueue, Queue, SimpleQueue
    from .sharedctypes import Array, RawArray, RawValue, Value
    from .sharing import share
    from .standin import install
    from .synchronize import (
        Barrier,
        BoundedSemaphore,
        BrokenBarrierError,
        Condition,
        Event,
        Lock,
        RLock,
        Semaphore,
    )
    from .util import get_logger, log_to_stderr

__version__ = "0.1.0"

# Where each public name really is.
_HOME = {
    "connection": ("Pipe",),
    "context": (
        "allow_connection_pickling",
        "cpu_count",
        "freeze_support",
        "get_all_start_methods",
        "get_context",
        "get_start_method",
        "set_executable",
        "set_forkserver_preload",
        "set_start_method",
    ),
    "currentworker": ("current_worker",),
    "errors": (
        "AuthenticationError",
        "BufferTooShort",
        "InitializerFailed",
        "LockOwnerDied",
        "LostItems",
        "ProcessError",
        "ProcessExit",
        "ProcessingError",
        "RemoteError",
        "StaleHandleError",
        "TaskTimeout",
        "TimeoutError",
        "WorkerDied",
    ),
    "executor": ("ProcessPoolExecutor",),
    "local": ("LocalManager",),
    "managers": ("Manager",),
    "memory": ("memory_limit", "memory_usage", "set_memory_limit"),
    "pool": ("Pool", "ThreadPool"),
    "posixqueue": ("PosixQueue",),
    "process": ("Process", "active_children", "current_process", "parent_process"),
    "queues": ("BufferedQueue", "JoinableQueue", "Queue", "SimpleQueue"),
    "sharedctypes": ("Array", "RawArray", "RawValue", "Value"),
    "sharing": ("share",),
    "standin": ("install",),
    "synchronize": (
        "Barrier",
        "BoundedSemaphore",
        "BrokenBarrierError",
        "Condition",
        "Event",
        "Lock",
        "RLock",
        "Semaphore",
    ),
    "util": ("get_logger", "log_to_stderr"),
}

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "BufferTooShort",
    "BufferedQueue",
    "Condition",
    "Event",
    "InitializerFailed",
    "JoinableQueue",
    "LocalManager",
    "Lock",
    "LockOwnerDied",
    "LostItems",
    "Manager",
    "Pipe",
    "Pool",
    "PosixQueue",
    "Process",
    "ProcessError",
    "ProcessExit",
    "ProcessPoolExecutor",
    "ProcessingError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "RemoteError",
    "Semaphore",
    "SimpleQueue",
    "StaleHandleError",
    "TaskTimeout",
    "ThreadPool",
    "TimeoutError",
    "Value",
    "WorkerDied",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "current_worker",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "install",
    "log_to_stderr",
    "memory_limit",
    "memory_usage",
    "parent_process",
    "set_executable",
    "set_forkserver_preload",
    "set_memory_limit",
    "set_start_method",
    "share",
]

_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
# Modules that are reached as attributes, as in the standard library (`processing.queues.Empty`).
_MODULES = frozenset(
    (
        "arrays",
        "connection",
        "context",
        "dummy",
        "errors",
        "executor",
        "local",
        "managers",
        "memory",
        "pool",
        "process",
        "queues",
        "reducer",
        "reduction",
        "resource_sharer",
        "resource_tracker",
        "shared_memory",
        "sharedctypes",
        "sharing",
        "spawn",
        "synchronize",
        "util",
        "values",
    )
)


def __getattr__(name: str) -> Any:
    import importlib

    module = _MODULE_OF.get(name)
    if module is not None:
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{'reduction' if name == 'reducer' else name}")
    if name in ("SUBDEBUG", "SUBWARNING"):
        return getattr(importlib.import_module(f"{__name__}.util"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


del TYPE_CHECKING  # so that what is public here is what __all__ says
