"""Puts into managed queues that do not wait for the server's reply: nobody may tell the difference."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from queue import Empty, Full
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, kill, until
from manager_helpers import Doing, in_child, run_in_child, started
from processing import managerchannels
from processing.managedqueue import ShutDown
from processing.managers import SyncManager, batch

pytestmark = pytest.mark.ends

MANY = 2000


class Taker:
    """Code that runs in the server."""

    def take(self, queue: Any) -> Any:
        return queue.get_nowait()


class QuickTaker(Taker):
    """The same, without a thread of its own."""


class Manager(SyncManager):
    pass


Manager.register("Taker", Taker)
Manager.register("QuickTaker", QuickTaker, blocking=False)


@pytest.fixture
def each(start_method: Any) -> Iterator[Any]:
    """A manager of each start method; `each.ctx` is the context."""
    with started(Manager(ctx=start_method)) as made:
        made.ctx = start_method
        yield made


@pytest.fixture
def manager() -> Iterator[Any]:
    with started(Manager(ctx=processing.get_context("fork"))) as made:
        yield made


def test_it_is_so(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests here show nothing: a server that is stopped holds up a put only now and then."""
    monkeypatch.setattr(managerchannels, "RECENT", LIMIT)
    queue = manager.Queue()
    server = manager._process.pid
    put: list[int] = []

    def put_all() -> None:
        queue.put(-1)
        os.kill(server, signal.SIGSTOP)
        for number in range(MANY):
            queue.put(number)
            put.append(number)

    try:
        doing = Doing(put_all)
        until(lambda: len(put) == managerchannels.POSTS)
        time.sleep(SHORT)
        assert len(put) == managerchannels.POSTS
    finally:
        os.kill(server, signal.SIGCONT)
    doing.result()
    assert [queue.get() for _ in range(MANY + 1)] == [*range(-1, MANY)]


def put_numbers(queue: Any, start: int, count: int, done: Any = None) -> None:
    for number in range(start, start + count):
        queue.put(number)
    if done is not None:
        done.set()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_what_was_put_is_there(each: Any, kind: str) -> None:
    """Another process hears of it by the server, or by something else."""
    queue = getattr(each, kind)()
    for done in (each.Event(), each.ctx.Event()):
        with in_child(each.ctx, put_numbers, queue, 0, MANY, done) as result:
            assert done.wait(LIMIT)
            assert queue.qsize() == MANY
            assert [queue.get_nowait() for _ in range(MANY)] == [*range(MANY)]
            assert queue.empty()
            result()


def test_the_order_of_each_process(each: Any) -> None:
    queue = each.Queue()
    with (
        in_child(each.ctx, put_numbers, queue, 0, MANY) as one,
        in_child(each.ctx, put_numbers, queue, MANY, MANY) as other,
    ):
        found = [queue.get() for _ in range(2 * MANY)]
        one(), other()
    assert [number for number in found if number < MANY] == [*range(MANY)]
    assert [number for number in found if number >= MANY] == [*range(MANY, 2 * MANY)]


def test_threads_of_one_process(manager: Any) -> None:
    queue = manager.Queue()
    putting = [Doing(put_numbers, queue, start, MANY) for start in (0, MANY, 2 * MANY)]
    found = [queue.get() for _ in range(3 * MANY)]
    for doing in putting:
        doing.result()
    assert sorted(found) == [*range(3 * MANY)]


ITEMS = [
    1,
    2.5,
    "text \ud800",
    b"bytes",
    None,
    True,
    1 << 200,
    ("a", 1, None),
    (),
    [1, 2],
    {"k": (1, [2])},
    (1, (2, 3)),
]


def test_any_item(manager: Any) -> None:
    queue = manager.Queue()
    for item in ITEMS * 3:
        queue.put(item)
    found = [queue.get() for _ in ITEMS * 3]
    assert found == ITEMS * 3
    assert [*map(type, found)] == [*map(type, ITEMS * 3)]


def test_forms_of_put(manager: Any) -> None:
    queue = manager.Queue()
    queue.put(1)
    queue.put(2, True)
    queue.put(3, block=False)
    queue.put(item=4)
    queue.put(5, timeout=1)
    queue.put_nowait(6)
    queue.put_nowait(item=7)
    with pytest.raises(TypeError):
        queue.put()
    with pytest.raises(TypeError):
        queue.put(8, nonsense=1)
    assert [queue.get() for _ in range(7)] == [*range(1, 8)]


@pytest.mark.parametrize(
    "make", [lambda manager: manager.Queue(2), lambda manager: manager.JoinableQueue(maxsize=2)]
)
def test_a_queue_with_a_limit(manager: Any, make: Any) -> None:
    queue = make(manager)
    queue.put(1)
    queue.put(2)
    with pytest.raises(Full):
        queue.put(3, timeout=0)
    with pytest.raises(Full):
        queue.put_nowait(3)
    assert queue.qsize() == 2


def test_joining(each: Any) -> None:
    queue = each.JoinableQueue()
    for number in range(100):
        queue.put(number)
    joining = Doing(queue.join)
    for number in range(100):
        assert queue.get() == number
        assert joining.thread.is_alive()
        queue.task_done()
    joining.result()


