"""Programs for the tests of managers: a server and a client, each with `processing` or with `multiprocessing`.

    python -c "import interop_programs; interop_programs.main()" ROLE ARGUMENT...

    server PACKAGE WHERE METHOD SERIALIZER KEY
    client PACKAGE ADDRESS PACKAGE-OF-THE-SERVER SERIALIZER KEY SCENARIO...

The server prints a line of JSON (address, pids) and serves until its stdin ends. The client runs the scenarios one
after the other, each within a time limit, and prints a line of JSON about each: its name, and null or what went wrong.
A scenario is written for what both packages promise, so that the two together, or one of them alone, can be tested
with it; after each one the server has to have as many objects as before. `multiprocessing` is run as if `processing`
were not installed.

Runs on every Python from 3.11 on, with or without `processing`; not a test itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import operator
import os
import pickle
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

LIMIT = 15.0  # seconds that a scenario may take
LONG = 10.0  # no single step needs as long
SHORT = 0.05


# ---- Types of the customised manager --------------------------------------------------------------------------------


class Broken(Exception):
    """An exception with an argument that is not its message."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Maths:
    def __init__(self, start: int = 0, *, step: int = 1) -> None:
        self.total, self.step = start, step

    def add(self, x: int, *, times: int = 1) -> int:
        self.total += x * times * self.step
        return self.total

    def fail(self, code: int) -> None:
        raise Broken(code)

    def divide(self, x: int, y: int) -> float:
        return x / y

    def unpicklable(self) -> Any:
        return threading.Lock()

    def function(self) -> Any:
        return lambda: 5

    def wait_for(self, event: Any, seconds: float) -> Any:
        return event.wait(seconds)

    def total_of(self, values: Any) -> int:
        return sum(values[index] for index in range(len(values)))

    def echo(self, *args: Any, **kwds: Any) -> Any:
        return args, kwds

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def _hidden(self) -> str:
        return "hidden"


class Node:
    """A tree whose nodes stay in the server."""

    def __init__(self, name: str = "root") -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}

    def child(self, name: str) -> Node:
        return self.nodes.setdefault(name, Node(name))

    def names(self) -> list[str]:
        return sorted(self.nodes)

    def get_name(self) -> str:
        return self.name

    def letters(self) -> Iterator[str]:
        return iter(self.name)


def squares(count: int) -> Iterator[int]:
    for number in range(count):
        yield number * number


def get_operator() -> Any:
    return operator


JOBS: queue.Queue[Any] = queue.Queue()
RESULTS: queue.Queue[Any] = queue.Queue()
TABLE: dict[str, Any] = {}


def get_jobs() -> Any:
    return JOBS


def get_results() -> Any:
    return RESULTS


def get_table() -> Any:
    return TABLE


_made: dict[str, Any] = {}


def manager_class(package: str) -> Any:
    """A SyncManager with types of ours."""
    if package in _made:
        return _made[package]
    managers: Any = importlib.import_module(f"{package}.managers")

    class SquaresProxy(managers.BaseProxy):  # type: ignore[misc]
        _exposed_ = ["__next__"]

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return self._callmethod("__next__")

    class Custom(managers.SyncManager):  # type: ignore[misc]
        pass

    SquaresProxy.__qualname__, Custom.__qualname__ = f"squares_proxy_{package}", f"custom_{package}"
    globals()[SquaresProxy.__qualname__], globals()[Custom.__qualname__] = SquaresProxy, Custom
    SquaresProxy.__name__, Custom.__name__ = SquaresProxy.__qualname__, Custom.__qualname__
    Custom.register("Maths", Maths)
    Custom.register("Hidden", Maths, exposed=("add", "_hidden"))
    Custom.register(
        "Node", Node, method_to_typeid={"child": "NodeHere", "names": "list", "letters": "Iterator"}
    )
    Custom.register(
        "NodeHere",
        exposed=("child", "names", "get_name", "letters"),
        method_to_typeid={"child": "NodeHere", "names": "list", "letters": "Iterator"},
        create_method=False,
    )
    Custom.register("squares", squares, proxytype=SquaresProxy)
    Custom.register("operator", get_operator)
    Custom.register("jobs", get_jobs)
    Custom.register("results", get_results)
    Custom.register("table", get_table, proxytype=managers.DictProxy)
    _made[package] = Custom
    return Custom


# A spawned server unpickles them by these names.
def __getattr__(name: str) -> Any:
    for start in ("custom_", "squares_proxy_"):
        if name.startswith(start):
            manager_class(name.removeprefix(start))
            return globals()[name]
    raise AttributeError(name)


# ---- What a scenario is given ---------------------------------------------------------------------------------------


class Env:
    """A client that is connected, and its package."""

    def __init__(self, package: str, address: Any, peer: str, serializer: str, key: bytes) -> None:
        self.package = package
        self.is_ours = package == peer == "processing"  # both ends
        self.mp: Any = importlib.import_module(package)
        self.managers: Any = importlib.import_module(f"{package}.managers")
        self.key = key
        self.address = tuple(address) if isinstance(address, list) else address
        self.serializer = serializer
        self.mp.current_process().authkey = key
        self.manager = self.connected()

    def connected(self, key: bytes | None = None) -> Any:
        manager = manager_class(self.package)(self.address, key or self.key, self.serializer)
        manager.connect()
        return manager

    def objects(self) -> int:
        gc.collect()
        return int(self.manager._number_of_objects())


