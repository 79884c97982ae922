"""A group of changes to a shared container: what `with container:` collects until it ends.

The thread that has the group sees its own changes; everybody else what was there before. Nothing is written to the
container before the end, so that an exception, or the death of the process, leaves it as it was. The end is one step
for all who look (`pz_dict_commit`, `pz_seq_rebuild`).

    SharedDict.__setitem__ ─▶ in a group of this thread? ─no──▶ the container
                                        └─yes─▶ DictGroup.setitem ─ ─ at the end ─ ─▶ the container

Values are encoded when they are given, so mistakes are found there.
"""

from __future__ import annotations

from _thread import get_ident

from . import _dict, _program, _store

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DictGroup", "SequenceGroup", "new"]

_LIST, _DEQUE = 4, 5


def new(container: Any, form: int) -> DictGroup | SequenceGroup:
    """The group of a container that has just begun one."""
    return SequenceGroup(container) if form in (_LIST, _DEQUE) else DictGroup(container)


class _Group:
    """Whose it is, and how many `with` of the same thread are inside the first."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.depth = 0
        self.thread = get_ident()
        self.owner = _program.self_owner()

    def mine(self) -> bool:
        """True in the thread that began it."""
        return self.thread == get_ident() and not self.is_inherited()

    def is_inherited(self) -> bool:
        """True in a process forked in the middle of it: there it means nothing."""
        return self.owner != _program.self_owner()


_ABSENT = object()


class _Change:
    """What becomes of one key: `prepared` is its value, None if it is removed; `moved`: what was there goes first."""

    __slots__ = ("key", "prepared", "moved")

    def __init__(self, key: Any, prepared: Any, moved: bool) -> None:
        self.key = key
        self.prepared = prepared
        self.moved = moved

    def with_value(self, prepared: Any) -> _Change:
        return _Change(self.key, prepared, self.moved)


class DictGroup(_Group):
    """Changes by key, in order. Methods as those of `_dict.DictBase`."""

    def __init__(self, container: Any) -> None:
        super().__init__(container)
        self.changes: dict[tuple[int, bytes], _Change] = {}
        self.added = 0  # what the changes do to the number of items

    def _find(self, key: Any) -> Any:
        change = self.changes.get(_dict.key_bytes(key))
        if change is None:
            return self.container._raw_get(key, _ABSENT)
        return _ABSENT if change.prepared is None else _store.content(change.prepared)

    def _change(self, key: Any, prepared: Any) -> None:
        name, had = _dict.key_bytes(key), self.contains(key)
        before = self.changes.get(name)
        self.added += (prepared is not None) - had
        if prepared is not None and had:  # keeps its place, and the key that came first
            self.changes[name] = (
                _Change(key, prepared, False) if before is None else before.with_value(prepared)
            )
        else:
            self.changes.pop(name, None)
            self.changes[name] = _Change(key, prepared, before is not None or prepared is None)

    def length(self) -> int:
        count: int = self.container._raw_len()
        return count + self.added

    def contains(self, key: Any) -> bool:
        return self._find(key) is not _ABSENT

    def getitem(self, key: Any) -> Any:
        value = self._find(key)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def get(self, key: Any, default: Any) -> Any:
        value = self._find(key)
        return default if value is _ABSENT else value

    def setitem(self, key: Any, value: Any) -> None:
        self._change(key, _store.prepared(value, self.container))

    def discard(self, key: Any) -> bool:
        if not self.contains(key):
            return False
        self._change(key, None)
        return True

    def pop(self, key: Any, *default: Any) -> Any:
        value = self._find(key)
        if value is not _ABSENT:
            self._change(key, None)
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def setdefault(self, key: Any, default: Any) -> Any:
        if not self.contains(key):
            self.setitem(key, default)
        return self.getitem(key)

    def popitem(self) -> tuple[Any, Any]:
        items = self.snapshot(3)
        if not items:
            raise KeyError("popitem(): the container is empty")
        self._change(items[-1][0], None)
        pair: tuple[Any, Any] = items[-1]
        return pair

    def clear(self) -> None:
        for key in self.snapshot(1):
            self._change(key, None)

    def add(self, key: Any) -> bool:
        if self.contains(key):
            return False
        self.setitem(key, None)
        return True

    def update(self, pairs: list[tuple[Any, Any]]) -> None:
        ready = [(key, _dict.key_bytes(key), _store.prepared(value, self.container)) for key, value in pairs]
        for key, _, prepared in ready:
            self._change(key, prepared)

    def fetch(self, key: Any) -> tuple[Any, int]:
        value = self._find(key)
        return (None, 0) if value is _ABSENT else (value, 1)

    def store_if(self, key: Any, version: int, value: Any) -> bool:
        self.setitem(key, value)
        return True

    def snapshot(self, what: int) -> list[Any]:
        there: dict[tuple[int, bytes], tuple[Any, Any]] = {
            _dict.key_bytes(key): (key, value) for key, value in self.container._raw_snapshot(3)
        }
        for name, change in self.changes.items():
            if change.moved:
                there.pop(name, None)
            if change.prepared is not None:
                first = there[name][0] if name in there else change.key
                there[name] = (first, _store.content(change.prepared))
        pairs = list(there.values())
        return pairs if what == 3 else [pair[what - 1] for pair in pairs]

    def commit(self) -> None:
        steps: list[tuple[Any, Any]] = []
        for change in self.changes.values():
            if change.moved:
                steps.append((change.key, None))
            if change.prepared is not None:
                steps.append((change.key, change.prepared))
        if steps:
            self.container._commit(steps)


class SequenceGroup(_Group):
    """The items as they shall be: each with its value, and where that comes from (the index of a present item, or a
    prepared value). Methods as those of `_sequence.SequenceBase`."""

    def __init__(self, container: Any) -> None:
        super().__init__(container)
        self.loaded: list[tuple[Any, Any]] | None = None
        self.changed = False

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        if self.loaded is None:
            values, _ = self.container._raw_items(None, None, None)
            self.loaded = list(enumerate(values))
        return self.loaded

    def _pair(self, value: Any) -> tuple[Any, Any]:
        prepared = _store.prepared(value, self.container)
        return prepared, _store.content(prepared)

    def _write(self) -> list[tuple[Any, Any]]:
        self.changed = True
        return self.pairs

    def _name(self) -> str:
        return type(self.container).__name__

    def length(self) -> int:
        return len(self.pairs)

    def get(self, index: int) -> Any:
        try:
            return self.pairs[index][1]
        except IndexError:
            raise IndexError(f"{self._name()} index out of range") from None

    def set(self, index: int, value: Any) -> None:
        pair = self._pair(value)
        try:
            self._write()[index] = pair
        except IndexError:
            raise IndexError(f"{self._name()} assignment index out of range") from None

    def insert(self, index: int, value: Any) -> None:
        most = self.container._maxlen
        if most is not None and len(self.pairs) >= most:
            raise IndexError("deque already at its maximum size")
        self._write().insert(index, self._pair(value))

    def append(self, value: Any) -> None:
        self.extend([value], False)

    def appendleft(self, value: Any) -> None:
        self.extend([value], True)

    def pop(self, index: int) -> Any:
        try:
            return self._write().pop(index)[1]
        except IndexError:
            empty = not self.pairs
            raise IndexError(
                f"pop from an empty {self._name()}" if empty else "pop index out of range"
            ) from None

    def delete(self, index: int) -> None:
        try:
            del self._write()[index]
        except IndexError:
            raise IndexError(f"{self._name()} assignment index out of range") from None

    def extend(self, values: list[Any], left: bool) -> None:
        new = [self._pair(value) for value in values]
        pairs = self._write()
        most = self.container._maxlen
        if left:
            pairs[:0] = new[::-1]
            if most is not None:
                del pairs[most:]
        else:
            pairs.extend(new)
            if most is not None:
                del pairs[: max(0, len(pairs) - most)]

    def items(self, start: int | None, stop: int | None, step: int | None) -> tuple[list[Any], int]:
        return [value for _, value in self.pairs[start:stop:step]], 1

    def replace(
        self, start: int | None, stop: int | None, step: int | None, values: list[Any] | None
    ) -> bool:
        new = None if values is None else [self._pair(value) for value in values]
        pairs = list(self.pairs)
        if new is None:
            del pairs[start:stop:step]
        else:
            pairs[start:stop:step] = new
        most = self.container._maxlen
        if most is not None and len(pairs) > most:
            raise IndexError("deque already at its maximum size")
        self._write()[:] = pairs
        return True

    def permute(self, order: list[int]) -> bool:
        if sorted(order) != list(range(len(self.pairs))):
            raise ValueError("not a permutation")
        pairs = self._write()
        pairs[:] = [pairs[index] for index in order]
        return True

    def reverse(self) -> None:
        self._write().reverse()

    def rotate(self, steps: int) -> None:
        pairs = self._write()
        if pairs:
            steps %= len(pairs)
            pairs[:] = pairs[-steps:] + pairs[:-steps] if steps else pairs

    def clear(self) -> None:
        self._write().clear()

    def commit(self) -> None:
        if self.changed:
            self.container._commit([source for source, _ in self.pairs])
