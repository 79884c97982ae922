"""How a process reaches the server of a manager.

    Link (one for each server and process)          Channel (one for each thread)
      control ── the connection that says             RingChannel    request ring of the server, a pipe for replies
                 that this process lives              SocketChannel  a connection

A link is made at the first call. If the server shares our arena (that is, it belongs to this program) calls go through
it; otherwise through sockets, in the standard library's protocol, which its servers understand too.
After a fork the child makes links of its own.

A connection that was lost is made again. A call that cannot have been carried out is repeated then, and so is one that
only reads; of any other it is not known, and it raises ConnectionError.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections import deque

from . import _program, util
from . import managerprotocol as protocol
from .errors import RemoteError
from .managerchannels import READS, Channel, Lost, RingChannel, SocketChannel, exchange, process_name
from .managerforks import Forks

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["Link", "link_to", "use_ssl_context"]

PAUSE = 0.02  # seconds between attempts
RETRY_FOR = 1.0  # seconds in which a lost server may come back
NO_KWDS: dict[str, Any] = {}
_AWAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT)
_GONE = (Lost, ConnectionError, FileNotFoundError, EOFError)


class Links:
    """The links of this process."""

    def __init__(self) -> None:
        self.of: dict[tuple[Any, bytes, str], Link] = {}
        self.ssl_contexts: dict[Any, Any] = {}  # by address; None: for all others over a network
        self.mutex = threading.Lock()
        os.register_at_fork(
            before=self.before_fork, after_in_parent=self.after_in_parent, after_in_child=self.after_in_child
        )

    def before_fork(self) -> None:
        for link in [*self.of.values()]:
            link.forks.before()

    def after_in_parent(self) -> None:
        for link in [*self.of.values()]:
            link.forks.after_in_parent()

    def after_in_child(self) -> None:
        self.mutex = threading.Lock()
        for link in self.of.values():
            link.forks.after_in_child()
            link.forget_inherited()


links = Links()


def use_ssl_context(context: Any, address: Any = None, *, server_hostname: str | None = None) -> None:
    """Has this process, and its forks, use TLS to reach the servers of managers: the one at `address`, or (None) all
    over a network.

    `context` is an `ssl.SSLContext`, or a function that makes one when it is needed; None: no TLS. `server_hostname` is
    the name that the server's certificate has to be for (None: the host of the address). A process that is started by
    spawn or forkserver needs it before it unpickles a proxy: call this in the main module.
    """
    where = tuple(address) if isinstance(address, list) else address
    if context is None:
        links.ssl_contexts.pop(where, None)
    else:
        links.ssl_contexts[where] = context, server_hostname


def link_to(address: Any, authkey: bytes, serializer: str = "pickle") -> Link:
    """This process's link to a server. Does not connect yet."""
    key = (tuple(address) if isinstance(address, list) else address, bytes(authkey), serializer)
    link = links.of.get(key)
    if link is None:
        with links.mutex:
            link = links.of.setdefault(key, Link(*key))
    return link


