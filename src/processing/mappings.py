"""SharedDict, its views, and SharedNamespace: the items of a store, by key or as attributes.

What one method does with one key, and what `update` and `clear` do, is in `_dict`; here is what can be said with it.
Whatever looks at several items (iteration, views, comparison, `repr`) looks at a copy of one moment.
"""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping, MutableMapping, ValuesView
from types import MappingProxyType, SimpleNamespace

from . import _dict
from .nesting import Container, _plain, convert, convert_all, register

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    _MutableMapping = MutableMapping[Any, Any]
    _KeysView = KeysView[Any]
    _ValuesView = ValuesView[Any]
    _ItemsView = ItemsView[Any, Any]
else:
    _MutableMapping, _KeysView, _ValuesView, _ItemsView = MutableMapping, KeysView, ValuesView, ItemsView

__all__ = ["SharedDict", "SharedDictItems", "SharedDictKeys", "SharedDictValues", "SharedNamespace"]

_DICT, _NAMESPACE = 1, 3  # forms
_KEYS, _VALUES, _ITEMS = 1, 2, 3  # what _snapshot gives
_MISSING: Any = object()
_NOTHING: tuple[Any, ...] = ()


_ATTEMPTS = 8


def _update_with(self: Any, key: Any, func: Callable[[Any], Any], default: Any = _MISSING) -> Any:
    """Replaces the value of `key` by `func(value)` in one step; -> the new value.

    `func` runs outside of all locks. If somebody else has stored or removed the key meanwhile, it is called again with
    what is there now; so it should do nothing but compute. After eight calls in vain the next one is made in a group
    of changes, for which the others wait. Without the key it gets `default`, or KeyError.
    """

    def attempt() -> tuple[bool, Any]:
        value, version = self._fetch(key)
        if not version:
            if default is _MISSING:
                raise KeyError(key)
            value = default
        new = convert(func(value))
        return self._store_if(key, version, new), new

    for _ in range(_ATTEMPTS):
        done, new = attempt()
        if done:
            return new
    with self:
        return attempt()[1]


