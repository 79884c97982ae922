"""Processes as objects, with the API of `threading.Thread`.

    Process.start()
      |  popen_fork         os.fork                                  (default)
      |  popen_forkserver   a request to the zygote, which forks
      |  popen_spawn_posix        a new interpreter
      v
    child: _bootstrap() -> run() -> exit functions -> exit code

A Process object belongs to the process that made it: only there can it be started and joined. What the package knows
of its own process and its family is in `_this.this`.
"""

from __future__ import annotations

import os
import sys
import threading

from . import util
from ._this import STOP_SIGNAL, this
from .errors import ProcessExit
from .reduction import spawning

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = ["BaseProcess", "Process", "current_process", "parent_process", "active_children", "STOP_SIGNAL"]


def current_process() -> BaseProcess:
    """The object of the process that runs this."""
    return this.current


def parent_process() -> ParentProcess | None:
    """The parent of this process, None in the first process of a program.

    It has `name`, `pid`, `is_alive()`, `join(timeout)` and `sentinel`, which becomes readable when the parent ends,
    however it ends.
    """
    parent: ParentProcess | None = this.parent
    return parent


def active_children() -> list[BaseProcess]:
    """The children that are alive. Those that have ended are collected, as `join` would do."""
    return this.active_children()


class AuthenticationString(bytes):
    """A key, which pickles only into a child that is being started."""

    def __reduce__(self) -> Any:
        if spawning.popen is None:
            raise TypeError("Pickling an AuthenticationString object is disallowed for security reasons")
        return AuthenticationString, (bytes(self),)


def launcher(method: str) -> Callable[[BaseProcess], Any]:
    """What starts a process by `method`."""
    if method == "fork":
        from . import popen_fork

        return popen_fork.Popen
    if method == "spawn":
        from . import popen_spawn_posix

        return popen_spawn_posix.Popen
    if method == "forkserver":
        from . import popen_forkserver

        return popen_forkserver.Popen
    raise ValueError(f"cannot find context for {method!r}")


