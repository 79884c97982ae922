"""What lies in the server of a manager besides containers, locks and queues: attributes, values, arrays, iterators.

None of their methods blocks.
"""

from __future__ import annotations

import array
import struct
from itertools import islice
from typing import Any

from .managerobjects import Quick, plain
from .managerprotocol import their

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Namespace", "ServedIterator", "SharedArray", "SharedStruct", "SharedValue", "Value"]


class Namespace(Quick):
    """Attributes. Containers that are stored in them are shared too."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def _adopt_with(self, adopt: Callable[[Any], Any]) -> None:
        self.__dict__.update({name: adopt(value) for name, value in self._items()})
        self.__dict__["_adopt"] = adopt

    def __setattr__(self, name: str, value: Any) -> None:
        adopt = self.__dict__.get("_adopt")
        super().__setattr__(name, value if adopt is None else adopt(value))

    def _items(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.__dict__.items() if not name.startswith("_")]

    def __reduce__(self) -> tuple[Any, ...]:
        return Namespace, (), {name: plain(value) for name, value in self._items()}

    def _standard_form(self) -> tuple[Any, ...]:
        return their("Namespace"), (), {name: plain(value) for name, value in self._items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in sorted(self._items()))})"


class Value(Quick):
    """A value with a type code, which is only remembered."""

    def __init__(self, typecode: Any, value: Any, lock: bool = True) -> None:
        self._typecode = typecode
        self._value = value

    def get(self) -> Any:
        return self._value

    def set(self, value: Any) -> None:
        self._value = value

    def _standard_form(self) -> tuple[Any, ...]:
        return their("Value"), (self._typecode, self._value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    value = property(get, set)


class SharedValue(Quick):
    """One value in a `struct` format; what does not fit it is refused."""

    def __init__(self, format: str, value: Any = None) -> None:
        self._format = format
        self._struct = struct.Struct(format)
        self._is_text = isinstance(value, str) or (value is None and format[-1] in "sp")
        if value is None:
            value = "" if self._is_text else self._struct.unpack(bytes(self._struct.size))[0]
        self.set(value)

    def get(self) -> Any:
        return self._value

    def set(self, value: Any) -> None:
        self._value = _through(self._struct, (value,))[0]

    def add(self, amount: Any) -> Any:
        """Adds; -> the value before. One step for all clients."""
        before = self._value
        self.set(before + amount)
        return before

    def exchange(self, value: Any) -> Any:
        before = self._value
        self.set(value)
        return before

    def compare_exchange(self, expected: Any, value: Any) -> bool:
        """Sets it if it is as expected; -> whether it was."""
        if self._value != expected:
            return False
        self.set(value)
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._format!r}, {self._value!r})"


class SharedStruct(Quick):
    """Several values in a `struct` format, read and set together."""

    def __init__(self, format: str, value: Any = None) -> None:
        self._format = format
        self._struct = struct.Struct(format)
        self.set(self._struct.unpack(bytes(self._struct.size)) if value is None else value)

    def get(self) -> Any:
        return self._value

    def set(self, value: Any) -> None:
        self._value = _through(self._struct, tuple(value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._format!r}, {self._value!r})"


def _through(packer: struct.Struct, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is read after it was written: numbers of the format's width, text cut to fit."""
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    read = packer.unpack(packer.pack(*raw))
    return tuple(map(_as_given, values, read))


def _as_given(old: Any, new: Any) -> Any:
    if isinstance(new, bytes):
        new = new.rstrip(b"\0")
    return new.decode(errors="ignore") if isinstance(old, str) else new


class SharedArray(Quick, array.array):  # type: ignore[type-arg]
    """An array of a fixed length."""

    def __new__(cls, format: str, sequence: Any, lock: bool = True) -> Any:
        return super().__new__(cls, format, bytes(0) if isinstance(sequence, int) else sequence)

    def __init__(self, format: str, sequence: Any, lock: bool = True) -> None:
        if isinstance(sequence, int):
            self.frombytes(bytes(self.itemsize * sequence))

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            if len(range(*index.indices(len(self)))) != len(value):
                raise ValueError("the length of a shared array is fixed")
            value = array.array(self.typecode, value)
        super().__setitem__(index, value)

    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        return array.array(self.typecode, got) if isinstance(index, slice) else got

    def __reduce_ex__(self, protocol: Any) -> Any:
        return array.array, (self.typecode, self.tolist())

    def __repr__(self) -> str:
        return f"SharedArray({self.typecode!r}, {self.tolist()!r})"


class ServedIterator(Quick):
    """An iterator of a container of the server, which gives several items at a time."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def take(self, most: int) -> list[Any]:
        """The next items; none: there are no more."""
        return [*islice(self.iterator, most)]
