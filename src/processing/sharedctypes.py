"""ctypes objects in the program's arena, with or without a lock: the standard library's Value and Array.

    RawValue, RawArray   a ctypes object made by `type.from_buffer` on an ArrayMemory (see arrays.py)
    Value, Array         a Synchronized* wrapper of one, with an RLock or the lock that was given

The memory is zeroed and lives as long as any process has an object that looks into it. Both kinds pickle at any time,
not only while a process is started, and arrive as the same memory. For that each type that was used is registered with
`copyreg`: pickling then stays in C. Objects of that type that are not in the arena are pickled as ever, as copies.

Raw objects have no lock: where several processes write, torn or lost updates are the caller's affair. Plain numbers
are read and written faster, and atomically, by `SharedValue` and `SharedArray` (values.py).
"""

from __future__ import annotations

import copyreg
import ctypes
from weakref import WeakKeyDictionary

from .arrays import ArrayMemory
from .synchronize import RLock

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

typecode_to_type: dict[Any, Any] = {
    "c": ctypes.c_char,
    "u": ctypes.c_wchar,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


# ---- Raw objects ----------------------------------------------------------------------------------------------------


def RawValue(typecode_or_type: Any, *args: Any, name: str | None = None) -> Any:
    """A ctypes object in shared memory: `type(*args)`, zeroed where `args` say nothing. No lock.

    `typecode_or_type` is a ctypes type or one of 'cubBhHiIlLqQfd'. `name` is for messages and tools.
    """
    made = _new(_type_of(typecode_or_type), name)
    made.__init__(*args)
    return made


def RawArray(
    typecode_or_type: Any, size_or_initializer: int | Sequence[Any], *, name: str | None = None
) -> Any:
    """A ctypes array in shared memory: of so many zeroed items, or of the items of a sequence. No lock.

    ValueError if the size is negative.
    """
    type_ = _type_of(typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new(type_ * size_or_initializer, name)
    made = _new(type_ * len(size_or_initializer), name)
    made.__init__(*size_or_initializer)
    return made


def copy(obj: Any) -> Any:
    """A new object in shared memory, of the same type and contents as the ctypes object `obj`."""
    made = _new(type(obj), None)
    ctypes.pointer(made)[0] = obj
    return made


def _type_of(typecode_or_type: Any) -> Any:
    found = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if isinstance(found, str):
        raise TypeError(
            f"{found!r} is no typecode of a shared ctypes object: use a ctypes type or one of "
            + "".join(typecode_to_type)
        )
    return found


def _new(type_: Any, name: str | None) -> Any:
    return rebuild_ctype(type_, ArrayMemory(ctypes.sizeof(type_), name=name), None)


def rebuild_ctype(type_: Any, wrapper: ArrayMemory, length: int | None) -> Any:
    """The object of `type_` (or of an array of `length` of them) that looks into this memory."""
    if length is not None:
        type_ = type_ * length
    if type_ not in copyreg.dispatch_table:
        copyreg.pickle(type_, reduce_ctype)
    obj = type_.from_buffer(wrapper)
    obj._wrapper = wrapper
    return obj


def reduce_ctype(obj: Any) -> Any:
    """What a pickle carries: the memory of `obj`; its contents if it is not in the arena, or is a part of another."""
    wrapper = obj.__dict__.get("_wrapper")
    if wrapper is None:
        return obj.__reduce_ex__(2)
    if isinstance(obj, ctypes.Array):
        return rebuild_ctype, (obj._type_, wrapper, obj._length_)
    return rebuild_ctype, (type(obj), wrapper, None)


# ---- With a lock ----------------------------------------------------------------------------------------------------


def Value(
    typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None, name: str | None = None
) -> Any:
    """A RawValue in a wrapper that holds a lock for each access; `.value`, or the fields of a structure.

    `lock`: True or None for a new RLock, a lock to use that, False for the RawValue itself. AttributeError if it is no
    lock. `with value:` holds it for updates of several steps.
    """
    return _with_lock(RawValue(typecode_or_type, *args, name=name), lock, ctx)


def Array(
    typecode_or_type: Any,
    size_or_initializer: int | Sequence[Any],
    *,
    lock: Any = True,
    ctx: Any = None,
    name: str | None = None,
) -> Any:
    """A RawArray in a wrapper that holds a lock for each access. `lock` as for Value.

    An array of c_char also has `.value` and `.raw`.
    """
    return _with_lock(RawArray(typecode_or_type, size_or_initializer, name=name), lock, ctx)


def _with_lock(obj: Any, lock: Any, ctx: Any) -> Any:
    if lock is False:
        return obj
    if lock in (True, None):
        lock = RLock() if ctx is None else ctx.RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(obj, lock, ctx=ctx)


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> Any:
    """The wrapper for a ctypes object, with a new RLock if none is given."""
    if isinstance(obj, SynchronizedBase):
        raise AssertionError("object already synchronized")
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        kind = SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray
        return kind(obj, lock, ctx)
    cls = type(obj)
    wrapper = class_cache.get(cls)
    if wrapper is None:
        properties = {field: make_property(field) for field in _fields_of(cls)}
        wrapper = class_cache[cls] = type(f"Synchronized{cls.__name__}", (SynchronizedBase,), properties)
    return wrapper(obj, lock, ctx)


def _fields_of(cls: Any) -> list[str]:
    """The names of the fields of a structure, of its base classes and its anonymous parts too."""
    names: list[str] = []
    for base in reversed(cls.__mro__):
        anonymous = base.__dict__.get("_anonymous_", ())
        for field in base.__dict__.get("_fields_", ()):
            names.append(field[0])
            if field[0] in anonymous:
                names += _fields_of(field[1])
    return names


def make_property(name: str) -> property:
    """A property that holds the wrapper's lock while it reads or writes this attribute of the object."""
    made = prop_cache.get(name)
    if made is None:
        # Written out where it can be: an attribute by name is four times as fast as getattr().
        text = (
            template.replace("NAME", name) if name.isidentifier() else by_string.replace("NAME", repr(name))
        )
        found: dict[str, Any] = {}
        try:
            exec(text, found)
        except SyntaxError:  # a keyword
            exec(by_string.replace("NAME", repr(name)), found)
        made = prop_cache[name] = property(found["get"], found["set"])
    return made


# Calls of methods: a fifth faster here than `with`.
template = """
def get(self):
    lock = self._lock
    lock.acquire()
    try:
        return self._obj.NAME
    finally:
        lock.release()
def set(self, value):
    lock = self._lock
    lock.acquire()
    try:
        self._obj.NAME = value
    finally:
        lock.release()
"""
by_string = """
def get(self):
    with self:
        return getattr(self._obj, NAME)
def set(self, value):
    with self:
        setattr(self._obj, NAME, value)
"""

prop_cache: dict[str, property] = {}
class_cache: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


class SynchronizedBase:
    """A ctypes object and the lock that guards it. Pickles at any time, with its lock."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        self._obj = obj
        if not lock:
            lock = RLock() if ctx is None else ctx.RLock()
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return self._lock.__exit__(kind, value, traceback)

    def __reduce__(self) -> Any:
        return synchronized, (self._obj, self._lock)

    def get_obj(self) -> Any:
        """The ctypes object, which can be used without the lock."""
        return self._obj

    def get_lock(self) -> Any:
        """The lock."""
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class Synchronized(SynchronizedBase):
    """A single value, as `.value`."""

    value = make_property("value")


class SynchronizedArray(SynchronizedBase):
    """An array: items and slices."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, i: Any) -> Any:
        lock = self._lock
        lock.acquire()
        try:
            return self._obj[i]
        finally:
            lock.release()

    def __setitem__(self, i: Any, value: Any) -> None:
        lock = self._lock
        lock.acquire()
        try:
            self._obj[i] = value
        finally:
            lock.release()

    def __getslice__(self, start: int, stop: int) -> Any:
        return self[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        self[start:stop] = values


class SynchronizedString(SynchronizedArray):
    """An array of c_char; `.value` ends at the first null byte, `.raw` does not."""

    value = make_property("value")
    raw = make_property("raw")
