"""Managers: a process that holds objects, which other processes use through proxies, here or on other machines.

    managers.py ── BaseManager, SyncManager: starting, registering, creating
    proxies.py, managertypes.py ── the client's side of each object       managerclient.py ── how calls travel
    managerserver.py, managerpeers.py, managerobjects.py, managedsync.py, managedqueue.py ── the server

The interface and the wire format are the standard library's: its clients can use these servers, and these clients its
servers.
"""

from __future__ import annotations

import signal
from collections import deque
from typing import Any

from . import util
from .errors import ProcessError
from .errors import RemoteError as RemoteError
from .managedqueue import JoinableQueue, Queue
from .managedsync import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
from .managedvalues import Namespace, ServedIterator, SharedArray, SharedStruct, SharedValue, Value
from .managerclient import link_to, use_ssl_context
from .managerprotocol import SERIALIZERS, Token
from .managerserver import Server
from .managertypes import (
    AcquirerProxy,
    ArrayProxy,
    BarrierProxy,
    ConditionProxy,
    DequeProxy,
    DictProxy,
    EventProxy,
    IteratorProxy,
    KeysProxy,
    ListProxy,
    NamespaceProxy,
    PoolProxy,
    QueueProxy,
    SetProxy,
    StructProxy,
    ValueProxy,
)
from .proxies import AutoProxy, BaseProxy, MakeProxyType, batch, rebuild_proxy
from .segmentmanager import SharedMemoryManager

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from .managerasync import Awaitable

__all__ = [
    "BaseManager",
    "SyncManager",
    "Manager",
    "BaseProxy",
    "Token",
    "SharedMemoryManager",
    "AutoProxy",
    "MakeProxyType",
    "awaitable",
    "batch",
    "use_ssl_context",
]

INITIAL, STARTED, SHUTDOWN = "initial", "started", "shut down"


def awaitable(proxy: BaseProxy) -> Awaitable:
    """The methods of a managed object as coroutines, for asyncio. No thread waits for them.

    `await awaitable(d).get("key")`, `async with awaitable(lock):`, `async for item in awaitable(l):`. They raise what
    the methods of the proxy raise. A call that is cancelled while it waits is taken back. The owner of a managed RLock
    is the task that acquired it.
    """
    from .managerasync import Awaitable

    return Awaitable(proxy)


def RebuildProxy(func: Any, token: Token, serializer: str, kwds: dict[str, Any]) -> Any:
    """What the standard library's proxies pickle as."""
    return rebuild_proxy(func, Token(token.typeid, token.address, token.id), {})


def proxytype_of(manager: BaseManager | None, typeid: str) -> Any:
    """The proxy class registered for a type."""
    registry = manager._registry if manager is not None else SyncManager._registry
    found = registry.get(typeid)
    return (found[3] if found is not None else None) or AutoProxy


class State:
    """Where a manager is in its life. Shared with its finalizer."""

    def __init__(self) -> None:
        self.value = INITIAL


