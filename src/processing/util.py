"""What a process does besides its work: logging, clean-up at its end, re-initialisation after a fork.

State and its owners:

    log         a Log: the logger named 'processing', made when first asked for
    finalizers  a Finalizers: callbacks to run when an object is collected or the process ends
    after_fork  an AfterFork: what objects want done in a forked child
    shutdown    a Shutdown: the order of events at the end of a process; atexit calls it

None of this starts anything when imported; atexit learns of `shutdown`.
"""

from __future__ import annotations

import atexit
import io
import itertools
import os
import sys
import weakref

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = [
    "SUBDEBUG",
    "SUBWARNING",
    "get_logger",
    "log_to_stderr",
    "sub_debug",
    "debug",
    "info",
    "sub_warning",
    "register_after_fork",
    "Finalize",
    "is_exiting",
    "close_all_fds_except",
]

SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25

LOGGER_NAME = "processing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"


# ---- Logging --------------------------------------------------------------------------------------------------------


class Log:
    """The package's logger. Costs one test of an attribute as long as nobody has asked for it."""

    def __init__(self) -> None:
        self.name = LOGGER_NAME
        self.logger: logging.Logger | None = None
        self.to_stderr = False

    def get(self) -> logging.Logger:
        if self.logger is None:
            import logging

            logger = logging.getLogger(self.name)
            logger.propagate = False
            self.logger = logger
            # Run before logging's own exit function, which closes the handlers.
            shutdown.register(again=True)
        return self.logger

    def add_stderr_handler(self, level: int | str | None) -> logging.Logger:
        import logging

        logger = self.get()
        handler = logging.StreamHandler()
        handler.setFormatter(_process_formatter())
        logger.addHandler(handler)
        if level:
            logger.setLevel(level)
        self.to_stderr = True
        return logger

    def write(self, level: int, message: str, *args: object) -> None:
        if self.logger is not None:
            self.logger.log(level, message, *args, stacklevel=3)


def _process_formatter() -> logging.Formatter:
    import logging

    class ProcessFormatter(logging.Formatter):
        """Fills in the name of our process: logging itself only asks the standard library's package."""

        def format(self, record: logging.LogRecord) -> str:
            record.processName = shutdown.process_name()
            return super().format(record)

    return ProcessFormatter(DEFAULT_LOGGING_FORMAT)


log = Log()


def get_logger() -> logging.Logger:
    """The logger named 'processing', which the package writes to. It does not propagate to the root logger."""
    return log.get()


def log_to_stderr(level: int | str | None = None) -> logging.Logger:
    """Adds a handler that prints to stderr, and sets the level if one is given. Children started later do the same."""
    return log.add_stderr_handler(level)


def sub_debug(msg: str, *args: object) -> None:
    log.write(SUBDEBUG, msg, *args)


def debug(msg: str, *args: object) -> None:
    log.write(DEBUG, msg, *args)


def info(msg: str, *args: object) -> None:
    log.write(INFO, msg, *args)


def sub_warning(msg: str, *args: object) -> None:
    log.write(SUBWARNING, msg, *args)


# ---- After a fork ---------------------------------------------------------------------------------------------------


class AfterFork:
    """What is to be done in a child started with fork, in order of registration; objects are held weakly."""

    def __init__(self) -> None:
        self.entries: weakref.WeakValueDictionary[tuple[int, int, Callable[[Any], object]], Any] = (
            weakref.WeakValueDictionary()
        )
        self.counter = itertools.count()

    def run(self) -> None:
        if not self.entries:
            return
        for (_, _, function), obj in sorted(self.entries.items(), key=lambda item: item[0][:2]):
            try:
                function(obj)
            except Exception as error:
                info("after forker raised exception %s", error)


after_fork = AfterFork()


def register_after_fork(obj: Any, func: Callable[[Any], object]) -> None:
    """Has `func(obj)` called in every child that a Process starts by fork, unless `obj` has been collected."""
    after_fork.entries[(next(after_fork.counter), id(obj), func)] = obj


# ---- Finalizers -----------------------------------------------------------------------------------------------------