class BaseProcess:
    """Work that is done in another process.

    `target(*args, **kwargs)` is called there; or override `run`. `args` may be a list or a tuple. Under spawn and
    forkserver they are pickled by `start()`, which raises if that fails.
    `daemon`: end it when this process ends (None: as this process). A daemonic process may have children.
    `stoppable`: let `stop()` end it by an exception.
    """

    _start_method: str | None = None
    # How it is really started, where that differs: the worker of a pool is forked by its supervisor.
    _launched_by: str | None = None
    # What a child under spawn and forkserver is told before it unpickles this object, if not what holds here.
    _preparation: dict[str, Any] | None = None
    _popen: Any = None
    _closed = False
    _parent_pid: int | None = None

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        stoppable: bool = False,
    ) -> None:
        if group is not None:
            raise AssertionError("group argument must be None for now")
        current = this.current
        self._identity: tuple[int, ...] = (*current._identity, next(this.counter))
        self._config: dict[str, Any] = {**current._config, "authkey": current.authkey}
        self._parent_pid = os.getpid()
        self._parent_name = current.name
        self._popen = None
        self._closed = False
        self._stoppable = stoppable
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs) if kwargs else {}
        self._name = name or f"{type(self).__name__}-{':'.join(map(str, self._identity))}"
        if daemon is not None:
            self.daemon = daemon

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("process object is closed")

    def _check_parent(self, action: str) -> None:
        if self._parent_pid != os.getpid():
            raise AssertionError(
                f"can only {action} a child process: {self._name} was made by process {self._parent_pid}"
            )

    def _started(self, action: str) -> Any:
        self._check_closed()
        if self._popen is None:
            raise AssertionError(f"can only {action} a started process: call start() first")
        return self._popen

    # -- As in threading.Thread

    def run(self) -> None:
        """What the process does. Called in the child."""
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Starts the process; once only. Returns when the child exists; its work may not have begun yet."""
        self._check_closed()
        if self._popen is not None:
            raise AssertionError("cannot start a process twice")
        if self._parent_pid != os.getpid():
            raise AssertionError("can only start a process object created by current process")
        if this.children:
            this.active_children()
        method = self._start_method
        if method is None:
            method = this.settled_method()
        self._popen = launcher(self._launched_by or method)(self)
        # The target may refer to this object: no cycle is to be left behind.
        del self._target, self._args, self._kwargs
        this.children.add(self)

    def join(self, timeout: float | None = None) -> None:
        """Waits until the process has ended, at most `timeout` seconds; see `exitcode` for whether it has."""
        self._check_closed()
        self._check_parent("join")
        popen = self._started("join")
        popen.wait(timeout)
        if popen.returncode is not None or popen.gone:
            this.children.discard(self)

    def is_alive(self) -> bool:
        """Whether the process has been started and has not ended."""
        self._check_closed()
        if self is this.current:
            return True
        self._check_parent("test")
        if self._popen is None:
            return False
        if self._popen.has_ended():
            this.children.discard(self)
            return False
        return True

    @property
    def name(self) -> str:
        """Name of the process; any string will do."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str):
            raise AssertionError("name must be a string")
        self._name = name

    @property
    def daemon(self) -> bool:
        """Whether the process is to end when its parent ends: at the parent's normal end it is terminated, and if the
        parent is killed, SIGKILL included, the kernel ends it at once."""
        return bool(self._config.get("daemon", False))

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        if self._popen is not None:
            raise AssertionError("process has already started")
        self._config["daemon"] = daemonic

    @property
    def ident(self) -> int | None:
        """Process id, None before `start()`."""
        self._check_closed()
        if self is this.current:
            return os.getpid()
        return None if self._popen is None else self._popen.pid

    @property
    def pid(self) -> int | None:
        """Process id, None before `start()`."""
        return self.ident

    # -- Beyond threads

    @property
    def exitcode(self) -> int | None:
        """None before the end; 0 after `run` returned or `stop()` ended it, 1 after an exception, N after
        `sys.exit(N)`, -N if signal N ended it, 255 if it could not be learned because the fork server was killed.
        Stays None if somebody else has collected the child (`os.wait()`, an ignored SIGCHLD)."""
        self._check_closed()
        if self._popen is None:
            return None
        code: int | None = self._popen.poll()
        return code

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process ends: for `connection.wait`, select and asyncio."""
        self._check_closed()
        if self._popen is None:
            raise ValueError("process not started")
        fd: int = self._popen.sentinel
        return fd

    @property
    def stoppable(self) -> bool:
        """Whether `stop()` works: as the constructor was told. Can be set before `start()`."""
        return self._stoppable

    @stoppable.setter
    def stoppable(self, stoppable: bool) -> None:
        if self._popen is not None:
            raise AssertionError("process has already started")
        self._stoppable = stoppable

    @property
    def authkey(self) -> bytes:
        """The key with which the processes of this family authenticate connections.

        Where `multiprocessing` is loaded as well, in the first process, both have the same one.
        """
        key: bytes = self._config["authkey"]
        return key

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._config["authkey"] = AuthenticationString(authkey)

    def terminate(self) -> None:
        """Ends the process with SIGTERM: neither its `finally` clauses nor its exit functions run, and its children
        live on (daemonic ones end with it)."""
        self._started("terminate").terminate()

    def kill(self) -> None:
        """Ends the process with SIGKILL."""
        self._started("kill").kill()

    def interrupt(self) -> None:
        """Sends SIGINT, as Ctrl-C does: KeyboardInterrupt in the child's main thread."""
        self._started("interrupt").interrupt()

    def stop(self) -> None:
        """Raises ProcessExit in the main thread of a process made with `stoppable=True`, also inside a blocking call.

        Does not wait. `finally` clauses and exit functions run; the exit code is 0 and `repr` says
        `stopped[ProcessExit]` unless the process catches the exception. Sent by signal STOP_SIGNAL (SIGRTMIN+10), which
        is held back until the child is ready for it. A process that has ended is left alone. Calls that follow one
        another at once are spaced out, by a few milliseconds, so that the child gets on in between.
        """
        popen = self._started("stop")
        if not self._stoppable:
            raise ValueError(
                f"{self._name} cannot be stopped: make it with Process(..., stoppable=True), or use terminate()"
            )
        popen.pause_between_stops()
        popen.send_signal(STOP_SIGNAL)

    def close(self) -> None:
        """Gives up what this object holds. ValueError if the process is still running."""
        if self._popen is not None:
            if not self._popen.has_ended():
                raise ValueError(
                    "Cannot close a process while it is still running. You should first call join() or terminate()."
                )
            self._popen.close()
            self._popen = None
            this.children.discard(self)
        self._closed = True

    def __repr__(self) -> str:
        popen = self._popen
        facts = [type(self).__name__, f"name={self._name!r}"]
        if popen is not None:
            facts.append(f"pid={popen.pid}")
        facts += [f"parent={self._parent_pid}", self._status()]
        if self.daemon:
            facts.append("daemon")
        return f"<{' '.join(facts)}>"

    def _status(self) -> str:
        if self is this.current:
            return "started"
        if self._closed:
            return "closed"
        if self._parent_pid != os.getpid():
            return "unknown"
        if self._popen is None:
            return "initial"
        if not self._popen.has_ended():
            return "started"
        return end_of(self._popen.returncode, self._popen.stopped)

    # -- In the child

    def _bootstrap(self) -> int:
        """Runs the process in its child and returns the exit code."""
        try:
            self._settle_in()
            util.info("child process calling self.run()")
            self.run()
            code = 0
        except ProcessExit as error:
            this.accepts_stop = False
            this.ended_by_stop = True
            code = _code_of(error)
        except SystemExit as error:
            this.accepts_stop = False
            code = _code_of(error)
        except BaseException:
            this.accepts_stop = False
            code = 1
            import traceback

            sys.stderr.write(f"Process {self.name}:\n")
            traceback.print_exc()
        finally:
            this.accepts_stop = False
            threading._shutdown()  # type: ignore[attr-defined]
            util.info("process exiting with exitcode %d", code)
            util.flush_std_streams()
        return code

    def _settle_in(self) -> None:
        """Makes this the current process: its family, standard input, signals."""
        import itertools

        this.parent = ParentProcess(self._parent_name, self._parent_pid, this.parent_lifeline)
        this.current = self
        if self._start_method is not None:
            this.start_method = self._start_method
        this.counter = itertools.count(1)
        this.children = set()
        this.ended_by_stop = False
        util.finalizers.forget_inherited()
        if self.daemon:
            this.die_with_parent()
        util.close_stdin()
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
        util.after_fork.run()
        this.accept_stop(self._stoppable)


