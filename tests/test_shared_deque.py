"""SharedDeque: the methods of collections.deque, and several processes at its ends."""

from __future__ import annotations

import collections
import gc
import random
from collections.abc import MutableSequence
from typing import Any

import pytest

import processing
from helpers import LIMIT, Cells, child, children, ended, kill, until
from processing.containers import SharedDeque, SharedDict


def same(shared: Any, plain: Any) -> None:
    assert shared == plain and plain == shared and shared.maxlen == plain.maxlen
    assert list(shared) == list(plain) and len(shared) == len(plain)


def test_making_one() -> None:
    same(SharedDeque(), collections.deque())
    same(SharedDeque("abc", 2), collections.deque("abc", 2))
    same(SharedDeque(maxlen=0), collections.deque(maxlen=0))
    same(SharedDeque(range(5), maxlen=7), collections.deque(range(5), 7))
    assert SharedDeque([1], name="mine").name == "mine"
    assert isinstance(SharedDeque(), MutableSequence)
    for wrong, error in ((-1, ValueError), ("5", TypeError), (1.5, TypeError)):
        with pytest.raises(error, match="maxlen"):
            SharedDeque((), wrong)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        SharedDeque().maxlen = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(SharedDeque())


@pytest.mark.parametrize("most", [None, 0, 1, 3, 10])
def test_both_ends(most: int | None) -> None:
    shared, plain = SharedDeque("ab", most), collections.deque("ab", most)
    for number in range(12):
        for method, arguments in (
            ("append", (number,)),
            ("appendleft", (-number,)),
            ("extend", (range(number),)),
            ("extendleft", ("xyz",)),
            ("rotate", (number - 4,)),
        ):
            assert getattr(shared, method)(*arguments) is None
            getattr(plain, method)(*arguments)
            same(shared, plain)
        if plain:
            assert shared.pop() == plain.pop()
        if plain:
            assert shared.popleft() == plain.popleft()
        same(shared, plain)
    shared.clear()
    for action in (shared.pop, shared.popleft):
        with pytest.raises(IndexError, match="empty"):
            action()
    shared.rotate(5)
    assert len(shared) == 0


def test_items() -> None:
    shared = SharedDeque("abc")
    assert shared[0] == "a" and shared[-1] == "c" and "b" in shared and "z" not in shared
    shared[1] = 5
    del shared[0]
    assert list(shared) == [5, "c"] and list(reversed(shared)) == ["c", 5]
    for index in (2, -3, 2**70):
        with pytest.raises(IndexError):
            shared[index]
        with pytest.raises(IndexError):
            shared[index] = 1
        with pytest.raises(IndexError):
            del shared[index]
    for wrong in ("0", slice(1), 1.0):
        with pytest.raises(TypeError):
            shared[wrong]
    with pytest.raises(TypeError):
        shared.pop(0)  # type: ignore[call-arg]


def test_in_the_middle() -> None:
    shared, plain = SharedDeque("abcb"), collections.deque("abcb")
    for both in (shared, plain):
        both.insert(1, "x")
        both.insert(-1, "y")
        both.insert(100, "z")
        both.remove("b")
        both.reverse()
    same(shared, plain)
    assert shared.index("b") == plain.index("b") and shared.count("b") == 1
    assert shared.index("x", 2, 100) == plain.index("x", 2, 100)
    for action in (lambda: shared.remove("q"), lambda: shared.index("q"), lambda: shared.index("z", 1)):
        with pytest.raises(ValueError):
            action()


@pytest.mark.parametrize("index", [0, 1, 2, -1, 5])
def test_inserting_into_a_full_one(index: int) -> None:
    for size in (0, 2):
        shared = SharedDeque("ab"[:size], size)
        with pytest.raises(IndexError, match="maximum size"):
            shared.insert(index, "x")
        same(shared, collections.deque("ab"[:size], size))
    shared = SharedDeque("a", 2)
    shared.insert(index, "x")
    assert len(shared) == 2


def test_with_other_deques() -> None:
    shared, plain = SharedDeque([1, 2], 3), collections.deque([1, 2], 3)
    for other in (collections.deque([3, 4]), SharedDeque([3, 4])):
        result = shared + other
        assert type(result) is collections.deque and result == plain + collections.deque([3, 4])
        assert result.maxlen == 3
    assert shared * 2 == plain * 2 == 2 * shared and (shared * 2).maxlen == 3
    kept = shared
    shared += "ab"
    plain += "ab"
    same(shared, plain)
    shared *= 2
    plain *= 2
    same(shared, plain)
    shared *= 0
    assert kept is shared and len(shared) == 0
    with pytest.raises(TypeError):
        shared + [1]


