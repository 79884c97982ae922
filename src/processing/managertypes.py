"""The proxies of what a SyncManager makes. They add what cannot be forwarded: `with`, iteration in batches, comparison.

The objects themselves are in managerobjects.py (containers), managedsync.py, managedqueue.py and managedvalues.py.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from .proxies import BaseProxy, MakeProxyType, _iterate

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = [
    "AcquirerProxy", "ArrayProxy", "BarrierProxy", "ConditionProxy", "DequeProxy", "DictProxy", "EventProxy",
    "IteratorProxy", "KeysProxy", "ListProxy", "NamespaceProxy", "PoolProxy", "QueueProxy", "SetProxy", "StructProxy",
    "ValueProxy",
]  # fmt: skip


# ---- Proxies --------------------------------------------------------------------------------------------------------


def _compare(name: str) -> Callable[[Any, Any], Any]:
    def method(self: BaseProxy, other: Any) -> Any:
        if isinstance(other, BaseProxy):
            if self._token.address == other._token.address and self._id == other._id:
                return name == "__eq__"
            other = other._getvalue()
        return getattr(self._getvalue(), name)(other)

    method.__name__ = name
    return method


class _ByValue(BaseProxy):
    """A container: compared by value."""

    __eq__ = _compare("__eq__")
    __ne__ = _compare("__ne__")
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"


class IteratorProxy(BaseProxy):
    """An iterator in the server."""

    _exposed_ = ("__next__", "send", "throw", "close")

    def __iter__(self) -> Any:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        return self._callmethod("close", args)


class KeysProxy(BaseProxy):
    """An iterator over a container in the server; its items come in batches."""

    _exposed_ = ("take",)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        items: Any = self.__dict__.get("_items")
        if not items:
            most = self._most = min(self.__dict__.get("_most", 8) * 4, 4096)
            items = self._items = deque(self._callmethod("take", (most,)))
            if not items:
                raise StopIteration
        return items.popleft()


class AcquirerProxy(BaseProxy):
    """A lock or semaphore. If the client that holds a lock is killed, the next `acquire` raises LockOwnerDied."""

    _exposed_: tuple[str, ...] = ("acquire", "release", "locked")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        args = (blocking,) if timeout is None else (blocking, timeout)
        return self._callmethod("acquire", args)

    def release(self, n: int | None = None) -> None:
        """`n`: of a semaphore, how often."""
        self._callmethod("release", () if n is None else (n,))

    def locked(self) -> Any:
        return self._callmethod("locked")

    def __enter__(self) -> Any:
        return self._callmethod("acquire")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._callmethod("release")


class ConditionProxy(AcquirerProxy):
    _exposed_: tuple[str, ...] = ("acquire", "release", "wait", "notify", "notify_all")

    def wait(self, timeout: float | None = None) -> Any:
        return self._callmethod("wait", (timeout,))

    def notify(self, n: int = 1) -> Any:
        return self._callmethod("notify", (n,))

    def notify_all(self) -> Any:
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until `predicate()` is true, for at most `timeout` seconds; -> its last result."""
        end = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result


class EventProxy(BaseProxy):
    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self) -> Any:
        return self._callmethod("is_set")

    def set(self) -> Any:
        return self._callmethod("set")

    def clear(self) -> Any:
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> Any:
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy):
    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> Any:
        return self._callmethod("wait", (timeout,))

    def abort(self) -> Any:
        return self._callmethod("abort")

    def reset(self) -> Any:
        return self._callmethod("reset")

    @property
    def parties(self) -> Any:
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> Any:
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> Any:
        return self._callmethod("__getattribute__", ("broken",))