def _code_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    sys.stderr.write(f"{error.code}\n")
    return 1


def end_of(code: int | None, stopped: bool) -> str:
    """How a process ended, for its repr: `stopped[SIGKILL]`, `stopped[ProcessExit]`, `stopped exitcode=3`."""
    if stopped:
        return "stopped[ProcessExit]"
    if code is None:
        return "stopped"
    if code >= 0:
        return f"stopped exitcode={code}"
    import signal

    try:
        return f"stopped[{signal.Signals(-code).name}]"
    except ValueError:
        real_time = -code - signal.SIGRTMIN
        return f"stopped[SIGRTMIN+{real_time}]" if real_time >= 0 else f"stopped[signal {-code}]"


class Process(BaseProcess):
    """A process started by the current start method: fork, unless `set_start_method` said otherwise."""


class ParentProcess(BaseProcess):
    """The parent, seen from its child."""

    def __init__(self, name: str, pid: int | None, lifeline: int) -> None:
        self._identity = ()
        self._name = name
        self._pid = pid
        self._lifeline = lifeline
        self._config = {}

    def start(self) -> None:
        raise AssertionError("cannot start a process twice")

    def is_alive(self) -> bool:
        """Whether the parent has not ended, by whatever cause (it may be a zombie: that is an end)."""
        return not util.wait_readable(self._lifeline, 0)

    def join(self, timeout: float | None = None) -> None:
        """Waits until the parent has ended, at most `timeout` seconds."""
        util.wait_readable(self._lifeline, timeout)

    @property
    def ident(self) -> int | None:
        return self._pid

    @property
    def sentinel(self) -> int:
        """Becomes readable when the parent ends."""
        return self._lifeline

    def _status(self) -> str:
        return "started" if self.is_alive() else "stopped"


class _MainConfig(dict):  # type: ignore[type-arg]
    """Decides on its authkey when it is first asked for: loky, say, gives its workers the standard library's, and
    proxies of our managers work there if ours is the same."""

    def __init__(self) -> None:
        self.random = os.urandom(32)

    def __missing__(self, key: str) -> Any:
        if key != "authkey":
            raise KeyError(key)
        theirs: Any = sys.modules.get("multiprocessing.process")
        if theirs is None or theirs.__name__ == __name__ or not hasattr(theirs, "current_process"):
            first = self.random
        else:
            first = theirs.current_process().authkey
        return self.setdefault(key, AuthenticationString(first))


class _MainProcess(BaseProcess):
    """The first process of a program."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._config = _MainConfig()
        self._stoppable = False

    def start(self) -> None:
        raise AssertionError("cannot start a process twice")

    def close(self) -> None:
        pass


this.current = _MainProcess()


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
