"""Pipes: two connected ends, with the API of `multiprocessing.connection.Connection`.

Each direction is a message ring in the arena, so an end is a handle like any other: it can be sent to a process that
already runs. Messages of any size arrive whole or not at all, also when several processes use the same end. A pipe
holds about 1 MiB in each direction; `send` then blocks until the other side has read.

EOFError means that no process holds the other end any more, be it closed, collected, or its processes killed, and that
everything sent before has been read.

Listener and Client (listener.py, client.py) connect programs that have no arena in common, through sockets.
"""

from __future__ import annotations

from . import _channel, _program, _sync
from .errors import BufferTooShort
from .framing import part_of
from .synchronize import _Pickles, _tail

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any

    from .client import Client
    from .counters import ConnectionStatistics
    from .listener import Listener

__all__ = ["Client", "Connection", "Listener", "Pipe", "wait"]

# What is loaded when it is first asked for: most programs have no use for sockets.
_LATER = {
    "Client": "client",
    "Listener": "listener",
    "SocketConnection": "socketconnection",
    "address_type": "socketaddresses",
    "answer_challenge": "authentication",
    "arbitrary_address": "socketaddresses",
    "deliver_challenge": "authentication",
}


class Connection(_Pickles, _channel.EndBase):
    """One end of a pipe. Pipe() makes them.

    Any process that has it may use it; the pipe's other end sees EOF when the last one has closed it or died. Messages
    are never mixed up, whoever sends or receives at the same time.
    """

    _layout = _sync.PIPE_END

    @property
    def closed(self) -> bool:
        """True if this handle is closed."""
        return not self._is_open

    @property
    def readable(self) -> bool:
        """True if this end can receive."""
        return bool(self._is_open and self._mode & 1)

    @property
    def writable(self) -> bool:
        """True if this end can send."""
        return bool(self._is_open and self._mode & 2)

    def _check(self) -> None:
        if not self._is_open:
            raise OSError("handle is closed")

    def send(self, obj: Any) -> None:
        """Sends a picklable object; blocks while the pipe is full.

        Raises what pickling raises, BrokenPipeError if no process holds the other end, MemoryError at the memory limit;
        nothing is sent then.
        """
        self._check()
        self._send(obj, False)

    def recv(self) -> Any:
        """Blocks for the next object. EOFError when nothing is left and no process holds the other end."""
        self._check()
        return self._recv(False)

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Sends the bytes of a bytes-like object, or `size` of them from `offset` on, as one message."""
        self._check()
        self._send(bytes(part_of(buf, offset, size)), True)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Blocks for the next message and returns its bytes.

        If it is longer than `maxlength`, OSError, and the connection is closed for reading.
        """
        self._check()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        message: bytes = self._recv(True)
        if maxlength is not None and len(message) > maxlength:
            self.close()
            raise OSError("bad message length")
        return message

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Blocks for the next message and writes its bytes into `buf` from `offset` (bytes) on; -> their number.

        BufferTooShort, with the whole message as args[0], if they do not fit.
        """
        self._check()
        with memoryview(buf) as view, view.cast("B") as target:
            if offset < 0:
                raise ValueError("negative offset")
            if offset > len(target):
                raise ValueError("offset too large")
            message: bytes = self._recv(True)
            if len(message) > len(target) - offset:
                raise BufferTooShort(message)
            target[offset : offset + len(message)] = message
            return len(message)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """True if `recv` would not block: a message is there, or EOF. Waits for `timeout` seconds (None: any)."""
        self._check()
        return bool(self._poll(timeout))

    def fileno(self) -> int:
        """A descriptor of this process that is readable while `poll()` is true; for select and asyncio."""
        self._check()
        from .doorbell import descriptor_of

        return descriptor_of(self)

    def close(self) -> None:
        """Closes this process's handle; using it afterwards is an OSError."""
        if self._is_open:
            from .doorbell import forget

            forget(self)
            self._close()

    def statistics(self) -> ConnectionStatistics:
        """Counters of this end."""
        self._check()
        from .counters import ConnectionStatistics

        return ConnectionStatistics(*self._facts())

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check()
        return super().__reduce__()

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__module__}.{type(self).__qualname__} closed>"
        direction = {1: "read-only", 2: "write-only"}.get(self._mode, "duplex")
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x} {direction}{_tail(self)}"


def Pipe(
    duplex: bool = True, *, name: str | None = None, ctx: object = None
) -> tuple[Connection, Connection]:
    """Two connected ends: both ways, or (`duplex=False`) the first receives and the second sends."""
    _program.attach()
    first, second = _channel.new_pipe(Connection, bool(duplex), _sync.PIPE_END[2])
    if name:
        first.name = second.name = name
    return first, second


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Blocks until something in `object_list` is ready, at most `timeout` seconds (None: without limit).

    The list may mix connections, queues, sentinels of processes, sockets and anything with `fileno()`. Returns those
    that are ready, in the order of the list: a message or EOF to receive, an item to get, a process that ended. Empty
    at the timeout.
    """
    from .doorbell import wait_for_any

    return wait_for_any(object_list, timeout)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__package__}.{_LATER[name]}"), name)
        return value
    from .standardnames import find

    return find(__name__, name)
