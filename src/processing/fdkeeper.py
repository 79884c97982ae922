"""The keeper: one small single-threaded process per program that holds descriptors which are on their way.

    sender                            keeper                            receiver
      STORE + descriptor ------------>  held[lease]
      <------------------------- HERE   |
      message with the lease's key =====|================================>  unpickles
                                        |  <--------------------------- FETCH
                                        |  descriptor + HERE --------------->
                                   closed, once nobody but the keeper holds the lease

The kernel passes a descriptor only between processes that both take part at that moment, and a message may be read
after its sender has ended: so somebody has to hold it meanwhile. A thread in each sender, as in multiprocessing, ends
with the sender and troubles its forks.

A *lease* is an object in the arena that the message carries as it carries handles: the arena counts the messages and
processes that hold it, also through deaths, and the count says when nobody can ask any more. The keeper looks a
moment after it has given a descriptor away, and else once a second; it sleeps without a timeout when it holds nothing.

How it is found. The kernel keeps the registry, as record locks on the arena's descriptor far behind its end, which go
with their owner however it ends:

    ALONE              held by the keeper: there is one per program
    STARTING           held by who is starting one
    TABLE + offset     held by the keeper, `generation + 1` bytes long: where its card lies in the arena. On the card:
                       a secret, and the name of its abstract socket. Only who has the arena can read it

No process of the program may close another descriptor of the arena's file, or the kernel drops its locks (fcntl(2)).

It ends at once when the first process of the program ends; if that was gone before, when every process has ended that
has asked anything. It is nobody's child (a program that collects its children does not meet it), in a session of its
own (Ctrl-C is not for it), and ignores SIGTERM: the program decides how long it needs it. If it is killed, what it held
is lost, and the next sender starts another.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import struct
import time
from _operator import _compare_digest

from . import _memory, _native, _program

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["STARTING", "find", "lock", "main", "open_card", "read_card", "unlock"]

# ---- What keeper and clients agree on -------------------------------------------------------------------------------

# A request: what is wanted, the secret, offset and generation of the lease. STORE brings a descriptor.
REQUEST = struct.Struct("=c16sQI")
STORE, FETCH = b"s", b"f"
# The answer to it: what, errno. HERE brings a descriptor if that was wanted.
REPLY = struct.Struct("=ci")
HERE, UNKNOWN, ERROR = b"h", b"u", b"e"
SECRET = 16  # bytes, the first on the card
# Peer's pid, uid, gid (SO_PEERCRED).
CREDENTIALS = struct.Struct("@iII")
# Descriptors that come with a request: one. Room for more, so that they are seen, and closed.
ROOM = _socket.CMSG_SPACE(4 * 8)

ALONE = 1 << 61
STARTING = ALONE + 2
TABLE = 1 << 62
# struct flock of 64-bit Linux: type, whence, start, length, pid.
FLOCK = struct.Struct("@hhqqi0q")


def lock(arena: int, start: int, length: int = 1) -> bool:
    """Takes a record lock for this process; False if another one has it. Does not block."""
    try:
        fcntl.fcntl(arena, fcntl.F_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(arena: int, start: int) -> None:
    """Gives it back."""
    fcntl.fcntl(arena, fcntl.F_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, 1, 0))


def find(arena: int) -> tuple[int, int, int] | None:
    """The keeper's card, offset and generation, and its pid; None if there is no keeper."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, TABLE, 0, 0)
    kind, _, start, length, pid = FLOCK.unpack(fcntl.fcntl(arena, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else (start - TABLE, length - 1, pid)


def open_card(offset: int, generation: int) -> _memory.SharedBase:
    """The handle of a card or lease. StaleHandleError if it is freed already."""
    card: _memory.SharedBase = _native.reopen(
        _memory.SharedBase, _memory.SHARED[0], _program.program_id(), offset, generation, 0
    )
    return card


def read_card(offset: int, generation: int) -> tuple[bytes, bytes]:
    """The secret and the address. StaleHandleError if that keeper has ended."""
    with memoryview(open_card(offset, generation)) as card:
        return bytes(card[:SECRET]), bytes(card[SECRET:])


def peer_uid(connection: _socket.socket) -> int:
    """The user at the other end, as the kernel says."""
    data = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, CREDENTIALS.size)
    uid: int = CREDENTIALS.unpack(data)[1]
    return uid


def descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Those that came with a message."""
    return [fd for _, _, data in ancillary for (fd,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4])]


def rights(fd: int) -> list[tuple[int, int, bytes]]:
    """What sendmsg takes to pass a descriptor."""
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", fd))]


# ---- The keeper -----------------------------------------------------------------------------------------------------

# Seconds between two looks whether leases are still held: the first after a descriptor was given away, and the longest;
# each is twice the one before.
FIRST_LOOK = 0.001
LAST_LOOK = 1.0
# A lease is nobody's for a moment between the pickling of a message and the message (microseconds, unless the sender is
# stopped there): one that was never asked for must have been nobody's for so many seconds.
GRACE = 1.0
# Descriptors that the keeper needs for itself and for connections.
SPARE = 64


class Held:
    """A descriptor on its way."""

    __slots__ = ("alone_since", "fd", "lease")

    def __init__(self, fd: int, lease: _memory.SharedBase) -> None:
        self.fd = fd
        self.lease = lease
        # When it was first seen that only the keeper holds the lease.
        self.alone_since: float | None = None


class Keeper:
    """The state of the process."""

    def __init__(self, arena: int) -> None:
        self.arena = arena
        self.uid = os.geteuid()
        self.secret = os.urandom(SECRET)
        self.held: dict[tuple[int, int], Held] = {}
        # Who connected and has not asked yet, by descriptor.
        self.asking: dict[int, _socket.socket] = {}
        # What ends this process when all of it has ended: pidfd -> pid.
        self.watched: dict[int, int] = {}
        self.first_is_gone = False
        # Those that somebody has asked for: the message was made, and carries the lease.
        self.fetched: set[tuple[int, int]] = set()
        self.interval = LAST_LOOK
        self.next_look = self.next_look_at_all = 0.0
        self.limit = _raise_limit() - SPARE
        self.poll = select.poll()
        self.listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)

    # -- Its life

    def open(self, starter: int) -> None:
        """From here on it can be found."""
        address = b"\0processing-" + os.urandom(16).hex().encode()
        self.listener.bind(address)
        self.listener.listen(4096)
        self.poll.register(self.listener, select.POLLIN)
        first = _first_process(self.arena)
        self.first_is_gone = not (first and self.watch(first))
        if self.first_is_gone:
            self.watch(starter)
        self.card = _memory.new_shared(_memory.SharedBase, self.secret + address, True)
        _, offset, generation = self.card._key()
        lock(self.arena, TABLE + offset, generation + 1)

    def watch(self, pid: int) -> bool:
        """Stays as long as that process; False if it has ended."""
        if pid in self.watched.values():
            return True
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        self.watched[pidfd] = pid
        self.poll.register(pidfd, select.POLLIN)
        return True

    def run(self) -> None:
        """Serves until the program has ended."""
        while self.watched:
            timeout = None
            if self.held:
                timeout = max(0.0, self.next_look - time.monotonic()) * 1000
            for fd, _ in self.poll.poll(timeout):
                if fd in self.watched:
                    self.poll.unregister(fd)
                    os.close(fd)
                    del self.watched[fd]
                elif fd in self.asking:
                    if self.serve(self.asking[fd]):
                        self.poll.unregister(fd)
                        self.asking.pop(fd).close()
                else:
                    self.accept()
            if self.held and time.monotonic() >= self.next_look:
                self.look()

    # -- Requests

    def accept(self) -> None:
        try:
            connection, _ = self._accept()
        except BlockingIOError:
            return
        except OSError:
            time.sleep(0.01)  # no descriptors: others will have theirs closed meanwhile
            return
        if not self.serve(connection):
            self.asking[connection.fileno()] = connection
            self.poll.register(connection, select.POLLIN)
        else:
            connection.close()

    def _accept(self) -> tuple[_socket.socket, Any]:
        fd, address = self.listener._accept()  # type: ignore[attr-defined]
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
        connection.setblocking(False)
        return connection, address

    def serve(self, connection: _socket.socket) -> bool:
        """Answers what is asked; False if nothing has been asked yet."""
        try:
            message, ancillary, flags, _ = connection.recvmsg(
                REQUEST.size + 1, ROOM, _socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            return True
        fds = descriptors_in(ancillary)
        try:
            kind, number, fd = self.answer(connection, message, fds, bool(flags & _socket.MSG_CTRUNC))
        except OSError as error:
            kind, number, fd = ERROR, error.errno or errno.EIO, -1
        for each in fds:
            os.close(each)
        if kind:
            _reply(connection, kind, number, fd)
        return True

    def answer(
        self, connection: _socket.socket, message: bytes, fds: list[int], cut: bool
    ) -> tuple[bytes, int, int]:
        """What to reply: kind, errno, descriptor. Takes out of `fds` what it keeps."""
        if len(message) != REQUEST.size:
            return b"", 0, -1
        kind, secret, offset, generation = REQUEST.unpack(message)
        uid = peer_uid(connection)
        # Processes of a program that root started may have become others'; the secret says that they belong to it.
        if not _compare_digest(secret, self.secret) or (uid != self.uid and 0 not in (uid, self.uid)):
            return ERROR, errno.EACCES, -1
        if self.first_is_gone:
            data = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, CREDENTIALS.size)
            self.watch(CREDENTIALS.unpack(data)[0])
        place = (offset, generation)
        if kind == FETCH:
            held = self.held.get(place)
            if held is None:
                return UNKNOWN, 0, -1
            self.fetched.add(place)
            # Never later than it was to be: requests may come faster than that.
            self.interval = FIRST_LOOK
            self.next_look = min(self.next_look, time.monotonic() + FIRST_LOOK)
            return HERE, 0, held.fd
        if cut or len(self.held) >= self.limit:
            return ERROR, errno.EMFILE, -1
        if len(fds) != 1:
            return ERROR, errno.EBADF, -1
        try:
            lease = open_card(offset, generation)
        except Exception:
            return ERROR, errno.ESTALE, -1
        if not self.held:
            self.interval = LAST_LOOK
            self.next_look = self.next_look_at_all = time.monotonic() + LAST_LOOK
        self.held[place] = Held(fds.pop(), lease)
        return HERE, 0, -1

    # -- Letting go

    def look(self) -> None:
        """Closes what nobody can ask for any more."""
        _program.sweep_sometimes()
        now = time.monotonic()
        places = self.fetched
        if now >= self.next_look_at_all:
            self.next_look_at_all = now + LAST_LOOK
            places = set(self.held)
        for place in list(places):
            held = self.held[place]
            if _memory.holders(held.lease) > 1:
                held.alone_since = None
            elif place in self.fetched or (held.alone_since is not None and now - held.alone_since >= GRACE):
                self.fetched.discard(place)
                del self.held[place]
                os.close(held.fd)
                held.lease._close()
            elif held.alone_since is None:
                held.alone_since = now
        self.interval = min(2 * self.interval, LAST_LOOK) if self.fetched else LAST_LOOK
        self.next_look = min(now + self.interval, self.next_look_at_all)


def _reply(connection: _socket.socket, kind: bytes, number: int, fd: int) -> None:
    message = REPLY.pack(kind, number)
    try:
        connection.sendmsg([message], rights(fd) if fd >= 0 else [], _socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        pass  # who asked is gone
    except OSError as error:
        if fd >= 0:
            _reply(connection, ERROR, error.errno or errno.EIO, -1)


def _first_process(arena: int) -> int:
    """The pid of the program's first process, 0 if it has ended: its slot is 1, in the first generation."""
    pid = _program.owner_pid(1 << 2)
    inode = os.fstat(arena).st_ino
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            # The pid may be somebody else's by now.
            return pid if any(line.split(None, 5)[4] == b"%d" % inode for line in maps) else 0
    except FileNotFoundError:
        return 0
    except OSError:
        return pid  # not ours to read


def _raise_limit() -> int:
    """As many descriptors as may be; returns how many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        hard = soft
    return hard if hard >= 0 else 1 << 20


def main(arena: int, token: int, ready: int, starter: int) -> None:
    """The life of the keeper. The numbers are the arena's descriptor, the slot in it, the pipe through which the
    starter learns that the keeper can be found, and the starter's pid."""
    import signal

    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Who reads the program's output is not to wait for us. Errors are still told.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    _program.adopt(arena, token)
    # Otherwise there is one, and who starts this will find it.
    if lock(arena, ALONE):
        keeper = Keeper(arena)
        keeper.open(starter)
        os.write(ready, b"1")
        os.close(ready)
        keeper.run()
    _program.leave()
    os._exit(0)
