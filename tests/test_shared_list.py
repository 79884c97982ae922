"""SharedList: the methods of list, and several processes that change one."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import MutableSequence
from typing import Any

import pytest

import processing
from helpers import LIMIT, Cells, child, children, ended, kill, until
from processing.containers import SharedDict, SharedList


def test_making_one() -> None:
    assert SharedList() == [] and SharedList("ab") == ["a", "b"] and SharedList(range(3)) == [0, 1, 2]
    assert SharedList(SharedList([1])) == [1] and SharedList(n for n in [1, 2]) == [1, 2]
    assert SharedList([1], name="mine").name == "mine"
    with pytest.raises(TypeError, match="iterable"):
        SharedList(5)  # type: ignore[arg-type]


def test_it_is_a_mutable_sequence() -> None:
    shared = SharedList([1])
    assert isinstance(shared, MutableSequence) and not isinstance(shared, list)
    with pytest.raises(TypeError, match="unhashable"):
        hash(shared)
    match shared:
        case [number]:
            assert number == 1


def test_items() -> None:
    shared = SharedList("abc")
    assert shared[0] == "a" and shared[-1] == "c" and len(shared) == 3 and "b" in shared and "z" not in shared
    shared[1] = None
    shared[-1] = 5
    assert shared == ["a", None, 5]
    del shared[0], shared[-1]
    assert shared == [None]
    for index in (1, -2, 2**70, -(2**70)):
        for action in (
            lambda i: shared[i],
            lambda i: shared.__setitem__(i, 1),
            shared.__delitem__,
            shared.pop,
        ):
            with pytest.raises(IndexError):
                action(index)
    for wrong in ("0", 1.0, None):
        with pytest.raises(TypeError, match="indices must be integers or slices"):
            shared[wrong]
        with pytest.raises(TypeError, match="indices must be integers or slices"):
            shared[wrong] = 1
        with pytest.raises(TypeError, match="indices must be integers or slices"):
            del shared[wrong]
    assert shared == [None]


def test_indexes_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    shared = SharedList("abcd")
    assert shared[numpy.int64(1)] == "b" and shared[numpy.uint8(1) : numpy.int32(3)] == ["b", "c"]
    shared.insert(numpy.int64(1), "x")
    assert shared.pop(numpy.int64(-1)) == "d" and shared == ["a", "x", "b", "c"]


BOUNDS = (None, 0, 1, 3, -1, -3, 9, -9)
STEPS = (None, 1, 2, 3, -1, -2)


def test_slices() -> None:
    plain = list("abcdef")
    shared = SharedList(plain)
    for start in BOUNDS:
        for stop in BOUNDS:
            for step in STEPS:
                where = slice(start, stop, step)
                assert shared[where] == plain[where] and type(shared[where]) is list
                for size in {0, 1, 4, len(plain[where])}:
                    expected, made = list(plain), SharedList(plain)
                    new = list(range(size))
                    try:
                        expected[where] = new
                    except ValueError as error:
                        with pytest.raises(ValueError) as caught:
                            made[where] = new
                        assert str(caught.value) == str(error)
                    else:
                        made[where] = iter(new)
                    assert made == expected
                expected, made = list(plain), SharedList(plain)
                del expected[where], made[where]
                assert made == expected
    with pytest.raises(ValueError, match="zero"):
        shared[::0]
    with pytest.raises(ValueError, match="zero"):
        shared[::0] = []
    with pytest.raises(TypeError, match="iterable"):
        shared[:] = 5
    shared[1:3] = shared
    assert shared == list("aabcdefdef")


def test_adding_and_removing() -> None:
    shared = SharedList()
    shared.append(1)
    shared.extend("ab")
    shared.extend(shared)
    shared += (5,)
    shared.insert(0, "first")
    shared.insert(-1, "last but one")
    shared.insert(2**70, "last")
    assert shared == ["first", 1, "a", "b", 1, "a", "b", "last but one", 5, "last"]
    assert shared.pop() == "last" and shared.pop(0) == "first" and shared.pop(-2) == "last but one"
    shared.remove("a")
    assert shared == [1, "b", 1, "a", "b", 5]
    assert (
        shared.count(1) == 2
        and shared.index("b") == 1
        and shared.index("b", 2) == 4 == shared.index("b", -2, 2**70)
    )
    for action in (lambda: shared.remove("z"), lambda: shared.index("z"), lambda: shared.index("b", 2, 4)):
        with pytest.raises(ValueError):
            action()
    shared.clear()
    assert shared == []
    with pytest.raises(IndexError, match="empty"):
        shared.pop()


def test_order() -> None:
    shared = SharedList([3, 1, 2])
    shared.reverse()
    assert shared == [2, 1, 3] and list(reversed(shared)) == [3, 1, 2]
    shared.sort()
    assert shared == [1, 2, 3]
    shared.sort(key=lambda n: -n)
    assert shared == [3, 2, 1]
    shared[:] = [(1, "a"), (0, "b"), (1, "c"), (0, "d")]
    shared.sort(key=lambda pair: pair[0], reverse=True)  # stable
    assert shared == [(1, "a"), (1, "c"), (0, "b"), (0, "d")]
    shared.append("x")
    with pytest.raises(TypeError, match="not supported"):
        shared.sort()
    assert shared == [(1, "a"), (1, "c"), (0, "b"), (0, "d"), "x"]


def test_a_list_that_is_changed_while_it_is_sorted() -> None:
    """It is sorted again: nothing is lost."""
    shared = SharedList([3, 1, 2])
    calls = []

    def key(number: int) -> int:
        calls.append(number)
        if len(calls) < 40:
            shared.append(-len(calls))
        return number

    shared.sort(key=key)
    assert shared == sorted([3, 1, 2, *(-n for n in range(1, 40))])


def test_with_other_lists() -> None:
    shared = SharedList([1, 2])
    for result in (shared + [3], shared + SharedList([3]), [1] + SharedList([2, 3])):
        assert type(result) is list and result == [1, 2, 3]
    assert shared * 2 == 2 * shared == [1, 2, 1, 2] and type(shared * 2) is list
    for count, expected in ((2, [1, 2, 1, 2]), (1, [1, 2]), (0, []), (-1, [])):
        made = SharedList([1, 2])
        same = made
        made *= count
        assert made is same and made == expected
    for other in ((3,), "a", 5):
        with pytest.raises(TypeError):
            shared + other
    with pytest.raises(TypeError):
        shared *= 1.5


def test_comparison() -> None:
    shared = SharedList([1, [2, {"a": 3}]])
    assert shared == [1, [2, {"a": 3}]] and shared == [1, [2, {"a": 3}]] and shared == shared
    assert shared != [1] and shared != (1, [2, {"a": 3}]) and shared != 5
    shared = SharedList([1, 2])
    assert (
        shared < [1, 3]
        and shared <= [1, 2]
        and shared > [1]
        and shared >= SharedList([1, 2])
        and shared < [2]
    )
    with pytest.raises(TypeError):
        shared < (1, 3)  # noqa: B015


def test_copies() -> None:
    shared = SharedList([[1], {"a": ()}])
    plain = shared.copy()
    assert type(plain) is list and plain[0] is shared[0]
    assert repr(shared.snapshot()) == "[[1], {'a': ()}]"
    shared.append(shared)
    snapshot = shared.snapshot()
    assert snapshot[2] is snapshot
    assert repr(shared) == "SharedList([SharedList([1]), SharedDict({'a': ()}), ...])"
    shared.clear()


def test_iteration_is_over_one_moment() -> None:
    shared = SharedList(range(5))
    seen = []
    for number in shared:
        seen.append(number)
        shared.append(number)
        del shared[0]
    assert seen == [0, 1, 2, 3, 4]


def test_nothing_is_changed_by_what_cannot_be_stored() -> None:
    shared = SharedList([1, 2, 3])
    bad = (n for n in ())
    for action in (
        lambda: shared.append(bad),
        lambda: shared.insert(0, bad),
        lambda: shared.__setitem__(0, bad),
        lambda: shared.extend([7, 8, bad]),
        lambda: shared.__setitem__(slice(0, 2), [7, bad]),
        lambda: shared.append([{"a": bad}]),
        lambda: SharedList([bad]),
    ):
        with pytest.raises(TypeError, match="generator"):
            action()
    itself: list[Any] = []
    itself.append((itself, [itself]))
    itself.append(itself)
    with pytest.raises(ValueError, match="contains itself"):
        shared.append(itself)
    assert shared == [1, 2, 3]


def test_values_of_all_sizes() -> None:
    values = [
        None,
        "",
        b"x" * 100,
        "y" * 5000,
        b"z" * 300_000,
        {"a": ["w" * 70_000]},
        processing.Lock(),
        2**5000,
    ]
    shared = SharedList(values)
    assert shared[:6] == values[:6] and shared[6] is values[6] and shared[7] == 2**5000
    shared.reverse()
    shared[2:5] = shared[2:5][::-1]
    shared *= 2
    assert shared[8] == 2**5000 and len(shared) == 16
    for value in list(shared):
        if not isinstance(value, processing.Lock):
            shared.remove(value)
    assert len(shared) == 2


def test_many_items() -> None:
    """Ends and middle of a list that grows and shrinks."""
    plain: list[int] = []
    shared = SharedList()
    dice = random.Random(0)
    for number in range(3000):
        place = dice.choice([0, len(plain), dice.randrange(len(plain) + 1)])
        plain.insert(place, number)
        shared.insert(place, number)
    assert shared == plain
    while len(plain) > 10:
        place = dice.choice([0, -1, dice.randrange(len(plain))])
        assert shared.pop(place) == plain.pop(place)
    assert shared == plain
    shared.extend(range(100_000))
    assert len(shared) == 100_010 and shared[-1] == 99_999 and shared[50_010] == 50_000


def make_and_drop() -> None:
    shared = SharedList([[number, "x" * 5000] for number in range(200)])
    del shared[10:50:2]
    shared[:20] = ["y" * 20_000] * 10
    shared.sort(key=repr)
    shared.reverse()
    shared.pop()
    shared += shared
    shared[0] = None


def test_memory_is_freed() -> None:
    make_and_drop()  # the table of this process's handles grows
    gc.collect()
    before = processing.memory_usage()
    make_and_drop()
    gc.collect()
    after = processing.memory_usage()
    assert (after.used, after.objects) == (before.used, before.objects)


# ---- Several processes ---------------------------------------------------------------------------------------------


def change(shared: Any, queue: Any) -> None:
    shared.append({"made": "there"})
    shared[0].append(2)
    shared[1:2] = ["in", "between"]
    queue.put((shared, shared[-1]))


def test_everybody_sees_the_same(start_method: Any) -> None:
    shared = SharedList([[1], "second"])
    queue = start_method.Queue()
    with child(start_method, change, shared, queue) as process:
        back, last = queue.get(timeout=LIMIT)
        ended(process)
    assert back is shared and last is shared[-1]
    last["and"] = "here"
    assert shared == [[1, 2], "in", "between", {"made": "there", "and": "here"}]


def push(number: int, shared: Any, taken: Any) -> None:
    for step in range(300):
        shared.append((number, step))
        if step % 2:
            taken.append(shared.pop(0))
        if step % 50 == 0:
            shared.sort()
            shared.reverse()


def test_nothing_is_lost_or_doubled(start_method: Any) -> None:
    shared, taken = SharedList(), SharedList()
    with children(start_method, 3, push, shared, taken) as processes:
        ended(*processes)
    assert len(shared) == len(taken) == 450
    assert sorted([*shared, *taken]) == [(number, step) for number in range(3) for step in range(300)]


def test_threads_that_remove() -> None:
    """`remove` looks and removes in one step: each takes its own."""
    shared = SharedList([number % 4 for number in range(400)])

    def remove(number: int) -> None:
        for _ in range(100):
            shared.remove(number)

    threads = [threading.Thread(target=remove, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared == []


def write_at_random(shared: Any, seed: int, progress: Any) -> None:
    """Always a run of whole numbers, one after the other, of different sizes."""
    dice = random.Random(seed)
    while True:
        items = shared.copy()
        first, last = items[0][0], items[-1][0]
        what = dice.randrange(6)
        if what == 0 and len(items) > 1:
            shared.pop()
        elif what == 1 and len(items) > 1:
            del shared[: dice.randrange(1, len(items))]
        elif what == 2:
            shared.insert(0, item(first - 1))
        elif what == 3:
            shared[:0] = [item(number) for number in range(first - 5, first)]
        elif len(items) < 60:
            shared.append(item(last + 1))
            shared.extend([item(number) for number in range(last + 2, last + 6)])
        shared[0] = shared[0]
        progress[0] += 1


def item(number: int) -> Any:
    return (number, "v" * (0, 20, 200, 5000, 40_000)[number % 5])


@pytest.mark.once
def test_a_writer_is_killed_again_and_again() -> None:
    ctx = processing.get_context("fork")
    shared, progress = SharedList([item(0)]), Cells(1)
    for death in range(25):
        progress[0] = 0
        with child(ctx, write_at_random, shared, death, progress) as process:
            until(lambda death=death: progress[0] > 10 + death % 7)
            for _ in range(5):
                check_run(shared.copy())
            kill(process)
        check_run(shared.copy())
        assert len(shared) == len(list(shared))
        shared[0] = shared[0]  # nobody holds it
    progress.close()


def check_run(items: list[Any]) -> None:
    assert items == [item(number) for number in range(items[0][0], items[0][0] + len(items))]


def test_a_group() -> None:
    shared = SharedList([1, 2, 3])
    with pytest.raises(KeyError):
        with shared:
            shared.append(4)
            shared[0], shared[1] = shared[1], shared[0]
            assert shared == [2, 1, 3, 4]
            raise KeyError
    assert shared == [1, 2, 3]
    with shared:
        shared.sort(reverse=True)
        shared.remove(2)
        shared *= 2
    assert shared == [3, 1, 3, 1]


def test_statistics() -> None:
    shared = SharedList(range(100))
    facts = shared.statistics()
    assert facts.items == 100 and facts.bytes > 0 and facts.shards == 1
    assert isinstance(SharedDict(a=shared)["a"], SharedList)
