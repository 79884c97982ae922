"""connection.wait, and descriptors that select and asyncio can watch."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, ended, take_seconds, until_asleep
from processing.connection import wait


def test_nothing_to_wait_for() -> None:
    assert wait([], timeout=0) == []
    assert wait([], timeout=SHORT) == []


def test_timeout() -> None:
    first, second = processing.Pipe()
    seconds, ready = take_seconds(lambda: wait([first, second, processing.Queue()], 0.1))
    assert ready == []
    assert 0.09 <= seconds < 5
    seconds, ready = take_seconds(lambda: wait([first], timeout=-1))
    assert ready == []
    assert seconds < 1


def test_what_is_ready_already() -> None:
    pipes = [processing.Pipe(False) for _ in range(4)]
    pipes[1][1].send("x")
    pipes[3][1].send("y")
    readers = [receiver for receiver, _ in pipes]
    for timeout in (0, None, LIMIT):
        assert set(wait(readers, timeout)) == {readers[1], readers[3]}
    readers[1].recv()
    assert wait(readers, 0) == [readers[3]]
    for receiver, sender in pipes:
        receiver.close()
        sender.close()


def test_any_iterable() -> None:
    receiver, sender = processing.Pipe(False)
    sender.send(1)
    assert wait((each for each in [receiver]), timeout=LIMIT) == [receiver]
    assert wait({receiver}, timeout=LIMIT) == [receiver]


def test_a_closed_end_is_ready() -> None:
    receiver, sender = processing.Pipe(False)
    sender.close()
    assert wait([receiver], timeout=LIMIT) == [receiver]
    with pytest.raises(EOFError):
        receiver.recv()
    receiver.close()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue", "BufferedQueue"])
def test_queues(kind: str) -> None:
    messages = getattr(processing, kind)()
    assert wait([messages], timeout=SHORT) == []
    messages.put(1)
    messages.put(2)
    for left in (2, 1):
        assert wait([messages], timeout=LIMIT) == [messages], f"{left} are there"
        messages.get()
    assert wait([messages], timeout=0) == []


def leave(connection: Any) -> None:
    connection.recv()


def test_sentinels(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, leave, theirs) as process:
        assert wait([process.sentinel], timeout=SHORT) == []
        ours.send("go")
        assert wait([process.sentinel], timeout=LIMIT) == [process.sentinel]
        ended(process)
    ours.close()
    theirs.close()


def act(go: Flag, pipe: Any, messages: Any, sock: socket.socket, number: int) -> None:
    while (order := go.hear()) != 9:
        if order == 0:
            pipe.send("pipe")
        elif order == 1:
            messages.put("queue")
        elif order == 2:
            sock.send(b"socket")
        elif order == 3:
            os.write(number, b"number")


def test_any_mix() -> None:
    """A connection, a queue, a socket, a bare descriptor and a sentinel; each becomes ready while wait() blocks."""
    receiver, sender = processing.Pipe(False)
    messages = processing.Queue()
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    go = Flag()
    with child(processing, act, go, sender, messages, theirs, writing) as process:
        things: list[Any] = [receiver, messages, ours, reading, process.sentinel]
        for number, take in enumerate((receiver.recv, messages.get, lambda: ours.recv(99))):
            assert wait(things, timeout=0) == []
            go.say(number)
            assert wait(things, timeout=LIMIT) == [things[number]]
            take()
        go.say(3)
        assert wait(things, timeout=LIMIT) == [reading]
        os.read(reading, 99)
        assert wait(things, timeout=0) == []
        go.say(9)
        assert wait(things, timeout=LIMIT) == [process.sentinel]
        ended(process)
    ours.close()
    theirs.close()
    os.close(reading)
    os.close(writing)
    receiver.close()
    sender.close()


def wait_and_tell(things: list[Any], asking: Flag, ready: Flag) -> None:
    for _ in range(3):
        asking.say()
        [thing] = wait(things, LIMIT)
        ready.say(things.index(thing))
        thing.get()


def test_a_sleeping_waiter_wakes_each_time() -> None:
    things = [processing.Queue() for _ in range(3)]
    asking, ready = Flag(), Flag()
    with child(processing, wait_and_tell, things, asking, ready) as process:
        for number in (1, 0, 2):
            asking.hear()
            until_asleep(process.pid)
            things[number].put("x")
            assert ready.hear() == number
        ended(process)


def test_several_processes_wait_for_one_queue() -> None:
    messages = processing.Queue()
    asking, ready = Flag(), Flag()
    with child(processing, wait_and_take, messages, asking, ready) as first:
        with child(processing, wait_and_take, messages, asking, ready) as second:
            for _ in range(2):
                asking.hear()
            for process in (first, second):
                until_asleep(process.pid)
            messages.put(1)
            messages.put(2)
            assert sorted([ready.hear(), ready.hear()]) == [1, 2]
            ended(first, second)


def wait_and_take(messages: Any, asking: Flag, ready: Flag) -> None:
    asking.say()
    while True:
        assert wait([messages], LIMIT) == [messages]
        try:
            number = messages.get_nowait()
        except processing.queues.Empty:
            continue
        ready.say(number)
        break


def test_a_long_list() -> None:
    pipes = [processing.Pipe(False) for _ in range(60)]
    readers = [receiver for receiver, _ in pipes]
    thread = threading.Thread(target=pipes[59][1].send, args=["x"])
    thread.start()
    assert wait(readers, timeout=LIMIT) == [readers[59]]
    thread.join(LIMIT)
    for receiver, sender in pipes:
        receiver.close()
        sender.close()


def test_messages_of_all_are_received_in_the_end() -> None:
    """The loop of the standard library's manual."""
    readers = []
    processes = []
    for number in range(4):
        receiver, sender = processing.Pipe(duplex=False)
        readers.append(receiver)
        process = processing.Process(target=talk, args=[number, sender])
        process.start()
        processes.append(process)
        sender.close()
    seen = []
    while readers:
        for receiver in wait(readers, timeout=LIMIT):
            try:
                seen.append(receiver.recv())
            except EOFError:
                readers.remove(receiver)
                receiver.close()
    assert sorted(seen) == [(number, index) for number in range(4) for index in range(50)]
    ended(*processes)


