"""A thread's way to the server of a manager: one call at a time.

    RingChannel    the request ring of a server of this program, and a pipe of its own for replies
    SocketChannel  a connection to a server that does not share our arena; on this machine with a wire beside it, which
                   carries what is short (`_wire.pyx`): an empty message on the socket then means "look there"

What is interrupted (Ctrl-C, a cancelled task) while it waits takes its request back: what it got in spite of that, a
lock say, is given back.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from . import managerprotocol as protocol
from .connection import Pipe
from .spinning import Spin

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .managerclient import Link

__all__ = ["Lost", "RingChannel", "SocketChannel", "READS", "exchange", "process_name"]

NO_KWDS: dict[str, Any] = {}
_NOTHING: Any = object()
SPIN = 60e-6  # seconds for which a wire is looked at before sleeping
RECENT = 5e-3  # seconds for which a server that has answered is believed to be there
POSTS = 32  # how many calls a thread posts before it waits for an answer again

# Of these it does not matter whether they were carried out: they are repeated when the connection was lost.
READS = frozenset({
    "__getitem__", "__len__", "__contains__", "__str__", "__repr__", "__getattribute__", "#GETVALUE", "is_set", "qsize",
    "empty", "full", "get_methods", "dummy", "number_of_objects", "debug_info",
})  # fmt: skip


class Lost(Exception):
    """The connection is lost. args[0]: whether the request may have been carried out."""


def process_name() -> str:
    from .process import current_process

    return current_process().name


def exchange(
    connection: Any, ident: str | None, method: str, args: Any, kwds: Any, serializer: str = "pickle"
) -> tuple[str, Any]:
    """One request and its reply on a socket connection."""
    data = protocol.dumps((ident, method, args, kwds), not connection.peer_is_processing, serializer)
    try:
        connection.send_bytes(data)
        reply = connection.recv_bytes()
    except (EOFError, OSError) as error:
        raise Lost(True) from error
    kind, result = protocol.loads(reply, serializer)
    return kind, result


class Channel:
    """`start` and `finish` are the halves of a call; `busy` between them. `blocks`: they may wait for a network."""

    blocks = False

    def __init__(self) -> None:
        self.busy = False
        self.pid = os.getpid()

    def start(self, ident: str | None, method: str, args: tuple[Any, ...], kwds: Any) -> None:
        raise NotImplementedError

    def finish(self) -> tuple[str, Any]:
        raise NotImplementedError

    def is_open(self) -> bool:
        raise NotImplementedError

    def fileno(self) -> int:
        """Readable when the reply is there."""
        raise NotImplementedError

    def has_reply(self, seconds: float = 0.0) -> bool:
        """Whether `finish` has something to read, by then."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def post(self, ident: str, method: str, args: tuple[Any, ...]) -> bool:
        """Has it carried out some time after all that was posted and asked before; False: not now, not in this way."""
        return False

    def believe(self) -> None:
        """The server has just answered: for a while it may be posted to."""

    def call(self, ident: str | None, method: str, args: tuple[Any, ...], kwds: Any) -> tuple[str, Any]:
        """One request and its reply. Lost: it is of no use any more."""
        self.busy = True
        try:
            self.start(ident, method, args, kwds)
            try:
                return self.finish()
            except BaseException as error:
                if not isinstance(error, Exception):
                    self.take_back(ident, method)
                raise
        finally:
            self.busy = False

    def take_back(self, ident: str | None, method: str) -> None:
        """The call was given up while it waited."""
        if not self.is_open():
            return
        replies, result = 0, _NOTHING
        promised: int | None = None
        try:
            self.start(ident, "#CANCEL", (), NO_KWDS)
            while promised is None or replies < promised:
                kind, value = self.finish()
                if kind == "#BUSY":  # a thread of the server goes on with it; the reply will find nobody
                    self.close()
                    return
                if kind == "#CANCELLED":
                    promised = value
                    continue
                replies += 1
                if kind == "#RETURN":
                    result = value
            if result is not _NOTHING:
                self.start(ident, "#RETURNED", (method, result), NO_KWDS)
        except Lost:
            self.close()


