"""What every worker does just now: its Python stacks, also of one that is stuck in a lock or in C code.

    worker   listen()     faulthandler writes all stacks into a memfd of its own when SIGNAL comes: no Python code runs
    caller   stacks(pid)  finds that memfd in /proc, sends the signal, reads once the handler has returned

A worker that changes nothing about SIGNAL is never hurt by it: it is sent only to a process that has the memfd and
catches the signal. System calls that it interrupts are restarted (SA_RESTART); `faulthandler.enable` and `register` for
other signals are independent of it.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SIGNAL", "listen", "stacks", "thread_stacks"]

signals: Any = __import__("_signal")  # what `signal` wraps: that is slow to import

SIGNAL: int = signals.SIGRTMAX - 2
PATIENCE = 2.0  # seconds that a worker has to answer


def _name(pid: int) -> str:
    return f"processing-stacks-{pid}"


def listen() -> None:
    """In a worker: from now on it can be asked. Does nothing where the kernel has no descriptor left."""
    try:
        fd = os.memfd_create(_name(os.getpid()))
    except OSError:
        return
    # The reader empties it: what is written next begins at its start again.
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    faulthandler.register(SIGNAL, file=fd, all_threads=True, chain=False)


def stacks(pid: int, all_threads: bool = True) -> str:
    """The stacks of that worker, most recent call first, or why there are none."""
    try:
        return _ask(pid, all_threads)
    except (FileNotFoundError, ProcessLookupError):
        return "  it has ended\n"
    except PermissionError as error:
        return f"  it cannot be asked: {error}\n"


def _ask(pid: int, all_threads: bool) -> str:
    import time

    pidfd = os.pidfd_open(pid)
    try:
        path = _find(pid)
        if path is None:
            return "  it has not begun to listen yet, or has closed what it answers to\n"
        if not _has(f"/proc/{pid}/status", b"SigCgt:"):
            return f"  it cannot be asked: its code has changed what signal {SIGNAL} does\n"
        deaf = _blocking(pid)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, 0)
            signals.pidfd_send_signal(pidfd, SIGNAL)
            deadline = time.monotonic() + PATIENCE
            pause = 0.0001
            # Begun: something is written. Over: no thread that was open to the signal is in its handler any more.
            while not os.fstat(fd).st_size or _blocking(pid) - deaf:
                if time.monotonic() > deadline:
                    state = _state(pid)
                    return f"  it does not answer; the kernel says: {state}\n" + _cut(_read(fd), all_threads)
                time.sleep(pause)
                pause = min(0.005, 2 * pause)
            return _cut(_read(fd), all_threads)
        finally:
            os.close(fd)
    finally:
        os.close(pidfd)


def _find(pid: int) -> str | None:
    """The memfd of that worker."""
    wanted = f"/memfd:{_name(pid)} (deleted)"
    folder = f"/proc/{pid}/fd"
    for entry in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{entry}") == wanted:
                return f"{folder}/{entry}"
        except FileNotFoundError:
            pass  # closed meanwhile
    return None


def _has(path: str, field: bytes) -> bool:
    """Whether SIGNAL is in that set of signals."""
    with open(path, "rb") as file:
        for line in file:
            if line.startswith(field):
                return bool(int(line.split()[1], 16) >> (SIGNAL - 1) & 1)
    return False


def _blocking(pid: int) -> set[str]:
    """The threads that do not take the signal just now."""
    found = set()
    folder = f"/proc/{pid}/task"
    for tid in os.listdir(folder):
        try:
            if _has(f"{folder}/{tid}/status", b"SigBlk:"):
                found.add(tid)
        except (FileNotFoundError, ProcessLookupError):
            pass  # that thread has ended
    return found


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"State:"):
                return line[6:].decode(errors="replace").strip()
    return "nothing"


def _read(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="backslashreplace")


def _cut(text: str, all_threads: bool) -> str:
    """faulthandler writes threads newest first: the last one is the main thread, which runs the calls."""
    parts = [part.rstrip() for part in text.split("\n\n") if part.strip()]
    if not all_threads:
        parts = parts[-1:]
    return "".join(f"{_indented(part)}\n" for part in parts)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def thread_stacks(ident: int | None) -> str:
    """The same of a thread of this process."""
    import sys
    import traceback

    frame = sys._current_frames().get(ident) if ident is not None else None
    if frame is None:
        return "  it has ended\n"
    lines = [
        f'  File "{at.f_code.co_filename}", line {line} in {at.f_code.co_name}'
        for at, line in traceback.walk_stack(frame)
    ]
    return _indented("Thread (most recent call first):\n" + "\n".join(lines)) + "\n"
