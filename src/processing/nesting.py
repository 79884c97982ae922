"""What shared containers have in common, and the way from plain builtins to them and back.

    d["a"] = {"b": []}     convert: each exact dict, list, set and deque inside becomes a shared container of its own
    d.snapshot()           plain: each shared container inside becomes a builtin again

Both keep what is the same object the same object. What contains itself is refused on the way in: such containers would
keep each other in memory until the program ends. (They can be made, by storing one in the other; `plain` copes.)
"""

from __future__ import annotations

from collections import deque
from reprlib import recursive_repr

from . import _store
from .synchronize import _Pickles

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .counters import ContainerStatistics

__all__ = ["CLASSES", "PLAIN", "Container", "convert", "convert_all", "register"]

CLASSES: dict[int, Any] = {}
"""Form of a store -> its class."""

PLAIN: dict[type, Any] = {}
"""Builtin that is shared when it is stored -> its class."""


def register(form: int, cls: type, builtin: type | None = None) -> None:
    """Stores of this form are given back as `cls`; exact `builtin`s become one when they are stored."""
    CLASSES[form] = cls
    if builtin is not None:
        PLAIN[builtin] = cls


class Container(_Pickles):
    """The part of a shared container that does not depend on its kind."""

    __slots__ = ()
    _layout = _store.LAYOUT

    def snapshot(self) -> Any:
        """A plain builtin, in which all shared containers, however deep inside, are plain builtins too.

        Looks into containers and exact tuples. Each container is copied as it is at one moment, one after the other:
        for one moment of all of them, nobody may change them meanwhile.
        """
        return _plain(self, {})

    def statistics(self) -> ContainerStatistics:
        """Counters, over all processes."""
        from .counters import ContainerStatistics

        facts = self._facts()  # type: ignore[attr-defined]
        return ContainerStatistics(*facts)

    def _arguments(self) -> str:
        """What `repr` has between the parentheses."""
        raise NotImplementedError

    def _fill(self, memo: dict[Any, Any]) -> Any:
        """The builtin of a deep copy, entered in `memo` before its values are copied."""
        raise NotImplementedError

    def _brief(self: Any) -> str:
        """The container in a message: without what is in it."""
        kind = type(self)
        name = kind.name.__get__(self)
        return f"{kind.__name__} {name!r}" if name else f"{kind.__name__} of {self._raw_len():,} items"

    @recursive_repr("...")
    def __repr__(self: Any) -> str:
        kind = type(self).__name__
        return f"{kind}({self._arguments()})" if self._is_open else f"<{kind}(closed)>"


def _plain(value: Any, memo: dict[Any, Any]) -> Any:
    """`value` without shared containers; `memo`: those that were met before."""
    if isinstance(value, Container):
        key = value._key()  # type: ignore[attr-defined]
        return memo[key] if key in memo else value._fill(memo)
    if type(value) is tuple:
        return tuple([_plain(one, memo) for one in value])
    return value


# ---- from builtins to shared containers ----------------------------------------------------------------------------


def convert(value: Any) -> Any:
    """A shared container in place of an exact dict, list, set or deque, and of those among its values; anything else
    as it is. ValueError: it contains itself."""
    return _Conversion().of(value) if type(value) in PLAIN else value


def convert_all(values: Iterable[Any]) -> list[Any]:
    """As `convert`, for several; what occurs in two of them becomes one container."""
    values = list(values)
    if any(type(value) in PLAIN for value in values):
        conversion = _Conversion()
        return [conversion.of(value) for value in values]
    return values


class _Conversion:
    """What has become of the builtins met so far, by their ids: all of them are held by the value that is converted."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.open: dict[int, str] = {}  # around the one we are in -> how it is reached

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind not in PLAIN:
            return value
        found = self.done.get(id(value))
        if found is None:
            found = self.done[id(value)] = self._new(value, kind)
        return found

    def _new(self, value: Any, kind: type) -> Any:
        cls = PLAIN[kind]
        if kind is set:  # elements are hashable, so none of them is one of ours
            return cls(value)
        pairs = list(value.items() if kind is dict else enumerate(value))
        self.open[id(value)] = ""
        ready = []
        for place, inner in pairs:
            if id(inner) in self.open:
                self._cycle(value, place, inner)
            if type(inner) in PLAIN:
                self.open[id(value)] = f"[{place!r:.80}]"
            ready.append(self.of(inner))
        del self.open[id(value)]
        if kind is dict:
            return cls(zip([key for key, _ in pairs], ready, strict=True))
        return cls(ready, value.maxlen) if kind is deque else cls(ready)

    def _cycle(self, value: Any, place: Any, inner: Any) -> None:
        self.open[id(value)] = f"[{place!r:.80}]"
        around = list(self.open)
        path = "".join(self.open[one] for one in around[around.index(id(inner)) :])
        raise ValueError(
            f"a {type(inner).__name__} that contains itself cannot be shared: it is its own {path}. "
            f"Its memory would only be freed with the program"
        )
