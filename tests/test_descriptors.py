"""What objects cost: descriptors, shared memory, and that both are given back."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, ended, output_of, until


def descriptors() -> int:
    # Not counting that of the listing itself.
    return len(os.listdir("/proc/self/fd")) - 1


HOW_MANY = """
    import os

    def descriptors():
        return len(os.listdir("/proc/self/fd")) - 1

    before = descriptors()
    import processing
    print(descriptors() - before)
    kept = []
    for number in range(200):
        kept += [processing.Lock(), processing.RLock(), processing.Semaphore(), processing.BoundedSemaphore(),
                 processing.Condition(), processing.Event(), processing.Barrier(2), processing.Queue(),
                 processing.SimpleQueue(), processing.JoinableQueue(), *processing.Pipe(), *processing.Pipe(False)]
        kept[-1].send(1)
        kept[-7].put([number])
        with kept[-14]:
            pass
    print(descriptors() - before)
    del kept
    print(descriptors() - before)
"""


def test_at_most_three_however_many_objects(tmp_path: Path) -> None:
    imported, used, dropped = map(int, output_of(tmp_path, HOW_MANY))
    assert imported == 0
    assert used <= 3
    assert dropped <= 3


def look(connection: Any, number: int) -> None:
    kept = [processing.Lock() for _ in range(100)] + [processing.Queue() for _ in range(100)]
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
        except OSError:
            pass  # that of the listing
    connection.send(names)
    assert kept


def test_children_have_no_more(start_method: Any) -> None:
    """Besides what a fork inherits: the standard streams, at most three, and what spawning itself needs."""
    if start_method.get_start_method() == "fork":
        return  # has what its parent has: test_a_fork_needs_no_more_than_its_parent
    ours, theirs = start_method.Pipe()
    with child(start_method, look, theirs, 0) as process:
        assert ours.poll(LIMIT)
        names = ours.recv()
        ended(process)
    ours_only = [name for fd, name in names if fd > 2]
    arena = [name for name in ours_only if "memfd" in name or "arena" in name]
    assert len(arena) <= 1, names
    assert len(ours_only) <= 3 + 2, names
    ours.close()
    theirs.close()


def count_after(flag: Flag) -> None:
    before = descriptors()
    kept = [processing.Queue() for _ in range(100)]
    for messages in kept:
        messages.put(1)
        messages.get()
    flag.say(descriptors() - before)


def test_a_fork_needs_no_more_than_its_parent() -> None:
    processing.Lock()
    flag = Flag()
    with child(processing, count_after, flag) as process:
        assert flag.hear() <= 1
        ended(process)


def test_descriptors_that_were_asked_for_are_given_back() -> None:
    processing.Queue().fileno()
    gc.collect()
    before = descriptors()
    receiver, sender = processing.Pipe(False)
    messages = processing.Queue()
    posix = processing.PosixQueue()
    assert len({receiver.fileno(), messages.fileno(), posix.fileno()}) == 3
    assert descriptors() <= before + 3
    receiver.close()
    sender.close()
    messages.close()
    posix.close()
    del receiver, sender, messages, posix
    gc.collect()
    assert descriptors() <= before


def test_sentinels_are_given_back() -> None:
    with child(processing, abs, 1) as process:
        ended(process)
    before = descriptors()
    for _ in range(5):
        process = processing.Process(target=abs, args=[1])
        process.start()
        ended(process)
        process.close()
    assert descriptors() == before


def test_nothing_has_a_name() -> None:
    kept = [processing.Lock(), processing.Queue(), processing.Pipe(), processing.PosixQueue()]
    kept[1].put(b"x" * 1_000_000)
    for folder in ("/dev/shm", "/dev/mqueue"):
        if os.path.isdir(folder):
            assert not [name for name in os.listdir(folder) if "processing" in name or name.startswith("pz")]


# ---- Shared memory --------------------------------------------------------------------------------------------------


def used() -> int:
    gc.collect()
    amount: int = processing.memory_usage().used
    return amount


@pytest.mark.once
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Event"])
def test_a_hundred_thousand(kind: str) -> None:
    """Under 20 MB of shared memory, and all of it given back."""
    make = getattr(processing, kind)
    processing.Lock()
    before = used()
    reserved = processing.memory_usage().reserved
    count = 100_000 if kind == "Lock" else 20_000
    kept = [make() for _ in range(count)]
    assert used() - before < 200 * count
    assert processing.memory_usage().reserved - reserved < max(200 * count, 4 << 20)
    assert all(each.acquire() if kind != "Event" else each.set() is None for each in kept[:100])
    full = used()
    kept.clear()
    left = used()
    # The table of this process's references has grown, and stays; the objects are gone.
    assert left - before < (full - before) // 10
    kept = [make() for _ in range(count)]
    kept.clear()
    assert used() <= left + 50_000


def test_memory_is_used_again() -> None:
    for _ in range(3):
        kept = [processing.Lock() for _ in range(20_000)]
        kept.clear()
        gc.collect()
    reserved = processing.memory_usage().reserved
    for _ in range(5):
        kept = [processing.Lock() for _ in range(20_000)]
        kept.clear()
        gc.collect()
    assert processing.memory_usage().reserved <= reserved + (1 << 20)


KINDS: dict[str, tuple[Any, ...]] = {
    "Lock": (),
    "RLock": (),
    "Semaphore": (1,),
    "BoundedSemaphore": (5,),
    "Condition": (),
    "Event": (),
    "Barrier": (3,),
    "Queue": (),
    "SimpleQueue": (),
    "JoinableQueue": (),
    "Pipe": (),
}


@pytest.mark.once
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_given_back(kind: str) -> None:
    make = getattr(processing, kind)

    def use() -> None:
        kept = [make(*KINDS[kind]) for _ in range(300)]
        for each in kept:
            if kind.endswith("Queue"):
                each.put("left in it")
            elif kind == "Pipe":
                each[0].send(b"x" * 100_000)

    use()
    before = used()
    for _ in range(5):
        use()
    assert used() <= before + 20_000


def test_a_process_gives_back_what_it_held() -> None:
    messages = processing.Queue()
    lock = processing.Lock()
    with child(processing, hold_much, messages, lock) as process:
        ended(process)
    before = used()
    for _ in range(20):
        with child(processing, hold_much, messages, lock) as process:
            ended(process)
    until(lambda: used() <= before + 20_000)
    assert messages.empty()


def hold_much(messages: Any, lock: Any) -> None:
    kept = [processing.Event() for _ in range(200)]
    inner = processing.Queue()
    inner.put(kept)
    messages.put(inner)
    messages.get(timeout=LIMIT)
    assert lock is not None