class Finalizers:
    """Callbacks of this process, by (exit priority, number)."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int | None, int], Finalize] = {}
        self.counter = itertools.count()

    def run(self, minpriority: int | None = None) -> None:
        """Runs those with an exit priority of at least `minpriority` (all that have one, if None): the highest first,
        among equals the youngest. None then also forgets the others."""

        def wanted(key: tuple[int | None, int]) -> bool:
            return key[0] is not None and (minpriority is None or key[0] >= minpriority)

        # A collection or another thread may change the dictionary meanwhile.
        for key in sorted(filter(wanted, list(self.entries)), reverse=True):
            finalizer = self.entries.get(key)
            if finalizer is not None:
                sub_debug("calling %s", finalizer)
                try:
                    finalizer()
                except Exception:
                    import traceback

                    traceback.print_exc()
        if minpriority is None:
            self.entries.clear()

    def forget_inherited(self) -> None:
        """Keeps those that were made in this process, for what came in the arguments of its start."""
        pid = os.getpid()
        for key, finalizer in list(self.entries.items()):
            if finalizer._pid != pid:
                self.entries.pop(key, None)


finalizers = Finalizers()


class Finalize:
    """Calls `callback(*args, **kwargs)` once: when called, when `obj` is collected, or, with an `exitpriority`, at the
    end of the process. A forked child does not call its parent's."""

    def __init__(
        self,
        obj: object,
        callback: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        exitpriority: int | None = None,
    ) -> None:
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(f"exitpriority must be None or int, not {type(exitpriority)}")
        self._weakref: weakref.ref[Any] | None = None
        if obj is not None:
            self._weakref = weakref.ref(obj, self)
        elif exitpriority is None:
            raise ValueError("without an object, exitpriority cannot be None")
        self._callback: Callable[..., Any] | None = callback
        self._args = tuple(args)
        self._kwargs = dict(kwargs) if kwargs else {}
        self._key: tuple[int | None, int] | None = (exitpriority, next(finalizers.counter))
        self._pid = os.getpid()
        self._owner = finalizers
        if exitpriority is not None:
            shutdown.register()
        finalizers.entries[self._key] = self

    def _take(self) -> tuple[Callable[..., Any] | None, tuple[Any, ...], dict[str, Any]] | None:
        """What to call, once; None if it was called or cancelled before."""
        if self._key is None or self._owner.entries.pop(self._key, None) is None:
            return None
        taken = self._callback, self._args, self._kwargs
        self._weakref = None
        self._callback = None
        self._key = None
        self._args, self._kwargs = (), {}
        return taken

    # The default arguments stay reachable while the interpreter tears the module down.
    def __call__(self, wr: object = None, _getpid: Callable[[], int] = os.getpid) -> Any:
        taken = self._take()
        if taken is None:
            return None
        callback, args, kwargs = taken
        return callback(*args, **kwargs) if callback is not None and self._pid == _getpid() else None

    def cancel(self) -> None:
        """Forgets the callback."""
        self._take()

    def still_active(self) -> bool:
        """Whether the callback is still to be called."""
        return self._key in self._owner.entries

    def __repr__(self) -> str:
        if self._key is None:
            return f"<{type(self).__name__} object, dead>"
        facts = [f"callback={getattr(self._callback, '__name__', self._callback)}"]
        if self._args:
            facts.append(f"args={self._args}")
        if self._kwargs:
            facts.append(f"kwargs={self._kwargs}")
        if self._key[0] is not None:
            facts.append(f"exitpriority={self._key[0]}")
        return f"<{type(self).__name__} object, {', '.join(facts)}>"


# ---- The end of a process -------------------------------------------------------------------------------------------


