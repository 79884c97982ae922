"""Managers in one program when something dies: clients that hold or wait, threads, Ctrl-C, the server, the parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, ended, kill, run_program, until, until_asleep
from manager_helpers import Doing, count, in_child, started
from processing.managers import SyncManager

pytestmark = pytest.mark.ends

LOCKS = ("Lock", "RLock", "Condition")


def waiting_calls(proxy: Any) -> int:
    """How many calls of a lock, or of a condition and its lock, wait: as the text of it says."""
    numbers = re.findall(r"waiting=(\d+)", str(proxy))
    assert numbers, str(proxy)
    return sum(map(int, numbers))


# ---- Killed clients -------------------------------------------------------------------------------------------------


def hold(lock: Any, ready: Any) -> None:
    lock.acquire()
    ready.put(os.getpid())
    threading.Event().wait()


@pytest.mark.parametrize("kind", LOCKS)
def test_the_lock_of_a_killed_client(each: Any, kind: str) -> None:
    lock, ready = getattr(each, kind)(), each.ctx.SimpleQueue()
    with child(each.ctx, hold, lock, ready) as process:
        pid = ready.get()
        assert not lock.acquire(False)
        waiting = Doing(lock.acquire)
        until_waits(lock)
        kill(process)
        with pytest.raises(processing.LockOwnerDied, match=str(pid)) as caught:
            waiting.result()
        assert caught.value.pid == pid
    with lock:
        assert not Doing(lock.acquire, False).result()
    assert lock.acquire(False)


def until_waits(lock: Any, number: int = 1) -> None:
    until(lambda: waiting_calls(lock) == number)


def test_nobody_waits_when_the_owner_is_killed(each: Any) -> None:
    lock, ready = each.Lock(), each.ctx.SimpleQueue()
    with child(each.ctx, hold, lock, ready) as process:
        ready.get()
        kill(process)
    died_once(lock)


def died_once(lock: Any) -> None:
    """Sooner or later the server notices; it says so once."""
    with pytest.raises(processing.LockOwnerDied):
        lock.acquire(True, LIMIT)
    assert lock.acquire(True, LIMIT)
    lock.release()


def hold_and_end(lock: Any) -> None:
    lock.acquire()


@pytest.mark.parametrize("kind", ["RLock", "BoundedSemaphore", "Semaphore"])
def test_a_killed_semaphore_holder(each: Any, kind: str) -> None:
    """Permits of a BoundedSemaphore come back, those of a Semaphore are signals."""
    if kind == "RLock":
        lock = each.RLock()
        with child(each.ctx, hold_and_end, lock) as process:
            ended(process)
        assert lock.acquire(True, LIMIT), "its process ended in good order"
        return
    semaphore, ready = getattr(each, kind)(1), each.ctx.SimpleQueue()
    with child(each.ctx, hold, semaphore, ready) as process:
        ready.get()
        kill(process)
    if kind == "BoundedSemaphore":
        assert semaphore.acquire(True, LIMIT)
    else:
        assert not semaphore.acquire(True, SHORT)
        semaphore.release()
        assert semaphore.acquire(False)


def block_in(ready: Any, proxy: Any, method: str, *args: Any) -> None:
    if method == "wait" and hasattr(proxy, "notify"):
        proxy.acquire()
    ready.put(None)
    getattr(proxy, method)(*args)


def test_the_waiting_get_of_a_killed_client(each: Any) -> None:
    items, ready = each.Queue(), each.ctx.SimpleQueue()
    with child(each.ctx, block_in, ready, items, "get") as process:
        ready.get()
        until_asleep(process.pid)
        kill(process)
    living = Doing(items.get)
    items.put("for the living")
    assert living.result() == "for the living"
    assert items.empty()


def test_items_put_right_after_the_kill(each: Any) -> None:
    """The server may not know yet that the first who waits is dead: the item is not lost in any case."""
    for _ in range(3):
        items, ready = each.Queue(), each.ctx.SimpleQueue()
        with child(each.ctx, block_in, ready, items, "get") as process:
            ready.get()
            until_asleep(process.pid)
            kill(process)
            items.put("not lost")
            assert items.get(timeout=LIMIT) == "not lost"


def test_the_waiting_put_of_a_killed_client(each: Any) -> None:
    items, ready = each.Queue(1), each.ctx.SimpleQueue()
    items.put("first")
    with child(each.ctx, block_in, ready, items, "put", "of the dead") as process:
        ready.get()
        until_asleep(process.pid)
        kill(process)
    before = count(each)
    del ready
    until(lambda: count(each) == before)
    assert items.get(timeout=LIMIT) == "first"
    # Whether the server had the item already is a race that the dead may win; nobody is blocked in any case.
    while not items.empty():
        assert items.get(timeout=LIMIT) == "of the dead"
    items.put("later", timeout=LIMIT)
    assert items.get(timeout=LIMIT) == "later"


def test_the_waiting_acquire_of_a_killed_client(each: Any) -> None:
    lock, ready = each.Lock(), each.ctx.SimpleQueue()
    lock.acquire()
    with child(each.ctx, block_in, ready, lock, "acquire") as process:
        ready.get()
        until_waits(lock)
        kill(process)
    until_waits(lock, 0)
    lock.release()
    assert lock.acquire(True, LIMIT)


def test_a_killed_waiter_of_a_condition(each: Any) -> None:
    """The notification goes to one that lives."""
    condition, ready = each.Condition(), each.ctx.SimpleQueue()

    def wait() -> Any:
        with condition:
            return condition.wait(LIMIT)

    with child(each.ctx, block_in, ready, condition, "wait") as process:
        ready.get()
        with condition:  # it waits, as it has let go of the lock
            pass
        living = Doing(wait)
        until_waits(condition, 2)
        kill(process)
    until_waits(condition, 1)
    with condition:
        condition.notify()
    assert living.result() is True


def test_a_killed_party_of_a_barrier(each: Any) -> None:
    barrier, ready = each.Barrier(3), each.ctx.SimpleQueue()
    with child(each.ctx, block_in, ready, barrier, "wait") as process:
        ready.get()
        living = Doing(barrier.wait)
        until(lambda: barrier.n_waiting == 2)
        kill(process)
        with pytest.raises(BrokenBarrierError):
            living.result()
    barrier.reset()
    assert barrier.n_waiting == 0


def take_item(work: Any, ready: Any) -> None:
    ready.put(work.get())
    threading.Event().wait()


def test_a_killed_consumer(each: Any) -> None:
    work, ready = each.JoinableQueue(), each.ctx.SimpleQueue()
    work.put("item")
    with child(each.ctx, take_item, work, ready) as process:
        assert ready.get() == "item"
        joining = Doing(work.join)
        kill(process)
        with pytest.raises(processing.LostItems, match="1"):
            joining.result()


def hammer_forever(lock: Any, value: Any, items: Any, ready: Any) -> None:
    ready.put(None)
    while True:
        with lock:
            value.value += 1
        items.put(1)
        items.get()


@pytest.mark.once
def test_killed_at_any_moment(each: Any) -> None:
    """Clients that are killed in the middle of their calls leave a server that works."""
    lock, value, items = each.Lock(), each.Value("i", 0), each.Queue()
    before = count(each)
    for n in range(8):
        ready = each.ctx.SimpleQueue()
        with child(each.ctx, hammer_forever, lock, value, items, ready) as process:
            ready.get()
            start = value.value
            until(lambda start=start, n=n: value.value > start + n)  # type: ignore[misc]
            kill(process)
        try:
            assert lock.acquire(True, LIMIT)
        except processing.LockOwnerDied:
            assert lock.acquire(True, LIMIT)
        lock.release()
        while not items.empty():
            items.get(timeout=LIMIT)
    items.put("works")
    assert items.get(timeout=LIMIT) == "works"
    until(lambda: count(each) == before, 10.0)


def use_and_say(shared: Any, ready: Any) -> None:
    ready.put(len(shared))
    threading.Event().wait()


@pytest.mark.once
def test_nothing_of_killed_clients_stays_in_the_server(each: Any) -> None:
    shared, ready = each.list([1]), each.ctx.SimpleQueue()
    folder = Path(f"/proc/{each._process.pid}")

    def kept() -> tuple[int, int]:
        return len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))

    def one() -> None:
        with child(each.ctx, use_and_say, shared, ready) as process:
            assert ready.get() == 1
            kill(process)

    one()
    until(lambda: count(each) == 1)
    before = kept()
    for _ in range(5):
        one()
    until(lambda: kept() <= before)


# ---- Threads --------------------------------------------------------------------------------------------------------


def test_two_threads_exclude_each_other(each: Any) -> None:
    lock, inside, most = each.RLock(), [], []

    def work() -> None:
        for _ in range(50):
            with lock, lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    for doing in [Doing(work) for _ in range(4)]:
        doing.result()
    assert max(most) == 1 and len(most) == 200


def test_an_rlock_of_a_thread_that_has_ended(each: Any) -> None:
    lock = each.RLock()
    assert Doing(lock.acquire).result() is True
    assert lock.acquire(True, LIMIT)
    assert not Doing(lock.acquire, False).result()
    with pytest.raises(RuntimeError, match="un-acquired"):
        Doing(lock.release).result()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


def fork_and_try(lock: Any) -> tuple[bool, bool]:
    """The child of the owner is not the owner."""
    with lock:
        with in_child(processing.get_context("fork"), lock.acquire, False) as got:
            inside = got()
        again = lock.acquire(False)
        lock.release()
    return inside, again


def test_a_fork_does_not_own_the_rlock(each: Any) -> None:
    with in_child(each.ctx, fork_and_try, lock := each.RLock()) as result:
        assert result() == (False, True)
    assert lock.acquire(True, LIMIT)


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


def interrupted(call: Any, is_waiting: Any) -> None:
    """`call` waits in this thread; SIGINT comes as soon as it does."""
    main = threading.get_ident()

    def send() -> None:
        until(is_waiting)
        signal.pthread_kill(main, signal.SIGINT)

    sending = Doing(send)
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        sending.result()


def test_ctrl_c_takes_the_call_back(manager: Any) -> None:
    lock, rlock, items, full = manager.Lock(), manager.RLock(), manager.Queue(), manager.Queue(1)
    event, semaphore = manager.Event(), manager.Semaphore(0)
    gate = threading.Event()
    holding = Doing(hold_rlock, rlock, gate)
    lock.acquire()
    full.put(1)
    until(lambda: "owner" in str(rlock))
    asleep = threading.get_native_id()

    def sleeps() -> bool:
        return Path(f"/proc/self/task/{asleep}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    interrupted(lock.acquire, lambda: waiting_calls(lock) == 1)
    interrupted(rlock.acquire, lambda: waiting_calls(rlock) == 1)
    interrupted(semaphore.acquire, lambda: waiting_calls(semaphore) == 1)
    interrupted(event.wait, lambda: waiting_calls(event) == 1)
    for call in (items.get, lambda: full.put("taken back")):
        interrupted(call, lambda: (time.sleep(SHORT), sleeps())[1])
    gate.set()
    holding.result()
    lock.release()
    semaphore.release()
    assert lock.acquire(False) and semaphore.acquire(False) and rlock.acquire(True, LIMIT)
    items.put("for another")
    assert Doing(items.get).result() == "for another"
    assert full.get() == 1 and full.empty()


@pytest.mark.parametrize("kind", ["RLock", "Lock"])
def test_ctrl_c_in_the_wait_of_a_condition(manager: Any, kind: str) -> None:
    """As in threading: `wait` ends with the lock held, whatever it ends with, so that the `with` can release it."""
    condition = manager.Condition(getattr(manager, kind)())
    with condition:
        interrupted(condition.wait, lambda: waiting_calls(condition) == 1)
        assert condition.wait(SHORT) is False
    with condition:
        condition.notify_all()


def hold_rlock(lock: Any, gate: threading.Event) -> None:
    with lock:
        gate.wait(LIMIT)


class Slow:
    def __init__(self) -> None:
        self.gate = threading.Event()
        self.began = 0

    def wait(self) -> int:
        self.began += 1
        self.gate.wait(LIMIT)
        return self.began

    def open(self) -> int:
        self.gate.set()
        return self.began

    def has_begun(self) -> int:
        return self.began


class WithSlow(SyncManager):
    pass


WithSlow.register("Slow", Slow)


def test_ctrl_c_in_a_method_of_a_user(start_method: Any) -> None:
    """The method goes on, its result is for nobody; this thread's next calls get their own results."""
    with started(WithSlow(ctx=start_method)) as made:
        slow, shared = made.Slow(), made.list(["mine"])
        interrupted(slow.wait, slow.has_begun)
        assert shared[0] == "mine"
        assert slow.open() == 1
        assert slow.wait() == 2 and shared[:] == ["mine"]


