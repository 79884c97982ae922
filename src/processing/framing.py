"""Messages as bytes: the frames of sockets, and the part of a buffer that a caller means.

    frame     length as >i, then that many bytes          up to 2**31 - 1 bytes
              -1 as >i, length as >Q, then the bytes      beyond

as in `multiprocessing.connection`.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["header_of", "part_of", "SHORT", "LONG"]

SHORT = struct.Struct(">i")
LONG = struct.Struct(">Q")


def header_of(size: int) -> bytes:
    """What precedes a message of `size` bytes."""
    return SHORT.pack(size) if size <= 0x7FFFFFFF else SHORT.pack(-1) + LONG.pack(size)


def part_of(buf: Any, offset: int, size: int | None) -> memoryview:
    """The bytes of a bytes-like object, or `size` of them from `offset` on. ValueError if it has not so many."""
    view = memoryview(buf)
    if view.itemsize > 1 or view.ndim != 1:
        view = view.cast("B")
    length = len(view)
    if offset < 0:
        raise ValueError("offset is negative")
    if offset > length:
        raise ValueError("buffer length < offset")
    if size is None:
        size = length - offset
    elif size < 0:
        raise ValueError("size is negative")
    elif offset + size > length:
        raise ValueError("buffer length < offset + size")
    return view[offset : offset + size]
