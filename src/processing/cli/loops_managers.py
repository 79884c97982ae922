"""The loops over objects that the server of a manager holds: the introduction's, items read and written, and starts.

    this program                                  another program (TCP)
      manager = kit.Manager() ----> its server      programs/serving.py MODULE KEY
      proxies, in one process or two                  get_server().serve_forever()
                                                    this process connects to 127.0.0.1, and shares nothing with it

Every server has answered before the clock starts, but where its start is what is measured.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from . import loops

KEYS = 10
SERVING = Path(__file__).parent / "programs" / "serving.py"


def _with_managed(kit: Any, manager: Any) -> Any:
    """The kit's processes, the manager's objects: for loops that are the same for those of both kinds."""
    names = ("Lock", "RLock", "Condition", "Queue")
    return SimpleNamespace(
        name=kit.name, Process=kit.Process, **{name: getattr(manager, name) for name in names}
    )


# ---- Items and values -----------------------------------------------------------------------------------------------


def _read(shared: Any, key: Any, expected: Any, count: int) -> float:
    for _ in repeat(None, loops._warm(count)):
        shared[key]
    start = perf_counter()
    for _ in repeat(None, count):
        found = shared[key]
    seconds = perf_counter() - start
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")
    return seconds


def _write(shared: Any, key: Any, count: int) -> float:
    for _ in repeat(None, loops._warm(count)):
        shared[key] = 6
    start = perf_counter()
    for _ in repeat(None, count):
        shared[key] = 7
    seconds = perf_counter() - start
    if shared[key] != 7:
        raise AssertionError(f"{shared[key]!r} instead of 7")
    return seconds


def _numbers() -> dict[str, int]:
    return {f"key {number}": number for number in range(KEYS)}


def list_read(kit: Any, count: int) -> float:
    with kit.Manager() as manager:
        return _read(manager.list(range(KEYS)), 5, 5, count)


def dict_read(kit: Any, count: int) -> float:
    with kit.Manager() as manager:
        return _read(manager.dict(_numbers()), "key 5", 5, count)


def dict_write(kit: Any, count: int) -> float:
    """A small value in the place of another."""
    with kit.Manager() as manager:
        return _write(manager.dict(_numbers()), "key 5", count)


def value_read(kit: Any, count: int) -> float:
    with kit.Manager() as manager:
        shared = manager.Value("i", 5)
        for _ in repeat(None, loops._warm(count)):
            found = shared.value
        start = perf_counter()
        for _ in repeat(None, count):
            found = shared.value
        seconds = perf_counter() - start
    if found != 5:
        raise AssertionError(f"{found!r} instead of 5")
    return seconds


# ---- Locks, messages, waking each other -----------------------------------------------------------------------------


def lock(kit: Any, count: int) -> float:
    with kit.Manager() as manager:
        return loops.lock(_with_managed(kit, manager), count)


def rlock(kit: Any, count: int) -> float:
    with kit.Manager() as manager:
        return loops.rlock(_with_managed(kit, manager), count)


def queue(kit: Any, count: int) -> float:
    """One process puts, this one gets; both ask the server."""
    with kit.Manager() as manager:
        return loops.queue(_with_managed(kit, manager), count)


def condition(kit: Any, count: int) -> float:
    """Two processes; both ask the server."""
    with kit.Manager() as manager:
        return loops.condition(_with_managed(kit, manager), count)


# ---- Another program, over TCP --------------------------------------------------------------------------------------


@contextmanager
def _dict_elsewhere(kit: Any) -> Iterator[Any]:
    """A managed dict of another program, which is reached over TCP as if it ran on another machine."""
    key = os.urandom(16)
    order = [sys.executable, str(SERVING), kit.name, key.hex()]
    with subprocess.Popen(order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = ("127.0.0.1", int(server.stdout.readline()))
            manager = importlib.import_module(f"{kit.name}.managers").SyncManager(address, key)
            manager.connect()
            shared = manager.dict(_numbers())
            if kit.name == "processing" and shared._link.requests is not None:
                raise AssertionError("the server shares memory with this process: this would not be TCP")
            yield shared
            del shared
        finally:
            server.terminate()


def tcp_read(kit: Any, count: int) -> float:
    with _dict_elsewhere(kit) as shared:
        return _read(shared, "key 5", 5, count)


def tcp_write(kit: Any, count: int) -> float:
    with _dict_elsewhere(kit) as shared:
        return _write(shared, "key 5", count)


# ---- Starting -------------------------------------------------------------------------------------------------------


def start(kit: Any, count: int) -> float:
    """A manager is started, makes a dict, and is shut down; a first one does not count."""
    for number in range(1 + count):
        if number == 1:
            begin = perf_counter()
        manager = kit.Manager()
        shared = manager.dict(key=number)
        if shared["key"] != number:
            raise AssertionError(f"{shared['key']!r} instead of {number}")
        del shared
        manager.shutdown()
    return perf_counter() - begin