# ---- The server -----------------------------------------------------------------------------------------------------


def call_and_tell(proxy: Any, method: str, ready: Any) -> Any:
    ready.put(None)
    try:
        return getattr(proxy, method)()
    except ConnectionError as error:
        return str(error)


@pytest.mark.once
@pytest.mark.parametrize(
    ("start_method", "how"),
    [("fork", "kill"), ("spawn", "kill"), ("forkserver", "terminate")],
    indirect=["start_method"],
)
def test_the_server_is_killed(start_method: Any, how: str) -> None:
    made = WithSlow(ctx=start_method)
    with made:
        lock, items, slow, shared = made.Lock(), made.Queue(), made.Slow(), made.list([1])
        ready = start_method.SimpleQueue()
        lock.acquire()
        waiting = [Doing(call) for call in (lock.acquire, items.get, slow.wait)]
        until_waits(lock)
        until(slow.has_begun)
        with in_child(start_method, call_and_tell, items, "get", ready) as result:
            ready.get()
            until_asleep(result.process.pid)  # type: ignore[attr-defined]
            getattr(made._process, how)()
            for doing in waiting:
                with pytest.raises(ConnectionError, match="manager"):
                    doing.result()
            assert "manager" in result()
        for call in (lambda: shared.append(1), lambda: shared[0], made.list, lock.release, lambda: [*shared]):
            with pytest.raises(ConnectionError, match="cannot be reached"):
                call()
        assert "failed" in str(shared)
        started_at = time.monotonic()
        made.shutdown()
        assert time.monotonic() - started_at < 5
        made.shutdown()
    made.join(LIMIT)


