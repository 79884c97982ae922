"""A randomised soak of pools: random workers of busy pools are killed with SIGKILL.

    python tests/soak_pool.py [--seconds 60] [--kills N] [--seed N] [--cpu N] [--method fork|forkserver|spawn]

Each episode is a pool under all kinds of calls at once. Every call notes (key, pid) in a file as it begins, so the soak
knows what ran in whom, and it knows whom it killed. What must hold at the end of each episode:

    a call fails with WorkerDied only       if its worker was killed: right pid, signal, task, index; one each
    no call without retries begins twice    and one that has returned began in the worker that says so
    all others return the right value       maps and imap in order, imap_unordered each once
    nothing hangs, nothing is left          shared memory, descriptors and children are what they were

Prints `soak: passed`, or what was found (exit status 1; a hang: the stacks). The same seed makes the same decisions;
the machine adds its own.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import processing
from processing.errors import TaskTimeout, WorkerDied
from processing.pool import Pool

PATIENCE = 60
WORKERS = 3
LARGE = 10_000_000
RECORD = struct.Struct("qq")

notes = -1


def open_notes(path: str) -> None:
    global notes
    notes = os.open(path, os.O_WRONLY | os.O_APPEND)


def work(key: int, size: int = 0, seconds: float = 0.0) -> tuple[int, int, bytes]:
    os.write(notes, RECORD.pack(key, os.getpid()))
    if seconds:
        time.sleep(seconds)
    return key, os.getpid(), bytes([key % 251]) * size


def work_long(key: int) -> tuple[int, int, bytes]:
    return work(key, 0, 0.002)


def work_large(key: int) -> tuple[int, int, bytes]:
    return work(key, LARGE)


def work_for_ever(key: int) -> None:
    work(key, 0, 3600)


class Episode:
    """One pool, what was asked of it, and what came of that."""

    def __init__(self, chance: random.Random, method: str, path: str) -> None:
        self.chance = chance
        self.path = path
        self.keys = 0
        self.killed: set[int] = set()
        self.good: dict[int, int] = {}  # key -> pid
        self.lost: dict[int, WorkerDied] = {}
        self.retried: set[int] = set()
        self.pool = Pool(
            WORKERS,
            open_notes,
            (path,),
            chance.choice([None, None, 20]),
            processing.get_context(method),
        )

    def new(self, count: int) -> range:
        self.keys += count
        return range(self.keys - count, self.keys)

    def kill(self, stop: threading.Event, seed: int, wanted: int) -> None:
        chance = random.Random(seed)
        while len(self.killed) < wanted and not stop.wait(chance.random() * 0.02):
            victims = [worker.pid for worker in self.pool._pool if worker.is_alive() and worker.pid]
            for pid in chance.sample(victims, min(len(victims), chance.choice([1, 1, 1, 2]))):
                if pid not in self.killed:
                    self.killed.add(pid)  # first: it may be reported before kill returns
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        self.killed.discard(pid)

    def take(self, key: int, get: Any, size: int, index: int, name: str) -> None:
        try:
            there, pid, data = get()
        except WorkerDied as error:
            assert error.pid in self.killed, f"{error!r}: it was not killed by this soak"
            assert error.signal == signal.SIGKILL and error.exitcode is None, error
            assert error.index == index, (error, error.index, index)
            assert error.task is not None and name in error.task, error.task
            self.lost[key] = error
        else:
            assert there == key and data == bytes([key % 251]) * size, (there, key, len(data))
            self.good[key] = pid

    def run(self) -> None:
        pool, chance = self.pool, self.chance
        single = [(key, pool.apply_async(work, (key,))) for key in self.new(100)]
        retried = [(key, pool.apply_async(work_long, (key,), retries=30)) for key in self.new(10)]
        self.retried.update(key for key, _ in retried)
        large = [(key, pool.apply_async(work_large, (key,))) for key in self.new(4)]
        late = [(key, pool.apply_async(work_for_ever, (key,), timeout=0.05)) for key in self.new(1)]
        unwanted = [(key, pool.apply_async(work_for_ever, (key,))) for key in self.new(1)]
        mapped = self.new(50)
        whole = pool.map_async(work_long, mapped, retries=30)
        self.retried.update(mapped)
        ordered = self.new(100)
        iterator = pool.imap(work_long, ordered, chance.choice([1, 7]))
        for index, key in enumerate(ordered):
            if index == 30:
                pool.resize(chance.choice([2, 4]))
            self.take(key, iterator.next, 0, index, "work_long")
        anyhow = self.new(100)
        loose = pool.imap_unordered(work_long, anyhow, chance.choice([1, 7]))
        seen = set()
        for _ in anyhow:
            try:
                key, pid, _data = loose.next()
            except WorkerDied as error:
                key = anyhow[error.index]
                assert error.pid in self.killed and error.signal == signal.SIGKILL, error
                self.lost[key] = error
            else:
                self.good[key] = pid
            assert key not in seen, key
            seen.add(key)
        assert seen == set(anyhow)
        for _, result in unwanted:
            result.cancel()
        for key, result in single:
            self.take(key, result.get, 0, 0, "work")
        for key, result in retried:
            self.take(key, result.get, 0, 0, "work_long")
        for key, result in large:
            self.take(key, result.get, LARGE, 0, "work_large")
        for key, result in late:
            try:
                self.take(key, result.get, 0, 0, "work_for_ever")
                assert key in self.lost, "it returned"
            except TaskTimeout:
                pass
        for (key, pid, _data), wanted in zip(whole.get(), mapped, strict=True):
            assert key == wanted
            self.good[key] = pid

    def check(self) -> None:
        began: dict[int, list[int]] = collections.defaultdict(list)
        for key, pid in RECORD.iter_unpack(Path(self.path).read_bytes()):
            began[key].append(pid)
        deaths = collections.Counter(error.pid for error in self.lost.values())
        assert all(count == 1 for count in deaths.values()), f"one death, several calls lost: {deaths}"
        assert not self.retried & self.lost.keys(), "lost in spite of retries"
        for key, pids in began.items():
            if key in self.retried:
                assert set(pids[:-1]) <= self.killed, f"call {key} ran again for no reason: {pids}"
            else:
                assert len(pids) == 1, f"call {key} began in {pids}"
        for key, pid in self.good.items():
            # With retries it may run again although it returned: its worker died before that was noted.
            assert pid in began[key], (key, pid, began[key])
        for key, error in self.lost.items():
            assert began[key] in ([], [error.pid]), (key, error.pid, began[key])


def episode(chance: random.Random, method: str, wanted: int) -> tuple[int, int]:
    """-> how many were killed, how many calls were lost."""
    with tempfile.NamedTemporaryFile() as file:
        one = Episode(chance, method, file.name)
        stop = threading.Event()
        killer = threading.Thread(target=one.kill, args=(stop, chance.randrange(1 << 30), wanted))
        killer.start()
        try:
            one.run()
            if chance.random() < 0.5:  # with kills going on
                one.pool.close()
            else:
                one.pool.terminate()
            assert one.pool.join(PATIENCE), "the pool did not end"
        finally:
            stop.set()
            killer.join()
            one.pool.terminate()
            one.pool.join()
        one.check()
        return len(one.killed), len(one.lost)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=1 << 30)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--method", choices=["fork", "forkserver", "spawn"])
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, [options.cpu])
    chance = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    kills = lost = episodes = 0
    before: tuple[int, int, set[str]] | None = None
    end = time.monotonic() + options.seconds
    while time.monotonic() < end and kills < options.kills:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        method = options.method or ("fork", "forkserver", "spawn")[episodes % 3]
        died, failed = episode(chance, method, options.kills - kills)
        kills += died
        lost += failed
        episodes += 1
        gc.collect()
        now = processing.memory_usage().objects, len(os.listdir("/proc/self/fd")), children()
        if options.method or episodes == 3:  # all helpers (the zygotes) are there
            before = before or now
        if before is not None:
            assert now[0] <= before[0] + 4, f"{now[0] - before[0]} objects of shared memory are left"
            assert now[1] <= before[1], f"{now[1] - before[1]} descriptors are left"
            assert now[2] <= before[2], f"processes are left: {now[2] - before[2]}"
    faulthandler.cancel_dump_traceback_later()
    print(f"{episodes} episodes, {kills} kills, {lost} calls lost")
    print("soak: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
