"""The zygote: one small single-threaded process that forks children on request.

    a process of the program                     zygote                                child
      request() --- one message, one socket --->   fork -------------------------------> run_parcel
         ^            (numbers + descriptors)       |                                     |
         |                                          | collects it                         |
         +-- sentinel pipe: pid ------------------- (the child writes it first of all) ---+
                            exit status ----------- (the zygote)

The zygote is a fresh interpreter that has imported what children need, so a child costs one fork of a small process in
which no thread ever ran. The objects alive then are frozen (`gc.freeze`), which keeps their pages shared.

Requests go over one SOCK_SEQPACKET pair: a message is whole or not there, so all processes of the program share the
client end. When the last of them has ended the zygote reads end-of-file and ends. The message carries the child's ends
of its pipes, among them the lifeline of the process that asked: the zygote is nobody's parent in that sense. The
arguments lie in the arena, whose descriptor the zygote has inherited.

If the zygote is killed: a child that runs goes on; its exit code cannot be learned (255, as in the standard library); a
request that nobody has answered is sent again to a new zygote. The child itself writes its pid, so a request is never
carried out twice.
"""

from __future__ import annotations

import _pickle
import _socket
import os
import struct
import sys
import threading

from . import reduction, spawn, util
from ._this import STOP_SIGNAL, this

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["ForkServer", "server"]

# A request: token, offset and generation of the parcel.
REQUEST = struct.Struct("=QQQ")
# What comes through the sentinel pipe: kind, number.
RECORD = struct.Struct("=cq")
PID, STATUS, ERROR = b"p", b"s", b"e"
NEEDED = ("processing._program", "processing.process", "processing.context")
# Bytes in one message of what the zygote is to begin with; longer ones may not fit a socket's buffer.
PIECE = 1 << 15
# SCM_RIGHTS carries at most 253.
MAX_FDS = 253
# The child's sentinel end, its lifeline, the client end of the socket.
FIXED_FDS = 3


