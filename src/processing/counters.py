"""What `statistics()` and `memory_usage()` return: frozen objects, of the moment they were asked for.

Apart from the objects that they describe, because making dataclasses costs a program more time at its start than all of
the synchronisation does.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BarrierStatistics",
    "ConditionStatistics",
    "ConnectionStatistics",
    "ContainerStatistics",
    "EventStatistics",
    "LockStatistics",
    "MemoryStatistics",
    "MemoryUsage",
    "QueueStatistics",
    "SemaphoreStatistics",
    "ValuesStatistics",
]


@dataclass(frozen=True, slots=True)
class LockStatistics:
    """Counters of a Lock or RLock since it was made, over all processes."""

    locked: bool
    owner: int | None  # pid of the process that holds it
    acquired: int  # how often, recursive levels not counted
    contended: int  # how often somebody had to wait
    owners_died: int  # how often its owner died while it held it


@dataclass(frozen=True, slots=True)
class SemaphoreStatistics:
    """Counters of a semaphore."""

    value: int
    contended: int
    taken_back: int  # permits taken back from dead processes (BoundedSemaphore only)


@dataclass(frozen=True, slots=True)
class ConditionStatistics:
    """Counters of a condition."""

    waiting: int
    notified: int
    passed_on: int  # notifications of waiters that died, given to the next


@dataclass(frozen=True, slots=True)
class EventStatistics:
    """Counters of an event."""

    is_set: bool
    sets: int


@dataclass(frozen=True, slots=True)
class BarrierStatistics:
    """Counters of a barrier."""

    parties: int
    waiting: int
    passed: int  # how often all parties had arrived
    broken: bool


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """Counters of a queue since it was made, over all processes."""

    size: int  # items in it now
    put: int
    got: int
    bytes: int  # held now, in the ring and beside it
    get_waits: int  # how often a consumer went to sleep
    put_waits: int  # how often a producer went to sleep
    unfinished: int  # JoinableQueue: put and not yet reported done
    closed: bool  # in this process


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Counters of one end of a pipe, over all processes that use it."""

    sent: int
    received: int
    unread: int  # sent, and not yet received at the other end
    waiting: int  # could be received here now
    peer_gone: bool


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """Of the memory behind arrays, or of a shared object."""

    nbytes: int
    holders: int  # processes that have a handle or a view, messages on their way, objects that it is part of


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes of shared memory of the whole program."""

    limit: int  # may be reserved
    reserved: int  # taken from the machine
    used: int  # in objects and messages
    free: int  # reserved, and free for new ones
    objects: int  # blocks in use


@dataclass(frozen=True, slots=True)
class ValuesStatistics:
    """Of a SharedValue, SharedStruct or SharedArray."""

    items: int
    itemsize: int  # bytes of an item, or of the whole struct
    bytes: int  # of shared memory
    writes: int  # of a struct, or other record of more than 8 bytes; others are not counted
    writers_died: int  # processes that were killed while they wrote it


@dataclass(frozen=True, slots=True)
class ContainerStatistics:
    """Of a shared container, over all processes."""

    items: int
    bytes: int  # of shared memory, without values that are objects of their own
    shards: int  # parts that can be changed at the same time
    repairs: int  # how often somebody undid what a killed process had begun
    retries: int  # reads that met so many changes that they took the lock
    waits: int  # how often somebody had to wait for a lock
