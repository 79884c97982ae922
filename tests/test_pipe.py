"""Pipe and Connection: messages, ends, and their end."""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, ended, take_seconds, until, until_asleep

VALUES = [None, True, 0, -5, 10**30, 1.5, "", "text", b"", b"bytes", [1, [2]], {"a": (1,)}, "x" * 256]


@pytest.fixture
def pair() -> Any:
    first, second = processing.Pipe()
    yield first, second
    first.close()
    second.close()


def recv(connection: Any) -> Any:
    """recv that does not hang where the message does not come."""
    assert connection.poll(LIMIT), "nothing came"
    return connection.recv()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:15])
def test_both_ways(pair: Any, value: Any) -> None:
    for sender, receiver in (pair, pair[::-1]):
        sender.send(value)
        got = recv(receiver)
        assert (type(got), got) == (type(value), value)


def test_one_way() -> None:
    receiver, sender = processing.Pipe(duplex=False)
    assert (receiver.readable, receiver.writable) == (True, False)
    assert (sender.readable, sender.writable) == (False, True)
    sender.send("x")
    assert recv(receiver) == "x"
    with pytest.raises(OSError):
        receiver.send("x")
    with pytest.raises(OSError):
        sender.recv()
    with pytest.raises(OSError):
        sender.poll()
    receiver.close()
    sender.close()


def test_two_ways(pair: Any) -> None:
    for end in pair:
        assert (end.readable, end.writable, end.closed) == (True, True, False)


def test_messages_do_not_mix(pair: Any) -> None:
    first, second = pair
    first.send("one")
    second.send("other")
    first.send("two")
    assert [recv(second), recv(second)] == ["one", "two"]
    assert recv(first) == "other"


def echo(connection: Any) -> None:
    while (value := connection.recv()) != "end":
        connection.send(value)


def test_between_processes(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, echo, theirs) as process:
        theirs.close()
        for value in VALUES:
            ours.send(value)
            assert recv(ours) == value
        ours.send(b"x" * 5_000_000)
        assert len(recv(ours)) == 5_000_000
        ours.send("end")
        ended(process)
    assert ours.poll(LIMIT)
    with pytest.raises(EOFError):
        ours.recv()
    ours.close()


def send_many(connection: Any, count: int) -> None:
    for number in range(count):
        connection.send((number, b"x" * (number % 97 * 50)))


def test_a_full_pipe_blocks_the_sender_until_it_is_read() -> None:
    receiver, sender = processing.Pipe(False)
    with child(processing, send_many, sender, 20_000) as process:
        sender.close()
        for number in range(20_000):
            index, payload = receiver.recv()
            assert (index, len(payload)) == (number, number % 97 * 50)
        with pytest.raises(EOFError):
            receiver.recv()
        ended(process)
    receiver.close()


# ---- Bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 255, 256, 16_383, 16_384, 65_536, 65_537, 1 << 20])
def test_bytes(pair: Any, size: int) -> None:
    first, second = pair
    sent = os.urandom(size)
    first.send_bytes(sent)
    assert second.recv_bytes() == sent


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_buffer(pair: Any, kind: Any) -> None:
    first, second = pair
    first.send_bytes(kind(b"abc"))
    got = second.recv_bytes()
    assert (type(got), got) == (bytes, b"abc")


def test_a_part_of_a_buffer(pair: Any) -> None:
    first, second = pair
    for arguments, expected in (
        ((b"abcdef", 2), b"cdef"),
        ((b"abcdef", 2, 3), b"cde"),
        ((b"abcdef", 0, 0), b""),
        ((b"abcdef", 6), b""),
    ):
        first.send_bytes(*arguments)
        assert second.recv_bytes() == expected


@pytest.mark.parametrize("arguments", [(-1,), (7,), (0, -1), (0, 7), (5, 2)])
def test_a_part_that_is_not_there(pair: Any, arguments: Any) -> None:
    first, second = pair
    with pytest.raises(ValueError):
        first.send_bytes(b"abcdef", *arguments)
    assert not second.poll()


def test_bytes_are_pickles_to_the_other_calls(pair: Any) -> None:
    first, second = pair
    first.send_bytes(pickle.dumps([1, "two"]))
    assert recv(second) == [1, "two"]
    first.send([1, "two"])
    assert pickle.loads(second.recv_bytes()) == [1, "two"]


