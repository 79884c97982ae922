"""Queues between processes: the API of `queue` and of `multiprocessing`, on message rings in the arena.

There is no feeder thread and nothing to flush: when `put` returns, the object is in shared memory, whatever becomes of
the process that put it; what cannot be pickled raises in `put`. Any number of processes and threads put and get; the
order of each producer is kept. A queue may be sent through another queue, to processes that already run.

A producer or consumer that is killed at any point leaves the queue as it was before or after its call.
"""

from __future__ import annotations

from queue import Empty, Full

from . import _channel, _native, _sync
from .errors import LostItems
from .synchronize import _new, _Pickles, _tail

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from .counters import QueueStatistics

__all__ = [
    "BufferedQueue",
    "Empty",
    "Full",
    "JoinableQueue",
    "Queue",
    "SimpleQueue",
]


def __getattr__(name: str) -> Any:
    if name == "PosixQueue":
        from .posixqueue import PosixQueue

        return PosixQueue
    from .standardnames import find

    return find(__name__, name)


class _Queue(_Pickles, _channel.QueueBase):
    _layout = _sync.QUEUE
    _joinable: ClassVar[bool] = False

    # The object is whole before __init__: a subclass whose own __init__ takes something else need not call this one.
    def __new__(cls, *args: Any, **kwds: Any) -> Any:
        self: Any = _new(cls, None)
        self._init(cls._joinable)
        return self

    def __init__(self, maxsize: int = 0, *, name: str | None = None, ctx: object = None) -> None:
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize is an int, not {type(maxsize).__name__}")
        if maxsize < 0:
            raise ValueError(f"maxsize must be 0 (no limit) or above, not {maxsize}")
        if maxsize:
            self._limit(maxsize)
        if name:
            self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        made = super().__reduce__()
        state = self.__getstate__()
        return (*made, state) if state else made

    def __getstate__(self) -> Any:
        """What a subclass wants to be sent besides the queue itself: nothing, unless it says so."""
        return ()

    def __setstate__(self, state: Any) -> None:
        """Is given what `__getstate__` gave."""

    @property
    def _reader(self) -> Any:
        from .queueends import Reader

        return Reader(self)

    @property
    def _writer(self) -> Any:
        from .queueends import Writer

        return Writer(self)

    def statistics(self) -> QueueStatistics:
        """Counters, over all processes."""
        put, got, held, get_waits, put_waits, unfinished, closed = self._facts()
        size = max(0, put - got)
        from .counters import QueueStatistics

        return QueueStatistics(
            size, put, got, held, get_waits, put_waits, unfinished if self._joinable else 0, closed
        )

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__} closed>"
        put, got, *_, closed = self._facts()
        limit = f" maxsize={self.maxsize}" if self.maxsize else ""
        size = max(0, put - got)
        state = f"size={size}{limit}{' closed' if closed else ''}"
        return f"<{type(self).__name__} at {id(self):#x} {state}{_tail(self)}"

    def fileno(self) -> int:
        """A descriptor of this process that is readable while the queue is not empty; for select and asyncio."""
        from .doorbell import descriptor_of

        return descriptor_of(self)


class Queue(_Queue):
    """A first-in first-out queue; at most `maxsize` items (0: no limit but memory).

    Without a limit `put` never blocks: at the memory limit of the program it raises MemoryError and the item is not
    in the queue.
    """

    unused_is_empty = True

    def join_thread(self) -> None:
        """Does nothing: there is no thread. For compatibility with `multiprocessing`."""

    def cancel_join_thread(self) -> None:
        """Does nothing: there is no thread. For compatibility with `multiprocessing`."""

    def __init_subclass__(cls, **kwds: Any) -> None:
        super().__init_subclass__(**kwds)
        if cls._on_queue_feeder_error is not Queue._on_queue_feeder_error:
            from .queueends import telling

            cls.put = telling(cls.put)  # type: ignore[method-assign]

    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: object) -> None:
        """For subclasses: one that has its own is told of what cannot be pickled, and `put` does not raise then."""
        import traceback

        traceback.print_exception(e)

    def _terminate_broken(self) -> None:
        """For `concurrent.futures`: nobody reads this queue any more."""
        self.close()


class BufferedQueue(Queue):
    """A queue whose `put` is guaranteed not to block: Queue() without a limit, by name."""

    def __init__(self, *, name: str | None = None, ctx: object = None) -> None:
        super().__init__(0, name=name)


class JoinableQueue(Queue):
    """A queue whose items are counted until they are done.

    `join` blocks until `task_done` was called for each item that was put. Items whose consumer was killed in between
    count as not done: `join` raises LostItems for them once all others are done, and does not hang.
    """

    _joinable = True

    def task_done(self) -> None:
        """Reports one item that this process took as done. ValueError if there is none to report."""
        self._task_done()

    def join(self, timeout: float | None = None) -> bool:
        """Blocks until every item is done, at most `timeout` seconds; -> whether they are. LostItems: see the class."""
        lost = self._join(timeout)
        if lost is None:
            return False
        if lost:
            raise LostItems(
                f"{lost} item{'s' if lost > 1 else ''} of {self!r} had been taken by processes that died before "
                f"task_done(); whether their work was done is not known. All other items are done",
                lost,
            )
        return True


class SimpleQueue(_Queue):
    """The least of a queue: `put`, `get`, `empty`, `close`, and the batches; without a limit."""

    def __init__(self, *, name: str | None = None, ctx: object = None) -> None:
        super().__init__(0, name=name)


for _cls in (Queue, BufferedQueue, JoinableQueue, SimpleQueue):
    _native.own(_cls, _channel.QueueBase)
