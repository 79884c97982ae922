"""How the items of one map or imap become batches: how large, how many at a time, and which calls are still open.

    items ─▶ size_now: about TARGET of work by the time measured, all workers supplied, HELD_MAX bytes ─▶ send ─▶ engine
                                                                  batches: first ─▶ [items, open calls, marks or None]

A call is open from `send` until its batch, or its mark in the batch, is gone: what is reported of others is ignored.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right

from .jobs import FAILED

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .jobs import Jobs

__all__ = ["Feed", "length_of"]

TARGET = 500_000  # nanoseconds of work in a batch
LEAST = 50_000  # nanoseconds: towards the end of a map, batches get no smaller
SIZE_MAX = 960  # calls
GROWTH = 8  # a batch is at most so many times as large as the one before
DEPTH = 4  # batches a worker, in flight
BATCH_MAX = 256 << 10  # bytes
HELD_MAX = 64 << 20  # bytes in flight


def _weight(item: Any) -> int:
    size = getattr(item, "nbytes", None)
    if type(size) is int:
        return size
    try:
        if type(item) is tuple and item:
            return sum(map(_weight, item)) if len(item) < 10 else sys.getsizeof(item)
        return sys.getsizeof(item)
    except Exception:
        return 64


def length_of(iterable: Any) -> int | None:
    """How many items there are, if that is known."""
    return len(iterable) if hasattr(iterable, "__len__") else None


class Feed:
    """The calls of one job that have been sent, and how the next are to be."""

    __slots__ = (
        "jobs", "job", "func", "star", "timeout", "retries", "cap", "batches", "fed", "size", "ns", "calls", "lock",
        "sending", "last", "strict",
    )  # fmt: skip

    def __init__(
        self,
        jobs: Jobs,
        job: int,
        func: Callable[..., Any],
        star: bool,
        timeout: float,
        retries: int,
        cap: int,
    ) -> None:
        self.jobs = jobs
        self.job = job
        self.func = func
        self.star = star
        self.timeout = timeout
        self.retries = retries
        self.cap = min(cap, SIZE_MAX)  # calls in a batch
        self.batches: dict[int, list[Any]] = {}
        self.fed = 0
        self.size = 0
        self.ns = 0  # that so many calls took; both forget
        self.calls = 0
        self.lock = threading.RLock()  # over sending
        self.sending = -1  # the first call of the batch sent last
        self.last: list[Any] = []  # that batch
        self.strict = True  # nothing has been sent: what cannot be pickled is raised at once

    # -- Sending

    def size_now(self, remaining: int | None, item: Any) -> int:
        """How many calls the next batch is to have; 0: none for now. `remaining`: how many there are, if known."""
        workers: int = self.jobs.engine.processes
        waiting = len(self.batches)
        calls = self.calls
        if calls:
            if waiting >= DEPTH * workers:
                return 0
            pace = self.ns // calls + 1
            size = min(TARGET // pace, (self.size or 1) * GROWTH) or 1
            if calls > 4 * SIZE_MAX:
                self.ns >>= 1
                self.calls >>= 1
            if remaining is not None and size * 2 * workers > remaining:
                size = min(size, max(-(-remaining // (2 * workers)), LEAST // pace))
        else:
            # Nothing is known of these calls: so few that it does not matter where they run.
            if waiting >= 2 * workers:
                return 0
            size = 1 if remaining is None else min(64, remaining // (64 * workers)) or 1
        if size > self.cap:
            size = self.cap
        weight = _weight(item)
        if size * weight > BATCH_MAX:
            size = BATCH_MAX // weight or 1
        if waiting > workers and (waiting + 1) * size * weight > HELD_MAX:
            return 0
        if remaining is not None and size > remaining:
            size = remaining
        self.size = size
        return size

    def send(self, items: list[Any]) -> bool:
        """One batch. What cannot be pickled fails alone, later; False if memory is short: try again later."""
        first = self.fed
        if self.sending == first:
            # A signal struck when it had been sent, or was about to be: it goes again unless it has ended.
            items = self.last
            if first not in self.batches:
                self.fed = first + len(items)
                return True
        else:
            batch = [items, len(items), None]
            self.batches[first] = batch  # adjacent
            self.last = items
            self.sending = first
        try:
            self.jobs.engine.batch(self.job, first, self.func, items, self.star, self.timeout, self.retries)
        except Exception as error:
            return self._send_singly(items, error)
        self.strict = False
        self.fed = first + len(items)
        return True

    def _send_singly(self, items: list[Any], error: Exception) -> bool:
        sent: int = getattr(error, "sent", 0)
        first = self.fed
        if self.strict and not sent and len(items) == 1:
            del self.batches[first]
            raise error
        if isinstance(error, MemoryError) and (sent or len(self.batches) > 1):
            if sent:
                self.batches[first] = [items[:sent], sent, None]
            else:
                del self.batches[first]
            self.sending = -1
            self.fed = first + sent
            return False
        engine = self.jobs.engine
        for at in range(sent, len(items)):
            try:
                engine.batch(
                    self.job, first + at, self.func, items[at : at + 1], self.star, self.timeout, self.retries
                )
                self.strict = False
            except Exception as failure:
                if self.strict and at == 0:
                    del self.batches[first]
                    raise
                self.jobs.post((FAILED, self.job, first + at, failure, 0))
        self.fed = first + len(items)
        return True

    def drop(self) -> None:
        """Nothing is open any more."""
        self.batches = {}
        self.last = []

    # -- What is open

    def _owner(self, index: int) -> tuple[int, list[Any]] | None:
        """The batch of that call."""
        firsts = sorted(self.batches)
        at = bisect_right(firsts, index) - 1
        if at >= 0:
            batch = self.batches.get(firsts[at])
            if batch is not None and index < firsts[at] + len(batch[0]):
                return firsts[at], batch
        return None

    def is_open(self, index: int) -> bool:
        owner = self._owner(index)
        return owner is not None and (owner[1][2] is None or not owner[1][2][index - owner[0]])

    def item(self, index: int) -> tuple[Any] | None:
        """What that call was given, in a tuple; None if it has ended."""
        owner = self._owner(index)
        return None if owner is None else (owner[1][0][index - owner[0]],)

    def fresh(self, first: int, payload: list[Any]) -> Iterator[tuple[int, list[Any], list[Any], slice]]:
        """The parts of a report that are new: (first, values, batch, where in its marks). Who takes one marks it."""
        end = first + len(payload)
        at = first
        while at < end:
            owner = self._owner(at)
            if owner is None:
                at += 1
                continue
            start, batch = owner
            if batch[2] is None:
                batch[2] = bytearray(len(batch[0]))
            stop = min(end, start + len(batch[0]))
            marks: bytearray = batch[2]
            if marks.find(1, at - start, stop - start) < 0:
                yield at, payload[at - first : stop - first], batch, slice(at - start, stop - start)
                at = stop
            else:
                if not marks[at - start]:
                    yield at, payload[at - first : at - first + 1], batch, slice(at - start, at - start + 1)
                at += 1
            if batch[1] == 0:
                self.batches.pop(start, None)
