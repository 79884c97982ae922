"""PosixQueue: a queue on a POSIX message queue of the kernel.

    put: object --pickle--> bytes --mq_send--> kernel: at most `maxsize` messages of at most `msgsize` bytes
    get: object <-pickle--- bytes <-mq_receive--'

The kernel keeps the messages, sends and receives each one completely or not at all, and frees the queue with the last
descriptor of it: nothing of this queue lies in the arena, and a process may be killed at any moment. The price is its
limits: few messages, short ones, a descriptor in each process, and sharing only with children. A handle of another
shared object travels as in any pickle, but nothing keeps that object alive meanwhile: keep it until it was received.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Full
from typing import Any

from . import _posixqueue, reduction

__all__ = ["PosixQueue", "PosixQueueStatistics"]

FOLDER = "/proc/sys/fs/mqueue"
# What Linux starts with, for where FOLDER cannot be read.
USUAL_MAXSIZE, USUAL_MSGSIZE = 10, 8192
SMALLEST_MSGSIZE = 256
BATCH = 64


@dataclass(frozen=True)
class PosixQueueStatistics:
    """A moment of a PosixQueue. `puts` and `gets` count what this process did with this object."""

    name: str | None
    maxsize: int
    msgsize: int
    qsize: int
    puts: int
    gets: int


class PosixQueue:
    """A queue of the kernel for at most `maxsize` messages whose pickles have at most `msgsize` bytes.

    Zero means the largest that the system allows (`msg_max` and `msgsize_max` in /proc/sys/fs/mqueue), or, where the
    memory that RLIMIT_MSGQUEUE leaves to this user's queues is too small for that, as many messages, then as long ones,
    as fit; the attributes `maxsize` and `msgsize` tell. Values that the system does not allow raise ValueError, running
    out of memory for queues or of descriptors OSError. There is no name that could be left behind.

    Shared with children: inherited by fork, or as an argument of a Process under any start method. It cannot be sent
    to a process that already runs (RuntimeError). Any number of processes and threads may put and get; messages
    of one producer arrive in its order, and whatever was put survives the producer's death.
    """

    def __init__(self, maxsize: int = 0, msgsize: int = 0, *, name: str | None = None) -> None:
        self._fd = -1
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, not {type(name).__name__}")
        self.name = name
        _check("maxsize", maxsize, "msg_max", USUAL_MAXSIZE)
        _check("msgsize", msgsize, "msgsize_max", USUAL_MSGSIZE)
        self._fd = _create(maxsize, msgsize)
        self._learn()

    def _learn(self) -> None:
        """What the object knows besides its descriptor, when it is made or received."""
        self.maxsize, self.msgsize, _ = _posixqueue.attributes(self._fd)
        self._owner = os.getpid()
        self._puts = self._gets = 0
        # Raised by the next get: a batch ended at a message that could not be unpickled.
        self._failure: Exception | None = None

    # ---- put ----

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Appends a message. Waits while the queue is full, `timeout` seconds at most; then queue.Full.

        ValueError if the pickle is longer than `msgsize` or the queue is closed; what pickling raises if `obj` cannot
        be pickled. The queue is unharmed then.
        """
        fd = self._open_fd()
        message = self._message(obj, "obj")
        if not _posixqueue.send(fd, [message], _deadline(block, timeout)):
            raise Full
        self._puts += 1

    def put_nowait(self, obj: Any) -> None:
        """`put(obj, block=False)`."""
        self.put(obj, False)

    def put_many(self, iterable: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Appends the messages in order, waiting as `put` does for all of them together.

        If it raises, what had been put before stays put: everything up to the first message that could not be.
        queue.Full has an attribute `put`: how many were put.
        """
        fd = self._open_fd()
        deadline = _deadline(block, timeout)
        objects = iter(iterable)
        total = 0
        more = True
        while more:
            batch: list[bytes] = []
            more = False
            try:
                for message in self._messages(objects):
                    batch.append(message)
                    if len(batch) == BATCH:
                        more = True
                        break
            finally:
                # Also when one of them was refused: those before it go first.
                sent = _posixqueue.send(fd, batch, deadline)
                self._puts += sent
                total += sent
            if sent < len(batch):
                full = Full(f"{total} messages were put, then {self!r} stayed full")
                full.put = total  # type: ignore[attr-defined]
                raise full

    def _messages(self, objects: Iterator[Any]) -> Iterator[bytes]:
        for index, obj in enumerate(objects):
            yield self._message(obj, f"items[{index}]")

    def _message(self, obj: Any, name: str) -> bytes:
        message = reduction.dumps(obj, by_value=True, name=name)
        if len(message) > self.msgsize:
            raise ValueError(
                f"the pickle of {name} ({type(obj).__name__}) has {len(message)} bytes, {self!r} takes messages of at "
                f"most {self.msgsize}: send less at a time, make the queue with a larger msgsize (the system's "
                f"largest is {FOLDER}/msgsize_max), or use a Queue, which has no such limit"
            )
        return message

    # ---- get ----

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Removes and returns the oldest message. Waits while there is none, `timeout` seconds at most; then
        queue.Empty. ValueError if the queue is closed. A message that cannot be unpickled is gone."""
        fd = self._open_fd()
        self._raise_failure()
        messages = _posixqueue.receive(fd, self.msgsize, 1, _deadline(block, timeout))
        if not messages:
            raise Empty
        self._gets += 1
        return reduction.loads(messages[0])

    def get_nowait(self) -> Any:
        """`get(block=False)`."""
        return self.get(False)

    def get_many(
        self, max_items: int | None = None, block: bool = True, timeout: float | None = None
    ) -> list[Any]:
        """What is there, at most `max_items`; waits for the first message as `get` does.

        A message that cannot be unpickled ends the list; its error is raised by the next get, at once if it is first.
        """
        fd = self._open_fd()
        if max_items is not None and max_items < 1:
            raise ValueError(f"max_items must be at least 1, not {max_items}")
        self._raise_failure()
        # One at a time: a message that is taken and then not handed over would be lost.
        deadline = _deadline(block, timeout)
        objects: list[Any] = []
        while max_items is None or len(objects) < max_items:
            messages = _posixqueue.receive(fd, self.msgsize, 1, 0 if objects else deadline)
            if not messages:
                break
            self._gets += 1
            try:
                objects.append(reduction.loads(messages[0]))
            except Exception as error:
                if not objects:
                    raise
                self._failure = error
                break
            if max_items is None and len(objects) >= self.maxsize:
                break  # as many as fit: producers that go on putting must not keep us here for ever
        if not objects:
            raise Empty
        return objects

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # ---- the rest ----

    def qsize(self) -> int:
        """The number of messages, at this moment."""
        return _posixqueue.attributes(self._open_fd())[2]

    def empty(self) -> bool:
        """Whether there was no message just now."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there was no room just now."""
        return self.qsize() >= self.maxsize

    def fileno(self) -> int:
        """The queue's descriptor, for `select`, asyncio, `connection.wait`: readable when a message is there, writable
        when there is room. Belongs to the queue."""
        return self._open_fd()

    def close(self) -> None:
        """This process will not use the queue any more: ValueError from then on. Others may; messages stay."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _posixqueue.close(fd)

    def join_thread(self) -> None:
        """Does nothing: there is no thread."""

    def cancel_join_thread(self) -> None:
        """Does nothing: there is no thread."""

    def statistics(self) -> PosixQueueStatistics:
        """Facts about the queue at this moment."""
        qsize = self.qsize()
        self._count_for_this_process()
        return PosixQueueStatistics(self.name, self.maxsize, self.msgsize, qsize, self._puts, self._gets)

    def _count_for_this_process(self) -> None:
        if self._owner != os.getpid():
            self._owner, self._puts, self._gets = os.getpid(), 0, 0

    def _open_fd(self) -> int:
        fd = self._fd
        if fd < 0:
            raise ValueError(f"{self!r} is closed: this process gave it up with close()")
        if self._owner != os.getpid():
            self._count_for_this_process()
        return fd

    def __reduce__(self) -> tuple[Any, ...]:
        fd = self._open_fd()
        if reduction.spawning.popen is None:
            raise RuntimeError(
                f"{self!r} can be given to a process only while that process is being started: pass it in the "
                "arguments of Process(...). A Queue can be sent to running processes too"
            )
        return _received, (type(self), self.name, reduction.DupFd(fd))

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        fd = self._fd
        if fd < 0:
            return f"<{type(self).__name__}{name} closed>"
        try:
            used = _posixqueue.attributes(fd)[2]
        except OSError:
            return f"<{type(self).__name__}{name} fd={fd}>"
        return f"<{type(self).__name__}{name} {used}/{self.maxsize} messages, msgsize={self.msgsize}>"

    # The default argument stays reachable while the interpreter tears the module down.
    def __del__(self, _close: Any = _posixqueue.close) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            try:
                _close(fd)
            except OSError:
                pass


def _received(cls: type[PosixQueue], name: str | None, descriptor: Any) -> PosixQueue:
    """The queue in a spawned child."""
    queue = cls.__new__(cls)
    queue._fd = descriptor.detach()
    os.set_inheritable(queue._fd, False)
    queue.name = name
    queue._learn()
    return queue


def _deadline(block: bool, timeout: float | None) -> int:
    """As _posixqueue counts: monotonic nanoseconds, 0 for not at all, negative for never."""
    if not block:
        return 0
    if timeout is None:
        return -1
    if timeout != timeout:
        raise ValueError("timeout is not a number of seconds: nan")
    if timeout <= 0:
        return 0
    # 28 years and more are for ever.
    return -1 if timeout > 9e8 else time.monotonic_ns() + int(timeout * 1e9)


# ---- Limits ---------------------------------------------------------------------------------------------------------


def _system_limit(entry: str, usual: int) -> int:
    try:
        with open(f"{FOLDER}/{entry}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return usual


def _check(argument: str, value: int, entry: str, usual: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {type(value).__name__}")
    if value < 0:
        raise ValueError(
            f"{argument} must not be negative, but is {value}; 0 means the largest that the system allows"
        )
    # The same for everybody, though the kernel lets privileged processes go beyond it.
    limit = _system_limit(entry, usual)
    if value > limit:
        raise ValueError(
            f"{argument}={value} is more than this system allows: {limit}. The limit is {FOLDER}/{entry}, which the "
            f"administrator can raise (sysctl fs.mqueue.{entry}=...)"
        )


def _sizes(maxsize: int, msgsize: int) -> Iterator[tuple[int, int]]:
    """What to try, from the wanted or largest on down; only what was not asked for shrinks."""
    count = maxsize or _system_limit("msg_max", USUAL_MAXSIZE)
    length = msgsize or _system_limit("msgsize_max", USUAL_MSGSIZE)
    yield count, length
    while not maxsize and count > 1:
        count //= 2
        yield count, length
    while not msgsize and length > SMALLEST_MSGSIZE:
        length = max(SMALLEST_MSGSIZE, length // 2)
        yield count, length


def _create(maxsize: int, msgsize: int) -> int:
    for count, length in _sizes(maxsize, msgsize):
        while True:
            name = f"/processing-{os.getpid()}-{os.urandom(8).hex()}".encode()
            try:
                return _posixqueue.create(name, count, length)
            except FileExistsError:
                continue
            except OSError as error:
                if (
                    error.errno not in (errno.EMFILE, errno.ENOMEM, errno.EINVAL)
                    or not _a_descriptor_is_free()
                ):
                    raise _explained(error, count, length) from None
                smaller = error
                break
    raise _explained(smaller, count, length) from None


def _a_descriptor_is_free() -> bool:
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _explained(error: OSError, count: int, length: int) -> OSError:
    """The error with its likely cause: mq_open has few numbers for many causes (mq_open(3))."""
    what = f"no PosixQueue of {count} messages of {length} bytes"
    code = error.errno or 0
    if code == errno.ENOSYS:
        return OSError(code, f"{what}: this kernel was built without POSIX message queues; use a Queue")
    if code == errno.ENOSPC:
        number = _system_limit("queues_max", 256)
        return OSError(
            code, f"{what}: there are {number} queues already, the system's limit ({FOLDER}/queues_max)"
        )
    if code in (errno.EMFILE, errno.ENFILE) and not _a_descriptor_is_free():
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return OSError(
            code, f"{what}: no descriptor is free, of {limit} that this process may have (ulimit -n)"
        )
    if code in (errno.EMFILE, errno.ENOMEM):
        limit = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0]
        return OSError(
            code,
            f"{what}: all queues of this user together may take {limit} bytes (RLIMIT_MSGQUEUE, ulimit -q); close some "
            "or make smaller ones",
        )
    return OSError(code, f"{what}: {os.strerror(code)}")
