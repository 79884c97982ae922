"""SocketConnections and listeners that go to other processes."""

from __future__ import annotations

import os
import pickle
import ssl
from typing import Any

import pytest

import processing
import processing.dummy
from helpers import LIMIT, child, ended
from processing.connection import Client, Listener

KEY = b"a key"


def answer(queue: Any, done: Any) -> None:
    """Takes a connection out of a queue and answers with twice what comes."""
    with queue.get(timeout=LIMIT) as connection:
        connection.send(connection.recv() * 2)
        done.put((connection.peer_is_processing, connection.max_message, connection.readable))


def answer_with(connection: Any, done: Any) -> None:
    connection.send(connection.recv() * 2)
    done.put((connection.peer_is_processing, connection.max_message, connection.readable))
    connection.close()


def twice(connection: Any) -> Any:
    with connection:
        connection.send(connection.recv() * 2)
    return processing.current_process().pid


def serve_one(listener: Any, done: Any) -> None:
    with listener, listener.accept(LIMIT) as connection:
        connection.send(connection.recv() * 2)
    done.put("served")


def pair(listener: Listener) -> tuple[Any, Any]:
    with processing.dummy.Pool(1) as pool:
        client = pool.apply_async(Client, (listener.address,), {"authkey": KEY})
        accepted = listener.accept(LIMIT)
        return accepted, client.get(LIMIT)


@pytest.fixture(params=["AF_UNIX", "AF_INET"])
def listener(request: pytest.FixtureRequest) -> Any:
    with Listener(family=request.param, authkey=KEY, max_message=1 << 20) as made:
        yield made


def test_through_a_queue(start_method: Any, listener: Listener) -> None:
    queue, done = start_method.Queue(), start_method.Queue()
    accepted, client = pair(listener)
    with client, child(start_method, answer, queue, done) as process:
        with accepted:
            queue.put(accepted)
        client.send(21)
        assert client.recv() == 42
        assert done.get(timeout=LIMIT) == (True, 1 << 20, True)
        with pytest.raises(EOFError):
            client.recv()  # no process has the other end any more
        process.join(LIMIT)
        ended(process)


def test_in_the_arguments_of_a_process(start_method: Any, listener: Listener) -> None:
    done = start_method.Queue()
    accepted, client = pair(listener)
    with client, child(start_method, answer_with, accepted, done) as process:
        accepted.close()
        client.send("x")
        assert client.recv() == "xx"
        assert done.get(timeout=LIMIT) == (True, 1 << 20, True)
        process.join(LIMIT)
        ended(process)


def test_through_a_pipe_and_back(listener: Listener) -> None:
    accepted, client = pair(listener)
    here, there = processing.Pipe()
    with accepted, client, here, there:
        here.send(accepted)
        with there.recv() as copy:
            client.send(1)
            assert copy.recv() == 1
            copy.send(2)
            assert client.recv() == 2
        client.send(3)
        assert accepted.recv() == 3


def test_to_the_workers_of_a_pool(listener: Listener) -> None:
    with processing.Pool(2) as pool:
        for _ in range(3):
            accepted, client = pair(listener)
            with client:
                result = pool.apply_async(twice, (accepted,))
                accepted.close()
                client.send([1])
                assert client.recv() == [1, 1]
                assert result.get(LIMIT) != os.getpid()
    pool.join()


def test_what_was_read_ahead_is_not_lost(listener: Listener) -> None:
    accepted, client = pair(listener)
    with accepted, client:
        accepted.read_ahead()
        client.send(1)
        client.send(2)
        assert accepted.poll(LIMIT) and accepted.recv() == 1
        assert accepted.poll(LIMIT)
        with pytest.raises(ValueError, match="read ahead"):
            processing.Queue().put(accepted)
        assert accepted.recv() == 2


def test_a_listener(start_method: Any, tmp_path: Any) -> None:
    done = start_method.Queue()
    path = str(tmp_path / "socket")
    for address in (path, ("localhost", 0)):
        with Listener(address, authkey=KEY) as listener:
            queue = start_method.Queue()
            with child(start_method, serve_from, queue, done) as process:
                queue.put(listener)
                with Client(listener.address, authkey=KEY) as client:
                    client.send(4)
                    assert client.recv() == 8
                assert done.get(timeout=LIMIT) == "served"
                process.join(LIMIT)
                ended(process)
            # The path belongs to who made it.
            with processing.dummy.Pool(1) as pool:
                client = pool.apply_async(Client, (listener.address,), {"authkey": KEY})
                listener.accept(LIMIT).close()
                client.get(LIMIT).close()
    assert not list(tmp_path.iterdir())


def serve_from(queue: Any, done: Any) -> None:
    serve_one(queue.get(timeout=LIMIT), done)


def test_what_cannot_be_sent() -> None:
    with Listener() as listener:
        with pytest.raises(RuntimeError):
            pickle.dumps(listener)
        accepted, client = pair_without_key(listener)
        with accepted, client:
            with pytest.raises(RuntimeError):
                pickle.dumps(client)
        with pytest.raises(OSError, match="closed"):
            processing.Queue().put(client)
    with pytest.raises(OSError, match="closed"):
        processing.Queue().put(listener)
    with (
        Listener(("localhost", 0), ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as encrypted,
        pytest.raises(TypeError, match="private key"),
    ):
        processing.Queue().put(encrypted)


def pair_without_key(listener: Listener) -> tuple[Any, Any]:
    with processing.dummy.Pool(1) as pool:
        client = pool.apply_async(Client, (listener.address,))
        return listener.accept(LIMIT), client.get(LIMIT)
