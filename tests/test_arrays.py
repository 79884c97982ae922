"""processing.arrays: made as numpy makes them, sent without a copy, freed with the last view."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, ended, kill, output_of, until
from processing import arrays, reduction

np = pytest.importorskip("numpy")
given = pytest.importorskip("hypothesis").given
from hypothesis import settings, strategies  # noqa: E402

MIB = 1 << 20


def used() -> int:
    gc.collect()
    return processing.memory_usage().used


def address(array: Any) -> int:
    number: int = array.__array_interface__["data"][0]
    return number


def steps(array: Any) -> list[int]:
    """The strides that mean anything."""
    return [step for count, step in zip(array.shape, array.strides, strict=True) if count > 1 and array.size]


@pytest.fixture(params=["queue", "simple queue", "pipe"])
def send(request: pytest.FixtureRequest) -> Any:
    """send(object) -> what a receiver gets, in this process."""
    if request.param == "pipe":
        receiver, sender = processing.Pipe(False)
        with receiver, sender:
            yield lambda value: (sender.send(value), receiver.recv())[1]
        return
    messages = processing.Queue() if request.param == "queue" else processing.SimpleQueue()
    yield lambda value: (messages.put(value), messages.get())[1]


# ---- Making them ----------------------------------------------------------------------------------------------------

MAKERS = {
    "empty": lambda m: m.empty((3, 4), "i4"),
    "zeros": lambda m: m.zeros(5),
    "zeros of a shape": lambda m: m.zeros([2, 3], dtype=np.complex64, order="F"),
    "ones": lambda m: m.ones((2, 2)),
    "full": lambda m: m.full((2, 3), 7),
    "full with a row": lambda m: m.full((2, 3), [1.5, 2, 3], dtype="f4"),
    "array of lists": lambda m: m.array([[1, 2], [3, 4]]),
    "array of an array": lambda m: m.array(np.asfortranarray(np.arange(6).reshape(2, 3))),
    "array with a dtype": lambda m: m.array(range(4), "u2"),
    "array with ndmin": lambda m: m.array(3, ndmin=2),
    "array of text": lambda m: m.array(["ab", "c"]),
    "asarray": lambda m: m.asarray([1.5, 2.5]),
    "copy": lambda m: m.copy(np.arange(10)[::3]),
    "empty_like": lambda m: m.empty_like(np.ones((2, 5), "i1")),
    "zeros_like": lambda m: m.zeros_like(np.ones((2, 5), "i1"), dtype=float),
    "ones_like": lambda m: m.ones_like(np.zeros((2, 5), order="F")),
    "full_like": lambda m: m.full_like(np.zeros(3, "u1"), 9, shape=(2, 2)),
    "no dimension": lambda m: m.zeros(()),
    "no element": lambda m: m.ones((0, 3)),
    "structured": lambda m: m.zeros(4, dtype=[("a", "i4"), ("b", "f8", (2,))]),
    "dates": lambda m: m.array(np.arange("2020-01", "2020-05", dtype="datetime64[M]")),
    "other byte order": lambda m: m.array(np.arange(5, dtype=">i4")),
}


@pytest.mark.parametrize("how", sorted(MAKERS))
def test_as_numpy_makes_them(how: str) -> None:
    made, wanted = MAKERS[how](arrays), MAKERS[how](np)
    assert type(made) is np.ndarray
    assert (made.dtype, made.shape, steps(made)) == (wanted.dtype, wanted.shape, steps(wanted))
    assert "empty" in how or np.array_equal(made, wanted)
    assert made.flags.writeable
    assert arrays.is_shared(made) and not arrays.is_shared(wanted)


def test_large_ones_begin_at_a_page_and_small_ones_at_a_cache_line() -> None:
    assert address(arrays.empty(1 << 20)) % 4096 == 0
    assert address(arrays.empty(3)) % 64 == 0


def test_zeros_are_zeros_where_something_was_before() -> None:
    for size in (100, 50_000):
        for _ in range(5):
            array = arrays.zeros(size)
            assert not array.any()
            array[:] = 1
            del array


def test_asarray_takes_what_is_shared_already() -> None:
    array = arrays.zeros((2, 3))
    assert arrays.asarray(array) is array
    assert arrays.asarray(array, float, "C") is array
    assert arrays.asarray(array, "f4") is not array
    assert arrays.asarray(array, order="F") is not array
    assert arrays.asarray(array[:, :2]).base is not None


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: arrays.empty(3, object), TypeError, "Python objects"),
        (lambda: arrays.array([1, None]), TypeError, "Python objects"),
        (lambda: arrays.zeros(2, dtype=[("a", object)]), TypeError, "Python objects"),
        (lambda: arrays.zeros(-1), ValueError, "negative"),
        (lambda: arrays.zeros((2, -1)), ValueError, "negative"),
        (lambda: arrays.zeros(2.5), TypeError, "shape"),
        (lambda: arrays.zeros(2, "no such type"), TypeError, "no such type"),
        (lambda: arrays.zeros(2, order="X"), ValueError, "order"),
        (lambda: arrays.zeros(1 << 58), MemoryError, "limit"),
        (lambda: arrays.zeros((10**20, 10**20)), MemoryError, "limit"),
        (lambda: arrays.full(3, "text", dtype=float), ValueError, "text"),
        (lambda: arrays.is_shared([1]), TypeError, "list"),
        (lambda: arrays.ArrayMemory(-5), ValueError, "-5"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], text: str) -> None:
    before = used()
    with pytest.raises(error, match=text):
        call()
    assert used() == before


def test_the_limit(tmp_path: Any) -> None:
    text = """
        import processing
        from processing import arrays
        kept = [arrays.zeros(1 << 20)]
        try:
            while True:
                kept.append(arrays.ones(1 << 20))
        except MemoryError as error:
            print("limit of 64.0 MiB" in str(error), len(kept) >= 6)
        del kept[3:]
        print(int(arrays.ones(1 << 20).sum()), int(kept[2].sum()))
    """
    assert output_of(tmp_path, text, PROCESSING_MEMORY_LIMIT="64M") == ["True True", "1048576 1048576"]


def test_without_numpy(tmp_path: Any) -> None:
    text = """
        import sys
        sys.modules["numpy"] = None
        from processing import arrays
        print(bytes(arrays.ArrayMemory(3)))
        try:
            arrays.zeros(3)
        except ImportError as error:
            print(error)
    """
    lines = output_of(tmp_path, text)
    assert lines == [r"b'\x00\x00\x00'", "processing.arrays needs numpy: pip install processing[numpy]"]


def test_the_memory_by_itself() -> None:
    memory = arrays.ArrayMemory(100, name="pixels")
    assert repr(memory) == "<ArrayMemory(100 bytes) name='pixels'>"
    assert (memory.nbytes, memory.statistics().nbytes, memory.statistics().holders) == (100, 100, 1)
    view = memoryview(memory)
    with pytest.raises(BufferError):
        memory._close()
    view.release()
    memory._close()
    assert repr(memory) == "<ArrayMemory(closed)>"
    for what in (lambda: memory.nbytes, lambda: memory.address, memory.statistics):
        with pytest.raises(ValueError, match="closed"):
            what()
    with pytest.raises(BufferError):
        memoryview(memory)


def test_the_memory_cannot_be_closed_under_an_array(send: Any) -> None:
    array = arrays.zeros(10)
    for looks in (array, send(array)):
        with pytest.raises(BufferError):
            arrays._memory_of(looks)[0]._close()


# ---- Sending --------------------------------------------------------------------------------------------------------

VIEWS = {
    "all of it": lambda a: a,
    "a slice": lambda a: a[1:3],
    "every other": lambda a: a[::2],
    "backwards": lambda a: a[::-1, ::-2],
    "columns": lambda a: a[:, 3:5],
    "transposed": lambda a: a.T,
    "one element": lambda a: a[1, 2, ...],
    "diagonal": lambda a: np.diagonal(a),
    "broadcast": lambda a: np.broadcast_to(a, (3, *a.shape)),
    "a new axis": lambda a: a[:, None],
    "reshaped": lambda a: a.reshape(-1, 3),
    "other dtype": lambda a: a.view("u1"),
    "a field": lambda a: a.view([("x", "i4"), ("y", "i4")])["y"],
    "structured": lambda a: a.view([("x", "i4"), ("y", "i4")]),
    "other byte order": lambda a: a.view(">i8"),
    "nothing of it": lambda a: a[2:2],
    "sliding window": lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
    "through a memoryview": lambda a: np.asarray(memoryview(a)),
    "through a subclass": lambda a: np.asarray(a.view(np.recarray)),
}


@pytest.mark.parametrize("how", sorted(VIEWS))
@pytest.mark.parametrize("rows", [4, 400])
def test_a_view_arrives_as_that_view(send: Any, how: str, rows: int) -> None:
    array = arrays.array(np.arange(rows * 6).reshape(rows, 6))
    sent = VIEWS[how](array)
    before = used()
    got = send(sent)
    assert type(got) is np.ndarray
    assert (got.dtype, got.shape, steps(got)) == (sent.dtype, sent.shape, steps(sent))
    assert got.flags.writeable == sent.flags.writeable
    assert address(got) == address(sent)
    assert np.array_equal(got, sent)
    assert used() <= before + 16384  # the message is gone, nothing was copied
    if got.size and got.flags.writeable and got.dtype.names is None:
        got[...] = 77
        assert (sent == 77).all()


def test_read_only_stays_read_only(send: Any) -> None:
    array = arrays.ones(1000)
    view = array[:]
    view.flags.writeable = False
    got = send(view)
    with pytest.raises(ValueError):
        got[0] = 5
    array[0] = 9
    assert got[0] == 9


@dataclass
class Frame:
    pixels: Any
    parts: tuple[Any, ...]
    more: dict[str, Any]


def test_inside_of_other_things(send: Any) -> None:
    array, plain = arrays.zeros((100, 100)), np.arange(10_000)
    got = send(Frame(array, (array[::2], array[5]), {"same": array, "plain": plain}))
    assert got.pixels is got.more["same"]
    array[:] = 3
    assert (got.pixels == 3).all() and (got.parts[0] == 3).all() and (got.parts[1] == 3).all()
    plain[:] = 0
    assert np.array_equal(got.more["plain"], np.arange(10_000))


def test_what_is_not_in_shared_memory_is_copied_as_before(send: Any) -> None:
    arrays.zeros(1)  # numpy's arrays are known now
    masked = np.ma.masked_array(np.arange(5), [0, 1, 0, 0, 1])
    for sent in (np.arange(10), np.arange(20_000)[::2], np.array([None, 1]), np.float64(3), masked):
        got = send(sent)
        assert type(got) is type(sent)
        assert np.array_equal(got, sent)
    got = send(np.arange(20_000))
    assert not arrays.is_shared(got)
    second = send(got)
    got[0] = 5
    assert second[0] == 0


def test_a_subclass_is_copied_and_stays_what_it_is(send: Any) -> None:
    array = arrays.zeros(3, dtype=[("x", "i4"), ("y", "f8")])
    got = send(array.view(np.recarray))
    assert type(got) is np.recarray
    array["x"] = 5
    assert got.x.tolist() == [0, 0, 0]


def test_sent_on_and_on(send: Any) -> None:
    array = arrays.zeros(1000)
    part = send(send(array)[10:20])
    del array
    gc.collect()
    again = send(part)
    part[:] = 4
    assert address(again) == address(part)
    assert again.tolist() == [4] * 10


def test_elsewhere_pickled_means_copied() -> None:
    array = arrays.zeros(5)
    for text in (
        pickle.dumps(array),
        pickle.dumps(array, 2),
        reduction.ForkingPickler.dumps(array),
        reduction.ForkingPickler.dumps(array, 2),
    ):
        got = pickle.loads(text)
        got[0] = 1
        assert not array.any()
    buffers: list[Any] = []
    pickle.loads(pickle.dumps(array, 5, buffer_callback=buffers.append), buffers=buffers)
    for made in (copy.copy(array), copy.deepcopy(array), array.copy()):
        made[0] = 1
        assert not array.any() and not arrays.is_shared(made)


def test_other_types_of_the_arena_travel_along(send: Any) -> None:
    lock, array = processing.Lock(), arrays.zeros(3)
    got_lock, got_array, got_queue = send([lock, array, processing.Queue()])
    with got_lock:
        assert lock.locked()
    got_array[1] = 5
    assert array[1] == 5
    got_queue.put(array)
    assert address(got_queue.get()) == address(array)


def test_batches() -> None:
    array = arrays.array(np.arange(1000))
    messages = processing.Queue()
    messages.put_many(array[number : number + 10] for number in range(50))
    got: list[Any] = []
    while len(got) < 50:
        got += messages.get_many(timeout=LIMIT)
    assert [address(part) - address(array) for part in got] == [8 * number for number in range(50)]


# ---- Between processes ----------------------------------------------------------------------------------------------


def write_squares(array: Any, more: dict[str, Any], replies: Any) -> None:
    array[...] = np.arange(array.size).reshape(array.shape) ** 2
    more["strided"][...] = -1
    replies.put((array[-1], more["strided"].flags.writeable, more["read-only"].flags.writeable))


def test_as_arguments(start_method: Any) -> None:
    array, other, replies = arrays.zeros((50, 20)), arrays.zeros((6, 6), order="F"), start_method.Queue()
    read_only = arrays.zeros(3)
    read_only.flags.writeable = False
    more = {"strided": other[::2, ::3], "read-only": read_only}
    with child(start_method, write_squares, array, more, replies) as process:
        last, *writeable = replies.get(timeout=LIMIT)
        ended(process)
    assert np.array_equal(array.ravel(), np.arange(1000) ** 2)
    assert (other[::2, ::3] == -1).all() and other.sum() == -6
    assert address(last) == address(array[-1])
    assert writeable == [True, False]


def double(requests: Any, replies: Any) -> None:
    while (array := requests.get(timeout=LIMIT)) is not None:
        array *= 2
        replies.put(array)


def test_there_and_back(start_method: Any) -> None:
    requests, replies = start_method.Queue(), start_method.SimpleQueue()
    array = arrays.array(np.arange(200_000).reshape(2, -1))
    with child(start_method, double, requests, replies) as process:
        for view in (array, array[1], array[:, ::7], array[:, :0], array.T):
            expected = view * 2
            requests.put(view)
            got = replies.get()
            assert np.array_equal(view, expected)
            assert address(got) == address(view) and steps(got) == steps(view)
        requests.put(None)
        ended(process)


def make_and_leave(messages: Any, size: int) -> None:
    messages.put(arrays.array(np.arange(size))[::2])


def test_the_maker_is_gone_before_anyone_looks(start_method: Any) -> None:
    messages = start_method.Queue()
    before = used()
    with child(start_method, make_and_leave, messages, 1_000_000) as process:
        ended(process)
    assert processing.memory_usage().used >= before + 8_000_000
    got = messages.get(timeout=LIMIT)
    assert np.array_equal(got, np.arange(0, 1_000_000, 2))
    del got
    until(lambda: used() < before + MIB)


def hold(messages: Any, ready: Any) -> None:
    kept = messages.get(timeout=LIMIT)
    ready.put(int(kept[0]))
    messages.get()
    assert kept is not None


def test_a_killed_holder_gives_its_memory_back(start_method: Any) -> None:
    messages, ready = start_method.Queue(), start_method.Queue()
    before = used()
    with child(start_method, hold, messages, ready) as process:
        messages.put(arrays.ones(MIB))
        assert ready.get(timeout=LIMIT) == 1
        assert used() >= before + 8 * MIB
        kill(process)
    until(lambda: used() < before + MIB)


def hand_over(messages: Any, ready: Flag, go: Flag) -> None:
    array = arrays.full(MIB, 5, dtype="u1")
    messages.put(array[10:20])
    ready.say()
    go.hear()
    del array


def test_a_killed_sender_takes_nothing_along() -> None:
    messages, ready, go = processing.Queue(), Flag(), Flag()
    before = used()
    with child(processing, hand_over, messages, ready, go) as process:
        ready.hear()
        kill(process)
    part = messages.get(timeout=LIMIT)
    assert used() >= before + MIB  # the whole array lives as long as any part is looked at
    assert part.tolist() == [5] * 10
    del part
    until(lambda: used() < before + MIB // 2)


def test_in_a_message_that_nobody_takes() -> None:
    before = used()
    messages = processing.Queue()
    messages.put(arrays.zeros(MIB))
    assert used() > before + 8 * MIB
    del messages
    until(lambda: used() < before + MIB)


def test_a_view_outlives_all_else() -> None:
    before = used()
    messages = processing.Queue()
    messages.put(arrays.array(np.arange(MIB)))
    part = messages.get()[1000:1010:3]
    del messages
    gc.collect()
    filler = [arrays.zeros(MIB // 4) for _ in range(5)]
    assert part.tolist() == [1000, 1003, 1006, 1009]
    assert address(filler[0]) != address(part)
    del part, filler
    assert used() < before + MIB


def write_in_fork(array: Any) -> None:
    array[os.getpid() % 10] += 1
    os._exit(0)


def test_a_raw_fork_has_it_too() -> None:
    array = arrays.zeros(10)
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            write_in_fork(array)
        assert os.waitpid(pid, 0)[1] == 0
    assert array.sum() == 3


def fill_row(number: int, rows: Any, lock: Any) -> None:
    for _ in range(500):
        rows[number] += 1
        with lock:
            rows[-1] += 1


def test_several_writers_and_a_lock(start_method: Any) -> None:
    rows, lock = arrays.zeros((4, 8), "i8"), start_method.Lock()
    processes = [start_method.Process(target=fill_row, args=(number, rows, lock)) for number in range(3)]
    for process in processes:
        process.start()
    ended(*processes)
    for process in processes:
        process.close()
    assert (rows[:3] == 500).all() and (rows[3] == 1500).all()


# ---- Any slice ------------------------------------------------------------------------------------------------------


def slices_of(length: int) -> Any:
    place = strategies.one_of(strategies.none(), strategies.integers(-length - 2, length + 2))
    step = strategies.one_of(strategies.none(), strategies.integers(-3, 3).filter(bool))
    return strategies.one_of(
        strategies.builds(slice, place, place, step), strategies.integers(-length, length - 1)
    )


@settings(max_examples=300)
@given(
    order=strategies.sampled_from("CF"),
    dtype=strategies.sampled_from(["u1", "i4", "f8", ">i2", "c16"]),
    index=strategies.tuples(slices_of(5), slices_of(7), slices_of(3)),
    axes=strategies.permutations([0, 1, 2]),
)
def test_any_slice(order: Any, dtype: str, index: tuple[Any, ...], axes: list[int]) -> None:
    shape = (5, 7, 3)
    array = arrays.zeros(shape, dtype, order)
    array[...] = np.arange(105).reshape(shape)
    part = array.transpose(axes).transpose(np.argsort(axes))[index]
    messages = processing.SimpleQueue()
    messages.put(part)
    got = messages.get()
    if not isinstance(part, np.ndarray):  # one number
        assert got == part
        return
    assert (got.shape, got.dtype) == (part.shape, part.dtype)
    assert np.array_equal(got, part)
    assert arrays.is_shared(got)
    got[...] = 111
    assert (part == 111).all()
    assert (array == 111).sum() == part.size
