"""Clients of another program on the same machine: short messages go through memory that both map."""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, until
from interop_ends import KEY, count, serving
from interop_programs import Doing
from processing._wire import Wire, make_file
from processing.managers import SyncManager, awaitable


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    fd = make_file()
    try:
        yield Wire(fd, True), Wire(fd, False)
    finally:
        os.close(fd)


def test_messages_in_order(ends: tuple[Wire, Wire]) -> None:
    here, there = ends
    chance = random.Random(1)
    for _ in range(3000):
        messages = [chance.randbytes(chance.randrange(1500)) for _ in range(chance.randrange(8))]
        for message in messages:
            assert here.send(message) == 1
        assert [there.receive() for _ in messages] == messages
        assert there.receive() is None
        assert there.send(b"back") == 1 and here.receive() == b"back"


def test_no_room(ends: tuple[Wire, Wire]) -> None:
    here, there = ends
    assert here.send(bytes(16 << 10)) == 0
    sent = 0
    while here.send(b"x" * 100):
        sent += 1
    assert sent == (16 << 10) // 104
    assert there.receive() == b"x" * 100
    assert here.send(b"y" * 100) == 1 and here.send(b"y" * 100) == 0


def test_who_sleeps_is_rung_for_once(ends: tuple[Wire, Wire]) -> None:
    here, there = ends
    assert not there.rest()
    assert (here.send(b"1"), here.send(b"2")) == (2, 1)
    assert there.ready() and there.spin(0.0) and there.rest()  # there is a message, so it does not sleep
    assert here.send(b"3") == 1
    assert not here.spin(0.001)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    with path.open("r+b") as file, pytest.raises(OSError, match="not the file of a wire"):
        Wire(file.fileno(), True)


@pytest.mark.parametrize("tail", [2, 20_000, 1 << 63])
def test_indices_that_cannot_be(tail: int) -> None:
    fd = make_file()
    try:
        wire = Wire(fd, True)
        with mmap.mmap(fd, 0) as memory:
            for lane in (0, len(memory) // 2):
                memory[lane + 64 : lane + 72] = tail.to_bytes(8, "little")
        with pytest.raises(OSError, match="broken"):
            wire.receive()
        if tail > 16 << 10:
            with pytest.raises(OSError, match="broken"):
                wire.send(b"x")
    finally:
        os.close(fd)


# ---- Managers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    with serving(sys.executable, "processing", json.dumps(str(tmp_path / "socket"))) as made:
        yield made


@pytest.fixture
def manager(server: Any) -> Iterator[Any]:
    before, processing.current_process().authkey = processing.current_process().authkey, KEY.encode()
    made = SyncManager(server.address, KEY.encode())
    made.connect()
    try:
        with made:
            yield made
            gc.collect()
    finally:
        processing.current_process().authkey = before


def test_calls_take_the_wire(manager: Any) -> None:
    shared = manager.dict(a=1)
    assert manager._link().local.channel.wire is not None
    for n in range(2000):
        shared["n"] = n
        assert shared["n"] == n
    for size in (10, 8_000, 16_000, 16 << 10, 100_000, 5_000_000):
        shared["bytes"] = os.urandom(size)
        assert len(shared["bytes"]) == size
        time.sleep(SHORT / 20)  # so that the server sleeps
    with pytest.raises(KeyError):
        shared["missing"]


def test_threads_and_tasks(manager: Any) -> None:
    items, shared = manager.Queue(), manager.list()

    def work(number: int) -> None:
        for n in range(100):
            shared.append((number, n))
            items.put(n)

    getters = [Doing(lambda: [items.get() for _ in range(100)]) for _ in range(4)]
    for doing in [Doing(work, number) for number in range(4)]:
        doing.result()
    assert sorted(n for getter in getters for n in getter.result()) == sorted([*range(100)] * 4)
    assert len(shared) == 400

    async def program() -> None:
        waiting = [asyncio.create_task(awaitable(items).get()) for _ in range(20)]
        await asyncio.sleep(SHORT)
        await awaitable(items).put_many(range(20))
        assert sorted(await asyncio.gather(*waiting)) == [*range(20)]
        with pytest.raises(queue.Empty):
            await awaitable(items).get(timeout=SHORT)

    asyncio.run(program())


def test_an_interrupted_call(manager: Any) -> None:
    items = manager.Queue()
    main = threading.get_ident()
    for _ in range(3):
        timer = threading.Timer(SHORT, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            items.get()
        timer.join()
    items.put("for the next")
    assert items.get(timeout=LIMIT) == "for the next"


def test_the_server_is_killed(server: Any, manager: Any) -> None:
    items, shared = manager.Queue(), manager.list()
    waiting = Doing(items.get)
    time.sleep(SHORT)
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        waiting.result()
    with pytest.raises(ConnectionError):
        shared.append(1)


def test_a_client_is_killed(server: Any, manager: Any, start_method: Any) -> None:
    lock, ready = manager.RLock(), start_method.Event()
    before = count(server.pid, "fd")
    process = start_method.Process(target=hold, args=(lock, ready))
    process.start()
    assert ready.wait(LIMIT)
    assert not lock.acquire(False)
    process.kill()
    process.join()
    process.close()
    with pytest.raises(processing.LockOwnerDied):
        lock.acquire(True, LIMIT)
    assert lock.acquire(True, LIMIT)
    until(lambda: count(server.pid, "fd") <= before)


def hold(lock: Any, ready: Any) -> None:
    lock.acquire()
    ready.set()
    threading.Event().wait()


def test_nothing_is_left(server: Any, manager: Any) -> None:
    shared = manager.list()
    shared.append(1)
    descriptors, maps = count(server.pid, "fd"), wires(server.pid)
    for doing in [Doing(shared.append, n) for n in range(20)]:
        doing.result()
    until(lambda: count(server.pid, "fd") <= descriptors and wires(server.pid) <= maps)


def wires(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("processing-wire")
