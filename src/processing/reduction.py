"""Turning objects into bytes.

    dumps(obj)  --plain C pickle, protocol 5-------------------------------> bytes
        |  only if a type needs it: a dispatch table of registered reducers
        |  only if that fails, or main's own names mean nothing elsewhere:
        +--cloudpickle: lambdas, closures, functions and classes by value--> bytes
                |  only if that fails too:
                +--an error that names the path to the culprit: "at args[1]['x'].y"

Reducers come from `copyreg`, from `register` here, and from whoever registered one with the standard library's
`multiprocessing.reduction.ForkingPickler` (torch does, for tensors), provided that module is loaded already.

What is pickled by value arrives as a copy: a class defined in an interactive `__main__` is another class there. So by
value comes last, or where a name cannot be found at all: `main_is_importable()` says whether a process that does not
descend from this one by fork alone can import this one's `__main__`.
"""

from __future__ import annotations

import _pickle
import copyreg
import io
import os
import sys
import threading

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    import pickle
    import socket
    from collections.abc import Callable
    from typing import Any

    _Pickler = pickle.Pickler
    Reducer = Callable[[Any], Any]
    BufferCallback = Callable[[Any], Any]
else:
    _Pickler = _pickle.Pickler

__all__ = [
    "ForkingPickler",
    "register",
    "dump",
    "dumps",
    "loads",
    "find_unpicklable",
    "main_is_importable",
    "DupFd",
]

PROTOCOL = 5

loads = _pickle.loads


# ---- Registered reducers --------------------------------------------------------------------------------------------


class Reducers:
    """Who knows how to reduce which type, beyond pickle itself.

    `table()` is None in the common case that nobody does: then the plain C function is used. Otherwise it is a private
    copy of everything registered, made anew when one of the sources has changed in size.
    """

    def __init__(self) -> None:
        self.own: dict[type, Reducer] = {}
        self.sources = (-1, -1, -1)
        self.merged: dict[type, Reducer] | None = None

    def register(self, cls: type, reduce: Reducer) -> None:
        self.own[cls] = reduce
        self.sources = (-1, -1, -1)

    def table(self) -> dict[type, Reducer] | None:
        theirs = sys.modules.get("multiprocessing.reduction")
        foreign: dict[type, Reducer] = theirs.ForkingPickler._extra_reducers if theirs is not None else {}
        sources = (len(foreign), len(copyreg.dispatch_table), len(self.own))
        if sources != self.sources:
            extra = {
                cls: reduce
                for cls, reduce in foreign.items()
                # Its own are for its own objects, or for what pickle can do by now.
                if not (getattr(reduce, "__module__", None) or "").startswith("multiprocessing.")
            }
            extra.update(self.own)
            self.merged = {**copyreg.dispatch_table, **extra} if extra else None
            self.sources = sources
        return self.merged


reducers = Reducers()


class ForkingPickler(_Pickler):
    """A pickler that honours registered reducers. Protocol 5 unless told otherwise."""

    # Under the standard library's names, for those who look there.
    _extra_reducers = reducers.own
    _copyreg_dispatch = copyreg.dispatch_table

    def __init__(self, file: Any, protocol: int | None = None, *args: Any, **options: Any) -> None:
        super().__init__(file, PROTOCOL if protocol is None else protocol, *args, **options)
        table = reducers.table()
        if table is not None:
            self.dispatch_table = table

    @classmethod
    def register(cls, type: type, reduce: Reducer) -> None:
        """Has `reduce(obj)` called for objects whose class is exactly `type`; it returns what `__reduce__` does."""
        reducers.register(type, reduce)

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        """The pickle of `obj`, without going by value."""
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(obj)
        return buffer.getbuffer()

    loads = staticmethod(_pickle.loads)


register = ForkingPickler.register


def dump(obj: Any, file: Any, protocol: int | None = None) -> None:
    """`pickle.dump` with registered reducers."""
    ForkingPickler(file, protocol).dump(obj)


# ---- dumps ----------------------------------------------------------------------------------------------------------


def dumps(
    obj: Any,
    buffer_callback: BufferCallback | None = None,
    *,
    by_value: bool = False,
    name: str = "obj",
    on_retry: Callable[[], object] | None = None,
) -> bytes:
    """The pickle of `obj` (protocol 5); large buffers out of band to `buffer_callback`, as for `pickle.dumps`.

    `on_retry` is called before a second attempt, which starts from the beginning: whoever collects buffers (or handles)
    is to forget those of the first. Without it a second attempt puts all buffers in band: the ones that were collected
    are then not referred to.

    What plain pickle refuses goes by value where that works. `by_value` says that the reader is not a fork of this
    process: what `__main__` defines then goes by value if the reader could not import it.
    Raises what pickle raised, with the path to the culprit, which starts with `name`.
    """
    table = reducers.table()
    try:
        if table is None:
            data = _pickle.dumps(obj, PROTOCOL, buffer_callback=buffer_callback)
        else:
            data = _dump_with(ForkingPickler, obj, buffer_callback)
        if not by_value or b"__main__" not in data or main_is_importable():
            return data
        plain = None
    except (_pickle.PicklingError, AttributeError, TypeError) as error:
        plain = error
    if on_retry is not None:
        on_retry()
    else:
        buffer_callback = None
    if plain is not None and register_sockets():
        return dumps(obj, buffer_callback, by_value=by_value, name=name, on_retry=on_retry)
    return _dumps_by_value(obj, buffer_callback, name, plain)