class NamespaceProxy(BaseProxy):
    """Attributes that all clients share; those that begin with an underscore are the proxy's own."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, key: str) -> Any:
        if key[0] == "_":
            return object.__getattribute__(self, key)
        return self._callmethod("__getattribute__", (key,))

    def __setattr__(self, key: str, value: Any) -> None:
        if key[0] == "_":
            object.__setattr__(self, key, value)
        else:
            self._callmethod("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key[0] == "_":
            object.__delattr__(self, key)
        else:
            self._callmethod("__delattr__", (key,))


class ValueProxy(BaseProxy):
    _exposed_: tuple[str, ...] = ("get", "set", "add", "exchange", "compare_exchange")

    def get(self) -> Any:
        return self._callmethod("get")

    def set(self, value: Any) -> Any:
        return self._callmethod("set", (value,))

    def add(self, amount: Any) -> Any:
        return self._callmethod("add", (amount,))

    def exchange(self, value: Any) -> Any:
        return self._callmethod("exchange", (value,))

    def compare_exchange(self, expected: Any, value: Any) -> Any:
        return self._callmethod("compare_exchange", (expected, value))

    value = property(get, set)


class StructProxy(ValueProxy):
    _exposed_ = ("get", "set")
    value = property(ValueProxy.get, ValueProxy.set)


_LIST = (
    "__add__", "__contains__", "__delitem__", "__getitem__", "__len__", "__mul__", "__reversed__", "__rmul__",
    "__setitem__", "append", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort", "__imul__",
    "copy", "clear",
)  # fmt: skip
BaseListProxy: Any = MakeProxyType("BaseListProxy", _LIST)


class ListProxy(BaseListProxy, _ByValue):  # type: ignore[misc]
    """A list in the server."""

    def __iadd__(self, value: Any) -> Any:
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value: Any) -> Any:
        self._callmethod("__imul__", (value,))
        return self

    def __iter__(self) -> Iterator[Any]:
        return _iterate(self)

    def __reversed__(self) -> Any:
        return reversed(self._getvalue())

    __class_getitem__ = classmethod(lambda cls, item: cls)


_DICT = (
    "__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__", "__or__", "__reversed__", "__ror__",
    "__setitem__", "clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update",
    "values",
)  # fmt: skip
_BaseDictProxy: Any = MakeProxyType("_BaseDictProxy", _DICT)


class DictProxy(_BaseDictProxy, _ByValue):  # type: ignore[misc]
    """A dict in the server. `keys()`, `values()` and `items()` give lists, of one moment."""

    _method_to_typeid_ = {"__iter__": "Keys"}

    def __iter__(self) -> Iterator[Any]:
        if self._link.control is not None and self._link.is_standard:
            return iter(self.keys())
        made: Iterator[Any] = self._callmethod("__iter__")
        return made

    def keys(self) -> Any:
        return self._callmethod("keys")

    def values(self) -> Any:
        return self._callmethod("values")

    def items(self) -> Any:
        return self._callmethod("items")

    def __reversed__(self) -> Any:
        return reversed(self.keys())

    def __ior__(self, value: Any) -> Any:
        self._callmethod("update", (dict(value),))
        return self

    __class_getitem__ = classmethod(lambda cls, item: cls)


_SET = (
    "__contains__", "__len__", "__and__", "__or__", "__sub__", "__xor__", "__rand__", "__ror__", "__rsub__", "__rxor__",
    "__le__", "__lt__", "__ge__", "__gt__", "add", "clear", "copy", "difference", "difference_update", "discard",
    "intersection", "intersection_update", "isdisjoint", "issubset", "issuperset", "pop", "remove",
    "symmetric_difference", "symmetric_difference_update", "union", "update",
)  # fmt: skip
BaseSetProxy: Any = MakeProxyType("BaseSetProxy", _SET)


def _operator(name: str) -> Callable[[Any, Any], Any]:
    def method(self: BaseProxy, other: Any) -> Any:
        return self._callmethod(name, (other._getvalue() if isinstance(other, BaseProxy) else other,))

    method.__name__ = name
    return method


class SetProxy(BaseSetProxy, _ByValue):  # type: ignore[misc]
    """A set in the server. Iterating sees one moment."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._getvalue())

    def __ior__(self, value: Any) -> Any:
        self._callmethod("update", (set(value),))
        return self

    def __iand__(self, value: Any) -> Any:
        self._callmethod("intersection_update", (set(value),))
        return self

    def __isub__(self, value: Any) -> Any:
        self._callmethod("difference_update", (set(value),))
        return self

    def __ixor__(self, value: Any) -> Any:
        self._callmethod("symmetric_difference_update", (set(value),))
        return self


for _name in _SET[2:14]:
    setattr(SetProxy, _name, _operator(_name))

_DEQUE = (
    "__contains__", "__delitem__", "__getitem__", "__len__", "__setitem__", "append", "appendleft", "clear", "copy",
    "count", "extend", "extendleft", "index", "insert", "pop", "popleft", "remove", "reverse", "rotate",
)  # fmt: skip
BaseDequeProxy: Any = MakeProxyType("BaseDequeProxy", _DEQUE)


class DequeProxy(BaseDequeProxy, _ByValue):  # type: ignore[misc]
    """A deque in the server. Iterating sees one moment."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._getvalue())

    def __iadd__(self, value: Any) -> Any:
        self._callmethod("extend", (list(value),))
        return self


BaseArrayProxy: Any = MakeProxyType("BaseArrayProxy", ("__len__", "__getitem__", "__setitem__"))


class ArrayProxy(BaseArrayProxy):  # type: ignore[misc]
    def __iter__(self) -> Iterator[Any]:
        return _iterate(self)


_QUEUE = (
    "qsize", "empty", "full", "put", "get", "put_nowait", "get_nowait", "put_many", "get_many", "task_done", "join",
    "shutdown",
)  # fmt: skip
BaseQueueProxy: Any = MakeProxyType("BaseQueueProxy", _QUEUE)


class QueueProxy(BaseQueueProxy):  # type: ignore[misc]
    """A queue in the server. Where `put` cannot fail, it need not wait for the reply (managerposts.py)."""

    _flag: memoryview | None = None

    def __init__(self, *args: Any, lease: Any = None, **kwds: Any) -> None:
        super().__init__(*args, lease=lease, **kwds)
        if lease is not None and lease.nbytes:
            self._flag = memoryview(lease)

    def put(self, /, *args: Any, **kwds: Any) -> None:
        flag = self._flag
        if flag is None or not flag[0] or len(args) != 1 or kwds:
            self._callmethod("put", args, kwds)
        elif not self._link.post(self._id, "#POST", *args):
            self._callmethod("put", args)
            self._link.believe()
        elif not flag[0]:
            self._callmethod("qsize")  # which the ring brings after it

    def put_nowait(self, /, *args: Any, **kwds: Any) -> None:
        if self._flag is not None and len(args) == 1 and not kwds:
            self.put(*args)
        else:
            self._callmethod("put_nowait", args, kwds)


BasePoolProxy: Any = MakeProxyType(
    "PoolProxy",
    (
        *("apply", "apply_async", "close", "imap", "imap_unordered", "join", "map", "map_async", "starmap"),
        *("starmap_async", "terminate"),
    ),
)


class PoolProxy(BasePoolProxy):  # type: ignore[misc]
    """A pool of the server."""

    _method_to_typeid_ = {
        "apply_async": "AsyncResult",
        "map_async": "AsyncResult",
        "starmap_async": "AsyncResult",
        "imap": "Iterator",
        "imap_unordered": "Iterator",
    }

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()