class SharedDict(Container, _dict.DictBase, _MutableMapping):
    """A dict in shared memory, with the methods of `dict`.

    Keys are anything that can be hashed and pickled; values anything that can be pickled. A plain dict, list, set or
    deque among the values becomes a shared container of its own, and `d["a"]["b"] = 1` is seen by everyone. Any other
    mutable value is a copy: change it and store it again.

    Reading takes no lock; a change is seen as a whole or not at all, also after the death of who made it. Iteration and
    views show one moment. `with d:` makes several changes at once. The `name` is an attribute: keywords are items.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __new__(cls, mapping: Any = _NOTHING, /, **items: Any) -> SharedDict:
        self = _dict.new(cls, _DICT)
        if mapping is not _NOTHING or items:
            self.update(mapping, **items)
        return self

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], value: Any = None) -> SharedDict:
        """A new one with these keys, which all have the same value."""
        self = cls()
        self._update(list(dict.fromkeys(iterable, convert(value)).items()))
        return self

    # -- All items, as at one moment

    def __iter__(self) -> Iterator[Any]:
        return iter(self._snapshot(_KEYS))

    def __reversed__(self) -> Iterator[Any]:
        return iter(self._snapshot(_KEYS)[::-1])

    def copy(self) -> dict[Any, Any]:
        """A plain dict, of one moment. Values that are shared containers stay what they are (see `snapshot`)."""
        return dict(self._snapshot(_ITEMS))

    def keys(self) -> SharedDictKeys:
        """A view of the keys."""
        return SharedDictKeys(self)

    def values(self) -> SharedDictValues:
        """A view of the values."""
        return SharedDictValues(self)

    def items(self) -> SharedDictItems:
        """A view of the (key, value) pairs."""
        return SharedDictItems(self)

    def _arguments(self) -> str:
        return repr(self.copy())

    def _fill(self, memo: dict[Any, Any]) -> dict[Any, Any]:
        filled: dict[Any, Any] = {}
        memo[self._key()] = filled
        for key, value in self._snapshot(_ITEMS):
            filled[key] = _plain(value, memo)
        return filled

    # -- Changes

    update_with = _update_with

    def update(self, other: Any = (), /, **items: Any) -> None:
        """Stores all items of a mapping, or of (key, value) pairs, and the keywords.

        All are encoded before the first is stored: a key or value that cannot be stored changes nothing. Others may see
        some of them before the rest; use `with d:` if they should not.
        """
        pairs = dict(_operand(other), **items)
        self._update(list(zip(pairs, convert_all(pairs.values()), strict=True)))

    def __ior__(self, other: Mapping[Any, Any] | Iterable[Any]) -> SharedDict:  # type: ignore[misc]
        self.update(other)
        return self

    # -- With other mappings: the results are plain

    def __or__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, (dict, SharedDict)):
            return NotImplemented
        union: dict[Any, Any] = self.copy() | _operand(other)
        return union

    def __ror__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, dict):
            return NotImplemented
        return other | self.copy()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SharedDict):
            return self._key() == other._key() or self.copy() == other.copy()
        return self.copy() == dict(other) if isinstance(other, Mapping) else NotImplemented


def _operand(other: Any) -> Any:
    return other.copy() if isinstance(other, SharedDict) else other


# ---- Views ---------------------------------------------------------------------------------------------------------


class _View:
    """A view of a SharedDict: shows what is there when it is asked."""

    __slots__ = ()
    _mapping: Any
    _what: int

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping._snapshot(self._what))

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])

    @property
    def mapping(self) -> MappingProxyType[Any, Any]:
        """The dict, read-only."""
        return MappingProxyType(self._mapping)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class _SetView(_View):
    """The operators of a set, by those of the view of a plain dict of one moment."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def _frozen(self) -> Any:
        raise NotImplementedError

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """True if they have nothing in common."""
        disjoint: bool = self._frozen().isdisjoint(_frozen(other))
        return disjoint

    def __and__(self, other: Any) -> set[Any]:
        return self._frozen() & _frozen(other)  # type: ignore[no-any-return]

    def __rand__(self, other: Any) -> set[Any]:
        return _frozen(other) & self._frozen()  # type: ignore[no-any-return]

    def __or__(self, other: Any) -> set[Any]:
        return self._frozen() | _frozen(other)  # type: ignore[no-any-return]

    def __ror__(self, other: Any) -> set[Any]:
        return _frozen(other) | self._frozen()  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> set[Any]:
        return self._frozen() - _frozen(other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> set[Any]:
        return _frozen(other) - self._frozen()  # type: ignore[no-any-return]

    def __xor__(self, other: Any) -> set[Any]:
        return self._frozen() ^ _frozen(other)  # type: ignore[no-any-return]

    def __rxor__(self, other: Any) -> set[Any]:
        return _frozen(other) ^ self._frozen()  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        return self._frozen() == _frozen(other)  # type: ignore[no-any-return]

    def __lt__(self, other: Any) -> bool:
        return self._frozen() < _frozen(other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> bool:
        return self._frozen() <= _frozen(other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> bool:
        return self._frozen() > _frozen(other)  # type: ignore[no-any-return]

    def __ge__(self, other: Any) -> bool:
        return self._frozen() >= _frozen(other)  # type: ignore[no-any-return]


def _frozen(other: Any) -> Any:
    return other._frozen() if isinstance(other, _SetView) else other


class SharedDictKeys(_SetView, _KeysView):
    """A view of the keys of a SharedDict, which is a set."""

    __slots__ = ()
    _what = _KEYS

    def _frozen(self) -> Any:
        return dict.fromkeys(self._mapping._snapshot(_KEYS)).keys()


class SharedDictItems(_SetView, _ItemsView):
    """A view of the items of a SharedDict, which is a set if the values are hashable."""

    __slots__ = ()
    _what = _ITEMS

    def _frozen(self) -> Any:
        return self._mapping.copy().items()

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        value = self._mapping.get(item[0], _MISSING)
        return value is not _MISSING and (value is item[1] or bool(value == item[1]))


class SharedDictValues(_View, _ValuesView):
    """A view of the values of a SharedDict."""

    __slots__ = ()
    _what = _VALUES

    def __contains__(self, value: object) -> bool:
        return value in self._mapping._snapshot(_VALUES)


# ---- Namespaces ----------------------------------------------------------------------------------------------------

_getitem, _setitem = _dict.DictBase.__getitem__, _dict.DictBase.__setitem__
_METHODS = frozenset(("snapshot", "statistics", "update_with"))


class SharedNamespace(Container, _dict.DictBase):
    """Attributes in shared memory, as `types.SimpleNamespace`: `ns.x = 1` is seen by everyone.

    Values are as those of a SharedDict. Attributes that begin with an underscore are refused, and so are the names of
    its three methods. Every other name is free, `name` too: a namespace has none for messages and tools.

    `ns.x += 1` is a read and a write; `ns.update_with("x", func)` is one step, and so is what is in `with ns:`.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __new__(cls, **attributes: Any) -> SharedNamespace:
        for name in attributes:
            _check_name(name)
        self = _dict.new(cls, _NAMESPACE)
        if attributes:
            self._update(list(zip(attributes, convert_all(attributes.values()), strict=True)))
        return self

    # All but three of the names that are public in the base classes are attributes here as any other.
    def __getattribute__(self, name: str) -> Any:
        if name[:1] == "_" or name in _METHODS:
            return object.__getattribute__(self, name)
        try:
            return _getitem(self, name)
        except KeyError:
            pass
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] == "_" or name in _METHODS:
            _check_name(name)
        _setitem(self, name, value)

    def __delattr__(self, name: str) -> None:
        if not self._discard(name):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
            )

    def update_with(self, name: str, func: Callable[[Any], Any], default: Any = _MISSING) -> Any:
        """Replaces an attribute by `func(value)` in one step; -> the new value.

        `func` runs outside of all locks. If somebody else has set or deleted the attribute meanwhile, it is called
        again with what is there now; so it should do nothing but compute. Without the attribute it gets `default`, or
        AttributeError.
        """
        _check_name(name)
        try:
            return _update_with(self, name, func, default)
        except KeyError as error:
            if error.args == (name,) and default is _MISSING and not _dict.DictBase.__contains__(self, name):
                return getattr(self, name)  # says that it is not there
            raise

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """For `vars(ns)`: a plain dict with all attributes, of one moment."""
        return dict(self._snapshot(_ITEMS))

    def __dir__(self) -> list[str]:
        private = (name for name in object.__dir__(self) if name[:1] == "_")
        return sorted({*private, *_METHODS, *self._snapshot(_KEYS)})

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, *unused: Any) -> Any:
        raise TypeError(f"{type(self).__name__!r} object is not subscriptable")

    __setitem__ = __delitem__ = __getitem__
    __iter__ = None  # not by index either

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SharedNamespace) and self._key() == other._key():
            return True
        return (
            vars(self) == vars(other)
            if isinstance(other, (SharedNamespace, SimpleNamespace))
            else NotImplemented
        )

    def _arguments(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._snapshot(_ITEMS))

    def _brief(self) -> str:
        return type(self).__name__

    def _fill(self, memo: dict[Any, Any]) -> SimpleNamespace:
        filled = memo[self._key()] = SimpleNamespace()
        for name, value in self._snapshot(_ITEMS):
            setattr(filled, name, _plain(value, memo))
        return filled


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise AttributeError(
            f"{name!r} begins with an underscore: such attributes belong to one process, and a SharedNamespace has none"
        )
    if name in _METHODS:
        raise AttributeError(f"{name!r} is a method of SharedNamespace, choose another name")


register(_DICT, SharedDict, dict)
register(_NAMESPACE, SharedNamespace)
