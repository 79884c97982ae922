"""Blocks of shared memory, as `multiprocessing.heap` has them."""

from __future__ import annotations

import sys

from .arrays import ArrayMemory

__all__ = ["BufferWrapper"]


class BufferWrapper:
    """`size` bytes that all processes of the program share which have this object. Pickles as a handle."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"Size {size:n} out of range")
        if sys.maxsize <= size:
            raise OverflowError(f"Size {size:n} too large")
        self._memory = ArrayMemory(size)

    def create_memoryview(self) -> memoryview:
        """A writable view of the bytes. It keeps the memory alive."""
        return memoryview(self._memory)