class Link:
    """This process's connection to the server at `address`."""

    def __init__(self, address: Any, authkey: bytes, serializer: str) -> None:
        self.address = address
        self.serializer = serializer
        self.authkey = authkey
        self.server_address: Any = None  # where it says that it listens
        self.timeout: float | None = 20.0
        self.counted: dict[
            str, int
        ] = {}  # references of this process, of servers that do not share our arena
        self.forks = Forks(self)
        self.forget_inherited()

    def forget_inherited(self) -> None:
        """In a forked child: nothing of the parent's connection is ours. Its proxies are counted anew."""
        self.mutex = threading.RLock()
        self.control: Any = None
        self.requests: Any = None
        self.session = 0
        self.is_standard = False
        self.has_release = False
        self.counting = threading.RLock()
        self.changing = False
        self.gone: deque[str] = deque()  # objects of which a proxy was collected
        self.numbers = itertools.count(1)
        self.local = threading.local()
        self.spare: list[Channel] = []  # of tasks (managerasync.py)
        self.dropped: list[
            tuple[str, int | None]
        ] = []  # objects, and the pickle that held them if it was one

    # -- Connecting

    def client(self) -> Any:
        from .client import Client

        found = links.ssl_contexts.get(self.address)
        if found is None and isinstance(self.address, tuple):
            found = links.ssl_contexts.get(None)
        context, hostname = (None, None) if found is None else found
        if callable(context):
            context = context()
        return Client(
            self.address,
            authkey=self.authkey,
            timeout=self.timeout,
            ssl_context=context,
            server_hostname=hostname,
        )

    def connect(self) -> None:
        """Makes the control connection, unless it is there. One attempt."""
        with self.mutex:
            if self.control is not None:
                return
            control = self.client()
            if not control.peer_is_processing or self.serializer != "pickle":
                control.close()
                self.is_standard, self.control = True, _NOTHING
                if not self.has_release:
                    self.has_release = True
                    util.Finalize(None, self._release, args=(os.getpid(),), exitpriority=10)
            else:
                self.attach(control)
                util.Finalize(None, self._goodbye, args=(control, os.getpid()), exitpriority=-1000)
        self.count_again(self.forks.claim())

    def attach(self, control: Any) -> None:
        """Begins a session."""
        program = _program.program_id() if _program.is_attached() else 0
        try:
            kind, result = exchange(control, None, "attach", (program, os.getpid(), process_name()), NO_KWDS)
            if kind != "#RETURN":
                raise protocol.error_of(kind, result)
        except BaseException:
            control.close()
            raise
        self.session, self.requests, self.server_address = result
        self.is_standard, self.control = False, control

    def count_again(self, flights: dict[str, int | None]) -> None:
        """In a new session the server learns what proxies there are. `flights`: what it holds for us since a fork."""
        for ident in [] if self.is_standard else [*self.counted]:
            try:
                self.function("incref", ident, *(() if flights.get(ident) is None else (flights[ident],)))
            except Exception as error:
                util.debug("object %s of the server at %r is gone: %r", ident, self.address, error)
        self.dropped += [(ident, flight) for ident, flight in flights.items() if ident not in self.counted]

    def _release(self, pid: int) -> None:
        """At exit: a standard server does not notice that its clients end."""
        if pid != os.getpid() or not self.is_standard:
            return
        counted, self.counted = self.counted, {}
        for ident in counted:
            try:
                self.function("decref", ident)
            except Exception as error:
                util.debug("object %s of the server at %r was not released: %r", ident, self.address, error)
                return

    @staticmethod
    def _goodbye(control: Any, pid: int) -> None:
        if pid == os.getpid() and not control.closed:
            try:
                exchange(control, None, "goodbye", (), NO_KWDS)
            except (Lost, OSError):
                pass
            control.close()

    def lost(self, control: Any) -> None:
        """The server is gone, or the network."""
        with self.mutex:
            if self.control is control and control is not None:
                if control is not _NOTHING:
                    control.close()
                self.control, self.requests = None, None
                self.local = threading.local()
                self.spare = []

    def channel(self) -> Channel:
        """This thread's channel; makes it if need be."""
        try:
            return self.local.channel  # type: ignore[no-any-return]
        except AttributeError:
            pass
        channel = self.local.channel = self.new_channel()
        return channel

    def new_channel(self) -> Channel:
        self.connect()
        return RingChannel(self) if self.requests is not None else SocketChannel(self)

    def close(self) -> None:
        """Ends this process's session. The next call makes another one."""
        control = self.control
        if control is not None:
            if control is not _NOTHING:
                self._goodbye(control, os.getpid())
            self.lost(control)

    def reachable(self, address: Any) -> Any:
        """The address of a token that came from this server: where we reach it. It may say "any interface", or a name
        that means something else here."""
        if address == self.server_address:
            return self.address
        if isinstance(address, tuple) and isinstance(self.address, tuple) and address[1] == self.address[1]:
            return self.address if address[0] in ("", "0.0.0.0", "::") else address
        return address

    # -- Calls

    def call(self, ident: str | None, method: str, args: tuple[Any, ...], kwds: Any) -> tuple[str, Any]:
        """One round trip. ConnectionError if the server cannot be reached."""
        deadline = 0.0
        while True:
            control = self.control
            try:
                channel = self.channel()
                control = self.control
                if self.dropped or self.gone or self.forks.children:
                    self.flush(channel)
                reply: tuple[str, Any] = channel.call(ident, method, args, kwds)
                return reply
            except (Lost, OSError, EOFError) as error:
                deadline = self.failed(control, method, error, deadline)
            time.sleep(PAUSE)

    def post(self, ident: str, method: str, *args: Any) -> bool:
        """A call without a reply, of what cannot fail: False if it has to be made in the usual way."""
        channel = getattr(self.local, "channel", None)
        return channel is not None and channel.post(ident, method, args)

    def believe(self) -> None:
        """A call has just been answered."""
        channel = getattr(self.local, "channel", None)
        if channel is not None:
            channel.believe()

    def deadline(self, deadline: float, error: BaseException) -> float:
        """After an attempt to reach the server: until when there are others. Raises when there are to be no more."""
        if not isinstance(error, _GONE) and getattr(error, "errno", None) not in _AWAY:
            raise error
        now = time.monotonic()
        if deadline and now > deadline:
            self.give_up(None, error)
        return deadline or now + RETRY_FOR

    def failed(self, control: Any, method: str, error: BaseException, deadline: float) -> float:
        """After a call of `method` has failed: until when to try again. Raises if that is of no use or not safe."""
        if not isinstance(error, Lost):
            deadline = self.deadline(deadline, error)
            self.lost(control)
            return deadline
        self.lost(control)
        if error.args[0] and method not in READS:
            self.give_up(method, error)
        return self.deadline(deadline, error)

    def give_up(self, method: str | None, cause: BaseException) -> NoReturn:
        if method is None:
            raise ConnectionRefusedError(
                f"the server of the manager at {self.address!r} cannot be reached; it has ended, or the network is down"
            ) from cause
        raise ConnectionResetError(
            f"the connection to the server of the manager at {self.address!r} was lost during {method}(): "
            "whether it was carried out is not known"
        ) from cause

    def function(self, name: str, *args: Any, **kwds: Any) -> Any:
        """Calls a function of the server itself."""
        deadline = 0.0
        while self.control is None:
            try:
                self.connect()
            except (OSError, EOFError, Lost) as error:
                deadline = self.deadline(deadline, error)
                time.sleep(PAUSE)
        if self.is_standard:
            connection = self.client()
            try:
                kind, result = exchange(connection, None, name, args, kwds, self.serializer)
            except Lost as error:
                self.give_up(name, error)
            finally:
                connection.close()
        else:
            kind, result = self.call(None, name, args, kwds)
        if kind == "#RETURN":
            return result
        raise protocol.error_of(kind, result)

    def within(self, seconds: float, name: str) -> Any:
        """Calls a function of the server, which may hang: TimeoutError then."""
        self.timeout = seconds
        channel = self.channel()
        channel.start(None, name, (), NO_KWDS)
        if not channel.has_reply(seconds):
            self.lost(self.control)
            raise TimeoutError(f"the server at {self.address!r} has not answered within {seconds} seconds")
        return channel.finish()

    # -- References of servers that do not share our arena

    def count(self, ident: str, flight: int | None = None, counted: bool = False) -> None:
        """This process has one more proxy of that object. The server counts one for all of them. `counted`: it has done
        so already."""
        with self.counting:
            self.changing = True
            before = self.counted.get(ident, 0)
            self.counted[ident] = before + 1
            self.changing = False
        if before:
            if counted or flight is not None:
                self.dropped.append((ident, flight))
        elif not counted:
            try:
                self.function("incref", ident, *(() if flight is None else (flight,)))
            except BaseException:
                with self.counting:  # as if it had never been
                    left = self.counted.get(ident, 0) - 1
                    if left > 0:
                        self.counted[ident] = left
                    else:
                        self.counted.pop(ident, None)
                raise

    def drop(self, ident: str, leased: bool) -> None:
        """A proxy was collected. May be called at any moment."""
        if leased:
            if self.requests is not None:
                try:
                    self.requests.put((0, ident, "#DROPPED", (), None))
                except Exception:
                    pass
            return
        self.gone.append(ident)
        self.discount()
        if self.control is None or not self.dropped:
            return
        channel = getattr(self.local, "channel", None)
        if channel is not None and not channel.busy:
            try:
                self.flush(channel)
            except (Lost, OSError, EOFError):
                pass

    def discount(self) -> None:
        """Takes proxies that were collected off the counts. Not while this is going on already, in whatever thread: a
        collection may come at any moment."""
        while self.gone and self.counting.acquire(False):
            try:
                if self.changing:
                    return  # by this thread, which goes on when the collection is over
                self.changing = True
                while self.gone:
                    ident = self.gone.popleft()
                    left = self.counted.get(ident, 0) - 1
                    if left > 0:
                        self.counted[ident] = left
                    elif self.counted.pop(ident, None) is not None and self.control is not None:
                        self.dropped.append((ident, None))
                self.changing = False
            finally:
                self.counting.release()

    def flush(self, channel: Any) -> None:
        """Tells the server what is not needed any more."""
        self.discount()
        self.forks.look()
        while self.dropped:
            ident, flight = self.dropped.pop()
            if self.is_standard:
                try:
                    self.function("decref", ident)
                except RemoteError as error:
                    util.debug(
                        "object %s of the server at %r was gone already: %r", ident, self.address, error
                    )
            else:
                channel.call(None, "decref", (ident,) if flight is None else (ident, flight), NO_KWDS)


class _Nothing:
    closed = True

    def close(self) -> None:
        pass


_NOTHING = _Nothing()
