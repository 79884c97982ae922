"""SharedArray: as array.array (also by random calls), with a fixed length, for several processes."""

from __future__ import annotations

import array
import gc
import pickle
import signal
import struct
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import processing
from helpers import Flag, child, children, ended, kill, until
from processing.values import SharedArray

pytestmark = pytest.mark.ends

INTEGERS = "bBhHiIlLqQnN"
OF_ARRAY = "bBuhHiIlLqQfd" + ("w" if sys.version_info >= (3, 13) else "")
ALL = "bBuwhHiIlLqQfd?cenN"


def some(typecode: str) -> list[Any]:
    """Items of each typecode, the least and the most among them."""
    if typecode in "uw":
        return ["a", "é", "\U0001f600", "\0"]
    if typecode == "c":
        return [b"a", b"\0", b"\xff", b"z"]
    if typecode == "?":
        return [True, False, False, True]
    if typecode in "efd":
        return [0.5, -1.25, 0.0, float("inf")]
    bits = 8 * struct.calcsize(typecode)
    low = 0 if typecode.isupper() else -(2 ** (bits - 1))
    return [low, low + 2**bits - 1, 1, 0]


# ---- Making ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typecode", ALL)
def test_every_typecode(typecode: str) -> None:
    items = some(typecode)
    shared = SharedArray(typecode, items)
    assert shared.tolist() == items
    assert [shared[place] for place in range(-4, 4)] == items * 2
    assert list(shared) == items
    assert list(reversed(shared)) == items[::-1]
    shared[0], shared[3] = shared[3], shared[0]
    assert shared.tolist() == [items[3], *items[1:3], items[0]]
    assert shared.itemsize == memoryview(shared).itemsize == len(shared.tobytes()) // 4
    again = SharedArray(typecode, 4)
    again.frombytes(shared.tobytes())
    assert again == shared
    assert SharedArray(typecode, shared) == shared
    assert SharedArray(typecode, shared.tobytes()) == shared
    assert [type(item) for item in shared] == [type(item) for item in items]


def test_a_length_makes_zeros() -> None:
    for length in (0, 1, 5, 1000, 100_000):
        shared = SharedArray("i", length)
        assert len(shared) == length
        assert shared == [0] * length
    assert SharedArray("i") == []
    with pytest.raises(ValueError, match="not negative"):
        SharedArray("i", -1)
    with pytest.raises(MemoryError):
        SharedArray("q", 2**60)


@pytest.mark.parametrize(
    "kind", [list, tuple, iter, lambda items: array.array("i", items), lambda items: (i for i in items)]
)
def test_from_any_iterable(kind: Any) -> None:
    assert SharedArray("i", kind([1, 2, 3])) == [1, 2, 3]
    assert SharedArray("d", kind([1, 2, 3])).tolist() == [1.0, 2.0, 3.0]


def test_from_bytes_and_text() -> None:
    assert SharedArray("H", b"\1\0\2\0") == [1, 2]
    assert SharedArray("c", bytearray(b"ab")) == [b"a", b"b"]
    assert SharedArray("B", memoryview(b"ab")) == [97, 98]
    assert SharedArray("i", memoryview(b"ab")) == [97, 98]
    assert SharedArray("u", "abc") == ["a", "b", "c"]
    with pytest.raises(ValueError, match="multiple of item size"):
        SharedArray("H", b"\1\0\2")
    with pytest.raises(TypeError, match="typecode 'u' or 'w'"):
        SharedArray("i", "abc")


@pytest.mark.parametrize("typecode", ["z", "", "ii", ">i", "s", "x", "P", 3, None, b"i"])
def test_bad_typecodes(typecode: Any) -> None:
    with pytest.raises(ValueError, match="bad typecode"):
        SharedArray(typecode, 3)


@pytest.mark.parametrize("items", [3.5, None, object(), ["a"], [1, 2.5], [1, None]])
def test_bad_items_make_nothing(items: Any) -> None:
    before = processing.memory_usage().objects
    with pytest.raises(TypeError):
        SharedArray("i", items)
    with pytest.raises(OverflowError):
        SharedArray("b", [1, 128])
    assert processing.memory_usage().objects == before


