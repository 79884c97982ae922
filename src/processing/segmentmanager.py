"""SharedMemoryManager: removes the segments that it made.

It needs no server process. What it made is written down, with its mark, in the program's book of names (_segments.py),
which survives the death of any process; whether it has been shut down is an Event, which every process with a copy of
the manager sees.
"""

from __future__ import annotations

import secrets

from . import _segments, errors, shared_memory, util
from .synchronize import Event

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any

__all__ = ["SharedMemoryManager"]


class SharedMemoryManager:
    """Makes SharedMemory and ShareableList objects, and removes them all: at `shutdown`, at the end of a `with` block,
    when the manager is collected, at the end of the program.

    It can be sent to other processes, which then make segments too; the object that was started is the one that
    removes them. What has been removed lives on for those who have it open.
    """

    def __init__(self, address: object = None, authkey: object = None, **options: object) -> None:
        if address is not None or authkey is not None:
            raise NotImplementedError(
                "a SharedMemoryManager has no server process: it takes no address or authkey"
            )
        self._mark = ""
        self._ended: Event | None = None
        self._finalizer: util.Finalize | None = None

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """From now on it makes segments. ProcessError if it was started before."""
        if initializer is not None:
            raise TypeError("a SharedMemoryManager has no server process that could run an initializer")
        if self._ended is not None:
            state = "has shut down" if self._ended.is_set() else "has been started already"
            raise errors.ProcessError(f"this manager {state}")
        self._mark = secrets.token_hex(8)
        self._ended = Event()
        # Before the end of the children, as with the standard library's managers.
        self._finalizer = util.Finalize(self, _shut_down, (self._mark, self._ended), exitpriority=0)

    def shutdown(self) -> None:
        """Removes the names of all segments that it made, in whatever process. Only where it was started."""
        if self._finalizer is not None:
            self._finalizer()

    def join(self, timeout: float | None = None) -> None:
        """There is no server to wait for."""

    def connect(self) -> None:
        """NotImplementedError: there is no server. Send the manager itself."""
        raise NotImplementedError(
            "a SharedMemoryManager has no server to connect to: send it to the process that is to use it"
        )

    def __enter__(self) -> SharedMemoryManager:
        if self._ended is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def SharedMemory(self, size: int) -> shared_memory.SharedMemory:
        """A new SharedMemory of `size` bytes, which the manager removes. ValueError if it is not running."""
        self._check()
        made = shared_memory.SharedMemory(create=True, size=size)
        self._keep(made)
        return made

    def ShareableList(self, sequence: Iterable[Any]) -> shared_memory.ShareableList:
        """A new ShareableList of the items, which the manager removes. ValueError if it is not running."""
        self._check()
        made = shared_memory.ShareableList(sequence)
        self._keep(made.shm)
        return made

    def _check(self) -> None:
        if self._ended is None:
            raise ValueError(
                "this SharedMemoryManager has not been started: call start(), or use it in a `with`"
            )
        if self._ended.is_set():
            raise ValueError("this SharedMemoryManager has shut down")

    def _keep(self, made: shared_memory.SharedMemory) -> None:
        _segments.tag(f"/{made.name}", self._mark)
        if self._ended is not None and self._ended.is_set():
            # It was shut down by another process or thread just now.
            _segments.unlink_tagged(self._mark)
            made.close()
            self._check()

    def __reduce__(self) -> tuple[Any, ...]:
        return _copy, (type(self), self._mark, self._ended)

    def __repr__(self) -> str:
        state = "initial" if self._ended is None else "shut down" if self._ended.is_set() else "started"
        return f"<{type(self).__name__} {state}>"


def _copy(cls: type[SharedMemoryManager], mark: str, ended: Event | None) -> SharedMemoryManager:
    self = cls()
    self._mark, self._ended = mark, ended
    return self


def _shut_down(mark: str, ended: Event) -> None:
    ended.set()
    _segments.unlink_tagged(mark)
