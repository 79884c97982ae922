"""A TLS socket as one that SocketConnection can use."""

from __future__ import annotations

import select
import threading

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any


class TlsSocket:
    """What a TLS socket lacks to be used like a plain one: flags, scattered sends, BlockingIOError, threads."""

    def __init__(self, sock: Any) -> None:
        import ssl

        self._sock = sock
        self.lock = threading.Lock()
        self._want_read, self._want_write = ssl.SSLWantReadError, ssl.SSLWantWriteError
        # What each direction waits for: TLS sometimes has to write in order to read.
        self.read_events, self.write_events = select.POLLIN, select.POLLOUT
        sock.settimeout(0.0)

    def recv_into(self, view: memoryview, size: int = 0, flags: int = 0) -> int:
        try:
            with self.lock:
                return int(self._sock.recv_into(view))
        except self._want_read:
            self.read_events = select.POLLIN
        except self._want_write:
            self.read_events = select.POLLOUT
        raise BlockingIOError

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            with self.lock:
                return int(self._sock.send(data))
        except self._want_read:
            self.write_events = select.POLLIN
        except self._want_write:
            self.write_events = select.POLLOUT
        raise BlockingIOError
