"""Value, Array, RawValue, RawArray, copy, synchronized: ctypes objects in shared memory."""

from __future__ import annotations

import copyreg
import ctypes
import gc
import pickle
import threading
from typing import Any

import pytest

import processing
from helpers import child, children, ended
from processing import sharedctypes

TYPECODES = [
    ("c", b"x", b"y"),
    ("u", "é", "ß"),
    ("b", -7, 100),
    ("B", 7, 255),
    ("h", -232, 234),
    ("H", 232, 65535),
    ("i", 4343, -24234),
    ("I", 4343, 2**32 - 1),
    ("l", -(2**40), 2**41),
    ("L", 2**40, 2**64 - 1),
    ("q", 2**33, -(2**34)),
    ("Q", 2**33, 2**64 - 1),
    ("f", 3.5, -0.25),
    ("d", 3.625, -4.25),
]


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double), ("label", ctypes.c_char * 8)]


class Point3(Point):
    _fields_ = [("z", ctypes.c_double)]


class Either(ctypes.Union):
    _fields_ = [("number", ctypes.c_uint32), ("parts", ctypes.c_uint8 * 4)]


# ---- Between processes ----------------------------------------------------------------------------------------------


def set_all(values: list[Any], new: list[Any]) -> None:
    for value, item in zip(values, new, strict=True):
        value.value = item


@pytest.mark.parametrize("raw", [False, True])
def test_a_child_writes_every_type(start_method: Any, raw: bool) -> None:
    make = start_method.RawValue if raw else start_method.Value
    values = [make(code, old) for code, old, _ in TYPECODES]
    assert [value.value for value in values] == [old for _, old, _ in TYPECODES]
    new = [item for _, _, item in TYPECODES]
    with child(start_method, set_all, values, new) as process:
        ended(process)
    assert [value.value for value in values] == new


def accumulate(array: Any) -> None:
    for index in range(1, len(array)):
        array[index] += array[index - 1]


@pytest.mark.parametrize("raw", [False, True])
def test_a_child_writes_an_array(start_method: Any, raw: bool) -> None:
    array = (start_method.RawArray if raw else start_method.Array)("i", range(10))
    with child(start_method, accumulate, array) as process:
        ended(process)
    assert list(array) == [0, 1, 3, 6, 10, 15, 21, 28, 36, 45]


def move(points: Any, single: Any, either: Any) -> None:
    for point in points:
        point.x, point.y = point.y, point.x
        point.label = b"moved"
    single.x *= 2
    single.z += 1
    either.number = 0x01020304


def test_structures_and_unions(start_method: Any) -> None:
    points = start_method.Array(Point, [(1, 2, b"a"), (3, 4, b"b")])
    single = start_method.Value(Point3, 1.5, 2.5, b"base", 3.5)
    either = start_method.RawValue(Either)
    with child(start_method, move, points, single, either) as process:
        ended(process)
    assert [(point.x, point.y, point.label) for point in points] == [(2, 1, b"moved"), (4, 3, b"moved")]
    assert (single.x, single.y, single.label, single.z) == (3.0, 2.5, b"base", 4.5)
    assert sorted(either.parts) == [1, 2, 3, 4]


def add_under_lock(number: int, value: Any, array: Any, times: int) -> None:
    for _ in range(times):
        with value:
            value.value += 1
        with array.get_lock():
            array[0] += 1
            array[1] -= 1


def test_updates_under_the_lock_add_up(start_method: Any) -> None:
    value, array = start_method.Value("l"), start_method.Array("l", 2)
    with children(start_method, 3, add_under_lock, value, array, 500) as processes:
        ended(*processes)
    assert (value.value, array[:]) == (1500, [1500, -1500])


