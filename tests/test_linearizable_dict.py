"""A shared dict is linearisable: whatever processes do at the same time, there is an order of one after the other that
explains all results, and in which nothing comes before what had ended when it began.

Processes make random operations on a few keys and record when each began, when it ended, and its result. The checker
searches such an order for each key on its own, which is enough (linearisability is local: Herlihy and Wing, 1990), by
the method of Wing and Gong: try as the next operation each one that began before any other had ended; remember what
has been tried (the operations done, and the value then: Lowe, 2017).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import pytest

import processing
from helpers import LIMIT, children, ended
from processing.containers import SharedDict

ABSENT = "absent"


@dataclass(frozen=True)
class Operation:
    """One call: when it began and ended (nanoseconds), what it did and gave."""

    begin: int
    end: int
    what: str
    key: str
    argument: Any
    result: Any


def apply(value: Any, operation: Operation) -> tuple[bool, Any]:
    """Whether a key with this value could give that result; and its value then."""
    what, argument, result = operation.what, operation.argument, operation.result
    if what == "set":
        return True, argument
    if what == "get":
        return result == value, value
    if what == "pop":
        return result == value, ABSENT
    if what == "setdefault":
        now = argument if value == ABSENT else value
        return result == now, now
    if what == "add":  # update_with(key, lambda value: value + argument, default=0)
        now = (0 if value == ABSENT else value) + argument
        return result == now, now
    assert what == "in"
    return result == (value != ABSENT), value


def explains(history: list[Operation]) -> bool:
    """Whether there is such an order for one key, which begins absent."""
    history = sorted(history, key=lambda operation: operation.begin)
    everything = (1 << len(history)) - 1
    tried: set[tuple[int, Any]] = set()
    todo: list[tuple[int, Any]] = [(0, ABSENT)]
    while todo:
        state = todo.pop()
        if state in tried:
            continue
        tried.add(state)
        done, value = state
        if done == everything:
            return True
        first_end = None
        for index, operation in enumerate(history):
            if done >> index & 1:
                continue
            if first_end is not None and operation.begin > first_end:
                break  # so did all that follow
            first_end = operation.end if first_end is None else min(first_end, operation.end)
        for index, operation in enumerate(history):
            if done >> index & 1:
                continue
            if first_end is None or operation.begin > first_end:
                break
            possible, following = apply(value, operation)
            if possible:
                todo.append((done | 1 << index, following))
    return False


def split(history: list[Operation]) -> dict[str, list[Operation]]:
    """By key."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    return keys


# ---- The checker ---------------------------------------------------------------------------------------------------


def operations(*rows: tuple[int, int, str, Any, Any]) -> list[Operation]:
    return [Operation(begin, end, what, "k", argument, result) for begin, end, what, argument, result in rows]


def test_the_checker_accepts() -> None:
    assert explains([])
    assert explains(operations((0, 1, "set", 5, None), (2, 3, "get", None, 5), (4, 5, "pop", None, 5)))
    # At the same time: either order.
    assert explains(operations((0, 9, "set", 5, None), (1, 2, "get", None, ABSENT), (3, 4, "get", None, 5)))
    assert explains(operations((0, 9, "add", 1, 2), (0, 9, "add", 1, 1), (0, 9, "get", None, 1)))
    assert explains(
        operations((0, 9, "setdefault", 1, 2), (0, 9, "setdefault", 2, 2), (5, 6, "in", None, False))
    )


@pytest.mark.parametrize(
    "history",
    [
        operations((0, 1, "set", 5, None), (2, 3, "get", None, ABSENT)),  # lost
        operations((0, 1, "set", 5, None), (2, 3, "set", 6, None), (4, 5, "get", None, 5)),  # stale
        operations(
            (0, 9, "set", 5, None), (1, 2, "get", None, 5), (3, 4, "get", None, ABSENT)
        ),  # there and back
        operations((0, 9, "add", 1, 1), (0, 9, "add", 1, 1)),  # one of two updates lost
        operations((0, 1, "set", 5, None), (2, 9, "pop", None, 5), (2, 9, "pop", None, 5)),  # given twice
        operations((0, 9, "setdefault", 1, 1), (0, 9, "setdefault", 2, 2)),  # both were first
        operations((0, 1, "set", 5, None), (2, 3, "get", None, 77)),  # never written
        operations((0, 1, "set", 5, None), (2, 3, "in", None, False)),
    ],
)
def test_the_checker_rejects(history: list[Operation]) -> None:
    assert not explains(history)


# ---- The dict ------------------------------------------------------------------------------------------------------

PROCESSES, ROUNDS, KEYS = 3, 12, ("a", "b", "c")
OPERATIONS = 60  # of each process, in a round: on a dict that none of them has used before
FILLERS = 682 - OPERATIONS // 2  # its table is full at 682, and it gets more shards instead of a larger one


def long(number: int) -> int:
    """An int that does not fit into a word, so that half of one would be noticed."""
    return number * (2**200 + 1)


def worker(number: int, dicts: Any, barrier: Any, results: Any, sizes: tuple[int, ...]) -> None:
    dice = random.Random(number)
    history = []
    for turn, shared in enumerate(dicts):
        barrier.wait(LIMIT)
        for step in range(OPERATIONS):
            if number == 0:
                shared["filler", step] = 0  # half way it gets more shards
            key = f"{turn}{dice.choice(KEYS)}"
            what = dice.choices(("get", "set", "pop", "setdefault", "add", "in"), (6, 4, 2, 2, 3, 1))[0]
            argument = long((turn * PROCESSES + number) * OPERATIONS + step) << dice.choice(sizes)
            result = None
            begin = time.monotonic_ns()
            if what == "get":
                result = shared.get(key, ABSENT)
            elif what == "set":
                shared[key] = argument
            elif what == "pop":
                result = shared.pop(key, ABSENT)
            elif what == "setdefault":
                result = shared.setdefault(key, argument)
            elif what == "add":
                result = shared.update_with(key, lambda value, more=argument: value + more, 0)
            else:
                result = key in shared
            history.append(Operation(begin, time.monotonic_ns(), what, key, argument, result))
    results.put(history)


# Values in the cells of the dict, and (2,000 bytes and more) objects of their own among them.
@pytest.mark.parametrize("sizes", [(0,), (0, 16_000, 64_000)], ids=["short", "long"])
def test_histories_of_several_processes(sizes: tuple[int, ...]) -> None:
    ctx = processing.get_context("fork")
    dicts, barrier, results = (
        [SharedDict.fromkeys(range(FILLERS)) for _ in range(ROUNDS)],
        ctx.Barrier(PROCESSES),
        ctx.Queue(),
    )
    with children(ctx, PROCESSES, worker, dicts, barrier, results, sizes) as processes:
        history = [operation for _ in range(PROCESSES) for operation in results.get(timeout=LIMIT)]
        ended(*processes)
    assert len(history) == PROCESSES * ROUNDS * OPERATIONS
    assert all(len(shared) >= FILLERS and shared.statistics().shards > 1 for shared in dicts)
    for key, its in split(history).items():
        assert explains(its), f"no order explains what was done with {key!r}:\n" + "\n".join(map(str, its))
