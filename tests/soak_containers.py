"""A randomised soak of shared containers: processes that change them are killed with SIGKILL at random moments.

    python tests/soak_containers.py [--seconds 60] [--seed N] [--cpu N]

Workers move amounts between accounts (each move a group of changes of one dict), replace and delete keys of another,
append to and take from a list and a deque, and make nested containers; a reader looks on. They are killed and replaced
all the time. What must hold at every moment, and at the end of each episode:

    the accounts' sum is what it was        a group is all or nothing, for readers and after a death
    every value is whole                    it says its own length and checksum
    len() is the number of items            and each key is found that iteration shows
    nothing hangs, nothing is left          the shared memory in use is what it was before the episode

Prints `soak: passed`, or what was found (exit status 1). The same seed makes the same decisions; the machine adds its
own.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import time
import zlib
from typing import Any

import processing
from processing.containers import SharedDeque, SharedDict, SharedList

ACCOUNTS = 12
PATIENCE = 20
WORKERS = 3


def whole(number: int, size: int) -> tuple[int, int, bytes]:
    """A value that can be checked."""
    data = bytes([number % 251]) * size
    return size, zlib.crc32(data), data


def check(value: tuple[int, int, bytes]) -> None:
    size, checksum, data = value
    assert len(data) == size and zlib.crc32(data) == checksum, value


def work(seed: int, accounts: Any, things: Any, items: Any, ends: Any) -> None:
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        what = chance.randrange(10)
        if what < 3:
            with accounts:
                one, other = chance.sample(range(ACCOUNTS), 2)
                amount = chance.randrange(100)
                accounts[one] = accounts[one] - amount
                accounts[other] = accounts[other] + amount
        elif what < 6:
            key = chance.choice([chance.randrange(300), str(chance.randrange(300))])
            if chance.random() < 0.3:
                things.pop(key, None)
            elif chance.random() < 0.05:
                things[key] = {"inner": [whole(number, 10)]}
            else:
                things[key] = whole(number, chance.choice([0, 8, 100, 1000, 5000]))
        elif what < 8:
            action = chance.randrange(5)
            if action < 2:
                items.append(whole(number, chance.randrange(50)))
            elif action == 2 and len(items) > 50:
                del items[10:40]
            elif action == 3:
                items.insert(len(items) // 2, whole(number, 20))
            else:
                items.reverse()
        else:
            ends.append(whole(number, 30))
            if chance.random() < 0.5:
                ends.rotate(1)
            if chance.random() < 0.02:
                things.clear()


def look(accounts: Any, things: Any, items: Any, ends: Any) -> None:
    assert sum(accounts.values()) == ACCOUNTS * 1000
    for value in things.values():
        if isinstance(value, tuple):
            check(value)
    for value in list(items) + list(ends):
        check(value)


def watch(accounts: Any, things: Any, items: Any, ends: Any) -> None:
    while True:
        look(accounts, things, items, ends)


def episode(chance: random.Random, seconds: float) -> int:
    accounts = SharedDict(dict.fromkeys(range(ACCOUNTS), 1000))
    things, items, ends = SharedDict(), SharedList(), SharedDeque(maxlen=40)
    shared = (accounts, things, items, ends)
    context = processing.get_context("fork")
    watcher = context.Process(target=watch, args=shared)
    watcher.start()
    workers = []
    kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(workers) < WORKERS:
            worker = context.Process(target=work, args=(chance.randrange(1 << 30), *shared))
            worker.start()
            workers.append(worker)
        time.sleep(chance.random() * 0.01)
        victim = workers.pop(chance.randrange(len(workers)))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills += 1
        assert watcher.is_alive(), "the reader found something"
        if len(items) > 2000:
            items.clear()
    for worker in (*workers, watcher):
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    look(*shared)
    for container in (accounts, things):
        pairs = list(container.items())
        assert len(container) == len(pairs)
        assert all(key in container for key, _ in pairs)
    assert len(items) == len(list(items)) and len(ends) == len(list(ends)) <= 40
    with things:  # everybody can go on
        things["end"] = 1
    return kills


def too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"somebody hung for {PATIENCE} seconds")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--cpu", type=int)
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, [options.cpu])
    chance = random.Random(options.seed)
    print(f"seed {options.seed}")
    signal.signal(signal.SIGALRM, too_long)
    kills = episodes = 0
    before = None
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        signal.alarm(PATIENCE)
        kills += episode(chance, min(2.0, options.seconds))
        signal.alarm(0)
        gc.collect()
        episodes += 1
        now = processing.memory_usage().objects
        before = now if before is None else before
        assert now <= before + 4, f"{now - before} objects of shared memory are left"
    print(f"{episodes} episodes, {kills} kills")
    print("soak: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
