"""SharedDict between processes and threads: seen by all, exact counts, iteration meanwhile, groups, sudden deaths."""

from __future__ import annotations

import gc
import os
import pickle
import random
import threading
import time
from typing import Any

import pytest

import processing
from helpers import LIMIT, Cells, child, children, ended, kill, until, until_asleep
from processing.containers import SharedDict, SharedList, SharedSet

# ---- Seen by all ---------------------------------------------------------------------------------------------------


def change(shared: Any, queue: Any) -> None:
    shared["text"] = "from the child"
    shared["nested"]["list"].append({"made": "there"})
    shared["new"] = {"set": {1}}
    shared["lock"].acquire()
    del shared["gone"]
    shared[("a", 1)] = queue
    queue.put((shared, shared["new"], list(shared)))


def test_everybody_sees_the_same(start_method: Any) -> None:
    shared = SharedDict(text="", nested={"list": []}, gone=1, lock=processing.Lock())
    queue = start_method.Queue()
    with child(start_method, change, shared, queue) as process:
        back, new, keys = queue.get(timeout=LIMIT)
        ended(process)
    assert back is shared and new is shared["new"]
    assert keys == list(shared) == ["text", "nested", "lock", "new", ("a", 1)]
    assert shared["text"] == "from the child"
    assert shared["nested"] == {"list": [{"made": "there"}]}
    assert shared["lock"].locked()
    shared["new"]["set"].add(2)
    assert new == {"set": {1, 2}}
    shared["a", 1].put("through what the child had stored")
    assert queue.get(timeout=LIMIT) == "through what the child had stored"


def make(queue: Any) -> None:
    queue.put(SharedDict(a=[1], b="x" * 100_000))


def test_it_outlives_the_process_that_made_it(start_method: Any) -> None:
    queue = start_method.Queue()
    with child(start_method, make, queue) as process:
        ended(process)
    shared = queue.get(timeout=LIMIT)
    shared["a"].append(2)
    assert shared == {"a": [1, 2], "b": "x" * 100_000}


def hold(shared: Any, conn: Any) -> None:
    mine = shared["inner"]
    conn.send(len(mine))
    conn.recv()


def test_memory_is_freed_when_a_holder_is_killed() -> None:
    ctx = processing.get_context("fork")
    for _ in range(2):  # the first time, what a program makes once is made
        gc.collect()
        before = processing.memory_usage()
        shared = SharedDict(inner={"data": "x" * 1_000_000})
        mine, theirs = ctx.Pipe()
        with child(ctx, hold, shared, theirs) as process:
            assert mine.recv() == 1
            del shared
            gc.collect()
            assert processing.memory_usage().used > before.used + 1_000_000
            kill(process)
        del mine, theirs, process
        gc.collect()
        processing.active_children()
        after = processing.memory_usage()
    assert (after.used, after.objects) == (before.used, before.objects)


# ---- Several writers -----------------------------------------------------------------------------------------------

TIMES = 300


def count(number: int, shared: Any) -> None:
    for _ in range(TIMES):
        shared.update_with("all", lambda value: value + 1, 0)
        shared.update_with(f"by {number}", lambda value: value + 1, 0)
        with shared:
            shared["group"] = shared.get("group", 0) + 1
            shared["nested"]["same"] = shared["group"]


def test_counts_of_several_processes_are_exact(start_method: Any) -> None:
    shared = SharedDict(nested={})
    with children(start_method, 3, count, shared) as processes:
        ended(*processes)
    assert shared == {
        "nested": {"same": 3 * TIMES},
        "all": 3 * TIMES,
        "group": 3 * TIMES,
        **{f"by {number}": TIMES for number in range(3)},
    }