def talk(number: int, sender: Any) -> None:
    for index in range(50):
        sender.send((number, index))
    sender.close()


# ---- Descriptors ----------------------------------------------------------------------------------------------------


def send_when_told(go: Flag, sender: Any, messages: Any) -> None:
    go.hear()
    sender.send("pipe")
    go.hear()
    messages.put("queue")


def test_selectors() -> None:
    receiver, sender = processing.Pipe(False)
    messages = processing.Queue()
    go = Flag()
    with (
        selectors.DefaultSelector() as selector,
        child(processing, send_when_told, go, sender, messages) as process,
    ):
        selector.register(receiver, selectors.EVENT_READ)
        selector.register(messages, selectors.EVENT_READ)
        for thing in (receiver, messages):
            assert selector.select(0) == []
            go.say()
            [(key, _)] = selector.select(LIMIT)
            assert key.fileobj is thing
            assert select.select([thing], [], [], 0)[0] == [thing]
            assert (receiver.recv() if thing is receiver else messages.get()) in ("pipe", "queue")
        assert selector.select(0) == []
        ended(process)
    receiver.close()
    sender.close()


def test_another_reader_may_be_faster() -> None:
    """A descriptor that looks ready may have been overtaken; it stops looking ready then."""
    messages = processing.Queue()
    fd = messages.fileno()
    messages.put("x")
    assert select.select([fd], [], [], LIMIT)[0] == [fd]
    with child(processing, take_one, messages) as process:
        ended(process)
    assert wait([messages], timeout=SHORT) == []


def take_one(messages: Any) -> None:
    assert messages.get(timeout=LIMIT) == "x"


def produce(sender: Any, count: int) -> None:
    for number in range(count):
        sender.send(number)
    sender.close()


def test_asyncio() -> None:
    receiver, sender = processing.Pipe(False)

    async def collect() -> list[int]:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        done = loop.create_future()

        def ready() -> None:
            try:
                while receiver.poll():
                    seen.append(receiver.recv())
            except EOFError:
                loop.remove_reader(receiver.fileno())
                done.set_result(None)

        loop.add_reader(receiver.fileno(), ready)
        await asyncio.wait_for(done, LIMIT)
        return seen

    with child(processing, produce, sender, 300) as process:
        sender.close()
        assert asyncio.run(collect()) == list(range(300))
        ended(process)
    receiver.close()


def test_what_cannot_be_waited_for() -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        wait([object()], timeout=0)