def test_proxies_of_a_dead_server_are_dropped_quietly(start_method: Any, capfd: Any) -> None:
    made = start_method.Manager()
    shared = [made.list([n]) for n in range(20)]
    made._process.kill()
    made._process.join(LIMIT)
    del shared
    made.shutdown()
    made.join(LIMIT)
    assert capfd.readouterr().err == ""


def test_a_server_that_does_not_end(start_method: Any) -> None:
    """It is stopped: shutdown() is told to wait for `shutdown_timeout` seconds only."""
    made = SyncManager(ctx=start_method, shutdown_timeout=SHORT)
    made.start()
    process = made._process
    os.kill(process.pid, signal.SIGSTOP)
    stopping = Doing(made.shutdown)
    stopping.thread.join(5.0)
    hangs = stopping.thread.is_alive()
    if hangs:
        os.kill(process.pid, signal.SIGCONT)
    stopping.result()
    made.join(LIMIT)
    assert not hangs, "shutdown() waits for a server that is stopped"


# ---- The parent -----------------------------------------------------------------------------------------------------


def have_manager(ready: Any) -> None:
    made = processing.Manager()
    shared = made.list([1])
    with child(processing, shared.append, 2) as process:
        ended(process)
    ready.put((made._process.pid, shared[:]))
    threading.Event().wait()


