"""The clients of a manager's server, as the server sees them.

    RingPeer     a thread of a process of this program: requests come through the server's one request ring, replies go
                 through a pipe of its own
    SocketPeer   a connection: a thread of any other client (the standard library's included), or the one that each
                 client process of this program keeps, so that its end is noticed

A socket never blocks the server: what has come is collected until a message is whole, what cannot be sent yet is kept.
"""

from __future__ import annotations

import os
import socket

from . import managerprotocol as protocol
from .framing import LONG, SHORT, header_of

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

__all__ = ["Peer", "RingPeer", "SocketPeer", "PeerLost", "Session"]

CHUNK = 1 << 16  # bytes read at once, if there is no reason for more
CHUNK_MAX = 1 << 20
MESSAGE_MAX = 1 << 40
UNSENT_MAX = 256 << 20  # bytes that a client may leave unread before it is given up


_NOT_NOW = (BlockingIOError, InterruptedError)
_NOT_NOW_TLS = ("SSLWantReadError", "SSLWantWriteError")  # without importing ssl


class PeerLost(Exception):
    """The client has closed the connection, or breaks the protocol."""


class Session:
    """A client process. `said_goodbye`: it ended, or closed, in an orderly way."""

    __slots__ = ("number", "pid", "peers", "said_goodbye", "is_local", "last")

    def __init__(self, number: int, pid: int | None, is_local: bool) -> None:
        self.number = number
        self.pid = pid
        self.is_local = is_local
        self.peers: set[Peer] = set()
        self.said_goodbye = False
        self.last = 0  # number of its youngest thread


class Peer:
    """A thread of a client. `call` is what it waits for."""

    __slots__ = ("session", "name", "call", "busy", "spare")

    def __init__(self, session: Session | None, name: str) -> None:
        self.session = session
        self.name = name
        self.call: Any = None
        self.busy = False  # a thread of the server works for it
        self.spare: Any = None  # a call object to use again

    @property
    def counts_for(self) -> Hashable | None:
        """Under what its references are counted: None where they are not counted one by one."""
        return self.session.number if self.session is not None else None

    @property
    def is_local(self) -> bool:
        return False

    @property
    def standard(self) -> bool:
        return False


class RingPeer(Peer):
    __slots__ = ("end",)

    def __init__(self, session: Session, name: str, end: Any) -> None:
        super().__init__(session, name)
        self.end = end

    @property
    def is_local(self) -> bool:
        return True

    def send(self, message: tuple[str, Any]) -> None:
        try:
            kind, result = message
            self.end._send(result if kind == "#RETURN" and type(result) is not tuple else message, False)
        except (BrokenPipeError, OSError, ValueError) as error:
            if isinstance(error, ValueError) and self.end._is_open:
                raise
            raise PeerLost from None


