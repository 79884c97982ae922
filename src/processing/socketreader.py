"""Reader: takes frames from a Line (socketline.py). It owns what has been read ahead, and when to spin before sleeping.

A receiver that has to wait peeks at what comes: an exception during the wait, from a signal's handler, costs nothing,
and the length of the frame is known before anything is taken, so that one system call takes all of it. (Where something
is there already, two calls for header and rest are as quick; peeking at a long queue of a Unix socket is slow.) No more
than a frame is taken, so that whatever is not yet received can be seen with select and epoll, unless the reader may
read ahead. If the peer is quick, it looks again and again for a moment before it sleeps (spinning.py).
A peer that announces much and sends little costs memory for what it sends and CHUNK bytes more.
"""

from __future__ import annotations

import _socket
import socket
import time

from .framing import SHORT
from .socketline import Nested
from .spinning import Spin

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .socketline import Line

__all__ = ["Reader"]

CHUNK = 16 << 20  # bytes; memory for a message is taken in steps of this size
AHEAD = 64 << 10  # bytes; how much is read ahead, where that is allowed
SHORT_MESSAGE = 16 << 10  # bytes; so much is taken with one system call, and copied once more
LONGEST = (1 << 63) - 1

CUT = "the peer has closed the connection, or died, in the middle of a message"

SHARED = "another process, or thread, receives from the same socket at the same time"

_DONTWAIT = socket.MSG_DONTWAIT
_PEEK = socket.MSG_PEEK
_LOOK = socket.MSG_PEEK | socket.MSG_DONTWAIT


class _Timeout(Exception):
    """Nothing came in time."""


