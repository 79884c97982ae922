"""The probes of `doctor`. Each looks at one thing and says what it means for the package; none changes anything.

A finding's note is what follows from it: the fallback that is in use, or what the limit bounds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import cgroups, facts

__all__ = ["Finding", "findings"]

SYS_FUTEX_WAITV = 449  # the same number on every architecture
MFD_NOEXEC_SEAL = 0x0008
OLDEST_KERNEL = (5, 10)


@dataclass(frozen=True)
class Finding:
    """One fact. `ok`: True there, False missing or limited, None a plain fact. `fatal`: nothing works without it."""

    section: str
    name: str
    value: Any
    ok: bool | None = None
    note: str = ""
    fatal: bool = False

    def text(self) -> str:
        """The value as people read it."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return "none" if self.value is None else str(self.value)


def human(size: float) -> str:
    """Bytes, as `11.8 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def reason_of(probe: Callable[[], None]) -> str | None:
    """Why a probe failed (`ENOSYS`, `EPERM`); None if it did not."""
    try:
        probe()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return None


# ---- The kernel -----------------------------------------------------------------------------------------------------


def _memfd(flags: int) -> None:
    os.close(os.memfd_create("processing-doctor", os.MFD_CLOEXEC | flags))


def _futex_waitv() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Waiting for nothing is an error that only a kernel knows which has the call.
    libc.syscall(ctypes.c_long(SYS_FUTEX_WAITV), None, 0, 0, None, 0)
    if ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "futex_waitv")


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.bind(f"\0processing-doctor-{os.getpid()}")


def _offers(name: str, probe: Callable[[], None], purpose: str, fallback: str) -> Finding:
    reason = reason_of(probe)
    if reason is None:
        return Finding("Kernel", name, True, True, purpose)
    why = "this kernel does not have it" if reason in ("ENOSYS", "EINVAL") else f"refused with {reason}"
    return Finding("Kernel", name, False, False, f"{why}: {fallback}")


def kernel() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    new_enough = numbers >= OLDEST_KERNEL
    yield Finding(
        "Kernel", "Linux", release, new_enough, "" if new_enough else "processing needs 5.10 or newer"
    )
    yield _offers("memfd", lambda: _memfd(0), "the arena", "the arena is an unlinked temporary file")
    yield _offers(
        "MFD_NOEXEC_SEAL",
        lambda: _memfd(MFD_NOEXEC_SEAL),
        "the arena can never be executed",
        "the arena is a memfd without that seal",
    )
    yield _offers(
        "futex_waitv",
        _futex_waitv,
        "could tell of an owner's death at once; not used so far: sleepers look again every 50 ms to 1 s",
        "sleepers look again for dead owners, every 50 ms to 1 s",
    )
    yield _offers(
        "pidfd", _pidfd, "proves that a process has ended", "pid and start time are compared, through /proc"
    )
    yield _offers(
        "abstract Unix sockets",
        _abstract_socket,
        "the doorbells behind fileno(), connection.wait and asyncio",
        "fileno() of queues and connections, and waiting for them together with other descriptors, will fail",
    )
    yield from _proc()
    there = os.path.isdir("/proc/sys/fs/mqueue")
    yield Finding(
        "Kernel", "POSIX message queues", there, there, "PosixQueue" if there else "no PosixQueue here"
    )


def _proc() -> Iterator[Finding]:
    own = facts.text_of("/proc/self/stat") is not None and os.path.isdir("/proc/self/fd")
    if not own:
        yield Finding("Kernel", "/proc", False, False, "is not mounted: processes cannot be started")
        return
    others = facts.text_of("/proc/1/stat") is not None
    note = "starting processes, telling a reused pid from its predecessor"
    if not others:
        note = "other users' processes are hidden; those of one's own program are not"
    yield Finding("Kernel", "/proc", True, True, note)


# ---- Limits ---------------------------------------------------------------------------------------------------------


def limits() -> Iterator[Finding]:
    known = (
        ("RLIMIT_AS", "address space", True, "the arena takes a smaller part of the address space"),
        ("RLIMIT_FSIZE", "size of a file", True, "the arena is a file to the kernel: it cannot outgrow this"),
        (
            "RLIMIT_NOFILE",
            "descriptors",
            False,
            "a shared object takes none; processes and fileno() take a few each",
        ),
        ("RLIMIT_MSGQUEUE", "POSIX message queues", False, "bytes of all PosixQueues of this user together"),
        ("RLIMIT_NPROC", "processes", False, "processes and threads of this user"),
    )
    for name, what, unlimited_is_best, note in known:
        soft, hard = resource.getrlimit(getattr(resource, name))
        free = soft == resource.RLIM_INFINITY
        value = "unlimited" if free else f"{soft:,}" + ("" if hard == soft else f" (hard: {_limit(hard)})")
        ok = free if unlimited_is_best else None
        yield Finding("Limits", f"{name} ({what})", value, ok, "" if free else note)
    for name, what in (
        ("msg_max", "messages"),
        ("msgsize_max", "bytes of a message"),
        ("queues_max", "queues"),
    ):
        most = facts.text_of(f"/proc/sys/fs/mqueue/{name}")
        if most is not None:
            yield Finding("Limits", f"mqueue/{name}", most, None, f"PosixQueue: at most so many {what}")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


# ---- CPUs and memory ------------------------------------------------------------------------------------------------


def cpus(levels: list[cgroups.Level]) -> Iterator[Finding]:
    allowed = os.sched_getaffinity(0)
    quotas = [level.cpus for level in levels if level.cpus is not None]
    quota = min(quotas, default=None)
    usable = len(allowed) if quota is None else max(1, min(len(allowed), -int(-quota // 1)))
    yield Finding("CPUs", "model", facts.cpu_model())
    yield Finding("CPUs", "of the machine", os.cpu_count())
    yield Finding(
        "CPUs", "affinity", len(allowed), None, f"this process may run on {_ranges(sorted(allowed))}"
    )
    if quota is not None:
        yield Finding("CPUs", "quota", f"{quota:g}", None, "by the tightest control group")
    alone = min(len(allowed), quota if quota is not None else len(allowed)) < 2
    note = (
        "waiters sleep at once, without spinning first"
        if alone
        else "waiters spin for a moment before they sleep"
    )
    yield Finding("CPUs", "usable", usable, not alone, note)


def _ranges(numbers: list[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3, 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def memory(levels: list[cgroups.Level]) -> Iterator[Finding]:
    page = os.sysconf("SC_PAGE_SIZE")
    yield Finding("Memory", "of the machine", human(os.sysconf("SC_PHYS_PAGES") * page))
    yield Finding("Memory", "free now", human(os.sysconf("SC_AVPHYS_PAGES") * page))
    tight = [level for level in levels if level.memory is not None]
    if tight:
        least = min(tight, key=lambda level: level.memory or 0)
        yield Finding("Memory", "of the tightest control group", human(least.memory or 0), None, least.path)
    yield Finding("Memory", "swap", _meminfo("SwapTotal"))


def _meminfo(name: str) -> str | None:
    for line in (facts.text_of("/proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return human(int(value.split()[0]) * 1024)
    return None


def control_groups(levels: list[cgroups.Level]) -> Iterator[Finding]:
    if not levels:
        yield Finding(
            "Control groups", "visible", False, None, "limits of a container cannot be seen, if there are any"
        )
    for level in levels:
        parts = []
        if level.memory is not None:
            parts.append(f"memory {human(level.memory)}, used {human(level.memory_used or 0)}")
        if level.cpus is not None:
            parts.append(f"{level.cpus:g} CPUs")
        yield Finding("Control groups", f"v{level.version} {level.path}", "; ".join(parts) or "no limit")


# ---- Python and the package -----------------------------------------------------------------------------------------


def python() -> Iterator[Finding]:
    import processing

    yield Finding("Python", "version", f"{platform.python_implementation()} {platform.python_version()}")
    yield Finding("Python", "executable", sys.executable)
    yield Finding("Python", "processing", getattr(processing, "__version__", None))
    yield Finding("Python", "start methods", ", ".join(processing.get_all_start_methods()))
    yield Finding("Python", "start method in use", processing.get_start_method())
    for name, purpose in facts.OPTIONAL.items():
        version = facts.version_of(name)
        yield Finding(
            "Optional packages", name, version, None, purpose if version else f"without it no {purpose}"
        )


BYTES = frozenset({"memory_limit", "address_space", "reserved", "used"})


def arena() -> Iterator[Finding]:
    """What the core says of the arena that a program would have here."""
    try:
        from processing import _program

        found: dict[str, Any] = _program.doctor()
    except Exception as error:
        # Whatever it is: this is the command that people run when nothing works.
        note = f"processing cannot work here: {type(error).__name__}: {error}"
        yield Finding("Arena", "made", False, False, note, fatal=True)
        return
    notes = {
        "memory_limit": "PROCESSING_MEMORY_LIMIT and set_memory_limit() change it",
        "spin_cpus": "CPUs that waiters count on when they spin",
    }
    for name, value in found.items():
        shown = human(value) if name in BYTES and isinstance(value, int) else value
        yield Finding("Arena", name.replace("_", " "), shown, None, notes.get(name, ""))


def findings() -> list[Finding]:
    """All of them, in the order in which they are printed."""
    levels = cgroups.levels()
    return [
        *kernel(),
        *limits(),
        *cpus(levels),
        *memory(levels),
        *control_groups(levels),
        *arena(),
        *python(),
    ]
