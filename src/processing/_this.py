"""What this process knows of itself and of its family: one object, `this`.

How the end of a process is seen by the others:

    parent                                     child
      lifeline.writer  ===== one pipe =======>   a read end of its own      "my parent is alive": hangs up when the
      (kept by the parent alone)                 (opened anew)               last write end is gone, also by SIGKILL
      popen.sentinel   <==== a pipe each =====   this.own_sentinel          "my child is alive", likewise

A daemonic child has the kernel send it LIFELINE_SIGNAL (by O_ASYNC, no thread needed) when its parent's lifeline hangs
up; the signal's default action ends it, also inside a long computation in C. O_ASYNC and its owner belong to an open
file description, so children cannot share one read end: each opens its own, through /proc/self/fd.

The write ends must not live on in processes that are forked by others meanwhile, or deaths would go unnoticed: every
forked child, also by a plain `os.fork()`, closes what is not its own first of all (`after_fork_in_child`). An exec
closes them too (O_CLOEXEC).
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
from _thread import allocate_lock, get_ident

from . import util

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .process import BaseProcess

__all__ = ["STOP_SIGNAL", "LIFELINE_SIGNAL", "ThisProcess", "this", "program"]

# SIGRTMIN + 10 and + 11 (`signal.SIGRTMIN` is 34 with glibc, 35 with musl). The module is slow to import.
_sigrtmin: int = __import__("_signal").SIGRTMIN
STOP_SIGNAL = _sigrtmin + 10
LIFELINE_SIGNAL = _sigrtmin + 11

# What a process that ProcessExit ended writes into its sentinel as its last act.
STOPPED = b"S"


def program() -> Any:
    """The module that attaches to the arena if it is loaded and attached, else None."""
    module = sys.modules.get("processing._program")
    return module if module is not None and module.is_attached() else None


class Lifeline:
    """The pipe whose hanging up tells the children of this process that it has ended."""

    def __init__(self) -> None:
        self.writer = -1

    def ensure(self) -> int:
        """The write end. Made with the first child."""
        if self.writer < 0:
            reader, self.writer = os.pipe()
            os.close(reader)
        return self.writer

    def open_reader(self) -> int:
        """A new read end, for one child. Needs /proc."""
        try:
            return os.open(f"/proc/self/fd/{self.ensure()}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise OSError(
                error.errno, "cannot start processes: /proc is not mounted", "/proc/self/fd"
            ) from None

    def open_pipes(self) -> tuple[int, int, int]:
        """For a child that is to be started: both ends of its sentinel, and a read end of this."""
        sentinel, child_end = os.pipe()
        try:
            return sentinel, child_end, self.open_reader()
        except BaseException:
            util.close_fds(sentinel, child_end)
            raise

    def drop(self) -> None:
        """In a child: the parent's write end is not ours."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


