"""Large objects that several processes read: pickled into shared memory once, opened everywhere without a copy.

    shared = share(frame)         one copy, into the arena
    queue.put(shared)             a handle of a few bytes
    shared.get()                  the object; its arrays are read-only views on that one copy

The memory lives as long as any process has the handle, or an object that `get` gave; it is freed with the last, also
when the process that made it, or one that reads it, is killed.
"""

from __future__ import annotations

from . import _memory, _program
from .synchronize import _Pickles, _reopen

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .counters import MemoryStatistics

__all__ = ["Shared", "share"]


class Shared(_Pickles, _memory.SharedBase):
    """The handle of an object that `share` put into shared memory. It never changes.

    Pickles at any time, in a few bytes. The name belongs to the handle, and travels with it.
    """

    __slots__ = ()
    _layout = _memory.SHARED

    def get(self) -> Any:
        """The object. It is unpickled anew by each call; what exports buffers (numpy arrays, columns of data frames)
        is not copied, but looks into the shared memory, read-only. What was bytes-like is a read-only memoryview.

        Raises what unpickling raises.
        """
        return self._get()

    @property
    def name(self) -> str | None:
        """What the maker called it, or None."""
        return self._label

    @name.setter
    def name(self, value: str | None) -> None:
        self._label = value

    def statistics(self) -> MemoryStatistics:
        """Its size, and how many hold it."""
        from .counters import MemoryStatistics

        return MemoryStatistics(self.nbytes, _memory.holders(self))

    def close(self) -> None:
        """Gives this process's handle up before it is collected. Objects that `get` gave need it: BufferError."""
        self._close()

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{self.nbytes} bytes" if self._is_open else "closed"
        return f"<Shared({size})" + (f" name={self.name!r}>" if self.name else ">")

    def __reduce__(self) -> tuple[Any, ...]:
        _program.note(self)
        return _reopen_shared, (type(self), self._label, *self._key())


def _reopen_shared(cls: type[Shared], name: str | None, program: int, offset: int, generation: int) -> Shared:
    self = _reopen(cls, program, offset, generation)
    self._label = name
    return self


def share(obj: Any, *, name: str | None = None) -> Shared:
    """Puts an object into shared memory, once, and gives a handle that can be sent anywhere.

    Any object that can be sent through a queue. Handles among its parts (queues, locks, shared arrays) stay handles,
    and are kept alive. Arrays that lie in shared memory already are not copied, but referred to, and stay as writable
    as they are. `name` is for messages. Raises what pickling raises; MemoryError at the program's limit.
    """
    raw = isinstance(obj, (bytes, bytearray, memoryview))
    self = _memory.new_shared(Shared, obj, raw)
    self._label = name
    return self
