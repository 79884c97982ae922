"""Managers in one program: types, nested objects, lifetime, batches, asyncio, registered classes."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import os
import pickle
import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, children, ended, kill, until
from interop_programs import Doing
from processing import ProcessError
from processing.managers import BaseManager, BaseProxy, RemoteError, SyncManager, awaitable, batch

pytestmark = pytest.mark.once


# ---- Types ----------------------------------------------------------------------------------------------------------


def change_all(objects: dict[str, Any]) -> None:
    objects["list"].append(4)
    objects["dict"]["new"] = [1]
    objects["set"].add(9)
    objects["deque"].appendleft(0)
    objects["namespace"].name = "set by a child"
    objects["value"].value += 1
    objects["shared"].add(5)
    objects["struct"].set((7, 0.5))
    objects["array"][1] = 70
    with objects["lock"], objects["rlock"], objects["rlock"]:
        pass
    objects["semaphore"].acquire()
    objects["queue"].put("from a child")
    objects["joinable"].get()
    objects["joinable"].task_done()
    objects["event"].set()
    with objects["condition"]:
        objects["condition"].notify_all()
    objects["barrier"].wait(LIMIT)


def test_every_type_is_shared(each: Any) -> None:
    objects = {
        "list": each.list([1, 2]),
        "dict": each.dict(a=1),
        "set": each.set({1}),
        "deque": each.deque([1], 3),
        "namespace": each.Namespace(x=1),
        "value": each.Value("i", 1),
        "shared": each.SharedValue("i", 10),
        "struct": each.SharedStruct("id", (1, 2.0)),
        "array": each.Array("i", [1, 2, 3]),
        "lock": each.Lock(),
        "rlock": each.RLock(),
        "semaphore": each.BoundedSemaphore(2),
        "queue": each.Queue(),
        "joinable": each.JoinableQueue(),
        "event": each.Event(),
        "condition": each.Condition(),
        "barrier": each.Barrier(2),
    }
    objects["joinable"].put("work")
    with child(each.ctx, change_all, objects) as process:
        with objects["condition"]:
            assert objects["condition"].wait(LIMIT)
        objects["barrier"].wait(LIMIT)
        process.join(LIMIT)
        ended(process)
    assert objects["list"][:] == [1, 2, 4]
    assert dict(objects["dict"].items()).keys() == {"a", "new"}
    assert set(objects["set"]) == {1, 9}
    assert list(objects["deque"]) == [0, 1]
    assert (objects["namespace"].x, objects["namespace"].name) == (1, "set by a child")
    assert (objects["value"].value, objects["shared"].get(), objects["struct"].get()) == (2, 15, (7, 0.5))
    assert objects["array"][:].tolist() == [1, 70, 3] == list(objects["array"])
    assert objects["queue"].get(timeout=LIMIT) == "from a child"
    assert objects["joinable"].join(LIMIT)
    assert objects["event"].is_set()
    assert objects["semaphore"].acquire() and not objects["semaphore"].acquire(False)


def test_a_pool(manager: Any) -> None:
    with manager.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert pool.apply_async(abs, (-3,)).get(LIMIT) == 3
        assert list(pool.imap(abs, range(-5, 0))) == [5, 4, 3, 2, 1]


def test_errors_of_the_types(manager: Any) -> None:
    with pytest.raises(queue.Empty):
        manager.Queue().get(timeout=SHORT)
    full = manager.Queue(1)
    full.put(1)
    with pytest.raises(queue.Full):
        full.put_nowait(2)
    with pytest.raises(KeyError, match="missing"):
        manager.dict()["missing"]
    with pytest.raises(IndexError):
        manager.list().pop()
    with pytest.raises(AttributeError):
        manager.Namespace().missing  # noqa: B018
    with pytest.raises(RuntimeError):
        manager.RLock().release()
    with pytest.raises(Exception, match="i"):
        manager.SharedValue("i", 1 << 40)
    with pytest.raises(RemoteError, match="not iterable"):
        manager.list(5)


# ---- Objects in objects ---------------------------------------------------------------------------------------------


def change_nested(shared: Any) -> None:
    shared["a"]["b"] = 1
    shared["lists"][0].append("inner")
    shared["space"].items = [1]
    shared["space"].items.append(2)


def test_a_change_of_what_is_inside_arrives(each: Any) -> None:
    shared = each.dict()
    shared["a"] = {}
    shared["lists"] = [[]]
    shared["space"] = each.Namespace()
    with child(each.ctx, change_nested, shared) as process:
        process.join(LIMIT)
        ended(process)
    assert dict(shared["a"]) == {"b": 1}
    assert shared["lists"][0][:] == ["inner"]
    assert shared["space"].items[:] == [1, 2]
    del shared["space"]
    assert shared == {"a": {"b": 1}, "lists": [["inner"]]}


def test_a_copy_is_plain(manager: Any) -> None:
    nested = manager.dict(a=[1, {"b": {2}}], d=deque([1], 4))
    for plain in (nested._getvalue(), copy.deepcopy(nested)):
        assert plain == {"a": [1, {"b": {2}}], "d": deque([1], 4)}
        assert type(plain["a"]) is list and type(plain["a"][1]["b"]) is set and plain["d"].maxlen == 4


def test_proxies_in_containers(manager: Any) -> None:
    inner, lock = manager.list([1]), manager.Lock()
    outer = manager.list([inner, lock])
    del inner, lock
    gc.collect()
    outer[0].append(2)
    assert outer[0][:] == [1, 2]
    with outer[1]:
        assert not outer[1].acquire(False)


def test_iteration_takes_batches(manager: Any) -> None:
    numbers = manager.list(range(10_000))
    assert list(numbers) == list(range(10_000))
    shared = manager.dict.__get__(manager)({n: n for n in range(5000)})
    assert list(shared) == list(range(5000))
    iterator = iter(numbers)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    numbers.clear()
    assert len([*iterator]) < 10_000  # what had come already


def test_comparison_and_text(manager: Any) -> None:
    one, two = manager.list([1]), manager.list([1])
    assert one == two == [1] and one != [2] and one != manager.list()
    assert manager.dict(a=1) == {"a": 1} and manager.set({1}) == {1}
    assert str(one) == "[1]" and repr(one).startswith("<ListProxy object, typeid 'list' at 0x")
    assert 1 in one and len(one) == 1 and list(reversed(manager.list([1, 2]))) == [2, 1]
    assert str(manager.Namespace(a=1)) == "Namespace(a=1)"
    one += [2]
    one *= 2
    assert one[:] == [1, 2, 1, 2] and (one + [3])[-1] == 3


# ---- Lifetime -------------------------------------------------------------------------------------------------------


def count(manager: Any) -> int:
    gc.collect()
    return int(manager._number_of_objects())


def pass_on(source: Any, target: Any) -> None:
    target.put(source.get(timeout=LIMIT))


def add_one(shared: Any) -> None:
    shared.append(1)


def test_objects_go_with_their_last_proxy(each: Any) -> None:
    before = count(each)
    shared = each.list([[1], {"a": [2]}])
    assert count(each) == before + 4
    with child(each.ctx, add_one, shared) as process:
        process.join(LIMIT)
        ended(process)
    del shared
    until(lambda: count(each) == before)


def test_a_proxy_in_a_message_keeps_its_object(each: Any) -> None:
    before = count(each)
    source, target = each.ctx.Queue(), each.ctx.Queue()
    source.put(each.list(["kept"]))
    gc.collect()
    with child(each.ctx, pass_on, source, target) as process:
        process.join(LIMIT)
        ended(process)
    assert count(each) == before + 1
    assert target.get(timeout=LIMIT)[:] == ["kept"]
    until(lambda: count(each) == before)


def test_an_argument_that_the_parent_drops_at_once(each: Any) -> None:
    done = each.ctx.Queue()
    process = each.ctx.Process(target=report_of, args=(each.list([5]), done))
    process.start()
    gc.collect()
    assert done.get(timeout=LIMIT) == [5]
    process.join(LIMIT)
    ended(process)


def report_of(shared: Any, done: Any) -> None:
    done.put(shared[:])


def hold_and_wait(manager_list: Any, lock: Any, ready: Any) -> None:
    lock.acquire()
    ready.put(len(manager_list))
    threading.Event().wait()


def test_a_killed_child(each: Any) -> None:
    before = count(each)
    ready = each.ctx.Queue()
    lock, items = each.Lock(), each.Queue()
    with child(each.ctx, hold_and_wait, each.list([1]), lock, ready) as process:
        assert ready.get(timeout=LIMIT) == 1
        waiting = Doing(lock.acquire)
        kill(process)
        with pytest.raises(processing.LockOwnerDied, match=str(process.pid)):
            waiting.result()
    assert lock.acquire(True, LIMIT)
    lock.release()
    with child(each.ctx, items.get) as process:
        until(process.is_alive)
        kill(process)
    items.put("for the living")
    assert items.get(timeout=LIMIT) == "for the living"
    del lock, items, waiting, process
    until(lambda: count(each) == before)


def test_pickled_by_threads(manager: Any) -> None:
    before = count(manager)
    shared = manager.list()

    def work(n: int) -> None:
        for _ in range(50):
            processing.SimpleQueue().put(shared)
            shared.append(n)

    for doing in [Doing(work, n) for n in range(4)]:
        doing.result()
    assert len(shared) == 200
    shared = None
    until(lambda: count(manager) == before)


# ---- Whose lock -----------------------------------------------------------------------------------------------------


def test_an_rlock_belongs_to_a_thread(manager: Any) -> None:
    lock = manager.RLock()
    with lock, lock:
        assert Doing(lock.acquire, False).result() is False
        with pytest.raises(RuntimeError):
            Doing(lock.release).result()
    assert Doing(lock.acquire, False).result() is True
    until(lambda: lock.acquire(False))  # that thread has ended
    lock.release()


def test_an_interrupted_call_is_taken_back(manager: Any) -> None:
    import signal

    lock, items = manager.Lock(), manager.Queue()
    lock.acquire()
    main = threading.get_ident()

    for blocked in (lock.acquire, items.get):
        timer = threading.Timer(SHORT, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            blocked()
        timer.join()
    lock.release()
    assert lock.acquire(False)
    items.put(1)
    assert items.get(timeout=LIMIT) == 1


# ---- Several calls at once, and asyncio -----------------------------------------------------------------------------


def test_a_batch(manager: Any) -> None:
    shared, lock = manager.dict(a=1), manager.Lock()
    lock.acquire()
    with batch() as calls:
        results = [
            calls(shared).get("a"),
            calls(shared).pop("missing"),
            calls(shared).__setitem__("b", 2),
            calls(lock).acquire(),
            calls(shared).keys(),
        ]
        with pytest.raises(RuntimeError, match="not been sent"):
            results[0].result()
    assert results[0].result() == 1
    with pytest.raises(KeyError):
        results[1].result()
    with pytest.raises(BlockingIOError):
        results[3].result()
    assert results[4].result() == ["a", "b"]
    lock.release()
    assert lock.acquire(False)
    with processing.get_context("fork").Manager() as other, batch() as calls:
        calls(shared).clear()
        with pytest.raises(ValueError, match="one server"):
            calls(other.list())


def test_asyncio(manager: Any) -> None:
    lock, items, numbers = manager.RLock(), manager.Queue(), manager.list(range(500))

    async def program() -> None:
        getters = [asyncio.create_task(awaitable(items).get()) for _ in range(50)]
        await asyncio.sleep(SHORT)
        for n in range(50):
            await awaitable(items).put(n)
        assert sorted(await asyncio.gather(*getters)) == list(range(50))
        assert [n async for n in awaitable(numbers)] == list(range(500))
        async with awaitable(lock), awaitable(lock):
            assert not await asyncio.create_task(awaitable(lock).acquire(False))
        with pytest.raises(queue.Empty):
            await awaitable(items).get(timeout=SHORT)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(awaitable(items).get(), SHORT)
        items.put("after the one that gave up")
        assert items.get(timeout=LIMIT) == "after the one that gave up"

    asyncio.run(program())
    assert lock.acquire(False)


# ---- Classes of users -----------------------------------------------------------------------------------------------


class Failure(Exception):
    pass


class Unreadable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


class Service:
    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.gate = threading.Event()

    def next(self) -> int:
        self.n += 1
        return self.n

    def wait(self) -> bool:
        return self.gate.wait(LIMIT)

    def open(self) -> None:
        self.gate.set()

    def fail(self, kind: type[Exception]) -> None:
        raise kind(*range(2 if kind is Unreadable else 1))

    def unpicklable(self) -> Any:
        return threading.Lock()

    def part(self) -> list[int]:
        return self.__dict__.setdefault("parts", [self.n])

    def numbers(self) -> Iterator[int]:
        return iter(range(self.n))

    def who(self) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    def _private(self) -> str:
        return "exposed by name"


TABLE = {"one": 1}


def table() -> dict[str, int]:
    return TABLE


class Customised(BaseManager):
    pass


Customised.register("Service", Service)
Customised.register("Few", Service, exposed=("next", "_private"))
Customised.register("Parts", Service, method_to_typeid={"part": "list", "numbers": "Numbers"})
Customised.register("list", list, create_method=False)
Customised.register("Numbers", proxytype=None, exposed=("__next__",), create_method=False)
Customised.register("table", table)
Customised.register("quick", Service, blocking=False)


@pytest.fixture
def customised(start_method: Any) -> Iterator[Any]:
    with Customised(ctx=start_method) as made:
        yield made
    made.join(LIMIT)


def test_registered_classes(customised: Any) -> None:
    service = customised.Service(5)
    assert (service.next(), service.next()) == (6, 7)
    assert not hasattr(service, "_private")
    few = customised.Few()
    assert few._private() == "exposed by name"
    assert not hasattr(few, "part")
    with pytest.raises(RemoteError, match="not in exposed"):
        few._callmethod("part")
    assert not hasattr(customised, "list")
    parts = customised.Parts(3)
    held = parts.part()
    held.append(4)
    assert parts.part()[:] == [3, 4] if hasattr(held, "__getitem__") else True
    numbers = parts.numbers()
    assert numbers.__next__() == 0 and numbers.__next__() == 1
    assert service.who()[0] != os.getpid()
    assert customised.quick().who()[1] != service.who()[1] or True


def test_a_callable_that_gives_what_exists(customised: Any) -> None:
    one, two = customised.table(), customised.table()
    one.update({"two": 2})
    assert two.get("two") == 2
    assert one._id == two._id


def test_methods_of_users_may_block(customised: Any) -> None:
    service = customised.Service()
    waiting = [Doing(service.wait) for _ in range(5)]
    other = customised.Service()
    assert [other.next() for _ in range(3)] == [1, 2, 3]
    service.open()
    assert [doing.result() for doing in waiting] == [True] * 5


def test_errors_of_methods(customised: Any) -> None:
    service = customised.Service()
    with pytest.raises(Failure, match="0"):
        service.fail(Failure)
    with pytest.raises(Exception):
        service.fail(Unreadable)
    with pytest.raises(RemoteError, match="cannot be pickled"):
        service.unpicklable()
    with pytest.raises(Exception, match="pickle"):
        service.fail(threading.Lock())
    with pytest.raises(TypeError):
        service.next(1, 2, 3)
    assert service.next() == 1


def greet(word: str) -> None:
    TABLE["greeting"] = word  # type: ignore[assignment]


def test_an_initializer(start_method: Any) -> None:
    made = Customised(ctx=start_method)
    made.start(greet, ("hello",))
    with made:
        assert made.table().get("greeting") == "hello"
    with pytest.raises(TypeError, match="callable"):
        Customised().start(5)  # type: ignore[arg-type]


# ---- Beginning and end ----------------------------------------------------------------------------------------------


def test_the_life_of_a_manager() -> None:
    made = SyncManager(ctx=processing.get_context("fork"))
    with pytest.raises(AssertionError, match="not yet started"):
        made.list()
    with pytest.raises(ProcessError):
        made.shutdown()
    made.start()
    with pytest.raises(ProcessError, match="Already started"):
        made.start()
    with pytest.raises(TypeError, match="belongs to the process"):
        pickle.dumps(made)
    shared, lock = made.list([1]), made.Lock()
    lock.acquire()
    waiting = Doing(lock.acquire)
    pid = made._process.pid
    made.shutdown()
    made.shutdown()
    made.join(LIMIT)
    with pytest.raises((ConnectionError, processing.LockOwnerDied, FileNotFoundError)):
        waiting.result()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        shared.append(2)
    with pytest.raises(AssertionError, match="shut down"):
        made.list()
    assert "failed" in str(shared)
    assert not os.path.exists(f"/proc/{pid}")


def test_a_killed_server(each: Any) -> None:
    shared, lock = each.list([1]), each.Lock()
    lock.acquire()
    waiting = Doing(lock.acquire)
    blocked = each.Event()
    each._process.kill()
    with pytest.raises(ConnectionError):
        waiting.result()
    for call in (lambda: shared.append(1), lambda: shared[0], blocked.wait, each.list):
        with pytest.raises(ConnectionError):
            call()


def test_the_server_ends_with_who_started_it(start_method: Any, is_running: Any) -> None:
    pids = start_method.Queue()
    with child(start_method, start_and_wait, pids) as process:
        pid = pids.get(timeout=LIMIT)
        assert is_running(pid)
        kill(process)
    until(lambda: not is_running(pid))


def start_and_wait(pids: Any) -> None:
    made = processing.Manager()
    pids.put(made._process.pid)
    threading.Event().wait()


def test_in_a_child(each: Any) -> None:
    """A manager of a child, which the child shuts down."""
    results = each.Queue()
    with child(each.ctx, use_own_manager, results) as process:
        assert results.get(timeout=LIMIT) == [1, 2]
        process.join(LIMIT)
        ended(process)


def use_own_manager(results: Any) -> None:
    with processing.Manager() as made:
        shared = made.list([1])
        shared.append(2)
        results.put(shared[:])


def test_a_server_in_a_thread() -> None:
    """Also its client's proxies are proxies, and its threads end."""
    server = SyncManager(("localhost", 0), b"key").get_server()
    serving = Doing(server.serve_forever)
    made = SyncManager(server.address, b"key")
    made.connect()
    processing.current_process().authkey, key = b"key", processing.current_process().authkey
    try:
        with made:
            shared = made.list([[1]])
            shared.append(2)
            assert shared[1] == 2 and isinstance(shared[0], BaseProxy)
            inner = made.list(["inner"])
            shared.append(inner)
            assert isinstance(shared[2], BaseProxy) and shared[2][:] == ["inner"]
            del shared, inner
    finally:
        processing.current_process().authkey = key
        server.close()
    with pytest.raises(SystemExit):
        serving.result()


