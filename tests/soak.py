"""A randomised soak: processes that use queues, locks and conditions are killed with SIGKILL at random moments.

    python tests/soak.py [--seconds 60] [--seed N] [--cpu N]

Episode after episode, each of one kind: workers run, some of them are killed and replaced, then the killing stops and
the rest has to come to its end. What the workers did is written down in plain shared memory (helpers.Cells and a
mmap), which the package under test knows nothing of. At the end of an episode:

    hangs    somebody who could go on did not, for PATIENCE seconds
    lost     a message whose put had returned never came, though no consumer died with it; a notification or permit
             is missing
    corrupt  a message came twice, damaged, or before an older one of its producer; a lock let two in
    left     processes, files in /dev/shm, /dev/mqueue or the temporary folder, shared memory

All four have to be 0 (exit status 1 otherwise). The same seed makes the same decisions; the machine adds its own.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import processing
from helpers import Cells

PATIENCE = 20.0
MESSAGES = 4000  # of one producer at most
ROWS = 48  # producers or consumers of an episode at most, the replaced ones included


class Hang(Exception):
    pass


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hang(what)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Crew:
    """The workers of an episode, who are replaced when they are killed."""

    def __init__(self, rng: random.Random, tally: Counter[str]) -> None:
        self.rng = rng
        self.tally = tally
        self.alive: list[tuple[str, int, Any]] = []
        self.numbers: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.makers: dict[str, Callable[[int], Any]] = {}

    def hire(self, role: str, make: Callable[[int], Any] | None = None) -> None:
        if make is not None:
            self.makers[role] = make
        number = self.numbers[role]
        if number < ROWS:
            self.numbers[role] += 1
            process = self.makers[role](number)
            process.start()
            self.alive.append((role, number, process))

    def strike(self, roles: set[str]) -> None:
        """Kills one of them; somebody new takes the place, so not when there is no number left for that one."""
        victims = [member for member in self.alive if member[0] in roles and self.numbers[member[0]] < ROWS]
        if victims:
            member = self.rng.choice(victims)
            self.alive.remove(member)
            role, number, process = member
            process.kill()
            if self.rng.random() < 0.5:
                self.hire(role)  # while the dead one may not be noticed yet
                process.join()
            else:
                process.join()
                self.hire(role)
            if process.exitcode == -signal.SIGKILL:
                self.killed[role] += 1
                self.tally["kills"] += 1
            elif process.exitcode:
                self.tally["corrupt"] += 1
                print(f"CORRUPT: {role} {number} ended with {process.exitcode}", file=sys.stderr)
            process.close()

    def kill_for(self, seconds: float, roles: set[str]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.rng.choice([0.0, 0.001, 0.005, 0.02]) * self.rng.random())
            self.strike(roles)

    def finish(self, role: str, what: str) -> None:
        """Waits for the ends of all of that role."""
        deadline = time.monotonic() + PATIENCE
        for member in [member for member in self.alive if member[0] == role]:
            process = member[2]
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                self.tally["hangs"] += 1
                print(f"HANG: {role} {member[1]} (pid {process.pid}) {what}", file=sys.stderr)
                process.kill()
                process.join()
            elif process.exitcode:
                self.tally["corrupt"] += 1
                print(f"CORRUPT: {role} {member[1]} ended with {process.exitcode}", file=sys.stderr)
            process.close()
            self.alive.remove(member)

    def dismiss(self) -> None:
        for _, _, process in self.alive:
            process.kill()
            process.join()
            process.close()
        self.alive.clear()


# ---- Queues ---------------------------------------------------------------------------------------------------------


def payload(producer: int, index: int, largest: int) -> bytes:
    size = zlib.crc32(b"%d %d" % (producer, index)) % largest
    return (b"%d.%d." % (producer, index)) * (size // 8)


def produce(
    number: int, messages: Any, committed: Cells, stop: Cells, largest: int, batch: int, count: int
) -> None:
    index = 0
    while not stop[0] and index < count:
        upto = min(count, index + batch)
        items = [(number, n, payload(number, n, largest)) for n in range(index, upto)]
        if batch == 1:
            messages.put(items[0])
        else:
            messages.put_many(items)
        committed[number] = index = upto


def consume(
    number: int, messages: Any, seen: mmap.mmap, bad: Cells, largest: int, batch: int, tasks: bool
) -> None:
    latest = [-1] * ROWS
    while True:
        items = [messages.get()] if batch == 1 else messages.get_many(batch)
        over = None in items
        for item in items:
            if item is not None:
                producer, index, data = item
                if data != payload(producer, index, largest) or index <= latest[producer]:
                    bad[number] += 1
                latest[producer] = index
                seen[(number * ROWS + producer) * MESSAGES + index] = 1
            if tasks:
                messages.task_done()
        if over:
            # Ends that were for others go back.
            for _ in range(items.count(None) - 1):
                messages.put(None)
            return


def queue_episode(rng: random.Random, tally: Counter[str], seconds: float) -> None:
    tasks = rng.random() < 0.4
    maxsize = rng.choice([0, 0, 1, 5, 100])
    largest = rng.choice([20, 300, 5000, 40_000, 150_000])
    count = MESSAGES if largest <= 5000 else MESSAGES // 20
    put_batch, get_batch = rng.choice([1, 1, 10]), rng.choice([1, 1, 10])
    roles = set(rng.choice([["producer"], ["consumer"], ["producer", "consumer"]]))
    messages = (processing.JoinableQueue if tasks else processing.Queue)(maxsize, name="soak")
    committed, stop, bad = Cells(ROWS), Cells(1), Cells(ROWS)
    seen = mmap.mmap(-1, ROWS * ROWS * MESSAGES)
    crew = Crew(rng, tally)
    try:
        for _ in range(rng.randint(1, 3)):
            crew.hire(
                "producer",
                lambda number: processing.Process(
                    target=produce, args=(number, messages, committed, stop, largest, put_batch, count)
                ),
            )
        for _ in range(rng.randint(1, 3)):
            crew.hire(
                "consumer",
                lambda number: processing.Process(
                    target=consume, args=(number, messages, seen, bad, largest, get_batch, tasks)
                ),
            )
        crew.kill_for(seconds, roles)
        stop[0] = 1
        crew.finish("producer", "puts though there are consumers")
        lost_tasks = 0
        with within(PATIENCE, "the end of a queue"):
            for role, _, _ in list(crew.alive):
                if role == "consumer":
                    messages.put(None)
            crew.finish("consumer", "gets though there is something")
            if tasks:
                try:
                    messages.join()
                except processing.LostItems as error:
                    lost_tasks = error.count
        check_queue(
            messages, committed, seen, bad, tally, crew.killed["consumer"] * get_batch, lost_tasks, tasks
        )
    except Hang as error:
        tally["hangs"] += 1
        print(f"HANG: {error}; {messages!r}", file=sys.stderr)
    finally:
        crew.dismiss()
        seen.close()


def check_queue(
    messages: Any,
    committed: Cells,
    seen: mmap.mmap,
    bad: Cells,
    tally: Counter[str],
    excused: int,
    lost_tasks: int,
    tasks: bool,
) -> None:
    data = seen[:]
    missing = 0
    for producer in range(ROWS):
        rows = [
            data[(consumer * ROWS + producer) * MESSAGES : (consumer * ROWS + producer + 1) * MESSAGES]
            for consumer in range(ROWS)
        ]
        rows = [row for row in rows if 1 in row]
        sums = bytes(map(sum, zip(*rows, strict=True))) if rows else bytes(MESSAGES)
        tally["corrupt"] += sum(total > 1 for total in sums)  # came twice
        tally["messages"] += committed[producer]
        missing += sums[: committed[producer]].count(0)
    tally["corrupt"] += sum(bad[number] for number in range(ROWS))
    if not messages.empty():
        tally["corrupt"] += 1
    # A consumer may die between taking a message and writing that down; at most what it takes at once.
    lost = max(0, missing - excused)
    if tasks and missing > lost_tasks:
        lost = max(lost, missing - lost_tasks)
    tally["lost"] += lost


# ---- Locks ----------------------------------------------------------------------------------------------------------

INSIDE, FIRST, SECOND, WRONG, TURNS = range(5)  # cells of a lock episode


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def use_lock(number: int, lock: Any, cells: Cells, stop: Cells, timeouts: bool) -> None:
    me = os.getpid()
    while not stop[0]:
        try:
            if not (lock.acquire(True, 0.001) if timeouts else lock.acquire()):
                continue
        except processing.LockOwnerDied:
            continue
        other = cells[INSIDE]
        if other:
            # Fine if that one died here, and only then.
            cells[WRONG] += is_running(other)
            cells[SECOND] = cells[FIRST]
        elif cells[FIRST] != cells[SECOND]:
            cells[WRONG] += 1
        cells[INSIDE] = me
        cells[FIRST] += 1
        cells[SECOND] += 1
        if cells[INSIDE] != me or cells[FIRST] != cells[SECOND]:
            cells[WRONG] += 1
        cells[TURNS + number] += 1
        cells[INSIDE] = 0
        lock.release()


def lock_episode(rng: random.Random, tally: Counter[str], seconds: float) -> None:
    kind = rng.choice(["Lock", "RLock", "BoundedSemaphore"])
    lock = getattr(processing, kind)(name="soak")
    cells, stop = Cells(TURNS + ROWS), Cells(1)
    timeouts = rng.random() < 0.3
    crew = Crew(rng, tally)
    try:
        for _ in range(rng.randint(2, 4)):
            crew.hire(
                "user",
                lambda number: processing.Process(
                    target=use_lock, args=(number, lock, cells, stop, timeouts)
                ),
            )
        crew.kill_for(seconds, {"user"})
        stop[0] = 1
        crew.finish("user", f"waits for {lock!r}")
        with within(PATIENCE, f"acquire of {lock!r}"):
            try:
                lock.acquire()
            except processing.LockOwnerDied:
                lock.acquire()
            lock.release()
        tally["corrupt"] += cells[WRONG]
        tally["turns"] += sum(cells[TURNS + number] for number in range(ROWS))
    except Hang as error:
        tally["hangs"] += 1
        print(f"HANG: {error}", file=sys.stderr)
    finally:
        crew.dismiss()


# ---- Conditions -----------------------------------------------------------------------------------------------------

TICKETS, MADE, TAKEN = range(3)  # cells of a condition episode


def after_a_death(condition: Any) -> None:
    """What a user has to do: the dead owner may have been about to notify, or may have taken a notification."""
    while True:
        try:
            with condition:
                condition.notify_all()
            return
        except processing.LockOwnerDied:
            continue


def take_tickets(number: int, condition: Any, cells: Cells, stop: Cells) -> None:
    while True:
        try:
            with condition:
                while not cells[TICKETS]:
                    if stop[0] == 2:
                        return
                    condition.wait()
                cells[TICKETS] -= 1
                cells[TAKEN + number] += 1
        except processing.LockOwnerDied:
            after_a_death(condition)


def make_tickets(number: int, condition: Any, cells: Cells, stop: Cells) -> None:
    while not stop[0]:
        try:
            with condition:
                if cells[TICKETS] < 20:
                    cells[TICKETS] += 1
                    cells[MADE] += 1
                    condition.notify()
        except processing.LockOwnerDied:
            after_a_death(condition)


def condition_episode(rng: random.Random, tally: Counter[str], seconds: float) -> None:
    lock = rng.choice([processing.Lock, processing.RLock])(name="soak")
    condition = processing.Condition(lock)
    cells, stop = Cells(TAKEN + ROWS), Cells(1)
    roles = set(rng.choice([["taker"], ["taker"], ["maker"], ["taker", "maker"]]))
    crew = Crew(rng, tally)
    try:
        for _ in range(rng.randint(1, 4)):
            crew.hire(
                "taker",
                lambda number: processing.Process(target=take_tickets, args=(number, condition, cells, stop)),
            )
        for _ in range(rng.randint(1, 2)):
            crew.hire(
                "maker",
                lambda number: processing.Process(target=make_tickets, args=(number, condition, cells, stop)),
            )
        crew.kill_for(seconds, roles)
        stop[0] = 1
        crew.finish("maker", f"makes tickets with {condition!r}")
        with within(PATIENCE, f"{condition!r}: tickets are left, and takers wait"):
            # The last one who was killed may have had the lock; somebody has to find out.
            try:
                lock.acquire()
                lock.release()
            except processing.LockOwnerDied:
                after_a_death(condition)
            while cells[TICKETS] > 0 and any(role == "taker" for role, _, _ in crew.alive):
                time.sleep(0.001)
            stop[0] = 2
            with condition:
                condition.notify_all()
        crew.finish("taker", f"waits for {condition!r}")
        taken = sum(cells[TAKEN + number] for number in range(ROWS))
        # Who is killed between two cells leaves them one apart.
        difference = abs(cells[MADE] - taken - cells[TICKETS])
        tally["lost"] += max(0, difference - sum(crew.killed.values()))
        tally["tickets"] += taken
    except Hang as error:
        tally["hangs"] += 1
        print(f"HANG: {error}", file=sys.stderr)
    finally:
        crew.dismiss()


# ---- The whole ------------------------------------------------------------------------------------------------------

EPISODES = {"queue": queue_episode, "lock": lock_episode, "condition": condition_episode}


def files(*folders: str) -> set[str]:
    return {f"{folder}/{name}" for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)}


def living_children() -> set[int]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", errors="replace") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                        found.add(int(entry))
            except OSError:
                pass
    return found


def run(seconds: float, seed: int, cpu: int | None = None) -> Counter[str]:
    """The soak; what happened, by kind."""
    affinity = os.sched_getaffinity(0)
    # A temporary folder of its own: what others do in the machine's is not this program's.
    folders = ("/dev/shm", "/dev/mqueue", tempfile.mkdtemp(prefix="soak-"))
    os.environ["TMPDIR"] = tempfile.tempdir = folders[2]
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        rng = random.Random(seed)
        tally: Counter[str] = Counter(hangs=0, lost=0, corrupt=0, left=0)
        processing.Lock()
        gc.collect()
        memory = processing.memory_usage().used
        before_files, before_children = files(*folders), living_children()
        end = time.monotonic() + seconds
        names = sorted(EPISODES)
        number = 0
        while time.monotonic() < end:
            name = names[number % len(names)]
            number += 1
            trouble = tally["hangs"] + tally["lost"] + tally["corrupt"]
            state = rng.getrandbits(32)
            EPISODES[name](random.Random(state), tally, rng.uniform(0.05, min(1.0, max(0.1, seconds / 6))))
            tally[f"{name} episodes"] += 1
            if tally["hangs"] + tally["lost"] + tally["corrupt"] > trouble:
                print(f"TROUBLE in episode {number}: {name}, seed {state}", file=sys.stderr)
        gc.collect()
        for kind, things in (
            ("file", files(*folders) - before_files),
            ("process", living_children() - before_children),
        ):
            tally["left"] += len(things)
            for thing in things:
                print(f"LEFT: {kind} {thing}", file=sys.stderr)
        if processing.memory_usage().used > memory + (1 << 20):
            tally["left"] += 1
            print(f"LEFT: {processing.memory_usage().used - memory} bytes of shared memory", file=sys.stderr)
        return tally
    finally:
        os.sched_setaffinity(0, affinity)
        shutil.rmtree(folders[2], ignore_errors=True)


def passed(tally: Counter[str]) -> bool:
    return not any(tally[name] for name in ("hangs", "lost", "corrupt", "left"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Random SIGKILLs among users of queues, locks and conditions."
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--cpu", type=int, help="run everything on this CPU")
    options = parser.parse_args()
    place = f" on CPU {options.cpu}" if options.cpu is not None else ""
    print(f"soak: {options.seconds:g} s, seed {options.seed}{place}", flush=True)
    tally = run(options.seconds, options.seed, options.cpu)
    for name, number in sorted(tally.items()):
        print(f"{name:>20} {number:>10,}")
    print("soak: passed" if passed(tally) else "soak: FAILED")
    return 0 if passed(tally) else 1


if __name__ == "__main__":
    sys.exit(main())