def test_more_bytes_than_allowed() -> None:
    first, second = processing.Pipe()
    first.send_bytes(b"12345")
    assert second.recv_bytes(5) == b"12345"
    first.send_bytes(b"123456")
    with pytest.raises(OSError):
        second.recv_bytes(5)
    with pytest.raises(ValueError):
        first.recv_bytes(-1)
    first.close()
    second.close()


def test_bytes_into_a_buffer(pair: Any) -> None:
    first, second = pair
    buffer = bytearray(b"." * 10)
    first.send_bytes(b"abc")
    assert second.recv_bytes_into(buffer) == 3
    assert buffer == b"abc......."
    first.send_bytes(b"xy")
    assert second.recv_bytes_into(buffer, 8) == 2
    assert buffer == b"abc.....xy"
    first.send_bytes(b"")
    assert second.recv_bytes_into(buffer, 10) == 0


def test_bytes_into_a_buffer_that_is_too_short(pair: Any) -> None:
    first, second = pair
    for offset in (0, 2):
        first.send_bytes(b"a longer message")
        buffer = bytearray(5)
        with pytest.raises(processing.BufferTooShort) as caught:
            second.recv_bytes_into(buffer, offset)
        assert caught.value.args[0] == b"a longer message"
        assert buffer == bytes(5)
    # Only that message is gone.
    first.send("next")
    assert recv(second) == "next"


@pytest.mark.parametrize("offset", [-1, 6])
def test_offsets_outside_the_buffer(pair: Any, offset: int) -> None:
    first, second = pair
    first.send_bytes(b"")
    with pytest.raises(ValueError):
        second.recv_bytes_into(bytearray(5), offset)


def test_into_what_cannot_be_written(pair: Any) -> None:
    first, second = pair
    first.send_bytes(b"abc")
    with pytest.raises((TypeError, BufferError)):
        second.recv_bytes_into(b"12345")


# ---- Poll -----------------------------------------------------------------------------------------------------------


def test_poll(pair: Any) -> None:
    first, second = pair
    assert second.poll() is False
    assert second.poll(0) is False
    assert second.poll(-1) is False
    seconds, ready = take_seconds(lambda: second.poll(0.1))
    assert ready is False
    assert 0.09 <= seconds < 5
    first.send(1)
    assert second.poll() is True
    assert second.poll(None) is True
    assert second.poll(LIMIT) is True
    assert second.recv() == 1
    assert second.poll() is False


def test_asking_again_and_again_shows_a_death() -> None:
    """Nobody waits here for the process, or in the pipe."""
    ours, theirs = processing.Pipe()
    ready = Flag()
    pid = os.fork()
    if not pid:
        try:
            ours.close()
            ready.say()
            signal.pause()
        finally:
            os._exit(1)
    theirs.close()
    ready.hear()
    assert ours.poll() is False
    os.kill(pid, signal.SIGKILL)
    until(ours.poll)
    with pytest.raises(EOFError):
        ours.recv()
    os.waitpid(pid, 0)
    ours.close()


def take_one(queue: Any) -> None:
    queue.get()


def test_a_descriptor_that_is_asked_for_is_right() -> None:
    """Another process has taken meanwhile what it was rung for."""
    queue = processing.SimpleQueue()
    number = queue.fileno()
    queue.put(1)
    assert select.select([number], [], [], LIMIT)[0] == [number]
    with child(processing, take_one, queue) as process:
        ended(process)
    assert select.select([queue], [], [], 0)[0] == []
    queue.put(2)
    assert select.select([queue], [], [], LIMIT)[0] == [queue]


def send_when_told(connection: Any, go: Flag) -> None:
    go.hear()
    connection.send("now")


def test_poll_wakes() -> None:
    ours, theirs = processing.Pipe()
    go = Flag()
    with child(processing, send_when_told, theirs, go) as process:
        go.say()
        assert ours.poll(None) is True
        assert ours.recv() == "now"
        ended(process)
    ours.close()
    theirs.close()


# ---- The end --------------------------------------------------------------------------------------------------------


def test_eof_after_what_is_left(pair: Any) -> None:
    first, second = pair
    first.send(1)
    first.send_bytes(b"2")
    first.close()
    assert second.recv() == 1
    assert second.recv_bytes() == b"2"
    for action in (second.recv, second.recv_bytes, lambda: second.recv_bytes_into(bytearray(5))):
        assert second.poll() is True  # there is the end to notice
        with pytest.raises(EOFError):
            action()


