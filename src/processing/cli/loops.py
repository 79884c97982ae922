"""The loops that are timed. Each gets a kit (peers.py) and a count, and returns seconds by the consumer's clock.

A measurement with two parties goes

    consumer (this process)          producer (a process or thread that the kit starts)
    warm-up                <=======  warm-up
    gate.open()            <------>  gate.arrive()
    clock starts
    `count` operations     <=======  `count` operations
    clock stops

The gate is a pair of plain pipes, the same for every peer. Garbage collection is off on both sides. What is looked up
in a loop is looked up in the same way for every peer: bound methods for channels, attributes for locks, as in the
introduction's own speed program.
"""

from __future__ import annotations

import gc
import os
import signal
import statistics
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from time import perf_counter
from typing import Any

MESSAGE = "x" * 256
BATCH = 100
ARRAY_BYTES = 64 << 20
STARTING = Path(__file__).parent / "programs" / "starting.py"


class Gate:
    """Lets two parties start together, with means that belong to no peer."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.arrived = os.pipe()
        self.opened = os.pipe()

    def arrive(self) -> None:
        """The other party: ready; waits until the gate is open."""
        os.write(self.arrived[1], b".")
        os.read(self.opened[0], 1)

    def open(self) -> None:
        """This party: waits for the other one and starts it."""
        self.wait()
        self.let_go()

    def wait(self) -> None:
        os.read(self.arrived[0], 1)

    def let_go(self) -> None:
        os.write(self.opened[1], b".")


def _guarded(body: Callable[..., None], gate: Gate, *args: Any) -> None:
    """Runs the other party. If it fails, this party would wait for ever: it is ended, with the reason on stderr."""
    gc.disable()
    try:
        body(gate, *args)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os.kill(gate.owner, signal.SIGTERM)


def _started(kit: Any, body: Callable[..., None], gate: Gate, *args: Any) -> Any:
    other = kit.Process(target=_guarded, args=(body, gate, *args))
    other.start()
    return other


def _warm(count: int) -> int:
    return max(1, count // 10)


# ---- One way --------------------------------------------------------------------------------------------------------


def _produce(gate: Gate, put: Callable[[Any], Any], count: int) -> None:
    for _ in repeat(None, _warm(count)):
        put(MESSAGE)
    gate.arrive()
    for _ in repeat(None, count):
        put(MESSAGE)


def _one_way(kit: Any, put: Callable[[Any], Any], get: Callable[[], Any], count: int) -> float:
    gate = Gate()
    producer = _started(kit, _produce, gate, put, count)
    for _ in repeat(None, _warm(count)):
        last = get()
    gate.open()
    start = perf_counter()
    for _ in repeat(None, count):
        last = get()
    seconds = perf_counter() - start
    if last != MESSAGE:
        raise AssertionError(f"the last message is {last!r}")
    producer.join()
    return seconds


def queue(kit: Any, count: int) -> float:
    q = kit.Queue()
    return _one_way(kit, q.put, q.get, count)


def simplequeue(kit: Any, count: int) -> float:
    q = kit.SimpleQueue()
    return _one_way(kit, q.put, q.get, count)


def posixqueue(kit: Any, count: int) -> float:
    q = kit.PosixQueue()
    return _one_way(kit, q.put, q.get, count)


def pipe(kit: Any, count: int) -> float:
    reader, writer = kit.Pipe(False)
    return _one_way(kit, writer.send, reader.recv, count)


def joinablequeue(kit: Any, count: int) -> float:
    """Every message is also reported done."""
    q = kit.JoinableQueue()
    get, done = q.get, q.task_done

    def get_and_finish() -> Any:
        message = get()
        done()
        return message

    seconds = _one_way(kit, q.put, get_and_finish, count)
    q.join()
    return seconds


def _produce_batches(gate: Gate, put_many: Callable[[Any], Any], count: int) -> None:
    batch = [MESSAGE] * BATCH
    for _ in repeat(None, _warm(count // BATCH)):
        put_many(batch)
    gate.arrive()
    for _ in repeat(None, count // BATCH):
        put_many(batch)


def queue_batches(kit: Any, count: int) -> float:
    """The same messages, a hundred with each call. Peers without such calls take them one by one."""
    q = kit.Queue()
    if not hasattr(q, "put_many"):
        return _one_way(kit, q.put, q.get, count)
    gate = Gate()
    producer = _started(kit, _produce_batches, gate, q.put_many, count)
    get_many = q.get_many
    missing = _warm(count // BATCH) * BATCH
    while missing:
        missing -= len(
            get_many(max_messages_to_get=missing) if kit.name == "faster-fifo" else get_many(missing)
        )
    missing = count // BATCH * BATCH
    gate.open()
    start = perf_counter()
    if kit.name == "faster-fifo":
        while missing:
            missing -= len(get_many(max_messages_to_get=BATCH))
    else:
        while missing:
            missing -= len(get_many(BATCH))
    seconds = perf_counter() - start
    producer.join()
    return seconds


# ---- There and back -------------------------------------------------------------------------------------------------


def _echo(gate: Gate, get: Callable[[], Any], put: Callable[[Any], Any], count: int) -> None:
    for _ in repeat(None, _warm(count)):
        put(get())
    gate.arrive()
    for _ in repeat(None, count):
        put(get())


def _round_trips(
    kit: Any,
    ours: tuple[Callable[[Any], Any], Callable[[], Any]],
    theirs: tuple[Any, Any],
    count: int,
    message: Any = MESSAGE,
) -> float:
    gate = Gate()
    put, get = ours
    other = _started(kit, _echo, gate, *theirs, count)
    for _ in repeat(None, _warm(count)):
        put(message)
        get()
    gate.open()
    start = perf_counter()
    for _ in repeat(None, count):
        put(message)
        get()
    seconds = perf_counter() - start
    other.join()
    return seconds


def queue_round_trip(kit: Any, count: int) -> float:
    there, back = kit.Queue(), kit.Queue()
    return _round_trips(kit, (there.put, back.get), (there.get, back.put), count)


def pipe_round_trip(kit: Any, count: int) -> float:
    here, there = kit.Pipe()
    return _round_trips(kit, (here.send, here.recv), (there.recv, there.send), count)


# ---- Arrays ---------------------------------------------------------------------------------------------------------


def _send_arrays(gate: Gate, put: Callable[[Any], Any], count: int) -> None:
    import numpy

    array = numpy.arange(ARRAY_BYTES // 8, dtype=numpy.int64)
    for _ in repeat(None, count):
        gate.arrive()
        put(array)


def _arrays(kit: Any, put: Callable[[Any], Any], get: Callable[[], Any], count: int) -> float:
    """The next array is sent when the one before has arrived and has been dropped: memory is warm, and bounded."""
    warm = 2
    gate = Gate()
    producer = _started(kit, _send_arrays, gate, put, warm + count)
    seconds = 0.0
    for number in range(warm + count):
        gate.wait()
        start = perf_counter()
        gate.let_go()
        array = get()
        good = array.nbytes == ARRAY_BYTES and array[-1] == ARRAY_BYTES // 8 - 1
        del array
        if number >= warm:
            seconds += perf_counter() - start
        if not good:
            raise AssertionError("not the array that was sent")
    producer.join()
    return seconds


def array_pipe(kit: Any, count: int) -> float:
    reader, writer = kit.Pipe(False)
    return _arrays(kit, writer.send, reader.recv, count)


def array_queue(kit: Any, count: int) -> float:
    q = kit.LargeQueue() if hasattr(kit, "LargeQueue") else kit.Queue()
    return _arrays(kit, q.put, q.get, count)


# ---- Locks ----------------------------------------------------------------------------------------------------------


def _acquire_release(lock: Any, count: int) -> float:
    for _ in repeat(None, _warm(count)):
        lock.acquire()
        lock.release()
    start = perf_counter()
    for _ in repeat(None, count):
        lock.acquire()
        lock.release()
    return perf_counter() - start


def lock(kit: Any, count: int) -> float:
    return _acquire_release(kit.Lock(), count)


def rlock(kit: Any, count: int) -> float:
    return _acquire_release(kit.RLock(), count)


def semaphore(kit: Any, count: int) -> float:
    return _acquire_release(kit.Semaphore(1), count)


def bounded_semaphore(kit: Any, count: int) -> float:
    return _acquire_release(kit.BoundedSemaphore(1), count)


def with_lock(kit: Any, count: int) -> float:
    lock = kit.Lock()
    for _ in repeat(None, _warm(count)):
        with lock:
            pass
    start = perf_counter()
    for _ in repeat(None, count):
        with lock:
            pass
    return perf_counter() - start


def _hammer(gate: Gate, lock: Any, count: int) -> None:
    for _ in repeat(None, _warm(count)):
        lock.acquire()
        lock.release()
    gate.arrive()
    for _ in repeat(None, count):
        lock.acquire()
        lock.release()
    gate.arrive()


def contended_lock(kit: Any, count: int) -> float:
    """Two parties take one lock as often as they can; until both have had it `count` times."""
    lock = kit.Lock()
    gate = Gate()
    other = _started(kit, _hammer, gate, lock, count)
    for _ in repeat(None, _warm(count)):
        lock.acquire()
        lock.release()
    gate.open()
    start = perf_counter()
    for _ in repeat(None, count):
        lock.acquire()
        lock.release()
    gate.wait()
    seconds = perf_counter() - start
    gate.let_go()
    other.join()
    return seconds


# ---- Waking each other ----------------------------------------------------------------------------------------------


def _answer_condition(gate: Gate, condition: Any, count: int) -> None:
    with condition:
        condition.notify()
        for _ in repeat(None, count):
            condition.wait()
            condition.notify()


def condition(kit: Any, count: int) -> float:
    """The introduction's: both notify and wait in turn, under the condition's lock; two waits for each count."""
    condition = kit.Condition()
    warm = _warm(count)
    with condition:
        other = _started(kit, _answer_condition, Gate(), condition, warm + count)
        condition.wait()
        for _ in repeat(None, warm):
            condition.notify()
            condition.wait()
        start = perf_counter()
        for _ in repeat(None, count):
            condition.notify()
            condition.wait()
        seconds = perf_counter() - start
    other.join()
    return seconds


def _answer_event(gate: Gate, there: Any, back: Any, count: int) -> None:
    for _ in repeat(None, count):
        there.wait()
        there.clear()
        back.set()


def event(kit: Any, count: int) -> float:
    there, back = kit.Event(), kit.Event()
    warm = _warm(count)
    other = _started(kit, _answer_event, Gate(), there, back, warm + count)
    for _ in repeat(None, warm):
        there.set()
        back.wait()
        back.clear()
    start = perf_counter()
    for _ in repeat(None, count):
        there.set()
        back.wait()
        back.clear()
    seconds = perf_counter() - start
    other.join()
    return seconds


def _meet(gate: Gate, barrier: Any, count: int) -> None:
    for _ in repeat(None, count):
        barrier.wait()


def barrier(kit: Any, count: int) -> float:
    barrier = kit.Barrier(2)
    warm = _warm(count)
    other = _started(kit, _meet, Gate(), barrier, warm + count)
    for _ in repeat(None, warm):
        barrier.wait()
    start = perf_counter()
    for _ in repeat(None, count):
        barrier.wait()
    seconds = perf_counter() - start
    other.join()
    return seconds


# ---- Processes ------------------------------------------------------------------------------------------------------


def _starts(kit: Any, method: str, count: int) -> float:
    module = "threading" if kit.name == "threads" else kit.name
    order = [sys.executable, str(STARTING), module, method, str(count)]
    return float(subprocess.run(order, stdout=subprocess.PIPE, text=True, check=True).stdout)


def start_fork(kit: Any, count: int) -> float:
    return _starts(kit, "fork", count)


def start_forkserver(kit: Any, count: int) -> float:
    """The server is running already: the first start, which starts it, is not counted."""
    return _starts(kit, "forkserver", count)


def start_spawn(kit: Any, count: int) -> float:
    return _starts(kit, "spawn", count)


def start_forkserver_bare(kit: Any, count: int) -> float:
    """From a program without a main module, a target that the interpreter itself has: nothing is imported for it."""
    Process = kit.get_context("forkserver").Process
    gc.enable()
    for number in range(1 + count):
        if number == 1:
            start = perf_counter()
        process = Process(target=os.getpid)
        process.start()
        process.join()
        if process.exitcode:
            raise AssertionError(f"the process ended with exit code {process.exitcode}")
    return perf_counter() - start


def _import_seconds(statement: str, count: int) -> float:
    """The median over fresh interpreters, the first of which only warms the file cache up; times `count`."""
    code = f"from time import perf_counter\nt = perf_counter()\n{statement}\nprint(perf_counter() - t)"
    found = []
    for _ in range(1 + count):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found.append(float(done.stdout))
    return statistics.median(found[1:]) * count


def import_package(kit: Any, count: int) -> float:
    return _import_seconds(kit.import_statement, count)


def import_names(kit: Any, count: int) -> float:
    return _import_seconds(
        f"from {kit.name} import Process, Queue, Lock, Pipe, Event; Queue, Lock, Event", count
    )