def test_the_parent_is_killed(start_method: Any, is_running: Any) -> None:
    ready = start_method.SimpleQueue()
    with child(start_method, have_manager, ready) as process:
        pid, items = ready.get()
        assert items == [1, 2] and is_running(pid)
        kill(process)
    until(lambda: not is_running(pid))


PROGRAM = """
    import os, signal, sys, threading
    import processing

    def hold(lock, shared):
        lock.acquire()
        shared.append(os.getpid())
        threading.Event().wait()

    if __name__ == "__main__":
        processing.set_start_method(sys.argv[1] if len(sys.argv) > 1 else os.environ["METHOD"])
        manager = processing.Manager()
        lock, shared = manager.Lock(), manager.list()
        processing.Process(target=hold, args=(lock, shared), daemon=True).start()
        while not len(shared):
            pass
        print(manager._process.pid, shared[0], manager.address, flush=True)
        END
"""


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "pass", "sys.exit(0)"]
)
def test_nothing_is_left_of_a_program(start_method: Any, tmp_path: Path, end: str, is_running: Any) -> None:
    method = start_method.get_start_method()
    done = run_program(tmp_path, PROGRAM.replace("END", end), METHOD=method)
    assert done.stderr == ""
    server, client, address = done.stdout.split(None, 2)
    for pid in (server, client):
        until(lambda pid=pid: not is_running(int(pid)))  # type: ignore[misc]
    until(lambda: not os.path.exists(address.strip()))


def test_ctrl_c_of_a_whole_program(start_method: Any, tmp_path: Path, is_running: Any) -> None:
    """SIGINT to the process group: the program ends with KeyboardInterrupt, not with errors of the server."""
    path = tmp_path / "program.py"
    wait = "        try:\n            lock.acquire()\n        except KeyboardInterrupt:\n            print('stopped')"
    path.write_text(textwrap.dedent(PROGRAM.replace("        END", wait)))
    program = subprocess.Popen(
        [sys.executable, str(path), start_method.get_start_method()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None
        server, client, _ = program.stdout.readline().split(None, 2)
        until_asleep(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=LIMIT)
    finally:
        if program.poll() is None:
            program.kill()
            program.communicate()
    assert (program.returncode, out) == (0, "stopped\n")
    assert "manager" not in err.replace("manager.list", ""), err  # the child's own KeyboardInterrupt is there
    for pid in (server, client):
        until(lambda pid=pid: not is_running(int(pid)))  # type: ignore[misc]