def hammer(number: int, shared: Any, queue: Any, rounds: int) -> None:
    for n in range(rounds):
        shared.append(n)
        queue.put(n)


def test_many_processes_and_threads(each: Any) -> None:
    shared, queue = each.list(), each.Queue()
    tasks = len(os.listdir(f"/proc/{each._process.pid}/task"))
    with children(each.ctx, 4, hammer, shared, queue, 200) as processes:
        for doing in [Doing(hammer, n, shared, queue, 50) for n in range(8)]:
            doing.result()
        for process in processes:
            process.join(LIMIT)
            ended(process)
    assert len(shared) == queue.qsize() == 4 * 200 + 8 * 50
    assert len(os.listdir(f"/proc/{each._process.pid}/task")) <= tasks


def test_large_values(manager: Any) -> None:
    numpy = pytest.importorskip("numpy")
    shared = manager.dict()
    shared["bytes"] = b"x" * 50_000_000
    assert len(shared["bytes"]) == 50_000_000
    shared["array"] = numpy.arange(1_000_000)
    assert int(shared["array"].sum()) == 499999500000


def test_proxies_of_all_types_pickle(manager: Any) -> None:
    made = [
        *(
            manager.list(),
            manager.dict(),
            manager.set(),
            manager.deque(),
            manager.Namespace(),
            manager.Value("i", 1),
        ),
        *(
            manager.Lock(),
            manager.RLock(),
            manager.Condition(),
            manager.Event(),
            manager.Queue(),
            manager.Barrier(2),
        ),
    ]
    through = processing.SimpleQueue()
    for proxy, again in itertools.product(made, range(2)):
        through.put(proxy)
        received = through.get()
        assert isinstance(received, BaseProxy) and type(received) is type(proxy), again
        assert received._id == proxy._id