def test_the_memory_limit() -> None:
    before = processing.memory_usage().objects
    limit = processing.memory_limit()
    processing.set_memory_limit(1 << 20)
    try:
        with pytest.raises(MemoryError, match="no shared memory left for SharedArray"):
            SharedArray("B", 64 << 20)
    finally:
        processing.set_memory_limit(limit)
    assert processing.memory_usage().objects == before


# ---- Items ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [5, -6, 2**31, 2**40, -(2**40), 2**70])
def test_indices_out_of_range(index: int) -> None:
    shared = SharedArray("i", range(5))
    with pytest.raises(IndexError):
        shared[index]
    with pytest.raises(IndexError):
        shared[index] = 1
    for update in (shared.add, shared.exchange):
        with pytest.raises(IndexError):
            update(index, 1)
    assert shared == range(5)


@pytest.mark.parametrize("index", ["1", 1.0, None, (1,)])
def test_indices_are_integers(index: Any) -> None:
    shared = SharedArray("i", range(5))
    with pytest.raises(TypeError, match="indices must be integers or slices"):
        shared[index]
    with pytest.raises(TypeError, match="indices must be integers or slices"):
        shared[index] = 1


@pytest.mark.parametrize("typecode", INTEGERS)
def test_what_does_not_fit_changes_nothing(typecode: str) -> None:
    low, high = some(typecode)[:2]
    shared = SharedArray(typecode, [1, 2, 3])
    for wrong in (low - 1, high + 1, 2**80, -(2**80)):
        with pytest.raises(OverflowError):
            shared[1] = wrong
        with pytest.raises(OverflowError):
            shared[:] = [7, wrong, 8]
        with pytest.raises(OverflowError):
            shared.exchange(1, wrong)
        with pytest.raises(OverflowError):
            shared.compare_exchange(1, 2, wrong)
    for mistyped in (1.5, "1", None, b"1"):
        with pytest.raises(TypeError):
            shared[1] = mistyped
        with pytest.raises(TypeError):
            shared[:] = [7, mistyped, 8]
    with pytest.raises(OverflowError):
        shared.add(1, high)
    assert shared == [1, 2, 3]


def test_whatever_has_an_index_is_an_integer() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    shared = SharedArray("i", range(5))
    shared[Two()] = Two()
    assert shared[Two()] == 2
    shared[True] = True
    assert shared[1] == 1


def test_it_has_a_fixed_length() -> None:
    shared = SharedArray("i", range(5))
    for key in (0, slice(0, 2), slice(None)):
        with pytest.raises(TypeError, match="fixed length"):
            del shared[key]
    for items in ([], [1], [1, 2, 3], range(4)):
        with pytest.raises(ValueError, match="fixed length"):
            shared[1:3] = items
    with pytest.raises(ValueError, match="fixed length"):
        shared.frombytes(bytes(19))
    assert shared == range(5)


# ---- Slices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typecode", ALL)
def test_slices_are_copies(typecode: str) -> None:
    items = some(typecode)
    shared = SharedArray(typecode, items)
    for key in (slice(None), slice(1, 3), slice(None, None, -1), slice(3, 0, -2), slice(5, 9)):
        part = shared[key]
        assert type(part) is (array.array if typecode in OF_ARRAY else list)
        assert list(part) == items[key]
        if typecode in OF_ARRAY:
            assert part.typecode == typecode
    part = shared[:]
    shared[0] = shared[1]
    assert list(part) == items


def test_slices_are_assigned_anything() -> None:
    shared = SharedArray("i", range(6))
    shared[1:3] = [10, 20]
    shared[::-2] = (5, 6, 7)
    shared[0:1] = iter([9])
    shared[4:] = shared[:2]
    assert shared == [9, 7, 20, 6, 9, 7]
    shared[1:] = memoryview(shared)[:-1]  # overlapping
    assert shared == [9, 9, 7, 20, 6, 9]
    shared[:] = SharedArray("h", range(6))
    assert shared == range(6)


# ---- As a sequence --------------------------------------------------------------------------------------------------


