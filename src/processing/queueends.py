"""What programs expect to find inside a queue of `multiprocessing`: two ends of a pipe, and a feeder's error hook."""

from __future__ import annotations

from queue import Full
from typing import Any

__all__ = ["Reader", "Writer", "telling"]


class Reader:
    """`queue._reader`: receives what the queue gives next. `connection.wait` takes it."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def recv(self) -> Any:
        return self._queue.get()

    def poll(self, timeout: float | None = 0.0) -> bool:
        from .doorbell import wait_for_any

        return bool(wait_for_any([self._queue], timeout))

    def fileno(self) -> int:
        number: int = self._queue.fileno()
        return number

    def close(self) -> None:
        """Does nothing: the queue is closed as a whole."""

    @property
    def closed(self) -> bool:
        return not self._queue._is_open or bool(self._queue._facts()[-1])

    # So that `connection.wait` looks at the queue.

    def _ready(self) -> bool:
        return bool(self._queue._ready())

    def _bell(self, on: bool) -> Any:
        return self._queue._bell(on)

    @property
    def doorbell(self) -> Any:
        return self._queue.doorbell

    @doorbell.setter
    def doorbell(self, bell: Any) -> None:
        self._queue.doorbell = bell


class Writer:
    """`queue._writer`: what is sent is put."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def send(self, obj: Any) -> None:
        self._queue.put(obj)

    def close(self) -> None:
        """Does nothing: the queue is closed as a whole."""

    @property
    def closed(self) -> bool:
        return not self._queue._is_open or bool(self._queue._facts()[-1])


def telling(put: Any) -> Any:
    """`put` of a class that has a hook for what cannot be pickled: it is told, and nothing is raised."""

    def telling_put(self: Any, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            put(self, obj, block, timeout)
        except Full:
            raise
        except Exception as error:
            if not self._is_open or self._facts()[-1]:  # closed
                raise
            self._on_queue_feeder_error(error, obj)

    return telling_put