def test_broken_pipe(pair: Any) -> None:
    first, second = pair
    second.close()
    with pytest.raises(BrokenPipeError):
        first.send(1)
    with pytest.raises(BrokenPipeError):
        first.send_bytes(b"x" * 100_000)


def test_a_collected_end_is_closed() -> None:
    first, second = processing.Pipe()
    del first
    gc.collect()
    with pytest.raises(EOFError):
        second.recv()
    second.close()


def hold(connection: Any, ready: Flag, go: Flag) -> None:
    ready.say()
    go.hear()


def test_no_end_as_long_as_one_process_holds_the_other_end() -> None:
    ours, theirs = processing.Pipe()
    ready, go = Flag(), Flag()
    with child(processing, hold, theirs, ready, go) as process:
        ready.hear()
        theirs.close()
        assert ours.poll(SHORT) is False
        ours.send("somebody may read this")
        go.say()
        ended(process)
    assert ours.poll(LIMIT)
    with pytest.raises(EOFError):
        ours.recv()
    ours.close()


def expect_the_end(connection: Any, other: Any, asking: Flag) -> None:
    other.close()
    asking.say()
    with pytest.raises(EOFError):
        connection.recv()


def test_closing_wakes_a_receiver() -> None:
    ours, theirs = processing.Pipe()
    asking = Flag()
    with child(processing, expect_the_end, theirs, ours, asking) as process:
        asking.hear()
        until_asleep(process.pid)
        ours.close()
        ended(process)
    theirs.close()


def send_until_broken(connection: Any, other: Any, asking: Flag) -> None:
    other.close()
    asking.say()
    with pytest.raises(BrokenPipeError):
        while True:
            connection.send_bytes(b"x" * 10_000)


def test_closing_wakes_a_sender() -> None:
    ours, theirs = processing.Pipe()
    asking = Flag()
    with child(processing, send_until_broken, theirs, ours, asking) as process:
        theirs.close()
        asking.hear()
        until_asleep(process.pid)
        ours.close()
        ended(process)


def test_closed_here(pair: Any) -> None:
    first, second = pair
    second.close()
    second.close()
    assert second.closed is True
    for action in (
        lambda: second.send(1),
        second.recv,
        second.poll,
        lambda: second.send_bytes(b""),
        second.recv_bytes,
        second.fileno,
    ):
        with pytest.raises(OSError):
            action()


def test_with_closes() -> None:
    first, second = processing.Pipe()
    with first as entered, second:
        assert entered is first
    assert first.closed
    assert second.closed


# ---- The rest -------------------------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def test_what_cannot_be_pickled_is_refused(pair: Any) -> None:
    first, second = pair
    with pytest.raises(TypeError, match="not me"):
        first.send([Unpicklable()])
    assert not second.poll()
    first.send("fine")
    assert recv(second) == "fine"


def test_huge_messages(pair: Any) -> None:
    first, second = pair
    size = 100 << 20
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(second.recv_bytes()))
    thread.start()
    first.send_bytes(bytes(size))
    thread.join(LIMIT)
    assert len(got[0]) == size


def test_both_ends_in_threads(pair: Any) -> None:
    first, second = pair
    results: list[Any] = []

    def work() -> None:
        for number in range(500):
            assert second.recv() == number
            second.send(-number)

    thread = threading.Thread(target=work)
    thread.start()
    for number in range(500):
        first.send(number)
        results.append(first.recv())
    thread.join(LIMIT)
    assert results == [-number for number in range(500)]


def test_fileno_follows_the_messages(pair: Any) -> None:
    first, second = pair
    fd = second.fileno()
    assert fd == second.fileno()
    assert select.select([fd], [], [], 0)[0] == []
    first.send(1)
    first.send(2)
    assert select.select([fd], [], [], LIMIT)[0] == [fd]
    assert recv(second) == 1
    assert select.select([fd], [], [], LIMIT)[0] == [fd]
    assert recv(second) == 2
    assert select.select([fd], [], [], 0)[0] == []
    first.close()
    assert select.select([fd], [], [], LIMIT)[0] == [fd]


def test_an_end_sent_through_a_pipe(pair: Any) -> None:
    first, second = pair
    inner, sent = processing.Pipe()
    first.send(sent)
    sent.close()
    received = recv(second)
    inner.send("through")
    assert recv(received) == "through"
    received.send("back")
    assert recv(inner) == "back"
    received.close()
    with pytest.raises(EOFError):
        inner.recv()
    inner.close()


def test_repr(pair: Any) -> None:
    assert "Connection" in repr(pair[0])
