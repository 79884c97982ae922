"""SharedSet: the methods and operators of set, and several processes that change one."""

from __future__ import annotations

import collections
import gc
import random
from collections.abc import MutableSet
from typing import Any

import pytest

import processing
from helpers import LIMIT, Cells, child, children, ended, kill, until
from processing.containers import SharedDict, SharedSet


def test_making_one() -> None:
    assert SharedSet() == set() and SharedSet("aba") == {"a", "b"} and SharedSet(SharedSet([1])) == {1}
    assert SharedSet([1], name="mine").name == "mine"
    assert isinstance(SharedSet(), MutableSet) and not isinstance(SharedSet(), set)
    for action in (lambda: hash(SharedSet()), lambda: SharedSet(5), lambda: SharedSet([[]])):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            action()


def test_elements() -> None:
    shared = SharedSet()
    shared.add("a")
    shared.add("a")
    shared.add(None)
    assert len(shared) == 2 and "a" in shared and None in shared and 5 not in shared
    shared.discard("a")
    shared.discard("a")
    with pytest.raises(KeyError, match="'a'"):
        shared.remove("a")
    shared.remove(None)
    with pytest.raises(KeyError, match="pop from an empty set"):
        shared.pop()
    shared.update("ab", [1], {2: 3})
    assert shared == {"a", "b", 1, 2}
    popped = {shared.pop() for _ in range(4)}
    assert popped == {"a", "b", 1, 2} and not shared
    for action in (shared.add, shared.discard, shared.remove, shared.__contains__):
        with pytest.raises(TypeError, match="unhashable"):
            action([])


def test_equal_elements_are_one() -> None:
    shared = SharedSet([1])
    shared.add(True)
    shared.update([1.0])
    assert [type(element) for element in shared] == [int]


def test_what_sets_do_not_have() -> None:
    shared = SharedSet([0])
    for name in ("get", "setdefault", "popitem", "keys", "update_with"):
        assert not hasattr(shared, name)
    for action in (
        lambda: shared[0],  # type: ignore[index]
        lambda: shared.__setitem__(0, 1),
        lambda: shared.__delitem__(0),
    ):
        with pytest.raises(TypeError, match="subscriptable"):
            action()
    assert shared == {0}


OPERANDS: list[set[Any]] = [set(), {1}, {1, 2, 3}, {3, 4}, {"a", 1.0}, {1, 2, 3, 4, 5}]
OPERATORS = (
    "__and__",
    "__or__",
    "__sub__",
    "__xor__",
    "__le__",
    "__lt__",
    "__ge__",
    "__gt__",
    "__eq__",
    "__ne__",
)
METHODS = (
    "union",
    "intersection",
    "difference",
    "symmetric_difference",
    "isdisjoint",
    "issubset",
    "issuperset",
)
IN_PLACE = ("update", "intersection_update", "difference_update", "symmetric_difference_update")


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    for left in OPERANDS:
        for right in OPERANDS:
            expected = getattr(left, name)(right)
            for other in (right, frozenset(right), SharedSet(right), dict.fromkeys(right).keys()):
                result = getattr(SharedSet(left), name)(other)
                assert result == expected and type(result) in (set, bool)
            reflected = getattr(left, name)(SharedSet(right))
            assert reflected is NotImplemented  # so that ours is asked
    with pytest.raises(TypeError):
        SharedSet() & [1]  # type: ignore[operator]


def test_operators_with_plain_sets_on_the_left() -> None:
    for left in OPERANDS:
        for right in OPERANDS:
            shared = SharedSet(right)
            assert left & shared == left & right and left | shared == left | right
            assert left - shared == left - right and left ^ shared == left ^ right
            assert (left == shared) == (left == right) and (left < shared) == (left < right)
            assert (left >= shared) == (left >= right)
    assert SharedSet([1]) != [1] and SharedSet() != 0


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    for left in OPERANDS:
        for right in OPERANDS:
            result = getattr(SharedSet(left), name)(iter(right))
            assert result == getattr(left, name)(right) and type(result) in (set, bool)
    assert SharedSet([1]).union([2], "a") == {1, 2, "a"} and SharedSet([1, 2]).intersection() == {1, 2}


@pytest.mark.parametrize("name", IN_PLACE)
def test_changes_in_place(name: str) -> None:
    for left in OPERANDS:
        for right in OPERANDS:
            expected, shared = set(left), SharedSet(left)
            getattr(expected, name)(right)
            assert getattr(shared, name)(iter(right)) is None
            assert shared == expected
    shared = SharedSet("abc")
    if name != "symmetric_difference_update":
        getattr(shared, name)("ab", "b")
        expected = set("abc")
        getattr(expected, name)("ab", "b")
        assert shared == expected
    with pytest.raises(TypeError):
        getattr(shared, name)(5)


