"""put_many and get_many, on every kind of queue."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, children, ended, until_asleep

KINDS = ["Queue", "BufferedQueue", "SimpleQueue", "JoinableQueue", "PosixQueue"]
# A PosixQueue holds ten messages where nobody has changed the system's limits.
FEW = 8


@pytest.fixture(params=KINDS)
def messages(request: pytest.FixtureRequest) -> Any:
    made = getattr(processing, request.param)()
    yield made
    made.close()


def test_a_batch_keeps_its_order(messages: Any) -> None:
    messages.put("first")
    messages.put_many(range(FEW - 2))
    messages.put("last")
    assert messages.get() == "first"
    assert messages.get_many() == [*range(FEW - 2), "last"]
    assert messages.empty()


def test_any_iterable(messages: Any) -> None:
    for iterable in ([1, 2], (1, 2), {1: 0, 2: 0}, iter([1, 2]), (number for number in (1, 2))):
        messages.put_many(iterable)
        assert messages.get_many() == [1, 2]


def test_an_empty_batch(messages: Any) -> None:
    messages.put_many([])
    assert messages.empty()


def test_get_many_takes_no_more_than_asked_for(messages: Any) -> None:
    messages.put_many(range(FEW))
    assert messages.get_many(3) == [0, 1, 2]
    assert messages.get_many(max_items=1) == [3]
    assert messages.get() == 4
    assert messages.get_many(100) == list(range(5, FEW))


def test_get_many_returns_a_list_of_what_is_there(messages: Any) -> None:
    messages.put(1)
    assert messages.get_many(5) == [1]


@pytest.mark.parametrize("kind", ["Queue", "BufferedQueue", "JoinableQueue", "PosixQueue"])
def test_get_many_on_an_empty_queue(kind: str) -> None:
    messages = getattr(processing, kind)()
    for action in (
        lambda: messages.get_many(block=False),
        lambda: messages.get_many(None, False),
        lambda: messages.get_many(3, True, 0),
        lambda: messages.get_many(timeout=SHORT),
    ):
        with pytest.raises(queue.Empty):
            action()


def get_many_and_tell(messages: Any, asking: Flag, got: Flag) -> None:
    asking.say()
    assert messages.get_many() == ["x"]
    got.say()


def test_get_many_waits_for_the_first_only(messages: Any) -> None:
    asking, got = Flag(), Flag()
    with child(processing, get_many_and_tell, messages, asking, got) as process:
        asking.hear()
        until_asleep(process.pid)
        messages.put("x")
        got.hear()
        ended(process)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "PosixQueue"])
def test_a_full_queue_takes_what_fits(kind: str) -> None:
    messages = getattr(processing, kind)(5)
    messages.put("x")
    for options in ({"block": False}, {"timeout": 0}, {"timeout": SHORT}):
        with pytest.raises(queue.Full):
            messages.put_many(range(10), **options)
        assert messages.qsize() == 5
        assert messages.get_many() == ["x", 0, 1, 2, 3]
        messages.put("x")
    messages.close()


def put_batch(messages: Any, count: int) -> None:
    messages.put_many(range(count))


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "PosixQueue"])
def test_a_batch_longer_than_the_bound_waits_for_readers(kind: str) -> None:
    messages = getattr(processing, kind)(3)
    with child(processing, put_batch, messages, 500) as process:
        got: list[int] = []
        while len(got) < 500:
            part = messages.get_many(timeout=LIMIT)
            assert len(part) >= 1
            got += part
        assert got == list(range(500))
        ended(process)
    messages.close()


def test_large_messages_in_a_batch() -> None:
    messages = processing.Queue()
    sizes = [0, 10, 20_000, 100_000, 3, 70_000, 1 << 20, 1]
    messages.put_many(b"x" * size for size in sizes)
    got: list[bytes] = []
    while len(got) < len(sizes):
        got += messages.get_many(timeout=LIMIT)
    assert [len(message) for message in got] == sizes


def test_a_long_batch() -> None:
    messages = processing.Queue()
    messages.put_many(range(100_000))
    assert messages.qsize() == 100_000
    assert messages.get_many() == list(range(100_000))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def test_one_that_cannot_be_pickled(messages: Any) -> None:
    """What had been put before stays put, and nothing behind it is."""
    with pytest.raises(TypeError, match="not me"):
        messages.put_many([0, 1, Unpicklable(), 3])
    messages.put("end")
    got: list[Any] = []
    while "end" not in got:
        got += messages.get_many()
    assert got[:-1] == [0, 1][: len(got) - 1]


def fail() -> None:
    raise ZeroDivisionError("not unpickled")


class Unloadable:
    def __reduce__(self) -> Any:
        return fail, ()


def test_one_that_cannot_be_unpickled_takes_no_other_with_it(messages: Any) -> None:
    messages.put_many([0, 1, Unloadable(), 3, 4])
    got: list[Any] = []
    errors = 0
    deadline = time.monotonic() + LIMIT
    while 4 not in got:
        assert time.monotonic() < deadline
        assert not messages.empty() or errors == 0, f"only {got} arrived"
        try:
            got += messages.get_many()
        except ZeroDivisionError:
            errors += 1
    assert (got, errors) == ([0, 1, 3, 4], 1)


def flood(messages: Any, enough: Flag) -> None:
    number = 0
    while not enough.was_said():
        messages.put_many(range(number, number + 50))
        number += 50


def test_get_many_ends_though_a_producer_goes_on() -> None:
    """It gives what is there; it does not follow the producer for ever."""
    messages = processing.Queue()
    enough = Flag()
    with child(processing, flood, messages, enough) as process:
        got: list[int] = []
        while len(got) < 2000:
            got += messages.get_many(timeout=LIMIT)
        assert got == list(range(len(got)))
        enough.say()
        ended(process)


def produce(number: int, messages: Any, batches: int, size: int) -> None:
    for batch in range(batches):
        messages.put_many((number, batch * size + index) for index in range(size))


def consume(number: int, messages: Any, results: Any) -> None:
    seen: list[Any] = []
    while True:
        for message in messages.get_many(7, timeout=LIMIT):
            if message is None:
                # Others' ends may be among what this one got.
                seen.append(None)
            else:
                seen.append(message)
        if None in seen:
            break
    for _ in range(seen.count(None) - 1):
        messages.put(None)
    results.put([message for message in seen if message is not None])


@pytest.mark.parametrize("kind", ["Queue", "PosixQueue"])
def test_many_producers_and_consumers(kind: str) -> None:
    messages, results = getattr(processing, kind)(), processing.Queue()
    with children(processing, 2, consume, messages, results) as takers:
        with children(processing, 3, produce, messages, 40, 25) as makers:
            ended(*makers)
        for _ in takers:
            messages.put(None)
        seen = [results.get(timeout=LIMIT) for _ in takers]
        ended(*takers)
    everything = sorted(pair for part in seen for pair in part)
    assert everything == [(maker, index) for maker in range(3) for index in range(1000)]
    for part in seen:
        for maker in range(3):
            indices = [index for producer, index in part if producer == maker]
            assert indices == sorted(indices)
    messages.close()


def test_between_processes(start_method: Any) -> None:
    messages = start_method.Queue()
    with child(start_method, put_batch, messages, 1000) as process:
        ended(process)
    assert messages.get_many(timeout=LIMIT) == list(range(1000))


def test_closed(messages: Any) -> None:
    messages.close()
    with pytest.raises((ValueError, OSError)):
        messages.put_many([1])
    with pytest.raises((ValueError, OSError)):
        messages.get_many()
