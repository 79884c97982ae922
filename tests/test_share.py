"""processing.share: one copy of a large object, opened by whoever has the handle, read-only, without a copy."""

from __future__ import annotations

import array
import gc
import os
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, children, ended, kill, output_of, until
from processing import sharing

MIB = 1 << 20


def used() -> int:
    gc.collect()
    return processing.memory_usage().used


class Column:
    """Something of many bytes that pickles them out of band, as numpy's arrays do. Needs nothing but Python."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Column, (pickle.PickleBuffer(self.data),)


# ---- What comes back ------------------------------------------------------------------------------------------------

VALUES = {
    "None": None,
    "a number": 5,
    "a large number": 1 << 100,
    "text": "grüße" * 10_000,
    "a list": [1, "two", [3.0, None]],
    "a large dict": {number: str(number) for number in range(5000)},
    "bytes inside": [b"abc" * 100_000, bytearray(b"de")],
}


@pytest.mark.parametrize("what", sorted(VALUES))
def test_what_has_no_buffers_comes_back_equal(what: str) -> None:
    value = VALUES[what]
    shared = processing.share(value)
    assert type(shared) is sharing.Shared
    for _ in range(3):
        assert shared.get() == value
        assert type(shared.get()) is type(value)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(data)[:]])
@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
def test_bytes_come_back_as_a_view(kind: Any, size: int) -> None:
    data = os.urandom(size)
    shared = processing.share(kind(data))
    view = shared.get()
    assert type(view) is memoryview
    assert view.readonly and view.format == "B" and view == data
    with pytest.raises(TypeError):
        view[0:1] = b"x"[:size]


def test_memory_views_of_other_shapes_come_back_as_their_bytes() -> None:
    numbers = array.array("i", range(12))
    whole = memoryview(numbers)
    for view in (whole, whole[::2], whole.cast("B").cast("i", (3, 4)), whole[5:5]):
        assert processing.share(view).get() == view.tobytes()


def test_buffers_are_views_of_one_place() -> None:
    for size in (10, 100_000):
        shared = processing.share([Column(b"x" * size), Column(bytearray(b"y" * size))])
        before = used()
        first, second = shared.get(), shared.get()
        assert used() == before
        assert first[0].data == b"x" * size and first[1].data == b"y" * size
        for column in (*first, *second):
            assert type(column.data) is memoryview and column.data.readonly


@dataclass
class Model:
    name: str
    weights: list[Column]
    lock: Any
    results: Any


def test_handles_inside_are_handles() -> None:
    model = Model("m", [Column(b"w" * 5000)], processing.Lock(), processing.Queue())
    lock, results = model.lock, model.results
    shared = processing.share(model)
    del model
    got = shared.get()
    with got.lock:
        assert lock.locked()
    got.results.put(shared)
    assert results.get() is shared


def test_they_are_kept_alive() -> None:
    shared = processing.share({"queue": processing.Queue()})
    gc.collect()
    shared.get()["queue"].put(7)
    fillers = [processing.Queue() for _ in range(10)]
    assert shared.get()["queue"].get() == 7
    before = used()
    del shared, fillers
    assert used() < before


def test_sharing_what_is_shared() -> None:
    inner = processing.share(Column(b"z" * 100_000))
    before = used()
    outer = processing.share([inner, inner])
    assert used() < before + 10_000
    del inner
    gc.collect()
    first, second = outer.get()
    assert first is second and first.get().data == b"z" * 100_000


# ---- The handle -----------------------------------------------------------------------------------------------------


def test_the_handle() -> None:
    shared = processing.share(b"x" * 1000, name="corpus")
    assert (shared.name, shared.nbytes) == ("corpus", 1000)
    assert repr(shared) == "<Shared(1000 bytes) name='corpus'>"
    assert (shared.statistics().nbytes, shared.statistics().holders) == (1000, 1)
    messages = processing.SimpleQueue()
    messages.put(shared)
    assert shared.statistics().holders == 2
    assert messages.get() is shared
    assert shared.statistics().holders == 1
    assert processing.share(1).name is None
    assert repr(processing.share(b"")) == "<Shared(0 bytes)>"
    assert processing.get_context("spawn").share(5, name="five").name == "five"


def test_closing_it() -> None:
    before = used()
    with processing.share(Column(b"x" * MIB)) as shared:
        column = shared.get()
        with pytest.raises(BufferError, match="still look into"):
            shared.close()
        del column
        gc.collect()
    assert repr(shared) == "<Shared(closed)>"
    assert used() < before + 10_000
    shared.close()
    for call in (shared.get, shared.statistics, lambda: shared.nbytes, lambda: pickle.dumps(shared)):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(BufferError):
        memoryview(shared)


def test_what_cannot_be_pickled() -> None:
    before = used()
    lock = processing.Lock()
    empty = used()
    with pytest.raises(TypeError, match=r"at obj\[1\]"):
        processing.share([lock, (part for part in "abc")])
    assert used() == empty
    del lock
    assert used() == before


def raise_error() -> None:
    raise OSError("not here")


class Unwilling:
    def __reduce__(self) -> tuple[Any, ...]:
        return raise_error, ()


def test_what_cannot_be_unpickled_says_so_and_stays() -> None:
    shared = processing.share([Column(b"x" * 10_000), Unwilling()])
    for _ in range(2):
        with pytest.raises(OSError, match="not here"):
            shared.get()
    shared.close()


def test_the_limit(tmp_path: Any) -> None:
    text = """
        import processing
        kept = [processing.share(bytes(1 << 20))]
        try:
            while True:
                kept.append(processing.share(bytes(8 << 20)))
        except MemoryError as error:
            print("limit of 64.0 MiB" in str(error), len(kept) >= 6)
        kept.pop()
        print(processing.share(bytes(1 << 20)).get().nbytes, kept[0].get().nbytes)
    """
    assert output_of(tmp_path, text, PROCESSING_MEMORY_LIMIT="64M") == ["True True", "1048576 1048576"]


# ---- Between processes ----------------------------------------------------------------------------------------------


def look(shared: Any, requests: Any, replies: Any) -> None:
    while (other := requests.get(timeout=LIMIT)) is not None:
        for one in (shared, other):
            column = one.get()
            replies.put((one.nbytes, bytes(column.data[-3:]), column.data.readonly))


def test_by_argument_and_by_queue(start_method: Any) -> None:
    requests, replies = start_method.Queue(), start_method.Queue()
    first, second = processing.share(Column(b"x" * MIB)), processing.share(Column(b"y" * 5))
    with child(start_method, look, first, requests, replies) as process:
        requests.put(second)
        assert replies.get(timeout=LIMIT) == (first.nbytes, b"xxx", True)
        assert replies.get(timeout=LIMIT) == (second.nbytes, b"yyy", True)
        requests.put(None)
        ended(process)


def share_and_leave(messages: Any) -> None:
    messages.put(processing.share(Column(b"x" * (4 * MIB)), name="left"))


def test_it_outlives_its_maker(start_method: Any) -> None:
    messages = start_method.Queue()
    before = used()
    with child(start_method, share_and_leave, messages) as process:
        ended(process)
    shared = messages.get(timeout=LIMIT)
    assert shared.name == "left"
    column = shared.get()
    del shared
    assert used() >= before + 4 * MIB
    assert bytes(column.data[:2]) == b"xx"
    part = column.data[5:7]
    del column
    assert used() >= before + 4 * MIB
    del part
    until(lambda: used() < before + MIB)


def hold(number: int, shared: Any, ready: Any, go: Any) -> None:
    column = shared.get()
    del shared
    ready.put(len(column.data))
    go.wait()


def test_killed_readers_give_it_back(start_method: Any) -> None:
    ready, go = start_method.Queue(), start_method.Event()
    before = used()
    shared = processing.share(Column(b"x" * (4 * MIB)))
    with children(start_method, 2, hold, shared, ready, go) as processes:
        assert [ready.get(timeout=LIMIT) for _ in processes] == [4 * MIB] * 2
        del shared
        kill(processes[0])
        assert used() >= before + 4 * MIB
        kill(processes[1])
    until(lambda: used() < before + MIB)


def share_and_wait(messages: Any, ready: Flag, go: Flag) -> None:
    shared = processing.share(Column(b"x" * MIB))
    messages.put(shared)
    ready.say()
    go.hear()


def test_a_killed_maker_takes_nothing_along() -> None:
    messages, ready, go = processing.Queue(), Flag(), Flag()
    before = used()
    with child(processing, share_and_wait, messages, ready, go) as process:
        ready.hear()
        kill(process)
    shared = messages.get(timeout=LIMIT)
    assert bytes(shared.get().data[-2:]) == b"xx"
    del shared
    until(lambda: used() < before + MIB // 2)


# ---- numpy and pandas -----------------------------------------------------------------------------------------------


def test_arrays_come_back_as_read_only_views() -> None:
    np = pytest.importorskip("numpy")
    value = {
        "large": np.arange(MIB).reshape(1024, -1),
        "small": np.arange(5),
        "fortran": np.asfortranarray(np.ones((200, 300))),
        "none": np.zeros((0, 2)),
        "text": np.array(["a", "bc"]),
        "structured": np.zeros(500, dtype=[("a", "i4"), ("b", "f8")]),
        "objects": np.array([1, None, "x"], dtype=object),
    }
    shared = processing.share(value)
    before = used()
    first, second = shared.get(), shared.get()
    for name, sent in value.items():
        for got in (first[name], second[name]):
            assert (got.dtype, got.shape, got.flags.f_contiguous) == (
                sent.dtype,
                sent.shape,
                sent.flags.f_contiguous,
            )
            assert np.array_equal(got, sent)
        if sent.dtype != object:
            assert not first[name].flags.writeable
            assert not sent.size or np.shares_memory(first[name], second[name])
            with pytest.raises(ValueError):
                first[name][...] = sent[...]
            with pytest.raises(ValueError):
                first[name].flags.writeable = True
    assert used() == before


def add(shared: Any, replies: Any) -> None:
    array = shared.get()
    replies.put((array[5:10], int(array.sum())))


def test_parts_of_them_are_sent_as_views(start_method: Any) -> None:
    np = pytest.importorskip("numpy")
    replies = start_method.Queue()
    shared = processing.share(np.arange(100_000))
    with child(start_method, add, shared, replies) as process:
        part, total = replies.get(timeout=LIMIT)
        ended(process)
    assert total == sum(range(100_000))
    assert part.tolist() == [5, 6, 7, 8, 9]
    assert not part.flags.writeable
    assert np.shares_memory(part, shared.get())
    with pytest.raises(BufferError):
        shared.close()


def test_arrays_that_are_shared_already_are_referred_to() -> None:
    np = pytest.importorskip("numpy")
    from processing import arrays

    array = arrays.zeros(MIB)
    before = used()
    shared = processing.share([array, array[::2], np.ones(1000)])
    assert used() < before + 20_000
    whole, part, plain = shared.get()
    array[:] = 4
    assert (whole == 4).all() and (part == 4).all() and (plain == 1).all()
    assert whole.flags.writeable and not plain.flags.writeable
    del array, whole, plain
    assert used() > before - MIB
    del part, shared
    assert used() < before - 7 * MIB


def read_frame(shared: Any, replies: Any) -> None:
    frame = shared.get()
    replies.put(float(frame["x"].sum()))


def test_data_frames() -> None:
    pd = pytest.importorskip("pandas")
    np = pytest.importorskip("numpy")
    frame = pd.DataFrame({"x": np.arange(100_000.0), "y": np.arange(100_000)})
    shared = processing.share(frame)
    before = used()
    got = shared.get()
    assert used() == before
    assert got.equals(frame)
    replies = processing.Queue()
    with child(processing, read_frame, shared, replies) as process:
        assert replies.get(timeout=LIMIT) == frame["x"].sum()
        ended(process)


def proportional(field: str) -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))


def open_it(number: int, shared: Any, ready: Any, go: Any) -> None:
    np = pytest.importorskip("numpy")
    before = proportional("Private_Dirty")
    total = int(shared.get().sum(dtype=np.int64))
    ready.put((total, proportional("Private_Dirty") - before))
    go.wait()


def test_eight_readers_do_not_take_more_memory(start_method: Any) -> None:
    np = pytest.importorskip("numpy")
    size = 64 * MIB
    ready, go = start_method.Queue(), start_method.Event()
    data = np.ones(size, "u1")
    gc.collect()
    before = processing.memory_usage()
    shared = processing.share(data)
    with children(start_method, 8, open_it, shared, ready, go) as processes:
        for _ in processes:
            total, private = ready.get(timeout=LIMIT)
            assert total == size
            assert private < 8 * MIB
        after = processing.memory_usage()
        go.set()
        ended(*processes)
    assert size <= after.used - before.used < size + MIB
    assert after.reserved - before.reserved < size + 8 * MIB
