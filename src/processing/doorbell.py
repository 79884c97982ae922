"""Descriptors on demand: how select, asyncio and `connection.wait` learn that a queue or pipe has something.

Queues and pipes need no descriptor. One that is asked for (`fileno()`, `wait()`) is an abstract Unix datagram socket
of this process, its name entered in the ring; writers ring it (core/src/bell.c). It is level-triggered as far as the
user can tell: readable while there is something, drained by the receive that takes the last message.

      writer                        this process
        put, publish ---------------> ring
        bells? one datagram --------> socket  <--- select, asyncio, wait()
                                        | refresh(), after each receive: drain, and ring again if more is there
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Any

from . import _program

__all__ = ["descriptor_of", "forget", "wait_for_any"]

_SLICE = 0.25  # seconds: death is looked for this often while wait() blocks


class Doorbell:
    """The socket of one handle in this process."""

    def __init__(self, handle: Any) -> None:
        self._handle_ready = handle._ready
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._address = handle._bell(True)
            self._socket.bind(self._address)
        except BaseException:
            self._socket.close()
            raise
        self.refresh()

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def mine(self) -> bool:
        """False in a forked child, which needs a bell of its own."""
        return self._pid == os.getpid()

    def refresh(self) -> None:
        """Makes the descriptor readable exactly if there is something to receive."""
        try:
            while True:
                self._socket.recv(1)
        except BlockingIOError:
            pass
        if self._handle_ready():
            try:
                self._socket.sendto(b"!", self._address)
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Closes the descriptor."""
        self._socket.close()


class SocketBell:
    """A Doorbell for a socket that is read ahead: its descriptor is the socket's own."""

    def __init__(self, connection: Any) -> None:
        self.fileno = connection.fileno

    def mine(self) -> bool:
        return True

    def refresh(self) -> None:
        """Nothing to be done: the socket itself tells."""


def _bell_of(handle: Any) -> Doorbell:
    bell: Doorbell | None = handle.doorbell
    if bell is None or not bell.mine():
        if bell is not None:
            bell.close()
        bell = handle.doorbell = Doorbell(handle)
    return bell


def descriptor_of(handle: Any) -> int:
    """The descriptor of a queue or connection in this process, made at the first call.

    Each call sets it right: it may have been rung for what another process has taken meanwhile.
    """
    bell = _bell_of(handle)
    bell.refresh()
    return bell.fileno()


def forget(handle: Any) -> None:
    """Closes the descriptor of a handle that is about to be closed."""
    bell: Doorbell | None = handle.doorbell
    if bell is not None:
        handle.doorbell = None
        if bell.mine():
            handle._bell(False)
        bell.close()


def wait_for_any(object_list: Any, timeout: float | None) -> list[Any]:
    """`connection.wait`."""
    objects = list(object_list)
    ours = [(index, o) for index, o in enumerate(objects) if hasattr(o, "_ready")]
    ready = {index for index, o in ours if o._ready()}
    poll = select.poll()
    where: dict[int, list[int]] = {}
    for index, o in enumerate(objects):
        if ready and hasattr(o, "_ready"):
            continue
        fd = _bell_of(o).fileno() if hasattr(o, "_ready") else o if isinstance(o, int) else o.fileno()
        where.setdefault(fd, []).append(index)
        poll.register(fd, select.POLLIN | select.POLLPRI)
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = 0.0 if ready else None if end is None else max(0.0, end - time.monotonic())
        step = left if not ours else _SLICE if left is None else min(left, _SLICE)
        for fd, _ in poll.poll(None if step is None else step * 1000):
            for index in where[fd]:
                if not hasattr(objects[index], "_ready"):
                    ready.add(index)
        for index, o in ours:
            if index not in ready and o._ready():
                ready.add(index)
        if ready or (left is not None and left <= 0) or (end is not None and time.monotonic() >= end):
            return [objects[index] for index in sorted(ready)]
        for _, o in ours:  # rung for what somebody else took meanwhile
            if o.doorbell is not None:
                o.doorbell.refresh()
        if ours:
            _program.sweep_sometimes()
