"""Managers over a network: clients and servers of different programs, which die, come back, or are cut off; crowds.

The servers are programs of their own (interop_programs.py) and listen on TCP; clients are this process, and programs
that can be killed. What has to hold: a clear error within the time that is documented, no hang, others are served, and
nothing is left in the server.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, take_seconds, until
from interop_ends import KEY, PROGRAM, TCP, ServerProgram, count, environment, run, serving
from interop_programs import Doing, manager_class
from interop_scenarios import ALL, ONLY_OURS
from processing import LockOwnerDied
from processing.connection import Client

ROUND = 5.0  # seconds; a lost server is given one to come back


@contextmanager
def connected(server: ServerProgram) -> Iterator[Any]:
    """A manager of this process for that server."""
    manager = manager_class("processing")(tuple(server.address), KEY.encode())
    manager.connect()
    try:
        yield manager
    finally:
        gc.collect()
        link = manager._link()
        link.lost(link.control)  # descriptors of this process are counted


@pytest.fixture
def server() -> Iterator[ServerProgram]:
    with serving(sys.executable, "processing", TCP) as made:
        yield made


@pytest.fixture(autouse=True)
def key_of_this_process() -> Iterator[None]:
    """Proxies that are unpickled find the key there."""
    before = processing.current_process().authkey
    processing.current_process().authkey = KEY.encode()
    yield
    processing.current_process().authkey = before


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A client that can be talked to, and killed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as made:
        try:
            yield made
        finally:
            made.kill()


def heard(made: subprocess.Popen[str]) -> dict[str, Any]:
    assert made.stdout is not None
    facts: dict[str, Any] = json.loads(made.stdout.readline())
    return facts


def tell(made: subprocess.Popen[str]) -> None:
    assert made.stdin is not None
    made.stdin.write("\n")
    made.stdin.flush()


def objects(manager: Any) -> int:
    gc.collect()
    return int(manager._number_of_objects())


def connection_error(function: Any, *args: Any, limit: float = ROUND) -> Exception:
    """The error of a call that cannot be carried out; it names the server."""
    start = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        function(*args)
    assert time.monotonic() - start < limit
    assert "manager" in str(caught.value)
    return caught.value


def test_every_type(server: ServerProgram) -> None:
    names = [*ALL, *ONLY_OURS]
    done = run(
        sys.executable, "client", "processing", server.where, "processing", "pickle", KEY, *names, limit=50.0
    )
    outcomes = {line["name"]: line["error"] for line in map(json.loads, done.stdout.splitlines())}
    wrong = {name: error for name, error in outcomes.items() if error is not None}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
    assert ([*outcomes], done.returncode, done.stderr) == (names, 0, "")
    assert server.stop() == ""


# ---- Death ----------------------------------------------------------------------------------------------------------


def test_killed_client(server: ServerProgram) -> None:
    """Its locks are released and reported, its references go, what it waited for goes to others."""
    with connected(server) as manager:
        table = manager.table()
        kinds = {"lock": manager.Lock, "rlock": manager.RLock, "condition": manager.Condition}
        locks = {name: make() for name, make in kinds.items()}
        bounded, queue, lists = manager.BoundedSemaphore(1), manager.Queue(), manager.list()
        table.update({**locks, "bounded": bounded, "queue": queue, "lists": lists})
        descriptors, before = count(server.pid, "fd"), objects(manager)
        with program("hold", "processing", server.where, KEY) as holder:
            assert heard(holder)["waits"]
            until(lambda: objects(manager) == before + 4)
            assert not any(lock.acquire(False) for lock in [*locks.values(), bounded])
            waiting = Doing(locks["lock"].acquire)
            holder.kill()
            with pytest.raises(LockOwnerDied, match=str(holder.pid)):
                waiting.result()
        for name in ("rlock", "condition"):
            with pytest.raises(LockOwnerDied, match=str(holder.pid)):
                locks[name].acquire(True, LIMIT)
        for lock in [*locks.values(), bounded]:
            assert lock.acquire(True, LIMIT) is True
            lock.release()
        queue.put("for the living")
        assert queue.get(True, LIMIT) == "for the living"
        assert lists[0][:] == ["of the killed"]
        del lists[0]
        until(lambda: objects(manager) == before)
        until(lambda: count(server.pid, "fd") <= descriptors + 1)  # the waiting thread's may still be there


def test_pickle_outlives_its_maker(server: ServerProgram) -> None:
    """A proxy in flight keeps its object alive, though the client that pickled it has ended."""
    with connected(server) as manager:
        before = objects(manager)
        done = run(sys.executable, "make", "processing", server.where, KEY)
        assert (done.returncode, done.stderr) == (0, "")
        got = [pickle.loads(bytes.fromhex(json.loads(done.stdout)["pickle"]))]
        assert got[0][:] == ["made by another"]
        assert objects(manager) == before + 1
        got.clear()
        until(lambda: objects(manager) == before)


def use_dead_server(manager: Any, server: ServerProgram) -> None:
    shared, queue, event, maths = manager.list([1]), manager.Queue(), manager.Event(), manager.Maths()
    assert shared[0] == 1
    waiting = [Doing(queue.get), Doing(event.wait), Doing(maths.sleep, 60)]
    until(lambda: count(server.pid, "fd") >= 3)
    time.sleep(SHORT)
    assert all(doing.thread.is_alive() for doing in waiting)
    os.kill(server.pid, signal.SIGKILL)
    for doing in waiting:
        connection_error(doing.result)
    connection_error(shared.append, 2)
    connection_error(lambda: shared[0])
    connection_error(manager.list)
    connection_error(manager._number_of_objects)
    assert "failed" in str(shared) and "ListProxy" in repr(shared)


@pytest.mark.once
def test_killed_server(server: ServerProgram) -> None:
    """Calls that wait and calls that come say so; nothing hangs, nor does dropping the proxies."""
    with connected(server) as manager:
        use_dead_server(manager, server)
        seconds, _ = take_seconds(gc.collect)
        assert seconds < ROUND


def test_server_comes_back() -> None:
    """The same manager reaches it; an object of the one before is not taken for another one that has its place."""
    with ExitStack() as stack:
        first = stack.enter_context(serving(sys.executable, "processing", TCP))
        manager = stack.enter_context(connected(first))
        old = [manager.list([1]), manager.dict(a=1), manager.Queue()]
        assert old[0][0] == 1
        first.kill()
        connection_error(manager.list)
        second = stack.enter_context(serving(sys.executable, "processing", first.where))
        assert second.address == first.address
        new = [manager.list(["new"]) for _ in range(10)]
        assert [shared[:] for shared in new] == [["new"]] * 10
        for action in (lambda: old[0].append("for the dead"), lambda: old[1]["a"], lambda: old[2].qsize()):
            with pytest.raises((KeyError, processing.RemoteError), match="not in this server"):
                action()
        assert [shared[:] for shared in new] == [["new"]] * 10
        size = objects(manager)
        old.clear()
        assert objects(manager) == size
        new.clear()
        until(lambda: objects(manager) == size - 10)


def test_server_comes_back_during_a_call() -> None:
    """A call that begins while the server is away waits a moment for it."""
    with ExitStack() as stack:
        first = stack.enter_context(serving(sys.executable, "processing", TCP))
        manager = stack.enter_context(connected(first))
        first.kill()
        second = stack.enter_context(serving(sys.executable, "processing", first.where))
        for _ in range(3):
            assert manager.list([1])[:] == [1]
        assert second.program.poll() is None


# ---- The network goes down ------------------------------------------------------------------------------------------

CUT_OFF = """
import json, os, subprocess, sys, threading, time
import processing
from interop_programs import Doing, manager_class
from interop_ends import KEY