class Shutdown:
    """Finalizers with a priority >= 0, then the children, then the other finalizers, then (in the first process) the
    names that the program made, then this process's place in the arena; once in each process."""

    def __init__(self) -> None:
        self.exiting = False
        self.registered = False
        self.last: list[Callable[[], object]] = []  # after all finalizers
        # Set by the layer that has children.
        self.end_children: Callable[[], None] = lambda: None
        self.end_program: Callable[[], None] = lambda: None
        self.process_name: Callable[[], str] = lambda: "MainProcess"

    def register(self, again: bool = False) -> None:
        """Makes sure that atexit runs this; `again`: before everything registered so far."""
        if again:
            atexit.unregister(self.run)
        elif self.registered:
            return
        atexit.register(self.run)
        self.registered = True

    def forget_parent(self) -> None:
        """In a forked child, first of all: exit functions of the parent are not to run here. What the child registers
        itself will run."""
        atexit._clear()
        finalizers.entries.clear()
        self.last.clear()
        self.exiting = self.registered = False
        self.register()

    def run(self) -> None:
        if self.exiting:
            return
        self.exiting = True
        info("process shutting down")
        finalizers.run(0)
        self.end_children()
        finalizers.run()
        while self.last:
            self.last.pop()()
        self.end_program()
        if (program := sys.modules.get("processing._program")) is not None:
            program.leave()


shutdown = Shutdown()
# Now, as in the standard library: exit functions that a program registers later run before, and may still reach the
# children that this waits for.
shutdown.register()
_exit_function = shutdown.run


def is_exiting() -> bool:
    """Whether this process is at its end."""
    return shutdown.exiting


# ---- Small things ---------------------------------------------------------------------------------------------------


class NullInput(io.TextIOBase):
    """Standard input of a child: the null device. It is opened when its descriptor or its `buffer` is asked for: most
    children never do, and opening it would make starting a process a tenth slower."""

    def __init__(self) -> None:
        self._file: io.TextIOWrapper | None = None

    def _open(self) -> io.TextIOWrapper:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if self._file is None:
            self._file = open(os.devnull, encoding="utf-8")
        return self._file

    @property
    def buffer(self) -> Any:
        return self._open().buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "strict"

    @property
    def name(self) -> str:
        return os.devnull

    @property
    def mode(self) -> str:
        return "r"

    def fileno(self) -> int:
        return self._open().fileno()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        return self.readline()

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        return ""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


# Of the file that lists the named memory which a program is to remove: this and the program's id (_segments.py).
BOOK_OF_NAMES = "/dev/shm/psm_pz."


def close_stdin() -> None:
    """Children do not compete with their parent for the terminal: sys.stdin becomes the null device."""
    if sys.stdin is None or type(sys.stdin) is NullInput:
        return
    try:
        sys.stdin.close()
    except (OSError, ValueError):
        pass
    sys.stdin = NullInput()


def flush_std_streams() -> None:
    """Writes out what sys.stdout and sys.stderr hold back, if they are there and open."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass


def close_fds(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def close_all_fds_except(fds: Iterable[int]) -> None:
    """Closes every descriptor of the process that is not in `fds`."""
    low = -1
    for fd in sorted(set(fds)):
        os.closerange(low + 1, fd)
        low = fd
    os.closerange(low + 1, os.sysconf("SC_OPEN_MAX"))


def wait_readable(fd: int, timeout: float | None) -> bool:
    """Waits until `fd` can be read or is at its end; False if `timeout` (seconds) passed first."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    # Rounded up: poll() counts milliseconds and must not return early.
    return bool(poll.poll(None if timeout is None else max(0, -int(-timeout * 1000 // 1))))


def interpreter_flags() -> list[str]:
    """Command-line options with which another interpreter behaves as this one."""
    flags = sys.flags
    args = []
    letters = {
        "debug": "d",
        "dont_write_bytecode": "B",
        "no_site": "S",
        "verbose": "v",
        "bytes_warning": "b",
        "quiet": "q",
        "optimize": "O",
    }
    for name, letter in letters.items():
        if count := getattr(flags, name):
            args.append("-" + letter * count)
    if flags.isolated:
        args.append("-I")
    else:
        for name, letter in {"ignore_environment": "E", "no_user_site": "s", "safe_path": "P"}.items():
            if getattr(flags, name, 0):
                args.append("-" + letter)
    # What follows from other options is not given twice.
    implied = {"default"} if flags.dev_mode else set()
    if flags.bytes_warning:
        implied.add("error::BytesWarning" if flags.bytes_warning > 1 else "default::BytesWarning")
    args += ["-W" + option for option in sys.warnoptions if option not in implied]
    for name, value in sys._xoptions.items():
        args += ["-X", name if value is True else f"{name}={value}"]
    return args


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
