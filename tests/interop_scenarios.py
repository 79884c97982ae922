"""What clients of managers do, for interop_programs.py: each function is one scenario, for both packages."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

from interop_programs import (
    LONG,
    SCENARIOS,
    SHORT,
    Broken,
    Doing,
    Env,
    in_thread,
    manager_class,
    pickled,
    raised,
    scenario,
    until,
)

# ---- Containers and values ------------------------------------------------------------------------------------------


@scenario
def lists(env: Env) -> None:
    shared = env.manager.list(range(5))
    shared.append(5)
    shared.extend([6, 7])
    assert shared[0] == 0 and shared[-1] == 7 and shared[2:4] == [2, 3] and len(shared) == 8
    assert 3 in shared and 99 not in shared
    assert shared.index(6) == 6 and shared.count(1) == 1
    assert shared.pop() == 7 and shared.pop(0) == 0
    shared.insert(0, "first")
    shared.remove("first")
    shared.reverse()
    assert shared[:] == [6, 5, 4, 3, 2, 1]
    shared.sort()
    shared.sort(reverse=True)
    shared.sort()
    shared[0] = -1
    shared[1:3] = [20, 30, 40]
    del shared[0]
    assert [*shared] == [20, 30, 40, 4, 5, 6] == shared._getvalue()
    assert [*reversed(shared)] == [6, 5, 4, 40, 30, 20]
    same = shared
    shared += [7]
    assert shared is same and shared[-1] == 7
    shared *= 2
    assert shared is same and len(shared) == 14
    assert shared + [1] == shared[:] + [1] and shared * 2 == shared[:] * 2 == 2 * shared
    assert str(shared) == str(shared[:])
    assert repr(shared).startswith("<ListProxy object, typeid 'list' at ")
    raised(IndexError, lambda: shared[100])
    raised(ValueError, shared.remove, "missing")


@scenario
def dicts(env: Env) -> None:
    shared = env.manager.dict({"a": 1}, b=2)
    shared["c"] = [1, 2]
    shared[1, 2] = None
    assert shared["c"] == [1, 2] and shared[1, 2] is None and len(shared) == 4
    assert "a" in shared and "z" not in shared
    assert shared.get("z") is None and shared.get("z", 5) == 5
    assert shared.pop("a") == 1 and shared.pop("a", 7) == 7
    assert shared.setdefault("d", 4) == 4 == shared.setdefault("d", 5)
    del shared[1, 2]
    shared.update({"e": 5}, f=6)
    assert [*shared] == ["b", "c", "d", "e", "f"] == [*shared.keys()]
    assert [*shared.values()] == [2, [1, 2], 4, 5, 6]
    assert dict(shared.items()) == dict(shared) == shared.copy() == shared._getvalue()
    assert str(shared) == "{'b': 2, 'c': [1, 2], 'd': 4, 'e': 5, 'f': 6}"
    assert repr(shared).startswith("<DictProxy object, typeid 'dict' at ")
    assert shared.popitem() == ("f", 6)
    error = raised(KeyError, lambda: shared["missing"])
    assert error.args == ("missing",)
    shared.clear()
    assert len(shared) == 0 and [*shared] == []


@scenario
def namespaces(env: Env) -> None:
    shared = env.manager.Namespace(x=1)
    shared.y = "hello"
    shared._z = 12.3  # of the proxy, as documented
    assert (shared.x, shared.y) == (1, "hello")
    assert str(shared) == "Namespace(x=1, y='hello')"
    del shared.x
    raised(AttributeError, lambda: shared.x)
    assert in_thread(lambda: shared.y) == "hello"


@scenario
def values(env: Env) -> None:
    value = env.manager.Value("i", 10)
    assert value.value == 10 == value.get()
    value.value = 7
    value.set(value.get() + 1)
    assert pickled(value).value == 8
    array = env.manager.Array("i", range(5))
    array[0] = 9
    assert array[0] == 9 and len(array) == 5 and [*array] == [9, 1, 2, 3, 4] and [*array[1:3]] == [1, 2]
    raised(IndexError, lambda: array[5])


@scenario
def large(env: Env) -> None:
    data = bytes(range(256)) * 12_000
    shared = env.manager.list([data])
    assert shared[0] == data
    shared.append(data[::-1])
    assert shared[1] == data[::-1]
    numbers = env.manager.dict({n: str(n) for n in range(5000)})
    assert len([*numbers]) == 5000 and numbers.copy()[4999] == "4999"


# ---- Queues and locks -----------------------------------------------------------------------------------------------


@scenario
def queues(env: Env) -> None:
    shared = env.manager.Queue(2)
    shared.put("a")
    shared.put(("b", 1), timeout=1)
    assert shared.qsize() == 2 and shared.full() and not shared.empty()
    raised(queue.Full, shared.put_nowait, 1)
    raised(queue.Full, shared.put, 1, timeout=SHORT)
    assert shared.get() == "a" and shared.get_nowait() == ("b", 1)
    raised(queue.Empty, shared.get_nowait)
    raised(queue.Empty, shared.get, True, SHORT)
    raised(queue.Empty, shared.get, False)
    getting = Doing(shared.get)
    shared.put("to the waiting one")
    assert getting.result() == "to the waiting one"
    joinable = env.manager.JoinableQueue()
    joinable.put(1)
    joining = Doing(joinable.join)
    assert joinable.get() == 1
    joinable.task_done()
    joining.result()
    raised(ValueError, joinable.task_done)


@scenario
def locks(env: Env) -> None:
    lock = env.manager.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert in_thread(lock.acquire, True, SHORT) is False
    waiting = Doing(lock.acquire)
    in_thread(lock.release)  # anybody may
    assert waiting.result() is True
    lock.release()
    raised(RuntimeError, lock.release)
    with lock:
        assert in_thread(lock.acquire, False) is False
    assert in_thread(lock.acquire, False) is True
    lock.release()


@scenario
def rlocks(env: Env) -> None:
    lock = env.manager.RLock()
    with lock:
        assert lock.acquire() and lock.acquire(False)
        assert in_thread(lock.acquire, False) is False
        raised(RuntimeError, in_thread, lock.release)
        lock.release()
        lock.release()
        assert in_thread(lock.acquire, False) is False

    def take_and_give() -> bool:
        taken: bool = lock.acquire(True, LONG)
        lock.release()
        return taken

    assert in_thread(take_and_give) is True
    raised(RuntimeError, lock.release)


@scenario
def semaphores(env: Env) -> None:
    semaphore = env.manager.Semaphore(2)
    assert semaphore.acquire() and semaphore.acquire() and not semaphore.acquire(False)
    waiting = Doing(semaphore.acquire)
    semaphore.release()
    assert waiting.result() is True
    with env.manager.Semaphore():
        pass
    bounded = env.manager.BoundedSemaphore(1)
    bounded.acquire()
    bounded.release()
    raised(ValueError, bounded.release)


@scenario
def conditions(env: Env) -> None:
    for condition in (env.manager.Condition(), env.manager.Condition(env.manager.Lock())):
        state = env.manager.list([0])

        def wait_for(number: int, condition: Any = condition, state: Any = state) -> Any:
            with condition:
                return condition.wait_for(lambda: state[0] >= number, LONG)

        waiting = [Doing(wait_for, number) for number in (1, 2, 2)]
        for number in (1, 2):
            with condition:
                state[0] = number
                condition.notify_all()
            until(lambda doing=waiting[number - 1]: doing.thread.is_alive() is False)
        assert [doing.result() for doing in waiting] == [True] * 3
        with condition:
            assert condition.wait(SHORT) is False
            assert condition.wait_for(lambda: False, SHORT) is False
            condition.notify()
        raised(RuntimeError, condition.wait, SHORT)
        raised(RuntimeError, condition.notify)


@scenario
def events(env: Env) -> None:
    event = env.manager.Event()
    assert event.is_set() is False and event.wait(SHORT) is False
    waiting = [Doing(event.wait) for _ in range(3)]
    event.set()
    assert [doing.result() for doing in waiting] == [True] * 3
    assert event.is_set() is True and event.wait() is True
    event.clear()
    assert event.is_set() is False


@scenario
def barriers(env: Env) -> None:
    barrier = env.manager.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    for _ in range(2):
        waiting = [Doing(barrier.wait) for _ in range(2)]
        until(lambda: barrier.n_waiting == 2)
        numbers = [barrier.wait(LONG), *(doing.result() for doing in waiting)]
        assert sorted(numbers) == [0, 1, 2]
    waiting = [Doing(barrier.wait)]
    until(lambda: barrier.n_waiting == 1)
    barrier.abort()
    raised(threading.BrokenBarrierError, waiting[0].result)
    assert barrier.broken is True
    barrier.reset()
    assert barrier.broken is False
    raised(threading.BrokenBarrierError, barrier.wait, SHORT)


@scenario
def many_threads(env: Env) -> None:
    shared, lock = env.manager.dict(n=0), env.manager.Lock()

    def count() -> None:
        for _ in range(25):
            with lock:
                shared["n"] += 1

    for doing in [Doing(count) for _ in range(8)]:
        doing.result()
    assert shared["n"] == 200


# ---- Pools, iterators, types of one's own ---------------------------------------------------------------------------


@scenario
def pools(env: Env) -> None:
    with env.manager.Pool(2) as pool:
        assert pool.apply(pow, (2, 5)) == 32
        assert pool.map(abs, [-1, -2, 3]) == [1, 2, 3]
        assert pool.starmap(pow, [(2, 2), (3, 2)]) == [4, 9]
        later = pool.apply_async(divmod, (7, 2))
        assert later.get(LONG) == (3, 1)
        assert later.successful() and later.ready()
        assert pool.map_async(abs, [-5]).get(LONG) == [5]
        assert [*pool.imap(abs, [-1, -2])] == [1, 2]
        assert sorted(pool.imap_unordered(abs, [-1, -2])) == [1, 2]
        raised(ZeroDivisionError, pool.apply, divmod, (1, 0))
        raised(ZeroDivisionError, pool.apply_async(divmod, (1, 0)).get, LONG)
        del later


@scenario
def iterators(env: Env) -> None:
    assert [*env.manager.squares(4)] == [0, 1, 4, 9]
    iterator = env.manager.squares(1)
    assert next(iterator) == 0
    raised(StopIteration, next, iterator)
    shared = env.manager.dict({"a": 1, "b": 2})
    over = iter(shared)
    assert next(over) == "a" and next(over) == "b"
    raised(StopIteration, next, over)
    assert [*env.manager.Node("abc").letters()] == ["a", "b", "c"]


@scenario
def own_types(env: Env) -> None:
    maths = env.manager.Maths(10, step=2)
    assert maths.add(5) == 20 and maths.add(1, times=3) == 26
    assert maths.echo(1, [2], a={"b": (3,)}) == ((1, [2]), {"a": {"b": (3,)}})
    assert maths.pid() != os.getpid()
    assert not hasattr(maths, "_hidden") and not hasattr(maths, "total")
    hidden = env.manager.Hidden()
    assert hidden._hidden() == "hidden" and hidden.add(1) == 1 and not hasattr(hidden, "divide")
    module = env.manager.operator()
    assert module.add(23, 45) == 68 and module.pow(2, 94) == 2**94
    assert str(maths).startswith("<interop_programs.Maths object at ")


@scenario
def typed_results(env: Env) -> None:
    """method_to_typeid: results stay in the server."""
    root = env.manager.Node()
    left = root.child("left")
    leaf = left.child("leaf")
    assert type(left).__name__.startswith("AutoProxy[NodeHere]")
    assert leaf.get_name() == "leaf" and left.get_name() == "left"
    names = root.names()
    assert type(names).__name__ == "ListProxy" and names[:] == ["left"]
    root.child("right")
    assert root.names()[:] == ["left", "right"] and root.child("left").names()[:] == ["leaf"]
    del root
    assert leaf.get_name() == "leaf"


# ---- Errors ---------------------------------------------------------------------------------------------------------


@scenario
def errors(env: Env) -> None:
    maths = env.manager.Maths()
    error = raised(Broken, maths.fail, 7)
    assert error.code == 7 and error.args == (7,)
    raised(ZeroDivisionError, maths.divide, 1, 0)
    raised(TypeError, maths.add)
    raised(TypeError, maths.add, 1, nonsense=2)
    assert maths.divide(1, 2) == 0.5


@scenario
def unpicklable(env: Env) -> None:
    maths = env.manager.Maths()
    error = raised(env.managers.RemoteError, maths.unpicklable)
    assert "lock" in str(error)
    if env.is_ours:
        assert maths.function()() == 5
    else:
        error = raised(env.managers.RemoteError, maths.function)
        assert "lambda" in str(error)
    raised(Exception, maths.echo, threading.Lock())  # not sent at all
    assert maths.divide(1, 2) == 0.5


@scenario
def unknown_methods(env: Env) -> None:
    for proxy, name in (
        (env.manager.Maths(), "_hidden"),
        (env.manager.Maths(), "nonsense"),
        (env.manager.Hidden(), "divide"),
        (env.manager.list(), "__class__"),
        (env.manager.Lock(), "__init__"),
    ):
        error = raised(env.managers.RemoteError, proxy._callmethod, name)
        assert "AttributeError" in str(error) and name in str(error) and "exposed" in str(error), str(error)
    raised(env.managers.RemoteError, env.manager._create, "no such type")
    assert env.manager.Maths().add(1) == 1


@scenario
def object_that_is_gone(env: Env) -> None:
    shared = env.manager.list([1])
    token, kind = shared._token, type(shared)
    copy = kind(token, "pickle", authkey=env.key)
    assert copy[0] == 1
    del shared
    assert copy[0] == 1
    del copy
    raised((env.managers.RemoteError, KeyError), lambda: kind(token, "pickle", authkey=env.key)[0])


# ---- Nested proxies, pickling, children -----------------------------------------------------------------------------


@scenario
def nested(env: Env) -> None:
    outer, inner = env.manager.list(), env.manager.list()
    outer.append(inner)
    inner.append("hello")
    assert len(outer) == 1 and outer[0][:] == ["hello"]
    del inner
    outer[0].append("more")
    assert outer[0][1] == "more" and type(outer[0]).__name__ == "ListProxy"
    tree = env.manager.dict({"d": env.manager.dict({"e": env.manager.Namespace(x=1)})})
    tree["d"]["e"].x = 2
    assert tree["d"]["e"].x == 2
    space = env.manager.Namespace()
    space.inner = env.manager.dict(a=1)
    space.inner["a"] = 2
    assert space.inner["a"] == 2
    plain = env.manager.list([{"k": [1]}])
    assert plain[0] == {"k": [1]} and plain[0]["k"] == [1]
    if env.is_ours:  # values that are containers can be changed where they are
        plain[0]["k"].append(2)
        plain[0]["new"] = {}
        plain[0]["new"]["x"] = 1
        assert str(plain) == "[{'k': [1, 2], 'new': {'x': 1}}]" == str(plain._getvalue())
    else:
        assert type(plain[0]) is dict and type(plain[0]["k"]) is list
    through = env.manager.Queue()
    through.put(env.manager.list([3]))
    assert through.get()[0] == 3
    del outer[0]
    assert len(outer) == 0


@scenario
def proxies_as_arguments(env: Env) -> None:
    """Methods that run in the server use the objects of proxies that are passed to them."""
    maths, event = env.manager.Maths(), env.manager.Event()
    assert maths.total_of(env.manager.list([1, 2, 3])) == 6
    waiting = Doing(maths.wait_for, event, LONG)
    event.set()
    assert waiting.result() is True
    (back,), named = maths.echo(event)
    assert back.is_set() is True and named == {}


@scenario
def pickling(env: Env) -> None:
    for proxy, method, arguments, expected in (
        (env.manager.list([1, 2]), "__len__", (), 2),
        (env.manager.dict(a=1), "get", ("a",), 1),
        (env.manager.Lock(), "acquire", (False,), True),
        (env.manager.Queue(), "qsize", (), 0),
        (env.manager.Event(), "is_set", (), False),
        (env.manager.Maths(3), "add", (1,), 4),
        (env.manager.Hidden(), "_hidden", (), "hidden"),
    ):
        copy = pickled(proxy)
        assert copy._callmethod(method, arguments) == expected
        assert copy._token.id == proxy._token.id and type(copy).__name__ == type(proxy).__name__
    last = env.manager.list([5])
    last = pickled(last)
    assert last[0] == 5


def child(number: int, lock: Any, shared: Any, nested: Any, jobs: Any, go: Any, maths: Any) -> None:
    assert go.wait(LONG)
    for _ in range(10):
        with lock:
            shared["n"] = shared["n"] + 1
    nested[0].append(number)
    jobs.put((number, os.getpid(), maths.add(1)))


def run_children(env: Env, method: str) -> None:
    manager = env.manager
    context = env.mp.get_context(method)
    lock, shared, jobs, go, maths = (
        manager.Lock(),
        manager.dict(n=0),
        manager.Queue(),
        manager.Event(),
        manager.Maths(),
    )
    outer = manager.list([manager.list()])
    arguments = (lock, shared, outer, jobs, go, maths)
    processes = [context.Process(target=child, args=(number, *arguments)) for number in range(2)]
    for process in processes:
        process.start()
    go.set()
    got = sorted(jobs.get(True, LONG) for _ in processes)
    for process in processes:
        process.join(LONG)
        assert process.exitcode == 0, process.exitcode
        process.close()
    assert [fact[0] for fact in got] == [0, 1] and len({fact[1] for fact in got} | {os.getpid()}) == 3
    assert sorted(fact[2] for fact in got) == [1, 2]
    assert shared["n"] == 20 and sorted(outer[0][:]) == [0, 1]


@scenario
def children_by_fork(env: Env) -> None:
    run_children(env, "fork")


@scenario
def children_by_spawn(env: Env) -> None:
    run_children(env, "spawn")


@scenario
def children_by_forkserver(env: Env) -> None:
    run_children(env, "forkserver")


def take(lock: Any) -> None:
    assert lock.acquire()


@scenario
def lock_left_by_a_child(env: Env) -> None:
    """A Lock may be released by another process than its owner, also after that has ended well."""
    for method in ("fork", "spawn", "forkserver"):
        lock = env.manager.Lock()
        process = env.mp.get_context(method).Process(target=take, args=(lock,))
        process.start()
        process.join(LONG)
        assert process.exitcode == 0
        process.close()
        assert lock.acquire(False) is False
        lock.release()
        assert lock.acquire(False) is True
        lock.release()


def last_words(proxy: Any, jobs: Any) -> None:
    proxy.append("from the child")
    jobs.put(len(proxy))


@scenario
def only_the_child_has_it(env: Env) -> None:
    """An object that is passed straight on lives until the child has it."""
    for method in ("fork", "spawn", "forkserver"):
        jobs = env.manager.Queue()
        process = env.mp.get_context(method).Process(target=last_words, args=(env.manager.list([1]), jobs))
        process.start()
        assert jobs.get(True, LONG) == 2
        process.join(LONG)
        assert process.exitcode == 0
        process.close()


@scenario
def work_of_the_other_side(env: Env) -> None:
    """A child of the server's program works for us."""
    jobs, results, table = env.manager.jobs(), env.manager.results(), env.manager.table()
    for number in range(20):
        jobs.put(number)
    assert sorted(results.get(True, LONG) for _ in range(20)) == [(n, n * n) for n in range(20)]
    assert len({table[number] for number in range(20)}) == 1
    table.clear()


