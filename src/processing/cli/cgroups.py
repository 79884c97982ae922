"""The control groups that this process is in, v1 and v2, from its own up to the root: their limits and current use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from .facts import text_of

__all__ = ["Level", "levels"]

ROOT = "/sys/fs/cgroup"
# cgroup v1 says "no limit" by a number about as large as the address space.
NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Level:
    """One visible level; None where it sets no limit. `cpus` is the quota in CPUs, maybe a fraction."""

    version: int
    path: str
    memory: int | None
    memory_used: int | None
    cpus: float | None


def _number(path: str) -> int | None:
    text = text_of(path)
    if text is None or not text.lstrip("-").isdigit():
        return None
    value = int(text)
    return None if value >= NO_LIMIT else value


def _cpus_v2(folder: str) -> float | None:
    parts = (text_of(f"{folder}/cpu.max") or "").split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or int(parts[1]) == 0:
        return None
    return int(parts[0]) / int(parts[1])


def _cpus_v1(folder: str) -> float | None:
    quota, period = _number(f"{folder}/cpu.cfs_quota_us"), _number(f"{folder}/cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


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


def levels(membership: str | None = None, mount: str = ROOT) -> list[Level]:
    """Every visible level, the process's own first. Empty where /proc or the control groups are hidden.

    `membership` is the text of /proc/self/cgroup (read if None), `mount` where the hierarchies are mounted.
    """
    found = []
    if membership is None:
        membership = text_of("/proc/self/cgroup") or ""
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = mount if os.path.exists(f"{mount}/cgroup.controllers") else f"{mount}/unified"
            for folder in _folders(root, path):
                memory, used = _number(f"{folder}/memory.max"), _number(f"{folder}/memory.current")
                found.append(Level(2, folder, memory, used, _cpus_v2(folder)))
            continue
        names = controllers.split(",")
        if "memory" in names:
            for folder in _folders(f"{mount}/memory", path):
                memory = _number(f"{folder}/memory.limit_in_bytes")
                used = _number(f"{folder}/memory.usage_in_bytes")
                found.append(Level(1, folder, memory, used, None))
        if "cpu" in names:
            for folder in _folders(f"{mount}/cpu", path):
                found.append(Level(1, folder, None, None, _cpus_v1(folder)))
    return found