def test_in_a_batch(manager: Any) -> None:
    queue = manager.Queue()
    for _ in range(100):
        queue.put(1)
        with batch() as calls:
            size, found = calls(queue).qsize(), calls(queue).get_nowait()
        assert (size.result(), found.result()) == (1, 1)


@pytest.mark.parametrize("kind", ["Taker", "QuickTaker"])
def test_code_in_the_server_finds_it(manager: Any, kind: str) -> None:
    taker = getattr(manager, kind)()
    for _ in range(100):
        queue = manager.Queue()
        queue.put(1)
        queue.put(2)
        assert (taker.take(queue), taker.take(queue)) == (1, 2)
        queue.put(3)
        assert queue.get_nowait() == 3


# ---- Clients of another program -------------------------------------------------------------------------------------

STRANGER = """
import pickle, sys
import processing
processing.current_process().authkey = bytes.fromhex(sys.argv[1])
for line in sys.stdin:
    queue = pickle.loads(bytes.fromhex(line))
    print(queue.get_nowait(), queue.get_nowait(), flush=True)
"""


def test_a_stranger_finds_it(manager: Any) -> None:
    """Its requests do not come through the ring that the items come through."""
    busy = manager.Queue()
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            busy.put("x" * 1000)
            busy.get()

    threads = [Doing(keep_busy) for _ in range(2)]
    order = [sys.executable, "-c", textwrap.dedent(STRANGER), bytes(manager._authkey).hex()]
    with subprocess.Popen(order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdin is not None and stranger.stdout is not None
        try:
            for number in range(200):
                queue = manager.Queue()
                ticket = pickle.dumps(queue).hex()
                queue.put(0)
                queue.put(number)
                stranger.stdin.write(ticket + "\n")
                stranger.stdin.flush()
                assert stranger.stdout.readline().split() == ["0", str(number)]
                queue.put(1)
                assert queue.get_nowait() == 1
        finally:
            over.set()
            stranger.stdin.close()
            stranger.wait(LIMIT)
    for thread in threads:
        thread.result()


# ---- The end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown(each: Any, immediate: bool) -> None:
    queue = each.Queue()
    queue.put(1)
    queue.put(2)
    run_in_child(each.ctx, queue.shutdown, immediate)
    for put in (queue.put, queue.put_nowait):
        with pytest.raises(ShutDown):
            put(3)
    if not immediate:
        assert [queue.get(), queue.get()] == [1, 2]
    with pytest.raises(ShutDown):
        queue.get()


def shut_down_amid(queue: Any, started: Any) -> int:
    """How many puts succeeded."""
    done = 0
    try:
        while True:
            queue.put(done)
            done += 1
            if done == 10:
                started.set()
    except ShutDown:
        return done


@pytest.mark.once
def test_shutdown_amid_puts(each: Any) -> None:
    """Every put that succeeded left an item."""
    for _ in range(10):
        queue, ready = each.Queue(), each.ctx.Event()
        with in_child(each.ctx, shut_down_amid, queue, ready) as result:
            assert ready.wait(LIMIT)
            queue.shutdown()
            put = result()
        found = []
        with pytest.raises((ShutDown, Empty)):
            while True:
                found.append(queue.get_nowait())
        assert found == [*range(put)]


def put_and_die(queue: Any, count: int, how: str) -> None:
    for number in range(count):
        queue.put(number)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(0)


@pytest.mark.once
@pytest.mark.parametrize("how", ["orderly", "exit", "killed"])
def test_the_end_of_who_put(each: Any, how: str) -> None:
    for count in (2, 31, 32, 33, 34, 100):
        queue = each.Queue()
        with child(each.ctx, put_and_die, queue, count, how) as process:
            process.join(LIMIT)
            assert process.exitcode is not None
        assert [queue.get_nowait() for _ in range(count)] == [*range(count)]
        assert queue.empty()


def put_for_ever(queue: Any, ready: Any) -> int:
    put = 0
    try:
        while True:
            queue.put("x" * 300)
            put += 1
            if put == 100:
                ready.set()
    except ConnectionError:
        return put


def test_the_server_is_killed(start_method: Any) -> None:
    manager = Manager(ctx=start_method)
    manager.start()
    queue, ready = manager.Queue(), start_method.Event()
    with in_child(start_method, put_for_ever, queue, ready) as result:
        assert ready.wait(LIMIT)
        kill(manager._process)
        assert result() >= 100
    with pytest.raises(ConnectionError):
        for _ in range(100):
            queue.put(1)
    manager.shutdown()
    manager.join(LIMIT)


def test_the_manager_is_shut_down(start_method: Any) -> None:
    with started(Manager(ctx=start_method)) as manager:
        queue, ready = manager.Queue(), start_method.Event()
        with in_child(start_method, put_for_ever, queue, ready) as result:
            assert ready.wait(LIMIT)
            queue.put(1)
            manager.shutdown()
            with pytest.raises(ConnectionError):
                queue.put(2)
            assert result() >= 100