class Reader:
    """The receiving direction. Its state is changed only by who holds `line.receiving`."""

    __slots__ = ("_ahead", "_end", "_line", "_recv", "_spin", "_start", "max_message")

    def __init__(self, line: Line, max_message: int | None) -> None:
        self._line = line
        # Of the plain socket below, also for TLS.
        self._recv: Any = _socket.socket.recv.__get__(line.open())
        self.max_message = max_message
        self._spin = Spin()
        self._ahead: bytearray | None = None  # bytes [_start, _end) of it are received and not yet used
        self._start = self._end = 0

    @property
    def reads_ahead(self) -> bool:
        return self._ahead is not None

    def read_ahead(self) -> None:
        """From now on several frames may be taken from the socket at once."""
        if self._ahead is None:
            self._ahead = bytearray(AHEAD)

    def unused(self) -> bytes:
        """What was received and not used yet."""
        return b"" if self._ahead is None else bytes(self._ahead[self._start : self._end])

    def frame(self, limit: int | None, room: memoryview | None = None) -> Any:
        """The next message, or its length if it has been written to `room`. EOFError at the end.

        What raises within a frame closes the line; so does a frame longer than `limit` or `max_message` (bytes).
        """
        line = self._line
        line.open()
        lock = line.receiving
        if not lock.acquire(False):
            lock = line.acquire("receiving")
        try:
            if line.in_frame:
                raise Nested("a signal's handler cannot receive on a connection that is receiving just now")
            message: Any
            header = b""
            if self._ahead is None and not room:
                line.in_frame = True  # from here until the call's result is stored nobody knows
                try:
                    header = self._recv(4, _DONTWAIT)
                except BlockingIOError:
                    line.in_frame = False
                    message = self._whole(limit)
                    if message is not None:
                        return message
                else:
                    if not header:
                        raise EOFError
            size = self._begin(header, limit)
            if room is not None and size <= len(room):
                self._fill(room[:size])
                message = size
            else:
                message = self._rest(size)
            line.in_frame = False
            return message
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            lock.release()

    def _whole(self, limit: int | None) -> bytes | None:
        """Waits for the next message, and takes it if it is short; else None, and nothing has been taken."""
        line = self._line
        while True:
            head = self._wait()
            if not head:
                raise EOFError
            size: int = SHORT.unpack(head)[0] if len(head) == 4 else -1
            if not 0 <= size <= SHORT_MESSAGE or size > self._longest(limit):
                return None
            line.in_frame = True  # from here until the call's result is stored nobody knows
            try:
                data: bytes = self._recv(4 + size, _DONTWAIT)
            except BlockingIOError:
                line.in_frame = False
                continue  # another process has taken it
            if len(data) != 4 + size:
                if data[:4] != head[: len(data)]:
                    raise OSError(SHARED)
                data += self._rest(4 + size - len(data))
            elif not data.startswith(head):
                raise OSError(SHARED)
            line.in_frame = False
            return data[4:]

    def _begin(self, header: bytes, limit: int | None) -> int:
        """Takes what is left of the header of a frame; the length of what follows."""
        header = header or self._some(4, True)
        if not header:
            raise EOFError
        self._line.in_frame = True
        if len(header) < 4:
            header += self._rest(4 - len(header))
        size: int = SHORT.unpack(header)[0]
        if size == -1:
            size = int.from_bytes(self._rest(8), "big")
        if size < 0 or size > LONGEST:
            raise OSError(f"bad message length: {size}; the peer does not speak this protocol")
        if size > self._longest(limit):
            if limit is not None and size > limit:
                raise OSError(f"bad message length: {size} bytes, at most {limit} were asked for")
            raise OSError(f"bad message length: {size} bytes, max_message is {self.max_message}")
        return size

    def _longest(self, limit: int | None) -> int:
        longest = LONGEST if self.max_message is None else self.max_message
        return longest if limit is None else min(limit, longest)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether `frame` has something to do within `timeout` seconds (None: without limit): bytes, or the end."""
        line = self._line
        line.open()
        if self._start < self._end:
            return True
        timeout = None if timeout is None else max(0.0, timeout)
        if line.tls is None:
            return line.sleep_to_read(timeout)
        # What makes the socket readable may be no data but TLS's own business: only reading tells.
        lock = line.receiving
        if not lock.acquire(False):
            lock = line.acquire("receiving")
        try:
            if line.in_frame:
                raise Nested("a signal's handler cannot poll a connection that is receiving just now")
            if self._start == self._end:
                self._refill(True, timeout)
            return True
        except _Timeout:
            return False
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            lock.release()

    def _failed(self, error: BaseException) -> None:
        line = self._line
        if line.in_frame and isinstance(error, Nested):
            return  # the call that was interrupted decides
        if line.in_frame and not isinstance(error, EOFError):
            line.close()
        line.in_frame = False

    def _rest(self, size: int) -> bytes | bytearray:
        """Exactly `size` bytes, which follow; memory is taken as they come."""
        if size == 0:
            return b""
        if size <= AHEAD:
            data = self._some(size, False)
            if len(data) == size:
                return data
            if not data:
                raise ConnectionResetError(CUT)
        else:
            data = b""
        message = bytearray(min(size, CHUNK))
        message[: len(data)] = data
        have = len(data)
        while True:
            with memoryview(message) as view, view[have:] as empty:
                self._fill(empty)
            have = len(message)
            if have == size:
                return message
            message += bytes(min(size - have, CHUNK))

    def _some(self, size: int, idle: bool) -> bytes:
        """1 to `size` bytes; none at EOF. `idle`: at the start of a frame, where waiting harms nothing."""
        if self._ahead is not None:
            if self._start == self._end and not self._refill(idle):
                return b""
            start = self._start
            self._start = end = min(self._end, start + size)
            return bytes(self._ahead[start:end])
        data: bytes = self._attempt(idle, None, self._recv, size, _DONTWAIT)
        return data

    def _wait(self) -> bytes:
        """Blocks until there is something, and takes nothing: the first bytes, 4 at most; none at EOF."""
        line, recv, spin = self._line, self._recv, self._spin
        until = spin.until()
        while until > 0.0:
            try:
                head: bytes = recv(4, _LOOK)
            except BlockingIOError:
                if time.monotonic() > until:
                    break
            else:
                spin.paid()
                return head
        while True:
            try:
                return recv(4, _PEEK)  # type: ignore[no-any-return]
            except BlockingIOError:  # TLS, or a process that shares the socket has made it so
                line.sleep_to_read(None)
                line.open()
                if line.tls is not None:
                    return b""  # it knows what this was

    def _attempt(self, idle: bool, timeout: float | None, call: Callable[..., Any], *args: Any) -> Any:
        """What `call` returns as soon as it need not wait; _Timeout after `timeout` seconds. Leaves `in_frame` set."""
        line = self._line
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            line.in_frame = True  # from here until the call's result is stored nobody knows
            try:
                return call(*args)
            except BlockingIOError:
                line.in_frame = not idle
            if idle and end is None:
                self._wait()
                continue
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise _Timeout
            line.sleep_to_read(left)
            line.open()

    def _fill(self, view: memoryview) -> None:
        """Receives until `view` is full, in the middle of a frame."""
        have, size = 0, len(view)
        if self._ahead is not None:
            have = min(size, self._end - self._start)
            view[:have] = self._ahead[self._start : self._start + have]
            self._start += have
        while have < size:
            got = self._attempt(False, None, self._line.io.recv_into, view[have:], 0, _DONTWAIT)
            if got == 0:
                raise ConnectionResetError(CUT)
            have += got

    def _refill(self, idle: bool, timeout: float | None = None) -> bool:
        """Reads ahead into the empty buffer. False at EOF; raises _Timeout after `timeout` seconds."""
        self._start = self._end = 0
        self._end = self._attempt(idle, timeout, self._line.io.recv_into, self._ahead, 0, _DONTWAIT)
        self._line.in_frame = not idle
        return self._end > 0
