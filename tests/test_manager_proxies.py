"""Proxies of a manager, in one program: objects in objects, proxies on their way, how long an object lives, iteration,
comparison, batches, asyncio, large values."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import queue
import threading
from collections import deque
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, children, ended, kill, until
from manager_helpers import Doing, count, in_child, run_in_child, started
from processing.managers import BaseProxy, SyncManager, awaitable, batch

pytestmark = pytest.mark.ends


# ---- Objects in objects ---------------------------------------------------------------------------------------------


def change_nested(shared: Any) -> None:
    shared["a"]["b"] = 1
    shared["a"]["c"] = {"d": {}}
    shared["a"]["c"]["d"]["e"] = 2
    shared["lists"][0].append([1])
    shared["lists"][0][0].append(2)
    shared["set"].add(1)
    shared["deque"].append({})
    shared["deque"][0]["x"] = 1
    shared.setdefault("late", []).append(7)


def test_nested_changes_arrive(each: Any) -> None:
    shared = each.dict(a={}, lists=[[]])
    shared["set"], shared["deque"] = set(), deque(maxlen=2)
    run_in_child(each.ctx, change_nested, shared)
    assert shared._getvalue() == {
        "a": {"b": 1, "c": {"d": {"e": 2}}},
        "lists": [[[1, 2]]],
        "set": {1},
        "deque": deque([{"x": 1}], 2),
        "late": [7],
    }


def change_lists(rows: Any) -> None:
    rows[0][1] = "changed"
    rows[1:] = [[5], [6]]
    rows[2].append(7)
    rows.insert(0, [])
    rows[0].extend([8])
    rows += [[9]]
    rows[-1].append(10)


def test_lists_in_lists(each: Any) -> None:
    rows = each.list([[0, 0], [1]])
    run_in_child(each.ctx, change_lists, rows)
    assert rows._getvalue() == [[8], [0, "changed"], [5], [6, 7], [9, 10]]
    rows.sort(key=len)
    assert [len(row) for row in rows] == [1, 1, 2, 2, 2]


def change_space(space: Any) -> None:
    space.items.append(1)
    space.table["a"] = [0]
    space.table["a"].append(2)
    space.late = {}
    space.late["b"] = 3


def test_attributes_that_are_containers(each: Any) -> None:
    space = each.Namespace(items=[], table={})
    run_in_child(each.ctx, change_space, space)
    assert space.items[:] == [1] and space.late == {"b": 3}
    assert space.table._getvalue() == {"a": [0, 2]}


def use_stored(box: Any) -> None:
    with box["lock"]:
        box["list"].append(box["queue"].get())
    box["event"].set()
    box["more"] = box["list"]
    box["value"].value += 1


def test_proxies_in_containers(each: Any) -> None:
    before = count(each)
    box = each.dict()
    for kind in ("Lock", "list", "Queue", "Event"):
        box[kind.lower()] = getattr(each, kind)()
    box["value"] = each.Value("i", 1)
    box["queue"].put("item")
    assert count(each) == before + 6
    run_in_child(each.ctx, use_stored, box)
    assert box["list"][:] == ["item"] == box["more"][:]
    assert box["list"] == box["more"] and box["list"]._id == box["more"]._id
    assert box["event"].is_set() and box["value"].value == 2
    del box
    until(lambda: count(each) == before)


def test_proxies_deep_inside_of_values(manager: Any) -> None:
    before = count(manager)
    inner = manager.list([1])
    box = manager.dict(x=({"y": (inner, 5)},))
    space = manager.Namespace(z=inner)
    del inner
    box["x"][0]["y"][0].append(2)
    assert space.z[:] == [1, 2]
    del box, space
    until(lambda: count(manager) == before)


def test_what_is_fetched_outlives_its_container(manager: Any) -> None:
    before = count(manager)
    outer = manager.list([[1]])
    inner = outer[0]
    del outer
    until(lambda: count(manager) == before + 1)
    inner.append(2)
    assert inner[:] == [1, 2]
    popped = manager.list([[3]]).pop()
    popped.append(4)
    assert popped[:] == [3, 4]
    del inner, popped
    until(lambda: count(manager) == before)


def test_a_container_in_itself(manager: Any) -> None:
    shared = manager.dict()
    shared["self"] = shared
    shared["self"]["self"]["x"] = 1
    assert shared["x"] == 1


# ---- On their way ---------------------------------------------------------------------------------------------------


def append_to(shared: Any, item: Any = "child") -> Any:
    shared.append(item)
    return shared


def test_arguments_and_results(each: Any) -> None:
    before = count(each)
    result = run_in_child(each.ctx, append_to, each.list(["parent"]))  # dropped by the parent at once
    assert result[:] == ["parent", "child"]
    del result
    until(lambda: count(each) == before)


def test_a_process_is_all_that_holds_it(each: Any) -> None:
    before = count(each)
    done = each.Queue()
    process = each.ctx.Process(target=report, args=(each.list([5]), done))
    process.start()
    gc.collect()
    assert done.get(timeout=LIMIT) == [5, "child"]
    ended(process)
    process.close()
    del process, done
    until(lambda: count(each) == before)


def report(shared: Any, done: Any) -> None:
    shared.append("child")
    done.put(shared[:])


def pass_on(source: Any, target: Any) -> None:
    proxy = source.get() if hasattr(source, "get") else source.recv()
    proxy.append("seen")
    (target.put if hasattr(target, "put") else target.send)(proxy)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue", "managed", "Pipe"])
def test_messages(each: Any, kind: str) -> None:
    before = count(each)
    if kind == "Pipe":
        ends = [*each.ctx.Pipe(duplex=False), *each.ctx.Pipe(duplex=False)]
        source, put, get, target = ends[0], ends[1].send, ends[2].recv, ends[3]
    else:
        made = [each.Queue() if kind == "managed" else getattr(each.ctx, kind)() for _ in range(2)]
        source, put, get, target = made[0], made[0].put, made[1].get, made[1]
        del made
    put(each.list([kind]))
    gc.collect()
    with child(each.ctx, pass_on, source, target) as process:
        ended(process)
    gc.collect()
    proxy = get()
    assert proxy[:] == [kind, "seen"]
    if kind == "Pipe":
        for end in ends:
            end.close()
    del source, put, get, target, proxy, process
    until(lambda: count(each) == before)


def lengths(shared: Any, n: int) -> Any:
    shared.append(n)
    return len(shared) > 0, shared


def test_a_pool_of_processes(each: Any) -> None:
    before = count(each)
    with each.ctx.Pool(2) as pool:
        shared = each.list()
        results = pool.starmap(lengths, [(shared, n) for n in range(10)])
        assert sorted(shared) == [*range(10)]
        assert all(good and proxy._id == shared._id for good, proxy in results)
        later = pool.apply_async(append_to, (each.list([1]),))
        gc.collect()
        assert later.get(LIMIT)[:] == [1, "child"]
    pool.join()
    del shared, results, later, pool
    until(lambda: count(each) == before)


def test_pickled_by_many_threads(manager: Any) -> None:
    before = count(manager)
    shared = manager.list()

    def work(number: int) -> None:
        way = processing.SimpleQueue()
        for _ in range(40):
            way.put(shared)
            way.get().append(number)
            pickle.loads(pickle.dumps(shared)).append(number)

    for doing in [Doing(work, number) for number in range(6)]:
        doing.result()
    assert len(shared) == 6 * 80
    shared = None
    until(lambda: count(manager) == before)


def test_a_pickle_holds_its_object(manager: Any) -> None:
    before = count(manager)
    data = pickle.dumps(manager.list([1]))
    gc.collect()
    again = pickle.loads(data)
    assert again[:] == [1]
    del again
    until(lambda: count(manager) == before)


# ---- How long an object lives ---------------------------------------------------------------------------------------


def test_unread_messages_hold_their_objects(each: Any) -> None:
    before = count(each)
    unread = each.ctx.Queue()
    unread.put(each.list([1]))
    with child(each.ctx, put_new, unread, each.list([2])) as process:
        ended(process)
    del process
    assert count(each) == before + 2
    assert unread.get(timeout=LIMIT)[:] == [1]
    del unread
    until(lambda: count(each) == before)


def put_new(unread: Any, shared: Any) -> None:
    unread.put(shared)


def hold_many(shared: Any, ready: Any) -> None:
    kept = [shared[n] for n in range(3)]
    copies = [pickle.loads(pickle.dumps(proxy)) for proxy in kept]
    way = processing.SimpleQueue()
    way.put(shared)
    ready.put(len(copies))
    threading.Event().wait()


def test_a_killed_child_holds_nothing(each: Any) -> None:
    before = count(each)
    ready = each.ctx.SimpleQueue()
    with child(each.ctx, hold_many, each.list([[1], [2], [3]]), ready) as process:
        assert ready.get() == 3
        assert count(each) == before + 4
        kill(process)
    del process
    until(lambda: count(each) == before, 10.0)


def send_from_child(way: Any, shared: Any) -> None:
    way.put(shared)
    threading.Event().wait()


def test_a_message_of_a_killed_child(each: Any) -> None:
    before = count(each)
    way = each.ctx.SimpleQueue()
    with child(each.ctx, send_from_child, way, each.list([1])) as process:
        until(lambda: not way.empty())
        kill(process)
    del process
    gc.collect()
    assert count(each) == before + 1
    assert way.get()[:] == [1]
    until(lambda: count(each) == before, 10.0)


def make_and_end(each_proxy: Any) -> int:
    inner = each_proxy[0]
    kept.append(inner)
    return len(inner)


kept: list[Any] = []


def test_proxies_that_a_child_still_has_at_its_end(each: Any) -> None:
    before = count(each)
    assert run_in_child(each.ctx, make_and_end, each.list([[1, 2]])) == 2
    until(lambda: count(each) == before, 10.0)


def test_many_objects(manager: Any) -> None:
    before = count(manager)
    made = [manager.list([n]) for n in range(300)]
    assert count(manager) == before + 300
    assert [proxy[0] for proxy in made] == [*range(300)]
    del made
    until(lambda: count(manager) == before)


# ---- Iteration ------------------------------------------------------------------------------------------------------


def test_iteration_over_many(manager: Any) -> None:
    numbers = range(10_000)
    for kind in ("list", "deque", "set"):
        assert sorted(getattr(manager, kind)(numbers)) == [*numbers]
    table = manager.dict(dict.fromkeys(numbers, 0))
    assert [*table] == [*numbers] == table.keys()
    assert [*manager.Array("i", 5000)] == [0] * 5000
    before = count(manager)
    iterator = iter(table)
    assert next(iterator) == 0
    del iterator
    until(lambda: count(manager) == before)


def churn(shared: Any, stop: Any) -> None:
    n = 0
    while not stop.is_set():
        n += 1
        if hasattr(shared, "append"):
            shared.append(n)
            shared.pop()
        elif hasattr(shared, "add"):
            shared.add(10_000 + n % 10)
        else:
            shared[5] = n


@pytest.mark.parametrize("kind", ["list", "dict", "set", "deque"])
def test_iteration_while_others_change_it(each: Any, kind: str) -> None:
    values = dict.fromkeys(range(3000)) if kind == "dict" else range(3000)
    shared, stop = getattr(each, kind)(values), each.Event()
    with child(each.ctx, churn, shared, stop) as process:
        for _ in range(5):
            assert {*range(3000)} <= {*shared}
        stop.set()
        ended(process)


def test_a_list_that_shrinks_while_it_is_read(manager: Any) -> None:
    shared = manager.list(range(5000))
    iterator = iter(shared)
    first = [next(iterator) for _ in range(3)]
    shared[100:] = []
    seen = [*first, *iterator]
    assert seen[:100] == [*range(100)]
    table = manager.dict(dict.fromkeys(range(5000)))
    keys = iter(table)
    next(keys)
    table["new"] = 1
    with pytest.raises(RuntimeError, match="changed size"):
        list(keys)


# ---- Comparison, text, copies ---------------------------------------------------------------------------------------


def test_comparison(manager: Any) -> None:
    one, two = manager.list([1]), manager.list([1])
    assert one == two and one == [1]
    assert one != [2] and one != manager.list() and one != 5
    assert manager.dict(a=[1]) == {"a": [1]} and manager.set({1}) == {1} == manager.set([1])
    assert manager.deque([1]) == deque([1])
    assert one == [1] and manager.dict(a=1) == {"a": 1}
    lock = manager.Lock()
    assert lock == lock and lock != manager.Lock()
    assert {lock: 1}[lock] == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_text(manager: Any) -> None:
    shared = manager.list([1, [2]])
    assert str(shared) == "[1, [2]]"
    assert repr(shared).startswith("<ListProxy object, typeid 'list' at 0x")
    assert str(manager.dict(a={"b": 1})) == "{'a': {'b': 1}}"
    assert str(manager.Namespace(a=1)) == "Namespace(a=1)"
    assert str(manager.Value("i", 3)) == "Value('i', 3)"
    for kind in ("Lock", "RLock", "Event", "Queue", "Condition", "Semaphore"):
        assert kind in str(getattr(manager, kind)()), kind
    assert "Barrier" in str(manager.Barrier(2))


def test_copies(manager: Any) -> None:
    nested = manager.dict(a=[1, {"b": {2}}], d=deque([1], 4))
    for plain in (nested._getvalue(), copy.deepcopy(nested)):
        assert plain == {"a": [1, {"b": {2}}], "d": deque([1], 4)}
        assert (type(plain), type(plain["a"]), type(plain["a"][1]), plain["d"].maxlen) == (
            dict,
            list,
            dict,
            4,
        )
        assert type(plain["a"][1]["b"]) is set
    plain["a"].append("not shared")
    assert len(nested["a"]) == 2
    again = copy.copy(nested)
    again["new"] = 1
    assert isinstance(again, BaseProxy) and nested["new"] == 1


# ---- Several calls at once ------------------------------------------------------------------------------------------


def test_a_batch(manager: Any) -> None:
    table, lock, items = manager.dict(a=1), manager.Lock(), manager.Queue()
    lock.acquire()
    with batch() as calls:
        results = [
            calls(table).get("a"),
            calls(table).pop("missing"),
            calls(table).__setitem__("b", [2]),
            calls(lock).acquire(),
            calls(items).get(),
            calls(items).put(5),
            calls(items).get(),
            calls(table).__getitem__("b"),
            calls(table).no_such_method(),
        ]
        with pytest.raises(RuntimeError, match="not been sent"):
            results[0].result()
    assert (results[0].result(), results[2].result(), results[6].result()) == (1, None, 5)
    with pytest.raises(KeyError, match="missing"):
        results[1].result()
    for refused in results[3], results[4]:
        with pytest.raises(BlockingIOError, match="would have to wait"):
            refused.result()
    results[7].result().append(3)
    assert table["b"][:] == [2, 3]
    with pytest.raises(Exception, match="no_such_method"):
        results[8].result()
    lock.release()
    assert lock.acquire(False), "what was refused does not wait"
    items.put("kept")
    assert items.get(timeout=LIMIT) == "kept"


def test_batches_that_are_not_sent(manager: Any) -> None:
    shared = manager.list()
    with pytest.raises(ZeroDivisionError), batch() as calls:
        calls(shared).append(1)
        raise ZeroDivisionError
    assert shared[:] == []
    with batch():
        pass
    with started(SyncManager(ctx=processing.get_context("fork"))) as other, batch() as calls:
        calls(shared).append(1)
        with pytest.raises(ValueError, match="one server"):
            calls(other.list())
    assert shared[:] == [1]


def test_a_batch_of_many(each: Any) -> None:
    shared = each.list()
    assert run_in_child(each.ctx, append_many, shared) == 1000
    assert shared[:] == [*range(1000)]


def append_many(shared: Any) -> int:
    with batch() as calls:
        for n in range(1000):
            calls(shared).append(n)
        length = calls(shared).__len__()
    return int(length.result())


# ---- asyncio --------------------------------------------------------------------------------------------------------


def test_many_tasks_wait(manager: Any) -> None:
    items, lock, held = manager.Queue(), manager.Lock(), []

    async def use(n: int) -> None:
        async with awaitable(lock):
            held.append(n)
            assert held == [n]
            await asyncio.sleep(0)
            held.pop()

    async def program() -> None:
        getters = [asyncio.create_task(awaitable(items).get()) for _ in range(40)]
        users = [asyncio.create_task(use(n)) for n in range(40)]
        for n in range(40):
            await awaitable(items).put(n)
        assert sorted(await asyncio.gather(*getters)) == [*range(40)]
        await asyncio.gather(*users)

    threads = threading.active_count()
    asyncio.run(asyncio.wait_for(program(), LIMIT))
    until(lambda: threading.active_count() <= threads)


def test_methods_iteration_and_errors_in_asyncio(manager: Any) -> None:
    items, table = manager.Queue(), manager.dict(a={"b": 1})
    many = {"list": manager.list(range(500)), "dict": manager.dict(dict.fromkeys(range(500)))}
    many |= {"set": manager.set(range(500)), "deque": manager.deque(range(500))}

    async def program() -> None:
        for kind, shared in many.items():
            assert sorted([n async for n in awaitable(shared)]) == [*range(500)], kind
        inner = await awaitable(table).get("a")
        await awaitable(inner).update(c=2)
        assert table["a"] == {"b": 1, "c": 2}
        with pytest.raises(queue.Empty):
            await awaitable(items).get(timeout=SHORT)
        with pytest.raises(KeyError):
            await awaitable(table).pop("missing")
        with pytest.raises(TypeError, match="pickle"):
            await awaitable(items).put(threading.Lock())
        assert await awaitable(items).qsize() == 0

    asyncio.run(asyncio.wait_for(program(), LIMIT))


def test_cancelled_calls_are_taken_back(manager: Any) -> None:
    lock, items, event = manager.Lock(), manager.Queue(), manager.Event()

    async def program() -> None:
        await awaitable(lock).acquire()
        tasks = [asyncio.create_task(call()) for call in (awaitable(lock).acquire, awaitable(items).get)]
        tasks += [asyncio.create_task(awaitable(event).wait())]
        await asyncio.sleep(SHORT)
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in done), done
        await awaitable(items).put("for another")
        assert await awaitable(items).get(timeout=LIMIT) == "for another"
        await awaitable(lock).release()
        assert await awaitable(lock).acquire(False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaitable(items).get(), SHORT)
        await awaitable(lock).release()

    asyncio.run(asyncio.wait_for(program(), LIMIT))
    items.put(1)
    assert items.get(timeout=LIMIT) == 1
    assert lock.acquire(True, LIMIT)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_cancelled_get_gives_its_item_back(manager: Any, kind: str) -> None:
    """The reply is there already, and the task has not seen it when it is cancelled."""
    items = getattr(manager, kind)()

    async def program() -> None:
        task = asyncio.create_task(awaitable(items).get())
        await asyncio.sleep(SHORT)
        items.put("not lost")  # the loop stands still meanwhile
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(program(), LIMIT))
    assert items.qsize() == 1
    assert items.get(timeout=LIMIT) == "not lost"


def test_a_cancelled_acquire_gives_its_lock_back(manager: Any) -> None:
    locks = [getattr(manager, kind)() for kind in ("Lock", "Semaphore", "BoundedSemaphore")]

    async def program(lock: Any) -> None:
        task = asyncio.create_task(awaitable(lock).acquire())
        await asyncio.sleep(SHORT)
        lock.release()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for lock in locks:
        lock.acquire()
        asyncio.run(asyncio.wait_for(program(lock), LIMIT))
        assert lock.acquire(True, LIMIT)


def test_cancelling_at_any_moment_loses_nothing(manager: Any) -> None:
    """However far a call has come when it is cancelled: an item is given back, a lock too."""
    items, lock = manager.Queue(), manager.Lock()
    items.put_many(range(30))

    async def program() -> list[int]:
        got = []
        for steps in range(60):
            task = asyncio.create_task(awaitable(items).get())
            for _ in range(steps % 12):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got.append(await task)
            except asyncio.CancelledError:
                pass
            holder = asyncio.create_task(awaitable(lock).acquire())
            for _ in range(steps % 12):
                await asyncio.sleep(0)
            holder.cancel()
            try:
                if await holder:
                    await asyncio.to_thread(lambda: None)
            except asyncio.CancelledError:
                pass
            else:
                await awaitable(lock).release()
            if items.empty():
                break
        return got

    got = asyncio.run(asyncio.wait_for(program(), LIMIT))
    left = items.get_many(30, block=False) if not items.empty() else []
    assert sorted([*got, *left]) == [*range(30)]
    assert lock.acquire(True, LIMIT)


def test_an_rlock_belongs_to_a_task(manager: Any) -> None:
    lock = manager.RLock()

    async def other() -> bool:
        return bool(await awaitable(lock).acquire(False))

    async def program() -> None:
        async with awaitable(lock), awaitable(lock):
            assert not await asyncio.create_task(other())
            assert not await asyncio.to_thread(lock.acquire, False)
        assert lock.acquire(False)
        lock.release()

    asyncio.run(asyncio.wait_for(program(), LIMIT))
    until(lambda: lock.acquire(False))


# ---- Large values, many threads -------------------------------------------------------------------------------------


def length_and_ends(table: Any) -> Any:
    value = table["bytes"]
    table["back"] = value[:50_000_000]
    return len(value), value[:1], value[-1:]


@pytest.mark.time_limit(120)
def test_large_bytes(each: Any) -> None:
    table = each.dict()
    table["bytes"] = b"a" + bytes(100_000_000 - 2) + b"z"
    assert run_in_child(each.ctx, length_and_ends, table) == (100_000_000, b"a", b"z")
    assert len(table.pop("back")) == 50_000_000
    table.clear()
    assert len(table) == 0


def sum_of(table: Any) -> Any:
    table["array"][0] = 100  # a copy
    return int(table["array"].sum()), table["array"] * 2


@pytest.mark.time_limit(120)
def test_large_array(each: Any) -> None:
    numpy = pytest.importorskip("numpy")
    table = each.dict(array=numpy.arange(3_000_000))
    total, double = run_in_child(each.ctx, sum_of, table)
    assert total == int(table["array"].sum()) == 3_000_000 * 2_999_999 // 2
    assert (double == 2 * numpy.arange(3_000_000)).all()


def use_in_threads(number: int, shared: Any, table: Any, lock: Any) -> None:
    def work(thread: int) -> None:
        for n in range(25):
            shared.append((number, thread, n))
            table[number, thread] = n
            assert table[number, thread] == n
            with lock:
                table["sum"] += 1

    for doing in [Doing(work, thread) for thread in range(8)]:
        doing.result()


def test_many_threads_of_many_processes(each: Any) -> None:
    shared, table, lock = each.list(), each.dict(sum=0), each.Lock()
    with children(each.ctx, 2, use_in_threads, shared, table, lock) as processes:
        use_in_threads(2, shared, table, lock)
        ended(*processes)
    assert len(shared) == len({*shared}) == 3 * 8 * 25 == table["sum"]


def test_a_fork_while_threads_call(manager: Any) -> None:
    """A child may use the proxies whatever the other threads of the parent were doing."""
    shared, stop = manager.list(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            len(shared)

    working = [Doing(work) for _ in range(3)]
    try:
        for n in range(10):
            with in_child(processing.get_context("fork"), append_to, shared, n) as result:
                assert result()[n] == n
    finally:
        stop.set()
        for doing in working:
            doing.result()
    assert shared[:] == [*range(10)]
