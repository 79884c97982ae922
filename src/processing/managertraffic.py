"""How requests reach the server of a manager, and replies its clients: rings, sockets, and the threads that read them.

    request ring (all processes of this program) ──▶ ring loop ─────┐
    listening socket ──▶ accepting thread ──▶ sockets ─▶ socket loop ──┴─▶ server.run(peer, request) ─▶ deliver(reply)

A loop carries out what cannot block by itself. Before it runs what may block it hands the loop to another thread
(Baton), so that there is no thread for an idle client. A socket belongs to one thread from the moment that the loop
learns of data until that thread has dealt with it; `is_read` if that thread has passed the loop on meanwhile.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from traceback import format_exc

from . import managerprotocol as protocol
from . import util
from .managerpeers import Peer, PeerLost, RingPeer, Session, SocketPeer
from .queues import SimpleQueue

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .managerserver import Server

__all__ = ["Traffic"]

SPARE = 4  # idle threads that a loop keeps
PATIENCE_MAX, PATIENCE_MIN = 60e-6, 15e-6  # seconds for which the socket loop looks before it sleeps
WIRE_TURN = 10e-6  # seconds for which a wire is looked at before sockets get their turn
AT_ONCE = select.EPOLLIN | select.EPOLLOUT  # the loop is told at once, as a rule
TURN = 16  # messages of one socket before others get their turn


class Baton:
    """Who runs a loop: one thread of several. The others sleep."""

    def __init__(self, name: str, loop: Callable[[Baton], bool]) -> None:
        self.name = name
        self.loop = loop  # returns once it has passed the baton on, or (True) has ended
        self.lock = threading.Lock()
        self.mutex = threading.Lock()
        self.idle = 0
        self.over = False

    def start(self) -> None:
        threading.Thread(target=self.run, name=self.name, daemon=True).start()

    def run(self) -> None:
        while not self.over:
            with self.mutex:
                if self.idle >= SPARE:
                    return
                self.idle += 1
            self.lock.acquire()
            with self.mutex:
                self.idle -= 1
            if self.over or self.loop(self):
                self.over = True
                self.lock.release()  # the next one sees it, too

    def pass_on(self) -> None:
        with self.mutex:
            lonely = not self.idle
        if lonely:
            self.start()
        self.lock.release()


class Traffic:
    """The clients' connections, and the loops."""

    def __init__(self, server: Server, listener: Any, serializer: str) -> None:
        self.server = server
        self.listener = listener
        self.serializer = serializer
        self.mutex = server.mutex
        self.requests = SimpleQueue()
        self.ring_peers: dict[int, RingPeer] = {}
        self.socket_peers: dict[int, SocketPeer] = {}
        self.lost: deque[tuple[SocketPeer, str]] = deque()  # to be buried by the socket loop
        self.ready: deque[int] = deque()  # sockets that the loop was told of and has not come to yet
        self.patience, self.waits = PATIENCE_MAX, 0
        self.hot: SocketPeer | None = None  # with a wire, which the socket loop looks at for a moment
        self.epoll = select.epoll()
        self.waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.epoll.register(self.waker, select.EPOLLIN)

    def start(self) -> None:
        """Starts the threads."""
        for baton in (Baton("manager-ring", self.ring_loop), Baton("manager-sockets", self.socket_loop)):
            baton.start()
        threading.Thread(target=self.accept_loop, name="manager-accept", daemon=True).start()

    def stop(self) -> None:
        """Ends them, except those that run a method of a user's type, and hangs up. `server.stopping` is set."""
        self.listener.close()
        self.requests.put((0, None, "#STOP", (), None))
        self.wake()

    # -- Processes of this program

    def ring_loop(self, baton: Baton) -> bool:
        protocol.reading.server = self.server
        get, unpack = self.requests.get, protocol.unpack_plain
        peers = self.ring_peers
        server = self.server
        server.posts.ring_thread = threading.get_ident()
        while True:
            try:
                request = get()
                if type(request) is bytes:
                    request = unpack(request)
                number, ident, method, args, kwds = request
            except Exception:
                util.info("a request could not be read: %s", format_exc())
                continue
            peer = peers.get(number)
            if peer is None:
                if method == "#POST":
                    server.posts.put(ident, *args)
                elif method == "#OPEN":
                    self.open_ring(number, *args)
                elif method == "#DROPPED":
                    server.dropped(ident)
                elif method == "#FENCE":
                    server.posts.fence(ident)
                elif method == "#STOP" and server.stopping.is_set():
                    return True
            elif method == "#CLOSE":
                server.peer_gone(peers.pop(number), orderly=True)
            elif method == "#CANCEL":
                server.cancel(peer)
            elif method == "#RETURNED":
                if type(args) is tuple:  # readable, that is
                    server.returned(peer, ident, *args)
            elif server.may_block(ident, method, args):
                peer.busy = True
                server.posts.ring_thread = 0
                baton.pass_on()
                server.run(peer, ident, method, args, kwds)
                return False
            else:
                server.run(peer, ident, method, args, kwds)

    def open_ring(self, number: int, session_number: int, end: Any, name: str) -> None:
        session = self.server.sessions.get(session_number)
        if session is None:
            end.close()
            return
        peer = RingPeer(session, name, end)
        with self.mutex:
            session.peers.add(peer)
            self.ring_peers[number] = peer

    def rings_of(self, session: Session) -> list[RingPeer]:
        """Takes a session's rings out."""
        numbers = [number for number, peer in self.ring_peers.items() if peer.session is session]
        return [self.ring_peers.pop(number) for number in numbers]

    # -- Sockets

    def accept_loop(self) -> None:
        while not self.server.stopping.is_set():
            try:
                connection = self.listener.accept()
            except Exception as error:
                if self.server.stopping.is_set():
                    return
                util.debug("a client was refused: %r", error)
                continue
            is_ours = connection.peer_is_processing and self.serializer == "pickle"
            sock, ahead = connection.detach()
            peer = SocketPeer(sock, ahead, is_ours, self.serializer)
            with self.mutex:
                self.socket_peers[peer.fd] = peer
                peer.flags = AT_ONCE
                self.epoll.register(peer.fd, AT_ONCE)

    def socket_loop(self, baton: Baton) -> bool:
        protocol.reading.server = self.server
        ready = self.ready
        while not self.server.stopping.is_set():
            if not ready:
                ready.extend(fd for fd, _ in self.events())
                self.bury()
                self.server.tick()
            while ready:
                fd = ready.popleft()
                peer = self.socket_peers.get(fd)
                if peer is not None:
                    if not peer.is_read and self.serve_socket(peer, baton):
                        return False
                elif fd == self.waker:
                    try:
                        os.eventfd_read(fd)
                    except BlockingIOError:
                        pass
        for peer in [*self.socket_peers.values()]:
            self.socket_gone(peer, "the server ends")
        return True

    def events(self) -> list[tuple[int, int]]:
        """Blocks until a socket can be read or written, or something is due.

        Who answers a client quickly is asked again soon: it looks for a moment before it sleeps, as long as that pays.
        """
        poll = self.epoll.poll
        pause = self.server.pause()
        self.waits += 1
        hot = self.hot
        if pause != 0 and (self.patience > PATIENCE_MIN or self.waits % 32 == 0):
            end = time.monotonic() + self.patience
            while time.monotonic() < end:
                if hot is None:
                    os.sched_yield()
                elif hot.wire.spin(WIRE_TURN):
                    self.patience = PATIENCE_MAX
                    hot.is_told = False
                    return [(hot.fd, select.EPOLLIN)]
                found = poll(0)
                if found:
                    self.patience = PATIENCE_MAX
                    return found
            self.patience = max(PATIENCE_MIN, self.patience * 0.75)
        if hot is not None:
            self.hot = None
            if hot.wire.rest():
                return [(hot.fd, select.EPOLLIN)]
        return poll(pause)

    def look_at(self, peer: SocketPeer) -> None:
        """The wire of that client is looked at from now on; the one that was has to ring."""
        before, self.hot = self.hot, peer
        if before is not None and before is not peer and before.wire is not None and before.wire.rest():
            self.ready.append(before.fd)

    def serve_socket(self, peer: SocketPeer, baton: Baton) -> bool:
        """Carries out what has come. -> Whether the baton was passed on."""
        passed = again = False
        server = self.server
        try:
            if peer.outgoing:
                with self.mutex:
                    peer.push()
            for _ in range(TURN):
                if peer.awaits_wire:
                    wire = peer.take_wire()
                    if wire is None:
                        break
                    self.deliver(peer, ("#RETURN", None))
                    peer.wire = wire
                    continue
                data = peer.next_message()
                if data is None:
                    break
                try:
                    ident, method, args, kwds = protocol.loads(data, self.serializer)
                    protocol.check_request(ident, method, args, kwds)
                except Exception:
                    self.deliver(peer, ("#TRACEBACK", format_exc()))
                    continue
                if method == "#WIRE":
                    peer.awaits_wire = peer.is_local_socket
                    self.deliver(peer, ("#RETURN" if peer.awaits_wire else "#TRACEBACK", None))
                    continue
                if method == "#CANCEL":
                    server.cancel(peer)
                    continue
                if method == "#RETURNED" and len(args) == 2:
                    server.returned(peer, ident, *args)
                    continue
                if method == "#CLOSE":
                    self.socket_gone(peer, "it says so", orderly=True)
                    return passed
                if not passed and server.may_block(ident, method, args):
                    with self.mutex:
                        peer.is_read = True
                        self.epoll.modify(peer.fd, select.EPOLLONESHOT)  # its end is told once, nothing else
                    peer.busy = passed = True
                    if self.hot is peer:
                        self.hot = None  # its wire is read by this thread
                    baton.pass_on()
                server.run(peer, ident, method, args, kwds)
                if not peer.incoming and not peer.is_tls and peer.wire is None:
                    break  # if there is more, epoll will say so
            else:
                again = True
        except PeerLost as why:
            self.socket_gone(peer, str(why))
            return passed
        if passed:
            with self.mutex:
                if self.socket_peers.get(peer.fd) is peer:
                    peer.is_read = False
                    peer.flags = AT_ONCE
                    self.epoll.modify(peer.fd, AT_ONCE)
        else:
            if peer.flags != select.EPOLLIN or peer.want_write:
                with self.mutex:
                    self.watch(peer)
            if again:
                self.ready.append(peer.fd)
            if peer.wire is not None:
                peer.is_told = True
                self.look_at(peer)
        return passed

    def watch(self, peer: SocketPeer) -> None:
        """Has the loop told when there is something to read, or to write if there is more to write."""
        if peer.is_read or self.socket_peers.get(peer.fd) is not peer:
            return
        flags = select.EPOLLIN | (select.EPOLLOUT if peer.want_write else 0)
        if flags != peer.flags:
            peer.flags = flags
            self.epoll.modify(peer.fd, flags)

    def wake(self) -> None:
        """Has the socket loop look at its deadlines again."""
        os.eventfd_write(self.waker, 1)

    def __del__(self) -> None:
        if hasattr(self, "waker"):
            os.close(self.waker)

    def bury(self) -> None:
        while self.lost:
            self.socket_gone(*self.lost.popleft())

    def socket_gone(self, peer: SocketPeer, why: str, orderly: bool = False) -> None:
        with self.mutex:
            if self.socket_peers.get(peer.fd) is not peer:
                return
            del self.socket_peers[peer.fd]
            util.debug("a client of the manager has gone (%s)", why)
            self.epoll.unregister(peer.fd)
            peer.close()
            peer.wire = None
            if self.hot is peer:
                self.hot = None
            self.server.peer_gone(peer, orderly=orderly or peer.session is None)
            if peer.keeps_session and peer.session is not None:
                self.server.session_gone(peer.session)

    # -- Replies

    def deliver(self, peer: Peer, message: tuple[str, Any]) -> bool:
        """Sends a reply; what cannot be pickled is said as text. -> Whether it could be sent."""
        if not isinstance(peer, RingPeer):
            self.server.local.session = peer.counts_for  # for references in the reply
        try:
            try:
                self.send(peer, message)
            except PeerLost:
                raise
            except Exception:
                util.info("a reply could not be sent: %s", format_exc())
                self.send(peer, ("#UNSERIALIZABLE", f"{message[1]!r:.500}\n{format_exc()}"))
        except PeerLost as why:
            if isinstance(peer, SocketPeer):
                self.lost.append((peer, str(why)))
                self.wake()
            return False
        return True

    def send(self, peer: Peer, message: tuple[str, Any]) -> None:
        if isinstance(peer, SocketPeer):
            data = peer.pack(message)
            with self.mutex:
                peer.transmit(data)
                if peer.want_write:
                    self.watch(peer)
        elif isinstance(peer, RingPeer):
            peer.send(message)
