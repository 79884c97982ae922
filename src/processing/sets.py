"""SharedSet: the keys of a store, without values.

Operators and whatever else looks at several elements use a plain set of one moment.
"""

from __future__ import annotations

from collections.abc import MutableSet, Set

from . import _dict
from .nesting import Container, register

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    _MutableSet = MutableSet[Any]
else:
    _MutableSet = MutableSet

__all__ = ["SharedSet"]

_SET = 2  # form
_ELEMENTS = 1  # what _snapshot gives
_NOTHING: tuple[Any, ...] = ()


class _NotOfSets:
    """A method of mappings that sets do not have."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self.name!r}")


class SharedSet(Container, _dict.DictBase, _MutableSet):
    """A set in shared memory, with the methods of `set`. Elements are anything that can be hashed and pickled.

    Adding, discarding and looking up one element is one step; `update` encodes all elements before it adds the first;
    the other in-place operations are seen as a whole. Iteration shows one moment, in the order of insertion. Operators
    give a plain set.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __new__(cls, iterable: Iterable[Any] = _NOTHING, /, *, name: str | None = None) -> SharedSet:
        self = _dict.new(cls, _SET)
        if iterable is not _NOTHING:
            self.update(iterable)
        if name:
            self.name = name
        return self

    get = setdefault = popitem = _NotOfSets()

    def __getitem__(self, *unused: Any) -> Any:
        raise TypeError(f"{type(self).__name__!r} object is not subscriptable")

    __setitem__ = __delitem__ = __getitem__

    # -- All elements, as at one moment

    def __iter__(self) -> Iterator[Any]:
        return iter(self._snapshot(_ELEMENTS))

    def copy(self) -> set[Any]:
        """A plain set, of one moment."""
        return set(self._snapshot(_ELEMENTS))

    def _arguments(self) -> str:
        elements = self._snapshot(_ELEMENTS)
        return "{" + ", ".join(map(repr, elements)) + "}" if elements else ""

    def _fill(self, memo: dict[Any, Any]) -> set[Any]:
        filled: set[Any] = self.copy()
        return filled

    # -- Single elements

    def add(self, element: Any) -> None:
        """Adds an element, if it is not there."""
        self._add(element)

    def discard(self, element: Any) -> None:
        """Removes an element, if it is there."""
        self._discard(element)

    def remove(self, element: Any) -> None:
        """Removes an element. KeyError: it is not there."""
        if not self._discard(element):
            raise KeyError(element)

    def pop(self) -> Any:  # type: ignore[override]
        """Removes an element (the one that was added last) and gives it. KeyError: the set is empty."""
        try:
            return _dict.DictBase.popitem(self)[0]
        except KeyError:
            raise KeyError("pop from an empty set") from None

    # -- Many elements

    def update(self, *others: Iterable[Any]) -> None:
        """Adds all elements. All are encoded first: one that cannot be stored changes nothing."""
        elements = dict.fromkeys(element for other in others for element in other)
        self._update([(element, None) for element in elements])

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Removes all elements of the others, in one step."""
        gone = set().union(*others)
        with self:
            for element in gone:
                self._discard(element)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Removes what is not in all of the others, in one step."""
        kept = [set(other) for other in others]
        with self:
            for element in self._snapshot(_ELEMENTS):
                if not all(element in other for other in kept):
                    self._discard(element)

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Removes what is in the other and adds what is only there, in one step."""
        elements = set(other)
        with self:
            for element in elements:
                if not self._discard(element):
                    self._add(element)

    def __ior__(self, other: Any) -> SharedSet:
        if not isinstance(other, Set):
            return NotImplemented
        self.update(other)
        return self

    def __iand__(self, other: Any) -> SharedSet:
        if not isinstance(other, Set):
            return NotImplemented
        self.intersection_update(other)
        return self

    def __isub__(self, other: Any) -> SharedSet:
        if not isinstance(other, Set):
            return NotImplemented
        self.difference_update(other)
        return self

    def __ixor__(self, other: Any) -> SharedSet:
        if not isinstance(other, Set):
            return NotImplemented
        self.symmetric_difference_update(other)
        return self

    # -- New sets: plain ones

    def union(self, *others: Iterable[Any]) -> set[Any]:
        """A plain set with the elements of all."""
        return self.copy().union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        """A plain set with the elements that all have."""
        return self.copy().intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        """A plain set with the elements that the others do not have."""
        return self.copy().difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        """A plain set with the elements that only one of the two has."""
        return self.copy().symmetric_difference(other)

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """True if they have nothing in common."""
        return self.copy().isdisjoint(other)

    def issubset(self, other: Iterable[Any]) -> bool:
        """True if the other has all of these elements."""
        return self.copy().issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """True if these are all of the other's elements, or more."""
        return self.copy().issuperset(other)

    def __or__(self, other: Any) -> set[Any]:
        return self.copy() | set(other) if isinstance(other, Set) else NotImplemented

    def __and__(self, other: Any) -> set[Any]:
        return self.copy() & set(other) if isinstance(other, Set) else NotImplemented

    def __sub__(self, other: Any) -> set[Any]:
        return self.copy() - set(other) if isinstance(other, Set) else NotImplemented

    def __xor__(self, other: Any) -> set[Any]:
        return self.copy() ^ set(other) if isinstance(other, Set) else NotImplemented

    __ror__, __rand__, __rxor__ = __or__, __and__, __xor__

    def __rsub__(self, other: Any) -> set[Any]:
        return set(other) - self.copy() if isinstance(other, Set) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self.copy() == set(other) if isinstance(other, Set) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return self.copy() < set(other) if isinstance(other, Set) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return self.copy() <= set(other) if isinstance(other, Set) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return self.copy() > set(other) if isinstance(other, Set) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return self.copy() >= set(other) if isinstance(other, Set) else NotImplemented


register(_SET, SharedSet, set)
