"""Proxies: how processes use the objects that the server of a manager holds.

A proxy is a token (which server, which object) and a reference, so that the object lives: in a program that the server
belongs to it is a lease of the arena, which messages carry, forks copy and the death of a process gives back; elsewhere
the server counts. Proxies pickle at any time, to any process that may know the key, and may be used by any thread.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from . import _program, reduction
from . import managerprotocol as protocol
from .managerclient import Link, link_to
from .managerprotocol import Token

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["BaseProxy", "MakeProxyType", "AutoProxy", "rebuild_proxy", "batch"]

NO_KWDS: dict[str, Any] = {}


def server_of_this_thread(address: Any) -> Any:
    """The server that this thread works for, if it listens at `address`."""
    server = protocol.reading.server
    if server is None or server.address != address or server.pid != os.getpid():
        return None
    return server


def rebuild_proxy(kind: Any, token: Token, facts: dict[str, Any]) -> Any:
    """Unpickles a proxy; in the server of the object, what stands for the object itself there."""
    server = server_of_this_thread(token.address)
    if server is not None:
        return server.refer(token, facts.get("flight"))
    if protocol.reading.link is not None:
        token.address = protocol.reading.link.reachable(token.address)
    if kind is AutoProxy:
        return AutoProxy(token, "pickle", **facts)
    if kind is None:
        return BaseProxy(token, "pickle", **facts)
    return kind(token, "pickle", **facts)


class BaseProxy:
    """Stands for an object in the server of a manager; calls go there, one after the other for each thread.

    A call raises what the method raised; ConnectionError if the server has ended or the network is down;
    RemoteError if the result cannot be pickled.
    """

    _exposed_: tuple[str, ...] = ()
    _method_to_typeid_: dict[str, str] = {}

    def __init__(
        self,
        token: Token,
        serializer: str = "pickle",
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Iterable[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
        *,
        lease: Any = None,
        counted: bool = False,
        flight: int | None = None,
    ) -> None:
        if authkey is None:
            if manager is not None:
                authkey = manager._authkey
            else:
                from .process import current_process

                authkey = current_process().authkey
        assert authkey is not None
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._authkey = authkey
        self._own_key = manager is not None and manager._own_key
        self._exposed = tuple(exposed) if exposed is not None else self._exposed_
        self._link: Link = link_to(token.address, authkey, serializer)
        self._lease = lease
        if lease is None and (incref or counted):
            self._link.count(token.id, flight, counted)
            weakref.finalize(self, self._link.drop, token.id, False).atexit = False
        elif lease is not None:
            weakref.finalize(self, self._link.drop, token.id, True).atexit = False

    def _callmethod(self, methodname: str, args: tuple[Any, ...] = (), kwds: dict[str, Any] = NO_KWDS) -> Any:
        """Has the server call a method of the object, and gives its result, or a proxy of the result."""
        kind, result = self._link.call(self._id, methodname, args, kwds)
        if kind == "#RETURN":
            return result
        try:
            return self._other(methodname, kind, result)
        finally:
            del result  # an exception that is kept alive by its own traceback would be collected late

    def _other(self, methodname: str, kind: str, result: Any) -> Any:
        if kind == "#PROXY":
            exposed, token = result
            lease = None
            if type(token) is tuple:
                token, lease = token
            token.address = self._token.address  # where we reach it
            from .managers import proxytype_of

            make = proxytype_of(self._manager, token.typeid)
            if self._link.is_standard:
                proxy = make(token, self._serializer, self._manager, self._authkey, exposed)
                self._link.function("decref", token.id)
                return proxy
            facts = {"lease": lease} if lease is not None else {"counted": True}
            return make(token, self._serializer, self._manager, self._authkey, exposed, **facts)
        try:
            raise protocol.error_of(kind, result)
        finally:
            del result

    def _getvalue(self) -> Any:
        """A copy of the object."""
        return self._callmethod("#GETVALUE")

    def __reduce__(self) -> tuple[Any, ...]:
        facts: dict[str, Any] = {"exposed": self._exposed}
        if reduction.spawning.popen is not None or (self._own_key and _program.is_carrying()):
            facts["authkey"] = bytes(self._authkey)
        if self._lease is not None and _program.is_carrying():
            facts["lease"] = self._lease
        elif not self._link.is_standard:
            facts["flight"] = self._link.function("hold", self._id)
        return rebuild_proxy, (self._kind(), self._token, facts)

    def _kind(self) -> Any:
        return type(self)

    def _standard_form(self) -> Any:
        return protocol.standard_proxy(type(self).__name__, self._token)

    def __deepcopy__(self, memo: object) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        """The object's own repr; in place of it that of the proxy, if the server cannot be reached."""
        try:
            return str(self._callmethod("__repr__"))
        except Exception:
            return repr(self)[:-1] + "; '__str__()' failed>"


