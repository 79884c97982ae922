"""processing.dummy: the API of processes on threads."""

from __future__ import annotations

import multiprocessing.dummy
import threading
from typing import Any

import pytest

import processing.dummy
from helpers import LIMIT
from processing.dummy import connection


def test_it_has_every_name_of_the_standard_library() -> None:
    assert set(multiprocessing.dummy.__all__) <= set(processing.dummy.__all__)
    for name in processing.dummy.__all__:
        assert hasattr(processing.dummy, name)


def test_a_process_is_a_thread() -> None:
    seen: list[Any] = []
    gate = threading.Event()

    def work(x: int, *, y: int) -> None:
        seen.append((x, y, processing.dummy.current_process().name))
        assert gate.wait(LIMIT)

    process = processing.dummy.Process(target=work, args=(1,), kwargs={"y": 2}, name="worker")
    assert process.exitcode is None
    process.start()
    assert processing.dummy.active_children() == [process]
    assert process.exitcode is None
    gate.set()
    process.join(LIMIT)
    assert process.exitcode == 0
    assert processing.dummy.active_children() == []
    assert seen == [(1, 2, "worker")]


def test_only_its_maker_starts_it() -> None:
    process = processing.dummy.Process(target=int)
    caught: list[RuntimeError] = []

    def start() -> None:
        try:
            process.start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(LIMIT)
    assert len(caught) == 1


def test_pipe() -> None:
    a, b = processing.dummy.Pipe()
    with a, b:
        assert not b.poll() and not b.poll(0.001)
        thing = object()
        a.send(thing)
        assert b.poll(LIMIT) and b.recv() is thing
        b.send_bytes(b"x")
        assert a.recv_bytes() == b"x"


def test_poll_waits() -> None:
    a, b = processing.dummy.Pipe()
    thread = threading.Thread(target=a.send, args=(1,))
    thread.start()
    assert b.poll(LIMIT)
    thread.join()


def test_listener_and_client() -> None:
    with connection.Listener() as listener:
        client = connection.Client(listener.address)
        server = listener.accept()
        client.send("question")
        assert server.recv() == "question"
        server.send("answer")
        assert client.recv() == "answer"
    assert listener.address is None
    with pytest.raises(OSError):
        listener.accept()


def test_manager_values_and_pool() -> None:
    manager = processing.dummy.Manager()
    assert manager.dict(a=1) == {"a": 1} and manager.list([1]) == [1]
    assert repr(manager.Namespace(x=1, _y=2)) == "Namespace(x=1)"
    value = manager.Value("i", 5)
    value.value += 1
    assert value.value == 6 and repr(value) == "<Value('i', 6)>"
    assert list(manager.Array("i", [1, 2])) == [1, 2]
    with processing.dummy.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    pool.join()
    manager.shutdown()
    processing.dummy.freeze_support()
