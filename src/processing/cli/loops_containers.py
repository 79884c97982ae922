"""The loops over shared dicts: an item read and set, two processes that write, and the memory of many items."""

from __future__ import annotations

import gc
import os
from itertools import cycle, islice, repeat
from time import perf_counter
from typing import Any

from . import loops, loops_arrays

KEYS = 1000
ENTRIES = 1_000_000
VALUE_BYTES = 100


def _filled(kit: Any) -> Any:
    shared = kit.SharedDict()
    for number in range(KEYS):
        shared[f"key {number}"] = number
    return shared


def dict_get(kit: Any, count: int) -> float:
    """A small value, while nobody changes anything."""
    shared = _filled(kit)
    for _ in repeat(None, loops._warm(count)):
        shared["key 5"]
    start = perf_counter()
    for _ in repeat(None, count):
        shared["key 5"]
    seconds = perf_counter() - start
    if shared["key 5"] != 5:
        raise AssertionError(f"the value is {shared['key 5']!r}")
    return seconds


def dict_set(kit: Any, count: int) -> float:
    """A small value in the place of another."""
    shared = _filled(kit)
    for _ in repeat(None, loops._warm(count)):
        shared["key 5"] = 6
    start = perf_counter()
    for _ in repeat(None, count):
        shared["key 5"] = 7
    seconds = perf_counter() - start
    if shared["key 5"] != 7:
        raise AssertionError(f"the value is {shared['key 5']!r}")
    return seconds


def _write(shared: Any, party: int, count: int) -> None:
    keys = [f"{party}, {number}" for number in range(KEYS)]
    for key in islice(cycle(keys), count):
        shared[key] = 7


def _write_other(gate: loops.Gate, shared: Any, count: int) -> None:
    _write(shared, 1, loops._warm(count))
    gate.arrive()
    _write(shared, 1, count)
    gate.arrive()


def dict_writers(kit: Any, count: int) -> float:
    """Two processes write keys of their own, each `count` times; the peer that is alone does it for both."""
    shared = _filled(kit)
    if kit.name == "alone":
        _write(shared, 0, loops._warm(2 * count))
        start = perf_counter()
        _write(shared, 0, 2 * count)
        return perf_counter() - start
    gate = loops.Gate()
    other = loops._started(kit, _write_other, gate, shared, count)
    _write(shared, 0, loops._warm(count))
    gate.open()
    start = perf_counter()
    _write(shared, 0, count)
    gate.wait()
    seconds = perf_counter() - start
    gate.let_go()
    other.join()
    return seconds


def dict_memory(kit: Any, count: int) -> float:
    """What the machine has less of, in bytes of the keys and values of a million entries, times `count`."""
    if kit.name == "bytes":
        return float(count)
    text = "v" * VALUE_BYTES
    shared = kit.SharedDict()
    gc.collect()
    before = loops_arrays._proportional([os.getpid()])
    size = 0
    for number in range(ENTRIES):
        key = f"key {number}"
        shared[key] = text
        size += len(key) + len(text)
    grown = loops_arrays._proportional([os.getpid()]) - before
    if len(shared) != ENTRIES:
        raise AssertionError(f"{len(shared)} entries")
    return grown / size * count
