"""processing.arrays: numpy arrays in shared memory, which travel as views; their lives, and numpy's own functions as
oracles."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, children, ended, kill, output_of, until

pytestmark = pytest.mark.ends

np = pytest.importorskip("numpy")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from processing import arrays  # noqa: E402
from processing.reduction import ForkingPickler  # noqa: E402

MIB = 1 << 20

VIEWS = {
    "whole": lambda a: a,
    "a slice": lambda a: a[1:3],
    "every other": lambda a: a[::2, 1::3],
    "backwards": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "a column": lambda a: a[:, 2],
    "a diagonal": lambda a: a.diagonal(),
    "one element": lambda a: a[1:2, 1:2],
    "none of it": lambda a: a[2:2],
    "the end": lambda a: a[4:],
    "more dimensions": lambda a: a[np.newaxis, :, np.newaxis],
    "another dtype": lambda a: a.view("u1"),
    "flat": lambda a: a.reshape(-1),
    "broadcast": lambda a: np.broadcast_to(a, (2, *a.shape)),
    "a moving window": lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
    "from a buffer": lambda a: np.frombuffer(memoryview(a.reshape(-1)), a.dtype),
    "of a memoryview": lambda a: np.asarray(memoryview(a)),
}

DTYPES = {
    "bool": "?",
    "bytes": "u1",
    "half": "f2",
    "complex": "c16",
    "long double": "g",
    "other byte order": ">i4",
    "text": "U5",
    "strings of bytes": "S7",
    "void": "V3",
    "dates": "datetime64[D]",
    "seconds": "timedelta64[s]",
    "structured": [("a", "i4"), ("b", "f8", (2,)), ("c", "S3")],
    "aligned": np.dtype([("a", "u1"), ("b", "f8")], align=True),
}


def same(one: Any, other: Any) -> None:
    """Both show the same memory in the same way."""
    assert type(one) is type(other) is np.ndarray
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    steps = [
        (a, b) for a, b, n in zip(one.strides, other.strides, one.shape, strict=True) if n > 1 and one.size
    ]
    assert all(a == b for a, b in steps)  # of a dimension with one element they mean nothing
    assert one.flags.writeable is other.flags.writeable
    assert not one.size or one.__array_interface__["data"] == other.__array_interface__["data"]


def used() -> int:
    gc.collect()
    return processing.memory_usage().used


def round_trip(value: Any) -> Any:
    messages = processing.SimpleQueue()
    messages.put(value)
    return messages.get()


# ---- As numpy's -----------------------------------------------------------------------------------------------------

shapes = st.one_of(st.integers(0, 5), st.lists(st.integers(0, 4), max_size=4), st.tuples(st.integers(0, 4)))
dtypes = st.sampled_from(["?", "i1", ">i2", "u4", "i8", "f4", "f8", "c8", "S3", "U2", "M8[s]", "i4,f8", None])
numbers = st.sampled_from(["i2", ">i4", "u8", "f4", "f8", "c16"])
orders = st.sampled_from(["C", "F"])
any_order = st.sampled_from(["C", "F", "A", "K"])


def agree(ours: Any, theirs: Any, values: bool = True) -> None:
    assert type(ours) is np.ndarray
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert ours.flags.writeable
    assert arrays.is_shared(ours)
    if ours.size:
        assert ours.strides == theirs.strides
    if values:
        assert np.array_equal(ours, theirs)


@given(shapes, dtypes, orders)
def test_made_as_by_numpy(shape: Any, dtype: Any, order: Any) -> None:
    agree(arrays.zeros(shape, dtype, order), np.zeros(shape, dtype, order))
    agree(arrays.empty(shape, dtype, order), np.empty(shape, dtype, order), values=False)
    if dtype != "M8[s]":  # which 1 is not
        agree(arrays.ones(shape, dtype, order), np.ones(shape, dtype, order))


@pytest.mark.filterwarnings("ignore:Casting complex values")
@given(shapes, st.one_of(st.none(), numbers), orders, st.sampled_from([3, 2.5, True, 1 + 2j, -1]))
def test_filled_as_by_numpy(shape: Any, dtype: Any, order: Any, value: Any) -> None:
    with np.errstate(all="ignore"):
        try:
            theirs = np.full(shape, value, dtype, order)
        except (OverflowError, TypeError) as error:
            with pytest.raises(type(error)):
                arrays.full(shape, value, dtype, order)
        else:
            agree(arrays.full(shape, value, dtype, order), theirs)


@st.composite
def some_arrays(draw: Any) -> Any:
    """Arrays of numpy with any strides."""
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    made = np.arange(int(np.prod(shape)), dtype=draw(numbers)).reshape(shape, order=draw(orders))
    if draw(st.booleans()):
        made = made.T
    return made[tuple(draw(st.slices(length)) for length in made.shape)]


@given(some_arrays(), st.one_of(st.none(), numbers), any_order, st.integers(0, 4))
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_copied_as_by_numpy(source: Any, dtype: Any, order: Any, ndmin: int) -> None:
    made = arrays.array(source, dtype, order=order, ndmin=ndmin)
    theirs = np.array(source, dtype, order=order, ndmin=ndmin)
    assert (made.shape, made.dtype) == (theirs.shape, theirs.dtype)
    assert np.array_equal(made, theirs)
    if order in ("C", "F"):
        agree(made, theirs)
    assert made.flags.c_contiguous or made.flags.f_contiguous
    assert np.array_equal(arrays.copy(source, order), source)


@given(some_arrays(), st.one_of(st.none(), numbers), orders, st.one_of(st.none(), shapes))
def test_made_like_others(source: Any, dtype: Any, order: Any, shape: Any) -> None:
    more = {} if shape is None else {"shape": shape}
    agree(arrays.zeros_like(source, dtype, order, **more), np.zeros_like(source, dtype, order, **more))
    agree(arrays.ones_like(source, dtype, order, **more), np.ones_like(source, dtype, order, **more))
    agree(arrays.full_like(source, 3, dtype, order, **more), np.full_like(source, 3, dtype, order, **more))
    ours = arrays.empty_like(source, dtype, order, **more)
    agree(ours, np.empty_like(source, dtype, order, **more), values=False)


@pytest.mark.parametrize(
    "what", [[1, 2, 3], [[1.5], [2]], 5, "text", [b"a", b"bcd"], range(4), (True, False)]
)
def test_of_other_things(what: Any) -> None:
    agree(arrays.array(what), np.array(what))
    agree(arrays.asarray(what), np.asarray(what))


def test_asarray_copies_only_what_is_not_shared() -> None:
    ordinary = np.arange(6.0).reshape(2, 3)
    made = arrays.asarray(ordinary)
    assert arrays.is_shared(made) and np.array_equal(made, ordinary)
    assert arrays.asarray(made) is made
    assert arrays.asarray(made, "f8", order="C") is made
    view = made[:, 1:]
    assert arrays.asarray(view) is view
    assert arrays.asarray(made, "f4") is not made
    assert arrays.asarray(made, order="F").flags.f_contiguous


def test_what_is_shared() -> None:
    made = arrays.zeros((4, 4))
    assert arrays.is_shared(made) and arrays.is_shared(made[1:, ::2])
    assert not arrays.is_shared(made + 1)
    assert not arrays.is_shared(np.zeros(3))
    assert not arrays.is_shared(made.view(np.recarray))
    with pytest.raises(TypeError, match="list"):
        arrays.is_shared([1])  # type: ignore[arg-type]


def test_large_ones_begin_at_a_page_and_small_ones_at_a_cache_line() -> None:
    assert arrays.empty(MIB, "u1").__array_interface__["data"][0] % 4096 == 0
    for _ in range(5):
        assert arrays.empty(3, "u1").__array_interface__["data"][0] % 64 == 0


def test_zeros_are_zeros_in_memory_that_was_used() -> None:
    for size in (10, 1000, 100_000, 3 * MIB):
        arrays.full(size, 255, "u1")
        gc.collect()
        assert not arrays.zeros(size, "u1").any()


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "text"),
    [
        (3, object, TypeError, "Python objects"),
        (3, [("a", "i4"), ("b", "O")], TypeError, "Python objects"),
        (-1, "f8", ValueError, "negative"),
        ((3, -1), "f8", ValueError, "negative"),
        (2.5, "f8", TypeError, "2.5"),
        ((2, 2.5), "f8", TypeError, "float"),
        (None, "f8", TypeError, "shape"),
        ("ab", "f8", TypeError, "str"),
        (3, "no such type", TypeError, "no such type"),
        (1 << 62, "f8", MemoryError, "ArrayMemory"),
        (10**30, "u1", MemoryError, "ArrayMemory"),
        ((1,) * 70, "u1", ValueError, "70|dimension"),
    ],
)
def test_bad_shapes_and_dtypes(shape: Any, dtype: Any, error: Any, text: str) -> None:
    before = used()
    for make in (arrays.zeros, arrays.empty, arrays.ones):
        with pytest.raises(error, match=text):
            make(shape, dtype)
    assert used() == before


def test_bad_orders() -> None:
    for order in ("K", "A", "X", None, 5):
        with pytest.raises(ValueError, match="order"):
            arrays.zeros(3, order=order)  # type: ignore[arg-type]


def test_bad_values() -> None:
    with pytest.raises(ValueError):
        arrays.full((2, 3), [1, 2])
    with pytest.raises(ValueError):
        arrays.array([[1, 2], [3]])
    with pytest.raises(TypeError, match="Python objects"):
        arrays.array([1, None])
    with pytest.raises(ValueError, match="-5"):
        arrays.ArrayMemory(-5)


def test_at_the_memory_limit(tmp_path: Path) -> None:
    program = """
