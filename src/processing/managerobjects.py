"""The objects that the server of a manager holds, and who still needs them. No I/O; used under the server's mutex.

    Entry ── obj, the methods that may be called, how they are run
          ── who holds it:  lease       handles in the arena: the processes of this program, messages in flight included
                            sessions    counted references of clients that do not share the arena, by client process
                            loose       counted references of clients that are the standard library
                            flights     references of pickles that were not unpickled yet, outside the arena
                            reference   an object of this server that contains it

An entry is disposed of when nobody holds it. What becomes of leases is not told to us: whoever drops one says so if it
can (`look`), and `look_at_leases` finds what the killed left behind.

A plain list, dict, set or deque that is put into a list, dict, deque or namespace here becomes an entry of its own, by
Reference, so that a change of `d['a']['b']` arrives. A standard library client gets a copy of it, as it expects.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque

from . import _memory, _program, sharing
from .managedbase import Managed, Timers
from .managerposts import make_flag
from .managerprotocol import Token, standard_proxy

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from typing import Any

    from .arrays import ArrayMemory

__all__ = ["Entry", "Objects", "Reference", "Typed", "INLINE", "MACHINE", "THREAD"]

INLINE = 0  # carried out by the loop
MACHINE = 1  # by the loop, which may answer later
THREAD = 2  # by a thread, which may block


class Typed:
    """What a type was registered with."""

    __slots__ = ("callable", "exposed", "method_to_typeid", "proxytype", "blocking", "is_quick")

    def __init__(
        self, callable: Any, exposed: Any, method_to_typeid: Any, proxytype: Any, blocking: bool | None
    ) -> None:
        self.callable = callable
        self.exposed = exposed
        self.method_to_typeid = method_to_typeid
        self.proxytype = proxytype
        self.blocking = blocking
        self.is_quick = callable in _SERVED or (
            isinstance(callable, type) and issubclass(callable, (Managed, Quick))
        )


def public_methods(obj: object) -> list[str]:
    """The names of its methods that do not begin with an underscore."""
    return [name for name in dir(obj) if name[0] != "_" and callable(getattr(obj, name))]


class Entry:
    """One shared object."""

    __slots__ = (
        "ident", "typeid", "obj", "exposed", "method_to_typeid", "proxytype", "mode", "is_users", "methods", "lease",
        "sessions", "loose", "flights", "reference", "flag",
    )  # fmt: skip

    def __init__(self, ident: str, typeid: str, obj: Any, exposed: Iterable[str], typed: Typed) -> None:
        self.ident = ident
        self.typeid = typeid
        self.obj = obj
        self.exposed = frozenset(exposed)
        self.method_to_typeid: dict[str, str] = typed.method_to_typeid or {}
        self.proxytype = typed.proxytype
        if isinstance(obj, Managed):
            self.mode = MACHINE
        elif typed.blocking is None:
            self.mode = INLINE if isinstance(obj, _QUICK) or type(obj) in _SERVED else THREAD
        else:
            self.mode = THREAD if typed.blocking else INLINE
        self.is_users = self.mode == THREAD or typed.blocking is False
        self.methods: dict[str, Callable[..., Any]] = {}
        self.lease: sharing.Shared | ArrayMemory | None = None
        self.flag: memoryview | None = None  # whether clients may post (managerposts.py)
        self.sessions: dict[Hashable, int] = {}
        self.loose = 0
        self.flights: dict[int, Hashable] = {}
        self.reference: weakref.ref[Reference] | None = None

    def method(self, name: str) -> Callable[..., Any]:
        """The bound method; AttributeError if it is not exposed."""
        if name not in self.exposed:
            raise AttributeError(
                f"method {name!r} of {type(self.obj).__name__!r} object is not in exposed={sorted(self.exposed)}"
            )
        found: Callable[..., Any] = getattr(self.obj, name)
        if self.mode == MACHINE and name == "__getattribute__":
            found = self.attribute
        self.methods[name] = found
        return found

    def attribute(self, call: object, name: str) -> Any:
        """What a Barrier tells about itself."""
        if name not in ("parties", "n_waiting", "broken"):
            raise AttributeError(f"{type(self.obj).__name__!r} object has no attribute {name!r} for clients")
        return getattr(self.obj, name)

    def is_held(self) -> bool:
        if self.sessions or self.loose > 0 or self.flights:
            return True
        if self.lease is not None and _memory.holders(self.lease) > 1:
            return True
        return self.reference is not None and self.reference() is not None


class Reference:
    """An object of this server inside another one. It pickles as a proxy."""

    __slots__ = ("objects", "entry", "adopted", "__weakref__")

    def __init__(self, objects: Objects, entry: Entry, adopted: bool) -> None:
        self.objects, self.entry, self.adopted = objects, entry, adopted

    def __del__(self) -> None:
        self.objects.dropped.append(self.entry.ident)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.objects.reduce(self.entry)

    def _standard_form(self) -> tuple[Any, ...]:
        if self.adopted:
            return _as_builtin(plain(self.entry.obj))
        kind = getattr(self.entry.proxytype, "__name__", "AutoProxy")
        return standard_proxy(kind, self.objects.token(self.entry))  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """Code that runs in the server uses the object itself."""
        if name[:1] == "_":
            raise AttributeError(name)
        if self.entry.mode == MACHINE:
            return self.objects.call_here(self.entry, name)
        return getattr(self.entry.obj, name)

    def __enter__(self) -> Any:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def __len__(self) -> int:
        return len(self.entry.obj)

    def __iter__(self) -> Any:
        return iter(self.entry.obj)

    def __contains__(self, item: Any) -> bool:
        return item in self.entry.obj

    def __getitem__(self, key: Any) -> Any:
        return self.entry.obj[key]

    def __setitem__(self, key: Any, item: Any) -> None:
        self.entry.obj[key] = item

    def __delitem__(self, key: Any) -> None:
        del self.entry.obj[key]

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return repr(self.entry.obj)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Reference):
            return self.entry is other.entry or bool(self.entry.obj == other.entry.obj)
        return bool(self.entry.obj == other)

    def __lt__(self, other: Any) -> bool:
        return bool(self.entry.obj < (other.entry.obj if isinstance(other, Reference) else other))

    def __hash__(self) -> int:
        return id(self.entry)


def plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """A copy in which adopted containers are plain ones again."""
    seen = {} if seen is None else seen
    if isinstance(value, Reference):
        if not value.adopted:
            return value
        value = value.entry.obj
    if id(value) in seen:
        return seen[id(value)]
    copy: Any
    if isinstance(value, list):
        copy = seen[id(value)] = []
        copy.extend(plain(item, seen) for item in value)
    elif isinstance(value, dict):
        copy = seen[id(value)] = {}
        copy.update((key, plain(item, seen)) for key, item in value.items())
    elif isinstance(value, deque):
        copy = seen[id(value)] = deque(maxlen=value.maxlen)
        copy.extend(plain(item, seen) for item in value)
    elif isinstance(value, Served):
        copy = {*value}  # type: ignore[misc]
    elif type(value) is tuple:
        copy = tuple(plain(item, seen) for item in value)
    else:
        copy = value
    return copy


def _as_builtin(value: Any) -> tuple[Any, ...]:
    """How a plain container pickles, as the result of a `__reduce__`."""
    if type(value) is deque:
        return deque, ([*value], value.maxlen)
    return type(value), ([*value] if type(value) is set else value,)


def _same(value: Any) -> Any:
    return value


# ---- Containers whose values are shared too -------------------------------------------------------------------------


class Served:
    """A container of the server: it adopts what is put into it."""

    _adopt: Callable[[Any], Any] = staticmethod(_same)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _as_builtin(plain(self))


class ServedList(Served, list):  # type: ignore[type-arg]
    def append(self, item: Any) -> None:
        super().append(self._adopt(item))

    def extend(self, items: Iterable[Any]) -> None:
        super().extend(map(self._adopt, items))

    def insert(self, index: Any, item: Any) -> None:
        super().insert(index, self._adopt(item))

    def __setitem__(self, index: Any, item: Any) -> None:
        super().__setitem__(
            index, [*map(self._adopt, item)] if isinstance(index, slice) else self._adopt(item)
        )

    def __iadd__(self, items: Any) -> Any:
        self.extend(items)
        return self

    def __add__(self, other: Any) -> Any:
        return list.__add__(self, other)


class ServedDict(Served, dict):  # type: ignore[type-arg]
    def __setitem__(self, key: Any, item: Any) -> None:
        super().__setitem__(key, self._adopt(item))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return super().setdefault(key, self._adopt(default))

    def update(self, *args: Any, **kwds: Any) -> None:
        new = dict(*args, **kwds)
        super().update({key: self._adopt(item) for key, item in new.items()})

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self


class ServedSet(Served, set):  # type: ignore[type-arg]
    pass


class ServedDeque(Served, deque):  # type: ignore[type-arg]
    def append(self, item: Any) -> None:
        super().append(self._adopt(item))

    def appendleft(self, item: Any) -> None:
        super().appendleft(self._adopt(item))

    def extend(self, items: Iterable[Any]) -> None:
        super().extend([*map(self._adopt, items)])

    def extendleft(self, items: Iterable[Any]) -> None:
        super().extendleft([*map(self._adopt, items)])

    def insert(self, index: int, item: Any) -> None:
        super().insert(index, self._adopt(item))

    def __setitem__(self, index: Any, item: Any) -> None:
        super().__setitem__(index, self._adopt(item))

    def __iadd__(self, items: Any) -> Any:  # type: ignore[misc]
        self.extend(items)
        return self


class Quick:
    """Base of classes of ours whose methods never block."""

    __slots__ = ()


_SERVED: dict[type, type] = {list: ServedList, dict: ServedDict, set: ServedSet, deque: ServedDeque}
_NAMES: dict[type, str] = {list: "list", dict: "dict", set: "set", deque: "deque"}
_QUICK = (Served, Quick)


# ---- All of them ----------------------------------------------------------------------------------------------------


class Objects:
    """The entries of a server, by number."""

    def __init__(self, registry: dict[str, Typed], address: Any, timers: Timers) -> None:
        self.registry = registry
        self.address = address
        self.timers = timers
        self.entries: dict[str, Entry] = {}
        self.of: dict[tuple[str, int], Entry] = {}  # by type and id() of the object
        self.leased = 0  # entries that may have a lease
        # A server that runs later at the same address has other numbers: proxies of old objects find nothing there.
        self.numbers = itertools.count(int.from_bytes(os.urandom(4), "big") << 16)
        self.dropped: deque[str] = deque()  # whose Reference has gone
        self.first_leased: Callable[[], None] = lambda: None  # set by the server, as the following
        self.call_here: Callable[[Entry, str], Any] = lambda entry, name: None
        self.session_of_reply: Callable[[], Hashable | None] = lambda: None  # for whom this thread pickles

    def token(self, entry: Entry) -> Token:
        return Token(entry.typeid, self.address, entry.ident)

    def make(self, typeid: str, args: Any, kwds: Any) -> Any:
        """A new object, as its registered callable makes it. Not under the mutex: it may take its time."""
        make = self.registry[typeid].callable
        if make is None:
            if kwds or len(args) != 1:
                raise ValueError("Without callable, must have one non-keyword argument")
            return args[0]
        if isinstance(make, type) and issubclass(make, Managed):
            return make(*args, **{**kwds, "timers": self.timers})
        return self.served(make(*args, **kwds)) if make in _SERVED else make(*args, **kwds)

    def add(self, typeid: str, obj: Any) -> Entry:
        """The entry of an object; under the mutex until somebody holds it."""
        typed = self.registry[typeid]
        if isinstance(obj, Reference):
            if obj.entry.typeid == typeid:
                return obj.entry
            obj = obj.entry.obj
        known = self.of.get((typeid, id(obj)))
        if known is not None:
            return known
        adopt_with = getattr(type(obj), "_adopt_with", None)
        if adopt_with is not None:
            adopt_with(obj, self.adopt)
        exposed = typed.exposed if typed.exposed is not None else public_methods(obj)
        if typed.method_to_typeid is not None:
            if not isinstance(typed.method_to_typeid, dict):
                kind = type(typed.method_to_typeid).__name__
                raise TypeError(f"Method_to_typeid {typed.method_to_typeid!r}: type {kind}, not dict")
            exposed = [*exposed, *typed.method_to_typeid]
        entry = Entry(f"{next(self.numbers):x}", typeid, obj, exposed, typed)
        self.entries[entry.ident] = self.of[typeid, id(obj)] = entry
        return entry

    def served(self, obj: Any) -> Any:
        """A plain container as one that adopts; anything else as it is."""
        kind = _SERVED.get(type(obj))
        if kind is None:
            return obj
        made: Any = kind(maxlen=obj.maxlen) if kind is ServedDeque else kind()
        made._adopt = self.adopt
        if isinstance(obj, set):
            set.update(made, obj)
        elif isinstance(obj, dict):
            made.update(obj)
        else:
            made.extend(obj)
        return made

    def adopt(self, value: Any) -> Any:
        """What is stored in place of `value`."""
        name = _NAMES.get(type(value))
        if name is None or name not in self.registry:
            return value
        return self.refer(self.add(name, self.served(value)), adopted=True)

    def refer(self, entry: Entry, adopted: bool = False) -> Reference:
        found = entry.reference() if entry.reference is not None else None
        if found is None:
            found = Reference(self, entry, adopted)
            entry.reference = weakref.ref(found)
        return found

    def lease(self, entry: Entry) -> sharing.Shared | ArrayMemory:
        if entry.lease is None:
            flag = make_flag(entry.obj)
            entry.flag = None if flag is None else memoryview(flag)
            entry.lease = sharing.share(b"") if flag is None else flag
            self.leased += 1
            if self.leased == 1:
                self.first_leased()
        return entry.lease

    def reduce(self, entry: Entry) -> tuple[Any, ...]:
        """How it pickles: with a lease in messages of this program, else counted for the client that it is sent to."""
        from .proxies import rebuild_proxy

        facts: dict[str, Any] = {"exposed": tuple(entry.exposed)}
        if _program.is_carrying():
            facts["lease"] = self.lease(entry)
        else:
            session = self.session_of_reply()
            if session is not None:
                entry.sessions[session] = entry.sessions.get(session, 0) + 1
                facts["counted"] = True
        return rebuild_proxy, (entry.proxytype, self.token(entry), facts)

    # -- Who needs them

    def dispose_of(self, entry: Entry) -> None:
        if self.entries.pop(entry.ident, None) is not None:
            self.of.pop((entry.typeid, id(entry.obj)), None)
            self.leased -= entry.lease is not None

    def look(self, ident: str) -> None:
        """Somebody who had it has dropped it."""
        entry = self.entries.get(ident)
        if entry is not None and not entry.is_held():
            self.dispose_of(entry)

    def look_at_dropped(self) -> None:
        while self.dropped:
            self.look(self.dropped.popleft())

    def look_at_leases(self) -> None:
        for entry in [*self.entries.values()]:
            if entry.lease is not None and not entry.is_held():
                self.dispose_of(entry)
        self.look_at_dropped()

    def incref(self, ident: str, session: Hashable | None) -> None:
        entry = self.entries[ident]
        if session is None:
            entry.loose += 1
        else:
            entry.sessions[session] = entry.sessions.get(session, 0) + 1

    def decref(self, ident: str, session: Hashable | None, flight: int | None = None) -> None:
        entry = self.entries.get(ident)
        if entry is None:
            return
        if flight is not None:
            entry.flights.pop(flight, None)
        elif session is None:
            entry.loose -= 1
        else:
            count = entry.sessions.get(session, 0) - 1
            if count > 0:
                entry.sessions[session] = count
            else:
                entry.sessions.pop(session, None)
        self.look(ident)
        self.look_at_dropped()

    def session_gone(self, session: Hashable) -> bool:
        """A client process has ended: its references go with it. -> Whether there are pickles that it made."""
        flying = False
        for entry in [*self.entries.values()]:
            flying = flying or session in entry.flights.values()
            if entry.sessions.pop(session, None) is not None and not entry.is_held():
                self.dispose_of(entry)
        self.look_at_leases()
        return flying

    def forget_flights(self, session: Hashable) -> None:
        """What that session pickled and nobody has unpickled will not be unpickled."""
        for entry in [*self.entries.values()]:
            for flight in [number for number, by in entry.flights.items() if by == session]:
                del entry.flights[flight]
            if not entry.is_held():
                self.dispose_of(entry)