class ForkServer:
    """This process's way to the zygote of its program."""

    def __init__(self) -> None:
        self.client: _socket.socket | None = None
        # The zygote's pid in the process that started it, else 0.
        self.pid = 0
        self.preload: list[str] = ["__main__"]
        # In a child of the zygote: the descriptors that came with its process object.
        self.inherited: list[int] = []
        self.lock = threading.Lock()
        self.watches_forks = False

    @property
    def _forkserver_pid(self) -> int | None:
        """The zygote's pid under the standard library's name, in the process that started it."""
        return self.pid or None

    def set_preload(self, names: Iterable[str]) -> None:
        names = list(names)
        if not all(type(name) is str for name in names):
            raise TypeError("module_names must be a list of strings")
        self.preload = names

    def fileno(self) -> int:
        return self.client.fileno() if self.client is not None else -1

    def inherit(self, fd: int) -> None:
        """In a child: requests go over this descriptor."""
        self.client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)

    # -- Requests

    def request(self, message: bytes, fds: list[int]) -> None:
        """Asks for a child; starts the zygote if there is none. `fds` are given to the child."""
        if len(fds) + FIXED_FDS > MAX_FDS:
            raise ValueError(
                f"too many descriptors for one process: {len(fds)}, at most {MAX_FDS - FIXED_FDS}"
            )
        self.ensure_running()
        try:
            self._send(message, fds)
        except (BrokenPipeError, ConnectionResetError):
            self.replace()
            self._send(message, fds)

    def _send(self, message: bytes, fds: list[int]) -> None:
        client = self.client
        assert client is not None
        numbers = [*fds[:2], client.fileno(), *fds[2:]]
        rights = struct.pack(f"={len(numbers)}i", *numbers)
        client.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)], _socket.MSG_NOSIGNAL)

    # -- The life of the zygote

    def ensure_running(self) -> None:
        """Starts the zygote unless one has been started."""
        if self.client is None:
            with self.lock:
                if self.client is None:
                    self._start()

    def replace(self) -> None:
        """The zygote does not answer: starts another."""
        with self.lock:
            self.stop()
            self._start()

    def _start(self) -> None:
        import signal

        from . import _program

        if not self.watches_forks:
            self.watches_forks = True
            os.register_at_fork(after_in_child=self._after_fork_in_child)
        _program.attach()
        data = _pickle.dumps(self._what_to_load(), reduction.PROTOCOL)
        client, ours = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            arena = _program.arena_fd()
            code = f"{spawn.FIND_US}from processing.forkserver import main; main({ours.fileno()}, {arena}, {len(data)})"
            command = [spawn.get_executable(), *util.interpreter_flags(), "-c", code]
            # Ctrl-C is not for the zygote, from its first moment on.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, STOP_SIGNAL})
            try:
                self.pid = spawn.start_interpreter(command, [ours.fileno(), arena])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                ours.close()
            for at in range(0, len(data), PIECE):
                client.send(data[at : at + PIECE], _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # killed already: the request will notice
        except BaseException:
            client.close()
            raise
        self.client = client
        util.shutdown.register()
        if self.stop not in util.shutdown.last:
            util.shutdown.last.append(self.stop)

    def _what_to_load(self) -> dict[str, Any]:
        """What the zygote is to import, and what it needs for that."""
        data = spawn.get_preparation_data("zygote")
        main = {key: value for key, value in data.items() if key.startswith("init_main")}
        preload = dict.fromkeys(self.preload)
        if "__main__" in preload and not (main and is_guarded(sys.modules["__main__"].__file__)):
            del preload["__main__"]
        # Of this package, what is in use here: children will need it. The less, the quicker a fork.
        ours = [name for name in sys.modules if name.startswith("processing.") and ".cli" not in name]
        return {
            "stands_in": this.stands_in,
            "main": main,
            "preload": list(dict.fromkeys([*NEEDED, *ours, *preload])),
            "sys_path": data["sys_path"],
            "sys_argv": data["sys_argv"],
        }

    def stop(self) -> None:
        """Lets go of the zygote. It ends when no process of the program uses it any more; here, usually, that is now,
        so its end is awaited for a moment."""
        client, self.client = self.client, None
        pid, self.pid = self.pid, 0
        if client is not None:
            client.close()
        if pid:
            try:
                pidfd = os.pidfd_open(pid)
                util.wait_readable(pidfd, 0.2)
                os.close(pidfd)
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                pass

    def _after_fork_in_child(self) -> None:
        self.pid = 0
        self.lock = threading.Lock()


server = ForkServer()


def set_forkserver_preload(modules_names: Iterable[str]) -> None:
    """Modules that the fork server imports when it starts, so that children have them at once (default: `__main__`).
    What cannot be imported is left out. No effect on a fork server that runs already."""
    server.set_preload(modules_names)


def is_guarded(path: str | None) -> bool:
    """Whether a main module looks as if it can be imported without running the program."""
    if path is None:
        return False
    try:
        with open(path, "rb") as file:
            return any(line.startswith(b"if") and b"__name__" in line for line in file)
    except OSError:
        return False


# ---- The zygote -----------------------------------------------------------------------------------------------------


def main(requests: int, arena: int, length: int) -> None:
    """Runs as the zygote until nobody can ask any more. The first `length` bytes that come say what to import."""
    for fd in (requests, arena):
        os.set_inheritable(fd, False)
    zygote = Zygote(requests, arena)
    data = zygote.read_start(length)
    sys.path[:] = data["sys_path"]
    sys.argv[:] = data["sys_argv"]
    if data["stands_in"]:
        from .standin import install

        install()
    _preload(data["preload"], data["main"])
    util.close_stdin()
    zygote.run()
    util.flush_std_streams()
    os._exit(0)


# What a module is told that makes shared objects when it is imported: as what cannot be imported, it is left to the
# children. The zygote has no part in the program's memory.
NOT_HERE = "the fork server, which imports this module for its children, cannot make shared objects"


def _preload(names: list[str], main: dict[str, str]) -> None:
    from . import _program

    _program.refuse(NOT_HERE)
    try:
        _import_all(names, main)
    finally:
        _program.refuse(None)


def _import_all(names: list[str], main: dict[str, str]) -> None:
    if "__main__" in names:
        this.inheriting = True
        try:
            spawn.import_main(main)
        except BaseException:
            pass  # children will try again, and say what is wrong
        finally:
            this.inheriting = False
    for name in names:
        if name != "__main__":
            try:
                __import__(name)
            except Exception:
                pass


class Zygote:
    """Forks a child for each request, and tells who asked how it ended."""

    def __init__(self, requests: int, arena: int) -> None:
        self.requests = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, requests)
        self.arena = arena
        # The sentinel's write end of each living child.
        self.sentinels: dict[int, int] = {}

    def read_start(self, length: int) -> dict[str, Any]:
        """What ForkServer._what_to_load said."""
        data = b""
        while len(data) < length:
            piece = self.requests.recv(PIECE)
            if not piece:
                os._exit(0)  # who started this has ended
            data += piece
        start: dict[str, Any] = _pickle.loads(data)
        return start

    def run(self) -> None:
        import gc
        import select
        import signal

        # A signal only interrupts poll() for good if it leaves a byte to read.
        self.wake, self.wake_end = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self.wake_end, False)
        self.handlers = {
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda number, frame: None),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        }
        # Blocked until now, so that Ctrl-C did not hit the imports either.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.set_wakeup_fd(self.wake_end)
        poll = select.poll()
        poll.register(self.requests, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        util.flush_std_streams()
        gc.collect()
        gc.freeze()
        # Waits for children at the end as well: who asked may still be there.
        listening = True
        while listening or self.sentinels:
            for fd, _ in poll.poll():
                if fd == self.wake:
                    os.read(self.wake, 4096)
                    self.collect()
                elif not self.serve():
                    listening = False
                    poll.unregister(self.requests)

    def collect(self) -> None:
        """Passes on the exit status of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            sentinel = self.sentinels.pop(pid, -1)
            if sentinel >= 0:
                _write(sentinel, STATUS, os.waitstatus_to_exitcode(status))
                os.close(sentinel)

    def serve(self) -> bool:
        """Carries out one request; False if there will be none any more."""
        space = _socket.CMSG_SPACE(4 * MAX_FDS)
        try:
            message, ancillary, _, _ = self.requests.recvmsg(REQUEST.size, space, _socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if not message:
            return False
        fds = [
            fd for _, _, data in ancillary for (fd,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4])
        ]
        if len(message) != REQUEST.size or len(fds) < FIXED_FDS:
            util.close_fds(*fds)
            return True
        try:
            pid = os.fork()
        except OSError as error:
            _write(fds[0], ERROR, error.errno or 0)
            util.close_fds(*fds)
            return True
        if pid == 0:
            code = 1
            try:
                _write(fds[0], PID, os.getpid())
                self.leave()
                code = self.become_child(message, fds)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                this.exit(code)
        self.sentinels[pid] = fds[0]
        util.close_fds(*fds[1:])
        return True

    def leave(self) -> None:
        """In a new child: it is not the zygote."""
        import signal

        signal.set_wakeup_fd(-1)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.requests.close()
        util.close_fds(self.wake, self.wake_end, *self.sentinels.values())
        self.sentinels.clear()
        util.shutdown.forget_parent()

    def become_child(self, message: bytes, fds: list[int]) -> int:
        from . import _program

        token, offset, generation = REQUEST.unpack(message)
        this.own_sentinel, this.parent_lifeline, client, *server.inherited = fds
        server.inherit(client)
        _program.adopt(self.arena, token)
        this.prepare_for_children()
        return spawn.run_parcel(_program.unpark(offset, generation))


def _write(fd: int, kind: bytes, number: int) -> None:
    try:
        os.write(fd, RECORD.pack(kind, number))
    except OSError:
        pass  # who asked is gone


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