class SocketPeer(Peer):
    __slots__ = (
        "socket", "fd", "incoming", "outgoing", "is_ours", "is_tls", "serializer", "want_write", "keeps_session",
        "is_read", "flags", "wire", "awaits_wire", "is_told",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, leftover: bytes, is_ours: bool, serializer: str) -> None:
        super().__init__(None, "")
        sock.setblocking(False)
        self.socket = sock
        self.fd = sock.fileno()
        self.incoming = bytearray(leftover)
        self.outgoing = bytearray()
        self.is_ours = is_ours
        self.is_tls = hasattr(sock, "pending")
        self.serializer = serializer
        self.want_write = False
        self.keeps_session = False
        self.is_read = False  # a thread that does not run the loop deals with what came from it
        self.flags = 0  # what epoll watches it for
        self.wire: Any = None  # carries what is short, if it is on this machine (see managerchannels.py)
        self.awaits_wire = False
        self.is_told = True  # by epoll, so that there is something in the socket, not just in the wire

    @property
    def standard(self) -> bool:
        return not self.is_ours

    @property
    def is_local_socket(self) -> bool:
        return self.is_ours and self.socket.family == socket.AF_UNIX and not self.is_tls

    def take_wire(self) -> Any:
        """The wire that it has sent; None if it has not come yet."""
        from ._wire import Wire

        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 1, 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise PeerLost(str(error)) from None
        if not data or not fds:
            raise PeerLost("it has sent no wire")
        self.awaits_wire = False
        try:
            return Wire(fds[0], False)
        except (OSError, MemoryError) as error:
            raise PeerLost(str(error)) from None
        finally:
            os.close(fds[0])

    def next_message(self) -> bytes | None:
        """The next message, from the wire or the socket; None if there is none."""
        if self.wire is None:
            return self.next_frame()
        while True:
            try:
                message: bytes | None = self.wire.receive()
            except OSError as error:
                raise PeerLost(str(error)) from None
            if message is None and self.is_told:
                message = self.next_frame()
                if message == b"":
                    continue  # there is something in the wire
            return message

    def next_frame(self) -> bytes | None:
        """The next message of the socket; None if it has not come as a whole. PeerLost at the end."""
        buffer = self.incoming
        wanted = CHUNK
        while True:
            if buffer:
                start, size = self.frame(buffer)
                if 0 <= size <= len(buffer) - start:
                    message = bytes(memoryview(buffer)[start : start + size])
                    del buffer[: start + size]
                    return message
                wanted = min(max(size, CHUNK), CHUNK_MAX)
            data = self.receive(wanted)
            if data is None:
                return None
            if not buffer and len(data) >= 4:  # as a rule, one whole message
                start, size = self.frame(data)
                if start + size == len(data):
                    return data[start:]
            buffer += data

    def receive(self, size: int) -> bytes | None:
        """What has come; None: nothing."""
        try:
            data = self.socket.recv(size)
        except OSError as error:
            if isinstance(error, _NOT_NOW) or type(error).__name__ in _NOT_NOW_TLS:
                return None
            raise PeerLost(str(error)) from None
        if not data:
            raise PeerLost("closed")
        return data

    @staticmethod
    def frame(buffer: bytes | bytearray) -> tuple[int, int]:
        """Where the message at its beginning starts, and its size; -1: that has not come yet."""
        if len(buffer) < 4:
            return 4, -1
        (size,) = SHORT.unpack_from(buffer)
        start = 4
        if size == -1:
            if len(buffer) < 12:
                return 12, -1
            (size,) = LONG.unpack_from(buffer, 4)
            start = 12
        if not 0 <= size <= MESSAGE_MAX:
            raise PeerLost(f"a message of {size} bytes")
        return start, size

    def pack(self, message: tuple[str, Any]) -> bytes:
        """A reply."""
        return protocol.dumps(message, self.standard, self.serializer)

    def transmit(self, data: bytes) -> None:
        """Sends it, or begins to. Under the server's mutex."""
        if self.wire is not None:
            try:
                sent = self.wire.send(data)
            except OSError as error:
                raise PeerLost(str(error)) from None
            if sent == 1:
                return
            if sent == 2:
                data = b""
        self.push(header_of(len(data)) + data)

    def push(self, data: bytes = b"") -> None:
        """Sends what it can, and keeps the rest. Under the server's mutex."""
        kept = bool(self.outgoing)
        if kept:
            self.outgoing += data
            data = bytes(self.outgoing[:CHUNK_MAX])
        sent = 0
        try:
            sent = self.socket.send(data)
        except OSError as error:
            if not isinstance(error, _NOT_NOW) and type(error).__name__ not in _NOT_NOW_TLS:
                raise PeerLost(str(error)) from None
        if kept:
            del self.outgoing[:sent]
        elif sent < len(data):
            self.outgoing += memoryview(data)[sent:]
        if len(self.outgoing) > UNSENT_MAX:
            raise PeerLost("it does not read its replies")
        self.want_write = bool(self.outgoing)

    def close(self) -> None:
        self.socket.close()
