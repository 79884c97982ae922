"""Classes of users in a manager (register), and the life of a manager: initializer, shutdown, children, threads."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, children, ended, until
from manager_helpers import Doing, count, in_child, run_in_child, started
from processing import ProcessError
from processing.managers import BaseManager, BaseProxy, RemoteError, SyncManager

pytestmark = pytest.mark.ends


# ---- Classes of users -----------------------------------------------------------------------------------------------


class Unreadable(Exception):
    """Pickles, and cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


class OwnError(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class Service:
    def __init__(self, n: int = 0) -> None:
        self.n = n
        self.gate = threading.Event()
        self.parts = [n]

    def next(self) -> int:
        self.n += 1
        return self.n

    def wait(self) -> bool:
        return self.gate.wait(LIMIT)

    def open(self) -> None:
        self.gate.set()

    def fail(self, how: str) -> None:
        if how == "unreadable":
            raise Unreadable(1, 2)
        if how == "unpicklable":
            raise ValueError("it holds a lock", threading.Lock())
        if how == "base":
            raise SystemExit(3)
        raise OwnError("no luck", 7)

    def result(self, how: str) -> Any:
        return threading.Lock() if how == "lock" else iter([1]).__reduce__ if how == "method" else 1

    def take(self, *values: Any) -> int:
        return len(values)

    def part(self) -> list[int]:
        return self.parts

    def numbers(self) -> Iterator[int]:
        yield from range(self.n)

    def me(self) -> Service:
        return self

    def where(self) -> tuple[int, int]:
        return os.getpid(), threading.get_native_id()

    def _private(self) -> str:
        return "private"

    def __add__(self, other: int) -> int:
        return self.n + other


class ServiceProxy(BaseProxy):
    _exposed_ = ("next", "part", "__add__", "_private")
    _method_to_typeid_ = {"part": "Parts"}

    def next(self) -> Any:
        return self._callmethod("next"), "of the proxy"

    def part(self) -> Any:
        return self._callmethod("part")

    def __add__(self, other: int) -> Any:
        return self._callmethod("__add__", (other,))


KEPT = Service(100)


def kept() -> Service:
    return KEPT


def set_kept(n: int) -> None:
    KEPT.n = n


class Custom(SyncManager):
    pass


Custom.register("Service", Service)
Custom.register("Few", Service, exposed=("next", "_private"))
Custom.register("WithProxy", Service, ServiceProxy)
Custom.register("Parts", None, SyncManager._registry["list"][3], create_method=False)
Custom.register("Inside", Service, method_to_typeid={"part": "Parts", "numbers": "Iterator", "me": "Me"})
Custom.register("Me", create_method=False)
Custom.register("kept", kept)
Custom.register("Quick", Service, blocking=False)


@pytest.fixture
def custom(start_method: Any) -> Iterator[Any]:
    with started(Custom(ctx=start_method)) as made:
        made.ctx = start_method
        yield made


def call_next(service: Any) -> Any:
    return service.next()


def test_registered(custom: Any) -> None:
    service = custom.Service(5)
    assert service.next() == 6
    assert run_in_child(custom.ctx, call_next, service) == 7
    assert service.where()[0] == custom._process.pid
    assert not hasattr(service, "_private") and not hasattr(service, "n")
    assert not hasattr(custom, "Parts") and not hasattr(SyncManager, "Service")
    assert "AutoProxy[Service]" in repr(service)
    with pytest.raises(RemoteError, match="_private"):
        service._callmethod("_private")


def test_exposed(custom: Any) -> None:
    few = custom.Few()
    assert (few.next(), few._private()) == (1, "private")
    assert not hasattr(few, "part")
    with pytest.raises(RemoteError, match=r"part.*not in exposed"):
        few._callmethod("part")


def test_proxytype(custom: Any) -> None:
    made = custom.WithProxy(1)
    assert type(made) is ServiceProxy
    assert made.next() == (2, "of the proxy") and made + 5 == 7
    assert run_in_child(custom.ctx, call_next, made) == (3, "of the proxy")


def test_method_to_typeid(custom: Any) -> None:
    before = count(custom)
    for made in (custom.Inside(3), custom.WithProxy(3)):
        part = made.part()
        part.append(4)
        assert isinstance(part, BaseProxy) and made.part()[:] == [3, 4]
    made = custom.Inside(3)
    numbers = made.numbers()
    assert isinstance(numbers, BaseProxy) and [*numbers] == [0, 1, 2]
    made.me().next()
    assert made.next() == 5
    del made, part, numbers
    until(lambda: count(custom) == before)
    with pytest.raises(TypeError, match="names"):
        Custom.register("Bad", Service, method_to_typeid={"part": 5})  # type: ignore[dict-item]


def test_an_existing_object(custom: Any) -> None:
    one, two = custom.kept(), custom.kept()
    first = one.next()
    assert two.next() == first + 1
    assert run_in_child(custom.ctx, call_next, two) == first + 2
    assert one._id == two._id
    ident = one._id
    del one, two
    until(lambda: count(custom) == 0)
    assert custom.kept().next() == first + 3, f"the object itself lives on ({ident})"


def test_methods_may_block(custom: Any) -> None:
    service, other, shared = custom.Service(), custom.Service(), custom.dict(a=1)
    waiting = [Doing(service.wait) for _ in range(12)]
    assert [other.next() for _ in range(20)] == [*range(1, 21)]
    assert run_in_child(custom.ctx, call_next, other) == 21
    assert shared["a"] == 1
    assert all(doing.thread.is_alive() for doing in waiting)
    service.open()
    assert [doing.result() for doing in waiting] == [True] * 12


def test_not_blocking(custom: Any) -> None:
    """Such calls are carried out by the thread that reads requests; those of others need one each."""
    quick, service = custom.Quick(), custom.Service()
    assert len({quick.where(), quick.where(), Doing(quick.where).result()}) == 1
    waiting = Doing(service.wait)
    until(lambda: custom._link().function("dummy") is None)
    assert quick.next() == 1
    service.open()
    assert waiting.result()


def test_errors_of_methods(custom: Any) -> None:
    service = custom.Service()
    with pytest.raises(OwnError, match="no luck") as caught:
        service.fail("")
    assert caught.value.code == 7
    with pytest.raises(TypeError, match="argument"):
        service.next(1, 2)
    with pytest.raises(KeyError, match="gone"):
        custom.dict()["gone"]
    assert service.next() == 1


@pytest.mark.parametrize("how", ["unreadable", "unpicklable"])
def test_errors_that_do_not_travel(custom: Any, how: str) -> None:
    service = custom.Service()
    with pytest.raises(RemoteError, match="Unreadable" if how == "unreadable" else "it holds a lock"):
        service.fail(how)
    assert service.next() == 1
    assert Doing(service.next).result() == 2


@pytest.mark.time_limit(15)
def test_a_method_that_exits(custom: Any) -> None:
    """SystemExit of a method is not the end of the thread that serves others."""
    service = custom.Service()
    with pytest.raises((RemoteError, SystemExit)):
        service.fail("base")
    assert service.next() == 1
    quick = custom.Quick()
    with pytest.raises((RemoteError, SystemExit)):
        quick.fail("base")
    assert quick.next() == 1


def test_results_and_arguments_that_do_not_pickle(custom: Any) -> None:
    service, shared = custom.Service(), custom.list()
    with pytest.raises(RemoteError, match="lock"):
        service.result("lock")
    assert service.next() == 1
    for call in (service.take, shared.append):
        with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
            call(threading.Lock())
    assert (service.take(1, 2), shared[:]) == (2, [])


class CannotBeRead:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_arguments_that_cannot_be_unpickled(custom: Any) -> None:
    service, shared = custom.Service(), custom.list()
    for call in (service.take, shared.append, custom.list, custom.Service):
        with pytest.raises((ValueError, RemoteError), match="not a number"):
            call([CannotBeRead()])
    assert (service.next(), shared[:]) == (1, [])


# ---- The life of a manager ------------------------------------------------------------------------------------------


def test_initializer(start_method: Any) -> None:
    made = Custom(ctx=start_method)
    made.start(set_kept, (1000,))
    with started(made):
        assert made.kept().next() == 1001
    with pytest.raises(TypeError, match="callable"):
        Custom(ctx=start_method).start(5)  # type: ignore[arg-type]


def break_down() -> None:
    raise OSError("no such luck")


def test_an_initializer_that_fails(start_method: Any, capfd: Any) -> None:
    made = Custom(ctx=start_method)
    with pytest.raises(ProcessError, match="ended before it listened"):
        made.start(break_down)
    if start_method.get_start_method() != "forkserver":  # whose stderr is another one
        assert "no such luck" in capfd.readouterr().err


@pytest.mark.once
def test_states(start_method: Any) -> None:
    made = SyncManager(ctx=start_method)
    with pytest.raises(AssertionError, match="not yet started"):
        made.list()
    with pytest.raises(ProcessError, match="not started"):
        made.shutdown()
    made.start()
    with pytest.raises(ProcessError, match="Already"):
        made.start()
    with pytest.raises(ProcessError, match="Already"):
        made.get_server()
    with pytest.raises(TypeError, match="send the proxies"):
        pickle.dumps(made)
    shared = made.list([1])
    process = made._process
    made.shutdown()
    assert not process.is_alive() and process.exitcode == 0
    made.shutdown()
    made.join(LIMIT)
    with pytest.raises(ProcessError, match="shut down"):
        made.start()
    with pytest.raises(AssertionError, match="shut down"):
        made.list()
    for call in (lambda: shared.append(1), lambda: shared[0], lambda: [*shared], lambda: len(shared)):
        with pytest.raises(ConnectionError, match="cannot be reached"):
            call()
    assert "failed" in str(shared) and "ListProxy" in repr(shared)


@pytest.mark.once
def test_shutdown_with_clients_in_calls(start_method: Any) -> None:
    made = Custom(ctx=start_method, shutdown_timeout=LIMIT)
    made.start()
    lock, items, service, event = made.Lock(), made.Queue(), made.Service(), made.Event()
    lock.acquire()
    ready = [Doing(call) for call in (lock.acquire, items.get, event.wait, service.wait)]
    with in_child(start_method, wait_forever, event, flag := start_method.Event()) as result:
        assert flag.wait(LIMIT)
        made.shutdown()
        for doing in ready:
            with pytest.raises(ConnectionError):
                doing.result()
        assert result() == "ConnectionError"


def wait_forever(event: Any, flag: Any) -> str:
    flag.set()
    try:
        event.wait()
    except ConnectionError:
        return "ConnectionError"
    return "set"


def test_dropped_without_shutdown(start_method: Any, is_running: Any) -> None:
    made = start_method.Manager()
    pid = made._process.pid
    shared = made.list([1])
    del made
    shared._manager = None
    until(lambda: count_garbage() and not is_running(pid))


def count_garbage() -> bool:
    import gc

    gc.collect()
    return True


def connect_call_and_leave(address: Any, key: bytes) -> int:
    made = Custom(address, key)
    made.connect()
    made.list([made.kept().next()])
    made.disconnect()
    return int(made.kept().next())


def test_connect(start_method: Any) -> None:
    made = Custom(authkey=b"another key than that of this program", ctx=start_method)
    made.start(set_kept, (5,))
    with started(made):
        existing = made.kept()
        key = b"another key than that of this program"
        assert run_in_child(start_method, connect_call_and_leave, made.address, key) == 7
        assert existing.next() == 8
        wrong = Custom(made.address, b"wrong")
        with pytest.raises(processing.AuthenticationError):
            wrong.connect()
        with pytest.raises(ProcessError, match="not started"):
            wrong.shutdown()
        assert run_in_child(start_method, call_next, existing) == 9, "the proxy brings its key along"


def use_own_manager(results: Any) -> None:
    with processing.Manager() as made:
        shared = made.list([1])
        with child(processing, shared.append, 2) as process:
            ended(process)
        results.put(shared[:])


def test_a_manager_of_a_child(each: Any) -> None:
    results = each.Queue()
    with child(each.ctx, use_own_manager, results) as process:
        assert results.get(timeout=LIMIT) == [1, 2]
        ended(process)


def leave_manager_behind(results: Any) -> None:
    made = processing.Manager()
    results.put((made._process.pid, made.list([1])[:]))


def test_a_child_that_forgets_its_manager(each: Any, is_running: Any) -> None:
    results = each.Queue()
    with child(each.ctx, leave_manager_behind, results) as process:
        pid, items = results.get(timeout=LIMIT)
        assert items == [1]
        ended(process)
    until(lambda: not is_running(pid))


def test_two_managers(start_method: Any) -> None:
    with started(SyncManager(ctx=start_method)) as one, started(SyncManager(ctx=start_method)) as two:
        inner = two.list([1])
        outer = one.list([inner])
        outer[0].append(2)
        assert inner[:] == [1, 2]
        before = count(two)
        del inner
        assert outer[0][:] == [1, 2] and count(two) == before
        outer.clear()
        until(lambda: count(two) == before - 1)


def wait_for_event(number: int, event: Any, ready: Any) -> None:
    ready.release()
    assert event.wait(LIMIT) is True


def test_clients_need_no_threads_of_the_server(each: Any) -> None:
    gate, ready = each.Event(), each.Semaphore(0)
    each.list().append(1)
    tasks = f"/proc/{each._process.pid}/task"
    before = len(os.listdir(tasks))
    waiting = [Doing(wait_for_event, 0, gate, ready) for _ in range(60)]
    with children(each.ctx, 3, wait_for_event, gate, ready) as processes:
        for _ in range(63):
            assert ready.acquire(True, LIMIT)
        assert len(os.listdir(tasks)) == before
        gate.set()
        ended(*processes)
    for doing in waiting:
        doing.result()


@pytest.mark.leaks("the threads of a server end with its process")
def test_get_server() -> None:
    class Local(BaseManager):
        pass

    Local.register("list", list, SyncManager._registry["list"][3])
    server = Local(authkey=b"of this test").get_server()
    thread = threading.Thread(target=serve, args=(server,), daemon=True)
    thread.start()
    made = Local(server.address, b"of this test")
    made.connect()
    shared = made.list([1])
    shared.append(2)
    assert shared[:] == [1, 2]
    assert run_in_child(processing.get_context("fork"), len, shared) == 2
    made._link().function("shutdown")
    thread.join(LIMIT)
    assert not thread.is_alive()
    with pytest.raises(ConnectionError):
        shared.append(3)


def serve(server: Any) -> None:
    with pytest.raises(SystemExit):
        server.serve_forever()
