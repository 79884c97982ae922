"""From a status of the core to an exception that says what happened, to which object, and what to try.

Called by the extension modules when something has already gone wrong; nothing here is on a fast path.
"""

from __future__ import annotations

import errno
import os

from .errors import LockOwnerDied, ProcessingError, StaleHandleError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _say(who: object) -> str:
    brief = getattr(type(who), "_brief", None)  # the repr of a container may be long
    if brief is not None:
        return str(brief(who))
    return who if isinstance(who, str) else who.__name__ if isinstance(who, type) else repr(who)


def human(size: int) -> str:
    """A number of bytes for people: `12.0 GiB`."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def parse_bytes(text: str) -> int:
    """The value of PROCESSING_MEMORY_LIMIT in bytes: a number with an optional K, M, G or T (powers of 1024)."""
    import re

    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if not match or (size := int(float(match[1]) * _UNITS[match[2]])) < 1 << 20:
        raise ValueError(
            f"PROCESSING_MEMORY_LIMIT={text!r} is not an amount of memory of at least 1 MiB; write 500M or 4G, say"
        )
    return size


def out_of_memory(who: object) -> MemoryError:
    """The limit of the program's shared memory, or the machine's memory, is reached."""
    from . import _program

    limit, reserved, used, _, _ = _program.memory()
    return MemoryError(
        f"no shared memory left for {_say(who)}: {human(used)} of the program's limit of {human(limit)} are in use "
        f"({human(reserved)} reserved from the machine). Take messages out, drop objects, or raise the limit with "
        f"processing.set_memory_limit() or PROCESSING_MEMORY_LIMIT"
    )


def status(who: object, code: int) -> Exception:
    """The exception for an errno of the core."""
    if code == errno.ENOMEM:
        return out_of_memory(who)
    if code == errno.ESTALE:
        return stale(who)
    if code == errno.EOVERFLOW:
        return OverflowError(f"{_say(who)} was acquired too many times")
    if code == errno.EMFILE:
        return OSError(code, f"this process holds too many shared objects to hold {_say(who)} too")
    return OSError(code, f"{os.strerror(code)}: {_say(who)}")


def handle_closed(handle: object) -> Exception:
    """A method was called on a handle that is closed."""
    return ValueError(f"{_say(type(handle))} object is closed")


class ClosedQueue(OSError, ValueError):
    """A method was called on a queue that this process has closed: multiprocessing raises the one or the other."""


def queue_closed(queue: object) -> Exception:
    """A method was called on a queue that this process has closed."""
    return ClosedQueue(f"{type(queue).__name__} is closed in this process")


def broken_pipe(end: object) -> BrokenPipeError:
    """Nobody holds the other end of a pipe any more."""
    return BrokenPipeError(errno.EPIPE, f"no process holds the other end of {_say(end)} any more")


def owner_died(handle: object, pid: int) -> LockOwnerDied:
    """The owner of a lock died; the lock is free again."""
    name: str | None = getattr(handle, "name", None)
    what = f"{type(handle).__name__} {name!r}" if name else repr(handle)
    who = f"process {pid}" if pid else "a process that is gone"
    return LockOwnerDied(
        f"{who} died while it held {what}; what it protects may be half changed. The lock is free again: "
        f"check or rebuild the data, then acquire it",
        name or None,
        pid or None,
    )


def stale(cls: object) -> StaleHandleError:
    """The object of a handle is gone."""
    return StaleHandleError(
        f"this {_say(cls)} has been freed: no process held it any more. Keep it in a variable of one process until "
        f"the receiver has it, or send it through a queue or pipe, which keep it alive"
    )


def other_program(cls: object) -> StaleHandleError:
    """A handle came from another program."""
    return StaleHandleError(
        f"this {_say(cls)} belongs to another program; only a process and its descendants share one arena"
    )


def no_arena(code: int) -> Exception:
    """The arena could not be made or mapped."""
    if code == errno.ENOMEM:
        return MemoryError(
            "no address space for shared memory: processing needs at least 32 MiB under the limits RLIMIT_AS and "
            "RLIMIT_FSIZE (ulimit -v, ulimit -f)"
        )
    if code == errno.EPROTO:
        return ProcessingError(
            "the inherited descriptor is not an arena of this version of processing: do parent and child use the "
            "same version?"
        )
    if code == errno.ESTALE:
        return ProcessingError("the parent died before this process could join its program")
    return OSError(code, f"cannot make shared memory: {os.strerror(code)}")


def no_slot(code: int) -> Exception:
    """No process slot was to be had."""
    if code == errno.EAGAIN:
        return OSError(
            code, "4,095 processes take part in this program already; join some before starting more"
        )
    return status("a new process", code)


def warn_no_slot(error: BaseException) -> None:
    """A raw fork goes on without a slot."""
    import warnings

    warnings.warn(f"the forked child cannot use shared objects: {error}", RuntimeWarning, stacklevel=3)
