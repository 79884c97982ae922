"""What `imap` and `imap_unordered` give: results as they come, of an input that is read no faster than they are taken.

    source ──▶ unsent ──▶ Feed ──▶ engine ... _done ──▶ ready: first ─▶ values ──▶ current ──▶ next()
      read by the thread in next() if it cannot block (a list, a range, ...), else by a thread 'PoolReader'

An arbitrary iterable may block until a result has been taken (a queue that results are put into again), so it must
never be read by the thread that takes results. The reader exists only while there is something to read and room for it.
"""

from __future__ import annotations

import collections
import itertools
import threading
import types
from time import monotonic

from .errors import TimeoutError
from .feeding import DEPTH, length_of
from .jobs import LINGER
from .results import error_of

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .feeding import Feed
    from .jobs import Jobs

__all__ = ["IMapIterator", "IMapUnorderedIterator"]

# What can be read without blocking, and runs no code of the user.
_CONTAINERS = (list, tuple, range, str, bytes, bytearray, set, frozenset, dict, collections.deque)
_AT_ONCE = frozenset(
    [
        *_CONTAINERS,
        *(type(iter(kind())) for kind in _CONTAINERS if kind is not range),
        type(iter(range(0))),
        type({}.keys()),
        type({}.values()),
        type({}.items()),
        itertools.count,
        itertools.repeat,
    ]
)
_NOTHING = object()