def test_threads_add_up_too() -> None:
    value = processing.Value("i", 0)
    array = processing.Array("i", 2)
    threads = [threading.Thread(target=add_under_lock, args=(0, value, array, 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (value.value, array[:]) == (2000, [2000, -2000])


def write_what_arrives(queue: Any, done: Any) -> None:
    for item in iter(queue.get, None):
        if isinstance(item, dict):
            item["raw"][0], item["value"].value, item["point"].x = 11, 22, 33
        done.put(type(item).__name__)


def test_they_go_through_queues_to_running_processes(start_method: Any) -> None:
    queue, done = start_method.Queue(), start_method.Queue()
    with child(start_method, write_what_arrives, queue, done) as process:
        raw, value = processing.RawArray("q", 3), processing.Value("d", 1.0)
        point = processing.Value(Point)
        queue.put({"raw": raw, "value": value, "point": point})
        assert done.get(timeout=20) == "dict"
        queue.put(None)
        ended(process)
    assert (raw[0], value.value, point.x) == (11, 22, 33)


def test_the_memory_outlives_who_made_it() -> None:
    queue = processing.SimpleQueue()
    made = processing.RawArray("i", [1, 2, 3])
    queue.put(made)
    del made
    gc.collect()
    assert list(queue.get()) == [1, 2, 3]


def test_memory_is_given_back() -> None:
    def used() -> int:
        gc.collect()
        return processing.memory_usage().used

    processing.Value("i")
    before = used()
    made = [processing.Array("d", 10_000) for _ in range(10)]
    assert used() - before >= 800_000
    del made
    assert used() == before


# ---- In one process -------------------------------------------------------------------------------------------------


def test_new_memory_is_zero() -> None:
    for _ in range(3):
        array = processing.Array("i", 1000)
        assert array[:] == [0] * 1000
        array[:] = range(1000)
        del array
    assert processing.RawValue(Point).label == b""
    assert processing.RawValue("i").value == 0


def test_locks() -> None:
    made = processing.Value("i", 5)
    assert isinstance(made.get_lock(), processing.RLock)
    assert isinstance(processing.Value("i", 5, lock=None).get_lock(), processing.RLock)
    lock = processing.Lock()
    assert processing.Array("i", 5, lock=lock).get_lock() is lock
    assert processing.Value("i", lock=threading.Lock()).value == 0
    for bare in (processing.Value("i", 5, lock=False), processing.Array("i", 5, lock=False)):
        assert not hasattr(bare, "get_lock") and not hasattr(bare, "get_obj")
    for make in (processing.Value, processing.Array):
        with pytest.raises(AttributeError, match="no method 'acquire'"):
            make("i", 5, lock="not a lock")  # type: ignore[operator]


def test_the_lock_is_held_meanwhile() -> None:
    value = processing.Value("i", 1, lock=processing.Lock())
    assert value.acquire()
    assert not value.get_lock().acquire(False)
    value.release()
    with value as held:
        assert held is True
        assert not value.get_lock().acquire(False)
    assert value.get_lock().acquire(False)


def test_sizes() -> None:
    assert len(processing.Array("i", 0)) == 0 == len(processing.RawArray(Point, []))
    for make in (processing.Array, processing.RawArray):
        with pytest.raises(ValueError):
            make("i", -1)
        with pytest.raises(TypeError):
            make("i", 1.5)
        with pytest.raises(TypeError, match="typecode"):
            make("x", 3)
    with pytest.raises(MemoryError):
        processing.RawArray("d", 2**45)


def test_wrong_values_change_nothing() -> None:
    value, array = processing.Value("i", 5), processing.Array("d", [1, 2, 3])
    with pytest.raises(TypeError):
        value.value = "five"
    with pytest.raises(TypeError):
        array[1] = "two"
    with pytest.raises(IndexError):
        array[3]
    with pytest.raises(ValueError):
        array[:] = [1, 2]
    assert (value.value, array[:]) == (5, [1, 2, 3])
    assert value.get_lock().acquire(False)


def test_strings() -> None:
    text = processing.Array("c", 16)
    text.value = b"hello"
    assert (text.value, len(text.raw), text[1:3]) == (b"hello", 16, b"el")
    assert isinstance(text, sharedctypes.SynchronizedString)
    text.raw = b"x" * 16
    assert text.value == b"x" * 16
    wide = processing.RawArray("u", 4)
    wide.value = "äöü"
    assert wide[:] == "äöü\0"


def test_copies_are_of_their_own() -> None:
    first = processing.RawValue(Point3, 1, 2, b"three", 4)
    second = sharedctypes.copy(first)
    first.x, first.z = 10, 40
    assert (second.x, second.y, second.label, second.z) == (1, 2, b"three", 4)
    local = sharedctypes.copy((ctypes.c_int * 3)(1, 2, 3))
    arrived = pickle.loads(pickle.dumps(local))
    arrived[0] = 9
    assert list(local) == [9, 2, 3]


def test_synchronized() -> None:
    wrapper = sharedctypes.synchronized(processing.RawValue("i", 3))
    assert (type(wrapper).__name__, wrapper.value, wrapper.get_obj().value) == ("Synchronized", 3, 3)
    assert repr(wrapper) == "<Synchronized wrapper for c_int(3)>"
    with pytest.raises(AssertionError, match="already synchronized"):
        sharedctypes.synchronized(wrapper)
    point = sharedctypes.synchronized(processing.RawValue(Point, 1, 2))
    assert type(point).__name__ == "SynchronizedPoint"
    assert type(point) is type(sharedctypes.synchronized(Point()))


def test_fields_with_odd_names() -> None:
    class Odd(ctypes.Structure):
        _fields_ = [("class", ctypes.c_int), ("with space", ctypes.c_int)]

    odd = processing.Value(Odd, 1, 2)
    setattr(odd, "class", 5)
    setattr(odd, "with space", 6)
    assert (getattr(odd.get_obj(), "class"), getattr(odd.get_obj(), "with space")) == (5, 6)


class Outer(ctypes.Structure):
    class Inner(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int)]

    _anonymous_ = ["inner"]
    _fields_ = [("inner", Inner), ("b", ctypes.c_int)]


def test_anonymous_fields() -> None:
    value = processing.Value(Outer)
    value.a, value.b = 1, 2
    assert (value.get_obj().inner.a, value.get_obj().b, value.a) == (1, 2, 1)


def test_pickles_are_references_and_other_ctypes_objects_stay_copies() -> None:
    shared = processing.RawValue("h", 1)
    assert ctypes.c_short in copyreg.dispatch_table
    same = pickle.loads(pickle.dumps(shared))
    same.value = 2
    assert shared.value == 2
    local = ctypes.c_short(1)
    other = pickle.loads(pickle.dumps(local))
    other.value = 2
    assert local.value == 1
    part = pickle.loads(pickle.dumps(processing.RawArray(Point, [(1, 2)])[0]))
    assert (part.x, part.y) == (1, 2)


def test_numpy_looks_into_it() -> None:
    numpy = pytest.importorskip("numpy")
    array = processing.Array("d", 6)
    view = numpy.frombuffer(array.get_obj()).reshape(2, 3)
    view[1] = [1, 2, 3]
    assert array[3:] == [1, 2, 3]
    raw = processing.RawArray("i", range(3))
    assert numpy.ctypeslib.as_array(raw).tolist() == [0, 1, 2]
    del array
    gc.collect()
    assert view.sum() == 6


def test_names() -> None:
    value = processing.RawValue("i", name="counter")
    assert value._wrapper.name == "counter"
    assert "counter" in repr(value._wrapper)


def test_a_killed_owner_is_reported(start_method: Any) -> None:
    value = start_method.Value("i", 1)
    with child(start_method, hold_for_ever, value) as process:
        while value.get_obj().value != 2:
            pass
        process.kill()
        ended(process, exitcode=-9)
    with pytest.raises(processing.LockOwnerDied):
        value.value += 1
    assert value.value == 2


def hold_for_ever(value: Any) -> None:
    value.get_lock().acquire()
    value.get_obj().value = 2
    threading.Event().wait()