class SocketChannel(Channel):
    blocks = True

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.connection = link.client()
        self.serializer = link.serializer
        self.standard = link.is_standard
        name = f"{process_name()}|{threading.current_thread().name}"
        kwds = NO_KWDS if self.standard else {"session": link.session}
        kind, _ = exchange(self.connection, None, "accept_connection", (name,), kwds, self.serializer)
        if kind != "#RETURN":
            self.connection.close()
            raise Lost(False)
        self.wire: Any = None
        self.used = 0.0  # when the last reply came
        if not self.standard and self.connection.peer_credentials is not None:
            try:
                self.lay_wire()
            except (EOFError, OSError) as error:
                self.connection.close()
                raise Lost(False) from error

    def lay_wire(self) -> None:
        from ._wire import Wire, make_file

        kind, _ = exchange(self.connection, None, "#WIRE", (), NO_KWDS)
        if kind != "#RETURN":
            return
        fd = make_file()
        try:
            wire = Wire(fd, True)
            self.connection.send_descriptor(fd)
        finally:
            os.close(fd)
        kind, _ = protocol.loads(self.connection.recv_bytes())
        if kind == "#RETURN":
            self.wire, self.spin = wire, Spin()

    def start(self, ident: str | None, method: str, args: tuple[Any, ...], kwds: Any) -> None:
        connection = self.connection
        if connection.closed:
            raise Lost(False)
        data = protocol.dumps((ident, method, args, kwds), self.standard, self.serializer)
        try:
            if method not in READS and method[0] != "#":
                self.look()
        except (EOFError, OSError) as error:
            connection.close()
            raise Lost(False) from error
        try:
            sent = 0 if self.wire is None else self.wire.send(data)
            if sent == 0:
                connection.send_bytes(data)
            elif sent == 2:
                connection.send_bytes(b"")
        except (EOFError, OSError) as error:
            connection.close()
            raise Lost(True) from error

    def look(self) -> None:
        """EOFError if the server has hung up: nothing was asked, so there is nothing else to read."""
        if self.wire is not None and time.monotonic() - self.used < RECENT:
            return
        while self.connection.poll(0.0):
            if self.wire is None or self.connection.recv_bytes():
                raise EOFError

    def next_reply(self) -> bytes:
        wire, connection = self.wire, self.connection
        if wire is None:
            return connection.recv_bytes()  # type: ignore[no-any-return]
        while True:
            reply: bytes | None = wire.receive()
            if not reply and self.spin.until() and wire.spin(SPIN):
                self.spin.paid()
                continue
            if not reply:
                if wire.rest():
                    continue
                reply = connection.recv_bytes()  # which is long, or says that there is one in the wire
            if reply:
                self.used = time.monotonic()
                return reply

    def finish(self) -> tuple[str, Any]:
        try:
            reply = self.next_reply()
        except (EOFError, OSError) as error:
            self.connection.close()
            raise Lost(True) from error
        protocol.reading.link = self.link
        try:
            kind, result = protocol.loads(reply, self.serializer)
        finally:
            protocol.reading.link = None
        return kind, result

    def take_back(self, ident: str | None, method: str) -> None:
        if self.standard:
            self.connection.close()  # the reply would come in the next call
        else:
            super().take_back(ident, method)

    def is_open(self) -> bool:
        return not self.connection.closed

    def fileno(self) -> int:
        return self.connection.fileno()  # type: ignore[no-any-return]

    def has_reply(self, seconds: float = 0.0) -> bool:
        try:
            if self.wire is not None and (self.wire.ready() or self.wire.rest()):
                return True
            return self.connection.poll(seconds)  # type: ignore[no-any-return]
        except (EOFError, OSError):
            return True

    def close(self) -> None:
        connection = self.connection
        if self.pid == os.getpid() and not connection.closed and not self.standard:
            try:
                connection.send_bytes(protocol.dumps((None, "#CLOSE", (), NO_KWDS), False))  # not by the wire
            except (OSError, ValueError):
                pass
        connection.close()

    def __del__(self) -> None:
        if hasattr(self, "connection") and not sys.is_finalizing():
            self.close()


class RingChannel(Channel):
    def __init__(self, link: Link) -> None:
        super().__init__()
        requests = link.requests
        self.number = (link.session << 32) + next(link.numbers)
        self.end, theirs = Pipe(duplex=False)
        self.put = requests.put
        self.put((self.number, None, "#OPEN", (link.session, theirs, threading.current_thread().name), None))
        theirs.close()
        self.posts, self.posts_until = 0, 0.0

    def start(self, ident: str | None, method: str, args: tuple[Any, ...], kwds: Any) -> None:
        if not self.end._is_open:
            raise Lost(False)
        if not kwds and protocol.is_plain(args):
            self.put(protocol.pack_plain((self.number, ident, method, args, None)))
        else:
            packed = protocol.Packed(args)
            self.put((self.number, ident, method, packed, protocol.Packed(kwds) if kwds else None))

    def finish(self) -> tuple[str, Any]:
        try:
            reply = self.end._recv(False)
        except (EOFError, OSError) as error:
            raise Lost(True) from error
        return reply if type(reply) is tuple else ("#RETURN", reply)

    def post(self, ident: str, method: str, args: tuple[Any, ...]) -> bool:
        if not self.posts or not protocol.is_plain(args) or time.monotonic() > self.posts_until:
            return False
        self.posts -= 1
        self.put(protocol.pack_plain((0, ident, method, args, None)))
        return True

    def believe(self) -> None:
        self.posts, self.posts_until = POSTS, time.monotonic() + RECENT

    def is_open(self) -> bool:
        return self.end._is_open

    def fileno(self) -> int:
        return self.end.fileno()

    def has_reply(self, seconds: float = 0.0) -> bool:
        return self.end.poll(seconds)

    def close(self) -> None:
        if self.pid == os.getpid() and self.end._is_open:
            try:
                self.put((self.number, None, "#CLOSE", (), None))
            except Exception:
                pass  # the server has ended
            self.end.close()

    def __del__(self) -> None:
        if hasattr(self, "put") and not sys.is_finalizing():
            self.close()