class BaseManager:
    """Starts a server process, or connects to one, and creates objects there.

    `address`: where the server listens: a path (Unix socket), or (host, port); None: a private Unix socket. `authkey`:
    the key that clients have to know, bytes; None: the one of this process, which its children inherit.
    `shutdown_timeout`: seconds that the server is given to end. `ssl_context`: an `ssl.SSLContext`, or a function that
    makes one: for `start` and `get_server` the server's, for `connect` the client's (see `use_ssl_context`).
    `timeout`: seconds for connecting and authenticating.
    """

    _registry: dict[str, tuple[Any, ...]] = {}
    _Server = Server

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: Any = None,
        *,
        shutdown_timeout: float = 1.0,
        ssl_context: Any = None,
        timeout: float = 20.0,
    ) -> None:
        from .process import AuthenticationString, current_process

        self._own_key = authkey is not None
        self._authkey = AuthenticationString(authkey if authkey is not None else current_process().authkey)
        if serializer not in SERIALIZERS:
            raise ValueError(f"the serializer is one of {SERIALIZERS}, not {serializer!r}")
        self._address = address
        self._state = State()
        self._serializer = serializer
        if ctx is None:
            from .context import default_context as ctx
        self._ctx = ctx
        self._process: Any = None
        self._shutdown_timeout = shutdown_timeout
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._finalizer: util.Finalize | None = None

    def _check_initial(self) -> None:
        if self._state.value == STARTED:
            raise ProcessError("Already started server")
        if self._state.value == SHUTDOWN:
            raise ProcessError("Manager has shut down")

    def get_server(self) -> Server:
        """The server object, to run in this process: `serve_forever()`. ProcessError if it was started."""
        self._check_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer, self._ssl_context)

    def connect(self) -> None:
        """Uses a server that runs already. AuthenticationError for a wrong key, OSError if there is none."""
        link = self._link()
        link.timeout = self._timeout
        if self._ssl_context is not None:
            use_ssl_context(self._ssl_context, self._address)
        link.connect()
        link.function("dummy")
        self._state.value = STARTED

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """Starts a server process, which runs `initializer(*initargs)` first. Blocks until it listens."""
        self._check_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        from .connection import Pipe

        reader, writer = Pipe(duplex=False)
        facts = (self._registry, self._address, bytes(self._authkey), self._serializer, self._ssl_context)
        self._process = self._ctx.Process(
            target=type(self)._run_server, args=(*facts, writer, initializer, tuple(initargs)), daemon=True
        )
        number = ":".join(str(i) for i in self._process._identity)
        self._process.name = f"{type(self).__name__}-{number}"
        self._process.start()
        writer.close()
        try:
            answer = reader.recv()
        except EOFError:
            self._process.join()
            raise ProcessError(
                f"the server process of the manager ended before it listened, with exit code "
                f"{self._process.exitcode}; it may have said why on stderr"
            ) from None
        finally:
            reader.close()
        if isinstance(answer, BaseException):
            self._process.join()
            raise answer
        self._address = answer
        self._state.value = STARTED
        self._finalizer = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(self._process, self._link(), self._state, self._shutdown_timeout),
            exitpriority=0,
        )

    @classmethod
    def _run_server(
        cls,
        registry: dict[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str,
        ssl_context: Any,
        writer: Any,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C is for the clients; the server ends with its parent
        if initializer is not None:
            initializer(*initargs)
        from .process import AuthenticationString

        try:
            server = cls._Server(registry, address, AuthenticationString(authkey), serializer, ssl_context)
        except Exception as error:
            writer.send(error)
            raise SystemExit(1) from None
        writer.send(server.address)
        writer.close()
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    @staticmethod
    def _finalize_manager(process: Any, link: Any, state: State, shutdown_timeout: float) -> None:
        if process.is_alive():
            util.info("sending shutdown message to manager")
            try:
                link.within(max(shutdown_timeout, 0.1), "shutdown")
            except Exception as error:
                util.debug("the manager could not be told to shut down: %r", error)
            process.join(timeout=shutdown_timeout)
            if process.is_alive():
                util.info("manager still alive after request; terminating")
                process.terminate()
                process.join(timeout=shutdown_timeout)
                if process.is_alive():
                    process.kill()
                    process.join()
        state.value = SHUTDOWN
        link.lost(link.control)

    def shutdown(self) -> None:
        """Ends the server process. Only of a manager that started one: AttributeError is what the standard library
        raises otherwise, here it is ProcessError."""
        if self._finalizer is None:
            raise ProcessError("this manager has not started a server process")
        self._finalizer()

    def disconnect(self) -> None:
        """Closes this process's connections to the server: what only its proxies keep alive is deleted, what it has
        locked is released. Proxies that are used again make new connections."""
        if self._address is not None:
            self._link().close()

    def join(self, timeout: float | None = None) -> None:
        """Blocks until the server process has ended, at most `timeout` seconds."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _link(self) -> Any:
        return link_to(self._address, self._authkey, self._serializer)

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, tuple[str, ...], Any]:
        if self._state.value != STARTED:
            raise AssertionError(
                "server not yet started" if self._state.value == INITIAL else "manager has shut down"
            )
        made = self._link().function("create", typeid, *args, **kwds)
        ident, exposed = made[:2]
        return Token(typeid, self._address, ident), exposed, made[2] if len(made) > 2 else None

    def _debug_info(self) -> str:
        text: str = self._link().function("debug_info")
        return text

    def _number_of_objects(self) -> int:
        number: int = self._link().function("number_of_objects")
        return number

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

    def __enter__(self) -> Any:
        if self._state.value == INITIAL:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._finalizer is not None:
            self.shutdown()
        else:
            self.disconnect()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a manager belongs to the process that started it; send the proxies that it makes, or connect() to its "
            "address"
        )

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Any = None,
        exposed: Iterable[str] | None = None,
        method_to_typeid: Mapping[str, str] | None = None,
        create_method: bool = True,
        *,
        blocking: bool | None = None,
    ) -> None:
        """Adds a type: `callable` makes the object in the server, `proxytype` (None: AutoProxy) is used by clients,
        `exposed` are the methods that may be called (None: those of `proxytype`, or all public ones), results of the
        methods in `method_to_typeid` stay in the server and come as proxies. `create_method`: the manager gets a method
        of that name.

        `blocking`: False if its methods never wait for anything: they are then run without a thread of their own.
        """
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(proxytype, "_method_to_typeid_", None)
        if method_to_typeid:
            for key, value in method_to_typeid.items():
                if type(key) is not str or type(value) is not str:
                    raise TypeError(f"method_to_typeid maps names to names of types: {key!r}: {value!r}")
        cls._registry[typeid] = (callable, exposed, method_to_typeid, proxytype, blocking)
        if create_method:

            def temp(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
                util.debug("requesting creation of a shared %r object", typeid)
                token, exp, lease = self._create(typeid, *args, **kwds)
                link = self._link()
                if lease is not None:
                    return proxytype(token, self._serializer, self, self._authkey, exp, lease=lease)
                if link.is_standard:
                    proxy = proxytype(token, self._serializer, self, self._authkey, exp)
                    link.function("decref", token.id)
                    return proxy
                return proxytype(token, self._serializer, self, self._authkey, exp, counted=True)

            temp.__name__ = temp.__qualname__ = typeid
            setattr(cls, typeid, temp)


def _make_pool(*args: Any, **kwds: Any) -> Any:
    """A pool in the server. That has threads, so processes of the pool are not forks of it."""
    from .context import get_context, get_start_method

    method = get_start_method()
    return get_context("forkserver" if method == "fork" else method).Pool(*args, **kwds)


class SyncManager(BaseManager):
    """A manager of the usual containers, values, locks and queues: `processing.Manager()` gives a started one."""


def Manager(ctx: Any = None) -> SyncManager:
    """A started SyncManager, which ends with this process."""
    manager = SyncManager(ctx=ctx)
    manager.start()
    return manager


for _name, _callable, _proxytype in (
    ("Queue", Queue, QueueProxy),
    ("JoinableQueue", JoinableQueue, QueueProxy),
    ("Event", Event, EventProxy),
    ("Lock", Lock, AcquirerProxy),
    ("RLock", RLock, AcquirerProxy),
    ("Semaphore", Semaphore, AcquirerProxy),
    ("BoundedSemaphore", BoundedSemaphore, AcquirerProxy),
    ("Condition", Condition, ConditionProxy),
    ("Barrier", Barrier, BarrierProxy),
    ("Pool", _make_pool, PoolProxy),
    ("list", list, ListProxy),
    ("dict", dict, DictProxy),
    ("set", set, SetProxy),
    ("deque", deque, DequeProxy),
    ("Value", Value, ValueProxy),
    ("Array", SharedArray, ArrayProxy),
    ("SharedValue", SharedValue, ValueProxy),
    ("SharedStruct", SharedStruct, StructProxy),
    ("SharedArray", SharedArray, ArrayProxy),
    ("Namespace", Namespace, NamespaceProxy),
):
    SyncManager.register(_name, _callable, _proxytype)
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("Keys", ServedIterator, proxytype=KeysProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
