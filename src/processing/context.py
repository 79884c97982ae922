"""Contexts: everything of the package, bound to one start method.

    get_context("fork" | "spawn" | "forkserver")  ->  that context; its Process always starts that way
    get_context()                                 ->  the default context, whose start method can be set once

Shared objects are the same whichever context makes them: all live in the one arena of the program. What a context
makes is imported when it is first made.
"""

from __future__ import annotations

import os

from . import errors, process
from ._this import this

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    import logging
    import types
    from collections.abc import Callable, Iterable
    from typing import Any

    from . import (
        connection,
        counters,
        executor,
        local,
        managers,
        pool,
        posixqueue,
        queues,
        sharing,
        synchronize,
    )

__all__ = [
    "BaseContext",
    "DefaultContext",
    "ForkContext",
    "ForkServerContext",
    "ForkProcess",
    "ForkServerProcess",
    "SpawnContext",
    "SpawnProcess",
    "allow_connection_pickling",
    "assert_spawning",
    "cpu_count",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_spawning_popen",
    "get_start_method",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]


# ---- Processes of one start method ----------------------------------------------------------------------------------


class ForkProcess(process.BaseProcess):
    """A process started by `os.fork`: it has a copy of everything its parent has."""

    _start_method = "fork"


class SpawnProcess(process.BaseProcess):
    """A process started in a new interpreter."""

    _start_method = "spawn"


class ForkServerProcess(process.BaseProcess):
    """A process forked by the program's zygote, a process without threads that has imported what is needed."""

    _start_method = "forkserver"


# ---- Contexts -------------------------------------------------------------------------------------------------------