import gc
import processing
from processing import arrays

def main():
    processing.set_memory_limit(24 << 20)
    kept = arrays.zeros(1000)
    for make in (arrays.zeros, arrays.empty):
        try:
            make(30 << 20, "u1")
        except MemoryError as error:
            print("24.0 MiB" in str(error), "ArrayMemory" in str(error))
    for turn in range(20):
        part = arrays.ones(2 << 20, "u1")
        assert part.all()
    more = []
    try:
        while True:
            more.append(arrays.empty(1 << 20, "u1"))
    except MemoryError:
        print(15 < len(more) <= 24)
    more.clear()
    gc.collect()
    print(arrays.zeros(15 << 20, "u1").any(), kept.any())

if __name__ == "__main__":
    main()
"""
    assert output_of(tmp_path, program) == ["True True", "True True", "True", "False False"]


# ---- As views, in one process ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Holder:
    name: str
    picture: Any


@pytest.fixture(params=["queue", "pipe", "simple queue", "joinable queue", "buffered queue", "dict", "list"])
def channel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """(put, get)"""
    kind = request.param
    if kind == "pipe":
        receiver, sender = processing.Pipe(False)
        yield sender.send, receiver.recv
        receiver.close()
        sender.close()
    elif kind == "dict":
        mapping = processing.LocalManager().dict()
        yield lambda value: mapping.__setitem__("a", value), lambda: mapping["a"]
    elif kind == "list":
        sequence = processing.LocalManager().list()
        yield sequence.append, sequence.pop
    else:
        name = {"queue": "Queue", "simple queue": "SimpleQueue", "joinable queue": "JoinableQueue"}
        messages = getattr(processing, name.get(kind, "BufferedQueue"))()
        yield messages.put, messages.get


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_views_arrive_as_views(channel: Any, view: str) -> None:
    put, get = channel
    sent = VIEWS[view](arrays.array(np.arange(24.0).reshape(4, 6)))
    put(sent)
    same(get(), sent)


@pytest.mark.parametrize("what", sorted(DTYPES))
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_arrive(what: str, order: Any) -> None:
    for shape in ((3, 4), (), (0, 5), (1,)):
        sent = arrays.zeros(shape, DTYPES[what], order)
        same(round_trip(sent), sent)
        same(round_trip([sent])[0], sent)
        same(round_trip([sent[..., :0]] if sent.ndim else [sent])[0], sent[..., :0] if sent.ndim else sent)


def test_a_field_of_a_structured_array() -> None:
    made = arrays.zeros(5, [("a", "i4"), ("b", "f8")])
    got = round_trip(made["b"])
    got[3] = 7
    assert made[3].item() == (0, 7.0)


def test_inside_of_other_things(channel: Any) -> None:
    put, get = channel
    made = arrays.zeros((10, 10))
    # A tuple: dicts and lists become containers themselves where they are put into one.
    put(({"a": [made, (made[1], made.T)]}, Holder("one", made), {5: made}))
    first, holder, third = get()
    for got, sent in (
        (first["a"][0], made),
        (first["a"][1][0], made[1]),
        (first["a"][1][1], made.T),
        (holder.picture, made),
        (third[5], made),
    ):
        same(got, sent)
    assert holder.picture is third[5]  # one array among the parts is one array there


def test_read_only_arrays_stay_read_only(channel: Any) -> None:
    put, get = channel
    made = arrays.zeros(1000)
    made.flags.writeable = False
    put(made)
    got = get()
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    same(round_trip(got), made)


def test_ordinary_arrays_are_copied_as_before(channel: Any) -> None:
    put, get = channel
    arrays.zeros(1)  # from here on the package knows numpy's arrays
    dates = np.arange("2020-01-01", "2020-01-02", dtype="datetime64[s]")
    for sent in (
        np.arange(10),
        np.arange(100_000),
        np.asfortranarray(np.ones((300, 300))),
        np.arange(90_000).reshape(300, 300)[::2, ::-3],
        np.array([1, None]),
        dates,
        dates[:5],
        dates[::2].astype(">M8[s]"),
    ):
        put(sent)
        got = get()
        assert got.dtype == sent.dtype
        assert np.array_equal(got, sent)
        assert got.flags.f_contiguous or not sent.flags.f_contiguous
        assert not np.shares_memory(got, sent)


class Marked(np.ndarray):  # type: ignore[misc]
    """A subclass with nothing of its own."""


def test_subclasses_are_copied_as_before() -> None:
    made = arrays.array([1.0, 2.0, 3.0])
    for kind in (Marked, np.recarray):
        got = round_trip(made.view(kind))
        assert type(got) is kind
        assert np.array_equal(got, made) and not np.shares_memory(got, made)
    masked = round_trip(np.ma.masked_array(made, [True, False, False]))
    assert masked.tolist() == [None, 2.0, 3.0]


def test_a_view_of_a_view_of_a_subclass() -> None:
    made = arrays.array([1.0, 2.0, 3.0])
    back = made.view(Marked)[1:].view(np.ndarray)
    same(round_trip(back), back)


def test_results_of_arithmetic_are_ordinary() -> None:
    made = arrays.ones(1000)
    assert not np.shares_memory(round_trip(made * 2), made)


def test_plain_pickle_makes_a_copy() -> None:
    """A file outlives the program: what is in it cannot be a view."""
    made = arrays.array(np.arange(1000))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for dumps in (pickle.dumps, ForkingPickler.dumps):
            got = pickle.loads(dumps(made, protocol))
            assert np.array_equal(got, made) and not arrays.is_shared(got)
            got[0] = 5
    assert made[0] == 0
    for got in (copy.copy(made), copy.deepcopy([made])[0]):
        assert np.array_equal(got, made) and not arrays.is_shared(got)


def test_received_arrays_are_sent_on(channel: Any) -> None:
    put, get = channel
    made = arrays.zeros(100)
    put(made[10:])
    first = get()
    put(first[::3])
    second = get()
    second[0] = 5
    assert made[10] == 5


# ---- The memory -----------------------------------------------------------------------------------------------------


def test_views_keep_the_memory() -> None:
    """Its handle is not closed under them."""
    made = arrays.zeros(1000)
    memory = made.base.base.obj
    assert isinstance(memory, arrays.ArrayMemory)
    part = round_trip(made)[10:20]
    del made
    with pytest.raises(BufferError):
        memory._close()
    part[:] = 3
    assert part.sum() == 30
    del part
    memory._close()
    assert repr(memory) == "<ArrayMemory(closed)>"
    for use in (lambda: memory.nbytes, lambda: memory.address, memory.statistics):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(BufferError, match="closed"):
        memoryview(memory)


def test_memory_is_freed_with_the_last_view() -> None:
    before = used()
    made = arrays.zeros(4 * MIB, "u1")
    part = made[10:20]
    messages = processing.Queue()
    messages.put(made[5:])
    del made, part
    assert used() >= before + 4 * MIB
    got = messages.get()[100:101]
    del messages
    assert used() >= before + 4 * MIB
    del got
    assert used() == before


def test_a_message_that_nobody_took_out_frees_it() -> None:
    before = used()
    messages = processing.Queue()
    messages.put([arrays.zeros(4 * MIB, "u1")] * 2)
    messages.put(arrays.zeros(4 * MIB, "u1")[::2])
    assert used() >= before + 8 * MIB
    del messages
    assert used() == before


def test_what_failed_to_be_sent_keeps_nothing() -> None:
    before = used()
    messages = processing.Queue()
    with pytest.raises(TypeError):
        messages.put([arrays.zeros(MIB, "u1"), (n for n in ())])
    del messages
    assert used() == before


def test_memory_of_ones_own() -> None:
    memory = arrays.ArrayMemory(100, name="mine")
    assert (memory.nbytes, memory.name) == (100, "mine")
    assert repr(memory) == "<ArrayMemory(100 bytes) name='mine'>"
    assert memory.statistics().nbytes == 100
    assert memory.statistics().holders == 1
    with memoryview(memory) as view:
        assert bytes(view) == bytes(100)
        view[3] = 5
        assert memory.address % 64 == 0
    other = round_trip(memory)
    assert other is memory  # one handle per process
    view = np.frombuffer(memory, "u1")
    same(round_trip(view), view)
    assert view[3] == 5


def test_holders_are_counted() -> None:
    memory = arrays.ArrayMemory(10)
    messages = processing.Queue()
    messages.put(memory)
    assert memory.statistics().holders == 2
    messages.get()
    assert memory.statistics().holders == 1


# ---- Between processes ----------------------------------------------------------------------------------------------


def add_one(requests: Any, replies: Any) -> None:
    """Adds one to whatever arrives, in place, and sends it back."""
    while (array := requests.get(timeout=LIMIT)) is not None:
        if array.flags.writeable:
            array += 1
        replies.put((arrays.is_shared(array), array))


def test_other_processes_see_the_same_memory(start_method: Any) -> None:
    requests, replies = start_method.Queue(), start_method.Queue()
    with child(start_method, add_one, requests, replies) as process:
        for name, view in VIEWS.items():
            if name in ("broadcast", "a diagonal", "a moving window", "another dtype"):
                continue  # read-only in numpy, or no numbers
            made = arrays.array(np.arange(24).reshape(4, 6))
            expected = np.arange(24).reshape(4, 6)
            VIEWS[name](expected)[...] += 1
            sent = view(made)
            requests.put(sent)
            shared, got = replies.get(timeout=LIMIT)
            assert shared
            same(got, sent)
            assert np.array_equal(made, expected), name
        sent = arrays.zeros(10)
        sent.flags.writeable = False
        requests.put(sent)
        same(replies.get(timeout=LIMIT)[1], sent)
        requests.put(None)
        ended(process)


def fill_from_arguments(whole: Any, part: Any, holder: Any, sender: Any) -> None:
    whole[0] = 1
    part[0] = 2
    holder["x"][0].picture[2] = 3
    sender.send(whole[::-1])


def test_arguments_of_a_process(start_method: Any) -> None:
    made = arrays.zeros(10, "i4")
    receiver, sender = start_method.Pipe(False)
    with child(
        start_method, fill_from_arguments, made, made[1:], {"x": [Holder("h", made)]}, sender
    ) as process:
        ended(process)
        assert made.tolist() == [1, 2, 3, 0, 0, 0, 0, 0, 0, 0]
        same(receiver.recv(), made[::-1])
    receiver.close()
    sender.close()


def make_and_leave(messages: Any) -> None:
    made = arrays.full((512, 1024), 7, "u4")
    messages.put(made[::2])


def test_arrays_outlive_their_maker(start_method: Any) -> None:
    before = used()
    messages = start_method.Queue()
    with child(start_method, make_and_leave, messages) as process:
        ended(process)
    got = messages.get(timeout=LIMIT)
    messages.close()
    del messages
    gc.collect()
    arrays.zeros((512, 1024), "u4")
    assert got.shape == (256, 1024) and (got == 7).all()
    assert used() >= before + 2 * MIB
    del got
    assert used() < before + MIB


def hold(arrays_in: Any, said: Any) -> None:
    kept = arrays_in.get(timeout=LIMIT)
    said.put(kept.sum())
    arrays_in.get(timeout=LIMIT)


def test_the_memory_of_a_killed_holder_is_freed(start_method: Any) -> None:
    messages, said = start_method.Queue(), start_method.Queue()
    before = used()
    with child(start_method, hold, messages, said) as process:
        messages.put(arrays.ones(8 * MIB, "u1"))
        assert said.get(timeout=LIMIT) == 8 * MIB
        assert used() >= before + 8 * MIB  # the holder's alone
        kill(process)
    until(lambda: used() < before + MIB)


def test_a_killed_holder_takes_nothing_from_the_others(start_method: Any) -> None:
    messages, said = start_method.Queue(), start_method.Queue()
    made = arrays.ones(8 * MIB, "u1")
    with child(start_method, hold, messages, said) as process:
        messages.put(made)
        said.get(timeout=LIMIT)
        kill(process)
    made[5] = 0
    assert made.sum() == 8 * MIB - 1


def killed_maker(messages: Any) -> None:
    made = arrays.full(8 * MIB, 3, "u1")
    messages.put(made[: 4 * MIB])
    messages.put("go")
    processing.Event().wait(LIMIT)


def test_arrays_outlive_a_maker_that_was_killed(start_method: Any) -> None:
    messages = start_method.Queue()
    with child(start_method, killed_maker, messages) as process:
        got = messages.get(timeout=LIMIT)
        assert messages.get(timeout=LIMIT) == "go"
        kill(process)
    processing.Lock()
    assert (got == 3).all()


def pass_on(number: int, inbox: Any, outbox: Any) -> None:
    array = inbox.get(timeout=LIMIT)
    array[number] = number + 1
    outbox.put(array[:])


def test_passed_on_from_process_to_process() -> None:
    """Views of views; each process is gone before the next one looks."""
    made = arrays.zeros(5)
    queues = [processing.Queue() for _ in range(5)]
    queues[0].put(made)
    for number in range(4):
        with child(processing, pass_on, number, queues[number], queues[number + 1]) as process:
            ended(process)
    got = queues[4].get(timeout=LIMIT)
    same(got, made)
    assert made.tolist() == [1, 2, 3, 4, 0]


inherited: Any = None


def write_inherited(replies: Any) -> None:
    inherited[0] = 5
    replies.put(inherited[1:])


def test_inherited_by_fork() -> None:
    """A child that has it without being sent it shares it, and keeps it when the parent drops it."""
    global inherited
    before = used()
    inherited = arrays.zeros(MIB, "u1")
    view = inherited[:10]
    replies = processing.Queue()
    with child(processing.get_context("fork"), write_inherited, replies) as process:
        got = replies.get(timeout=LIMIT)
        assert view[0] == 5
        got[0] = 7
        assert inherited[1] == 7
        ended(process)
    inherited = None
    del view, got
    until(lambda: used() < before + MIB // 2)


def test_several_threads_send() -> None:
    made = arrays.zeros((8, 100))
    messages = processing.Queue()

    def send(row: Any) -> None:
        for _ in range(200):
            messages.put(row)
            messages.put([row[::2]])

    threads = [threading.Thread(target=send, args=(row,)) for row in made]
    for thread in threads:
        thread.start()
    for _ in range(8 * 200 * 2):
        got = messages.get(timeout=LIMIT)
        if type(got) is list:
            got[0][0] += 1
        else:
            got[1] += 1
    for thread in threads:
        thread.join()
    assert (made[:, :3] == [200, 200, 0]).all()


def test_other_channels_copy() -> None:
    """The kernel's queue carries bytes alone, and the standard library knows nothing of shared arrays."""
    import multiprocessing

    made = arrays.array([1.0, 2.0, 3.0])
    kernel = processing.PosixQueue()
    kernel.put(made[::2])
    theirs = multiprocessing.SimpleQueue()
    theirs.put(made[::2])
    for got in (kernel.get(timeout=LIMIT), theirs.get()):
        assert got.tolist() == [1.0, 3.0]
        assert not arrays.is_shared(got)
    kernel.close()
    theirs.close()