def test_searching() -> None:
    shared = SharedArray("i", [1, 2, 3, 2, 1])
    assert 2 in shared and 2.0 in shared and 7 not in shared and "2" not in shared
    assert shared.count(2) == 2 and shared.count(9) == 0
    assert shared.index(2) == 1 and shared.index(2, 2) == 3 and shared.index(1, -1) == 4
    for wrong in ((9,), (3, 3), (2, 0, 1), (1, -4, -1)):
        with pytest.raises(ValueError, match="is not in"):
            shared.index(*wrong)
    with pytest.raises(ZeroDivisionError):
        shared.index(type("Bad", (), {"__eq__": lambda self, other: 1 / 0, "__hash__": None})())


def test_comparison() -> None:
    shared = SharedArray("i", [1, 2, 3])
    for other in (
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        array.array("d", [1, 2, 3]),
        SharedArray("q", [1, 2, 3]),
        shared,
    ):
        assert shared == other and other == shared and (shared != other) is False
        assert shared <= other and shared >= other and not shared < other
    assert shared < [1, 2, 4] and shared > (1, 2) and shared != [1, 2]
    assert shared != "abc" and shared != 5 and shared is not None
    with pytest.raises(TypeError):
        shared < 5  # noqa: B015
    with pytest.raises(TypeError):
        hash(shared)


def test_it_is_a_sequence() -> None:
    shared = SharedArray("i", [1, 2, 3])
    assert isinstance(shared, Sequence)
    match shared:
        case [first, *rest]:
            assert (first, rest) == (1, [2, 3])
        case _:
            raise AssertionError
    iterator = iter(shared)
    assert iterator.__length_hint__() == 3
    assert list(iterator) == [1, 2, 3]
    assert list(iterator) == []
    assert sorted(shared, reverse=True) == [3, 2, 1]
    assert sum(shared) == 6
    assert shared.typecode == "i" and shared.nbytes == 12 and shared.buffer_info()[1] == 3