pid, where = sys.argv[1], json.loads(sys.argv[2])
processing.current_process().authkey = KEY.encode()
manager = manager_class("processing")(tuple(where), KEY.encode(), timeout=8.0)
manager.connect()

def link(state):
    subprocess.run(["ip", "link", "set", "pz0", state], check=True)

def outcome(function, *args):
    start = time.monotonic()
    try:
        result = function(*args)
    except Exception as error:
        result = None
        kind = [kind.__name__ for kind in type(error).__mro__]
        text = str(error)
    else:
        kind, text = None, repr(result)
    return {"kind": kind, "text": text, "seconds": time.monotonic() - start}

facts = {}
shared, maths, queue = manager.list([1, 2]), manager.Maths(), manager.Queue()
# Down for a moment: nobody notices.
waiting = Doing(maths.sleep, 1.5)
time.sleep(0.2)
link("down")
time.sleep(0.5)
link("up")
facts["moment"] = outcome(waiting.result)
# Down for long, with calls under way.
waiting = [Doing(outcome, queue.get), Doing(outcome, maths.sleep, 60), Doing(outcome, manager.Event().wait)]
time.sleep(0.5)
link("down")
begun = [Doing(outcome, shared.append, 3), Doing(outcome, shared.__getitem__, 0), Doing(outcome, manager.list)]
for doing in waiting + begun:
    doing.thread.join(60)
