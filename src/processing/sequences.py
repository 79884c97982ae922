"""SharedList and SharedDeque: the items of a store, by position.

One item, and both ends, are reached in single steps of `_sequence`. What looks at several items looks at a copy of one
moment; what changes them by what it saw there (`remove`, `sort`, `*=`) sees to it that nobody else came in between:

    copy the items, with the version of the store ──▶ change, if the version is still this one ──▶ done
            ▲                                                   └─no: again─┐
            └─────────────────────────────────────────────── a few times, then in a group: the others wait
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import MutableSequence

from . import _sequence
from .nesting import Container, _plain, convert_all, register

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, SupportsIndex

    _MutableSequence = MutableSequence[Any]
else:
    _MutableSequence = MutableSequence

__all__ = ["SharedDeque", "SharedList"]

_LIST, _DEQUE = 4, 5  # forms
_ATTEMPTS = 8
_NOTHING: tuple[Any, ...] = ()


def _comparison(compare: Any) -> Any:
    def method(self: Any, other: Any) -> Any:
        if isinstance(other, (self._builtin, self._kind)):
            return compare(self.copy(), other.copy() if isinstance(other, self._kind) else other)
        return NotImplemented

    return method


class _Items(Container):
    """What a list and a deque have in common."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    _builtin: Any
    _kind: Any

    if TYPE_CHECKING:  # of SequenceBase
        _items: Any
        _get: Any
        _set: Any
        _delete: Any
        _insert: Any
        _extend: Any
        _replace: Any

    def copy(self) -> Any:
        raise NotImplementedError

    # -- All items, as at one moment

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items()[0])

    def __reversed__(self) -> Iterator[Any]:
        return iter(self._items()[0][::-1])

    def __contains__(self, value: object) -> bool:
        return value in self._items()[0]

    def count(self, value: Any) -> int:
        """How many items are equal to `value`."""
        count: int = self._items()[0].count(value)
        return count

    def index(self, value: Any, *bounds: SupportsIndex) -> int:
        """index(value, start=0, stop=end): position of the first item that is equal. ValueError: there is none."""
        index: int = self.copy().index(value, *bounds)
        return index

    __eq__ = _comparison(operator.eq)
    __ne__ = _comparison(operator.ne)
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, (self._builtin, self._kind)):
            return NotImplemented
        return self.copy() + (other.copy() if isinstance(other, self._kind) else other)

    def __radd__(self, other: Any) -> Any:
        return other + self.copy() if isinstance(other, self._builtin) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> Any:
        return self.copy() * count

    __rmul__ = __mul__

    def _filled(self, whole: Any, memo: dict[Any, Any]) -> Any:
        memo[self._key()] = whole  # type: ignore[attr-defined]
        whole.extend([_plain(value, memo) for value in self._items()[0]])
        return whole

    # -- Single items

    def insert(self, index: SupportsIndex, value: Any) -> None:
        """Inserts before `index`."""
        self._insert(operator.index(index), value)

    def remove(self, value: Any) -> None:
        """Removes the first item that is equal to `value`, in one step. ValueError: there is none."""

        def change(items: list[Any], version: int) -> bool:
            try:
                index = items.index(value)
            except ValueError:
                raise ValueError(f"{type(self).__name__}.remove(x): x is not there") from None
            done: bool = self._replace(version, index, index + 1, None, None)
            return done

        self._attempt(change)

    # -- Many items

    def extend(self, values: Iterable[Any]) -> None:
        """Adds all at the right end, in one step; one that cannot be stored changes nothing."""
        self._extend(convert_all(values))

    def __iadd__(self, values: Iterable[Any]) -> Any:  # type: ignore[misc]
        self.extend(values)
        return self

    def __imul__(self, count: SupportsIndex) -> Any:
        def change(items: list[Any], version: int) -> bool:
            whole = items if self._builtin is list else self._builtin(items, self._maxlen)  # type: ignore[attr-defined]
            done: bool = self._replace(version, None, None, None, list(whole * count))
            return done

        self._attempt(change)
        return self

    def _attempt(self: Any, change: Callable[[list[Any], int], bool]) -> None:
        """Calls `change(items, version)` until it returns True: nobody has changed the items in between."""
        for _ in range(_ATTEMPTS):
            if change(*self._items()):
                return
        with self:
            change(*self._items())


