"""Descriptors in messages: open files, pipes and sockets can be sent to other processes of the program at any time.

    Descriptor(fd)     a duplicate that can be put into queues, pipes, pool tasks, results, shared containers
      .detach()        the number, at the receiver, whose descriptor it is then
    reduce_fd(fd)      the same, for `__reduce__` of what owns a descriptor

While a process is being started, descriptors go with its start (spawning.popen). Otherwise the sender hands a
duplicate to the keeper (fdkeeper.py) when the message is pickled, and the receiver asks the keeper for it when it
unpickles: the sender may have ended by then, and each process that unpickles the message gets a duplicate of its own.
What was received is closed in the keeper some milliseconds after its message is gone; what is in a message that nobody
has read, a second or two later.

The connection to the keeper is opened for each request, so nothing has to be kept in order over forks and threads, and
no process has a descriptor more than before. A request takes 60 to 100 microseconds, most of it to wake the keeper up.
"""

from __future__ import annotations

import _socket
import os
import threading
import time

from . import _memory, _native, _program, fdkeeper, spawn, util
from ._this import STOP_SIGNAL
from .errors import StaleHandleError
from .reduction import DupFd, spawning

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Descriptor", "reduce_fd"]

# Seconds in which a keeper starts, and answers, however busy the machine.
PATIENCE = 20.0
# Looks for an answer before this sleeps.
SPINS = 60
# struct timeval for SO_RCVTIMEO and SO_SNDTIMEO.
PATIENCE_OF_SOCKETS = int(PATIENCE).to_bytes(8, "little") + bytes(8)


