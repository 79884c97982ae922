"""SocketConnection: messages through a stream socket, with the API and the framing of `multiprocessing.connection`.

    SocketConnection      what users call; how it is pickled
      Line                the socket, the locks, sending                (socketline.py)
      Reader              receiving: frames, reading ahead, spinning    (socketreader.py)

The socket is owned by the connection. Threads may send and receive at the same time: one lock for each direction is
held for a whole frame. What raises while nothing of a frame has gone (a signal's handler, say, during a long wait)
leaves the connection as it was. What raises within a frame, or where nobody can tell, closes it: the peer then sees
the end of the connection, never garbage.

After a fork both processes have the connection, and each message goes to one of them or, if both receive at the same
time, in parts to both: use it in one. Locks that other threads held at the fork do not matter in the child.
"""

from __future__ import annotations

import socket

from . import reduction
from .authentication import PeerCredentials, credentials_of, prepare
from .errors import BufferTooShort
from .framing import part_of
from .socketline import Line
from .socketreader import Reader

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from .doorbell import SocketBell

__all__ = ["SocketConnection"]


class SocketConnection:
    """One end of a connection through a socket, or its descriptor, which it then owns. Listener and Client make them.

    `max_message` (bytes) is the longest message that is received: one announced as longer closes the connection, with
    an OSError. `peer_is_processing` says that the other end has authenticated itself as this package.
    """

    def __init__(
        self,
        sock_or_fd: socket.socket | int,
        readable: bool = True,
        writable: bool = True,
        *,
        max_message: int | None = None,
    ) -> None:
        if not readable and not writable:
            raise ValueError("at least one of `readable` and `writable` must be True")
        given = isinstance(sock_or_fd, socket.socket)
        sock: socket.socket = sock_or_fd if given else socket.socket(fileno=sock_or_fd)  # type: ignore[assignment, arg-type]
        if sock.type != socket.SOCK_STREAM:
            kind = sock.type
            if not given:
                sock.detach()  # not ours
            raise ValueError(f"a connection needs a stream socket, not {kind!r}")
        prepare(sock)
        self._line = Line(sock)
        self._reader = Reader(self._line, max_message)
        self._readable = bool(readable)
        self._writable = bool(writable)
        self.peer_is_processing = False
        self._family = sock.family
        if self._line.tls is not None:
            self.read_ahead()

    @property
    def closed(self) -> bool:
        """True if this handle is closed."""
        return self._line.sock is None

    @property
    def readable(self) -> bool:
        """True if this end can receive."""
        return self._line.sock is not None and self._readable

    @property
    def writable(self) -> bool:
        """True if this end can send."""
        return self._line.sock is not None and self._writable

    @property
    def peer_credentials(self) -> PeerCredentials | None:
        """Process, user and group of the other end of a Unix socket; None for others."""
        return credentials_of(self._line.open())

    @property
    def max_message(self) -> int | None:
        """The longest message that is received, in bytes; None for any."""
        return self._reader.max_message

    @max_message.setter
    def max_message(self, value: int | None) -> None:
        self._reader.max_message = value

    def read_ahead(self) -> None:
        """From now on several messages may be taken from the socket at once; for TLS this is always so.

        `poll` and `processing.connection.wait` know of them; select, epoll and asyncio on `fileno()` do not.
        """
        self._reader.read_ahead()
        # connection.wait asks that first, then watches the descriptor. A method of the reader: no reference cycle.
        self._ready: Callable[[], bool] = self._reader.poll

    def fileno(self) -> int:
        """The descriptor of the socket. Readable when `recv` has something to do, unless `read_ahead`."""
        return self._line.open().fileno()

    def close(self) -> None:
        """Closes this process's handle; using it afterwards is an OSError. The peer sees the end once every process
        with a copy of the descriptor has closed it. What was sent is still delivered. Does not block."""
        self._line.close()

    def send_descriptor(self, fd: int) -> None:
        """Sends a byte with a duplicate of `fd`, through a Unix socket, to who is prepared for that."""
        socket.send_fds(self._line.open(), [b"."], [fd])

    def detach(self) -> tuple[socket.socket, bytes]:
        """Gives the socket away, and what was received and not used yet; the connection is closed.

        Not while another thread sends or receives. The socket of a TLS connection does not block (its timeout is 0).
        """
        sock = self._line.detach()
        return sock, self._reader.unused()

    def __enter__(self) -> SocketConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_line"):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Goes to another process with a message, or with its start: both have it then; use it in one."""
        fd = self.fileno()
        if self._line.tls is not None:
            raise TypeError(
                "a TLS connection cannot be sent: the state of its encryption lies in this process"
            )
        if self._reader.unused():
            raise ValueError("what this connection has read ahead would be lost: receive it first")
        facts = (
            self._readable,
            self._writable,
            self.max_message,
            self.peer_is_processing,
            self._reader.reads_ahead,
        )
        return _rebuild, (type(self), reduction.DupFd(fd), *facts)

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        sock = self._line.sock
        if sock is None:
            return f"<{name} closed>"
        direction = (
            "duplex" if self._readable and self._writable else "read-only" if self._readable else "write-only"
        )
        tls = " TLS" if self._line.tls is not None else ""
        family = getattr(self._family, "name", str(self._family))
        return f"<{name} at {id(self):#x} {direction} {family} fd {sock.fileno()}{tls}>"

    # ---- Sending ----------------------------------------------------------------------------------------------------

    def send(self, obj: Any) -> None:
        """Sends a picklable object; blocks while the peer does not read and the system's buffers are full.

        Raises what pickling raises, and nothing is sent then; BrokenPipeError or ConnectionResetError if the peer is
        gone.
        """
        if not self._writable:
            self._refuse("read-only")
        self._line.send(reduction.dumps(obj))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Sends the bytes of a bytes-like object, or `size` of them from `offset` on, as one message. Like `send`."""
        if not self._writable:
            self._refuse("read-only")
        if offset != 0 or size is not None or type(buf) is not bytes:
            buf = part_of(buf, offset, size)
        self._line.send(buf)

    def _refuse(self, direction: str) -> None:
        self._line.open()
        raise OSError(f"connection is {direction}")

    # ---- Receiving --------------------------------------------------------------------------------------------------

    def recv(self) -> Any:
        """Blocks for the next object. EOFError when the peer has closed its end and nothing is left.

        Unpickling can run any code: receive only from peers that you trust.
        """
        if not self._readable:
            self._refuse("write-only")
        return reduction.loads(self._reader.frame(None))

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Blocks for the next message and returns its bytes. EOFError when the peer is gone and nothing is left.

        If it is longer than `maxlength` (bytes), OSError, and the connection is closed, without reading it.
        """
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        if not self._readable:
            self._refuse("write-only")
        message = self._reader.frame(maxlength)
        return message if type(message) is bytes else bytes(message)

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Blocks for the next message and writes its bytes into `buf` from `offset` (bytes) on; -> their number.

        BufferTooShort, with the whole message as args[0], if they do not fit.
        """
        if not self._readable:
            self._refuse("write-only")
        with memoryview(buf) as view, view.cast("B") as target:
            if not 0 <= offset <= len(target):
                raise ValueError("negative offset" if offset < 0 else "offset too large")
            with target[offset:] as room:
                received = self._reader.frame(None, room)
                if type(received) is int:
                    return received
        raise BufferTooShort(bytes(received))

    def poll(self, timeout: float | None = 0.0) -> bool:
        """True if `recv` has something to do: bytes of a message are there, or EOF. Waits for `timeout` seconds (None:
        without limit). A message of which only a part has come makes `recv` wait for the rest."""
        if not self._readable:
            self._refuse("write-only")
        return self._reader.poll(timeout)

    @property
    def doorbell(self) -> SocketBell:
        """For connection.wait, after `read_ahead`."""
        from .doorbell import SocketBell

        return SocketBell(self)


def _rebuild(
    cls: type[SocketConnection],
    descriptor: Any,
    readable: bool,
    writable: bool,
    max_message: int | None,
    peer_is_processing: bool,
    ahead: bool,
) -> SocketConnection:
    made = cls(descriptor.detach(), readable, writable, max_message=max_message)
    made.peer_is_processing = peer_is_processing
    if ahead:
        made.read_ahead()
    return made
