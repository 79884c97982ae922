"""Groups of changes, `with container:`: all or nothing, seen at once, whoever is killed when."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, children, ended, kill, output_of, until, until_asleep
from processing.containers import SharedDeque, SharedDict, SharedList, SharedNamespace, SharedSet

FORK = processing.get_context("fork")
LARGE = "v" * 100_000


class Failed(Exception):
    pass


def each_kind() -> list[Any]:
    """Name, container, plain content, change, content afterwards."""

    def of_dict(d: Any) -> None:
        d["a"] = 10
        del d["b"]
        d["c"] = {"x": [LARGE]}

    def of_set(s: Any) -> None:
        s.add("v" * 10_000)
        s.discard(2)

    def of_namespace(n: Any) -> None:
        n.a = 10
        del n.b
        n.c = LARGE

    def of_list(x: Any) -> None:
        x.append(LARGE)
        x[0] = [10]
        x.reverse()
        del x[1]

    return [
        ("dict", SharedDict, ({"a": 1, "b": 2},), of_dict, {"a": 10, "c": {"x": [LARGE]}}),
        ("set", SharedSet, ([1, 2],), of_set, {1, "v" * 10_000}),
        ("list", SharedList, ([1, 2, 3],), of_list, [LARGE, 2, [10]]),
        ("deque", SharedDeque, ([1, 2, 3], 9), of_list, [LARGE, 2, [10]]),
        ("namespace", SharedNamespace, (), of_namespace, {"a": 10, "c": LARGE}),
    ]


def make(cls: Any, arguments: tuple[Any, ...]) -> Any:
    return cls(a=1, b=2) if cls is SharedNamespace else cls(*arguments)


def plain(container: Any) -> Any:
    found = container.snapshot()
    return vars(found) if isinstance(container, SharedNamespace) else type(found)(found)


def equal(found: Any, wanted: Any) -> bool:
    return bool((list(found) if isinstance(wanted, list) else found) == wanted)


KINDS = pytest.mark.parametrize(
    ("cls", "arguments", "change", "wanted"), [pytest.param(*kind[1:], id=kind[0]) for kind in each_kind()]
)


# ---- All or nothing -------------------------------------------------------------------------------------------------


@KINDS
def test_seen_here_at_once_and_kept(cls: Any, arguments: Any, change: Any, wanted: Any) -> None:
    shared = make(cls, arguments)
    with shared as itself:
        assert itself is shared
        change(shared)
        assert equal(plain(shared), wanted)
        assert shared._facts()[0] == len(plain(make(cls, arguments)))  # nothing is in the container yet
    assert equal(plain(shared), wanted)
    assert shared._raw_len() == len(wanted)


@KINDS
def test_dropped_by_an_exception(cls: Any, arguments: Any, change: Any, wanted: Any) -> None:
    shared = make(cls, arguments)
    before = plain(shared)
    used = processing.memory_usage().used
    with pytest.raises(Failed), shared:
        change(shared)
        raise Failed
    assert plain(shared) == before
    assert processing.memory_usage().used <= used
    with shared:
        change(shared)
    assert equal(plain(shared), wanted)


@KINDS
def test_dropped_when_it_is_killed(cls: Any, arguments: Any, change: Any, wanted: Any) -> None:
    shared = make(cls, arguments)
    before = plain(shared)
    inside, never = Flag(), Flag()

    def target() -> None:
        with shared:
            change(shared)
            inside.say()
            never.hear()

    with child(FORK, target) as process:
        inside.hear()
        assert plain(shared) == before
        kill(process)
    assert plain(shared) == before
    change(shared)  # does not wait for the dead one
    assert equal(plain(shared), wanted)


@KINDS
def test_others_see_it_at_the_end(cls: Any, arguments: Any, change: Any, wanted: Any) -> None:
    shared = make(cls, arguments)
    before = plain(shared)
    changed, go, done = Flag(), Flag(), Flag()

    def target() -> None:
        with shared:
            change(shared)
            changed.say()
            go.hear()
        done.say()

    with child(FORK, target) as process:
        changed.hear()
        assert plain(shared) == before
        assert len(before) == shared._raw_len()
        go.say()
        done.hear()
        assert equal(plain(shared), wanted)
        ended(process)


@KINDS
def test_a_group_without_changes(cls: Any, arguments: Any, change: Any, wanted: Any) -> None:
    shared = make(cls, arguments)
    before = plain(shared)
    with shared:
        pass
    with shared:
        plain(shared)
    assert plain(shared) == before


def test_empty_at_the_end() -> None:
    numbers = SharedList(range(100))
    items = SharedDict.fromkeys(range(100))
    with numbers, items:
        numbers.clear()
        items.clear()
        assert (len(numbers), len(items)) == (0, 0)
        assert len(numbers.copy()) == 0
    assert (numbers, items) == ([], {})


def test_more_than_one_part_can_hold() -> None:
    """The container grows to 16 parts at the end of the group, and shrinks in another."""
    items = SharedDict()
    wanted = {f"key {number}": number for number in range(5000)}
    with items:
        for key, value in wanted.items():
            items[key] = value
        assert len(items) == 5000
    assert items == wanted
    assert list(items) == list(wanted)
    with items:
        for key in list(wanted)[:4990]:
            del items[key]
    assert items == dict(list(wanted.items())[4990:])


def test_order_of_insertion() -> None:
    items, wanted = SharedDict(a=1, b=2, c=3), {"a": 1, "b": 2, "c": 3}
    with items:
        for step in (items, wanted):
            step["d"] = 4
            step["b"] = 20
            del step["a"]
            step["a"] = 10
            step.pop("c")
            step.setdefault("c", 5)
        assert list(items.items()) == list(wanted.items())
    assert list(items.items()) == list(wanted.items())


# ---- What is wrong inside -------------------------------------------------------------------------------------------


def test_what_cannot_be_stored() -> None:
    items, numbers = SharedDict(a=1), SharedList([1])
    with items, numbers:
        items["b"] = 2
        with pytest.raises(TypeError, match="cannot pickle"):
            items["a"] = threading.Lock()
        with pytest.raises(TypeError, match="unhashable"):
            items[[]] = 1
        with pytest.raises(KeyError, match="'c'"):
            del items["c"]
        with pytest.raises(TypeError, match="cannot pickle"):
            numbers.append(threading.Lock())
        with pytest.raises(IndexError):
            numbers[5] = 1
        numbers.append(2)
    assert items == {"a": 1, "b": 2}
    assert numbers == [1, 2]


def test_leaving_what_was_not_entered() -> None:
    with pytest.raises(RuntimeError, match="no group"):
        SharedDict().__exit__(None, None, None)


def test_left_by_another_thread() -> None:
    items = SharedDict()
    found: list[BaseException] = []

    def leave() -> None:
        try:
            items.__exit__(None, None, None)
        except RuntimeError as error:
            found.append(error)

    with items:
        items["a"] = 1
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert items == {"a": 1}


MEMORY = """
import processing
from processing.containers import SharedDict, SharedList

