"""Pools whose class makes queues of its own, as subclasses of `multiprocessing.pool.Pool` may: joblib's do, to have
large arrays pickled as files.

Calls and results do not go through these queues. But they are pickled as the queues would pickle them:

    pool._setup_queues()  makes _inqueue and _outqueue, of pipes of a context whose pipes are tapes
    call    ──_quick_put──▶  tape  ──▶  Pickled, the argument of `run` in a worker
    result  ──_outqueue.put──▶  tape  ──▶  Pickled, what `run` returns
"""

from __future__ import annotations

import threading
from pickle import PickleBuffer

from .reduction import ForkingPickler, spawning

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = ["OwnQueues", "run"]


class Tape:
    """Both ends of a pipe that leads nowhere: what is sent stays until it is taken."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def send(self, obj: Any) -> None:
        self.messages.append(bytes(ForkingPickler.dumps(obj)))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        if type(buf) is not bytes or offset or size is not None:
            view = memoryview(buf).cast("B")[offset:]
            buf = bytes(view if size is None else view[:size])
        self.messages.append(buf)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        return self.messages.pop(0)

    def recv(self) -> Any:
        return ForkingPickler.loads(self.recv_bytes())

    def poll(self, timeout: float | None = 0.0) -> bool:
        return bool(self.messages)

    def close(self) -> None:
        self.messages.clear()

    def __reduce__(self) -> Any:
        return Tape, ()


class TapeQueue:
    """The `SimpleQueue` of a context of tapes."""

    def __init__(self) -> None:
        self._reader = self._writer = Tape()

    def put(self, obj: Any) -> None:
        self._writer.send(obj)

    def get(self) -> Any:
        return self._reader.recv()

    def empty(self) -> bool:
        return not self._reader.poll()

    def close(self) -> None:
        self._writer.close()


class TapeContext:
    """A context, but for its pipes and simple queues."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def Pipe(self, duplex: bool = True) -> tuple[Tape, Tape]:
        tape = Tape()
        return tape, tape

    def SimpleQueue(self) -> TapeQueue:
        return TapeQueue()


class Pickled:
    """What a queue has pickled: whoever gets it, gets the object."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As a buffer it is not copied on its way.
        data = PickleBuffer(self.data) if protocol >= 5 else self.data
        return ForkingPickler.loads, (data,)


class Inherited:
    """The queue for results, for a worker: such queues can only be pickled for a process that is being started."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __reduce__(self) -> Any:
        before = spawning.popen
        spawning.popen = self
        try:
            return Inherited, (Pickled(bytes(ForkingPickler.dumps(self.queue))),)
        finally:
            spawning.popen = before


class Recorder:
    """One queue's way of pickling."""

    def __init__(self, put: Callable[[Any], object], queue: Any) -> None:
        self.put = put
        self.lock = threading.Lock()
        tape = getattr(queue, "_writer", None)
        if not isinstance(tape, Tape):
            raise NotImplementedError(
                f"{type(queue).__name__}: a pool's own queues must be made of pipes of the pool's `_ctx`, and have the "
                "end that is written to as `_writer`"
            )
        self.tape = tape

    def pickled(self, obj: Any) -> Pickled:
        with self.lock:
            try:
                self.put(obj)
                return Pickled(b"".join(self.tape.messages))
            finally:
                self.tape.close()


class OwnQueues:
    """The queues that a pool's class makes, and what the pool needs of them."""

    run: Callable[..., Any]  # what a worker calls with an item of a map

    def __init__(self, pool: Any, context: Any) -> None:
        pool._ctx = TapeContext(context)
        try:
            pool._setup_queues()
        finally:
            pool._ctx = context
        self.requests = Recorder(getattr(pool, "_quick_put", pool._inqueue.put), pool._inqueue)
        Recorder(pool._outqueue.put, pool._outqueue)  # or it would fail in the workers
        self.outqueue = pool._outqueue
        self.run = run

    def call_of(self, engine: Any) -> Callable[..., object]:
        """In place of `engine.call`."""

        def call(job: int, func: Any, args: Any, kwds: Any, timeout: float, retries: int) -> None:
            request = self.requests.pickled((func, tuple(args), dict(kwds)))
            engine.call(job, run, (request,), {}, timeout, retries)

        return call

    def items(self, func: Callable[..., Any], items: Iterable[Any], star: bool) -> Iterator[Pickled]:
        """What `run` is to be given for each item of a map."""
        return (self.requests.pickled((func, tuple(item) if star else (item,), {})) for item in items)

    def initializer(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """What a worker is to begin with."""
        return begin, (Inherited(self.outqueue), initializer, initargs)


results: Recorder | None = None  # of this worker


def begin(outqueue: Inherited, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """In a worker."""
    global results
    results = Recorder(outqueue.queue.put, outqueue.queue)
    if initializer is not None:
        initializer(*initargs)


def run(request: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> Any:
    """In a worker: runs a call, and pickles what it returns as the pool's queue for results does."""
    func, args, kwds = request
    value = func(*args, **kwds)
    if results is None:
        raise RuntimeError("this process is no worker of a pool with queues of its own")
    try:
        return results.pickled(value)
    except Exception as error:
        from .pool import MaybeEncodingError

        raise MaybeEncodingError(error, value) from None