facts["waiting"] = [doing.outcome for doing in waiting]
facts["begun"] = [doing.outcome for doing in begun]
link("up")
facts["after"] = outcome(lambda: manager.list([7])[:])
facts["objects"] = outcome(lambda: int(manager._number_of_objects()))
print(json.dumps(facts))
"""

SERVE_THERE = """
import json, os, subprocess, sys
from interop_ends import serving, environment
cut_off = sys.argv[1]
there = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 100"], stdout=subprocess.PIPE, text=True)
try:
    there.stdout.readline()
    inside = ["nsenter", "-t", str(there.pid), "-n"]
    def ip(*words, before=()):
        subprocess.run([*before, "ip", *words], check=True)
    ip("link", "add", "pz0", "type", "veth", "peer", "name", "pz1", "netns", str(there.pid))
    for before, name, address in (((), "pz0", "10.77.0.1/24"), (inside, "pz1", "10.77.0.2/24")):
        ip("addr", "add", address, "dev", name, before=before)
        ip("link", "set", name, "up", before=before)
        ip("link", "set", "lo", "up", before=before)
    with serving(sys.executable, "processing", '["10.77.0.2", 0]', before=inside) as server:
        done = subprocess.run(
            [sys.executable, "-c", cut_off, str(there.pid), server.where],
            stdout=subprocess.PIPE, text=True, timeout=100, env=environment(),
        )
        print(done.stdout)
        assert done.returncode == 0
        print(json.dumps(server.stop()))
finally:
    there.kill()
    there.wait()
"""


def namespaces() -> list[str]:
    """The command that makes a network namespace; skips where that is not allowed."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None or shutil.which("ip") is None:
        pytest.skip("no unshare, nsenter or ip command here")
    make = "ip link add pz0 type veth peer name pz1"
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        done = subprocess.run([*command, "sh", "-c", make], capture_output=True, text=True, timeout=LIMIT)
        if done.returncode == 0:
            return command
    pytest.skip(f"no network namespaces with a link here: {done.stderr.strip()}")


@pytest.mark.once
@pytest.mark.time_limit(110)
def test_link_down() -> None:
    """Two network namespaces with a cable between them, which is pulled."""
    command = [*namespaces(), sys.executable, "-c", SERVE_THERE, CUT_OFF]
    done = subprocess.run(command, capture_output=True, text=True, timeout=105, env=environment())
    assert done.returncode == 0, done.stderr
    facts, server_said = map(json.loads, filter(None, done.stdout.splitlines()))
    assert (facts["moment"]["kind"], facts["moment"]["text"]) == (None, "1.5"), facts
    for told in facts["waiting"] + facts["begun"]:
        assert told["kind"] is not None and "OSError" in told["kind"], told
        assert "ConnectionError" in told["kind"] or "TimeoutError" in told["kind"], told
        assert "10.77.0.2" in told["text"] and "manager" in told["text"], told
        assert told["seconds"] < 25, told
    assert facts["after"]["text"] == "[7]", facts
    assert server_said == ""


