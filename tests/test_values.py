"""SharedValue and SharedStruct: every format of the struct module, what does not fit, updates in one step, the lock,
and what a writer that is killed leaves."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import struct
import threading
from typing import Any

import pytest

import processing
from helpers import Flag, child, children, ended, kill, until
from processing import _program
from processing.values import SharedStruct, SharedValue

INTEGERS = "bBhHiIlLqQnN"
FLOATS = "efd"


def limits(format: str) -> tuple[int, int]:
    bits = 8 * struct.calcsize(format)
    return (0, 2**bits - 1) if format[-1].isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def formats_of_integers() -> list[str]:
    return [
        prefix + letter
        for prefix in ("", "@", "=", "<", ">", "!")
        for letter in INTEGERS
        if prefix in ("", "@") or letter not in "nN"
    ]


# ---- Every format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [*formats_of_integers(), "P"])
def test_integers(format: str) -> None:
    low, high = limits(format)
    value = SharedValue(format)
    assert value.value == 0
    for number in (1, low, high, high // 3, 7):
        value.value = number
        assert value.value == number
        assert SharedValue(format, number).value == number
    for number in (low - 1, high + 1, -(2**70), 2**70):
        with pytest.raises(OverflowError):
            value.value = number
        with pytest.raises(OverflowError):
            SharedValue(format, number)
    for wrong in (1.5, "1", None, b"1"):
        with pytest.raises(TypeError):
            value.value = wrong
    assert value.value == 7


@pytest.mark.parametrize("format", [prefix + letter for prefix in ("", "<", ">") for letter in FLOATS])
def test_floats(format: str) -> None:
    value = SharedValue(format, 0.5)
    assert value.value == 0.5
    for number in (-2.25, 0.1, 3, float("inf"), -0.0, True):
        value.value = number
        assert value.value == struct.unpack(format, struct.pack(format, number))[0]
        assert type(value.value) is float
    value.value = float("nan")
    assert value.value != value.value
    value.value = 1.5
    for wrong in ("1", None, 1j):
        with pytest.raises(TypeError):
            value.value = wrong
    with pytest.raises(OverflowError):
        value.value = 10**400
    if not format.endswith("d"):
        with pytest.raises(OverflowError):
            value.value = 1e300
    assert value.value == 1.5


def test_truth_and_characters() -> None:
    truth = SharedValue("?", [])
    assert truth.value is False
    truth.value = "yes"
    assert truth.value is True
    letter = SharedValue("c", b"x")
    letter.value = b"\xff"
    assert letter.value == b"\xff"
    for wrong in (b"", b"ab", "x", 120):
        with pytest.raises(TypeError):
            letter.value = wrong
    assert letter.value == b"\xff"


@pytest.mark.parametrize(
    "format",
    ["3s", "8s", "9s", "300s", "5p", "256p", "s", "4x3s", "=5s3x", "1i", " i ", "4xi", "i4x", "1d", "0x1q"],
)
def test_one_value_of_any_shape(format: str) -> None:
    start: Any = b"a" if format.strip("0123456789x= ") in "sp" else 5
    value = SharedValue(format, start)
    assert value.value == struct.unpack(format, struct.pack(format, start))[0]
    start = b"b" if isinstance(start, bytes) else -6
    value.value = start
    assert value.value == struct.unpack(format, struct.pack(format, start))[0]
    assert SharedValue(value.format, start).value == value.value


STRUCTS: list[tuple[str, tuple[Any, ...]]] = [
    ("d256p", (0.75, b"hello")),
    ("bhilq", (-1, -2, -3, -4, -5)),
    ("BHILQnNP", (1, 2, 3, 4, 5, -6, 7, 8)),
    ("efd?c", (0.5, 0.25, 0.125, True, b"z")),
    (">bhilqefd", (1, 2, 3, 4, 5, 1.5, 2.5, 3.5)),
    ("!3i2x2h", (1, 2, 3, 4, 5)),
    ("<b3xi", (1, 2)),
    ("bi", (1, 2)),
    ("2h", (1, 2)),
    ("3s4p0s", (b"abc", b"def", b"")),
    ("  i 10s ", (1, b"0123456789")),
    ("", ()),
    ("8x", ()),
    ("100i", tuple(range(100))),
    ("5000s", (b"x" * 5000,)),
]


@pytest.mark.parametrize("format, values", STRUCTS)
def test_structs(format: str, values: tuple[Any, ...]) -> None:
    shared = SharedStruct(format, values)
    assert shared.value == values
    assert shared.format == format
    shared.value = list(values)  # type: ignore[assignment]
    assert shared.value == values
    assert struct.calcsize(format) == shared.statistics().itemsize
    if not any(letter in format for letter in "sp"):
        zeros = struct.unpack(format, bytes(struct.calcsize(format)))
        assert SharedStruct(format).value == zeros


def test_bytes_formats() -> None:
    assert SharedValue(b"i", 3).value == 3
    assert SharedStruct(b"ii", (1, 2)).format == "ii"


# ---- Text and bytes -------------------------------------------------------------------------------------------------


def test_text_stays_text_and_bytes_stay_bytes() -> None:
    shared = SharedStruct("10p10p10s10s", ("tëxt", b"bytes", "tëxt", b"bytes"))
    assert shared.value == ("tëxt", b"bytes", "tëxt", b"bytes" + bytes(5))
    shared.value = ("", b"", "x\0y", b"\0\0")
    assert shared.value == ("", b"", "x\0y", bytes(10))
    for wrong in ((b"", b"", "", b""), ("", "", "", b""), ("", b"", b"", b""), ("", b"", "", "")):
        with pytest.raises(TypeError, match="as it was at the beginning"):
            shared.value = wrong
    assert shared.value == ("", b"", "x\0y", bytes(10))


@pytest.mark.parametrize(
    "format, most", [("256p", 255), ("300p", 255), ("5p", 4), ("p", 0), ("5s", 5), ("0s", 0)]
)
def test_what_is_too_long_is_refused(format: str, most: int) -> None:
    for one, two in (("x", "é"), (b"x", b"yy")):
        value = SharedValue(format, one * most)
        assert value.value == one * most
        for wrong in (one * (most + 1), two * (most // 2 + 1)):
            with pytest.raises(ValueError, match=f"holds {most} bytes"):
                value.value = wrong
            with pytest.raises(ValueError, match=f"holds {most} bytes"):
                SharedValue(format, wrong)
        assert value.value == one * most


def test_nuls_at_the_end_of_text() -> None:
    assert SharedValue("5p", "a\0\0").value == "a\0\0"
    with pytest.raises(ValueError, match="NULs"):
        SharedValue("5s", "a\0\0")


def test_lone_surrogates_are_refused() -> None:
    value = SharedValue("20p", "ok")
    with pytest.raises(UnicodeEncodeError):
        value.value = "\ud800"
    assert value.value == "ok"


# ---- What is wrong is said at the call ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["z", "=n", "i3", "é", "u", "i0p"])
def test_bad_formats(format: str) -> None:
    for kind in (SharedValue, SharedStruct):
        with pytest.raises(ValueError):
            kind(format, (1, b""))
    with pytest.raises(TypeError):
        SharedValue(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["ii", "", "x", "2i", "0i", "i3s"])
def test_a_value_is_one_value(format: str) -> None:
    with pytest.raises(ValueError, match="use SharedStruct"):
        SharedValue(format, 1)


def test_strings_need_a_first_value() -> None:
    for make in (lambda: SharedValue("9p"), lambda: SharedStruct("i9s")):
        with pytest.raises(TypeError, match="needs a value"):
            make()


def test_bad_values_of_structs_change_nothing() -> None:
    shared = SharedStruct("bdQ9p", (1, 2.0, 3, "four"))
    for error, wrong, words in (
        (ValueError, (1, 2.0, 3), "has 4 values, not 3"),
        (ValueError, (1, 2.0, 3, "four", 5), "has 4 values, not 5"),
        (OverflowError, (128, 2.0, 3, "four"), "value 0"),
        (OverflowError, (1, 2.0, -3, "four"), "value 2"),
        (OverflowError, (1, 2.0, 2**64, "four"), "value 2"),
        (TypeError, (1, "2", 3, "four"), "value 1"),
        (TypeError, (1.5, 2.0, 3, "four"), "value 0"),
        (TypeError, (1, 2.0, 3, 4), "value 3"),
        (ValueError, (1, 2.0, 3, "4" * 9), "value 3"),
        (TypeError, 5, "takes a tuple"),
        (TypeError, "abcd", "takes a tuple"),
    ):
        with pytest.raises(error, match=words):
            shared.value = wrong
        if isinstance(wrong, tuple) and error is not ValueError:
            with pytest.raises(error):
                SharedStruct("bdQ9p", wrong) if wrong[3] != 4 else SharedStruct("bdQ9p", (*wrong[:3], 4))
    assert shared.value == (1, 2.0, 3, "four")


def test_a_value_is_not_deleted() -> None:
    with pytest.raises(AttributeError):
        del SharedValue("i").value


def test_the_memory_limit() -> None:
    gc.collect()  # what other tests left goes now, not in between
    _program.sweep()
    before = processing.memory_usage().objects
    limit = processing.memory_limit()
    processing.set_memory_limit(1 << 20)
    try:
        with pytest.raises(MemoryError, match="no shared memory left for SharedStruct"):
            SharedStruct(f"{64 << 20}s", (b"",))
    finally:
        processing.set_memory_limit(limit)
    assert processing.memory_usage().objects == before


# ---- What it looks like ---------------------------------------------------------------------------------------------


def test_repr() -> None:
    assert repr(SharedValue("i", 42)) == "SharedValue('i', 42)"
    assert repr(SharedStruct("d256p", (0.75, "hello"))) == "SharedStruct('d256p', (0.75, 'hello'))"
    closed = SharedValue("i")
    closed._close()
    assert repr(closed) == "<SharedValue(closed)>"
    for use in (lambda: closed.value, lambda: closed.add(1), closed.get_lock, closed.statistics):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        closed.value = 1


def test_name_and_statistics() -> None:
    shared = SharedStruct("dd", (1.0, 2.0), name="position")
    assert shared.name == "position"
    shared.value = (2.0, 3.0)
    facts = shared.statistics()
    assert (facts.items, facts.itemsize, facts.writes, facts.writers_died) == (1, 16, 2, 0)
    assert facts.bytes >= 32


def test_copies_are_the_same_object() -> None:
    value = SharedValue("i", 1)
    assert copy.copy(value) is value
    assert copy.deepcopy(value) is value
    assert pickle.loads(pickle.dumps(value)) is value


def test_a_pickle_of_another_kind_is_refused() -> None:
    value = SharedValue("i", 1)
    reopen, (_, *place) = value.__reduce__()
    del value
    value = SharedValue("i", 1)
    reopen, (_, *place) = value.__reduce__()
    key = place
    other: Any = None
    reader, writer = processing.Pipe(False)
    writer.send(value)
    del value
    gc.collect()
    with pytest.raises(ValueError, match="not that of"):
        other = reopen(SharedStruct, *key)
        assert other.value
    del other
    assert reader.recv().value == 1


# ---- Updates in one step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", formats_of_integers())
def test_add(format: str) -> None:
    low, high = limits(format)
    value = SharedValue(format, high - 5)
    assert value.add(5) == high
    for amount in (1, high, 2**64, 2**80):
        with pytest.raises(OverflowError):
            value.add(amount)
    assert value.value == high
    assert value.add(low - high) == low
    for amount in (-1, -(2**80)):
        with pytest.raises(OverflowError):
            value.add(amount)
    with pytest.raises(TypeError):
        value.add(1.0)
    assert value.value == low


@pytest.mark.parametrize("format", formats_of_integers())
def test_exchange_and_compare_exchange(format: str) -> None:
    _, high = limits(format)
    value = SharedValue(format, 3)
    assert value.exchange(high) == 3
    assert value.compare_exchange(3, 4) is False
    assert value.value == high
    assert value.compare_exchange(high, 5) is True
    assert value.value == 5
    with pytest.raises(OverflowError):
        value.exchange(high + 1)
    with pytest.raises(OverflowError):
        value.compare_exchange(5, high + 1)
    with pytest.raises(TypeError):
        value.compare_exchange(5)  # type: ignore[call-arg]
    assert value.value == 5


def test_one_step_of_floats() -> None:
    value = SharedValue("f", 0.5)
    assert value.add(0.25) == 0.75
    with pytest.raises(OverflowError):
        value.add(1e39)
    assert value.exchange(1.0) == 0.75
    assert value.compare_exchange(1.0, 2.0)
    assert value.value == 2.0
    assert SharedValue(">d", 1.5).add(1) == 2.5


@pytest.mark.parametrize("format", ["hh", "3s", "8p", "4xi", "d256p", "20s"])
def test_one_step_of_records(format: str) -> None:
    one, two = {
        "hh": ((1, 2), (3, 4)),
        "3s": (("a",), ("b",)),
        "8p": (("a",), ("b",)),
        "4xi": ((1,), (2,)),
        "d256p": ((1.0, "a"), (2.0, "b")),
        "20s": (("a",), ("b",)),
    }[format]
    shared: Any = SharedStruct(format, one)
    assert shared.exchange(two) == one
    assert shared.compare_exchange(one, one) is False
    assert shared.compare_exchange(two, one) is True
    assert shared.value == one
    if len(one) == 1:
        value: Any = SharedValue(format, one[0])
        assert value.exchange(two[0]) == one[0]
        assert not value.compare_exchange(one[0], one[0])
        with pytest.raises(TypeError):
            value.add(1)


def count_up(number: int, value: Any, times: int, together: Any) -> None:
    together.wait()
    for _ in range(times):
        value.add(1)


@pytest.mark.once
@pytest.mark.parametrize("format", ["i", ">H", "q", "d"])
def test_no_addition_is_lost(start_method: Any, format: str) -> None:
    value, together = SharedValue(format), processing.Barrier(4)
    with children(start_method, 3, count_up, value, 10_000, together) as processes:
        count_up(0, value, 10_000, together)
        ended(*processes)
    assert value.value == 40_000


def test_no_addition_of_a_thread_is_lost() -> None:
    value = SharedValue("i")
    together = threading.Barrier(4)
    threads = [threading.Thread(target=count_up, args=(0, value, 5000, together)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value.value == 20_000


# ---- The lock -------------------------------------------------------------------------------------------------------


def count_under_lock(number: int, value: Any, times: int, together: Any) -> None:
    together.wait()
    for turn in range(times):
        if turn % 2:
            with value:
                value.value += 1
        else:
            with value.get_lock():
                value.value += 1


def test_updates_under_the_lock(start_method: Any) -> None:
    value, together = SharedValue("i"), processing.Barrier(4)
    with children(start_method, 3, count_under_lock, value, 3000, together) as processes:
        count_under_lock(0, value, 3000, together)
        ended(*processes)
    assert value.value == 12_000


def test_the_lock_is_one_for_all() -> None:
    value = SharedValue("i")
    lock = value.get_lock()
    assert value.get_lock() is lock
    with value as same:
        assert same is value
        assert lock.locked()
        with lock:
            pass
    assert not lock.locked()
    assert value.acquire() and lock.locked()
    value.release()
    assert value.get_obj() is value


def take_lock(value: Any, flag: Flag) -> None:
    with value.get_lock():
        flag.say()
        signal.pause()


def test_a_dead_holder_of_the_lock_is_reported() -> None:
    value, flag = SharedValue("i", 3), Flag()
    with child(processing.get_context("fork"), take_lock, value, flag) as process:
        flag.hear()
        assert not value.acquire(False)
        value.value = 4  # needs no lock
        kill(process)
    with pytest.raises(processing.LockOwnerDied):
        value.acquire()
    with value:
        assert value.value == 4


# ---- Between processes ----------------------------------------------------------------------------------------------


def set_them(number: Any, record: Any) -> None:
    number.value = 42
    record.value = (0.75, "hello")


def test_they_reach_new_processes(start_method: Any) -> None:
    number, record = SharedValue("i", 0), SharedStruct("d256p", (0.0, ""))
    with child(start_method, set_them, number, record) as process:
        ended(process)
    assert number.value == 42
    assert record.value == (0.75, "hello")


def answer(queue: Any, done: Any) -> None:
    number, record = queue.get()
    record.value = (number.add(1), b"bytes", "text")
    done.set()


def test_they_travel_through_queues(start_method: Any) -> None:
    queue, done = processing.Queue(), processing.Event()
    with child(start_method, answer, queue, done) as process:
        number, record = SharedValue("q", 1), SharedStruct("q6p6p", (0, b"", ""))
        queue.put((number, record))
        assert done.wait(20)
        ended(process)
    assert record.value == (2, b"bytes", "text")


def test_memory_is_freed_with_the_last_handle() -> None:
    gc.collect()
    before = processing.memory_usage().objects
    made = [SharedValue("i"), SharedStruct("100s", ("",)), SharedValue("d")]
    made[0].get_lock()
    assert processing.memory_usage().objects == before + 4
    queue = processing.SimpleQueue()
    queue.put(made)
    del made
    assert processing.memory_usage().objects > before
    queue.get()
    del queue
    until(lambda: processing.memory_usage().objects == before)


def hold(queue: Any, flag: Flag) -> None:
    held = queue.get()
    held[0].get_lock()
    flag.say()
    signal.pause()


def test_what_a_killed_process_held_is_swept() -> None:
    gc.collect()
    before = processing.memory_usage().objects
    queue, flag = processing.SimpleQueue(), Flag()
    with child(processing.get_context("fork"), hold, queue, flag) as process:
        queue.put([SharedValue("i"), SharedStruct("300s", ("",))])
        flag.hear()
        assert processing.memory_usage().objects > before
        kill(process)
    del queue
    until(lambda: processing.memory_usage().objects == before)


# ---- Killed in the middle of a write --------------------------------------------------------------------------------

WORDS = 30


def write_for_ever(shared: Any, flag: Flag) -> None:
    flag.say()
    number = 0
    while True:
        number += 1
        shared.value = (number,) * WORDS + (str(number) * 20,)


def is_whole(record: tuple[Any, ...]) -> bool:
    return len(set(record[:-1])) == 1 and record[-1] == str(record[0]) * 20


def test_a_killed_writer_leaves_no_half_written_struct() -> None:
    shared = SharedStruct(f"{WORDS}q250p", (0,) * WORDS + ("0" * 20,))
    context = processing.get_context("fork")
    for turn in range(12):
        flag = Flag()
        with child(context, write_for_ever, shared, flag) as process:
            flag.hear()
            enough = shared.statistics().writes + 200 + 37 * turn
            while shared.statistics().writes < enough:
                assert is_whole(shared.value)
            os.kill(process.pid, signal.SIGKILL)
            for _ in range(200):
                assert is_whole(shared.value)
            ended(process, exitcode=-signal.SIGKILL)
        assert is_whole(shared.value)
        shared.value = (turn,) * WORDS + (str(turn) * 20,)
        assert shared.value[0] == turn


def test_several_writers_and_readers_see_whole_structs() -> None:
    shared = SharedStruct(f"{WORDS}q250p", (0,) * WORDS + ("0" * 20,))
    context = processing.get_context("fork")
    flag = Flag()
    with (
        child(context, write_for_ever, shared, flag) as first,
        child(context, write_for_ever, shared, flag) as second,
    ):
        flag.hear()
        flag.hear()
        for turn in range(3000):
            assert is_whole(shared.value)
            if turn % 10 == 0:
                shared.value = (turn,) * WORDS + (str(turn) * 20,)
        kill(first)
        kill(second)
    assert is_whole(shared.value)
