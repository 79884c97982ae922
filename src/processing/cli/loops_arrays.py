"""The loops over shared arrays: how quickly one is handed over, and how much memory its readers take."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from . import loops

LARGE = 1 << 30
# What copies is given less, for the sake of everybody's time.
SMALL = 64 << 20
SMALLEST = 16 << 20
READERS = 8


def hand_over(kit: Any, count: int) -> float:
    """An array goes to another process and comes back, as an echo; no array at all for the peer that says so."""
    message: Any = None
    if kit.name == "processing":
        from processing import arrays

        message = arrays.empty(LARGE, "u1")
    elif kit.name != "message":
        import numpy

        message = numpy.ones(SMALLEST, "u1")
    there, back = kit.Queue(), kit.Queue()
    seconds = loops._round_trips(kit, (there.put, back.get), (there.get, back.put), count, message)
    if kit.name == "processing":
        import numpy

        there.put(message)
        if not numpy.shares_memory(there.get(), message):
            raise AssertionError("the array was copied")
    return seconds


def _open(gate: loops.Gate, messages: Any, wanted: int) -> None:
    import numpy

    gate.arrive()
    array = messages.get()
    if not isinstance(array, numpy.ndarray):
        array = array.get()
    total = int(array[:: os.sysconf("SC_PAGE_SIZE")].sum(dtype=numpy.int64))  # every page of it
    if total != wanted:
        raise AssertionError("not the array that was sent")
    gate.arrive()


def _proportional(pids: list[int]) -> int:
    """The memory of several processes in bytes; what they share is counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


def share_memory(kit: Any, count: int) -> float:
    """How many times the size of an array the memory in use grows until eight processes have it, times `count`."""
    import numpy

    size = LARGE if kit.name == "processing" else SMALL
    array = numpy.ones(size, "u1")
    wanted = len(range(0, size, os.sysconf("SC_PAGE_SIZE")))
    messages = kit.Queue()
    gates = [loops.Gate() for _ in range(READERS)]
    readers = [loops._started(kit, _open, gate, messages, wanted) for gate in gates]
    pids = [os.getpid(), *(reader.pid for reader in readers)]
    for gate in gates:
        gate.wait()
    gc.collect()
    before = _proportional(pids)
    sent = kit.share(array) if kit.name == "processing" else array
    for gate in gates:
        messages.put(sent)
        gate.let_go()
    for gate in gates:
        gate.wait()
    gc.collect()
    grown = _proportional(pids) - before
    for gate in gates:
        gate.let_go()
    for reader in readers:
        reader.join()
    return grown / size * count
