"""What clients and servers of managers say to each other, and how it is pickled.

    request   (ident, method, args, kwds)          ident None: a function of the server itself
    reply     ("#RETURN", result) | ("#PROXY", (exposed, token)) | ("#ERROR", exception)
              | ("#TRACEBACK", text) | ("#UNSERIALIZABLE", text) | ("#FAILED", exception and traceback, see remote.py)

These are the standard library's messages, but the last, which it is not sent. Over a socket they are pickled one by
one; a peer that is the standard library gets its own classes (`multiprocessing.managers.Token` and so on) where we have
ours, and what it sends of those becomes ours. Between processes of one program they go through a ring of an arena, with
handles and buffers in them.
"""

from __future__ import annotations

import _pickle
import io
import marshal
import sys
import threading

from . import reduction, remote
from .errors import RemoteError

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

SERIALIZERS = ("pickle", "xmlrpclib")  # the standard library's names of them

__all__ = ["SERIALIZERS", "STANDARD", "Token", "Packed", "Unreadable"]
__all__ += ["dumps", "loads", "check_request", "error_of", "their"]

STANDARD = "multiprocessing.managers"


class Token:
    """Names a shared object: the type it was registered as, the address of its server, its number there."""

    __slots__ = ("typeid", "address", "id")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid, self.address, self.id = typeid, address, id

    def __getstate__(self) -> tuple[str, Any, str]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[str, Any, str]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        return f"Token(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"


class Reading(threading.local):
    """For whom this thread unpickles: `link`, whose server has sent it, or `server`, if this is one of its threads."""

    link: Any = None
    server: Any = None


reading = Reading()


# ---- Over sockets ---------------------------------------------------------------------------------------------------


class _Unpickler(_pickle.Unpickler):
    """Reads what a standard library peer sent: its proxies and tokens become ours."""

    def find_class(self, module: str, name: str) -> Any:
        if module == STANDARD:
            from . import managers

            ours = getattr(managers, name, None)
            if ours is not None:
                return ours
        return super().find_class(module, name)


def loads(data: bytes, serializer: str = "pickle") -> Any:
    """An object of a message that came over a socket."""
    if serializer != "pickle":
        import xmlrpc.client

        (obj,), _ = xmlrpc.client.loads(data.decode("utf-8"))
        return obj
    if b"multiprocessing" in data:
        return _Unpickler(io.BytesIO(data)).load()
    return _pickle.loads(data)


def check_request(ident: Any, method: Any, args: Any, kwds: Any) -> None:
    """TypeError if these are not what a request consists of."""
    if (
        (ident is not None and type(ident) is not str)
        or type(method) is not str
        or type(args) not in (tuple, list)
        or not (kwds is None or type(kwds) is dict)
    ):
        raise TypeError(f"not a request: {(ident, method, args, kwds)!r:.500}")


def dumps(obj: Any, standard: bool, serializer: str = "pickle") -> bytes:
    """A message for a socket; `standard`: its reader is the standard library."""
    if serializer != "pickle":
        import xmlrpc.client

        return xmlrpc.client.dumps((obj,), None, None, None, True).encode("utf-8")
    if not standard:
        return reduction.dumps(obj)
    if is_plain(obj) or (len(obj) == 4 and is_plain(obj[:2]) and is_plain(obj[2]) and not obj[3]):
        return _pickle.dumps(obj, 4)
    data: bytes = _StandardPickler.dumps(obj)  # nothing by value: its reader may not have what that needs
    return data


class _StandardPickler(reduction.ForkingPickler):
    """Writes our tokens and proxies as the standard library's."""

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> Any:
        file = io.BytesIO()
        cls(file, protocol).dump(obj)
        return file.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        standard_form = getattr(type(obj), "_standard_form", None)
        if standard_form is not None:
            return standard_form(obj)
        if type(obj) is Token:
            return their("Token"), obj.__getstate__()
        return NotImplemented


def their(name: str, instead: str = "") -> Any:
    """A class of the standard library's managers, for a reader that is the standard library."""
    import importlib

    module = sys.modules.get(STANDARD) or importlib.import_module(STANDARD)
    found = getattr(module, name, None)
    return getattr(module, instead or name) if found is None else found


def standard_proxy(typename: str, token: Token) -> Any:
    """What a standard library peer is sent in place of a proxy: as its own proxies pickle."""
    kind = their(typename, "AutoProxy")
    theirs = their("Token")(token.typeid, token.address, token.id)
    return their("RebuildProxy"), (kind, theirs, "pickle", {})


# ---- Over the arena -------------------------------------------------------------------------------------------------

_PLAIN = frozenset({int, str, bytes, float, bool, type(None)})


# Requests whose arguments are of these types go as bytes, which a ring takes much faster than a tuple.
def pack_plain(request: tuple[Any, ...]) -> bytes:
    return marshal.dumps(request, 2)  # without references between equal objects: the fastest


unpack_plain = marshal.loads


class Packed:
    """Arguments that are unpickled by themselves, so that what cannot be unpickled is that call's error alone."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        import pickle

        buffers: list[pickle.PickleBuffer] = []
        data = reduction.dumps(self.value, buffers.append, by_value=True, name="args", on_retry=buffers.clear)
        return _unpack, (data, buffers)


class Unreadable:
    """Stands for what could not be unpickled."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _unpack(data: bytes, buffers: list[Any]) -> Any:
    try:
        return _pickle.loads(data, buffers=buffers)
    except Exception as error:
        return Unreadable(error)


def is_plain(args: tuple[Any, ...]) -> bool:
    """Whether unpickling these cannot fail: numbers, text, bytes, None, and tuples of them."""
    for value in args:
        if type(value) not in _PLAIN and (
            type(value) is not tuple or not _PLAIN.issuperset(map(type, value))
        ):
            return False
    return True


# ---- Errors ---------------------------------------------------------------------------------------------------------


def error_of(kind: str, result: Any) -> BaseException:
    """The exception that a reply other than #RETURN and #PROXY stands for."""
    if kind == "#ERROR" and isinstance(result, BaseException):
        return result
    if kind == "#FAILED":
        return remote.unpack(result)
    if kind == "#TRACEBACK":
        text = str(result)
        return RemoteError(f"the server of the manager failed:\n{text.rstrip()}", text)
    if kind == "#UNSERIALIZABLE":
        return RemoteError(f"the result cannot be pickled: {result}", str(result))
    return ValueError(f"the server of the manager sent a reply of an unknown kind: {kind!r}")