class _Failure:
    """Stands where the value of a call would."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class IMapIterator:
    """Results in the order of the input; a call that failed raises in `next`, and the iterator goes on.

    Several threads may take from it. One that is dropped is not read any further, until the pool is joined.
    """

    __slots__ = (
        "_pool", "_jobs", "_job", "_feed", "_ready", "_current", "_next", "_slack", "_window", "_source",
        "_total", "_exhausted", "_failure", "_unsent", "_base", "_unit", "_level", "_threaded", "_reader",
        "_wanted", "_lock", "_error", "_bar", "_came", "__weakref__",
    )  # fmt: skip
    _ordered = True

    def __init__(
        self,
        pool: Any,
        jobs: Jobs,
        feed: Feed,
        iterable: Iterable[Any],
        unit: int,
        window: int | None,
        bar: Any,
    ) -> None:
        self._pool = pool
        self._jobs = jobs
        self._job = feed.job
        self._feed = feed
        feed.strict = False
        self._ready: dict[int, list[Any]] = {}
        self._current: Iterator[Any] = iter(())
        self._next = 0  # how many have been picked: the index of the next, if ordered
        self._slack = 0  # how many of them were not taken when last we looked
        self._window = window
        if window is not None:
            feed.cap = min(feed.cap, max(1, window // (2 * jobs.engine.processes)))
        self._source: Iterator[Any] = iter(iterable)
        self._threaded = type(iterable) not in _AT_ONCE
        self._total = None if self._threaded else length_of(iterable)
        self._exhausted = False
        self._failure: BaseException | None = None  # of the input, after its last item
        self._unsent: list[Any] = []
        self._base = 0  # the index of the first of them
        self._unit = unit  # items are sent in multiples of that, as far as one can tell
        self._level = 0  # fewer batches than that in flight: feed
        self._reader: threading.Thread | None = None
        self._wanted = threading.Event()  # there is room again; only if there is a reader
        self._lock = threading.Lock()  # over picking, and over the reader
        self._error: BaseException | None = None  # the pool has ended
        self._bar = bar
        self._came = 0
        jobs.pending[self._job] = self
        self._push()

    __class_getitem__: Any = classmethod(types.GenericAlias)

    # -- For users

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        for value in self._current:
            if type(value) is not _Failure:
                return value
            raise value.error
        return self._refill(None)

    def next(self, timeout: float | None = None) -> Any:
        """The next result. processing.TimeoutError if it is not there within `timeout` seconds: it is not lost."""
        for value in self._current:
            if type(value) is not _Failure:
                return value
            raise value.error
        return self._refill(timeout)

    def cancel(self) -> None:
        """Reads no more, and stops what runs: `next` raises CancelledError once what has come is taken."""
        from .blame import cancelled

        self._jobs.engine.cancel(self._job, None)
        self._abandon(cancelled("the imap was cancelled"))
        self._jobs.stir()

    def __repr__(self) -> str:
        where = f"{type(self).__module__}.{type(self).__qualname__}"
        state = "ended" if self._is_over() else f"{self._feed.fed} sent"
        return f"<{where} at {id(self):#x} job={self._job} taken={self._next} {state}>"

    # -- Taking

    def _refill(self, timeout: float | None) -> Any:
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            value = _NOTHING
            with self._lock:
                for value in self._current:  # noqa: B007 (another thread may have picked meanwhile)
                    break
                else:
                    self._slack = 0
                    if self._pick():
                        for value in self._current:  # noqa: B007
                            break
            # Before the value is handed over: the workers go on while its taker is busy.
            self._push()
            if value is not _NOTHING:
                if type(value) is _Failure:
                    raise value.error
                return value
            if self._at_failure():
                with self._lock:
                    if self._at_failure():
                        self._next += 1
                        assert self._failure is not None
                        raise self._failure
            if self._is_over() and not self._ready:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            left = None if deadline is None else deadline - monotonic()
            if not self._jobs.wait(self, left):
                raise TimeoutError(f"result {self._next} of the imap has not come within {timeout:g} s")

    def _pick(self) -> bool:
        at = self._next
        if not self._ordered or self._error is not None:
            for at in self._ready:  # noqa: B007
                break
        values = self._ready.get(at)
        if values is None:
            return False
        current = iter(values)
        following = self._next + len(values)
        self._slack = following - self._next - 1
        self._current = current  # adjacent
        self._next = following
        del self._ready[at]
        return True

    def _is_over(self) -> bool:
        if self._error is not None:
            return True
        end = self._feed.fed + (self._failure is not None)
        return self._exhausted and not self._unsent and self._next >= end

    def _at_failure(self) -> bool:
        """Whether the next to be told is the failure of the input."""
        if self._failure is None or self._unsent or self._error is not None:
            return False
        return self._exhausted and self._next == self._feed.fed

    # -- For jobs.py

    def _is_there(self) -> bool:
        ready = self._ready
        if (self._next in ready if self._ordered else ready) or self._is_over() or self._at_failure():
            return True
        return len(self._feed.batches) < self._level and self._has_more()

    def _done(self, first: int, payload: list[Any], ns: int) -> None:
        feed = self._feed
        count = len(payload)
        feed.ns += ns
        feed.calls += count
        batch = feed.batches.get(first)
        if batch is not None and batch[2] is None and batch[1] == count:
            self._ready[first] = payload  # adjacent
            del feed.batches[first]
            self._came += count
        else:
            for at, fresh, batch, mark in feed.fresh(first, payload):
                many = len(fresh)
                marked = b"\1" * many
                self._ready[at] = fresh  # adjacent
                batch[2][mark] = marked
                batch[1] -= many
                self._came += many
        if self._bar is not None:
            self._bar.show(self._came, first, count)
        if self._exhausted:
            self._forget_if_over()

    def _ended(self, kind: int, first: int, payload: Any) -> None:
        if self._feed.is_open(first):
            error = error_of(kind, self._task(first), first, self._feed.timeout, payload)
            self._done(first, [_Failure(error)], 0)

    def _abandon(self, error: BaseException | None) -> None:
        self._error = self._error or error
        self._feed.drop()
        self._unsent.clear()
        self._exhausted = True
        self._wanted.set()
        self._forget_if_over()

    def _progress(self, index: int, payload: Any) -> None:
        if self._bar is not None:
            self._bar.inside(index, *payload)

    def _task(self, index: int) -> str:
        from .blame import describe

        owner = self._feed.item(index)
        if owner is None:
            return f"call {index} of the imap"
        return describe(self._feed.func, owner[0] if self._feed.star else owner)

    def _forget_if_over(self) -> None:
        """All that will come has come: only its taker is left."""
        if self._exhausted and not self._unsent and not self._feed.batches:
            self._jobs.pending.pop(self._job, None)
            self._jobs.hungry.pop(self._job, None)
            self._jobs.attended.pop(self._job, None)
            self._pool = None
            self._feed.last = []
            bar, self._bar = self._bar, None
            if bar is not None:
                bar.close()

    # -- Feeding

    def _unfed(self) -> bool:
        return bool(self._unsent) or not self._exhausted

    def _has_more(self) -> bool:
        return self._sendable() > 0 if self._threaded else self._unfed()

    def _sendable(self) -> int:
        """How many of the unsent items may be sent: whole chunks, as long as there may be more of them."""
        count = len(self._unsent)
        return count if self._exhausted else max(0, count - (self._feed.fed + count) % self._unit)

    def _cut(self) -> None:
        """The input failed: drops what is left of an unfinished chunk, as the standard library does."""
        excess = (self._feed.fed + len(self._unsent)) % self._unit
        if excess:
            del self._unsent[-excess:]

    def _room(self) -> int:
        """How many more items may be read."""
        window = self._window
        feed = self._feed
        if window is None:
            window = 2 * DEPTH * self._jobs.engine.processes * (feed.size or 1)
        return window - (feed.fed + len(self._unsent) - (self._next - self._slack))

    def _lift(self) -> None:
        """The pool is being joined: all of the input is read, whoever takes the results."""
        self._window = 1 << 62
        if self._jobs.pending.get(self._job) is self:
            self._jobs.hungry[self._job] = self
            self._push()

    def _push(self) -> None:
        """Reads and sends what is wanted just now."""
        if self._threaded and not self._exhausted:
            self._call_reader()
        elif self._exhausted and not self._unsent:
            return
        feed = self._feed
        try:
            if not feed.lock.acquire(False):
                return
            self._send()
        finally:
            try:
                feed.lock.release()
            except RuntimeError:
                pass  # another thread sends
        self._level = min(len(feed.batches), 2 * self._jobs.engine.processes)

    def _send(self) -> None:
        """With the feed's lock held."""
        feed = self._feed
        unsent = self._unsent
        unit = self._unit
        while self._error is None:
            sent = feed.fed - self._base
            if sent:
                del unsent[:sent]  # adjacent
                self._base = feed.fed
            remaining = None if self._total is None else max(1, self._total - feed.fed)
            size = feed.size_now(remaining, unsent[0] if unsent else None)
            if size == 0:
                return
            if not self._threaded and not self._exhausted and len(unsent) < size:
                wanted = min(size - len(unsent), self._room())
                if wanted > 0:
                    if unit > 1:
                        wanted = -(-wanted // unit) * unit
                    before = len(unsent)
                    try:
                        unsent.extend(itertools.islice(self._source, wanted))
                    except Exception as error:  # a dict that was changed
                        self._cut()
                        self._failure = error
                        self._exhausted = True
                    if len(unsent) - before < wanted:
                        self._exhausted = True
            count = self._sendable()
            if self._threaded and not self._exhausted and count < size and feed.batches:
                return  # more may come soon; see _read
            if count == 0:
                break
            if not feed.send(unsent[: min(size, count)]):
                break
        sent = feed.fed - self._base
        if sent:
            del unsent[:sent]  # adjacent
            self._base = feed.fed
        if self._exhausted:
            self._forget_if_over()

    def _call_reader(self) -> None:
        """Sees to it that somebody reads, if there is room."""
        if self._room() <= 0:
            return
        with self._lock:
            if self._reader is not None or self._exhausted:
                self._wanted.set()
                return
            self._reader = threading.Thread(target=self._read, name="PoolReader", daemon=True)
            self._reader.start()

    def _read(self) -> None:
        """The reader: every item is sent at once if nothing is in flight, else when there are enough for a batch; what
        is left then is sent by the thread that takes results, as soon as nothing is in flight."""
        feed = self._feed
        unsent = self._unsent
        batches = feed.batches
        try:
            while not self._is_dead():
                room = self._room()
                if room <= 0:
                    self._wanted.clear()
                    if self._room() <= 0 and not self._wanted.wait(LINGER):
                        with self._lock:
                            if self._room() <= 0:
                                self._reader = None
                                return
                    continue
                for item in itertools.islice(self._source, room):
                    room -= 1
                    unsent.append(item)
                    if len(unsent) >= feed.size or not batches:
                        self._flush()
                    if self._is_dead():
                        break
                if room > 0:
                    break
        except Exception as error:
            with feed.lock:
                self._cut()
            self._failure = error
        self._exhausted = True
        self._flush()
        self._forget_if_over()
        self._reader = None
        self._jobs.stir()

    def _is_dead(self) -> bool:
        return self._error is not None

    def _flush(self) -> None:
        with self._feed.lock:
            self._send()


class IMapUnorderedIterator(IMapIterator):
    """Results in the order in which the calls end; otherwise as IMapIterator."""

    __slots__ = ()
    _ordered = False
