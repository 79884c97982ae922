"""The control groups that this process is in, v1 and v2, and how often the kernel killed in them for want of memory."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ROOT", "OutOfMemory", "hierarchies", "text_of"]

ROOT = "/sys/fs/cgroup"
# Seconds for which a kill may be meant for a process whose end has not been noticed yet.
FRESH = 1.0


def text_of(path: str) -> str | None:
    """The stripped content of a small file of the kernel; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def hierarchies(membership: str | None = None, mount: str = ROOT) -> Iterator[tuple[int, str, list[str]]]:
    """Version, controller (v2: "" for all of them), and the visible folders, the process's own first.

    `membership` is the text of /proc/self/cgroup (read if None), `mount` where the hierarchies are mounted. Nothing
    where /proc or the control groups are hidden.
    """
    if membership is None:
        membership = text_of("/proc/self/cgroup") or ""
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = mount if os.path.exists(f"{mount}/cgroup.controllers") else f"{mount}/unified"
            yield 2, "", list(_folders(root, path))
            continue
        for name in controllers.split(","):
            yield 1, name, list(_folders(f"{mount}/{name}", path))


def _folders(root: str, path: str) -> Iterator[str]:
    """The visible folders from the process's own group up to the root of the mount."""
    path = "/" + path.strip("/")
    while True:
        # In a container the path may be that of the host, and not exist here.
        if os.path.isdir(root + path):
            yield (root + path).rstrip("/")
        if path == "/":
            return
        path = os.path.dirname(path)


class OutOfMemory:
    """How often the kernel has killed for want of memory, in any of our groups or on the machine."""

    def __init__(
        self, membership: str | None = None, mount: str = ROOT, machine: str = "/proc/vmstat"
    ) -> None:
        self.files = [machine]
        for version, controller, folders in hierarchies(membership, mount):
            if version == 2:
                self.files += [f"{folder}/memory.events" for folder in folders]
            elif controller == "memory":
                self.files += [f"{folder}/memory.oom_control" for folder in folders]
        self.counts = [_kills(file) for file in self.files]
        self.rise = 0
        self.seen_at = 0.0

    def took_one(self) -> bool:
        """Whether the kernel may have killed a process just now: a counter rose, by more than the processes that this
        was said of."""
        counts = [_kills(file) for file in self.files]
        # Each level counts the same kills.
        rise = max((new - old for new, old in zip(counts, self.counts, strict=True)), default=0)
        self.counts = counts
        now = time.monotonic()
        if rise > 0:
            self.rise = rise
            self.seen_at = now
        elif now - self.seen_at > FRESH:
            self.rise = 0
        if self.rise <= 0:
            return False
        self.rise -= 1
        return True


def _kills(path: str) -> int:
    for line in (text_of(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdigit():
            return int(value)
    return 0
