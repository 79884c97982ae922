"""share(): one copy in shared memory that every process opens read-only; its life, its cost, and what may be in it."""

from __future__ import annotations

import collections
import copy
import dataclasses
import gc
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, children, ended, kill, output_of, until
from processing.sharing import Shared

pytestmark = pytest.mark.ends

MIB = 1 << 20


def used() -> int:
    gc.collect()
    return processing.memory_usage().used


@dataclasses.dataclass
class Model:
    name: str
    weights: Any
    more: Any = None


# ---- Any object -----------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "nothing": None,
    "truth": True,
    "a number": 5,
    "a large number": 10**50,
    "a float": 2.5,
    "text": "grüße 😀",
    "long text": "x" * 100_000,
    "a tuple": (1, "two", [3.0]),
    "a dict": {"a": {1: [None]}, (1, 2): "x"},
    "an instance": Model("m", [1, 2, 3]),
    "a set": frozenset(range(1000)),
    "a deque": collections.deque(range(100), 100),
    "a class": Model,
    "an exception": KeyError,
    "parts that are bytes": [b"x" * 10_000, bytearray(b"y" * 10_000)],
}


@pytest.mark.parametrize("what", sorted(VALUES))
def test_values_come_back(what: str) -> None:
    shared = processing.share(VALUES[what])
    assert type(shared) is Shared
    assert shared.get() == VALUES[what]
    assert type(shared.get()) is type(VALUES[what])
    assert shared.nbytes >= 0


def test_every_get_is_a_new_object() -> None:
    shared = processing.share({"a": [1]})
    shared.get()["a"].append(2)
    assert shared.get() == {"a": [1]}


def test_what_is_shared_does_not_change_afterwards() -> None:
    source = bytearray(b"abc")
    items = [1]
    first, second = processing.share(source), processing.share(items)
    source[:] = b"xyz"
    items.append(2)
    assert bytes(first.get()) == b"abc"
    assert second.get() == [1]


