"""Numbers, text, structs and arrays in shared memory: SharedValue, SharedStruct and SharedArray.

    a number, an array's item   read and written with one atomic access: no lock, nobody sees half of it
    a struct, text, bytes       as a whole: a reader gets what one write has left, whoever writes meanwhile
                                or was killed in the middle of it

No access waits for the user's lock (`get_lock()`), which is there for updates of several steps. Formats are those of
the `struct` and `array` modules; a value that does not fit raises and changes nothing. The accesses are in the C
types of `_native`; here is what is rare: formats, records, `repr`.
"""

from __future__ import annotations

import struct

from . import _native
from .synchronize import RLock, _Pickles, _reopen

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .counters import ValuesStatistics

__all__ = ["SharedArray", "SharedStruct", "SharedValue"]

# Letters of formats -> what _native calls them. The sizes are those of the machines that we run on.
_ITEMS = {
    "b": _native.ITEM_I8,
    "B": _native.ITEM_U8,
    "h": _native.ITEM_I16,
    "H": _native.ITEM_U16,
    "i": _native.ITEM_I32,
    "I": _native.ITEM_U32,
    "l": _native.ITEM_I64,
    "L": _native.ITEM_U64,
    "q": _native.ITEM_I64,
    "Q": _native.ITEM_U64,
    "n": _native.ITEM_I64,
    "N": _native.ITEM_U64,
    "e": _native.ITEM_F16,
    "f": _native.ITEM_F32,
    "d": _native.ITEM_F64,
    "?": _native.ITEM_BOOL,
    "c": _native.ITEM_CHAR,
}
_VALUE_ITEMS = {**_ITEMS, "P": _native.ITEM_U64}
# With a byte order given, long has 4 bytes, and there are no n, N and P.
_STANDARD_ITEMS = {**_ITEMS, "l": _native.ITEM_I32, "L": _native.ITEM_U32, "n": 0, "N": 0}
_ARRAY_ITEMS = {**_ITEMS, "u": _native.ITEM_TEXT, "w": _native.ITEM_TEXT}


# ---- Formats --------------------------------------------------------------------------------------------------------


def _format_of(given: str | bytes) -> tuple[str, struct.Struct]:
    """A format as text, and as the struct module has it. ValueError if it is none."""
    try:
        text = given.decode("ascii") if isinstance(given, bytes) else given
        return text, struct.Struct(text)
    except (struct.error, UnicodeError) as error:
        raise ValueError(f"{given!r} is not a format of the struct module: {error}") from None
    except TypeError:
        raise TypeError(f"a format is a str, not {type(given).__name__}") from None


def _fields(format: str) -> list[tuple[str, int]]:
    """The values of a valid format, as letter and size in bytes ("s" and "p"; 0 for numbers)."""
    found: list[tuple[str, int]] = []
    digits = ""
    for letter in format.lstrip("@=<>!"):
        if letter.isdigit():
            digits += letter
        elif not letter.isspace():
            count = int(digits or 1)
            if letter in "sp":
                found.append((letter, count))
            elif letter != "x":
                found += [(letter, 0)] * count
            digits = ""
    return found


def _number(format: str) -> tuple[int, bool]:
    """Of a format that is one number: which of _native's, whether in the other byte order; (0, False) if it is not."""
    order = format[0] if format[:1] in tuple("@=<>!") else "@"
    letter = format.lstrip("@=<>!").strip()
    if letter[:-1] not in ("", "1"):
        return 0, False
    item = (_VALUE_ITEMS if order == "@" else _STANDARD_ITEMS).get(letter[-1:], 0)
    return item, order in ">!"