class ThisProcess:
    """The state of the process layer in this process."""

    def __init__(self) -> None:
        self.current: BaseProcess
        self.parent: Any = None
        self.counter = itertools.count(1)
        self.children: set[BaseProcess] = set()
        self.start_method: str | None = None
        self.stands_in = False  # importing `multiprocessing` gives this package (standin.py)
        # While the child of a spawn prepares itself it must not start processes.
        self.inheriting = False
        self.lifeline = Lifeline()
        # Read end of the parent's lifeline, write end of our own sentinel; -1 in the first process of a program.
        self.parent_lifeline = -1
        self.own_sentinel = -1
        # By thread: the sentinel's write end and the lifeline's read end of the child that it is just forking.
        self.starting: dict[int, tuple[int, int]] = {}
        # Held for a waitpid() that does not block, and for a kill(), so that no pid is used after it was collected.
        self.reaping = allocate_lock()
        # Held over a fork beside other threads: whoever forks next must not change what the fork has noted.
        self.forking = allocate_lock()
        self.accepts_stop = False
        self.stop_handler_installed = False
        self.ended_by_stop = False
        self.warned_of_threads = False
        self.watches_forks = False
        self.leaves_last = False
        try:
            self.original_dir: str | None = os.path.abspath(os.getcwd())
        except OSError:
            self.original_dir = None

    # -- The start method

    def first_method(self) -> str:
        """The start method of a program that has not set one. In the place of `multiprocessing`: that of the running
        Python, which is forkserver from 3.14 on."""
        return "forkserver" if self.stands_in and sys.version_info >= (3, 14) else "fork"

    def settled_method(self) -> str:
        """The start method, which is settled from now on."""
        if self.start_method is None:
            self.start_method = self.first_method()
        return self.start_method

    # -- Descriptors over forks

    def prepare_for_children(self) -> None:
        """From now on every forked child gives up what is not its own, and the children are joined at the end."""
        if not self.watches_forks:
            self.watches_forks = True
            os.register_at_fork(after_in_child=self.after_fork_in_child)
        self.leave_last()

    def leave_last(self) -> None:
        """This process leaves the arena not when atexit would have it, but after all else that `shutdown` does: its
        children may need it until they have ended, and so do the names that the program made."""
        util.shutdown.register()
        if not self.leaves_last and (attached := program()) is not None:
            self.leaves_last = True
            atexit.unregister(attached.leave)

    def after_fork_in_child(self) -> None:
        sentinel, reader = self.starting.pop(get_ident(), (-1, -1))
        for fds in self.starting.values():
            util.close_fds(*fds)
        self.starting.clear()
        if self.own_sentinel >= 0:
            os.close(self.own_sentinel)
        self.own_sentinel = sentinel
        self.reaping = allocate_lock()
        if self.forking.locked() and sentinel < 0:
            self.forking = allocate_lock()
        self.children = set()
        if sentinel >= 0:
            # A child that Process.start() is making; any other goes on with what it has.
            if self.parent_lifeline >= 0:
                os.close(self.parent_lifeline)
            self.parent_lifeline = reader
        self.lifeline.drop()

    # -- Signals

    def die_with_parent(self) -> None:
        """Has the kernel end this process at once when its parent ends. Main thread only."""
        import fcntl
        import signal

        fd = self.parent_lifeline
        signal.signal(LIFELINE_SIGNAL, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {LIFELINE_SIGNAL})
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, LIFELINE_SIGNAL)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        # The parent may have ended before the signal was ordered.
        if util.wait_readable(fd, 0):
            os.kill(os.getpid(), LIFELINE_SIGNAL)

    def accept_stop(self, stoppable: bool) -> None:
        """Main thread of a new child: installs the handler of STOP_SIGNAL, which its parent has blocked until now, or
        gives up a handler that a fork has inherited."""
        if not stoppable:
            if self.stop_handler_installed:
                import signal

                signal.signal(STOP_SIGNAL, signal.SIG_DFL)
                self.stop_handler_installed = False
            return
        import signal

        signal.signal(STOP_SIGNAL, _raise_process_exit)
        self.stop_handler_installed = self.accepts_stop = True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP_SIGNAL})

    # -- Children

    def active_children(self) -> list[BaseProcess]:
        """Collects the children that have ended; returns the others."""
        children = list(self.children)
        for child in children:
            if (popen := child._popen) is not None and popen.has_ended():
                self.children.discard(child)
        return [child for child in children if child in self.children]

    def end_children(self) -> None:
        """At the end of this process: daemonic children are terminated, and all are joined."""
        for child in self.active_children():
            if child.daemon and (popen := child._popen) is not None:
                util.info("calling terminate() for daemon %s", child.name)
                popen.terminate()
        for child in self.active_children():
            util.info("calling join() for process %s", child.name)
            child.join()

    # -- The end

    def end_program(self) -> None:
        """At the end of the first process: removes the named memory that the program made and forgot."""
        if self.parent_lifeline >= 0 or (attached := program()) is None:
            return
        # A forked process that is no child of the package comes here too, and finds that its program goes on.
        if os.path.exists(f"{util.BOOK_OF_NAMES}{attached.program_id():016x}"):
            from . import _segments

            _segments.end_of_program()

    def exit(self, code: int) -> NoReturn:
        """Ends a child: exit functions, leaving the arena, `os._exit`. Nothing of the interpreter is torn down."""
        try:
            atexit._run_exitfuncs()
            util.flush_std_streams()
        finally:
            self.say_goodbye()
            os._exit(code & 0xFF)

    def say_goodbye(self) -> None:
        """The last that a child does: gives up its place in the arena; tells its parent if ProcessExit ended it."""
        if (attached := program()) is not None:
            attached.leave()
        if self.ended_by_stop and self.own_sentinel >= 0:
            try:
                os.write(self.own_sentinel, STOPPED)
            except OSError:
                pass


def _raise_process_exit(number: int, frame: object) -> None:
    if this.accepts_stop:
        from .errors import ProcessExit

        raise ProcessExit


this = ThisProcess()
util.shutdown.end_children = this.end_children
util.shutdown.end_program = this.end_program
util.shutdown.process_name = lambda: this.current.name
