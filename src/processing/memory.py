"""The program's shared memory: how much is used, and how much may be."""

from __future__ import annotations

from . import _program

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from .counters import MemoryUsage

__all__ = ["memory_limit", "memory_usage", "set_memory_limit"]


def memory_usage() -> MemoryUsage:
    """How the program's shared memory is used now."""
    from .counters import MemoryUsage

    return MemoryUsage(*_program.memory())


def memory_limit() -> int:
    """The bytes of shared memory that the program may reserve.

    By default half of what the machine has or the tightest cgroup allows; PROCESSING_MEMORY_LIMIT (`500M`, `4G`) and
    set_memory_limit() change it. Beyond it, putting and creating raise MemoryError.
    """
    return _program.memory()[0]


def set_memory_limit(size: int) -> None:
    """Changes the limit for the whole program, in bytes. What is in use already stays; what is free is given back."""
    if size < 1 << 20:
        raise ValueError(f"a memory limit is at least 1 MiB (1048576 bytes), not {size}")
    _program.set_limit(size)