class BaseContext:
    """What all contexts have."""

    ProcessingError = errors.ProcessingError
    LockOwnerDied = errors.LockOwnerDied
    LostItems = errors.LostItems
    StaleHandleError = errors.StaleHandleError
    ProcessError = errors.ProcessError
    BufferTooShort = errors.BufferTooShort
    TimeoutError = errors.TimeoutError
    AuthenticationError = errors.AuthenticationError
    ProcessExit = errors.ProcessExit
    WorkerDied = errors.WorkerDied
    TaskTimeout = errors.TaskTimeout
    InitializerFailed = errors.InitializerFailed
    RemoteError = errors.RemoteError

    Process: type[process.BaseProcess]
    _name: str | None = None

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    # -- Facts

    def cpu_count(self, usable: bool = False) -> int:
        """CPUs of the machine; with `usable`, those that this process may use: its affinity and the CPU quotas of all
        visible levels of its control group (v1 and v2), rounded up, count."""
        if usable:
            from . import _program

            allowed = len(os.sched_getaffinity(0))
            quota: float = _program.cpu_quota()
            # Rounded up: half a CPU more is worth another process.
            return max(1, allowed if quota >= allowed else -int(-quota // 1))
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("cannot determine number of cpus")
        return count

    def get_context(self, method: str | None = None) -> BaseContext:
        """The context of a start method; None: this one. ValueError if there is no such method."""
        if method is None:
            return self
        try:
            return _contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """The name of the start method."""
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        raise ValueError("cannot set start method of concrete context")

    def get_all_start_methods(self) -> list[str]:
        """The names of the start methods, the default first."""
        return list(_contexts)

    # -- Synchronisation

    def Lock(self, *, name: str | None = None) -> synchronize.Lock:
        """See `processing.Lock`."""
        from .synchronize import Lock

        return Lock(name=name)

    def RLock(self, *, name: str | None = None) -> synchronize.RLock:
        """See `processing.RLock`."""
        from .synchronize import RLock

        return RLock(name=name)

    def Semaphore(self, value: int = 1, *, name: str | None = None) -> synchronize.Semaphore:
        """See `processing.Semaphore`."""
        from .synchronize import Semaphore

        return Semaphore(value, name=name)

    def BoundedSemaphore(self, value: int = 1, *, name: str | None = None) -> synchronize.BoundedSemaphore:
        """See `processing.BoundedSemaphore`."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, name=name)

    def Condition(self, lock: Any = None, *, name: str | None = None) -> synchronize.Condition:
        """See `processing.Condition`."""
        from .synchronize import Condition

        return Condition(lock, name=name)

    def Event(self, *, name: str | None = None) -> synchronize.Event:
        """See `processing.Event`."""
        from .synchronize import Event

        return Event(name=name)

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        name: str | None = None,
    ) -> synchronize.Barrier:
        """See `processing.Barrier`."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, name=name)

    # -- Queues and pipes

    def Queue(self, maxsize: int = 0, *, name: str | None = None) -> queues.Queue:
        """See `processing.Queue`."""
        from .queues import Queue

        made: queues.Queue = Queue(maxsize, name=name)
        return made

    def BufferedQueue(self, *, name: str | None = None) -> queues.BufferedQueue:
        """See `processing.BufferedQueue`."""
        from .queues import BufferedQueue

        made: queues.BufferedQueue = BufferedQueue(name=name)
        return made

    def JoinableQueue(self, maxsize: int = 0, *, name: str | None = None) -> queues.JoinableQueue:
        """See `processing.JoinableQueue`."""
        from .queues import JoinableQueue

        made: queues.JoinableQueue = JoinableQueue(maxsize, name=name)
        return made

    def SimpleQueue(self, *, name: str | None = None) -> queues.SimpleQueue:
        """See `processing.SimpleQueue`."""
        from .queues import SimpleQueue

        made: queues.SimpleQueue = SimpleQueue(name=name)
        return made

    def PosixQueue(
        self, maxsize: int = 0, msgsize: int = 0, *, name: str | None = None
    ) -> posixqueue.PosixQueue:
        """See `processing.PosixQueue`."""
        from .posixqueue import PosixQueue

        return PosixQueue(maxsize, msgsize, name=name)

    def Pipe(
        self, duplex: bool = True, *, name: str | None = None
    ) -> tuple[connection.Connection, connection.Connection]:
        """See `processing.Pipe`."""
        from .connection import Pipe

        return Pipe(duplex, name=name)

    # -- Shared ctypes objects

    def RawValue(self, typecode_or_type: Any, *args: Any, name: str | None = None) -> Any:
        """See `processing.RawValue`."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args, name=name)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any, *, name: str | None = None) -> Any:
        """See `processing.RawArray`."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer, name=name)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True, name: str | None = None) -> Any:
        """See `processing.Value`."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self, name=name)

    def Array(
        self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, name: str | None = None
    ) -> Any:
        """See `processing.Array`."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self, name=name)

    # -- Pools

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **options: Any,
    ) -> pool.Pool:
        """See `processing.Pool`; its workers are started by the start method of this context."""
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, self.get_context(), **options)

    def ThreadPool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> pool.ThreadPool:
        """See `processing.ThreadPool`."""
        from .pool import ThreadPool

        return ThreadPool(processes, initializer, initargs)

    def ProcessPoolExecutor(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> executor.ProcessPoolExecutor:
        """See `processing.ProcessPoolExecutor`; its workers are started by the start method of this context."""
        from .executor import ProcessPoolExecutor

        return ProcessPoolExecutor(
            max_workers, self.get_context(), initializer, initargs, max_tasks_per_child=max_tasks_per_child
        )

    # -- Managers

    def LocalManager(self) -> local.LocalManager:
        """See `processing.LocalManager`."""
        from .local import LocalManager

        return LocalManager()

    def Manager(self) -> managers.SyncManager:
        """A started SyncManager: a process that holds objects, and makes proxies of them. See `processing.managers`."""
        from .managers import Manager

        return Manager(self.get_context())

    def share(self, obj: Any, *, name: str | None = None) -> sharing.Shared:
        """See `processing.share`."""
        from .sharing import share

        return share(obj, name=name)

    # -- The program

    def memory_limit(self) -> int:
        """See `processing.memory_limit`."""
        from .memory import memory_limit

        return memory_limit()

    def memory_usage(self) -> counters.MemoryUsage:
        """See `processing.memory_usage`."""
        from .memory import memory_usage

        return memory_usage()

    def set_memory_limit(self, size: int) -> None:
        """See `processing.set_memory_limit`."""
        from .memory import set_memory_limit

        set_memory_limit(size)

    def get_logger(self) -> logging.Logger:
        """See `processing.get_logger`."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: int | str | None = None) -> logging.Logger:
        """See `processing.log_to_stderr`."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def freeze_support(self) -> None:
        """For programs frozen into an executable: call it first in the main program. Runs the child and does not
        return if this process is one; does nothing otherwise."""
        import sys

        if getattr(sys, "frozen", False):
            from .spawn import freeze_support

            freeze_support()

    def set_executable(self, executable: str | bytes | os.PathLike[str]) -> None:
        """The Python interpreter with which spawn and the fork server start (default: `sys.executable`)."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(self, module_names: Iterable[str]) -> None:
        """Modules that the fork server imports when it starts, so that its children have them at once (default:
        `__main__`). What cannot be imported is left out. No effect on a fork server that runs already."""
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names)

    def allow_connection_pickling(self) -> None:
        """Does nothing: connections always pickle."""

    @property
    def reducer(self) -> types.ModuleType:
        """The module that pickles: `processing.reduction`."""
        from . import reduction

        return reduction


class ForkContext(BaseContext):
    """The context of "fork"."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """The context of "spawn"."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """The context of "forkserver"."""

    _name = "forkserver"
    Process = ForkServerProcess


class DefaultContext(BaseContext):
    """The context behind the package's own functions; its start method is fork until it is set."""

    Process = process.Process

    def get_context(self, method: str | None = None) -> BaseContext:
        """The context of a start method; None: of the current one, which is settled by that."""
        if method is None:
            method = this.settled_method()
        return super().get_context(method)

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Sets the start method of `Process`, once; `force`: also if it is settled already. None with `force` goes back
        to the beginning. RuntimeError if it is settled: it was set, asked for, or used."""
        if this.start_method is not None and not force:
            raise RuntimeError("context has already been set")
        if method is not None:
            super().get_context(method)  # is there one?
        elif not force:
            raise ValueError("cannot find context for None")
        this.start_method = method

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """The start method, which is settled by asking; `allow_none`: None if it is not settled, and stays so."""
        return this.start_method if allow_none else this.settled_method()


_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}
default_context = DefaultContext()

cpu_count = default_context.cpu_count
get_context = default_context.get_context
get_start_method = default_context.get_start_method
set_start_method = default_context.set_start_method
get_all_start_methods = default_context.get_all_start_methods
freeze_support = default_context.freeze_support
set_executable = default_context.set_executable
set_forkserver_preload = default_context.set_forkserver_preload
allow_connection_pickling = default_context.allow_connection_pickling


# ---- While a process is being started -------------------------------------------------------------------------------


def get_spawning_popen() -> Any:
    """What starts a child in this thread just now; None otherwise."""
    from .reduction import spawning

    return spawning.popen


def set_spawning_popen(popen: Any) -> None:
    from .reduction import spawning

    spawning.popen = popen


def assert_spawning(obj: object) -> None:
    """RuntimeError unless this thread is starting a process: `obj` may only be inherited."""
    if get_spawning_popen() is None:
        raise RuntimeError(
            f"{type(obj).__name__} objects should only be shared between processes through inheritance"
        )


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
