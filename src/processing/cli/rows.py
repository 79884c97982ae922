"""The rows of the speed table, and how they are selected; those of pools and managers are in files of their own."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from . import loops, loops_arrays, loops_containers, loops_values
from .row import GROUPS, STANDARD_LIBRARY, Bar, Row
from .rows_managers import MANAGER_ROWS
from .rows_pool import POOL_ROWS

__all__ = ["GROUPS", "ROWS", "STANDARD_LIBRARY", "Bar", "Row", "select"]


def _things(name: str, threads: str | None = None, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """`processing.X`, the same of threads if that makes sense, of multiprocessing, and of others."""
    things = {"processing": f"processing.{name}"}
    if threads:
        things["threads"] = threads
    things["multiprocessing"] = f"multiprocessing.{name}"
    things.update(others or {})
    return things


def _sequences(what: str) -> dict[str, str]:
    """Sequences of numbers: the standard library's shared one, and two that are not shared."""
    names = {"multiprocessing": "multiprocessing.Array", "array": "array.array", "list": "list"}
    return {peer: what.format(name) for peer, name in names.items()}


def _dicts(what: str) -> dict[str, str]:
    """Dicts that processes share."""
    names = {
        "processing": "processing SharedDict",
        "multiprocessing": "multiprocessing.Manager().dict()",
        "ultradict": "UltraDict",
    }
    return {peer: what.format(name) for peer, name in names.items()}


FIFO = {"faster-fifo": "faster_fifo.Queue"}
MP, THREADS = STANDARD_LIBRARY, "threads"

