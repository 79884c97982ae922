"""What a test may not leave behind: descriptors, threads, processes, files in /dev/shm, /dev/mqueue and TMPDIR.

conftest.py takes a `Snapshot` before each test and one after it, and fails the test for what is only in the second.
Things are compared by kind and number, not by identity: a warm zygote that died and was replaced is no leak, two of
them are. Linux only (/proc); standard library only, as watchdog.py uses this file too.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Processes that serve the rest of the program once they are started: at most one of each, direct children only.
SERVANTS = (
    *(b"processing.forkserver", b"processing.spawn", b"processing.fdkeeper"),
    *(b"multiprocessing.forkserver", b"resource_tracker"),
)

WATCHED_FOLDERS = ("/dev/shm", "/dev/mqueue")


def parents() -> dict[int, tuple[int, str]]:
    """Every process of the machine: pid -> (parent's pid, state letter)."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            table[int(entry)] = (int(fields[1]), fields[0])
    return table


def _children(pid: int) -> list[int]:
    """Of that process. Empty if the kernel does not say, or it has ended."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:
                found += map(int, file.read(1 << 16).split())
    except OSError:
        pass
    return found


LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def descendants(root: int) -> dict[int, int]:
    """Living descendants of `root` (zombies left out): pid -> parent's pid."""
    if LISTS_CHILDREN:  # much quicker than looking at all processes
        living: dict[int, int] = {}
        unseen = [(child, root) for child in _children(root)]
        while unseen:
            pid, parent = unseen.pop()
            if pid not in living and is_running(pid):
                living[pid] = parent
                unseen += [(child, pid) for child in _children(pid)]
        return living
    table = parents()
    found: dict[int, int] = {}
    todo = [root]
    while todo:
        parent = todo.pop()
        for pid, (its_parent, state) in table.items():
            if its_parent == parent and pid not in found:
                todo.append(pid)
                if state not in "ZX":
                    found[pid] = parent
    return found


def is_running(pid: int) -> bool:
    """Whether that process still executes: False for a zombie, which `os.kill(pid, 0)` calls alive."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b")")[2].split()[0] not in b"ZX"
    except OSError:
        return False


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def processes() -> dict[int, str]:
    """The living descendants of this process: pid -> kind."""
    return _processes()[1]


def reap(killed: list[int]) -> None:
    """Collects the zombies among this process's children: `killed` ones, and orphans that it adopted as a subreaper.

    Those that somebody here owns (an object of processing or multiprocessing, not joined by the test) are left to
    their owner, who asks first.
    """
    for name in ("processing", "multiprocessing"):
        if hasattr(sys.modules.get(name), "active_children"):
            sys.modules[name].active_children()
    end = time.monotonic() + 1
    while any(map(is_running, killed)) and time.monotonic() < end:
        time.sleep(0.01)
    children = _children(os.getpid()) if LISTS_CHILDREN else parents()
    for pid in children:
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                state, parent = file.read(4096).rpartition(b")")[2].split()[:2]
            if int(parent) == os.getpid() and state == b"Z":
                os.waitpid(pid, os.WNOHANG)
        except OSError:
            pass


def _descriptors() -> Counter[str]:
    kinds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the descriptor of this very listing
        kinds["descriptor of " + re.sub(r":\[\d+\]$", "", target)] += 1
    return kinds


def _threads() -> Counter[str]:
    # The kernel's view: threads that C code started count too.
    tasks = len(os.listdir("/proc/self/task"))
    named = [thread.name for thread in threading.enumerate()]
    # Names that carry a number ("Thread-12 (run)") must compare equal between tests: count them by what they run.
    kinds = Counter("thread " + re.sub(r"\d+", "N", name) for name in named)
    kinds["thread that Python does not know"] = max(0, tasks - len(named))
    return kinds


def _processes() -> tuple[Counter[str], dict[int, str]]:
    kinds: Counter[str] = Counter()
    pids: dict[int, str] = {}
    me = os.getpid()
    for pid, parent in descendants(me).items():
        command = command_line(pid)
        name = next((word.decode() for word in SERVANTS if word in command), "") if parent == me else ""
        kind = (
            f"servant {name}" if name else f"process {pid}: {command.replace(bytes(1), b' ').decode()[:120]}"
        )
        kinds[kind] += 1
        pids[pid] = kind
    return kinds, pids


def _files() -> Counter[str]:
    kinds: Counter[str] = Counter()
    for folder in (*WATCHED_FOLDERS, tempfile.gettempdir()):
        try:
            kinds.update(f"file {folder}/{name}" for name in os.listdir(folder))
        except OSError:
            pass
    return kinds


@dataclass(frozen=True)
class Snapshot:
    kinds: Counter[str]
    processes: dict[int, str]

    @classmethod
    def take(cls) -> Snapshot:
        processes, pids = _processes()
        return cls(_descriptors() + _threads() + processes + _files(), pids)

    def extra(self, before: Snapshot) -> list[str]:
        """What is here and was not there `before`, one line per kind. A servant may appear (once)."""
        more = self.kinds - before.kinds
        return sorted(
            kind + (f" ({count} more)" if count > 1 else "")
            for kind, count in more.items()
            if not (kind.startswith("servant") and self.kinds[kind] == 1)
        )


def settle(before: Snapshot, patience: float = 2.0) -> list[str]:
    """What was leaked since `before`. Collects garbage and waits a little for what is just ending."""
    leaked = Snapshot.take().extra(before)
    end = time.monotonic() + patience
    while leaked and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
        leaked = Snapshot.take().extra(before)
    return leaked