@scenario
def second_connection(env: Env) -> None:
    """Two managers of one client; types that one of them lacks."""
    other = env.connected()
    shared = other.list([1])
    assert env.manager.list([shared])[0][0] == 1
    assert str(shared._getvalue()) in env.manager._debug_info()


@scenario
def simple_values(env: Env) -> None:
    """What XML-RPC can carry."""
    jobs = env.manager.jobs()
    for value in (1, -7, 2.5, "text", "\u00e9\u4e2d", True, None, [1, "a", [2.0]], {"k": [1, 2]}):
        jobs.put(value)
        assert jobs.get() == value
    assert jobs.qsize() == 0
    maths = env.manager.Maths(1)
    assert maths.add(2) == 3
    raised(Exception, maths.fail, 1)  # of any kind: XML-RPC has no exceptions
    assert maths.add(2) == 5
    shared = env.manager.list([1, 2])
    shared.append(3)
    assert len(shared) == 3 and shared.pop() == 3


# ---- Only between our own ends --------------------------------------------------------------------------------------


@scenario
def sets_and_deques(env: Env) -> None:
    shared = env.manager.set("ab")
    shared.add("c")
    shared |= {"d"}
    shared.discard("a")
    assert "b" in shared and len(shared) == 3 and sorted(shared) == ["b", "c", "d"]
    assert shared & {"b", "x"} == {"b"} and shared == {"b", "c", "d"}
    line = env.manager.deque(range(5), 3)
    line.append(5)
    line.appendleft(1)
    assert [*line] == [1, 3, 4] and line.popleft() == 1 and len(line) == 2


