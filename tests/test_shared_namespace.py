"""SharedNamespace: attributes that processes share."""

from __future__ import annotations

import collections
import gc
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, children, ended
from processing.containers import SharedDict, SharedList, SharedNamespace


def test_attributes() -> None:
    shared = SharedNamespace(x=1)
    shared.y = "two"
    assert (shared.x, shared.y) == (1, "two")
    assert hasattr(shared, "x") and not hasattr(shared, "z") and getattr(shared, "z", 5) == 5
    del shared.x
    for action in (lambda: shared.x, lambda: delattr(shared, "x"), lambda: shared.update_with("x", int)):
        with pytest.raises(AttributeError, match="'SharedNamespace' object has no attribute 'x'"):
            action()
    shared.none = None
    assert shared.none is None
    setattr(shared, "no identifier", 1)
    assert getattr(shared, "no identifier") == 1


@pytest.mark.parametrize(
    "name", ["name", "get", "pop", "popitem", "setdefault", "clear", "copy", "items", "keys"]
)
def test_every_other_name_is_free(name: str) -> None:
    """Also those that the class beneath uses."""
    shared = SharedNamespace()
    assert not hasattr(shared, name)
    setattr(shared, name, [1])
    assert getattr(shared, name) == [1] and vars(shared) == {name: [1]}
    delattr(shared, name)
    assert not hasattr(shared, name)
    assert getattr(SharedNamespace(**{name: 5}), name) == 5


def test_it_has_no_other_public_names() -> None:
    free = [name for name in dir(SharedNamespace) if name[:1] != "_" and hasattr(SharedNamespace(), name)]
    assert free == ["snapshot", "statistics", "update_with"]


@pytest.mark.parametrize("name", ["_x", "__x", "_close", "__class__", "__dict__"])
def test_names_with_an_underscore_are_refused(name: str) -> None:
    shared = SharedNamespace(x=1)
    with pytest.raises(AttributeError, match="underscore"):
        setattr(shared, name, 1)
    with pytest.raises(AttributeError, match="underscore"):
        SharedNamespace(**{name: 1})
    assert vars(shared) == {"x": 1}


@pytest.mark.parametrize("name", ["snapshot", "statistics", "update_with"])
def test_names_of_its_methods_are_refused(name: str) -> None:
    with pytest.raises(AttributeError, match="method"):
        setattr(SharedNamespace(), name, 1)
    with pytest.raises(AttributeError, match="method"):
        SharedNamespace(**{name: 1})


def test_it_is_no_mapping() -> None:
    shared = SharedNamespace(x=1)
    for action in (
        lambda: shared["x"],
        lambda: iter(shared),
        lambda: shared.__setitem__("x", 1),
        lambda: hash(shared),
    ):
        with pytest.raises(TypeError):
            action()
    assert "x" in shared and bool(SharedNamespace())


def test_repr_and_vars() -> None:
    shared = SharedNamespace(x=1, y=[{}])
    assert repr(shared) == "SharedNamespace(x=1, y=SharedList([SharedDict({})]))" and repr(
        SharedNamespace()
    ) == ("SharedNamespace()")
    assert vars(shared) == {"x": 1, "y": [{}]} and type(vars(shared)) is dict
    assert [name for name in dir(shared) if name[:1] != "_"] == [
        "snapshot",
        "statistics",
        "update_with",
        "x",
        "y",
    ]
    shared.me = shared
    assert repr(shared).endswith("me=...)")
    snapshot = shared.snapshot()
    assert type(snapshot) is SimpleNamespace and snapshot.me is snapshot and type(snapshot.y[0]) is dict
    del shared.me


def test_comparison() -> None:
    shared = SharedNamespace(x=[1])
    assert (
        shared == SharedNamespace(x=[1])
        and shared == SimpleNamespace(x=[1])
        and SimpleNamespace(x=[1]) == shared
    )
    assert shared != SharedNamespace(x=[2]) and shared != {"x": [1]} and shared == shared


def test_nested_containers() -> None:
    shared = SharedNamespace(a={"b": collections.deque([1], 2)})
    shared.a["b"].append(2)
    shared.l = []
    shared.l.append(shared.a)
    assert shared.snapshot() == SimpleNamespace(
        a={"b": collections.deque([1, 2], 2)}, l=[{"b": collections.deque([1, 2], 2)}]
    )
    outer = SharedDict(ns=shared)
    assert outer["ns"] is shared
    assert isinstance(SharedNamespace(x=[]).x, SharedList)


def test_update_with() -> None:
    shared = SharedNamespace(n=1)
    assert shared.update_with("n", lambda n: n + 1) == 2 == shared.n
    assert shared.update_with("m", lambda n: n + 1, default=0) == 1
    with pytest.raises(KeyError, match="mine"):
        shared.update_with("n", lambda n: {}["mine"])


def test_a_group() -> None:
    shared = SharedNamespace(a=1, b=2)
    with shared:
        shared.a, shared.b = shared.b, shared.a
        del shared.a
        assert not hasattr(shared, "a") and shared.b == 1
    assert vars(shared) == {"b": 1}


def test_statistics() -> None:
    assert SharedNamespace(a=1, b=2).statistics().items == 2


def test_values_that_cannot_be_pickled() -> None:
    shared = SharedNamespace(x=1)
    with pytest.raises(TypeError, match="generator"):
        shared.x = (n for n in ())
    assert shared.x == 1


def change(shared: Any, queue: Any) -> None:
    shared.x += 1
    shared.made = {"there": []}
    queue.put(shared)


def test_everybody_sees_the_same(start_method: Any) -> None:
    shared = SharedNamespace(x=1)
    queue = start_method.Queue()
    with child(start_method, change, shared, queue) as process:
        assert queue.get(timeout=LIMIT) is shared
        ended(process)
    assert shared.x == 2 and shared.made == {"there": []}
    assert pickle.loads(pickle.dumps(shared)) is shared


def count(number: int, shared: Any) -> None:
    for _ in range(200):
        shared.update_with("n", lambda n: n + 1)
        with shared:
            shared.m += 1


def test_counts_are_exact(start_method: Any) -> None:
    shared = SharedNamespace(n=0, m=0)
    with children(start_method, 3, count, shared) as processes:
        ended(*processes)
    assert (shared.n, shared.m) == (600, 600)


def test_memory_is_freed() -> None:
    gc.collect()
    before = processing.memory_usage()
    shared = SharedNamespace(text="x" * 100_000, inner={"a": "y" * 100_000})
    shared.text = None
    assert processing.memory_usage().used > before.used + 100_000
    del shared
    gc.collect()
    after = processing.memory_usage()
    assert (after.used, after.objects) == (before.used, before.objects)
