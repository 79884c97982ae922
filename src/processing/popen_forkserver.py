"""Starting a process through the zygote (see forkserver.py)."""

from __future__ import annotations

import os

from . import popen_spawn_posix, util
from ._this import STOPPED, this
from .forkserver import ERROR, PID, RECORD, REQUEST, STATUS, server

__all__ = ["Popen"]

# The exit code of a child whose zygote was killed.
UNKNOWN = 255


class NumberedFd:
    """A descriptor that came along with the request, by its number among those."""

    def __init__(self, ind: int) -> None:
        self.index = ind

    def detach(self) -> int:
        return server.inherited[self.index]


class Popen(popen_spawn_posix.Popen):
    """A child of the zygote: its pid and its exit status come through the sentinel pipe."""

    method = "forkserver"
    DupFd = NumberedFd  # type: ignore[assignment]

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _start(self, token: int, offset: int, generation: int) -> None:
        self._said = b""
        message = REQUEST.pack(token, offset, generation)
        if not self._ask(message):
            # The zygote was killed before it saw the request.
            server.replace()
            if not self._ask(message):
                raise OSError("the fork server ended twice before it could start a process")
        self._fds.clear()

    def _ask(self, message: bytes) -> bool:
        """Sends the request and waits for the pid; False if there is no zygote to answer."""
        sentinel, child_end, lifeline = this.lifeline.open_pipes()
        try:
            server.request(message, [child_end, lifeline, *self._fds])
        except BaseException:
            os.close(sentinel)
            raise
        finally:
            os.close(child_end)
            os.close(lifeline)
        record = os.read(sentinel, RECORD.size)
        if not record:
            os.close(sentinel)
            return False
        kind, number = RECORD.unpack(record)
        if kind == ERROR:
            os.close(sentinel)
            raise OSError(number, f"the fork server cannot start a process: {os.strerror(number)}")
        self.sentinel = sentinel
        if kind == PID:
            self.pid = number
        elif kind == STATUS:
            self.returncode = number  # killed before it could say its pid
        return True

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None and util.wait_readable(self.sentinel, timeout):
            self._collect()
        return self.returncode

    def _collect(self) -> None:
        """Reads the exit status if it is there."""
        with this.reaping:
            if self.returncode is not None or not util.wait_readable(self.sentinel, 0):
                return
            said = os.read(self.sentinel, 64)
            while len(said) != RECORD.size and said.startswith(STOPPED):
                self.stopped = True
                # The process is ending (it may say so twice, if it is stopped meanwhile); the zygote follows.
                said = said[1:] or os.read(self.sentinel, 64)
            if len(said) == RECORD.size:
                self.returncode = RECORD.unpack(said)[1]
            else:
                self.returncode = UNKNOWN
        self._bury()