@pytest.mark.parametrize("size", [0, 1, 100, 5000, 300_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_come_as_a_read_only_view(kind: Any, size: int) -> None:
    data = bytes(n % 256 for n in range(size))
    shared = processing.share(kind(data))
    assert shared.nbytes == size
    view = shared.get()
    assert type(view) is memoryview
    assert view.readonly and view.format == "B" and view.ndim == 1
    assert view == data
    if size:
        with pytest.raises(TypeError):
            view[0] = 1


def test_a_memoryview_with_gaps() -> None:
    assert bytes(processing.share(memoryview(b"abcdef")[::2]).get()) == b"ace"


def test_functions_go_by_value() -> None:
    number = 5
    assert processing.share(lambda x: x + number).get()(1) == 6


def test_what_cannot_be_pickled_is_named() -> None:
    before = used()
    with pytest.raises(TypeError, match=re.escape("obj['a'][1]")):
        processing.share({"a": [1, (n for n in ())]})
    assert used() == before


class Refuses:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise LookupError("not today")


def test_what_cannot_be_unpickled() -> None:
    shared = processing.share(Refuses())
    for _ in range(2):
        with pytest.raises(LookupError, match="not today"):
            shared.get()
    shared.close()


def test_at_the_memory_limit(tmp_path: Path) -> None:
    program = """
import processing

def main():
    processing.set_memory_limit(24 << 20)
    kept = processing.share("kept")
    for value in (bytes(30 << 20), [bytes(30 << 20)], "x" * (30 << 20)):
        try:
            processing.share(value)
        except MemoryError as error:
            print("24.0 MiB" in str(error), "Shared" in str(error))
    for turn in range(10):
        assert len(processing.share(bytes(10 << 20)).get()) == 10 << 20
    print(kept.get())

if __name__ == "__main__":
    main()
"""
    assert output_of(tmp_path, program) == ["True True"] * 3 + ["kept"]


class Column:
    """What pickles its bytes out of band, as a data frame does."""

    def __init__(self, data: Any, name: str) -> None:
        self.data = data
        self.name = name

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Column, (pickle.PickleBuffer(self.data), self.name)


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_buffers_out_of_band_are_looked_into(size: int) -> None:
    shared = processing.share({"columns": [Column(bytearray(b"x" * size), "a"), Column(bytes(size), "b")]})
    before = used()
    first, second = shared.get()["columns"]
    assert (first.name, second.name) == ("a", "b")
    assert (bytes(first.data), bytes(second.data)) == (b"x" * size, bytes(size))
    assert memoryview(first.data).readonly
    assert used() == before
    with pytest.raises(BufferError):
        shared.close()
    del first, second
    shared.close()


# ---- The handle -----------------------------------------------------------------------------------------------------


def test_repr_name_and_statistics() -> None:
    shared = processing.share(b"abc", name="the data")
    assert repr(shared) == "<Shared(3 bytes) name='the data'>"
    assert repr(processing.share(b"abc")) == "<Shared(3 bytes)>"
    assert (shared.name, processing.share(1).name) == ("the data", None)
    assert (shared.statistics().nbytes, shared.statistics().holders) == (3, 1)
    other = pickle.loads(pickle.dumps(shared))
    assert other is shared and other.name == "the data"
    assert copy.copy(shared) is shared and copy.deepcopy([shared])[0] is shared


def test_closing() -> None:
    before = used()
    with processing.share(b"x" * MIB, name="data") as shared:
        view = shared.get()
        with pytest.raises(BufferError):
            shared.close()
        assert view[5] == ord("x")
        view.release()
    assert used() < before + 4096
    assert repr(shared) == "<Shared(closed) name='data'>"
    shared.close()
    for use in (shared.get, lambda: shared.nbytes, shared.statistics, lambda: pickle.dumps(shared)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_what_get_gave_keeps_the_memory() -> None:
    before = used()
    shared = processing.share(b"x" * MIB)
    view = shared.get()[10:20]
    del shared
    assert used() >= before + MIB
    assert view == b"x" * 10
    view.release()
    del view
    assert used() < before + 4096


def test_nothing_keeps_what_holds_no_view() -> None:
    before = used()
    value = processing.share(["x" * MIB]).get()
    assert used() < before + 4096
    assert len(value[0]) == MIB


def test_a_message_keeps_it() -> None:
    messages = processing.Queue()
    messages.put(processing.share(b"x" * MIB))
    gc.collect()
    assert bytes(messages.get().get()) == b"x" * MIB
    messages.put({"a": [processing.share(b"y" * MIB)]})
    before = used()
    del messages
    assert used() <= before - MIB


def test_nested() -> None:
    inner = processing.share(b"inner", name="inner")
    outer = processing.share([inner, {"again": inner}])
    before = inner
    del inner
    gc.collect()
    first, second = outer.get()
    assert first is before and second["again"] is before
    assert bytes(first.get()) == b"inner"


def test_handles_inside_stay_handles() -> None:
    lock, messages = processing.Lock(), processing.Queue()
    shared = processing.share(Model("m", lock, {"queue": messages}))
    lock.acquire()
    got = shared.get()
    assert got.weights.locked()
    got.weights.release()
    assert not lock.locked()
    got.more["queue"].put(5)
    assert messages.get() == 5


def test_handles_inside_are_kept_alive() -> None:
    shared = processing.share({"lock": processing.Lock(name="inside"), "event": processing.Event()})
    gc.collect()
    kept = [processing.Lock() for _ in range(100)]  # would take the freed places
    got = shared.get()
    assert got["lock"].name == "inside" and got["lock"].acquire()
    assert not got["event"].is_set()
    assert len(kept) == 100


def test_containers_inside_stay_containers() -> None:
    mapping = processing.LocalManager().dict({"a": 1})
    shared = processing.share([mapping])
    mapping["a"] = 2
    assert shared.get()[0]["a"] == 2
    del mapping
    gc.collect()
    assert shared.get()[0]["a"] == 2


def test_in_shared_containers() -> None:
    mapping = processing.LocalManager().dict()
    mapping["data"] = processing.share(b"x" * MIB)
    gc.collect()
    assert bytes(mapping["data"].get()) == b"x" * MIB


# ---- Between processes ----------------------------------------------------------------------------------------------


def open_and_tell(number: int, shared: Any, replies: Any) -> None:
    value = shared.get()
    replies.put((number, shared.name, shared.nbytes, value["text"], bytes(value["bytes"][:3])))


def test_as_arguments(start_method: Any) -> None:
    replies = start_method.Queue()
    shared = processing.share({"text": "x" * 5000, "bytes": b"abc" * 5000}, name="data")
    with children(start_method, 3, open_and_tell, shared, replies) as processes:
        ended(*processes)
        got = sorted(replies.get(timeout=LIMIT) for _ in processes)
    assert got == [(n, "data", shared.nbytes, "x" * 5000, b"abc") for n in range(3)]


def serve(requests: Any, replies: Any) -> None:
    """Opens what arrives, holds it until the next arrives."""
    held = None
    while (shared := requests.get(timeout=LIMIT)) is not None:
        held = shared.get()
        replies.put(len(held))


@pytest.fixture
def server(start_method: Any) -> Iterator[Any]:
    """(process, requests, replies)"""
    requests, replies = start_method.Queue(), start_method.Queue()
    with child(start_method, serve, requests, replies) as process:
        yield process, requests, replies


def test_to_a_process_that_runs(server: Any) -> None:
    process, requests, replies = server
    for size in (0, 10, 10_000, 2 * MIB):
        requests.put(processing.share(bytes(size)))
        assert replies.get(timeout=LIMIT) == size
    requests.put(None)
    ended(process)


def test_it_outlives_the_makers_handle(server: Any) -> None:
    process, requests, replies = server
    before = used()
    requests.put(processing.share(b"x" * (4 * MIB)))
    gc.collect()
    assert replies.get(timeout=LIMIT) == 4 * MIB
    assert used() >= before + 4 * MIB
    requests.put(processing.share(b"x"))
    assert replies.get(timeout=LIMIT) == 1
    until(lambda: used() < before + MIB)
    requests.put(None)
    ended(process)


def test_the_memory_of_a_killed_reader_is_freed(server: Any) -> None:
    process, requests, replies = server
    before = used()
    requests.put(processing.share(b"x" * (4 * MIB)))
    assert replies.get(timeout=LIMIT) == 4 * MIB
    gc.collect()
    assert used() >= before + 4 * MIB
    kill(process)
    until(lambda: used() < before + MIB)


def test_a_killed_reader_takes_nothing_from_the_others(server: Any) -> None:
    process, requests, replies = server
    shared = processing.share(b"x" * MIB)
    requests.put(shared)
    assert replies.get(timeout=LIMIT) == MIB
    kill(process)
    assert bytes(shared.get()) == b"x" * MIB


def make(messages: Any, die: bool) -> None:
    messages.put(processing.share({"a": b"x" * MIB}, name="of a child"))
    if die:
        processing.Event().wait(LIMIT)


@pytest.mark.parametrize("die", [False, True])
def test_it_outlives_its_maker(start_method: Any, die: bool) -> None:
    messages = start_method.Queue()
    with child(start_method, make, messages, die) as process:
        if die:
            shared = messages.get(timeout=LIMIT)
            kill(process)
        else:
            ended(process)
            shared = messages.get(timeout=LIMIT)
    del messages
    gc.collect()
    assert shared.name == "of a child"
    assert shared.get() == {"a": b"x" * MIB}


# ---- Arrays ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def np() -> Any:
    return pytest.importorskip("numpy")


def test_arrays_in_it_are_views(np: Any) -> None:
    source = {
        "large": np.arange(100_000),
        "small": np.arange(3),
        "empty": np.zeros((0, 4)),
        "fortran": np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
        "gaps": np.arange(200_000)[::3],
        "structured": np.zeros(3000, [("a", "i4"), ("b", "f8")]),
        "dates": np.arange("2020-01", "2021-01", dtype="datetime64[D]"),
        "number": np.array(5.0),
    }
    shared = processing.share(source)
    first, second = shared.get(), shared.get()
    for name, array in source.items():
        got = first[name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert np.array_equal(got, array)
        assert not np.shares_memory(got, array)
        if array.size:
            assert np.shares_memory(got, second[name]), name
        assert not got.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first["large"][0] = 1
    with pytest.raises(ValueError):
        first["large"].flags.writeable = True
    assert first["fortran"].flags.f_contiguous


def test_an_array_alone(np: Any) -> None:
    array = np.arange(100_000)
    shared = processing.share(array)
    assert array.nbytes <= shared.nbytes < array.nbytes + 1000
    got = shared.get()
    assert np.array_equal(got, array)
    with pytest.raises(BufferError):
        shared.close()
    del got
    shared.close()


def test_objects_with_arrays(np: Any) -> None:
    shared = processing.share(Model("m", np.ones((100, 100)), [np.arange(5)]))
    before = used()
    got = shared.get()
    assert used() == before
    assert got.weights.sum() == 10_000 and not got.weights.flags.writeable
    assert got.more[0].tolist() == [0, 1, 2, 3, 4]


def test_arrays_of_objects_and_subclasses(np: Any) -> None:
    shared = processing.share([np.array([1, "two", None], dtype=object), np.arange(5).view(np.recarray)])
    objects, records = shared.get()
    assert objects.tolist() == [1, "two", None]
    assert type(records) is np.recarray and records.tolist() == [0, 1, 2, 3, 4]


def test_shared_arrays_inside_are_referred_to(np: Any) -> None:
    from processing import arrays

    before = used()
    made = arrays.zeros(MIB, "u1")
    shared = processing.share({"array": made, "part": made[::2], "more": "x"})
    assert used() < before + MIB + MIB // 2  # not copied
    got = shared.get()
    made[0] = 5
    assert got["array"][0] == 5 and got["part"][0] == 5
    got["part"][1] = 6
    assert made[2] == 6
    del made, got
    gc.collect()
    assert shared.get()["array"][2] == 6
    del shared
    assert used() <= before


def test_what_get_gave_is_sent_on_without_a_copy(np: Any) -> None:
    shared = processing.share({"a": np.arange(100_000)})
    view = shared.get()["a"][10:20]
    messages = processing.Queue()
    del shared
    messages.put(view)
    messages.put({"again": [view]})
    for got in (messages.get(), messages.get()["again"][0]):
        assert np.shares_memory(got, view)
        assert not got.flags.writeable
        assert got.tolist() == list(range(10, 20))
    del view, got, messages


def add_up(number: int, shared: Any, ready: Any, go: Any, replies: Any) -> None:
    array = shared.get()["array"]
    total = int(array.sum())  # touches every page
    replies.put((number, total, array.flags.writeable))
    ready.release()
    go.wait(LIMIT)


def wait_for(number: int, go: Any) -> None:
    go.wait(LIMIT)


def cost_of_a_child(start_method: Any) -> int:
    """Bytes of the arena for a process that does nothing: mostly a list of references, as long as its parent's."""
    go = processing.Event()
    before = used()
    with children(start_method, 1, wait_for, go) as processes:
        cost = used() - before
        go.set()
        ended(*processes)
    return cost


def private_kib(pid: int) -> int:
    """What a process has for itself, of the memory of the machine."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.M))


@pytest.mark.once
def test_eight_readers_need_the_memory_once(np: Any, start_method: Any) -> None:
    """The arena grows by one copy, and no reader has one of its own."""
    size = 64 * MIB
    child = cost_of_a_child(start_method)
    before = used()
    shared = processing.share({"array": np.ones(size, "u1")})
    assert size <= used() - before < size + MIB
    ready, go, replies = processing.Semaphore(0), processing.Event(), processing.Queue()
    with children(start_method, 8, add_up, shared, ready, go, replies) as processes:
        for _ in processes:
            assert ready.acquire(timeout=LIMIT)
        assert size <= used() - before < size + MIB + 8 * child
        own = [private_kib(process.pid) for process in processes]
        go.set()
        ended(*processes)
    assert max(own) < 40 * 1024, own  # an interpreter with numpy, and not the array
    assert sorted(replies.get() for _ in range(8)) == [(n, size, False) for n in range(8)]


def write_to_it(shared: Any, replies: Any) -> None:
    array = shared.get()
    try:
        array[0] = 1
    except ValueError as error:
        replies.put(str(error))


def test_readers_cannot_write(np: Any, start_method: Any) -> None:
    shared = processing.share(np.zeros(10_000))
    replies = start_method.Queue()
    with child(start_method, write_to_it, shared, replies) as process:
        assert "read-only" in replies.get(timeout=LIMIT)
        ended(process)
    assert not shared.get().any()


def test_a_fork_hook_that_drops_a_handle_drops_the_childs_own(tmp_path: Path) -> None:
    text = """
    import os

    kept = []
    os.register_at_fork(after_in_child=kept.clear)  # runs before hooks that are registered later

    import processing
    from processing import _program

    kept.append(processing.share(b"a" * 1000))
    for _ in range(3):
        if not (pid := os.fork()):
            os._exit(0)
        os.waitpid(pid, 0)
    _program.sweep()
    others = [processing.share(b"b" * 1000) for _ in range(100)]
    print(bytes(kept[0]) == b"a" * 1000)
    """
    assert output_of(tmp_path, text) == ["True"]
