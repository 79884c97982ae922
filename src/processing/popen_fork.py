"""Starting a process by fork, and watching over a child whichever way it was started."""

from __future__ import annotations

import os
import threading
import time
from _thread import get_ident

from . import util
from ._this import STOP_SIGNAL, program, this

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .process import BaseProcess

__all__ = ["Popen"]


class Popen:
    """A child of this process.

    `returncode` is the exit code once it is known, `usage` what the child has used by then (as `os.wait4` says it; None
    if it is no child of this very process); `gone` says that the child has ended but somebody else collected
    it, so that nobody will know; `stopped` that ProcessExit ended it. Any thread may call any method.
    """

    method = "fork"

    def __init__(self, process_obj: BaseProcess) -> None:
        self.owner = os.getpid()
        self.pid = 0
        self.sentinel = -1
        self.returncode: int | None = None
        self.usage: Any = None
        self.gone = False
        self.stopped = False
        self.token = 0
        self.next_stop = 0.0
        self.stoppable = process_obj._stoppable
        util.flush_std_streams()
        this.prepare_for_children()
        self._launch(process_obj)

    # -- Starting

    def _launch(self, process: BaseProcess) -> None:
        # Opened here and not in the child: the first look into /proc/<pid> of a new process is slow.
        sentinel, child_end, lifeline = this.lifeline.open_pipes()
        thread = get_ident()
        this.starting[thread] = child_end, lifeline
        mask = block_stop() if self.stoppable else None
        pid = -1
        try:
            pid, self.token = _fork() if threading.active_count() == 1 else _fork_beside_threads()
        finally:
            if pid:
                this.starting.pop(thread, None)
                os.close(child_end)
                os.close(lifeline)
                if mask is not None:
                    restore_mask(mask)
                if pid < 0:
                    os.close(sentinel)
        if pid == 0:
            code = 1
            try:
                os.close(sentinel)
                util.shutdown.forget_parent()
                code = process._bootstrap()
            finally:
                this.exit(code)
        self.pid = pid
        self.sentinel = sentinel

    # -- Watching

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, None as long as the child runs (or if nobody can know). Does not block, unless `flag` is 0."""
        if not flag & os.WNOHANG:
            return self.wait()
        if self.returncode is None and not self.gone:
            self._collect()
        return self.returncode

    def duplicate_for_child(self, fd: int) -> int:
        """What to give to DupFd: a fork has all descriptors."""
        return fd

    def has_ended(self) -> bool:
        """Whether the child has ended. Does not block."""
        return self.poll() is not None or self.gone

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, once the child has ended; None if `timeout` (seconds) passed first."""
        if self.returncode is None and not self.gone:
            if timeout is None:
                # Leaves the child to be collected under the lock: only who holds that may use the pid.
                self._wait_for_end()
            elif not util.wait_readable(self.sentinel, timeout):
                return None
            self._collect()
            if self.returncode is None and not self.gone and timeout:
                # The sentinel goes a moment before the process; for longer if the child has closed its descriptors.
                self._wait_for_end(timeout)
                self._collect()
        return self.returncode

    def _wait_for_end(self, timeout: float | None = None) -> None:
        if timeout is None:
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass
            return
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            util.wait_readable(pidfd, timeout)
        finally:
            os.close(pidfd)

    def _collect(self) -> None:
        """Takes the exit status of the child if it has ended."""
        with this.reaping:
            if self.returncode is not None or self.gone:
                return
            try:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody else has collected it, or it is not our child (in a process forked since).
                self.gone = util.wait_readable(self.sentinel, 0)
                if not self.gone:
                    return
            else:
                if pid == 0:
                    return
                if self.stoppable:
                    self.stopped = self._said_stopped()
                self.usage = usage
                self.returncode = os.waitstatus_to_exitcode(status)
        self._bury()

    def _said_stopped(self) -> bool:
        """Whether the child's last word was that ProcessExit ended it."""
        os.set_blocking(self.sentinel, False)
        try:
            return os.read(self.sentinel, 1) != b""
        except BlockingIOError:
            return False

    def _bury(self) -> None:
        token, self.token = self.token, 0
        if token and (attached := program()) is not None:
            attached.bury_child(token)

    # -- Signals

    def pause_between_stops(self) -> None:
        """Waits until the last stop is a few milliseconds old: a flood of signals would starve the child."""
        wait = self.next_stop - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        self.next_stop = time.monotonic() + 0.005

    def send_signal(self, number: int) -> None:
        """Sends a signal unless the child has ended."""
        with this.reaping:
            if self.returncode is None and not self.gone:
                try:
                    os.kill(self.pid, number)
                except ProcessLookupError:
                    pass

    def interrupt(self) -> None:
        import signal

        self.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        import signal

        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        import signal

        self.send_signal(signal.SIGKILL)

    # -- The end

    def close(self) -> None:
        sentinel, self.sentinel = self.sentinel, -1
        if sentinel >= 0:
            os.close(sentinel)

    # The default arguments stay reachable while the interpreter tears the module down.
    def __del__(
        self, _close: Callable[[int], None] = os.close, _getpid: Callable[[], int] = os.getpid
    ) -> None:
        if self.sentinel >= 0 and self.owner == _getpid():
            _close(self.sentinel)

    def __reduce__(self) -> Any:
        raise TypeError("a started process cannot be pickled: only its parent can watch over it")


def block_stop() -> Any:
    """Holds STOP_SIGNAL back in this thread and in what it starts; returns the mask to go back to."""
    import signal

    return signal.pthread_sigmask(signal.SIG_BLOCK, {STOP_SIGNAL})


def restore_mask(mask: Any) -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork() -> tuple[int, int]:
    """`os.fork()`; the pid, and the token of the child's slot in the arena (0: there is no arena)."""
    attached = program()
    try:
        pid = os.fork()
    except BaseException:
        if attached is not None:
            attached.cancel_child(attached.last_fork_token())
        raise
    return pid, attached.last_fork_token() if attached is not None and pid else 0


def _fork_beside_threads() -> tuple[int, int]:
    """The same, with one warning about it in the life of a process."""
    import warnings

    if this.stands_in:  # an unmodified program hears what it would hear from multiprocessing
        with this.forking:
            return _fork()
    if not this.warned_of_threads:
        this.warned_of_threads = True
        others = threading.active_count() - 1
        warnings.warn(
            f"process {os.getpid()} forks a child while {others} other thread{'s run' if others > 1 else ' runs'}: the "
            "child may deadlock on a lock that one of them holds. Start processes before threads, or use "
            "get_context('forkserver').Process or set_start_method('forkserver')",
            RuntimeWarning,
            stacklevel=5,
        )
    with this.forking, warnings.catch_warnings():
        # CPython 3.12 and newer say the same once more, without the way out.
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        return _fork()
