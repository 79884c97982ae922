"""numpy arrays and other large buffers: out of band, one copy in, views out."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, children, ended, until

np = pytest.importorskip("numpy")

MIB = 1 << 20


@pytest.fixture(params=["queue", "pipe"])
def channel(request: pytest.FixtureRequest) -> Any:
    """(put, get)"""
    if request.param == "queue":
        messages = processing.Queue()
        yield messages.put, lambda: messages.get(timeout=LIMIT)
        return
    receiver, sender = processing.Pipe(False)
    yield sender.send, receiver.recv
    receiver.close()
    sender.close()


ARRAYS = {
    "empty": lambda: np.zeros((0, 3)),
    "a number": lambda: np.array(5.0),
    "small": lambda: np.arange(10),
    "one page": lambda: np.arange(512, dtype="i8"),
    "64 KiB": lambda: np.arange(65536, dtype="u1"),
    "large": lambda: np.arange(300_000, dtype="f4").reshape(3, -1),
    "Fortran order": lambda: np.asfortranarray(np.arange(60_000).reshape(200, 300)),
    "with gaps": lambda: np.arange(200_000)[::3],
    "structured": lambda: np.zeros(9000, dtype=[("a", "i4"), ("b", "f8")]),
    "text": lambda: np.array(["ab", "c"] * 20_000),
    "objects": lambda: np.array([1, "two", None] * 100, dtype=object),
    "booleans": lambda: np.ones((100, 1000), dtype=bool),
    "other byte order": lambda: np.arange(50_000, dtype=">i4"),
    "dates": lambda: np.arange("2020-01", "2021-01", dtype="datetime64[D]"),
}


@pytest.mark.parametrize("what", sorted(ARRAYS))
def test_an_array_comes_back_as_it_was(channel: Any, what: str) -> None:
    put, get = channel
    sent = ARRAYS[what]()
    put(sent)
    got = get()
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.flags.c_contiguous or got.flags.f_contiguous
    assert np.array_equal(got, sent)


def test_many_arrays_in_one_message(channel: Any) -> None:
    put, get = channel
    sent = {number: np.full((number * 100, 7), number, dtype="f8") for number in range(60)}
    put({"arrays": sent, "same": [sent[5], sent[5]]})
    got = get()
    for number, array in sent.items():
        assert np.array_equal(got["arrays"][number], array)
    assert got["same"][0] is got["same"][1]


def test_the_sender_may_go_on_changing_its_array(channel: Any) -> None:
    put, get = channel
    array = np.zeros(100_000)
    put(array)
    array[:] = 1
    assert not get().any()


def test_what_was_received_can_be_written(channel: Any) -> None:
    put, get = channel
    put(np.zeros(100_000))
    got = get()
    assert got.flags.writeable
    got += 1
    assert got.sum() == 100_000


def test_read_only_arrays_stay_read_only(channel: Any) -> None:
    put, get = channel
    array = np.zeros(100_000)
    array.flags.writeable = False
    put(array)
    got = get()
    assert not got.flags.writeable
    with pytest.raises(ValueError):
        got[0] = 1


def test_receivers_do_not_share_what_they_received() -> None:
    messages = processing.Queue()
    array = np.zeros(50_000)
    messages.put(array)
    messages.put(array)
    first, second = messages.get(), messages.get()
    first[:] = 5
    assert not second.any()
    assert not array.any()


def test_an_array_outlives_its_queue() -> None:
    messages = processing.Queue()
    messages.put(np.arange(100_000))
    got = messages.get()
    messages.close()
    del messages
    gc.collect()
    others = [processing.Queue() for _ in range(20)]
    for other in others:
        other.put(np.zeros(100_000))
    assert np.array_equal(got, np.arange(100_000))


def test_a_slice_keeps_the_memory() -> None:
    messages = processing.Queue()
    messages.put(np.arange(1_000_000))
    part = messages.get()[500_000:500_010]
    gc.collect()
    messages.put(np.zeros(1_000_000))
    assert part.tolist() == list(range(500_000, 500_010))


def test_the_memory_is_given_back_with_the_last_view() -> None:
    messages = processing.Queue()
    gc.collect()
    before = processing.memory_usage().used
    messages.put(np.zeros(4 * MIB, dtype="u1"))
    got = messages.get()
    part = got[10:20]
    del got
    gc.collect()
    assert processing.memory_usage().used >= before + 4 * MIB
    del part
    gc.collect()
    assert processing.memory_usage().used < before + MIB


def test_memory_does_not_grow_with_the_number_of_messages() -> None:
    messages = processing.Queue()
    array = np.arange(MIB, dtype="u1")
    reserved = 0
    for turn in range(200):
        messages.put(array)
        assert messages.get()[-1] == 255
        if turn == 20:
            reserved = processing.memory_usage().reserved
    assert processing.memory_usage().reserved <= reserved + 8 * MIB


def test_what_was_received_can_be_sent_on() -> None:
    first, second = processing.Queue(), processing.Queue()
    first.put(np.arange(100_000))
    second.put(first.get())
    gc.collect()
    assert np.array_equal(second.get(), np.arange(100_000))


def double(requests: Any, replies: Any) -> None:
    while (array := requests.get(timeout=LIMIT)) is not None:
        array *= 2
        replies.put(array)


def test_between_processes(start_method: Any) -> None:
    requests, replies = start_method.Queue(), start_method.Queue()
    with child(start_method, double, requests, replies) as process:
        for size in (10, 1000, 100_000, 2_000_000):
            requests.put(np.arange(size))
            assert np.array_equal(replies.get(timeout=LIMIT), 2 * np.arange(size))
        requests.put(None)
        ended(process)


def put_and_leave(messages: Any, size: int) -> None:
    messages.put(np.arange(size, dtype="u4"))


@pytest.mark.parametrize("size", [64 * MIB, 150 * MIB])
def test_huge_arrays_outlive_their_sender(size: int) -> None:
    messages = processing.Queue()
    with child(processing, put_and_leave, messages, size // 4) as process:
        ended(process)
    got = messages.get(timeout=LIMIT)
    assert got.nbytes == size
    assert (got[0], got[-1], got[1234567]) == (0, size // 4 - 1, 1234567)
    del got


def fill(number: int, messages: Any, count: int) -> None:
    for index in range(count):
        messages.put((number, index, np.full(20_000 + 1000 * number, number * 1000 + index)))


def test_several_producers() -> None:
    messages = processing.Queue(8)
    seen = []
    with children(processing, 3, fill, messages, 100) as processes:
        for _ in range(300):
            number, index, array = messages.get(timeout=LIMIT)
            assert (array == number * 1000 + index).all()
            seen.append((number, index))
        ended(*processes)
    assert sorted(seen) == [(number, index) for number in range(3) for index in range(100)]


def keep_and_wait(messages: Any, ready: Flag, go: Flag) -> None:
    kept = messages.get(timeout=LIMIT)
    ready.say()
    go.hear()
    assert kept is not None


def test_the_memory_of_a_killed_receiver_is_given_back() -> None:
    messages = processing.Queue()
    ready, go = Flag(), Flag()
    before = processing.memory_usage().used
    with child(processing, keep_and_wait, messages, ready, go) as process:
        messages.put(np.zeros(8 * MIB, dtype="u1"))
        ready.hear()
        assert processing.memory_usage().used >= before + 8 * MIB
        process.kill()
        process.join(LIMIT)
    until(lambda: processing.memory_usage().used < before + MIB)


def test_other_buffers(channel: Any) -> None:
    put, get = channel
    for data in (bytearray(range(256)) * 1000, bytes(500_000)):
        put([data])
        [got] = get()
        assert (type(got), got) == (type(data), data)
    put(pickle.PickleBuffer(b"y" * 200_000))
    assert bytes(get()) == b"y" * 200_000


def test_batches() -> None:
    messages = processing.Queue()
    messages.put_many(np.full(30_000, number) for number in range(10))
    got: list[Any] = []
    while len(got) < 10:
        got += messages.get_many(timeout=LIMIT)
    assert [int(array[0]) for array in got] == list(range(10))


def test_a_posix_queue_takes_small_ones() -> None:
    messages = processing.PosixQueue()
    messages.put(np.arange(50))
    got = messages.get(timeout=LIMIT)
    assert np.array_equal(got, np.arange(50))
    with pytest.raises(ValueError):
        messages.put(np.zeros(1_000_000))
    messages.close()