# ---- Making proxy types ---------------------------------------------------------------------------------------------


def _forward(name: str) -> Callable[..., Any]:
    def method(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = method.__qualname__ = name
    return method


def MakeProxyType(name: str, exposed: Iterable[str], _cache: dict[Any, Any] = {}) -> Any:  # noqa: B006
    """A proxy class with the methods `exposed`."""
    exposed = tuple(exposed)
    try:
        return _cache[name, exposed]
    except KeyError:
        pass
    body: dict[str, Any] = {method: _forward(method) for method in exposed}
    made = _cache[name, exposed] = type(
        name, (BaseProxy,), {**body, "_exposed_": exposed, "__module__": __name__}
    )
    return made


class _Auto:
    """Makes proxies whose methods are those of the object, as the server says."""

    __name__ = "AutoProxy"
    __qualname__ = "AutoProxy"

    def __call__(
        self,
        token: Token,
        serializer: str = "pickle",
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Iterable[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
        **facts: Any,
    ) -> BaseProxy:
        if authkey is None and manager is not None:
            authkey = manager._authkey
        if authkey is None:
            from .process import current_process

            authkey = current_process().authkey
        if exposed is None:
            exposed = link_to(token.address, authkey, serializer).function("get_methods", token)
        kind = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
        proxy: BaseProxy = kind(token, serializer, manager, authkey, exposed, incref, **facts)
        proxy._kind = lambda: AutoProxy  # type: ignore[method-assign]
        return proxy

    def __reduce__(self) -> str:
        return "AutoProxy"


AutoProxy = _Auto()


# ---- Several calls at once ------------------------------------------------------------------------------------------


class Recorder:
    """Collects calls: `recorder(proxy).method(...)` gives a place where the result will be."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any, Any]] = []
        self.results: list[Later] = []
        self.link: Link | None = None

    def __call__(self, proxy: BaseProxy) -> Any:
        if self.link is None:
            self.link = proxy._link
        elif self.link is not proxy._link:
            raise ValueError("the calls of a batch go to one server")
        return _Recording(self, proxy)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.send()

    def send(self) -> None:
        """Sends what was collected, and waits until it is done."""
        if not self.calls or self.link is None:
            return
        calls, results = self.calls, self.results
        self.calls, self.results = [], []
        if self.link.control is None:
            self.link.connect()
        if self.link.is_standard:
            replies = [self.link.call(*call) for call in calls]
        else:
            replies = self.link.function("batch", calls)
        for later, reply in zip(results, replies, strict=True):
            later.reply = reply


class Later:
    """The result of a call in a batch, once that was sent."""

    def __init__(self, proxy: BaseProxy, method: str) -> None:
        self.proxy, self.method = proxy, method
        self.reply: tuple[str, Any] | None = None

    def result(self) -> Any:
        """What the call returned; raises what it raised. RuntimeError before the batch was sent."""
        if self.reply is None:
            raise RuntimeError("the batch has not been sent yet: that is done at the end of its `with` block")
        kind, result = self.reply
        return result if kind == "#RETURN" else self.proxy._other(self.method, kind, result)


class _Recording:
    def __init__(self, recorder: Recorder, proxy: BaseProxy) -> None:
        self._recorder, self._proxy = recorder, proxy

    def __getattr__(self, name: str) -> Any:
        def record(*args: Any, **kwds: Any) -> Later:
            later = Later(self._proxy, name)
            self._recorder.calls.append((self._proxy._id, name, args, kwds))
            self._recorder.results.append(later)
            return later

        return record


def batch() -> Recorder:
    """`with batch() as b: x = b(proxy).method(...)`: all calls in one round trip, in order; then `x.result()`.

    A call that raises does not stop the others. Calls that would have to wait (a lock that is held, an empty queue) are
    not waited for: BlockingIOError.
    """
    return Recorder()


def _iterate(proxy: BaseProxy) -> Iterator[Any]:
    """The items of a managed sequence, fetched in batches that grow."""
    at, size = 0, 32
    while True:
        items = proxy._callmethod("__getitem__", (slice(at, at + size),))
        yield from items
        at += len(items)
        if len(items) < size:
            return
        size = min(size * 4, 4096)