def test_counts_of_several_threads_are_exact() -> None:
    shared = SharedDict(nested={})
    threads = [threading.Thread(target=count, args=(number, shared)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared["all"] == shared["group"] == 4 * TIMES


def write_own(number: int, shared: Any) -> None:
    for key in range(2000):
        shared[number, key] = "v" * (key % 200)
        if key % 3 == 0:
            del shared[number, key // 2]
            shared[number, key // 2] = key


def test_writers_of_different_keys() -> None:
    shared = SharedDict()
    with children(processing.get_context("fork"), 3, write_own, shared) as processes:
        ended(*processes)
    assert len(shared) == 6000 == len(shared.keys())
    expected: dict[int, Any] = {}
    for key in range(2000):
        expected[key] = "v" * (key % 200)
        if key % 3 == 0:
            del expected[key // 2]
            expected[key // 2] = key
    for number in range(3):
        mine = [(key[1], value) for key, value in shared.items() if key[0] == number]
        assert mine == list(expected.items())  # the order of each is that of its insertions


def race(number: int, shared: Any, barrier: Any, results: Any) -> None:
    for turn in range(200):
        barrier.wait(LIMIT)
        won = shared.setdefault(("first", turn), number) == number
        popped = shared.pop(("prize", turn), None)
        results.put((won, popped is not None))


def test_only_one_is_first() -> None:
    ctx = processing.get_context("fork")
    shared, barrier, results = (
        SharedDict.fromkeys([("prize", turn) for turn in range(200)], 1),
        ctx.Barrier(3),
        ctx.Queue(),
    )
    with children(ctx, 3, race, shared, barrier, results) as processes:
        outcomes = [results.get(timeout=LIMIT) for _ in range(600)]
        ended(*processes)
    assert sum(won for won, _ in outcomes) == sum(prize for _, prize in outcomes) == 200


# ---- Iteration meanwhile -------------------------------------------------------------------------------------------


def test_iteration_is_over_one_moment() -> None:
    shared = SharedDict((number, number) for number in range(100))
    seen = []
    for key, value in shared.items():
        seen.append((key, value))
        shared.pop(key + 1, None)
        shared[key + 1000] = 0
    assert seen == [(number, number) for number in range(100)]  # also what went meanwhile, and nothing new
    for key in shared:
        del shared[key]
    assert len(shared) == 0


def turn_over(shared: Any, stop: Any) -> None:
    """Always ten keys in a row, or eleven for a moment; all values the same, but for the moments between groups."""
    first = 0
    while not stop[0]:
        shared[first + 10] = first + 10
        del shared[first]
        first += 1
        if first % 10 == 0:
            with shared:
                shared["x"] = shared["y"] = first
    stop[1] = 1


def test_snapshots_are_of_one_moment_while_others_write() -> None:
    shared = SharedDict({number: number for number in range(10)}, x=0, y=0)
    stop = Cells(2)
    with child(processing.get_context("fork"), turn_over, shared, stop) as process:
        for _ in range(2000):
            items = shared.copy()
            assert items.pop("x") == items.pop("y")  # a group is seen as a whole
            keys = list(items)
            assert len(keys) in (10, 11) and keys == list(range(keys[0], keys[0] + len(keys)))
            assert list(items.values()) == keys
            assert 10 <= len(shared) - 2 <= 11
        stop[0] = 1
        ended(process)
    stop.close()


# ---- Groups --------------------------------------------------------------------------------------------------------


def test_a_group_is_all_or_nothing() -> None:
    shared = SharedDict(a=1, b=2)
    with pytest.raises(ZeroDivisionError):
        with shared:
            shared["a"] = 10
            del shared["b"]
            assert shared == {"a": 10}
            1 // 0  # noqa: B018
    assert shared == {"a": 1, "b": 2}
    with shared:
        shared["c"] = shared.pop("a")
        with shared:
            shared.update(d=4)
    assert shared == {"b": 2, "c": 1, "d": 4}


def test_equal_keys_in_a_group() -> None:
    """The key that came first stays, as without one."""
    shared = SharedDict({1: "a"})
    with shared:
        shared[True] = "b"
    assert [type(key) for key in shared] == [int] and shared == {1: "b"}


def in_group(shared: Any, conn: Any) -> None:
    with shared:
        shared["a"] = 2
        shared["b"] = 2
        conn.send("inside")
        conn.recv()


def write_later(shared: Any, conn: Any) -> None:
    conn.send("ready")
    shared["c"] = 3
    conn.send("written")


@pytest.mark.parametrize("killed", [False, True])
def test_others_wait_for_the_end_of_a_group(killed: bool) -> None:
    ctx = processing.get_context("fork")
    shared = SharedDict(a=1, b=1)
    mine, theirs = ctx.Pipe()
    mine2, theirs2 = ctx.Pipe()
    with child(ctx, in_group, shared, theirs) as grouping:
        assert mine.recv() == "inside"
        assert shared == {"a": 1, "b": 1}  # reading goes on
        with child(ctx, write_later, shared, theirs2) as writer:
            assert mine2.recv() == "ready"
            until_asleep(writer.pid)
            assert shared == {"a": 1, "b": 1} and not mine2.poll()
            if killed:
                kill(grouping)
            else:
                mine.send("go")
                ended(grouping)
            assert mine2.poll(LIMIT) and mine2.recv() == "written"
            ended(writer)
    assert shared == ({"a": 1, "b": 1, "c": 3} if killed else {"a": 2, "b": 2, "c": 3})


# ---- Sudden deaths -------------------------------------------------------------------------------------------------

# Of several sizes: in the place of the old value, in another cell, as an object of its own.
SIZES = (0, 20, 24, 200, 3000, 9000, 70_000)
DEATHS = 25


def value_of(key: str, number: int) -> Any:
    size = SIZES[number % len(SIZES)]
    if number % 11 == 0:
        return {"key": key, "number": number}
    return (key, number, chr(97 + number % 26) * size)


def is_whole(key: str, value: Any) -> bool:
    if isinstance(value, SharedDict):
        return len(value) == 2 and value["key"] == key and value["number"] % 11 == 0
    return bool(value == value_of(key, value[1]) and value[0] == key)


def write_at_random(shared: Any, seed: int, progress: Any) -> None:
    dice = random.Random(seed)
    keys = [f"key {number}" for number in range(60)]
    number = 0
    while True:
        number += 1
        key = dice.choice(keys)
        what = dice.randrange(8)
        if what < 4:
            shared[key] = value_of(key, number)
        elif what == 4:
            shared.pop(key, None)
        elif what == 5:
            shared.update({other: value_of(other, number) for other in dice.sample(keys, 5)})
        elif what == 6:
            with shared:
                for other in dice.sample(keys, 3):
                    shared[other] = value_of(other, number)
        else:
            shared.setdefault(key, value_of(key, number))
            if dice.randrange(20) == 0:
                shared.clear()
        progress[0] = number


@pytest.mark.once
def test_a_writer_is_killed_again_and_again() -> None:
    ctx = processing.get_context("fork")
    shared = SharedDict()
    dice = random.Random(1)
    progress = Cells(1)
    gc.collect()
    for death in range(DEATHS):
        progress[0] = 0
        with child(ctx, write_at_random, shared, death, progress) as process:
            until(lambda: progress[0] > 20)
            for _ in range(dice.randrange(1, 40)):  # reading goes on meanwhile
                for key, value in shared.items():
                    assert is_whole(key, value), (key, value)
            time.sleep(dice.random() * 0.005)
            kill(process)
        items = shared.copy()
        assert len(items) == len(shared)
        for key, value in items.items():
            assert is_whole(key, value), (key, value)
            assert key in shared and shared[key] is not None
        shared["after"] = ("after", death * 7, "")
        del shared["after"]
    shared.clear()
    assert len(shared) == 0 and list(shared) == []
    progress.close()


def test_what_the_dead_had_stored_is_freed() -> None:
    ctx = processing.get_context("fork")
    progress = Cells(1)
    used = []
    for _ in range(3):
        shared = SharedDict()
        for death in range(5):
            progress[0] = 0
            with child(ctx, write_at_random, shared, death, progress) as process:
                until(lambda: progress[0] > 50)
                kill(process)
        shared.clear()
        del shared, process
        gc.collect()
        usage = processing.memory_usage()
        used.append((usage.used, usage.objects))
    assert used[1] == used[2]
    progress.close()


def test_a_fork_in_the_middle_of_a_group() -> None:
    """The child sees the container as everybody else does."""
    shared = SharedDict(a=1)
    with shared:
        shared["a"] = 2
        pid = os.fork()
        if pid == 0:
            os._exit(0 if shared["a"] == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert shared["a"] == 2
    assert shared["a"] == 2


def test_pickles_within_the_program() -> None:
    for made in (SharedDict(a=1), SharedList([1]), SharedSet([1])):
        assert pickle.loads(pickle.dumps(made)) is made