class _Codec:
    """Turns values into the bytes of a format, and back. Fields "s" and "p" hold text or bytes, as `texts` says."""

    def __init__(self, kind: str, format: str, texts: list[bool]) -> None:
        self.kind = kind  # SharedValue or SharedStruct
        self.format = format
        self.struct = struct.Struct(format)
        self.fields = _fields(format)
        marks = iter(texts)
        # Of each "s" and "p": place, letter, the bytes it holds, whether it is text.
        self.strings = [
            (place, letter, size if letter == "s" else min(max(size - 1, 0), 255), next(marks))
            for place, (letter, size) in enumerate(self.fields)
            if letter in "sp"
        ]

    def pack(self, values: Any) -> bytes:
        if not isinstance(values, (tuple, list)):
            raise TypeError(f"{self} takes a tuple, not {type(values).__name__}")
        if not self.strings:
            try:
                return self.struct.pack(*values)
            except (struct.error, OverflowError):
                pass  # it is said below what is wrong
        if len(values) != len(self.fields):
            raise ValueError(f"{self} has {len(self.fields)} values, not {len(values)}: {values!r}")
        ready = list(values)
        for place, letter, most, is_text in self.strings:
            ready[place] = self._string(place, letter, most, is_text, values[place])
        try:
            return self.struct.pack(*ready)
        except (struct.error, OverflowError) as error:
            raise self._explain(ready, error) from None

    def _string(self, place: int, letter: str, most: int, is_text: bool, value: Any) -> bytes:
        """The bytes of a text or bytes field. What is too long is refused, never cut."""
        where = f"value {place} of {self}"
        if is_text:
            if not isinstance(value, str):
                raise TypeError(f"{where} is text, as it was at the beginning; not {type(value).__name__}")
            data = value.encode("utf-8")
            if letter == "s" and data.endswith(b"\0"):
                raise ValueError(
                    f"{where}: NULs at the end of {value!r} would be lost; a 'p' field keeps them"
                )
        else:
            if not isinstance(value, (bytes, bytearray)):
                raise TypeError(f"{where} is bytes, as it was at the beginning; not {type(value).__name__}")
            data = bytes(value)
        if len(data) > most:
            raise ValueError(f"{where} holds {most} bytes, not {len(data)}{' (as UTF-8)' if is_text else ''}")
        return data

    def _explain(self, values: list[Any], error: Exception) -> Exception:
        """Which value it was that did not fit."""
        order = self.format[0] if self.format[:1] in tuple("@=<>!") else ""
        for place, (letter, size) in enumerate(self.fields):
            try:
                struct.pack(f"{order}{size or ''}{letter}", values[place])
            except (struct.error, OverflowError) as found:
                kind = OverflowError if isinstance(values[place], (int, float)) else TypeError
                if isinstance(values[place], float) and letter not in "efd":
                    kind = TypeError
                return kind(f"value {place} of {self}: {found}: {values[place]!r:.100}")
        return ValueError(f"{self}: {error}")

    def unpack(self, data: bytes) -> tuple[Any, ...]:
        values = self.struct.unpack(data)
        ready = list(values)
        for place, letter, _, is_text in self.strings:
            if is_text:
                ready[place] = (values[place].rstrip(b"\0") if letter == "s" else values[place]).decode(
                    "utf-8"
                )
        return tuple(ready)

    def pack_one(self, value: Any) -> bytes:
        return self.pack((value,))

    def unpack_one(self, data: bytes) -> Any:
        return self.unpack(data)[0]

    def __str__(self) -> str:
        return f"{self.kind}({self.format!r})"


def _marked(format: str, texts: list[bool]) -> bytes:
    """What a record's object says of itself: its format, and which of its strings are text."""
    return format.encode("ascii") + b"\0" + "".join("bt"[mark] for mark in texts).encode("ascii")


def _codec_of(handle: SharedValue | SharedStruct) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """For _native: how the values of a record are packed and unpacked."""
    format, _, marks = handle._description.partition(b"\0")
    texts = [mark == ord("t") for mark in marks]
    single = isinstance(handle, SharedValue)
    codec = _Codec(type(handle).__name__, format.decode("ascii"), texts)
    if single:
        return codec.pack_one, codec.unpack_one
    return codec.pack, codec.unpack if any(texts) else codec.struct.unpack


def _new_record(cls: type[Any], format: str, fields: list[tuple[str, int]], size: int, values: Any) -> Any:
    """A record that holds `values`, a tuple, or nothing but zeros (None)."""
    strings = [place for place, (letter, _) in enumerate(fields) if letter in "sp"]
    if values is None and strings:
        raise TypeError(
            f"{cls.__name__}({format!r}) needs a value: '' for a field of text, b'' for one of bytes, say"
        )
    if ("p", 0) in fields:
        raise ValueError(f"{format!r} has a field of no bytes, '0p', which has no room for its length")
    texts = [isinstance(values[place], str) for place in strings if place < len(values)]
    texts += [False] * (len(strings) - len(texts))
    if values is not None:
        _Codec(cls.__name__, format, texts).pack(values)  # what is wrong is said before anything is made
    return _native.new_record(cls, _marked(format, texts), 0, False, size)


# ---- The types ------------------------------------------------------------------------------------------------------


def _lock_of(handle: _native.Values) -> RLock:
    """For _native: the lock of the values. Made when somebody first asks; if two do at once, one lock is used."""
    while (place := handle._lock_place()) is None:
        lock = RLock()
        if handle._set_lock(lock):
            return lock
    program, _, _ = handle._key()
    return _reopen(RLock, program, *place)


class _Shared(_Pickles):
    """What the three have in common."""

    __slots__ = ()
    _layout = _native.VALUES

    def acquire(self: Any, block: bool = True, timeout: float | None = None) -> bool:
        """Acquires the lock that belongs to it: `get_lock().acquire`."""
        acquired: bool = self.get_lock().acquire(block, timeout)
        return acquired

    def release(self: Any) -> None:
        """Releases that lock."""
        self.get_lock().release()

    def statistics(self: Any) -> ValuesStatistics:
        """Its size, and how often a record was written."""
        from .counters import ValuesStatistics

        return ValuesStatistics(*self._facts())