def test_operators_in_place() -> None:
    shared = same = SharedSet([1, 2, 3])
    shared |= {4}
    shared &= {1, 2, 4}
    shared -= SharedSet([1])
    shared ^= {2, 9}
    assert shared is same and shared == {4, 9}
    shared |= shared
    assert shared == {4, 9}
    shared ^= shared
    assert shared == set()
    for other in ([1], "a", 5):
        with pytest.raises(TypeError):
            shared |= other  # type: ignore[arg-type]
    plain = {1}
    plain |= SharedSet([2])
    assert plain == {1, 2}


def test_copies_and_repr() -> None:
    shared = SharedSet(["b", "a", 1])
    assert type(shared.copy()) is set and shared.copy() == shared.snapshot() == {"a", "b", 1}
    assert repr(shared) == "SharedSet({'b', 'a', 1})" and repr(SharedSet()) == "SharedSet()"
    assert list(shared) == ["b", "a", 1]
    shared.clear()
    assert len(shared) == 0 == shared.statistics().items


def test_iteration_is_over_one_moment() -> None:
    shared = SharedSet(range(100))
    seen = []
    for element in shared:
        seen.append(element)
        shared.discard(element + 1)
        shared.add(element + 1000)
    assert seen == list(range(100))


def test_nothing_is_changed_by_what_cannot_be_stored() -> None:
    shared = SharedSet([1])
    for bad in ([], lambda: (yield), processing.Lock()):
        try:
            hash(bad)
            shared.add(bad)
        except TypeError:
            shared.discard(2)
        else:
            shared.discard(bad)
        with pytest.raises((TypeError, ValueError)):
            shared.update([2, [], bad])
    with pytest.raises(ValueError, match="16,384"):
        shared.update(["a", "x" * 20_000])
    assert shared == {1}


def test_memory_is_freed() -> None:
    def make_and_drop() -> None:
        shared = SharedSet("x" * 100 + str(number) for number in range(2000))
        shared -= {"x" * 100 + str(number) for number in range(0, 2000, 3)}
        shared.pop()

    make_and_drop()
    gc.collect()
    before = processing.memory_usage()
    make_and_drop()
    gc.collect()
    after = processing.memory_usage()
    assert (after.used, after.objects) == (before.used, before.objects)


def change(shared: Any, queue: Any) -> None:
    shared.add(("from", "the child"))
    shared -= {1}
    queue.put((shared, set(shared)))


def test_everybody_sees_the_same(start_method: Any) -> None:
    outer = SharedDict(inner={1, 2})
    queue = start_method.Queue()
    with child(start_method, change, outer["inner"], queue) as process:
        back, elements = queue.get(timeout=LIMIT)
        ended(process)
    assert back is outer["inner"] and elements == back == {2, ("from", "the child")}


def take(number: int, shared: Any, mine: Any) -> None:
    while True:
        try:
            mine.append(shared.pop())
        except KeyError:
            return


def test_each_element_is_taken_once(start_method: Any) -> None:
    shared = SharedSet(range(2000))
    taken = processing.LocalManager().list()
    with children(start_method, 3, take, shared, taken) as processes:
        ended(*processes)
    assert len(shared) == 0
    assert collections.Counter(taken) == dict.fromkeys(range(2000), 1)


def toggle(number: int, shared: Any) -> None:
    for step in range(100):
        shared ^= {"together", "always"}
        shared.symmetric_difference_update([(number, step), (number, step - 1)])


def test_changes_in_place_are_one_step() -> None:
    shared = SharedSet()
    with children(processing.get_context("fork"), 3, toggle, shared) as processes:
        while any(process.is_alive() for process in processes):
            elements = set(shared)
            assert ("together" in elements) == ("always" in elements)
        ended(*processes)
    assert shared == {(number, step) for number in range(3) for step in (-1, 99)}


def write_at_random(shared: Any, seed: int, progress: Any) -> None:
    dice = random.Random(seed)
    while True:
        number = dice.randrange(1000)
        what = dice.randrange(4)
        if what == 0:
            shared.discard(element(number))
        elif what == 1:
            shared.update(map(element, range(number, number + 5)))
        else:
            shared.add(element(number))
        if len(shared) > 500:
            shared.clear()
        progress[0] += 1


def element(number: int) -> Any:
    return (number, "v" * (number % 5 * 50))


def test_a_writer_is_killed_again_and_again() -> None:
    ctx = processing.get_context("fork")
    shared, progress = SharedSet(), Cells(1)
    for death in range(15):
        progress[0] = 0
        with child(ctx, write_at_random, shared, death, progress) as process:
            until(lambda death=death: progress[0] > 100 + death)
            kill(process)
        elements = list(shared)
        assert len(elements) == len(shared) == len(set(elements))
        assert all(one == element(one[0]) and one in shared for one in elements)
        shared.add(element(death))
    progress.close()
