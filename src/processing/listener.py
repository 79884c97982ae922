"""Listener: connections through sockets, as in `multiprocessing.connection`, which may be the other end.

    Listener.accept()                one epoll, in the thread that calls it
        listening socket  ---------> up to MAX_PENDING negotiations, each with a deadline
        negotiation       ---------> [TLS handshake] -> [authentication, both ways] -> SocketConnection

A `Negotiation` (authentication.py) is one connection on its way, without blocking; all that have begun go on together,
so a silent or slow client keeps nobody waiting. They advance only while somebody is in `accept`; only that time counts
for their deadlines. Before a peer has authenticated itself it can make us read 256 bytes at a time, and nothing is
unpickled. No threads.

An address that is left to us is an abstract Unix socket (a name that starts with a NUL, not a file): the kernel forgets
it with the last process that has it open, also after SIGKILL. Abstract names have no permissions, and anybody may take
one that is free. So both ends ask the kernel who the other is: only our own user and root get in.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time

from . import reduction, util
from .authentication import (
    Gone,
    Handshake,
    Negotiation,
    check_key,
    credentials_of,
    is_readable,
    prepare,
)
from .client import connection_of
from .socketaddresses import (
    arbitrary_address,
    explained,
    family_of,
    is_abstract,
    is_welcome,
    remove_path,
    rule_for,
)
from .socketconnection import SocketConnection

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    import ssl
    from types import TracebackType
    from typing import Any

    from .socketaddresses import Address, CheckPeer

__all__ = ["Listener"]

MAX_PENDING = 1024
# Not the client's doing.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBADF, errno.EINVAL)
AT_ONCE = 16  # connections taken from the system before those that wait get their turn


def _rebuild_listener(descriptor: Any, facts: dict[str, Any]) -> Listener:
    made: Listener = Listener.__new__(Listener)
    sock = socket.socket(fileno=descriptor.detach())
    made._begin_with(sock, **facts)
    return made


class Listener:
    """A socket that listens for connections.

    `address` is a path or abstract name (AF_UNIX) or a tuple (AF_INET, AF_INET6); None is a new one of `family`, by
    default an abstract Unix socket. `backlog` is how many connections the system keeps until `accept` is called.
    With `authkey` (bytes) every client has to prove that it knows the key, and is shown that we do. With `ssl_context`
    connections are encrypted first. A client that takes more than `handshake_timeout` seconds for both is dropped.
    `max_message` (bytes) is passed to the connections. `check_peer` says who may connect through a Unix socket: True
    our own user and root, a function whomever it returns true for (it is given PeerCredentials), False everybody (not
    on abstract sockets).

    A path is removed when the listener is closed or collected and at the end of the process that made it, if it is
    still the same file; after SIGKILL it is left behind. After a fork, and when it was sent to another process, both
    can accept; each has the clients that it took itself. Threads may call `accept` at the same time: they take turns.
    """

    last_accepted: Any = None  # the address of the last client

    def __init__(
        self,
        address: Address | None = None,
        family: str | None = None,
        backlog: int = 128,
        authkey: bytes | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        handshake_timeout: float = 10.0,
        max_message: int | None = None,
        check_peer: CheckPeer = True,
    ) -> None:
        self._family = family_of(address, family)
        self._tls = ssl_context
        wanted = address or arbitrary_address(self._family)
        rule = rule_for(wanted, check_peer, True)
        key = None if authkey is None else check_key(authkey)
        sock = socket.socket(getattr(socket, self._family), socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if self._family != "AF_UNIX":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(wanted)
            except OSError as error:
                raise explained(error, wanted) from None
            if self._family == "AF_UNIX" and not is_abstract(wanted):
                path = os.path.abspath(os.fsdecode(wanted))  # type: ignore[arg-type]
                status = os.stat(path)
                self._remove = util.Finalize(
                    self, remove_path, (path, status.st_dev, status.st_ino), exitpriority=0
                )
            sock.listen(backlog)
            bound = wanted if self._family == "AF_UNIX" else sock.getsockname()
            self._begin_with(sock, self._family, bound, rule, key, handshake_timeout, max_message)
        except BaseException:
            sock.close()
            if self._remove is not None:
                self._remove()
            raise

    def _begin_with(
        self,
        sock: socket.socket,
        family: str,
        address: Any,
        rule: CheckPeer,
        key: bytes | None,
        timeout: float,
        max_message: int | None,
    ) -> None:
        self._family, self._address, self._rule, self._key = family, address, rule, key
        self._timeout, self._max_message = timeout, max_message
        self.last_accepted = None
        # By process: one that was held at a fork means nothing in the child.
        self._locks: dict[int, Any] = {}
        self._pending: dict[int, Negotiation] = {}  # by descriptor, the oldest first
        self._idle = 0.0  # seconds in which nobody was in accept
        self._left = time.monotonic()
        self._pid = os.getpid()
        self._epoll, self._bell = self._watch(sock)
        self._sock: socket.socket | None = sock

    _remove: util.Finalize | None = None
    _tls: ssl.SSLContext | None = None

    @staticmethod
    def _watch(sock: socket.socket) -> tuple[select.epoll, int]:
        """What tells of work: an epoll with the socket, and an eventfd that is rung by close()."""
        epoll = select.epoll()
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        epoll.register(sock.fileno(), select.EPOLLIN)
        epoll.register(bell, select.EPOLLIN)
        return epoll, bell

    @property
    def address(self) -> Any:
        """Where clients connect to."""
        self._open()
        return self._address

    def _open(self) -> socket.socket:
        if self._sock is None:
            raise OSError("listener is closed")
        return self._sock

    def fileno(self) -> int:
        """A descriptor that is readable when `accept` has something to do. That need not lead to a connection at once,
        so call `accept(timeout=0)` then. Every process has its own."""
        with self._lock():
            self._open()
            self._check_process()
            return self._epoll.fileno()

    def accept(self, timeout: float | None = None) -> SocketConnection:
        """Blocks for the next client that has authenticated itself, at most `timeout` seconds (then TimeoutError).

        AuthenticationError if a client has another key: the listener is still good, call it again. Clients that leave,
        stall or speak something else are dropped, with a line in the log. OSError if the listener is closed, also
        meanwhile by another thread.
        """
        self._open()
        end = None if timeout is None else time.monotonic() + timeout
        lock = self._lock()
        if not lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise TimeoutError("no client came in time: another thread is in accept")
        try:
            self._open()
            self._check_process()
            self._idle += time.monotonic() - self._left
            try:
                return self._accept(end)
            finally:
                self._left = time.monotonic()
        finally:
            lock.release()

    def _lock(self) -> Any:
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def _clock(self) -> float:
        """Seconds in which somebody was in accept."""
        return time.monotonic() - self._idle

    def _accept(self, end: float | None) -> SocketConnection:
        more = True
        while True:
            listening = self._open()
            # Before anybody is found to be too late, all that has come by now is looked at.
            wait = 0.0 if more else self._patience(end)
            try:
                events = self._epoll.poll(wait)
            except ValueError:  # closed by a signal's handler
                self._open()
                raise
            for fd, _ in events:
                if fd == listening.fileno():
                    made = self._take()
                elif fd == self._bell:
                    self._open()
                    continue
                else:
                    made = self._advance(fd)
                if made is not None:
                    return made  # the other events come again
            more = bool(events)
            if not more:
                self._expire()
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError("no client came in time")

    def _patience(self, end: float | None) -> float | None:
        """How long to sleep."""
        ends = [] if end is None else [end - time.monotonic()]
        for negotiation in self._pending.values():
            assert negotiation.deadline is not None
            ends.append(negotiation.deadline - self._clock())
            break
        return max(0.0, min(ends)) if ends else None

    def _take(self) -> SocketConnection | None:
        """Accepts what waits in the system's queue."""
        for _ in range(AT_ONCE):
            try:
                sock, address = self._open().accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._pending:
                    if not is_readable(self._open()):
                        return None  # accept wants a descriptor before it looks whether anybody waits
                    self._drop(next(iter(self._pending)), "descriptors are running out")
                    continue
                if error.errno in _OURS:
                    raise
                continue  # that client has gone already
            made = self._begin(sock, address)
            if made is not None:
                return made
        return None

    def _begin(self, sock: socket.socket, address: Any) -> SocketConnection | None:
        try:
            if not is_welcome(sock, self._rule):
                util.debug("refused %r, of another user", credentials_of(sock))
                sock.close()
                return None
            prepare(sock)
            if self._tls is not None:
                sock.setblocking(False)
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            handshake = None if self._key is None else Handshake(self._key, is_listener=True)
            negotiation = Negotiation(sock, address, handshake, self._clock() + self._timeout)
        except OSError as error:
            util.debug("dropped a client at once: %s", error)
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise
        if len(self._pending) >= MAX_PENDING:
            self._drop(next(iter(self._pending)), f"more than {MAX_PENDING} are pending")
        fd = sock.fileno()
        self._pending[fd] = negotiation
        self._epoll.register(fd, negotiation.events)
        return self._advance(fd)

    def _advance(self, fd: int) -> SocketConnection | None:
        """Goes on with one client; its connection if that was the end."""
        negotiation = self._pending.get(fd)
        if negotiation is None:
            return None  # dropped since epoll saw it
        before = negotiation.events
        try:
            if not negotiation.step():
                if negotiation.events != before:
                    self._epoll.modify(fd, negotiation.events)
                return None
            self._forget(fd)
            made = connection_of(negotiation, self._max_message)
        except (Gone, OSError) as error:
            self._drop(fd, error)
            return None
        except BaseException as error:
            self._drop(fd, error)
            raise
        self.last_accepted = negotiation.address
        return made

    def _expire(self) -> None:
        now = self._clock()
        for fd, negotiation in list(self._pending.items()):
            assert negotiation.deadline is not None
            if negotiation.deadline > now:
                return
            self._drop(fd, f"its {negotiation.stage} took more than {self._timeout} s")

    def _forget(self, fd: int) -> None:
        if self._pending.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                pass

    def _drop(self, fd: int, why: object) -> None:
        negotiation = self._pending.get(fd)
        if negotiation is not None:
            util.debug("dropped a client at %r: %s", negotiation.address, why)
            self._forget(fd)
            negotiation.sock.close()

    def _check_process(self) -> None:
        """In a forked child: the clients that were being negotiated with stay the parent's, and so does its epoll."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._close_all()
        self._epoll, self._bell = self._watch(self._open())

    def _close_all(self) -> None:
        self._epoll.close()
        os.close(self._bell)
        for negotiation in self._pending.values():
            negotiation.sock.close()
        self._pending.clear()

    def close(self) -> None:
        """Stops listening: pending clients are dropped, connections that were accepted go on. Twice is harmless. A
        thread in `accept` gets an OSError."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._pid == os.getpid():
            os.eventfd_write(self._bell, 1)
        with self._lock():
            sock.close()
            self._close_all()
            if self._remove is not None:
                self._remove()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_sock", None) is not None:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Goes to another process with a message, or with its start: both can accept then."""
        sock = self._open()
        if self._tls is not None:
            raise TypeError(
                "a listener with an ssl_context cannot be sent: it holds the private key, in this process"
            )
        facts = {
            "family": self._family,
            "address": self._address,
            "rule": self._rule,
            "key": self._key,
            "timeout": self._timeout,
            "max_message": self._max_message,
        }
        return _rebuild_listener, (reduction.DupFd(sock.fileno()), facts)

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        if self._sock is None:
            return f"<{name} closed>"
        waiting = f", {len(self._pending)} pending" if self._pending else ""
        return f"<{name} at {self._address!r}{waiting}>"