class Doing:
    """A function in a thread; `result()` is what it returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, args=(function, args), daemon=True)
        self.thread.start()

    def run(self, function: Callable[..., Any], args: Any) -> None:
        try:
            self.outcome = function(*args)
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.thread.join(LONG)
        assert not self.thread.is_alive(), "the thread did not finish"
        if self.error is not None:
            raise self.error
        return self.outcome


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return Doing(function, *args).result()


def raised(kind: Any, function: Callable[..., Any], *args: Any, **kwds: Any) -> Any:
    """The exception that this call has to raise."""
    try:
        result = function(*args, **kwds)
    except kind as error:
        return error
    raise AssertionError(f"{function!r} returned {result!r} in place of raising {kind}")


def until(condition: Callable[[], Any], seconds: float = LONG) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.002)


SCENARIOS: dict[str, Callable[[Env], None]] = {}


def scenario(function: Callable[[Env], None]) -> Callable[[Env], None]:
    SCENARIOS[function.__name__] = function
    return function


# ---- The programs ---------------------------------------------------------------------------------------------------


def work(jobs: Any, results: Any, table: Any) -> None:
    """The server's program works too, in a child: squares what comes until None does."""
    while True:
        job = jobs.get()
        if job is None:
            return
        table[job] = os.getpid()
        results.put((job, job * job))


def server(package: str, where: str, method: str, serializer: str, key: str) -> None:
    mp = importlib.import_module(package)
    mp.current_process().authkey = key.encode()
    address = json.loads(where)
    manager = manager_class(package)(
        tuple(address) if isinstance(address, list) else address,
        key.encode(),
        serializer,
        mp.get_context(method),
    )
    manager.start()
    worker = None
    if serializer == "pickle":
        facts = (manager.jobs(), manager.results(), manager.table())
        worker = mp.get_context(method).Process(target=work, args=facts, daemon=True)
        worker.start()
        facts[0].put(0)  # so that it is connected
        assert facts[1].get(True, LONG) == (0, 0)
        facts[2].clear()
    say(address=manager.address, pid=manager._process.pid, worker=worker.pid if worker is not None else 0)
    sys.stdin.read()
    if worker is not None:
        facts[0].put(None)
        worker.join(LONG)
        assert worker.exitcode == 0, worker.exitcode
    manager.shutdown()


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def overdue(number: int, frame: Any) -> None:
    raise TimeoutError("the scenario took longer than its time limit")


def run_scenario(env: Env, name: str) -> str | None:
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        before = env.objects()
        SCENARIOS[name](env)
        if env.serializer == "pickle":
            try:
                until(lambda: env.objects() <= before, 6.0)
            except AssertionError:
                return f"{env.objects()} objects in the server, {before} before:\n{env.manager._debug_info()}"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def client(package: str, where: str, peer: str, serializer: str, key: str, *names: str) -> None:
    import interop_scenarios  # noqa: F401

    signal.signal(signal.SIGALRM, overdue)
    env = Env(package, json.loads(where), peer, serializer, key.encode())
    for name in names:
        say(name=name, error=run_scenario(env, name))


def wrong_key(package: str, where: str, key: str) -> None:
    """Says what a client with that key is told."""
    address = json.loads(where)
    address = tuple(address) if isinstance(address, list) else address
    try:
        manager_class(package)(address, key.encode()).connect()
    except Exception as error:
        say(error=type(error).__name__, text=str(error))
    else:
        say(error=None, text="")


def hold(package: str, where: str, key: str) -> None:
    """Takes every lock in the table, has objects of its own, waits for a job; says so; to be killed."""
    env = Env(package, json.loads(where), package, "pickle", key.encode())
    table = env.manager.table()
    mine = [env.manager.list(range(9)), env.manager.Maths(), env.manager.Event()]
    for name in ("lock", "rlock", "condition", "bounded"):
        table[name].acquire()
    table["lists"].append(env.manager.list(["of the killed"]))
    waiting = Doing(table["queue"].get)
    say(pid=os.getpid(), objects=len(mine), waits=waiting.thread.is_alive())
    sys.stdin.read()


def make(package: str, where: str, key: str) -> None:
    """Makes an object, gives its pickle away, and ends."""
    env = Env(package, json.loads(where), package, "pickle", key.encode())
    say(pickle=pickle.dumps(env.manager.list(["made by another"])).hex())


def crowd(package: str, where: str, key: str, ident: str, size: str) -> None:
    """So many clients in one process, each with a connection of its own: they come, all call at once, and stay."""
    connection = importlib.import_module(f"{package}.connection")
    address = json.loads(where)
    clients = []
    for number in range(int(size)):
        made = connection.Client(tuple(address), authkey=key.encode())
        if package == "processing":
            made.send((None, "attach", (0, os.getpid(), f"client {number}"), {}))
        else:
            made.send((None, "accept_connection", (f"client {number}",), {}))
        assert made.recv()[0] == "#RETURN"
        clients.append(made)
    say(ready=len(clients))
    sys.stdin.readline()
    for number, made in enumerate(clients):
        made.send((ident, "append", (number,), {}))
    replies = [made.recv() for made in clients]
    say(served=replies.count(("#RETURN", None)))
    sys.stdin.readline()
    for made in clients:
        made.close()


def main() -> None:
    role, *arguments = sys.argv[1:]
    if arguments[0] == "multiprocessing":
        sys.modules["processing"] = None  # type: ignore[assignment]  # as where it is not installed
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    programs: dict[str, Callable[..., None]] = {
        "server": server,
        "client": client,
        "wrong_key": wrong_key,
        "hold": hold,
        "crowd": crowd,
        "make": make,
    }
    import interop_programs as this

    assert this.SCENARIOS is SCENARIOS
    programs[role](*arguments)


def pickled(obj: Any) -> Any:
    return pickle.loads(pickle.dumps(obj))
