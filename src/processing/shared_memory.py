"""Named shared memory, for strangers: SharedMemory and ShareableList, as in the standard library.

Any program finds a segment by its name: one that uses the standard library's `shared_memory`, one in C that calls
shm_open, one that uses this module. Processes of one program need no names: what is in `processing.arrays`,
`processing.sharedctypes` and `processing.containers` is sent to them as it is, and frees itself.

How long a name lives (how it is done is said in _segments.py):

    unlink()                          removes it at once, whoever made it
    the program that made it ends     removes it, unless it was made with `track=False`
    that program is killed            the next program of the same user that uses named memory removes it, unless
                                      somebody has it open
    any other process ends            nothing happens to it

Closing, collecting or losing an object never removes a name, and memory that is mapped stays while somebody has it.
"""

from __future__ import annotations

import mmap
import operator
import os
import secrets
import struct
from functools import partial
from types import GenericAlias

from . import _segments
from ._this import this

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Item = int | float | bool | str | bytes | None

__all__ = ["ShareableList", "SharedMemory"]

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"


def _make_filename() -> str:
    return _SHM_NAME_PREFIX + secrets.token_hex(6)


class SharedMemory:
    """A named block of shared memory; `buf` is a memoryview of it.

    SharedMemory(name, create=True, size=n) makes one of `n` zeroed bytes (without a name: under a new one), and raises
    FileExistsError if the name is taken; SharedMemory(name) opens one, FileNotFoundError if there is none. The memory
    is reserved when it is made: OSError (ENOSPC) if /dev/shm has no room for it.

    `track=False`: the name outlives the program that made it. Pickles by name, which is to exist when it arrives.
    """

    _name: str | None = None
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _flags = os.O_RDWR
    _mode = 0o600
    _track = True
    _size = 0

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True
    ) -> None:
        size = operator.index(size)
        if size < 0:
            raise ValueError(f"'size' must be a positive integer, not {size}")
        if create and size == 0:
            raise ValueError("'size' must be a positive number different from zero")
        if name is None and not create:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if not create:
            self._name = f"/{name}"
            fd = _segments.attach(self._name, self._flags, self._mode)
        elif name is not None:
            self._name = f"/{name}"
            fd = self._create(self._name, size)
        else:
            while True:
                self._name = _make_filename()
                try:
                    fd = self._create(self._name, size)
                    break
                except FileExistsError:
                    continue
        try:
            self._size = os.fstat(fd).st_size
            if self._size == 0:
                raise ValueError(f"shared memory {self.name!r} is empty: whoever makes it has not finished")
            self._mmap = mmap.mmap(fd, self._size)  # has a descriptor of its own
        except BaseException:
            if create:
                _segments.unlink(self._name)
            raise
        finally:
            os.close(fd)
        self._buf = memoryview(self._mmap)

    def _create(self, name: str, size: int) -> int:
        fd = _segments.create(name, size, self._mode, self._track)
        if self._track:
            this.leave_last()  # and have the names removed before
        return fd

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        return cls if self._track else partial(cls, track=False), (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """A memoryview of the memory; None when closed."""
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name by which everybody finds it."""
        name = self._name or ""
        return name[1:] if name.startswith("/") else name

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def close(self) -> None:
        """Gives up this object's access. BufferError, and nothing happens, while other views look into `buf`.

        Do not use arrays afterwards that numpy made with `ndarray(buffer=buf)`: it does not say that it looks there.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mmap is not None:
            self._mmap.close()
            self._mmap = None

    def unlink(self) -> None:
        """Removes the name: nobody can open it any more, who has it open keeps the memory.

        To be done once, by anybody: FileNotFoundError the second time.
        """
        if self._name:
            _segments.unlink(self._name)


# ---- ShareableList --------------------------------------------------------------------------------------------------

_EIGHT = 8
_LONGEST = 9_999_999  # bytes of an item: its format is to fit 8 characters

# What an item that is no text has: its format, and the code of what it becomes again.
_NUMBERS = {bool: (b"xxxxxxx?", 0), int: (b"q", 0), float: (b"d", 0), type(None): (b"xxxxxx?x", 3)}
# A str or bytes has the format "16s", padded with nulls that do not count. "3s " with its space is ours: three bytes,
# nulls included. The standard library reads it, and replaces such a format when it writes the item.


class ShareableList:
    """A list of a fixed length in named shared memory: int (64 bits), float, bool, str, bytes, None.

    An item can be replaced by one of any type; a str (in UTF-8) or bytes may take as much room as the item had when the
    list was made, rounded up to a multiple of 8: ValueError if it is longer. Nothing changes if an item does not fit.
    There is no lock. The layout is that of the standard library's class, and each opens the other's lists:

        8 bytes            n, the number of items
        (n + 1) * 8 bytes  where each item begins, counted from the first; where the last ends
        ...                the items
        n * 8 bytes        the format of each, for `struct`
        n bytes            what it becomes: 0 a number, 1 a str, 2 bytes, 3 None

    Text that ends with null bytes keeps them: the standard library reads such an item without.
    """

    shm: SharedMemory

    def __init__(self, sequence: Iterable[Item] | None = None, *, name: str | None = None) -> None:
        if sequence is None and name is not None:
            self.shm = SharedMemory(name)
            self._read_layout()
            return
        items = list(sequence) if sequence is not None else []
        offsets = [0]
        formats, codes, parts = [], [], []
        for item in items:
            room = _EIGHT
            if isinstance(item, (str, bytes)):
                # As the standard library counts, in characters; but never too little.
                size = len(item.encode("utf-8") if isinstance(item, str) else item)
                room = _EIGHT * max(len(item) // _EIGHT + 1, -(-size // _EIGHT))
            format, code, data = _pack(item, room)
            offsets.append(offsets[-1] + room)
            formats.append(format.ljust(_EIGHT, b"\0"))
            codes.append(code)
            parts.append(data.ljust(room, b"\0"))
        layout = struct.pack(f"{len(items) + 2}q", len(items), *offsets)
        image = b"".join((layout, *parts, *formats, bytes(codes)))
        self._set_layout(len(items), offsets)
        self.shm = SharedMemory(name, create=True, size=len(image))
        self.shm.buf[: len(image)] = image

    def _set_layout(self, count: int, offsets: list[int]) -> None:
        self._list_len = count
        self._allocated_offsets = offsets
        self._offset_data_start = (count + 2) * _EIGHT
        self._offset_packing_formats = self._offset_data_start + offsets[-1]
        self._offset_back_transform_codes = self._offset_packing_formats + count * _EIGHT

    def _read_layout(self) -> None:
        """Of memory that somebody else has made; ValueError if it is no such list."""
        buf, size = self.shm.buf, self.shm.size
        try:
            (count,) = struct.unpack_from("q", buf, 0)
            if 0 <= count <= size // (2 * _EIGHT):
                offsets = list(struct.unpack_from(f"{count + 1}q", buf, _EIGHT))
                end = (count + 2) * _EIGHT + offsets[-1] + count * (_EIGHT + 1)
                if offsets[0] == 0 and offsets == sorted(set(offsets)) and end <= size:
                    return self._set_layout(count, offsets)
        except struct.error:
            pass
        raise ValueError(f"shared memory {self.shm.name!r} contains no ShareableList")

    # -- One item

    def _at(self, position: Any, message: str = "index out of range") -> int:
        index = operator.index(position)
        if index < 0:
            index += self._list_len
        if not 0 <= index < self._list_len:
            raise IndexError(message)
        return index

    def _get_packing_format(self, position: int) -> str:
        """The struct format of the item at a position."""
        start = self._offset_packing_formats + _EIGHT * self._at(position, "Requested position out of range.")
        return bytes(self.shm.buf[start : start + _EIGHT]).rstrip(b"\0").decode("ascii")

    def __getitem__(self, position: int) -> Any:
        index = self._at(position)
        buf = self.shm.buf
        start = self._offset_packing_formats + _EIGHT * index
        format = bytes(buf[start : start + _EIGHT]).rstrip(b"\0")
        (value,) = struct.unpack_from(format, buf, self._offset_data_start + self._allocated_offsets[index])
        code = buf[self._offset_back_transform_codes + index]
        if code == 0:
            return value
        if code == 3:
            return None
        if format[-1:] == b"s":
            value = value.rstrip(b"\0")
        return value.decode("utf-8") if code == 1 else value

    def __setitem__(self, position: int, value: Item) -> None:
        index = self._at(position, "assignment index out of range")
        begin, end = self._allocated_offsets[index : index + 2]
        format, code, data = _pack(value, end - begin)
        buf = self.shm.buf
        start = self._offset_packing_formats + _EIGHT * index
        buf[start : start + _EIGHT] = format.ljust(_EIGHT, b"\0")
        buf[self._offset_back_transform_codes + index] = code
        start = self._offset_data_start + begin
        buf[start : start + len(data)] = data

    # -- All items

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), name=self.shm.name), ()

    def __len__(self) -> int:
        return self._list_len

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(self._list_len))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The struct formats of all items as they are now."""
        return "".join(self._get_packing_format(index) for index in range(self._list_len))

    def count(self, value: object) -> int:
        """How many items are equal to `value`."""
        return sum(value == item for item in self)

    def index(self, value: object) -> int:
        """Where the first item is that is equal to `value`; ValueError if there is none."""
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} not in this container")

    def __class_getitem__(cls, item: Any) -> GenericAlias:
        return GenericAlias(cls, item)


def _pack(value: Any, room: int) -> tuple[bytes, int, bytes]:
    """The format of an item, the code of what it becomes again, and its bytes."""
    known = _NUMBERS.get(type(value))
    if known is not None:
        return *known, struct.pack(known[0], value)
    if isinstance(value, (str, bytes)):
        data, code = (value.encode("utf-8"), 1) if isinstance(value, str) else (bytes(value), 2)
        size = len(data)
        if size > room:
            raise ValueError(
                f"bytes/str item exceeds available storage: {size} bytes, there is room for {room}"
            )
        nulls = data.endswith(b"\0")
        longest = _LONGEST // 10 if nulls else _LONGEST
        if (size if nulls else room) > longest:
            after = " that ends with a null byte" if nulls else ""
            raise ValueError(f"an item{after} of a ShareableList takes at most {longest} bytes, not {size}")
        return (b"%ds " % size if nulls else b"%ds" % room), code, data if nulls else data.ljust(room, b"\0")
    for kind, (format, code) in _NUMBERS.items():
        if isinstance(value, kind):
            return format, code, struct.pack(format, value)
    raise TypeError(
        f"a ShareableList holds int, float, bool, str, bytes and None, not {type(value).__name__}"
    )
