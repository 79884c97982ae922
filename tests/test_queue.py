"""Queue and BufferedQueue: order, bounds, and that nothing is lost."""

from __future__ import annotations

import dataclasses
import decimal
import math
import os
import queue
import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, children, ended, take_seconds, until_asleep


@dataclasses.dataclass
class Point:
    x: int
    y: list[Any]


VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    -(2**31) - 1,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    10**1000,
    0.0,
    -0.0,
    1.5,
    math.inf,
    5e-324,
    "",
    "a",
    "\x00",
    "naïve",
    "日本語",
    "\U0001f40d",
    "\udc80 alone",
    "x" * 256,
    b"",
    b"\x00\xff" * 100,
    bytearray(b"abc"),
    [],
    (),
    {},
    set(),
    [1, [2, [3]]],
    (1, "two", 3.0, None),
    {"a": {1: (2,)}},
    frozenset({1, 2}),
    1 + 2j,
    range(5),
    decimal.Decimal("1.10"),
    Point(1, [2]),
    Ellipsis,
    int,
    len,
]


def same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and repr(first) == repr(second) and first == second


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    messages = processing.Queue()
    messages.put(value)
    assert same(messages.get(timeout=LIMIT), value)


def test_subclasses_keep_their_class() -> None:
    messages = processing.Queue()
    for value in (Text("abc"), Number(7), Real(1.5), Data(b"abc")):
        messages.put(value)
        got = messages.get(timeout=LIMIT)
        assert type(got) is type(value)
        assert got == value


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    pass


class Data(bytes):
    pass


def test_not_a_number() -> None:
    messages = processing.Queue()
    messages.put(math.nan)
    assert math.isnan(messages.get(timeout=LIMIT))


def test_exceptions_and_nested_objects() -> None:
    messages = processing.Queue()
    messages.put({"error": KeyError("k"), "point": Point(1, [Point(2, [])])})
    got = messages.get(timeout=LIMIT)
    assert repr(got["error"]) == "KeyError('k')"
    assert got["point"] == Point(1, [Point(2, [])])


def test_lambdas_and_closures() -> None:
    messages = processing.Queue()
    number = 5
    messages.put(lambda x: x * number)
    assert messages.get(timeout=LIMIT)(8) == 40


SIZES = sorted({n + d for n in (256, 4096, 8192, 16384, 65536, 1 << 20) for d in (-64, -1, 0, 1, 64)})


