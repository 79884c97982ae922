"""The loops over shared numbers, timed in one process: nobody else uses them, as in the introduction's own table.

What is looked up in a loop is looked up in the same way for every peer, as users write it.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter
from typing import Any

LENGTH = 100


def array_read(kit: Any, count: int) -> float:
    """The introduction's: integers retrieved from a sequence."""
    sequence = kit.SharedArray("i", range(LENGTH))
    for _ in repeat(None, count // 10):
        sequence[5]
    start = perf_counter()
    for _ in repeat(None, count):
        sequence[5]
    seconds = perf_counter() - start
    if sequence[5] != 5:
        raise AssertionError(f"the item is {sequence[5]!r}")
    return seconds


def array_write(kit: Any, count: int) -> float:
    sequence = kit.SharedArray("i", range(LENGTH))
    for _ in repeat(None, count // 10):
        sequence[5] = 6
    start = perf_counter()
    for _ in repeat(None, count):
        sequence[5] = 7
    seconds = perf_counter() - start
    if sequence[5] != 7:
        raise AssertionError(f"the item is {sequence[5]!r}")
    return seconds


def value_read(kit: Any, count: int) -> float:
    value = kit.SharedValue("i", 5)
    for _ in repeat(None, count // 10):
        value.value  # noqa: B018
    start = perf_counter()
    for _ in repeat(None, count):
        value.value  # noqa: B018
    return perf_counter() - start


def value_update(kit: Any, count: int) -> float:
    """`+= 1` under the value's own lock."""
    value = kit.SharedValue("i", 0)
    for _ in repeat(None, count // 10):
        with value.get_lock():
            value.value += 1
    start = perf_counter()
    for _ in repeat(None, count):
        with value.get_lock():
            value.value += 1
    seconds = perf_counter() - start
    if value.value != count // 10 + count:
        raise AssertionError(f"the value is {value.value!r}")
    return seconds
