"""Names of `multiprocessing` that this package itself has no use for, but programs have.

The modules that the standard library has them in ask here when one is looked for (`__getattr__`), so they cost nothing
until then. What looks like state there is a view on ours.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import weakref
from typing import Any

from . import reduction, util
from ._this import this

__all__ = ["find"]


# ---- util -----------------------------------------------------------------------------------------------------------


class ForkAwareThreadLock:
    """A `threading.Lock` that is new, and free, in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        util.register_after_fork(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)


class ForkAwareLocal(threading.local):
    """A `threading.local` that is empty in a forked child. Pickles as an empty one."""

    def __init__(self) -> None:
        util.register_after_fork(self, lambda obj: obj.__dict__.clear())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def get_temp_dir() -> str:
    """A folder of this process and its children, which is removed when the process that asked first ends."""
    from .process import current_process

    config = current_process()._config
    folder: str | None = config.get("tempdir")
    if folder is None:
        import shutil
        import tempfile

        folder = tempfile.mkdtemp(prefix="pymp-")
        util.info("created temp directory %s", folder)
        util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)
        config["tempdir"] = folder
    return folder


def _cleanup_tests() -> None:
    """What CPython's tests do at their end."""
    import importlib

    support = importlib.import_module("test.support")
    from .forkserver import server

    server.stop()
    util.finalizers.run()
    support.gc_collect()
    support.reap_children()


def spawnv_passfds(path: str | bytes, args: Any, passfds: Any) -> int:
    """Starts a program that inherits just these descriptors and the standard streams; -> its pid."""
    from . import spawn

    return spawn.start_interpreter([os.fsdecode(path), *args[1:]], list(passfds))


def is_abstract_socket_namespace(address: str | bytes | None) -> bool:
    """Whether this names an abstract Unix socket."""
    return bool(address) and address[0] in ("\0", 0)  # type: ignore[index]


# ---- reduction ------------------------------------------------------------------------------------------------------


def send_handle(conn: Any, handle: int, destination_pid: int | None) -> None:
    """Sends a descriptor over a connection, to a process of this program or (a Unix socket) any other."""
    family = _family_of(conn)
    if family == socket.AF_UNIX:
        with socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sendfds(sock, [handle])
    else:
        conn.send(reduction.DupFd(handle))


def recv_handle(conn: Any) -> int:
    """Receives what `send_handle` sent."""
    if _family_of(conn) == socket.AF_UNIX:
        with socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return recvfds(sock, 1)[0]
    descriptor: int = conn.recv().detach()
    return descriptor


def _family_of(conn: Any) -> int | None:
    """The address family of a socket or of what has one; None for a pipe in shared memory."""
    if isinstance(conn, socket.socket):
        return conn.family
    from .socketconnection import SocketConnection

    if not isinstance(conn, SocketConnection):
        return None
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        return sock.family