processing.set_memory_limit(24 << 20)
items, numbers = SharedDict(a=1), SharedList([1])
for shared in (items, numbers):
    try:
        with shared:
            for number in range(1000):
                shared.update({number: "v" * 200_000}) if shared is items else shared.append("v" * 200_000)
    except MemoryError as error:
        print("MemoryError", len(str(error)) > 10)
try:
    with items:                     # small values: they are refused at the end of the group
        for number in range(400_000):
            items[number] = "v" * 100
except MemoryError as error:
    print("MemoryError")
print(items, numbers)
with items, numbers:
    items["b"] = "v" * 1000
    numbers.append(2)
print(len(items["b"]), numbers)
"""


@pytest.mark.once
def test_memory_limit(tmp_path: Any) -> None:
    assert output_of(tmp_path, MEMORY) == [
        *["MemoryError True"] * 2,
        "MemoryError",
        "SharedDict({'a': 1}) SharedList([1])",
        "1000 SharedList([1, 2])",
    ]


def test_memory_is_given_back() -> None:
    items = SharedDict()
    before = processing.memory_usage().used
    for fail in (True, False):
        try:
            with items:
                for number in range(20):
                    items[number] = LARGE
                    items[number] = {"inner": [LARGE]}
                if fail:
                    raise Failed
        except Failed:
            pass
    items.clear()
    other = SharedDict(a=1)  # values that are objects may be freed by the next change of any container
    del other
    assert processing.memory_usage().used <= before


def test_memory_does_not_grow_with_groups() -> None:
    items = SharedDict(a=1)
    before = processing.memory_usage().used
    for _ in range(5000):  # each brings 256 bytes of new cells
        with items:
            items["a"] += 1
    assert processing.memory_usage().used <= before + (128 << 10)


def test_memory_does_not_grow_with_slices() -> None:
    items = SharedList(range(3))
    before = processing.memory_usage().used
    for number in range(2000):
        items[:] = [number, "x" * 100, number]
        items.extend([1, 2])
    assert processing.memory_usage().used <= before + (128 << 10)
    assert items[:4] == [1999, "x" * 100, 1999, 1]


# ---- Others wait ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["change", "group"])
def test_changes_of_others_wait(how: str) -> None:
    items = SharedDict(a=1)
    begun, done = Flag(), Flag()

    def target() -> None:
        begun.say(os.getpid())
        if how == "change":
            items["a"] = "other"
        else:
            with items:
                items["b"] = items["a"]
        done.say()

    with items:
        items["a"] = "group"
        with child(FORK, target) as process:
            until_asleep(begun.hear())
            assert not done.was_said()
            assert items == {"a": "group"}
            items.__exit__(None, None, None)
            done.hear()
            ended(process)
        items.__enter__()
    assert items == ({"a": "other"} if how == "change" else {"a": "group", "b": "group"})


def test_who_waits_for_one_that_is_killed_goes_on() -> None:
    items = SharedDict(a=1)
    inside, begun = Flag(), Flag()

    def hold() -> None:
        with items:
            items["a"] = "never"
            inside.say()
            Flag().hear(LIMIT)

    def change() -> None:
        begun.say(os.getpid())
        with items:
            items["b"] = items["a"]

    with child(FORK, hold) as holder:
        inside.hear()
        with child(FORK, change) as waiter:
            until_asleep(begun.hear())
            kill(holder)
            ended(waiter)
    assert items == {"a": 1, "b": 1}


def test_reading_does_not_wait() -> None:
    items, numbers = SharedDict(a=1), SharedList([1, 2])
    inside, go = Flag(), Flag()

    def target() -> None:
        with items, numbers:
            items["a"] = numbers[0] = "never"
            inside.say()
            go.hear()
            raise SystemExit(3)

    with child(FORK, target) as process:
        inside.hear()
        assert (items["a"], items.get("a"), "a" in items, len(items), dict(items)) == (
            1,
            1,
            True,
            1,
            {"a": 1},
        )
        assert (numbers[0], len(numbers), list(numbers), 2 in numbers) == (1, 2, [1, 2], True)
        go.say()
        ended(process, exitcode=3)
    assert (items, numbers) == ({"a": 1}, [1, 2])


def test_threads_of_one_process_have_groups_of_their_own() -> None:
    """And they wait for each other without holding up the process."""
    items = SharedDict(n=0)

    def target() -> None:
        for _ in range(200):
            with items:
                items["n"] = items["n"] + 1

    threads = [threading.Thread(target=target) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert items == {"n": 800}


def test_another_thread_does_not_see_it() -> None:
    items, seen = SharedDict(a=1), []
    with items:
        items["a"] = 2
        thread = threading.Thread(target=lambda: seen.append(items.copy()))
        thread.start()
        thread.join(LIMIT)
    assert seen == [{"a": 1}]


def test_a_signal_while_it_waits() -> None:
    items = SharedDict()
    begun, caught = Flag(), Flag()

    def target() -> None:
        def handler(number: int, frame: Any) -> None:
            caught.say()
            raise Failed

        signal.signal(signal.SIGUSR1, handler)
        begun.say(os.getpid())
        with pytest.raises(Failed):
            items["a"] = 1
        with pytest.raises(Failed), items:
            pass

    with items, child(FORK, target) as process:
        pid = begun.hear()
        for _ in range(2):
            until_asleep(pid)
            os.kill(pid, signal.SIGUSR1)
            caught.hear()
        ended(process)
    assert items == {}


# ---- Inside each other ----------------------------------------------------------------------------------------------


def test_inside_itself() -> None:
    items = SharedDict(a=1)
    with items:
        with items:
            items["a"] = 2
        with pytest.raises(Failed), items:
            items["b"] = 3
            raise Failed
        assert SharedDict(items) == items
        assert items._raw_len() == 1
        items["c"] = 4
    assert items == {"a": 2, "b": 3, "c": 4}  # the outer one ended well


def test_of_two_containers() -> None:
    first, second = SharedDict(a=1), SharedList([1])
    with pytest.raises(Failed), first:
        first["a"] = 2
        with second:
            second.append(2)
        raise Failed
    assert first == {"a": 1}
    assert second == [1, 2]


def test_a_container_inside_is_another_one() -> None:
    outer = SharedDict(inner={})
    with pytest.raises(Failed), outer:
        outer["inner"]["a"] = 1
        outer["new"] = {}
        outer["new"]["b"] = 2
        assert outer["new"] == {"b": 2}
        raise Failed
    assert outer == {"inner": {"a": 1}}


def test_methods_of_several_steps() -> None:
    numbers, some, items = SharedList([3, 1, 2]), SharedSet([1, 2, 3]), SharedDict(n=1)
    with numbers, some, items:
        numbers.sort()
        numbers.remove(2)
        numbers *= 2
        numbers[1:3] = [7, 8, 9]
        some &= {1, 2}
        some ^= {2, 5}
        assert items.update_with("n", lambda n: n + 1) == 2
        items |= {"m": 1}
    assert numbers == [1, 7, 8, 9, 3]
    assert some == {1, 5}
    assert items == {"n": 2, "m": 1}


def test_a_full_deque() -> None:
    numbers = SharedDeque([1, 2, 3], 3)
    with numbers:
        numbers.append(4)
        numbers.appendleft(0)
        with pytest.raises(IndexError):
            numbers.insert(1, 5)
        assert list(numbers) == [0, 2, 3]
    assert list(numbers) == [0, 2, 3]


# ---- Fork, start methods --------------------------------------------------------------------------------------------


def test_a_process_forked_inside_is_outside() -> None:
    items = SharedDict(a=1)
    done = Flag()

    def target() -> None:
        assert items == {"a": 1}
        done.say(os.getpid())
        items["b"] = 2  # waits for the parent

    with items:
        items["a"] = 3
        with child(FORK, target) as process:
            until_asleep(done.hear())
            items.__exit__(None, None, None)
            ended(process)
        items.__enter__()
    assert items == {"a": 3, "b": 2}


def _count(number: int, items: Any, numbers: Any) -> None:
    for _ in range(100):
        with items:
            items["a"] += 1
            items["b"] -= 1
        with numbers:
            numbers.append(numbers[-1] + 1)
            del numbers[0]


def test_in_several_processes(start_method: Any) -> None:
    items, numbers = SharedDict(a=0, b=0), SharedList([0, 1])
    with children(start_method, 3, _count, items, numbers) as processes:
        seen = 0
        while any(process.is_alive() for process in processes):
            found = items.copy()
            assert found["a"] == -found["b"] >= seen
            seen = found["a"]
            first, second = numbers.copy()
            assert second == first + 1
        ended(*processes)
    assert items == {"a": 300, "b": -300}
    assert numbers == [300, 301]


# ---- Killed at random -----------------------------------------------------------------------------------------------


def _turn(number: int, items: Any, numbers: Any) -> None:
    """Each group leaves the sum of all values as it was, and the list a sequence of one number."""
    chance = random.Random(os.getpid())
    while True:
        with items:
            one, other = chance.sample(range(30), 2)
            amount = chance.randrange(100)
            items[one] = (items[one][0] - amount, "v" * chance.choice([1, 50, 6000]))
            items[other] = (items[other][0] + amount, items[other][1])
        with numbers:
            numbers[:] = [chance.randrange(100)] * chance.randrange(1, 60)


@pytest.mark.once
def test_killed_at_random() -> None:
    items = SharedDict.fromkeys(range(30), (100, ""))
    numbers = SharedList([0])
    chance = random.Random(1)
    for _ in range(25):
        with children(FORK, 2, _turn, items, numbers) as processes:
            target = items.statistics().waits + chance.randrange(40)
            until(lambda target=target: items.statistics().waits >= target or chance.random() < 0.01)
            for process in processes:
                kill(process)
        found = items.copy()
        assert len(items) == len(found) == 30
        assert sum(value for value, _ in found.values()) == 3000
        assert all(set(text) <= {"v"} and len(text) in (0, 1, 50, 6000) for _, text in found.values())
        assert len(set(numbers)) == 1
        items[0] = items[0]  # nobody holds it
        numbers[0] = numbers[0]
    items.clear()
    numbers.clear()
    assert (len(items), len(numbers)) == (0, 0)
