"""Line: what both directions of a SocketConnection share: the socket, a lock for each direction, and how far each is.

All transfers are non-blocking and all sleeping is in poll(2), so that it is known at every moment how much of a frame
has gone. `in_frame` and `out_frame` say that a part of a frame has gone in that direction, or that nobody can tell
because a system call's result is not yet stored; an exception then closes the line. They are changed only by who holds
the direction's lock.

After a fork the child makes new locks at its first wait for one: threads that held the old ones are not there.
"""

from __future__ import annotations

import os
import select
import socket
import threading

from .framing import header_of
from .tlssocket import TlsSocket

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Line", "Nested"]

TOGETHER = 16 << 10  # bytes; up to here a copy is cheaper than a second buffer

_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_forked = threading.Lock()  # held while the locks of a line are renewed
os.register_at_fork(after_in_child=_forked._at_fork_reinit)  # type: ignore[attr-defined]


class Nested(RuntimeError):
    """A signal's handler uses a connection in the middle of a message."""


class Line:
    """A socket, which it owns until `close()` or `detach()`."""

    __slots__ = ("_pid", "in_frame", "io", "out_frame", "receiving", "sending", "sock", "tls")

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket | None = sock
        self.tls = TlsSocket(sock) if hasattr(sock, "pending") else None
        if self.tls is None:
            sock.setblocking(True)
        self.io: Any = self.tls or sock
        self.receiving = threading.RLock()
        self.sending = threading.RLock()
        self.in_frame = self.out_frame = False
        self._pid = os.getpid()

    def open(self) -> socket.socket:
        """The socket. OSError if it is closed or detached."""
        if self.sock is None:
            raise OSError("handle is closed")
        return self.sock

    def close(self) -> None:
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()

    def detach(self) -> socket.socket:
        """The socket, which is the caller's from now on."""
        sock = self.open()
        self.sock = None
        return sock

    def sleep(self, events: int, timeout: float | None) -> bool:
        """Waits until the socket may be used, or for `timeout` seconds. Raises what signals' handlers raise."""
        poller = select.poll()
        poller.register(self.open(), events)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def sleep_to_read(self, timeout: float | None) -> bool:
        return self.sleep(select.POLLIN if self.tls is None else self.tls.read_events, timeout)

    def acquire(self, which: str) -> Any:
        """Acquires a lock that is taken, unless by a thread that exists only in the process we were forked from."""
        with _forked:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self.receiving, self.sending = threading.RLock(), threading.RLock()
                self.in_frame = self.out_frame = False
                if self.tls is not None:
                    self.tls.lock = threading.Lock()
        lock = getattr(self, which)
        lock.acquire()
        return lock

    def send(self, payload: Any) -> None:
        """Sends a frame: one system call, unless it is long or the system's buffers are full."""
        size = len(payload)
        data = header_of(size)
        total = len(data) + size
        more: memoryview | None = None
        if size > TOGETHER:
            more = memoryview(payload)
        else:
            data = data + payload if type(payload) is bytes else b"".join((data, payload))
        lock = self.sending
        if not lock.acquire(False):
            lock = self.acquire("sending")
        try:
            if self.out_frame:
                raise Nested("a signal's handler cannot send on a connection that is sending just now")
            self._transmit(data, more, total)
        finally:
            lock.release()

    def _transmit(self, data: bytes, more: memoryview | None, total: int) -> None:
        """Sends all of `data` and `more`."""
        self.open()
        io = self.io
        gone = 0
        try:
            while True:
                self.out_frame = True  # from here until the call's result is stored nobody knows
                try:
                    if more is None:
                        gone += io.send(data[gone:] if gone else data, _SEND)
                    elif gone >= len(data):
                        gone += io.send(more[gone - len(data) :], _SEND)
                    elif self.tls is not None:
                        gone += io.send(data[gone:])
                    else:
                        gone += io.sendmsg((data[gone:], more), (), _SEND)
                except BlockingIOError:
                    self.out_frame = gone > 0
                    self.sleep(select.POLLOUT if self.tls is None else self.tls.write_events, None)
                    self.open()
                if gone == total:
                    self.out_frame = False
                    return
        except BaseException as error:
            # Of a ConnectionError we know that nothing more has gone; any other may come from a signal's handler.
            if self.out_frame and (gone > 0 or not isinstance(error, ConnectionError)):
                self.close()
            self.out_frame = False
            raise