# ---- Crowds ---------------------------------------------------------------------------------------------------------


def memory(pid: int) -> int:
    """Resident bytes that are the process's own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return 1024 * int(fields["RssAnon"])


def seconds_of_a_call(shared: Any) -> float:
    start = time.monotonic()
    shared.append("served")
    assert shared.pop() == "served"
    return time.monotonic() - start


def test_a_thousand_clients(server: ServerProgram) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("this machine allows a process fewer than 1200 descriptors")
    with connected(server) as manager, ExitStack() as stack:
        shared, other = manager.list(), manager.list()
        seconds_of_a_call(other)
        descriptors, threads, bytes_before = (
            count(server.pid, "fd"),
            count(server.pid, "task"),
            memory(server.pid),
        )
        ident = shared._token.id
        # Few of the standard library: on TCP each needs 40 ms to come, for how it sends (Nagle's algorithm).
        sizes = [("processing", 450), ("multiprocessing", 50)] * 2
        crowds = [
            stack.enter_context(program("crowd", kind, server.where, KEY, ident, str(size)))
            for kind, size in sizes
        ]
        for crowd, (_, size) in zip(crowds, sizes, strict=True):
            assert heard(crowd) == {"ready": size}
        assert count(server.pid, "fd") == descriptors + 1000
        assert count(server.pid, "task") <= threads
        assert (memory(server.pid) - bytes_before) / 1000 < 100_000
        assert seconds_of_a_call(other) < 1
        for crowd in crowds:
            tell(crowd)
        for crowd, (_, size) in zip(crowds, sizes, strict=True):
            assert heard(crowd) == {"served": size}
        assert sorted(shared[:]) == sorted([*range(450), *range(50)] * 2)
        assert count(server.pid, "task") <= threads + 1
        for crowd in crowds[:2]:
            crowd.kill()
        for crowd in crowds[2:]:
            tell(crowd)
            assert crowd.wait(LIMIT) == 0
        until(lambda: count(server.pid, "fd") <= descriptors)
        assert count(server.pid, "task") <= threads + 1
        assert seconds_of_a_call(other) < 1


def test_calls_of_many_threads_that_block(server: ServerProgram) -> None:
    """Blocked calls of locks and queues need no thread; those of types of one's own do, and give them back."""
    with connected(server) as manager:
        event, maths = manager.Event(), manager.Maths()
        maths.add(1)
        threads = count(server.pid, "task")
        waiting = [Doing(event.wait) for _ in range(100)]
        descriptors = count(server.pid, "fd")
        until(lambda: count(server.pid, "fd") >= descriptors)
        assert count(server.pid, "task") <= threads
        event.set()
        assert [doing.result() for doing in waiting] == [True] * 100
        sleeping = [Doing(maths.sleep, 0.5) for _ in range(30)]
        until(lambda: count(server.pid, "task") >= threads + 25)
        assert [doing.result() for doing in sleeping] == [0.5] * 30
        until(lambda: count(server.pid, "task") <= threads + 5)


def authenticated(server: ServerProgram) -> Any:
    return Client(tuple(server.address), authkey=KEY.encode())


def test_silent_and_half_open(server: ServerProgram) -> None:
    """Those who say nothing, stop in the middle of a message, or do not read hinder nobody."""
    with connected(server) as manager, ExitStack() as stack:
        shared, large = manager.list(), manager.list([bytes(3 << 20)])
        seconds_of_a_call(shared)
        descriptors, threads = count(server.pid, "fd"), count(server.pid, "task")
        silent = [stack.enter_context(socket.create_connection(server.address)) for _ in range(200)]
        assert seconds_of_a_call(shared) < 1
        authenticated(server).close()  # accepting goes on as well
        halves = [stack.enter_context(authenticated(server)) for _ in range(30)]
        for index, half in enumerate(halves):
            os.write(
                half.fileno(),
                (b"", b"\0", struct.pack(">i", 1 << 20) + b"x", struct.pack(">i", -1))[index % 4],
            )
        assert seconds_of_a_call(shared) < 1
        deaf = [stack.enter_context(authenticated(server)) for _ in range(5)]
        for one in deaf:
            for _ in range(4):
                one.send((large._token.id, "__getitem__", (0,), {}))
        assert seconds_of_a_call(shared) < 1
        assert large[0] == bytes(3 << 20)
        for one in deaf[:2]:  # late, but everything comes
            assert [one.recv() for _ in range(4)] == [("#RETURN", bytes(3 << 20))] * 4
        for rest in [*silent, *halves, *deaf]:
            rest.close()
        until(lambda: count(server.pid, "fd") <= descriptors)
        assert count(server.pid, "task") <= threads + 1


