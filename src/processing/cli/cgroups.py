"""Limits and current use of the control groups that this process is in, v1 and v2, from its own up to the root."""

from __future__ import annotations

from dataclasses import dataclass

from ..cgroups import ROOT, hierarchies, text_of

__all__ = ["Level", "levels"]

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


def levels(membership: str | None = None, mount: str = ROOT) -> list[Level]:
    """Every visible level, the process's own first. Empty where /proc or the control groups are hidden.

    `membership` is the text of /proc/self/cgroup (read if None), `mount` where the hierarchies are mounted.
    """
    found = []
    for version, controller, folders in hierarchies(membership, mount):
        for folder in folders:
            if version == 2:
                memory, used = _number(f"{folder}/memory.max"), _number(f"{folder}/memory.current")
                found.append(Level(2, folder, memory, used, _cpus_v2(folder)))
            elif controller == "memory":
                memory = _number(f"{folder}/memory.limit_in_bytes")
                used = _number(f"{folder}/memory.usage_in_bytes")
                found.append(Level(1, folder, memory, used, None))
            elif controller == "cpu":
                found.append(Level(1, folder, None, None, _cpus_v1(folder)))
    return found