def test_comparison() -> None:
    shared = SharedDeque([1, 2])
    assert shared == SharedDeque([1, 2], 5) and shared != [1, 2] and shared < collections.deque([1, 3])
    assert shared >= shared and shared > SharedDeque([1])


def test_copies_and_repr() -> None:
    shared = SharedDeque([[1], 2], 5)
    plain = shared.copy()
    assert type(plain) is collections.deque and plain.maxlen == 5 and plain[0] is shared[0]
    assert repr(shared.snapshot()) == "deque([[1], 2], maxlen=5)"
    assert (
        repr(shared) == "SharedDeque([SharedList([1]), 2], maxlen=5)"
        and repr(SharedDeque("a")) == "SharedDeque(['a'])"
    )
    shared.append(shared)
    assert shared.snapshot()[2] is not shared and repr(shared).endswith("2, ...], maxlen=5)")
    shared.clear()


def test_a_group() -> None:
    shared = SharedDeque([1, 2, 3], 3)
    with pytest.raises(KeyError):
        with shared:
            shared.append(4)
            shared.rotate()
            assert list(shared) == [4, 2, 3]
            raise KeyError
    assert list(shared) == [1, 2, 3]
    with shared:
        shared.appendleft(0)
        shared[0] = "x"
    assert list(shared) == ["x", 1, 2]


def test_nothing_is_changed_by_what_cannot_be_stored() -> None:
    shared = SharedDeque([1, 2], 2)
    bad = (n for n in ())
    for action in (
        lambda: shared.append(bad),
        lambda: shared.appendleft(bad),
        lambda: shared.extend([1, bad]),
        lambda: shared.extendleft([1, bad]),
        lambda: shared.__setitem__(0, bad),
    ):
        with pytest.raises(TypeError, match="generator"):
            action()
    assert list(shared) == [1, 2]


def test_what_falls_out_is_freed() -> None:
    shared = SharedDeque(maxlen=4)
    used = []
    for number in range(60):
        shared.append("x" * 50_000)
        shared.appendleft([number, "y" * 5000])
        if number % 20 == 19:
            gc.collect()
            used.append(processing.memory_usage().used)
    assert used[1] == used[2]


def change(shared: Any, queue: Any) -> None:
    shared.append({"made": "there"})
    shared.rotate(1)
    queue.put((shared, shared[0], shared.maxlen))


def test_everybody_sees_the_same(start_method: Any) -> None:
    outer = SharedDict(inner=collections.deque("abc", 3))
    queue = start_method.Queue()
    with child(start_method, change, outer["inner"], queue) as process:
        back, first, most = queue.get(timeout=LIMIT)
        ended(process)
    assert back is outer["inner"] and first is back[0] and most == 3
    assert list(back) == [{"made": "there"}, "b", "c"]


def work(number: int, todo: Any, done: Any) -> None:
    """Takes at the left, puts at the right, as with a queue."""
    while True:
        try:
            task = todo.popleft()
        except IndexError:
            return
        if task[1]:
            todo.append((task[0], task[1] - 1))
        else:
            done.append(task[0])


def test_each_item_is_taken_once(start_method: Any) -> None:
    todo, done = SharedDeque((number, number % 4) for number in range(500)), SharedDeque()
    with children(start_method, 3, work, todo, done) as processes:
        ended(*processes)
    assert len(todo) == 0 and sorted(done) == list(range(500))


def write_at_random(shared: Any, seed: int, progress: Any) -> None:
    """A window of whole numbers that goes to and fro."""
    dice = random.Random(seed)
    while True:
        first, last = shared[0][0], shared[-1][0]
        for _ in range(dice.randrange(30)):
            last += 1
            shared.append(item(last))
        first = shared[0][0]
        for _ in range(dice.randrange(30)):
            first -= 1
            shared.appendleft(item(first))
        shared.extend([item(number) for number in range(shared[-1][0] + 1, shared[-1][0] + 4)])
        progress[0] += 1


def item(number: int) -> Any:
    return (number, "v" * (0, 20, 200, 5000, 40_000)[number % 5])


@pytest.mark.once
def test_a_writer_is_killed_again_and_again() -> None:
    ctx = processing.get_context("fork")
    shared, progress = SharedDeque([item(0)], 20), Cells(1)
    for death in range(25):
        progress[0] = 0
        with child(ctx, write_at_random, shared, death, progress) as process:
            until(lambda death=death: progress[0] > 2 + death % 5)
            for _ in range(5):
                check_run(shared.copy())
            kill(process)
        check_run(shared.copy())
        shared.append(item(shared[-1][0] + 1))  # nobody holds it
    progress.close()


def check_run(items: Any) -> None:
    assert len(items) <= 20
    assert list(items) == [item(number) for number in range(items[0][0], items[0][0] + len(items))]