def sendfds(sock: socket.socket, fds: Any) -> None:
    """Sends descriptors over a Unix socket, and waits until they were received."""
    numbers = struct.pack(f"{len(fds)}i", *fds)
    sock.sendmsg([bytes([len(fds) % 256])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
    if sock.recv(1) != b"A":
        raise RuntimeError("did not receive acknowledgement of fd")


def recvfds(sock: socket.socket, size: int) -> list[int]:
    """Receives `size` descriptors from a Unix socket. RuntimeError if something else came; EOFError at its end."""
    length = struct.calcsize(f"{size}i")
    message, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(length))
    if not message and not ancillary:
        raise EOFError
    sock.send(b"A")
    if len(ancillary) != 1:
        raise RuntimeError(f"received {len(ancillary)} items of ancdata")
    level, kind, data = ancillary[0]
    if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS or len(data) % struct.calcsize("i"):
        raise RuntimeError("Invalid data received")
    fds = list(struct.unpack(f"{len(data) // struct.calcsize('i')}i", data))
    if len(fds) % 256 != message[0]:
        for fd in fds:
            os.close(fd)
        raise RuntimeError(f"{len(fds)} descriptors came in place of {message[0]}")
    return fds


# ---- connection -----------------------------------------------------------------------------------------------------


class ConnectionWrapper:
    """A connection whose `send` and `recv` use other functions than pickle's."""

    def __init__(self, conn: Any, dumps: Any, loads: Any) -> None:
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        for name in ("fileno", "close", "poll", "recv_bytes", "send_bytes"):
            setattr(self, name, getattr(conn, name))

    def send(self, obj: Any) -> None:
        self._conn.send_bytes(self._dumps(obj))

    def recv(self) -> Any:
        return self._loads(self._conn.recv_bytes())


def _xml_dumps(obj: Any) -> bytes:
    from .managerprotocol import dumps

    return dumps(obj, True, "xmlrpclib")


def _xml_loads(data: bytes) -> Any:
    from .managerprotocol import loads

    return loads(data, "xmlrpclib")


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """AuthenticationError unless that is the answer to this message of somebody who knows the key."""
    if not _of("authentication", "is_right")(authkey, message, response):
        raise _of("errors", "AuthenticationError")("digest received was wrong")


def _xml_listener() -> type:
    from .listener import Listener

    class XmlListener(Listener):
        """A Listener whose connections send and receive XML-RPC."""

        def accept(self, timeout: float | None = None) -> Any:
            return ConnectionWrapper(super().accept(timeout), _xml_dumps, _xml_loads)

    return XmlListener


def _xml_client(*args: Any, **kwds: Any) -> ConnectionWrapper:
    from .client import Client

    return ConnectionWrapper(Client(*args, **kwds), _xml_dumps, _xml_loads)


# ---- managers -------------------------------------------------------------------------------------------------------


def _dispatch(c: Any, id: Any, methodname: Any, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
    """Sends a request to a manager's server over a connection, and returns what that answers."""
    c.send((id, methodname, args, kwds))
    kind, result = c.recv()
    if kind == "#RETURN":
        return result
    try:
        raise _of("managerprotocol", "error_of")(kind, result)
    finally:
        del result  # an exception that is kept alive by its own traceback would be collected late


# ---- pool, forkserver -----------------------------------------------------------------------------------------------


def _mapstar(args: Any) -> list[Any]:
    return list(map(*args))


def _starmapstar(args: Any) -> list[Any]:
    return [args[0](*each) for each in args[1]]


def _inherited_fds() -> list[int] | None:
    """In a child of the fork server: the descriptors that came with it; elsewhere None."""
    from .forkserver import server

    return server.inherited or None


# ---- All of them ----------------------------------------------------------------------------------------------------


def _of(module: str, name: str) -> Any:
    """What another module of ours has."""
    from importlib import import_module

    return getattr(import_module(f"processing.{module}"), name)


NAMES: dict[str, dict[str, Any]] = {
    "util": {
        "ForkAwareLocal": lambda: ForkAwareLocal,
        "ForkAwareThreadLock": lambda: ForkAwareThreadLock,
        "get_temp_dir": lambda: get_temp_dir,
        "spawnv_passfds": lambda: spawnv_passfds,
        "is_abstract_socket_namespace": lambda: is_abstract_socket_namespace,
        "abstract_sockets_supported": lambda: True,
        "MAXFD": lambda: os.sysconf("SC_OPEN_MAX"),
        "_logger": lambda: util.log.logger,
        "_log_to_stderr": lambda: util.log.to_stderr,
        "_finalizer_registry": lambda: util.finalizers.entries,
        "_finalizer_counter": lambda: util.finalizers.counter,
        "_run_finalizers": lambda: util.finalizers.run,
        "_afterfork_registry": lambda: util.after_fork.entries,
        "_run_after_forkers": lambda: util.after_fork.run,
        "_flush_std_streams": lambda: util.flush_std_streams,
        "_close_stdin": lambda: util.close_stdin,
        "_args_from_interpreter_flags": lambda: util.interpreter_flags,
        "_cleanup_tests": lambda: _cleanup_tests,
        "_exiting": lambda: util.shutdown.exiting,
    },
    "process": {
        "_children": lambda: this.children,
        "_cleanup": lambda: this.active_children,
        "_current_process": lambda: this.current,
        "_parent_process": lambda: this.parent,
        "_process_counter": lambda: this.counter,
        "_dangling": lambda: weakref.WeakSet(this.children),
        "ORIGINAL_DIR": lambda: this.original_dir,
    },
    "connection": {
        "_CHALLENGE": lambda: _of("authentication", "CHALLENGE"),
        "_FAILURE": lambda: _of("authentication", "FAILURE"),
        "_WELCOME": lambda: _of("authentication", "WELCOME"),
        "_create_response": lambda: _of("authentication", "answer_to"),
        "_verify_challenge": lambda: _verify_challenge,
        "AuthenticationError": lambda: _of("errors", "AuthenticationError"),
        "BUFSIZE": lambda: 8192,
        "CHALLENGE": lambda: _of("authentication", "CHALLENGE"),
        "CONNECTION_TIMEOUT": lambda: 20.0,
        "ConnectionWrapper": lambda: ConnectionWrapper,
        "FAILURE": lambda: _of("authentication", "FAILURE"),
        "MESSAGE_LENGTH": lambda: 20,
        "WELCOME": lambda: _of("authentication", "WELCOME"),
        "XmlClient": lambda: _xml_client,
        "XmlListener": _xml_listener,
        "default_family": lambda: "AF_UNIX",
        "families": lambda: ["AF_INET", "AF_UNIX"],
    },
    "context": {
        "AuthenticationError": lambda: _of("errors", "AuthenticationError"),
        "BufferTooShort": lambda: _of("errors", "BufferTooShort"),
        "Process": lambda: _of("process", "Process"),
        "ProcessError": lambda: _of("errors", "ProcessError"),
        "TimeoutError": lambda: _of("errors", "TimeoutError"),
        "reduction": lambda: reduction,
        "_concrete_contexts": lambda: {
            method: _of("context", "get_context")(method) for method in ("fork", "spawn", "forkserver")
        },
        "_default_context": lambda: _of("context", "default_context"),
    },
    "forkserver": {
        "ensure_running": lambda: _of("forkserver", "server").ensure_running,
        "get_inherited_fds": lambda: _inherited_fds,
        "_forkserver": lambda: _of("forkserver", "server"),
    },
    "managers": {
        "convert_to_error": lambda: _of("managerprotocol", "error_of"),
        "dispatch": lambda: _dispatch,
        "HAS_SHMEM": lambda: True,
        "get_context": lambda: _of("context", "get_context"),
        "public_methods": lambda: _of("managerobjects", "public_methods"),
    },
    "pool": {
        "TimeoutError": lambda: _of("errors", "TimeoutError"),
        "get_context": lambda: _of("context", "get_context"),
        "mapstar": lambda: _mapstar,
        "starmapstar": lambda: _starmapstar,
        "wait": lambda: _of("connection", "wait"),
    },
    "queues": {
        "Finalize": lambda: util.Finalize,
        "debug": lambda: util.debug,
        "info": lambda: util.info,
        "is_exiting": lambda: util.is_exiting,
        "register_after_fork": lambda: util.register_after_fork,
        "_ForkingPickler": lambda: reduction.ForkingPickler,
    },
    "spawn": {
        "WINEXE": lambda: False,
        "WINSERVICE": lambda: False,
        "get_start_method": lambda: _of("context", "get_start_method"),
        "old_main_modules": lambda: _of("spawn", "old_mains"),
        "set_start_method": lambda: _of("context", "set_start_method"),
        "_fixup_main_from_name": lambda: _of("spawn", "_main_from_name"),
        "_fixup_main_from_path": lambda: _of("spawn", "import_main_path"),
        "_python_exe": lambda: _of("spawn", "get_executable")(),
    },
    "synchronize": {
        "RECURSIVE_MUTEX": lambda: 0,
        "SEMAPHORE": lambda: 1,
    },
    "reduction": {
        "HAVE_SEND_HANDLE": lambda: True,
        "send_handle": lambda: send_handle,
        "recv_handle": lambda: recv_handle,
        "sendfds": lambda: sendfds,
        "recvfds": lambda: recvfds,
    },
}


def find(module: str, name: str) -> Any:
    """What the module of this package has under that name of the standard library's. AttributeError."""
    try:
        return NAMES[module.rpartition(".")[2]][name]()
    except KeyError:
        raise AttributeError(f"module {module!r} has no attribute {name!r}") from None