@scenario
def shared_values(env: Env) -> None:
    value = env.manager.SharedValue("i", 42)
    value.value = 7
    assert value.value == 7 and str(value) == "SharedValue('i', 7)"
    struct = env.manager.SharedStruct("d256p", (0.75, "hello"))
    assert struct.value == (0.75, "hello")
    struct.value = (1.5, "you")
    assert pickled(struct).value == (1.5, "you")
    array = env.manager.SharedArray("i", [0, -1])
    array[0] = 3
    assert [*array] == [3, -1] and str(array) == "SharedArray('i', [3, -1])"


@scenario
def batches(env: Env) -> None:
    shared, lock = env.manager.list(), env.manager.Lock()
    with env.managers.batch() as batch:
        for number in range(100):
            batch(shared).append(number)
        size, wrong = batch(shared).__len__(), batch(shared).pop(1000)
        taken = batch(lock).acquire()
    assert size.result() == 100 and taken.result() is True
    raised(IndexError, wrong.result)
    lock.release()


@scenario
def object_made_by_a_child(env: Env) -> None:
    """A proxy that only a queue of the server holds."""
    for method in ("fork", "spawn", "forkserver"):
        through = env.manager.Queue()
        facts = (env.address, env.key, through)
        process = env.mp.get_context(method).Process(target=make_and_send, args=facts)
        process.start()
        process.join(LONG)
        assert process.exitcode == 0
        process.close()
        got = through.get(True, LONG)
        assert got[:] == ["from the child"]


def make_and_send(address: Any, key: bytes, through: Any) -> None:
    manager = manager_class("processing")(address, key)
    manager.connect()
    through.put(manager.list(["from the child"]))


ONLY_XMLRPC = ["simple_values"]
ONLY_OURS = ["only_the_child_has_it", *list(SCENARIOS)[list(SCENARIOS).index("simple_values") + 1 :]]
ALL = [name for name in SCENARIOS if name not in ONLY_XMLRPC + ONLY_OURS]
