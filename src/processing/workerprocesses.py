"""What a supervisor finds out about other processes, and does to them."""

from __future__ import annotations

import os
import time

from . import util
from ._this import program

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__: list[str] = []

# What `signal` wraps: that is slow to import.
signals: Any = __import__("_signal")

# Seconds that a worker may take to stop; that one of a killed supervisor may take to end.
STOPPING = 0.1
ENDING = 5.0


def private_memory(pid: int) -> int:
    """Bytes of memory that a process has and does not share with others or with files; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def stop_process(pid: int) -> bool | None:
    """Stops a child and waits until it stands; False if it has ended, None if it does not stop (the kernel has it)."""
    os.kill(pid, signals.SIGSTOP)
    until = time.monotonic() + STOPPING
    while True:
        state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if state is not None:
            return state.si_code == os.CLD_STOPPED
        if time.monotonic() > until:
            return None
        time.sleep(0.0001)


def await_end(pid: int) -> None:
    """Waits for the end of a worker whose supervisor was killed; kills it, as it may have been stopped just then."""
    if pid <= 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # That number may belong to somebody else by now.
        if _is_of_this_program(pid):
            signals.pidfd_send_signal(pidfd, signals.SIGKILL)
            util.wait_readable(pidfd, ENDING)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _is_of_this_program(pid: int) -> bool:
    """Whether that process has mapped our arena."""
    attached = program()
    if attached is None:
        return False
    inode = str(os.fstat(attached.arena_fd()).st_ino).encode()
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            return any(line.split(None, 5)[4] == inode for line in file)
    except OSError:
        return False
