"""LocalManager: the introduction's manager of shared memory, which needs no server process.

It makes the shared objects of the package, under the names that a `Manager` has for its own: what was written for
one runs with the other. The objects live in the program's arena and are held by those who use them, so a manager
holds nothing alive, starts nothing and has nothing to shut down; `start`, `shutdown` and `with` are there because a
Manager has them. Each object can be given a `name` for messages and tools.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, TypeVar

    from .containers import SharedDeque, SharedDict, SharedList, SharedNamespace, SharedSet
    from .queues import JoinableQueue, Queue, SimpleQueue
    from .synchronize import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
    from .values import SharedArray, SharedStruct, SharedValue

    _T = TypeVar("_T")

__all__ = ["LocalManager"]


class LocalManager:
    """Makes objects that processes share through memory: values, structs, arrays, containers, locks and queues.

    All of them can be given to new processes and sent to running ones, and live as long as any process has them;
    whether the manager still exists, or which process made it, does not matter. Managers pickle. Nothing here
    blocks.
    """

    __slots__ = ()

    # -- As a Manager has them

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """There is no server to start. An initializer would run in it: TypeError."""
        if initializer is not None:
            raise TypeError("a LocalManager has no server process that could run an initializer")

    def connect(self) -> None:
        """There is no server to connect to: every process of the program may use what a LocalManager makes."""

    def shutdown(self) -> None:
        """There is no server to shut down; what was made lives on with those who have it."""

    def join(self, timeout: float | None = None) -> None:
        """There is no server to wait for."""

    def __enter__(self) -> LocalManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    # -- Values

    def SharedValue(self, format: str | bytes, value: Any = None, *, name: str | None = None) -> SharedValue:
        """See `processing.values.SharedValue`."""
        from .values import SharedValue

        return SharedValue(format, value, name=name)

    def SharedStruct(
        self, format: str | bytes, value: Any = None, *, name: str | None = None
    ) -> SharedStruct:
        """See `processing.values.SharedStruct`."""
        from .values import SharedStruct

        return SharedStruct(format, value, name=name)

    def SharedArray(
        self, typecode: str, items: int | Iterable[Any] = 0, *, name: str | None = None
    ) -> SharedArray:
        """See `processing.values.SharedArray`."""
        from .values import SharedArray

        return SharedArray(typecode, items, name=name)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True, name: str | None = None) -> Any:
        """See `processing.Value`."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, name=name)

    def Array(
        self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, name: str | None = None
    ) -> Any:
        """See `processing.Array`."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, name=name)

    # -- Containers

    def dict(self, mapping: Any = (), /, *, name: str | None = None, **items: Any) -> SharedDict:
        """See `processing.containers.SharedDict`. `name` is the object's: a key of that name goes into the mapping."""
        from .containers import SharedDict

        return _named(SharedDict(mapping, **items), name)

    def list(self, items: Iterable[Any] = (), /, *, name: str | None = None) -> SharedList:
        """See `processing.containers.SharedList`."""
        from .containers import SharedList

        return _named(SharedList(items), name)

    def set(self, items: Iterable[Any] = (), /, *, name: str | None = None) -> SharedSet:
        """See `processing.containers.SharedSet`."""
        from .containers import SharedSet

        return _named(SharedSet(items), name)

    def deque(
        self, items: Iterable[Any] = (), maxlen: int | None = None, *, name: str | None = None
    ) -> SharedDeque:
        """See `processing.containers.SharedDeque`."""
        from .containers import SharedDeque

        return _named(SharedDeque(items, maxlen), name)

    def Namespace(self, **attributes: Any) -> SharedNamespace:
        """See `processing.containers.SharedNamespace`."""
        from .containers import SharedNamespace

        return SharedNamespace(**attributes)

    # -- Synchronisation

    def Lock(self, *, name: str | None = None) -> Lock:
        """See `processing.Lock`."""
        from .synchronize import Lock

        return Lock(name=name)

    def RLock(self, *, name: str | None = None) -> RLock:
        """See `processing.RLock`."""
        from .synchronize import RLock

        return RLock(name=name)

    def Semaphore(self, value: int = 1, *, name: str | None = None) -> Semaphore:
        """See `processing.Semaphore`."""
        from .synchronize import Semaphore

        return Semaphore(value, name=name)

    def BoundedSemaphore(self, value: int = 1, *, name: str | None = None) -> BoundedSemaphore:
        """See `processing.BoundedSemaphore`."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, name=name)

    def Condition(self, lock: Any = None, *, name: str | None = None) -> Condition:
        """See `processing.Condition`."""
        from .synchronize import Condition

        return Condition(lock, name=name)

    def Event(self, *, name: str | None = None) -> Event:
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
    ) -> Barrier:
        """See `processing.Barrier`."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, name=name)

    # -- Queues

    def Queue(self, maxsize: int = 0, *, name: str | None = None) -> Queue:
        """See `processing.Queue`."""
        from .queues import Queue

        made: Queue = Queue(maxsize, name=name)
        return made

    def JoinableQueue(self, maxsize: int = 0, *, name: str | None = None) -> JoinableQueue:
        """See `processing.JoinableQueue`."""
        from .queues import JoinableQueue

        made: JoinableQueue = JoinableQueue(maxsize, name=name)
        return made

    def SimpleQueue(self, *, name: str | None = None) -> SimpleQueue:
        """See `processing.SimpleQueue`."""
        from .queues import SimpleQueue

        made: SimpleQueue = SimpleQueue(name=name)
        return made


def _named(made: _T, name: str | None) -> _T:
    if name:
        made.name = name  # type: ignore[attr-defined]
    return made
