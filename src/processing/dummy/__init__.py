"""The package's API on threads: `Process` is a thread of this process, everything else what threads use.

For programs written for processes that are to run without them. As `multiprocessing.dummy`.
"""

from __future__ import annotations

import array
import sys
import threading
import weakref
from queue import Queue
from threading import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore

from .connection import Pipe

TYPE_CHECKING = False  # as typing has it
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType
    from typing import Any

    from ..pool import ThreadPool

__all__ = [
    "Process",
    "current_process",
    "active_children",
    "freeze_support",
    "Lock",
    "RLock",
    "Semaphore",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Barrier",
    "Queue",
    "Manager",
    "Pipe",
    "Pool",
    "JoinableQueue",
]

# thread -> the threads that it has started; threads are forgotten with their last user
_children: weakref.WeakKeyDictionary[threading.Thread, weakref.WeakSet[DummyProcess]] = (
    weakref.WeakKeyDictionary()
)


class DummyProcess(threading.Thread):
    """A thread with the API of a process. Only the thread that made it may start it."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(group, target, name, tuple(args), dict(kwargs or {}))
        self._pid: int | None = None
        self._start_called = False
        self._parent = current_process()

    def start(self) -> None:
        """Starts the thread; once only."""
        if self._parent is not current_process():
            raise RuntimeError(f"Parent is {self._parent!r} but current_process is {current_process()!r}")
        self._start_called = True
        _children.setdefault(self._parent, weakref.WeakSet()).add(self)
        super().start()

    @property
    def exitcode(self) -> int | None:
        """0 once the thread has ended, None before."""
        return 0 if self._start_called and not self.is_alive() else None


Process = DummyProcess
current_process = threading.current_thread
JoinableQueue = Queue


def active_children() -> list[DummyProcess]:
    """The threads that this one has started, as long as they run."""
    return [child for child in _children.get(current_process(), ()) if child.is_alive()]


def freeze_support() -> None:
    """Does nothing."""


class Namespace:
    """An object with attributes."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        items = sorted(
            f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_")
        )
        return f"{type(self).__name__}({', '.join(items)})"


dict = dict
list = list


def Array(typecode: str, sequence: Any, lock: Any = True) -> array.array[Any]:
    """A plain `array.array`; an int makes one of so many zeros."""
    if isinstance(sequence, int):
        sequence = [0] * sequence
    return array.array(typecode, sequence)


class Value:
    """An object with a `value`."""

    def __init__(self, typecode: Any, value: Any, lock: Any = True) -> None:
        self._typecode = typecode
        self._value = value

    @property
    def value(self) -> Any:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._typecode!r}, {self._value!r})>"


def Manager() -> ModuleType:
    """This module: its `dict`, `list`, `Namespace`, `Value`... are what a manager has."""
    return sys.modules[__name__]


def shutdown() -> None:
    """Does nothing: there is no server."""


def Pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> ThreadPool:
    """A ThreadPool."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)