@pytest.mark.parametrize("kind", [bytes, str])
def test_every_size(kind: type) -> None:
    messages = processing.Queue()
    for size in SIZES:
        value = os.urandom(size // 2 + 1).hex()[:size]
        messages.put(value if kind is str else value.encode())
    for size in SIZES:
        got = messages.get(timeout=LIMIT)
        assert type(got) is kind
        assert len(got) == size
    assert messages.empty()


def test_large_and_small_keep_their_order() -> None:
    messages = processing.Queue()
    sent = [bytes([n]) * (200_000 if n % 7 == 0 else n) for n in range(100)]
    for value in sent:
        messages.put(value)
    assert [messages.get(timeout=LIMIT) for _ in sent] == sent


def test_first_in_first_out_and_sizes() -> None:
    messages = processing.Queue()
    assert messages.empty() is True
    for number in range(1000):
        messages.put(number)
        assert messages.qsize() == number + 1
    assert messages.empty() is False
    assert messages.full() is False
    assert [messages.get() for _ in range(1000)] == list(range(1000))
    assert (messages.qsize(), messages.empty()) == (0, True)


def test_put_does_not_keep_the_object() -> None:
    messages = processing.Queue()
    value = [1]
    messages.put(value)
    value.append(2)
    assert messages.get(timeout=LIMIT) == [1]


def test_empty() -> None:
    messages = processing.Queue()
    for action in (
        messages.get_nowait,
        lambda: messages.get(False),
        lambda: messages.get(block=False),
        lambda: messages.get(timeout=0),
        lambda: messages.get(timeout=-1),
        lambda: messages.get(True, 0),
    ):
        with pytest.raises(queue.Empty):
            action()


def test_get_timeout_is_in_seconds() -> None:
    messages = processing.Queue()

    def get() -> None:
        with pytest.raises(queue.Empty):
            messages.get(True, 0.15)

    seconds, _ = take_seconds(get)
    assert 0.14 <= seconds < 5


def test_the_bound_counts_messages() -> None:
    messages = processing.Queue(3)
    for number in range(3):
        assert not messages.full()
        messages.put("x" * 100_000 * number)
    assert messages.full() is True
    for action in (
        lambda: messages.put_nowait(3),
        lambda: messages.put(3, False),
        lambda: messages.put(3, timeout=0),
        lambda: messages.put(3, True, SHORT),
    ):
        with pytest.raises(queue.Full):
            action()
    assert messages.qsize() == 3
    messages.get()
    messages.put_nowait(3)
    assert messages.full()


def test_put_timeout_is_in_seconds() -> None:
    messages = processing.Queue(maxsize=1)
    messages.put(1)

    def put() -> None:
        with pytest.raises(queue.Full):
            messages.put(2, timeout=0.15)

    seconds, _ = take_seconds(put)
    assert 0.14 <= seconds < 5


def test_unbounded_put_never_blocks() -> None:
    """Nobody reads, and there is no pipe to fill."""
    messages = processing.Queue()
    for number in range(100_000):
        messages.put(number)
    assert messages.qsize() == 100_000
    assert all(messages.get() == number for number in range(100_000))


def test_buffered_queue() -> None:
    messages = processing.BufferedQueue()
    for _ in range(20_000):
        messages.put("x" * 256, block=False)
    assert (messages.full(), messages.qsize()) == (False, 20_000)
    with pytest.raises(TypeError):
        processing.BufferedQueue(5)


def get_and_tell(messages: Any, asking: Flag, got: Flag) -> None:
    asking.say()
    got.say(messages.get())


def test_put_wakes_a_getter() -> None:
    messages = processing.Queue()
    asking, got = Flag(), Flag()
    with child(processing, get_and_tell, messages, asking, got) as process:
        asking.hear()
        until_asleep(process.pid)
        assert not got.was_said()
        messages.put(42)
        assert got.hear() == 42
        ended(process)


def put_and_tell(messages: Any, asking: Flag, done: Flag) -> None:
    asking.say()
    messages.put("second")
    done.say()


def test_get_wakes_a_putter() -> None:
    messages = processing.Queue(1)
    messages.put("first")
    asking, done = Flag(), Flag()
    with child(processing, put_and_tell, messages, asking, done) as process:
        asking.hear()
        until_asleep(process.pid)
        assert not done.was_said()
        assert messages.get() == "first"
        done.hear()
        assert messages.get(timeout=LIMIT) == "second"
        ended(process)


def echo(requests: Any, replies: Any) -> None:
    while (request := requests.get(timeout=LIMIT)) is not None:
        replies.put(request)


def test_between_processes(start_method: Any) -> None:
    requests, replies = start_method.Queue(), start_method.Queue(2)
    with child(start_method, echo, requests, replies) as process:
        for value in VALUES:
            if value is not None:
                requests.put(value)
                assert same(replies.get(timeout=LIMIT), value)
        requests.put(None)
        ended(process)


def produce(number: int, messages: Any, count: int) -> None:
    for index in range(count):
        messages.put((number, index, b"x" * (index % 50 * 40)))


def consume(number: int, messages: Any, results: Any) -> None:
    seen = []
    while (message := messages.get(timeout=LIMIT)) is not None:
        producer, index, payload = message
        assert payload == b"x" * (index % 50 * 40)
        seen.append((producer, index))
    results.put(seen)


@pytest.mark.parametrize("maxsize", [0, 7])
@pytest.mark.parametrize(("producers", "consumers"), [(1, 3), (3, 1), (3, 3)])
def test_many_producers_and_consumers(producers: int, consumers: int, maxsize: int) -> None:
    count = 2000
    messages, results = processing.Queue(maxsize), processing.Queue()
    with children(processing, consumers, consume, messages, results) as takers:
        with children(processing, producers, produce, messages, count) as makers:
            ended(*makers)
        for _ in takers:
            messages.put(None)
        seen = [results.get(timeout=LIMIT) for _ in takers]
        ended(*takers)
    everything = sorted(pair for part in seen for pair in part)
    assert everything == [(maker, index) for maker in range(producers) for index in range(count)]
    for part in seen:
        for maker in range(producers):
            indices = [index for producer, index in part if producer == maker]
            assert indices == sorted(indices)


def test_threads_share_it_too() -> None:
    messages = processing.Queue(5)
    got: list[int] = []

    def work() -> None:
        while (value := messages.get(timeout=LIMIT)) is not None:
            got.append(value)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        messages.put(number, timeout=LIMIT)
    for _ in threads:
        messages.put(None)
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(got) == list(range(1000))


def put_and_leave(messages: Any, count: int, size: int, leave: str) -> None:
    for number in range(count):
        messages.put((number, b"x" * size))
    if leave == "_exit":
        os._exit(0)


@pytest.mark.parametrize("leave", ["return", "_exit"])
@pytest.mark.parametrize(("count", "size"), [(1, 5), (10_000, 10), (20, 1 << 20)])
def test_a_process_that_exits_right_after_put_loses_nothing(count: int, size: int, leave: str) -> None:
    """And joining it does not depend on a reader: 20 MB are more than any pipe holds."""
    messages = processing.Queue()
    with child(processing, put_and_leave, messages, count, size, leave) as process:
        ended(process)
    assert messages.qsize() == count
    for number in range(count):
        index, payload = messages.get(timeout=LIMIT)
        assert (index, len(payload)) == (number, size)
    assert messages.empty()


def test_the_same_under_each_start_method(start_method: Any) -> None:
    messages = start_method.Queue()
    with child(start_method, put_and_leave, messages, 100, 100_000, "return") as process:
        ended(process)
    assert [messages.get(timeout=LIMIT)[0] for _ in range(100)] == list(range(100))


def test_closed() -> None:
    messages = processing.Queue()
    messages.put(1)
    messages.close()
    messages.close()
    for action in (
        lambda: messages.put(1),
        messages.get,
        messages.get_nowait,
        lambda: messages.put_nowait(1),
    ):
        with pytest.raises(ValueError):
            action()


def close_and_leave(messages: Any) -> None:
    messages.put("before")
    messages.close()


def test_others_may_go_on_after_close() -> None:
    messages = processing.Queue()
    with child(processing, close_and_leave, messages) as process:
        ended(process)
    assert messages.get(timeout=LIMIT) == "before"
    messages.put("after")
    assert messages.get(timeout=LIMIT) == "after"


def test_there_is_no_thread_to_join() -> None:
    messages = processing.Queue()
    before = threading.active_count()
    messages.put("x" * 1_000_000)
    assert threading.active_count() == before
    messages.cancel_join_thread()
    messages.close()
    messages.join_thread()


def test_the_arguments_of_the_constructor() -> None:
    assert processing.Queue(maxsize=3).full() is False
    assert not processing.Queue(0, name="jobs").full()
    with pytest.raises(ValueError):
        processing.Queue(-1)
    with pytest.raises(TypeError):
        processing.Queue("3")


def test_repr() -> None:
    assert "Queue" in repr(processing.Queue())
    assert "'jobs'" in repr(processing.Queue(name="jobs"))
    messages = processing.Queue(name="gone")
    messages.close()
    assert "'gone'" in repr(messages)
