"""The program's shared memory: how much is used, and how much may be."""

from __future__ import annotations

from dataclasses import dataclass

from . import _program

__all__ = ["MemoryUsage", "memory_limit", "memory_usage", "set_memory_limit"]


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes of shared memory of the whole program."""

    limit: int  # may be reserved
    reserved: int  # taken from the machine
    used: int  # in objects and messages
    free: int  # reserved, and free for new ones
    objects: int  # blocks in use


def memory_usage() -> MemoryUsage:
    """How the program's shared memory is used now."""
    return MemoryUsage(*_program.memory())


def memory_limit() -> int:
    """The bytes of shared memory that the program may reserve.

    By default half of what the machine has or the tightest cgroup allows; PROCESSING_MEMORY_LIMIT (`500M`, `4G`) and
    set_memory_limit() change it. Beyond it, putting and creating raise MemoryError.
    """
    return memory_usage().limit


def set_memory_limit(size: int) -> None:
    """Changes the limit for the whole program, in bytes. What is reserved already stays."""
    if size < 1 << 20:
        raise ValueError(f"a memory limit is at least 1 MiB (1048576 bytes), not {size}")
    _program.set_limit(size)