def test_repr_name_statistics() -> None:
    shared = SharedArray("i", [0, -1], name="counts")
    assert repr(shared) == "SharedArray('i', [0, -1])"
    assert shared.name == "counts"
    facts = shared.statistics()
    assert (facts.items, facts.itemsize) == (2, 4)
    shared._close()
    assert repr(shared) == "<SharedArray(closed)>"
    for use in (
        lambda: shared[0],
        lambda: len(shared),
        lambda: list(shared),
        shared.tolist,
        lambda: memoryview(shared),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        shared[0] = 1


# ---- One step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typecode", [*INTEGERS, "f", "d"])
def test_one_step(typecode: str) -> None:
    shared = SharedArray(typecode, [1, 2, 3])
    assert shared.add(1, 5) == 7
    assert shared.add(-1, -3) == 0
    assert shared.exchange(0, 9) == 1
    assert shared.compare_exchange(0, 1, 5) is False
    assert shared.compare_exchange(0, 9, 5) is True
    assert shared == [5, 7, 0]
    for call, arguments in (
        (shared.add, (1,)),
        (shared.exchange, (1, 2, 3)),
        (shared.compare_exchange, (1, 2)),
    ):
        with pytest.raises(TypeError, match="takes"):
            call(*arguments)


def test_only_numbers_are_added() -> None:
    for typecode in "?cu":
        with pytest.raises(TypeError, match="numbers"):
            SharedArray(typecode, some(typecode)).add(0, 1)
    letters = SharedArray("c", b"ab")
    assert letters.exchange(0, b"z") == b"a"
    assert letters.compare_exchange(1, b"b", b"y")
    assert letters == [b"z", b"y"]


def add_everywhere(number: int, shared: Any, times: int, together: Any) -> None:
    together.wait()
    for turn in range(times):
        shared.add(turn % len(shared), 1)


def test_no_addition_is_lost(start_method: Any) -> None:
    shared, together = SharedArray("H", 3), processing.Barrier(4)
    with children(start_method, 3, add_everywhere, shared, 9000, together) as processes:
        add_everywhere(0, shared, 9000, together)
        ended(*processes)
    assert shared == [12_000, 12_000, 12_000]


def add_under_lock(number: int, shared: Any, times: int, together: Any) -> None:
    together.wait()
    for _ in range(times):
        with shared:
            shared[0] += 1
            shared[1] -= 1


def test_updates_under_the_lock(start_method: Any) -> None:
    shared, together = SharedArray("i", 2), processing.Barrier(4)
    with children(start_method, 3, add_under_lock, shared, 2000, together) as processes:
        add_under_lock(0, shared, 2000, together)
        ended(*processes)
    assert shared == [8000, -8000]


def test_threads() -> None:
    shared = SharedArray("q", 3)
    together = threading.Barrier(4)
    threads = [threading.Thread(target=add_everywhere, args=(0, shared, 6000, together)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared == [8000, 8000, 8000]


def write_patterns(shared: Any, flag: Flag) -> None:
    flag.say()
    patterns = (0, -1, 0x5555555555555555)
    while True:
        for pattern in patterns:
            shared[1] = pattern


def test_items_are_whole() -> None:
    shared = SharedArray("q", 3)
    flag = Flag()
    with child(processing.get_context("fork"), write_patterns, shared, flag) as process:
        flag.hear()
        seen = {shared[1] for _ in range(100_000)}
        kill(process)
    assert seen <= {0, -1, 0x5555555555555555}


# ---- Buffers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typecode", ALL)
def test_memoryviews_are_views(typecode: str) -> None:
    shared = SharedArray(typecode, some(typecode))
    with memoryview(shared) as view:
        assert view.format == ("w" if typecode == "u" else typecode)
        assert (view.shape, view.strides, view.readonly) == ((4,), (shared.itemsize,), False)
        view.cast("B")[:] = bytes(view.nbytes)
        assert shared.tobytes() == bytes(shared.nbytes)


def test_an_exported_array_stays_open() -> None:
    shared = SharedArray("i", range(3))
    view = memoryview(shared)
    with pytest.raises(BufferError, match="look into"):
        shared._close()
    view[0] = 7
    assert shared[0] == 7
    view.release()
    shared._close()


@pytest.mark.parametrize("typecode", ALL)
def test_numpy_looks_into_it(typecode: str) -> None:
    numpy = pytest.importorskip("numpy")
    shared = SharedArray(typecode, some(typecode))
    view = numpy.asarray(shared)
    assert view.shape == (4,) and view.itemsize == shared.itemsize and view.flags.writeable
    assert view.tolist() == [
        i.rstrip("\0") if typecode in "uw" else i.rstrip(b"\0") if typecode == "c" else i for i in shared
    ]
    view[0] = view[1]
    assert shared[0] == shared[1]
    shared[2] = shared[3]
    assert view[2] == view[3]


def test_numpy_keeps_it_alive() -> None:
    numpy = pytest.importorskip("numpy")
    gc.collect()
    before = processing.memory_usage().objects
    view = numpy.asarray(SharedArray("i", range(10_000)))
    gc.collect()
    assert view[9999] == 9999
    assert processing.memory_usage().objects == before + 1
    del view
    assert processing.memory_usage().objects == before


def test_from_and_against_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    assert SharedArray("i", numpy.arange(5, dtype="i4")) == range(5)
    assert SharedArray("i", numpy.arange(5, dtype="i8")) == range(5)
    assert SharedArray("d", numpy.arange(10.0)[::2]).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert SharedArray("i", numpy.arange(5, dtype=">i4")) == range(5)
    assert len(SharedArray("i", numpy.int64(5))) == 5
    with pytest.raises(TypeError):
        SharedArray("i", numpy.zeros((2, 2)))
    shared = SharedArray("i", range(5))
    shared[1:3] = numpy.array([7, 8])
    assert (shared == numpy.array([0, 7, 8, 3, 4])).all()
    assert shared[numpy.int64(1)] == 7


# ---- Between processes ----------------------------------------------------------------------------------------------


def negate(shared: Any) -> None:
    for place in range(len(shared)):
        shared[place] = -shared[place]


def test_it_reaches_new_processes(start_method: Any) -> None:
    shared = SharedArray("i", range(10))
    with child(start_method, negate, shared) as process:
        ended(process)
    assert repr(shared) == "SharedArray('i', [0, -1, -2, -3, -4, -5, -6, -7, -8, -9])"


def negate_received(queue: Any, done: Any) -> None:
    negate(queue.get())
    done.set()


def test_it_travels_through_queues(start_method: Any) -> None:
    queue, done = processing.Queue(), processing.Event()
    with child(start_method, negate_received, queue, done) as process:
        shared = SharedArray("d", [1.5, 2.5])
        queue.put(shared)
        assert done.wait(20)
        ended(process)
    assert shared == [-1.5, -2.5]
    assert pickle.loads(pickle.dumps(shared)) is shared


def test_memory_is_freed_with_the_last_handle() -> None:
    gc.collect()
    before = processing.memory_usage()
    shared = SharedArray("q", 1 << 17)
    shared.get_lock()
    assert processing.memory_usage().used >= before.used + (1 << 20)
    queue = processing.SimpleQueue()
    queue.put(shared)
    del shared
    assert processing.memory_usage().used >= before.used + (1 << 20)
    assert queue.get()[5] == 0
    del queue
    until(lambda: processing.memory_usage().objects == before.objects)
    assert processing.memory_usage().used < before.used + (1 << 19)


def hold(queue: Any, flag: Flag) -> None:
    held = queue.get()
    view = memoryview(held)
    flag.say()
    signal.pause()
    view.release()


def test_what_a_killed_process_held_is_swept() -> None:
    gc.collect()
    before = processing.memory_usage().objects
    queue, flag = processing.SimpleQueue(), Flag()
    with child(processing.get_context("fork"), hold, queue, flag) as process:
        queue.put(SharedArray("q", 100_000))
        flag.hear()
        assert processing.memory_usage().objects > before
        kill(process)
    del queue
    until(lambda: processing.memory_usage().objects == before)


def end_with_view(shared: Any) -> None:
    global kept
    kept = memoryview(shared)
    kept[0] = 5


def test_a_process_may_end_while_it_looks_into_one(start_method: Any) -> None:
    shared = SharedArray("i", range(3))
    with child(start_method, end_with_view, shared) as process:
        ended(process)
    assert shared == [5, 1, 2]


# ---- Random calls ---------------------------------------------------------------------------------------------------

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

INDICES = st.integers(-8, 8)
SLICES = st.builds(slice, *[st.none() | INDICES] * 2, st.none() | st.integers(-4, 4).filter(bool))
VALUES = st.one_of(
    st.integers(-130, 260), st.integers(-(2**66), 2**66), st.floats(width=32), st.sampled_from(["x", None])
)
CALLS = st.one_of(
    st.tuples(st.just("get"), INDICES | SLICES),
    st.tuples(st.just("set"), INDICES, VALUES),
    st.tuples(st.just("slice"), SLICES, st.lists(VALUES, max_size=6)),
    st.tuples(st.sampled_from(["index", "count", "in"]), VALUES),
    st.tuples(st.just("list")),
)


def call(target: Any, order: tuple[Any, ...]) -> Any:
    """What a call returns, or the kind of error that it raises."""
    try:
        match order:
            case "get", key:
                return target[key]
            case "set", index, value:
                target[index] = value
            case "slice", key, values:
                target[key] = values
            case "in", value:
                return value in target
            case ("index" | "count") as method, value:
                return getattr(target, method)(value)
            case _:
                return target.tolist()
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        return type(error)


class Oracle(array.array):  # type: ignore[type-arg]
    """An array.array that is assigned slices as SharedArray is."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            value = array.array(self.typecode, value)
            if len(value) != len(self[key]):
                raise ValueError("fixed length")
        super().__setitem__(key, value)


@hypothesis.given(st.sampled_from("bBhHiIlLqQd"), st.integers(0, 7), st.lists(CALLS, max_size=20))
def test_random_calls_against_array(typecode: str, length: int, orders: list[tuple[Any, ...]]) -> None:
    shared, oracle = SharedArray(typecode, range(length)), Oracle(typecode, range(length))
    for order in orders:
        theirs, ours = call(oracle, order), call(shared, order)
        if isinstance(theirs, Oracle | array.array):
            assert type(ours) is array.array and ours.typecode == typecode
            theirs, ours = theirs.tobytes(), ours.tobytes()
        assert repr(ours) == repr(theirs), order
        assert shared.tobytes() == oracle.tobytes()