class Descriptor:
    """A file descriptor that can be sent. It is a duplicate of `fd` (a number, or what has a `fileno()`), so that one
    may be closed at once; the object closes it when it is closed or collected, unless it was detached.

    Pickles for messages of this package and for a process that is being started; RuntimeError anywhere else.
    Unpickling raises StaleHandleError if the descriptor is lost because the keeper was killed.
    """

    __slots__ = ("__weakref__", "_fd", "_lease")

    # What the keeper holds for the message that was pickled last, while that is being made.
    _lease: _memory.SharedBase | None

    def __init__(self, fd: Any) -> None:
        self._fd = -1
        self._fd = os.dup(fd if isinstance(fd, int) else fd.fileno())

    @classmethod
    def _owning(cls, fd: int) -> Descriptor:
        self = cls.__new__(cls)
        self._fd = fd
        return self

    def fileno(self) -> int:
        """The number; it stays this object's."""
        if self._fd < 0:
            raise ValueError("this descriptor is closed or detached")
        return self._fd

    def detach(self) -> int:
        """The number, which the caller has to close from now on. Once."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def close(self) -> None:
        """Closes it now. Messages that were sent keep theirs."""
        fd, self._fd = self._fd, -1
        self._lease = None
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Descriptor:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    # The default argument stays reachable while the interpreter tears the module down.
    def __del__(self, _close: Any = os.close) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)

    def __repr__(self) -> str:
        return f"<Descriptor {self._fd}>" if self._fd >= 0 else "<Descriptor closed or detached>"

    def __reduce__(self) -> Any:
        fd = self.fileno()
        if spawning.popen is not None:
            return _inherited, (DupFd(fd),)
        if not _program.is_carrying():
            raise RuntimeError(
                f"descriptor {fd} can be pickled only for messages of processing (queues, pipes, pool tasks and "
                "results, shared containers) and while a process is being started: the bytes of a pickle alone "
                "cannot keep it open"
            )
        # Kept while this is pickled: the pickler holds this object.
        self._lease = lease = keeper.store(fd)
        _program.note(lease)
        return _fetched, lease._key()


def reduce_fd(fd: int) -> Any:
    """Something to pickle in place of `fd`, within `__reduce__`: unpickled, its `detach()` is the descriptor there."""
    return DupFd(fd)


def _inherited(given: Any) -> Descriptor:
    return Descriptor._owning(given.detach())


def _fetched(program: int, offset: int, generation: int) -> Descriptor:
    if not _program.is_attached() or program != _program.program_id():
        raise StaleHandleError("a descriptor can be received only by processes of the program that sent it")
    return Descriptor._owning(keeper.fetch(offset, generation))


class KeeperEnded(Exception):
    """The keeper went away during a request."""


class Client:
    """This process's way to the keeper of its program. Any thread may use it; a fork needs nothing."""

    def __init__(self) -> None:
        self.card: tuple[tuple[int, int, int], bytes, bytes] | None = None
        # Threads of one process do not exclude each other by record locks.
        self.starting = threading.Lock()
        self.watches_forks = False

    # -- Requests

    def store(self, fd: int) -> _memory.SharedBase:
        """Leaves a duplicate with the keeper; it is held as long as the lease that this returns, and a moment longer.
        Starts the keeper if there is none. OSError if it has too many, or does not answer."""
        _program.attach()
        lease = _memory.new_shared(_memory.SharedBase, b"", True)
        end = time.monotonic() + PATIENCE
        while True:
            place = fdkeeper.find(_program.arena_fd())
            if place is None:
                self.start()
                continue
            try:
                kind, number, _ = self.ask(place, fdkeeper.STORE, lease, fd)
            except KeeperEnded:
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"the keeper of descriptors (pid {place[2]}) cannot be reached"
                    ) from None
                time.sleep(0.001)  # its locks go in a moment
                continue
            if kind != fdkeeper.HERE:
                raise OSError(
                    number, f"descriptor {fd} cannot be sent: {os.strerror(number)} (in the keeper)"
                )
            return lease

    def fetch(self, offset: int, generation: int) -> int:
        """A duplicate of what was stored with that lease."""
        end = time.monotonic() + PATIENCE
        while (place := fdkeeper.find(_program.arena_fd())) is not None:
            try:
                kind, number, fd = self.ask(place, fdkeeper.FETCH, (offset, generation), -1)
            except KeeperEnded:
                if time.monotonic() > end:
                    break
                time.sleep(0.001)
                continue
            if kind == fdkeeper.ERROR or (kind == fdkeeper.HERE and fd < 0):
                number = number or 24  # EMFILE: the kernel had no place for it here
                raise OSError(number, f"a descriptor cannot be received: {os.strerror(number)}")
            if kind == fdkeeper.HERE:
                return fd
            break
        raise StaleHandleError(
            "the descriptor in this message is lost: the process that keeps descriptors on their way "
            "(processing.fdkeeper) was killed since it was sent, perhaps with the first process of the program. "
            "Send it again"
        )

    def ask(self, place: tuple[int, int, int], what: bytes, lease: Any, fd: int) -> tuple[bytes, int, int]:
        """One request: the answer, its errno, the descriptor that came with it (-1)."""
        card = self.card
        if card is None or card[0] != place:
            try:
                self.card = card = (place, *fdkeeper.read_card(place[0], place[1]))
            except StaleHandleError:
                raise KeeperEnded from None
        if not isinstance(lease, tuple):
            lease = lease._key()[1:]
        message = fdkeeper.REQUEST.pack(what, card[1], *lease)
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, PATIENCE_OF_SOCKETS)
            connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, PATIENCE_OF_SOCKETS)
            connection.connect(card[2])
            uid = fdkeeper.peer_uid(connection)
            if uid not in (os.geteuid(), 0):
                raise PermissionError(
                    f"the keeper of descriptors belongs to user {uid}, not to {os.geteuid()}"
                )
            connection.sendmsg([message], fdkeeper.rights(fd) if fd >= 0 else [], _socket.MSG_NOSIGNAL)
            reply, fds = self._receive(connection)
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            raise KeeperEnded from None
        except BlockingIOError:
            raise TimeoutError(
                f"the keeper of descriptors (pid {place[2]}) does not answer; has it been stopped?"
            ) from None
        finally:
            connection.close()
        if len(reply) != fdkeeper.REPLY.size:
            raise KeeperEnded
        kind, number = fdkeeper.REPLY.unpack(reply)
        return kind, number, fds[0] if fds else -1

    def _receive(self, connection: _socket.socket) -> tuple[bytes, list[int]]:
        """The answer. It comes sooner than this process would wake up again: looks for some 50 microseconds first, if
        the keeper has a CPU to itself."""
        flags = _socket.MSG_CMSG_CLOEXEC
        for _ in range(SPINS if len(os.sched_getaffinity(0)) > 1 else 0):
            try:
                reply, ancillary, _, _ = connection.recvmsg(
                    fdkeeper.REPLY.size, fdkeeper.ROOM, flags | _socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                continue
            return reply, fdkeeper.descriptors_in(ancillary)
        reply, ancillary, _, _ = connection.recvmsg(fdkeeper.REPLY.size, fdkeeper.ROOM, flags)
        return reply, fdkeeper.descriptors_in(ancillary)

    # -- Starting it

    def start(self) -> None:
        """Makes sure that there is a keeper, or was one a moment ago."""
        if not self.watches_forks:
            self.watches_forks = True
            os.register_at_fork(after_in_child=self._after_fork_in_child)
        arena = _program.arena_fd()
        end = time.monotonic() + PATIENCE
        with self.starting:
            while fdkeeper.find(arena) is None:
                if fdkeeper.lock(arena, fdkeeper.STARTING):
                    try:
                        if fdkeeper.find(arena) is None:
                            self._launch(arena, end)
                    finally:
                        fdkeeper.unlock(arena, fdkeeper.STARTING)
                    return
                if time.monotonic() > end:
                    raise TimeoutError(
                        "another process has been starting the keeper of descriptors for too long"
                    )
                time.sleep(0.002)

    def _launch(self, arena: int, end: float) -> None:
        import signal

        token = _program.reserve_child(False)
        ready, child_end = os.pipe()
        try:
            command = _command(f"main({arena}, {token}, {child_end}, {os.getpid()})")
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, STOP_SIGNAL})
            try:
                pid = spawn.start_interpreter(command, [arena, child_end])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                os.close(child_end)
            answered = util.wait_readable(ready, max(0.0, end - time.monotonic()))
            said = os.read(ready, 1) if answered else b""
            if answered:
                # What we started only forks the keeper; it ended before it could answer.
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass
        except BaseException:
            _program.cancel_child(token)
            raise
        finally:
            os.close(ready)
        if said != b"1" and fdkeeper.find(arena) is None:
            if answered:
                _program.cancel_child(token)
            raise OSError(
                "the keeper of descriptors (processing.fdkeeper) could not be started; stderr may say why"
            )

    def _after_fork_in_child(self) -> None:
        self.starting = threading.Lock()


def _command(call: str) -> list[str]:
    """An interpreter without site, which would double its memory, if this package is one plain folder."""
    folder = os.path.dirname(os.path.abspath(__file__))
    if os.path.dirname(os.path.abspath(_native.__file__)) == folder:
        find = f"import sys; sys.path.insert(0, {os.path.dirname(folder)!r}); "
        flags = ["-I", "-S"]
    else:
        find, flags = "", util.interpreter_flags()
    return [spawn.get_executable(), *flags, "-c", f"{find}from processing.fdkeeper import main; {call}"]


keeper = Client()
