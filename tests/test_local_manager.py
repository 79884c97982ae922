"""LocalManager: everything that it makes, and that it holds none of it."""

from __future__ import annotations

import gc
import importlib.util
import pickle
from typing import Any

import pytest

import processing
from helpers import child, ended
from processing import synchronize, values

# What it makes, with arguments, and the type.
MAKES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "SharedValue": (("i", 5), values.SharedValue),
    "SharedStruct": (("ii", (1, 2)), values.SharedStruct),
    "SharedArray": (("i", range(3)), values.SharedArray),
    "Lock": ((), synchronize.Lock),
    "RLock": ((), synchronize.RLock),
    "Semaphore": ((2,), synchronize.Semaphore),
    "BoundedSemaphore": ((2,), synchronize.BoundedSemaphore),
    "Condition": ((), synchronize.Condition),
    "Event": ((), synchronize.Event),
    "Barrier": ((2,), synchronize.Barrier),
    "Queue": ((3,), processing.Queue),
    "JoinableQueue": ((), processing.JoinableQueue),
    "SimpleQueue": ((), processing.SimpleQueue),
}
CONTAINERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "dict": (({"a": 1},), "SharedDict"),
    "list": (([1, 2],), "SharedList"),
    "set": (([1, 2],), "SharedSet"),
    "deque": (([1, 2], 5), "SharedDeque"),
    "Namespace": ((), "SharedNamespace"),
}


def there_is(module: str) -> bool:
    return importlib.util.find_spec(f"processing.{module}") is not None


@pytest.mark.parametrize("method", MAKES)
def test_what_it_makes(method: str) -> None:
    arguments, kind = MAKES[method]
    manager = processing.LocalManager()
    made = getattr(manager, method)(*arguments)
    assert type(made) is kind
    assert made.name is None
    assert getattr(manager, method)(*arguments, name="mine").name == "mine"


@pytest.mark.skipif(not there_is("containers"), reason="there are no containers yet")
@pytest.mark.parametrize("method", CONTAINERS)
def test_containers_that_it_makes(method: str) -> None:
    containers = importlib.import_module("processing.containers")
    arguments, kind = CONTAINERS[method]
    manager = processing.LocalManager()
    assert type(getattr(manager, method)(*arguments)) is getattr(containers, kind)
    assert getattr(manager, method)(*arguments, name="mine").name == "mine"


@pytest.mark.skipif(not there_is("containers"), reason="there are no containers yet")
def test_contents_of_containers() -> None:
    manager = processing.LocalManager()
    assert dict(manager.dict({"a": 1}, b=2)) == {"a": 1, "b": 2}
    assert dict(manager.dict([("a", 1)])) == {"a": 1}
    assert list(manager.list(range(3))) == [0, 1, 2]
    assert set(manager.set("ab")) == {"a", "b"}
    assert list(manager.deque(range(5), 3)) == [2, 3, 4]
    assert list(manager.deque(range(5), maxlen=2)) == [3, 4]
    assert manager.Namespace(x=1).x == 1


@pytest.mark.skipif(not there_is("sharedctypes"), reason="there are no ctypes yet")
def test_the_standard_forms() -> None:
    manager = processing.LocalManager()
    assert manager.Value("i", 5).value == 5
    assert list(manager.Array("i", [1, 2])) == [1, 2]


def test_a_manager_has_nothing_to_start() -> None:
    manager = processing.LocalManager()
    manager.start()
    manager.connect()
    number = manager.SharedValue("i", 1)
    manager.shutdown()
    manager.join()
    assert number.value == 1
    with processing.LocalManager() as other:
        shared = other.SharedArray("i", 3)
    assert shared == [0, 0, 0]
    with pytest.raises(TypeError, match="no server"):
        manager.start(print)


def test_a_manager_holds_nothing() -> None:
    gc.collect()
    before = processing.memory_usage().objects
    manager = processing.LocalManager()
    made = [getattr(manager, method)(*arguments) for method, (arguments, _) in MAKES.items()]
    del made
    gc.collect()
    assert processing.memory_usage().objects == before


def use(manager: Any, results: Any) -> None:
    number = manager.SharedValue("i", 41)
    number.add(1)
    results.put((manager, number))


def test_it_pickles(start_method: Any) -> None:
    results = processing.SimpleQueue()
    with child(start_method, use, start_method.LocalManager(), results) as process:
        manager, number = results.get()
        ended(process)
    assert repr(manager) == "LocalManager()"
    assert number.value == 42
    assert isinstance(pickle.loads(pickle.dumps(manager)), processing.LocalManager)