def count_up(number: int, array: Any, lock: Any, turns: int) -> None:
    for _ in range(turns):
        with lock:
            array[0] += 1
        array[1 + number] += 1


def test_several_processes_write() -> None:
    made = arrays.zeros(4, "i8")
    with children(processing, 3, count_up, made, processing.Lock(), 500) as processes:
        ended(*processes)
    assert made.tolist() == [1500, 500, 500, 500]


@pytest.fixture(scope="module")
def editor() -> Iterator[Any]:
    """A process that changes what it is sent: `editor(view)` returns what it sent back."""
    requests, replies = processing.Queue(), processing.Queue()
    process = processing.Process(target=add_one, args=(requests, replies))
    process.start()

    def edit(view: Any) -> Any:
        requests.put(view)
        return replies.get(timeout=LIMIT)

    yield edit
    requests.put(None)
    process.join(LIMIT)
    process.close()


@st.composite
def places(draw: Any) -> Any:
    """A shape, an order, and an index for a view."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    index = tuple(
        draw(st.one_of(st.slices(length), st.integers(0, length - 1) if length else st.just(slice(None))))
        for length in shape
    )
    return shape, draw(orders), index, draw(st.permutations(range(len(shape))))


@given(places(), st.sampled_from(["i2", ">i4", "f8", "c16"]))
def test_any_slice_shares_memory(editor: Any, place: Any, dtype: str) -> None:
    shape, order, index, axes = place
    made = arrays.zeros(shape, dtype, order)
    made[...] = np.arange(made.size).reshape(shape)
    expected = made.copy()
    sent = made.transpose(axes)[tuple(index[axis] for axis in axes)]
    if type(sent) is not np.ndarray:
        return  # integers alone: numpy gives a number
    values = sent.copy()
    shared, got = editor(sent)
    assert shared
    same(got, sent)
    assert np.array_equal(got, values + 1)
    other = expected.transpose(axes)[tuple(index[axis] for axis in axes)]
    other += 1
    assert np.array_equal(made, expected)
    got[...] = 0
    assert not sent.any()