ROWS = (
    Row(
        "queue",
        "messages",
        loops.queue,
        _things("Queue", "queue.Queue", FIFO),
        (Bar(MP, 15), Bar("faster-fifo", 10), Bar(THREADS, 4)),
        count=10_000,
    ),
    Row(
        "queue-batches",
        "messages",
        loops.queue_batches,
        {
            "processing": "processing.Queue, put_many",
            "threads": "queue.Queue",
            "multiprocessing": "multiprocessing.Queue",
            "faster-fifo": "faster_fifo.Queue, put_many",
        },
        count=10_000,
        least=loops.BATCH,
    ),
    Row(
        "simplequeue",
        "messages",
        loops.simplequeue,
        _things("SimpleQueue", "queue.SimpleQueue"),
        (Bar(MP, 12),),
        count=10_000,
    ),
    Row(
        "joinablequeue",
        "messages",
        loops.joinablequeue,
        _things("JoinableQueue", "queue.Queue"),
        count=10_000,
    ),
    Row(
        "posixqueue",
        "messages",
        loops.posixqueue,
        {"processing": "processing.PosixQueue", "multiprocessing": "multiprocessing.Queue"},
        count=10_000,
    ),
    Row("pipe", "messages", loops.pipe, _things("Pipe"), (Bar(MP, 10),), count=10_000),
    Row("pipe-round-trip", "trips", loops.pipe_round_trip, _things("Pipe"), (Bar(MP, 8),), count=2000),
    Row(
        "queue-round-trip", "trips", loops.queue_round_trip, _things("Queue", "queue.Queue", FIFO), count=2000
    ),
    Row(
        "array-pipe",
        "arrays",
        loops.array_pipe,
        _things("Pipe"),
        (Bar(MP, 20),),
        count=2,
        least=2,
        scale=loops.ARRAY_BYTES / 2**30,
        needs="numpy",
    ),
    Row(
        "array-queue",
        "arrays",
        loops.array_queue,
        _things("Queue", None, FIFO),
        count=2,
        least=2,
        scale=loops.ARRAY_BYTES / 2**30,
        needs="numpy",
    ),
    Row(
        "array-hand-over",
        "hand-over",
        loops_arrays.hand_over,
        {
            "processing": "processing.Queue, shared array of 1 GiB",
            "message": "processing.Queue, None",
            "multiprocessing": "multiprocessing.Queue, array of 16 MiB",
        },
        (Bar("message", more=20, unit="us"),),
        count=2,
        scale=2,
        needs="numpy",
    ),
    Row(
        "array-readers",
        "memory",
        loops_arrays.share_memory,
        {
            "processing": "processing.share, 1 GiB",
            "multiprocessing": "multiprocessing.Queue, 64 MiB",
        },
        (Bar(MP, 7),),
        count=1,
        fixed=True,
        needs="numpy",
    ),
    Row(
        "lock",
        "locks",
        loops.lock,
        _things("Lock", "threading.Lock"),
        (Bar(MP, 1.5), Bar(THREADS, 1.5)),
        count=100_000,
    ),
    Row(
        "with-lock",
        "locks",
        loops.with_lock,
        {
            "processing": "with processing.Lock",
            "threads": "with threading.Lock",
            "multiprocessing": "with multiprocessing.Lock",
        },
        (Bar(MP, 1.5), Bar(THREADS, 1.5)),
        count=100_000,
    ),
    Row("rlock", "locks", loops.rlock, _things("RLock", "threading.RLock"), (Bar(MP, 1.5),), count=100_000),
    Row(
        "semaphore",
        "locks",
        loops.semaphore,
        _things("Semaphore", "threading.Semaphore"),
        (Bar(MP, 1.5),),
        count=50_000,
    ),
    Row(
        "bounded-semaphore",
        "locks",
        loops.bounded_semaphore,
        _things("BoundedSemaphore", "threading.BoundedSemaphore"),
        count=50_000,
    ),
    Row(
        "contended-lock",
        "locks",
        loops.contended_lock,
        {
            "processing": "processing.Lock, by two",
            "threads": "threading.Lock, by two",
            "multiprocessing": "multiprocessing.Lock, by two",
        },
        (Bar(MP, 1.2),),
        count=10_000,
        scale=2,
    ),
    Row(
        "condition",
        "waking",
        loops.condition,
        _things("Condition", "threading.Condition"),
        (Bar(MP, 8), Bar(THREADS, 8)),
        count=1000,
        scale=2,
    ),
    Row("event", "waking", loops.event, _things("Event", "threading.Event"), count=1000, scale=2),
    Row("barrier", "waking", loops.barrier, _things("Barrier", "threading.Barrier"), count=1000, scale=2),
    Row(
        "shared-array-read",
        "values",
        loops_values.array_read,
        {"processing": "processing SharedArray, a[5]", **_sequences("{}, a[5]")},
        (Bar(MP, 15), Bar("array", 0.9)),
        count=100_000,
    ),
    Row(
        "shared-array-write",
        "values",
        loops_values.array_write,
        {"processing": "processing SharedArray, a[5] = 7", **_sequences("{}, a[5] = 7")},
        (Bar(MP, 12), Bar("array", 0.9)),
        count=100_000,
    ),
    Row(
        "shared-value-read",
        "values",
        loops_values.value_read,
        {
            "processing": "processing SharedValue, v.value",
            "multiprocessing": "multiprocessing.Value, v.value",
        },
        (Bar(MP, 2.5),),
        count=100_000,
    ),
    Row(
        "shared-value-update",
        "values",
        loops_values.value_update,
        {
            "processing": "processing SharedValue, += 1 under its lock",
            "multiprocessing": "multiprocessing.Value, += 1 under its lock",
        },
        (Bar(MP, 4),),
        count=30_000,
    ),
    Row(
        "shared-dict-get",
        "containers",
        loops_containers.dict_get,
        _dicts("{}, d[k]"),
        (Bar(MP, 40), Bar("ultradict", 1.5)),
        count=10_000,
    ),
    Row(
        "shared-dict-set",
        "containers",
        loops_containers.dict_set,
        _dicts("{}, d[k] = 7"),
        (Bar(MP, 20), Bar("ultradict", 5)),
        count=10_000,
    ),
    Row(
        "shared-dict-writers",
        "containers",
        loops_containers.dict_writers,
        {**_dicts("{}, by two"), "alone": "processing SharedDict, by one"},
        (Bar("alone", 1),),
        count=10_000,
        scale=2,
    ),
    Row(
        "shared-dict-memory",
        "sizes",
        loops_containers.dict_memory,
        {"processing": "processing SharedDict, values of 100 bytes", "bytes": "keys and values alone"},
        (Bar("bytes", more=1.5, unit="times"),),
        count=1,
        fixed=True,
    ),
    *MANAGER_ROWS,
    *POOL_ROWS,
    Row(
        "start-fork",
        "starts",
        loops.start_fork,
        {
            "processing": "processing, fork",
            "threads": "threading.Thread",
            "multiprocessing": "multiprocessing, fork",
        },
        (Bar(MP, 0.95),),
        count=20,
        least=3,
    ),
    Row(
        "start-forkserver",
        "starts",
        loops.start_forkserver,
        {"processing": "processing, forkserver", "multiprocessing": "multiprocessing, forkserver"},
        (Bar(MP, 3),),
        count=5,
        least=3,
    ),
    Row(
        "start-forkserver-bare",
        "starts",
        loops.start_forkserver_bare,
        {
            "processing": "processing, forkserver, no main module",
            "multiprocessing": "multiprocessing, forkserver, no main module",
        },
        count=5,
        least=3,
    ),
    Row(
        "start-spawn",
        "starts",
        loops.start_spawn,
        {"processing": "processing, spawn", "multiprocessing": "multiprocessing, spawn"},
        (Bar(MP, 0.95),),
        count=3,
        least=3,
    ),
    Row(
        "import",
        "imports",
        loops.import_package,
        {
            "processing": "import processing",
            "multiprocessing": "import multiprocessing, .queues, .synchronize",
        },
        (Bar(MP, more=20),),
        count=7,
        fixed=True,
    ),
    Row(
        "import-names",
        "imports",
        loops.import_names,
        {
            "processing": "from processing import Process, Queue, ...",
            "multiprocessing": "from multiprocessing import Process, Queue, ...",
        },
        (Bar(MP, more=20),),
        count=7,
        fixed=True,
    ),
)


def select(patterns: list[str]) -> list[Row]:
    """The rows whose name or group matches one of the patterns (`lock`, `start-*`, `messages`); all for none.

    ValueError names a pattern that matches nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            row.name
            for row in ROWS
            if fnmatch.fnmatchcase(row.name, pattern) or fnmatch.fnmatchcase(row.group, pattern)
        }
        if not found:
            raise ValueError(f"no row is called {pattern!r}; there are {', '.join(row.name for row in ROWS)}")
        chosen |= found
    return [row for row in ROWS if not patterns or row.name in chosen]