GARBAGE = {
    "not a pickle": b"\x93garbage",
    "empty": b"",
    "not a request": pickle.dumps(5),
    "too few": pickle.dumps((None, "dummy")),
    "unknown class": b"cno_such_module\nname\n.",
    "no such function": pickle.dumps((None, "no such function", (), {})),
    "private function": pickle.dumps((None, "serve_forever", (), {})),
    "no such object": pickle.dumps(("nobody", "append", (1,), {})),
    "odd identity": pickle.dumps(([], "append", (1,), {})),
    "odd method": pickle.dumps((None, 7, (), {})),
    "odd arguments": pickle.dumps((None, "dummy", 5, 7)),
    "odd method of an object": None,
}


@pytest.mark.parametrize("what", [*GARBAGE])
def test_garbage_of_those_who_know_the_key(server: ServerProgram, what: str) -> None:
    """It is answered with an error, or the connection is closed; others are served."""
    with connected(server) as manager:
        shared = manager.list()
        message = (
            GARBAGE[what] if GARBAGE[what] is not None else pickle.dumps((shared._token.id, [1], (), {}))
        )
        threads = count(server.pid, "task")
        for _ in range(3):
            with authenticated(server) as odd:
                odd.send_bytes(message)
                if odd.poll(LIMIT):
                    try:
                        kind, _ = odd.recv()
                    except EOFError:
                        pass
                    else:
                        assert kind in ("#TRACEBACK", "#ERROR")
                else:
                    pytest.fail("no answer")
        assert seconds_of_a_call(shared) < 1
        assert count(server.pid, "task") <= threads + 1
    assert server.stop() == ""


def test_absurd_length(server: ServerProgram) -> None:
    with connected(server) as manager:
        shared = manager.list()
        before = memory(server.pid)
        for header in (struct.pack(">i", -7), struct.pack(">iQ", -1, 1 << 60), struct.pack(">i", 2**31 - 1)):
            with authenticated(server) as odd:
                os.write(odd.fileno(), header + b"x" * 100)
                assert seconds_of_a_call(shared) < 1
        assert memory(server.pid) - before < 50 << 20


def test_nothing_is_left(server: ServerProgram) -> None:
    """Clients that end well, end badly, or are not clients at all."""
    with connected(server) as manager:
        names = (
            "lists",
            "queues",
            "locks",
            "own_types",
            "typed_results",
            "nested",
            "pickling",
            "children_by_fork",
        )

        def all_kinds() -> None:
            facts = ("client", "processing", server.where, "processing", "pickle", KEY, *names)
            done = run(sys.executable, *facts, limit=50.0)
            errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
            assert errors == [None] * len(names), [*filter(None, errors)]
            with program("crowd", "processing", server.where, KEY, "none", "5") as crowd:
                assert heard(crowd) == {"ready": 5}
            with socket.create_connection(server.address) as one:
                one.sendall(b"GET / HTTP/1.0\r\n\r\n")

        all_kinds()  # what is made once and kept
        descriptors, threads, number = count(server.pid, "fd"), count(server.pid, "task"), objects(manager)
        for _ in range(2):
            all_kinds()
        until(lambda: objects(manager) <= number)
        until(lambda: count(server.pid, "fd") <= descriptors)
        until(lambda: count(server.pid, "task") <= threads + 1)
    assert threading.active_count() == 1