class SharedList(_Items, _sequence.SequenceBase, _MutableSequence):
    """A list in shared memory, with the methods of `list`.

    Items are anything that can be pickled. A plain dict, list, set or deque among them becomes a shared container of
    its own; any other mutable item is a copy. Reading an item takes no lock; each method is one step for all who look,
    also after the death of who made it. Iteration shows one moment. `with l:` makes several changes at once.
    """

    __slots__ = ()
    _builtin = list

    def __new__(cls, iterable: Iterable[Any] = _NOTHING, /, *, name: str | None = None) -> SharedList:
        self = _sequence.new(cls, _LIST)
        if iterable is not _NOTHING:
            self.extend(iterable)
        if name:
            self.name = name
        return self

    def copy(self) -> list[Any]:
        """A plain list, of one moment. Items that are shared containers stay what they are (see `snapshot`)."""
        items: list[Any] = self._items()[0]
        return items

    def _arguments(self) -> str:
        return repr(self.copy())

    def _fill(self, memo: dict[Any, Any]) -> list[Any]:
        filled: list[Any] = self._filled([], memo)
        return filled

    append = _sequence.SequenceBase._append
    clear = _sequence.SequenceBase._clear
    reverse = _sequence.SequenceBase._reverse

    def pop(self, index: SupportsIndex = -1, /) -> Any:
        """Removes the item at `index` and gives it. IndexError."""
        return self._pop(index)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sorts in one step; the items are compared outside of all locks, again if somebody changes the list."""

        def change(items: list[Any], version: int) -> bool:
            keys = items if key is None else [key(item) for item in items]
            order = sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)
            done: bool = self._permute(version, order)
            return done

        self._attempt(change)


class SharedDeque(_Items, _sequence.SequenceBase, _MutableSequence):
    """A deque in shared memory, with the methods of `collections.deque`; see SharedList.

    With `maxlen`, adding to a full one drops the item at the other end.
    """

    __slots__ = ()
    _builtin = deque

    def __new__(
        cls, iterable: Iterable[Any] = _NOTHING, maxlen: int | None = None, *, name: str | None = None
    ) -> SharedDeque:
        if maxlen is not None:
            if not hasattr(maxlen, "__index__"):
                raise TypeError(f"maxlen must be an integer or None, not {type(maxlen).__name__}")
            maxlen = operator.index(maxlen)
            if maxlen < 0:
                raise ValueError("maxlen must be non-negative")
        self = _sequence.new(cls, _DEQUE, maxlen)
        if iterable is not _NOTHING:
            self.extend(iterable)
        if name:
            self.name = name
        return self

    @property
    def maxlen(self) -> int | None:
        """How many items it may have, or None."""
        return self._maxlen

    def copy(self) -> deque[Any]:
        """A plain deque, of one moment. Items that are shared containers stay what they are (see `snapshot`)."""
        return deque(self._items()[0], self._maxlen)

    def _arguments(self) -> str:
        most = self._maxlen
        return repr(self._items()[0]) + ("" if most is None else f", maxlen={most}")

    def _fill(self, memo: dict[Any, Any]) -> deque[Any]:
        filled: deque[Any] = self._filled(deque(maxlen=self._maxlen), memo)
        return filled

    append = _sequence.SequenceBase._append
    appendleft = _sequence.SequenceBase._appendleft
    clear = _sequence.SequenceBase._clear
    reverse = _sequence.SequenceBase._reverse

    def pop(self) -> Any:  # type: ignore[override]
        """Removes the item at the right end and gives it. IndexError: it is empty."""
        return self._pop(-1)

    def popleft(self) -> Any:
        """Removes the item at the left end and gives it. IndexError: it is empty."""
        return self._pop(0)

    def insert(self, index: SupportsIndex, value: Any) -> None:
        """Inserts before `index`. IndexError: it is full."""
        at = operator.index(index)
        if self._maxlen is None:
            self._insert(at, value)
        else:  # where _insert has the item at the other end go
            self._replace(0, at, at, None, convert_all([value]))

    def extendleft(self, values: Iterable[Any]) -> None:
        """Adds one after the other at the left end, so that the last is the first then; seen as one step."""
        self._extend(convert_all(values), True)

    def rotate(self, n: SupportsIndex = 1) -> None:
        """Moves all by `n` places to the right, from the end to the beginning."""
        self._rotate(operator.index(n))


SharedList._kind, SharedDeque._kind = SharedList, SharedDeque
register(_LIST, SharedList, list)
register(_DEQUE, SharedDeque, deque)