def _dump_with(pickler: Any, obj: Any, buffer_callback: BufferCallback | None) -> bytes:
    file = io.BytesIO()
    pickler(file, PROTOCOL, buffer_callback=buffer_callback).dump(obj)
    return file.getvalue()


def _dumps_by_value(
    obj: Any, buffer_callback: BufferCallback | None, name: str, plain: Exception | None
) -> bytes:
    try:
        return _dump_with(by_value_pickler(), obj, buffer_callback)
    except ImportError:
        if plain is None:
            raise
        raise _explained(plain, obj, name) from plain
    except (_pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise _explained(error, obj, name) from (plain or error)


class ByValue:
    """Makes the cloudpickle-based pickler when it is first wanted."""

    def __init__(self) -> None:
        self.pickler: Any = None

    def __call__(self) -> Any:
        if self.pickler is None:
            import cloudpickle

            class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
                """By value only what has no name that the reader could import."""

                def __init__(self, file: Any, protocol: int, buffer_callback: BufferCallback | None) -> None:
                    table: dict[type, Reducer] = {
                        **cloudpickle.Pickler.dispatch_table,
                        **(reducers.merged or {}),
                    }
                    # Looked at once, by the constructor. An open file it would read to its end, to send the text.
                    table.pop(io.TextIOWrapper, None)
                    self.dispatch_table = table
                    super().__init__(file, protocol, buffer_callback=buffer_callback)

                def reducer_override(self, obj: Any) -> Any:
                    kind = type(obj)
                    if (kind is _FunctionType or issubclass(kind, type)) and _has_a_name(obj):
                        return NotImplemented
                    return super().reducer_override(obj)

            self.pickler = ByValuePickler
        return self.pickler


by_value_pickler = ByValue()
_FunctionType = type(lambda: None)
MAIN_NAMES = ("__main__", "__mp_main__")


def _has_a_name(obj: Any) -> bool:
    """Whether this function or class of `__main__` can be imported by a reader."""
    if getattr(obj, "__module__", None) not in MAIN_NAMES or not main_is_importable():
        return False
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def main_is_importable() -> bool:
    """Whether another process can import this one's `__main__`: it came from a file that is still there, or `-m`.

    False for an interactive session, a notebook, `-c`, standard input, and a zipped application.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name = spec.name
        # The start of a package or zip file is not run again in children.
        return name != "__main__" and not name.endswith(".__main__")
    path = getattr(main, "__file__", None)
    return path is not None and os.path.isfile(path) and "ipykernel" not in path


# ---- Which part cannot be pickled -----------------------------------------------------------------------------------


def _explained(error: Exception, obj: Any, name: str) -> Exception:
    path = find_unpicklable(obj, name)
    text = str(error)
    if path is not None and path != name:
        text += f": at {path}"
    for kind in (_pickle.PicklingError, AttributeError, TypeError, RecursionError):
        if isinstance(error, kind):
            made: Exception = kind(text)
            return made
    return error


class _Nothing:
    """A file that forgets."""

    def write(self, data: bytes) -> int:
        return len(data)


def _can_be_pickled(obj: Any) -> bool:
    try:
        by_value_pickler()(_Nothing(), PROTOCOL, lambda buffer: None).dump(obj)
    except ImportError:
        try:
            ForkingPickler(_Nothing()).dump(obj)
        except Exception:
            return False
    except Exception:
        return False
    return True


def find_unpicklable(obj: Any, name: str = "obj", probes: int = 2000) -> str | None:
    """The path to the innermost part of `obj` that cannot be pickled, as Python would write it: `obj.a[1]['x']`.

    None if `obj` can be pickled. Looks into containers, attributes, slots, and what `__reduce_ex__` gives; tries at
    most `probes` parts. Calls the pickling hooks of what it visits.
    """
    if _can_be_pickled(obj):
        return None
    seen = {id(obj)}
    here, path = obj, name
    while True:
        for step, part in _parts(here):
            if id(part) in seen:
                continue
            probes -= 1
            if probes < 0:
                return path
            if not _can_be_pickled(part):
                seen.add(id(part))
                here, path = part, path + step
                break
        else:
            return path


# The attributes of a process that its constructor calls by another name.
SHOWN_AS = {"_target": "target", "_args": "args", "_kwargs": "kwargs"}


def _parts(obj: Any) -> list[tuple[str, Any]]:
    """The direct parts of `obj`, each with what one appends to a path to get there."""
    if isinstance(obj, dict):
        keys = [(f"<key {key!r:.60}>", key) for key in obj if not isinstance(key, str | int)]
        return [(f"[{key!r:.60}]", value) for key, value in obj.items()] + keys
    if isinstance(obj, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(obj)]
    if isinstance(obj, set | frozenset):
        return [(f"<member {part!r:.60}>", part) for part in obj]
    if isinstance(obj, _FunctionType):
        return _parts_of_function(obj)
    if isinstance(obj, type):
        return []
    found: list[tuple[str, Any]] = []
    if hasattr(obj, "__func__") and hasattr(obj, "__self__"):
        found.append((".__self__", obj.__self__))
    state = _state_of(obj)
    for name, part in state.items():
        found.append((f".{SHOWN_AS.get(name, name)}", part))
    return found + _parts_of_reduction(obj, state)


def _parts_of_function(function: Any) -> list[tuple[str, Any]]:
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found.append((f".<variable {name!r}>", cell.cell_contents))
        except ValueError:
            pass
    for name in function.__code__.co_names:
        if name in function.__globals__:
            found.append((f".<global {name!r}>", function.__globals__[name]))
    found += [(f".<default {index}>", part) for index, part in enumerate(function.__defaults__ or ())]
    return found


def _state_of(obj: Any) -> dict[str, Any]:
    """Attributes of an instance, slots included."""
    state = dict(getattr(obj, "__dict__", None) or {})
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__"):
                private = slot.startswith("__") and not slot.endswith("__")
                attribute = f"_{cls.__name__.lstrip('_')}{slot}" if private else slot
                try:
                    state[slot] = getattr(obj, attribute)
                except AttributeError:
                    pass
    return state


def _parts_of_reduction(obj: Any, known: dict[str, Any]) -> list[tuple[str, Any]]:
    try:
        table = reducers.table() or copyreg.dispatch_table
        reduce = table.get(type(obj))
        reduced: Any = reduce(obj) if reduce is not None else obj.__reduce_ex__(PROTOCOL)
    except Exception:
        return []
    if isinstance(reduced, str):
        return []
    found = [(f".<reduced[1][{index}]>", part) for index, part in enumerate(reduced[1])]
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, dict):
        found += [(f".{name}", part) for name, part in state.items() if name not in known]
    elif state is not None:
        found.append((".<state>", state))
    if len(reduced) > 3 and reduced[3] is not None:
        found += [(f"[{index}]", part) for index, part in enumerate(reduced[3])]
    if len(reduced) > 4 and reduced[4] is not None:
        found += [(f"[{key!r:.60}]", part) for key, part in reduced[4]]
    return found


# ---- Descriptors and sockets ----------------------------------------------------------------------------------------


class Spawning(threading.local):
    """`popen` is what starts a child in this thread just now, None otherwise: some things go along with a start."""

    popen: Any = None


spawning = Spawning()


def DupFd(fd: int) -> Any:
    """Something to pickle in place of descriptor `fd`; its `detach()` is the descriptor in the process that gets it.

    Within `__reduce__`: while a process is being started it inherits `fd`; otherwise a duplicate goes with the message
    (processing.descriptors.Descriptor, which raises RuntimeError if it is pickled for anything else).
    """
    popen = spawning.popen
    if popen is None:
        from .descriptors import Descriptor

        return Descriptor(fd)
    return popen.DupFd(popen.duplicate_for_child(fd))


def _reduce_socket(sock: socket.socket) -> Any:
    fd = sock.fileno()
    if fd < 0:
        raise ValueError(f"a closed socket cannot be sent: {sock!r}")
    facts = (DupFd(fd), int(sock.family), int(sock.type), sock.proto, sock.gettimeout())
    if type(sock) is sys.modules["socket"].socket:
        return _rebuild_socket, facts
    return _rebuild_socket, (*facts, type(sock)), getattr(sock, "__dict__", None) or None


def _refuse_tls(sock: Any) -> Any:
    raise TypeError(
        f"{sock!r} cannot be sent: the state of its encryption lies in this process. Send the plain socket, and wrap "
        "it where it is used"
    )


def _rebuild_socket(
    descriptor: Any, family: int, type: int, proto: int, timeout: float | None, cls: Any = None
) -> socket.socket:
    import socket

    sock: socket.socket = socket.socket.__new__(cls or socket.socket)
    fd = descriptor.detach()
    try:
        socket.socket.__init__(sock, family, type, proto, fd)
    except BaseException:
        os.close(fd)
        raise
    # Whether it blocks belongs to what all duplicates share: as it was. How long it waits belongs to the object.
    if sock.gettimeout() != timeout:
        sock.settimeout(timeout)
    return sock


def register_sockets() -> bool:
    """Registers the reducers of sockets, and of their subclasses, as soon as there can be some (importing `socket` for
    it would be slow). True if this changed anything."""
    module = sys.modules.get("socket")
    if module is None:
        return False
    tls: Any = getattr(sys.modules.get("ssl"), "SSLSocket", ())
    changed = False
    todo = [module.socket]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        # One that says itself how it is pickled is left alone.
        if cls not in reducers.own and all(
            getattr(cls, name) is getattr(module.socket, name)
            for name in ("__getstate__", "__reduce__", "__reduce_ex__")
        ):
            register(cls, _refuse_tls if issubclass(cls, tls) else _reduce_socket)
            changed = True
    return changed


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