class SharedValue(_Shared, _native.SharedValue):
    """One value of a `struct` format, such as 'i', 'd' or '256p'; read and written as `.value`.

    Numbers take one atomic access; `add`, `exchange` and `compare_exchange` update in one step. A number that does
    not fit the format is an OverflowError and changes nothing. 's' and 'p' hold text (UTF-8) if they are made with a
    str, bytes if with bytes; what is too long is a ValueError. Without a value, a number is zero.

    `with value:` holds the lock that belongs to it (`get_lock()`, an RLock), as do other processes that use it; for
    updates of several steps. If a process is killed, its last complete write stays.
    """

    __slots__ = ()

    def __new__(cls, format: str | bytes, value: Any = None, *, name: str | None = None) -> SharedValue:
        text, parsed = _format_of(format)
        item, swapped = _number(text)
        if item:
            self = _native.new_record(cls, _marked(text, []), item, swapped, parsed.size)
        else:
            fields = _fields(text)
            if len(fields) != 1:
                raise ValueError(f"a SharedValue has one value, {text!r} has {len(fields)}: use SharedStruct")
            self = _new_record(cls, text, fields, parsed.size, None if value is None else (value,))
        if value is not None:
            self.value = value
        if name:
            self.name = name
        return self

    @property
    def format(self) -> str:
        """The format that it was made with."""
        return self._description.partition(b"\0")[0].decode("ascii")

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__}(closed)>"
        return f"{type(self).__name__}({self.format!r}, {self.value!r})"


class SharedStruct(_Shared, _native.SharedStruct):
    """Values of a `struct` format, such as 'd256p', that are read and written together: `.value` is a tuple.

    A reader gets all values of one write, whoever writes meanwhile or was killed in the middle of it; no lock is
    needed for that. Fields 's' and 'p' hold text (UTF-8) if they are made with a str, bytes if with bytes. A value
    that does not fit (OverflowError, ValueError, TypeError) changes nothing. Without values, a struct of numbers is
    all zero.

    `with struct:` holds the lock that belongs to it, for updates of several steps.
    """

    __slots__ = ()

    def __new__(cls, format: str | bytes, value: Any = None, *, name: str | None = None) -> SharedStruct:
        text, parsed = _format_of(format)
        if value is not None and not isinstance(value, (tuple, list)):
            raise TypeError(f"{cls.__name__}({text!r}) takes a tuple, not {type(value).__name__}")
        self = _new_record(cls, text, _fields(text), parsed.size, value)
        if value is not None:
            self.value = value
        if name:
            self.name = name
        return self  # type: ignore[no-any-return]

    format = SharedValue.format
    __repr__ = SharedValue.__repr__


class SharedArray(_Shared, _native.SharedArray):
    """An array of numbers or characters with a fixed length, as `array.array`.

    `SharedArray(typecode, length)` is all zero; `SharedArray(typecode, items)` takes any iterable, and bytes or
    bytearray as the bytes of this machine. Typecodes are those of the `array` module ('u' and 'w' are both
    characters of 4 bytes), and '?', 'c', 'e', 'n', 'N' of `struct`.

    Each item is read and written with one atomic access; `add`, `exchange` and `compare_exchange` update an item in
    one step. What handles several items (slices, tolist, comparison) goes from one to the next: each is whole, but
    others may write in between unless all hold the lock (`with array:`). A slice is a copy: an `array.array`, or a
    list for a typecode that it does not have. Slices are assigned items of any iterable, as many as there are; all
    are converted first, so one that does not fit (OverflowError, TypeError) changes nothing.

    Buffers look into the shared memory itself: `numpy.asarray(array)` and `memoryview(array)` are writable views,
    which keep the array alive.
    """

    __slots__ = ()

    def __new__(
        cls, typecode: str, items: int | Iterable[Any] | bytes | bytearray = 0, *, name: str | None = None
    ) -> SharedArray:
        item = _ARRAY_ITEMS.get(typecode) if isinstance(typecode, str) else None
        if item is None:
            raise ValueError(
                f"bad typecode {typecode!r} (must be b, B, u, w, h, H, i, I, l, L, q, Q, f, d, ?, c, e, n or N)"
            )
        self = _native.new_array(cls, typecode.encode("ascii"), item, _length(items))
        if name:
            self.name = name
        return self

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__}(closed)>"
        return f"{type(self).__name__}({self.typecode!r}, {self.tolist()!r})"


def _length(items: Any) -> Any:
    """A length of another integer type (numpy's, say) as an int; items as they are."""
    if isinstance(items, int) or not hasattr(items, "__index__") or hasattr(items, "__len__"):
        return items
    return items.__index__()


def _finish() -> None:
    """The classes get C methods of their own (see _native.own), and SharedArray is a Sequence."""
    from collections.abc import Sequence

    Sequence.register(SharedArray)
    for cls, base in (
        (SharedValue, _native.SharedValue),
        (SharedStruct, _native.SharedStruct),
        (SharedArray, _native.SharedArray),
    ):
        _native.own(cls, base)


_finish()
