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

    # A str or bytes has the format "16s", padded with nulls that do not count. "3s " with its space is ours: three
    # bytes, nulls included. The standard library reads it, and replaces such a format when it writes the item.
    _NUMBERS = (bool, "xxxxxxx?"), (int, "q"), (float, "d"), (type(None), "xxxxxx?x")

    shm: SharedMemory

    def __init__(self, sequence: Iterable[Item] | None = None, *, name: str | None = None) -> None:
        if sequence is None and name is not None:
            self.shm = SharedMemory(name)
            self._list_len, self._allocated_offsets = self._read_layout()
            return
        items = list(sequence) if sequence is not None else []
        offsets = [0]
        formats, codes, data = [], [], []
        for item in items:
            value, code = self._encode(item)
            room = _EIGHT
            if isinstance(item, (str, bytes)):
                # As the standard library counts, in characters; but never too little.
                room = _EIGHT * max(len(item) // _EIGHT + 1, -(-len(value) // _EIGHT))
            format = self._format_of(value, code, room)
            offsets.append(offsets[-1] + room)
            formats.append(format.encode("ascii"))
            codes.append(code)
            data.append(struct.pack(format, value).ljust(room, b"\0"))
        count = len(items)
        image = b"".join(
            (
                struct.pack(f"{count + 2}q", count, *offsets),
                *data,
                *(format.ljust(_EIGHT, b"\0") for format in formats),
                bytes(codes),
            )
        )
        self._list_len, self._allocated_offsets = count, offsets
        self.shm = SharedMemory(name, create=True, size=len(image))
        self.shm.buf[: len(image)] = image

    def _read_layout(self) -> tuple[int, list[int]]:
        """Of memory that somebody else has made; ValueError if it is no such list."""
        buf, size = self.shm.buf, self.shm.size
        try:
            (count,) = struct.unpack_from("q", buf, 0)
            if 0 <= count <= size // (2 * _EIGHT):
                offsets = list(struct.unpack_from(f"{count + 1}q", buf, _EIGHT))
                end = (count + 2) * _EIGHT + offsets[-1] + count * (_EIGHT + 1)
                if offsets[0] == 0 and offsets == sorted(set(offsets)) and end <= size:
                    return count, offsets
        except struct.error:
            pass
        raise ValueError(f"shared memory {self.shm.name!r} contains no ShareableList")

    # -- One item

    @staticmethod
    def _encode(value: Any) -> tuple[Any, int]:
        """What is stored, and the code of what it becomes again."""
        if isinstance(value, str):
            return value.encode("utf-8"), 1
        if isinstance(value, bytes):
            return bytes(value), 2
        if value is None:
            return None, 3
        if isinstance(value, (int, float)):
            return value, 0
        raise TypeError(
            f"a ShareableList holds int, float, bool, str, bytes and None, not {type(value).__name__}"
        )

    @classmethod
    def _format_of(cls, value: Any, code: int, room: int) -> str:
        if code in (0, 3):
            return next(format for kind, format in cls._NUMBERS if isinstance(value, kind))
        if room > _LONGEST:
            raise ValueError(f"an item of a ShareableList takes at most {_LONGEST} bytes, not {len(value)}")
        if not value.endswith(b"\0"):
            return f"{room}s"
        if len(value) > _LONGEST // 10:
            raise ValueError(
                f"an item that ends with a null byte takes at most {_LONGEST // 10} bytes, not {len(value)}"
            )
        return f"{len(value)}s "

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
        return bytes(self.shm.buf[start : start + _EIGHT]).rstrip(b"\0").decode("utf-8")

    def __getitem__(self, position: int) -> Any:
        index = self._at(position)
        format = self._get_packing_format(index)
        (value,) = struct.unpack_from(
            format, self.shm.buf, self._offset_data_start + self._allocated_offsets[index]
        )
        code = self.shm.buf[self._offset_back_transform_codes + index]
        if code in (1, 2):
            if format[-1] == "s":
                value = value.rstrip(b"\0")
            return value.decode("utf-8") if code == 1 else value
        return None if code == 3 else value

    def __setitem__(self, position: int, value: Item) -> None:
        index = self._at(position, "assignment index out of range")
        begin, end = self._allocated_offsets[index : index + 2]
        raw, code = self._encode(value)
        if code in (1, 2) and len(raw) > end - begin:
            raise ValueError(
                f"bytes/str item exceeds available storage: {len(raw)} bytes, there is room for {end - begin}"
            )
        format = self._format_of(raw, code, end - begin)
        data = struct.pack(format, raw)
        at = self._offset_packing_formats + _EIGHT * index
        self.shm.buf[at : at + _EIGHT] = format.encode("ascii").ljust(_EIGHT, b"\0")
        self.shm.buf[self._offset_back_transform_codes + index] = code
        start = self._offset_data_start + begin
        self.shm.buf[start : start + len(data)] = data

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

    @property
    def _offset_data_start(self) -> int:
        return (self._list_len + 2) * _EIGHT

    @property
    def _offset_packing_formats(self) -> int:
        return self._offset_data_start + self._allocated_offsets[-1]

    @property
    def _offset_back_transform_codes(self) -> int:
        return self._offset_packing_formats + self._list_len * _EIGHT

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
