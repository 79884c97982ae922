"""The server of a manager: what it does with requests.

A call of a builtin container or a value is carried out at once; a synchronisation object may answer later, and its
blocked calls are entries in lists; a type that was registered by the user may block as long as it likes: the thread
that runs it has passed its loop on before (managertraffic.py). No thread is kept for an idle client or a blocked lock.

A client process is a Session. It ends with the connection that it keeps open for that: its references go, and if it had
not said goodbye, its locks are released and reported.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from traceback import format_exc

from . import _program, remote, util
from . import managerprotocol as protocol
from .managedbase import PENDING, Timers
from .managercalls import CallHere, PeerCall, give_up
from .managerobjects import MACHINE, THREAD, Entry, Objects, Reference, Typed, plain
from .managerpeers import Peer, RingPeer, Session, SocketPeer
from .managerposts import Posts
from .managertraffic import Traffic

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Server"]

LOOK_INTERVAL = 5.0  # seconds between looks for references that the killed left behind
FLIGHT_TIME = 600.0  # seconds that a pickled proxy outlives the client that pickled it, outside the arena
NO_KWDS: dict[str, Any] = {}
VIEWS = frozenset({type({}.keys()), type({}.values()), type({}.items())})  # go as lists


class Server:
    """Holds the objects of a manager and serves its clients. `address` is where it listens.

    `serve_forever()` blocks until a client asks it to shut down. It runs what clients with the key ask it to: keep the
    key secret.
    """

    public = frozenset({
        "shutdown", "create", "accept_connection", "get_methods", "debug_info", "number_of_objects", "dummy", "incref",
        "decref", "attach", "batch", "hold", "goodbye",
    })  # fmt: skip

    def __init__(
        self,
        registry: dict[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str = "pickle",
        ssl_context: Any = None,
    ) -> None:
        from .listener import Listener

        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        if serializer not in protocol.SERIALIZERS:
            raise ValueError(f"the serializer is one of {protocol.SERIALIZERS}, not {serializer!r}")
        if callable(ssl_context):
            ssl_context = ssl_context()
        self.serializer = serializer
        self.registry = registry
        self.authkey = authkey
        self.listener = Listener(address=address, backlog=128, authkey=authkey, ssl_context=ssl_context)
        self.address = self.listener.address
        self.timers = Timers()
        types = {name: Typed(*facts) for name, facts in registry.items()}
        self.objects = Objects(types, self.address, self.timers)
        self.mutex = threading.RLock()
        self.sessions: dict[int, Session] = {}
        self.ended: deque[tuple[float, int]] = (
            deque()
        )  # sessions, and until when what they pickled may be unpickled
        self.next_look = 0.0
        self.number = 0
        self.pid = os.getpid()
        self.stopping = threading.Event()
        self.ending = self.closed = False
        self.in_machine = False  # under the mutex: a lock or queue is at work
        self.local = threading.local()
        self.objects.call_here = self.call_here
        self.objects.session_of_reply = lambda: getattr(self.local, "session", None)
        self.traffic = Traffic(self, self.listener, serializer)
        self.posts = Posts(self.objects, self.mutex, self.traffic.requests, self.stopping)
        self.objects.first_leased = self.traffic.wake

    # -- Threads

    def serve_forever(self) -> None:
        """Serves until a client asks for the shutdown; then ends the process (SystemExit)."""
        try:
            self.serve()
            try:
                while not self.stopping.wait(1e6):
                    pass
            except (KeyboardInterrupt, SystemExit):
                pass
        finally:
            self.close()
            if sys.stdout is not sys.__stdout__ and threading.current_thread() is threading.main_thread():
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
            sys.exit(0)

    def serve(self) -> None:
        """Starts the threads."""
        self.traffic.start()

    def close(self) -> None:
        """Stops serving. Twice is harmless."""
        if not self.closed:
            self.closed = True
            self.stopping.set()
            self.posts.end_all()
            self.traffic.stop()

    def pause(self) -> float:
        """Seconds until something is due; -1: nothing is."""
        at = self.timers.next()
        if self.objects.leased or self.ended:
            at = self.next_look if at is None else min(at, self.next_look)
        return -1.0 if at is None else max(0.0, at - time.monotonic())

    def tick(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        with self.mutex:
            if self.timers.next() is not None:
                self.timers.expire(now)
            if now >= self.next_look:
                self.next_look = now + LOOK_INTERVAL
                while self.ended and self.ended[0][0] <= now:
                    self.objects.forget_flights(self.ended.popleft()[1])
                self.objects.look_at_leases()

    def dropped(self, ident: str) -> None:
        """A process of this program has dropped a proxy."""
        with self.mutex:
            self.objects.look(ident)
            self.objects.look_at_dropped()

    # -- Requests

    def may_block(self, ident: str | None, method: str, args: Any) -> bool:
        """Whether the call may take its time, so that a thread is needed for it."""
        if ident is not None:
            entry = self.objects.entries.get(ident)
            return entry is not None and entry.mode == THREAD
        if not args or type(args) is protocol.Unreadable:
            return False
        try:
            if method == "create":
                typed = self.objects.registry.get(args[0])
                return typed is not None and not typed.is_quick
            return method == "batch" and any(self.may_block(*call[:3]) for call in args[0])
        except (TypeError, ValueError):
            return False  # carrying it out says so

    def run(self, peer: Peer, ident: str | None, method: str, args: Any, kwds: Any) -> None:
        """Carries a request out, and replies if the reply is there."""
        if self.closed:
            return  # its client is told by the end of the connection
        if type(args) is protocol.Unreadable or type(kwds) is protocol.Unreadable:
            peer.busy = False
            part = args if type(args) is protocol.Unreadable else kwds
            self.traffic.deliver(peer, ("#ERROR", part.error))
            return
        message = self.outcome(peer, ident, method, args, kwds or NO_KWDS)
        peer.busy = False
        if message is not None and not self.traffic.deliver(peer, message) and message[0] == "#RETURN":
            self.take_back(peer, ident, method, message[1])
        if self.ending:
            self.stopping.set()

    def take_back(self, peer: Peer, ident: str | None, method: str, result: Any) -> None:
        """A result that could not be delivered: an item that was taken from a queue goes back."""
        if method != "acquire":  # locks: when its session or thread is buried
            self.returned(peer, ident, method, result)

    def outcome(self, peer: Peer, ident: str | None, method: str, args: Any, kwds: Any) -> Any:
        try:
            if ident is None:
                if method not in self.public:
                    raise AttributeError(f"{method!r} is not a function of the server")
                return "#RETURN", getattr(self, method)(peer, *args, **kwds)
            entry = self.objects.entries.get(ident)
            if entry is None:
                raise self.unknown(ident)
            function = entry.methods.get(method)
            if function is None:
                try:
                    function = entry.method(method)
                except AttributeError:
                    if method not in FALLBACKS:
                        raise
                    return "#RETURN", FALLBACKS[method](entry)
        except BaseException:
            return "#TRACEBACK", format_exc()
        if entry.mode == MACHINE:
            if entry.flag is not None and (method == "shutdown" or type(peer) is not RingPeer):
                self.posts.end(entry)
            return self.outcome_of_machine(peer, function, args, kwds)
        try:
            result = function(*args, **kwds)
        except Exception as error:
            if not entry.is_users or peer.standard:
                return "#ERROR", error
            return "#FAILED", remote.pack(error)  # with the traceback
        except BaseException:
            return "#TRACEBACK", format_exc()  # an exit is not the client's, nor this thread's
        typeid = entry.method_to_typeid.get(method)
        if typeid is None:
            return "#RETURN", [*result] if type(result) in VIEWS else result
        return self.proxied(peer, typeid, result)

    def outcome_of_machine(self, peer: Peer, function: Any, args: Any, kwds: Any) -> Any:
        with self.mutex:
            call = peer.spare
            if call is None:
                call = peer.spare = PeerCall(self.traffic, peer)
            self.in_machine = True
            try:
                result = function(call, *args, **kwds)
            except Exception as error:
                return "#ERROR", error
            finally:
                self.in_machine = False
            if result is PENDING:
                peer.call, peer.spare = call, None
                if call.deadline is not None:
                    self.traffic.wake()
                return None
            return "#RETURN", result

    def call_here(self, entry: Entry, name: str) -> Callable[..., Any]:
        """A method of a lock or queue, for code that runs in the server and may wait."""
        function = entry.method(name)

        def call(*args: Any, **kwds: Any) -> Any:
            waiting = CallHere()
            if entry.flag is not None and not self.mutex._is_owned():  # type: ignore[attr-defined]
                self.posts.end(entry)
            with self.mutex:
                result = function(waiting, *args, **kwds)
                if result is PENDING and self.in_machine:
                    assert waiting.waiting_at is not None
                    waiting.waiting_at.forget(waiting)
                    raise BlockingIOError(f"{name}() would have to wait, inside of the server's own work")
            if result is not PENDING:
                return result
            if waiting.deadline is not None:
                self.traffic.wake()
            waiting.done.wait()
            result, error = waiting.outcome
            if error is not None:
                raise error
            return result

        return call

    def proxied(self, peer: Peer, typeid: str, result: Any) -> Any:
        try:
            if typeid == "Keys" and peer.standard:
                typeid = "Iterator"  # which it knows
            obj = self.objects.make(typeid, (result,), NO_KWDS)
            with self.mutex:
                entry = self.objects.add(typeid, obj)
                return "#PROXY", (tuple(entry.exposed), self.handed_out(peer, entry))
        except Exception:
            return "#TRACEBACK", format_exc()

    def handed_out(self, peer: Peer, entry: Entry) -> Any:
        """The token of an entry that the peer now holds; a local peer gets the lease with it."""
        token = self.objects.token(entry)
        if peer.is_local:
            return token, self.objects.lease(entry)
        self.objects.incref(entry.ident, peer.counts_for)
        return token

    def refer(self, token: protocol.Token, flight: int | None) -> Reference:
        """What stands for one of our objects inside another one; a proxy of it has come back."""
        with self.mutex:
            entry = self.objects.entries.get(token.id)
            if entry is None:
                raise self.unknown(token.id)
            reference = self.objects.refer(entry)
            if flight is not None:
                entry.flights.pop(flight, None)
            return reference

    def unknown(self, ident: str) -> Exception:
        return ReferenceError(
            f"object {ident} is not in this server: it was deleted as nobody held it, or it belonged to a server that "
            "ran at this address before"
        )

    def cancel(self, peer: Peer) -> None:
        """The client gave its call up. If a thread works for it, the client has to leave it behind."""
        with self.mutex:
            if peer.busy:
                self.traffic.deliver(peer, ("#BUSY", None))
                return
            promised = 0
            if peer.call is not None:
                call = peer.call
                promised = give_up(call)
                if not promised:
                    peer.call = None
            self.traffic.deliver(peer, ("#CANCELLED", promised))

    def returned(self, peer: Peer, ident: str | None, method: str, result: Any) -> None:
        """What came in spite of that, for a client that does not want it any more."""
        entry = None if ident is None else self.objects.entries.get(ident)
        if entry is None or entry.mode != MACHINE:
            return
        with self.mutex:
            call = peer.spare or PeerCall(self.traffic, peer)
            try:
                if method != "acquire":
                    entry.obj.undelivered(call, method, result)
                elif result is True:
                    entry.obj.release(call)
            except Exception:
                util.info("what a cancelled %s() had got could not be taken back: %s", method, format_exc())

    # -- Clients

    def new_session(self, pid: int | None, is_local: bool) -> Session:
        with self.mutex:
            self.number += 1
            session = self.sessions[self.number] = Session(self.number, pid, is_local)
        return session

    def peer_gone(self, peer: Peer, orderly: bool) -> None:
        """A thread of a client is gone."""
        with self.mutex:
            if peer.call is not None:
                peer.call.waiting_at.forget(peer.call)
                peer.call = None
            if peer.session is not None:
                peer.session.peers.discard(peer)
            if orderly:
                for entry in self.held_machines():
                    entry.obj.owner_gone(peer)
                    if peer.session is None:
                        entry.obj.process_gone(peer, False)
            if isinstance(peer, RingPeer):
                peer.end.close()

    def session_gone(self, session: Session) -> None:
        """A client process has ended, or lost its connection. Under the mutex."""
        self.sessions.pop(session.number, None)
        for ring in self.traffic.rings_of(session):
            self.peer_gone(ring, orderly=session.said_goodbye)
        for peer in [*session.peers]:
            if isinstance(peer, SocketPeer):
                self.traffic.socket_gone(peer, "its process has ended")
        for entry in self.held_machines():
            entry.obj.process_gone(session, not session.said_goodbye)
        if session.is_local:
            _program.sweep()
        if self.objects.session_gone(session.number):
            self.ended.append((time.monotonic() + FLIGHT_TIME, session.number))

    def held_machines(self) -> list[Entry]:
        return [
            entry
            for entry in self.objects.entries.values()
            if entry.mode == MACHINE and entry.obj.holds_anything()
        ]

    # -- Functions that clients call

    def dummy(self, peer: Peer) -> None:
        """Does nothing: for clients that want to know whether the server is there."""

    def attach(self, peer: SocketPeer, program: int, pid: int, name: str) -> tuple[int, Any, Any]:
        """A client process begins: -> its session, the request ring if it shares our arena, and our address."""
        is_local = program == _program.program_id()
        session = self.new_session(pid, is_local)
        peer.session, peer.name, peer.keeps_session = session, name, True
        session.peers.add(peer)
        return session.number, self.traffic.requests if is_local else None, self.address

    def accept_connection(self, peer: SocketPeer, name: str, session: int | None = None) -> None:
        """A thread of a client begins."""
        peer.name = name
        if session is not None:
            with self.mutex:
                found = self.sessions.get(session)
                if found is None:
                    raise ValueError("this client has no session here any more")
                peer.session = found
                found.peers.add(peer)

    def goodbye(self, peer: Peer) -> None:
        """The client process ends in an orderly way."""
        if peer.session is not None:
            peer.session.said_goodbye = True

    def create(self, peer: Peer, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        """A new object: -> its number and exposed methods; local clients also get its lease."""
        args = tuple(unwrapped(value) for value in args)
        kwds = {name: unwrapped(value) for name, value in kwds.items()}
        obj = self.objects.make(typeid, args, kwds)
        with self.mutex:
            entry = self.objects.add(typeid, obj)
            exposed = tuple(entry.exposed)
            if peer.is_local:
                return entry.ident, exposed, self.objects.lease(entry)
            self.objects.incref(entry.ident, peer.counts_for)
            return entry.ident, exposed

    def get_methods(self, peer: Peer, token: protocol.Token) -> tuple[str, ...]:
        return tuple(self.objects.entries[token.id].exposed)

    def incref(self, peer: Peer, ident: str, flight: int | None = None) -> None:
        """A client process has a proxy now; `flight`: it was unpickled."""
        with self.mutex:
            entry = self.objects.entries.get(ident)
            if entry is None:
                raise self.unknown(ident)
            self.objects.incref(ident, peer.counts_for)
            if flight is not None:
                entry.flights.pop(flight, None)

    def decref(self, peer: Peer, ident: str, flight: int | None = None) -> None:
        """A client process has no proxy any more; `flight`: a pickle was used by one that has others."""
        with self.mutex:
            self.objects.decref(ident, peer.counts_for, flight)

    def hold(self, peer: Peer, *idents: str) -> int:
        """Pickles of proxies are on their way: -> the number of the reference that each of them holds."""
        with self.mutex:
            self.number += 1
            for ident in idents:
                entry = self.objects.entries.get(ident)
                if entry is not None:
                    entry.flights[self.number] = peer.counts_for
            return self.number

    def batch(self, peer: Peer, calls: list[tuple[str, str, Any, Any]]) -> list[Any]:
        """Several calls in one round trip, one after the other; a call that may have to wait is an error."""
        results = []
        for ident, method, args, kwds in calls:
            message = self.outcome(peer, ident, method, args, kwds or NO_KWDS)
            if message is None:
                with self.mutex:
                    if peer.call is not None:
                        peer.call.waiting_at.forget(peer.call)
                        peer.call = None
                message = ("#ERROR", BlockingIOError(f"{method}() would have to wait: not in a batch"))
            results.append(message)
        return results

    def number_of_objects(self, peer: Peer) -> int:
        with self.mutex:
            self.objects.look_at_leases()
            return len(self.objects.entries)

    def debug_info(self, peer: Peer) -> str:
        with self.mutex:
            return "\n".join(
                f"  {ident}:       typeid={entry.typeid}\n    {entry.obj!s:.75}"
                for ident, entry in self.objects.entries.items()
            )

    def shutdown(self, peer: Peer) -> None:
        """Ends the server, after the reply."""
        util.debug("the manager's server was asked to shut down")
        self.ending = True


def unwrapped(value: Any) -> Any:
    """A lock of this server that a condition is made with."""
    if isinstance(value, Reference) and value.entry.mode == MACHINE:
        return value.entry.obj
    return value


FALLBACKS: dict[str, Callable[[Entry], Any]] = {
    "__str__": lambda entry: str(entry.obj),
    "__repr__": lambda entry: repr(entry.obj),
    "#GETVALUE": lambda entry: plain(entry.obj),
}
