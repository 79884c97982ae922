"""`processing.connection` between threads: connections over queues, nothing is pickled."""

from __future__ import annotations

from queue import Queue

TYPE_CHECKING = False  # as typing has it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Client", "Listener", "Pipe"]

families: list[None] = [None]


class Listener:
    """Accepts connections of `Client(listener.address)`."""

    def __init__(self, address: object = None, family: object = None, backlog: int = 1) -> None:
        self._backlog: Queue[Any] | None = Queue(backlog)

    def accept(self) -> Connection:
        """Blocks until a client connects."""
        if self._backlog is None:
            raise OSError("listener is closed")
        return Connection(*self._backlog.get())

    def close(self) -> None:
        """Accepts no more."""
        self._backlog = None

    @property
    def address(self) -> Any:
        """What a client connects to."""
        return self._backlog

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def Client(address: Any) -> Connection:
    """A connection to the Listener of that address."""
    incoming: Queue[Any] = Queue()
    outgoing: Queue[Any] = Queue()
    address.put((outgoing, incoming))
    return Connection(incoming, outgoing)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connections, each of which receives what the other sends."""
    first: Queue[Any] = Queue()
    second: Queue[Any] = Queue()
    return Connection(first, second), Connection(second, first)


class Connection:
    """One end. `send` never blocks; `recv` blocks until there is something."""

    def __init__(self, incoming: Queue[Any], outgoing: Queue[Any]) -> None:
        self._in = incoming
        self._out = outgoing
        self.send = self.send_bytes = outgoing.put
        self.recv = self.recv_bytes = incoming.get

    def poll(self, timeout: float = 0.0) -> bool:
        """Whether there is something to receive; waits for it at most `timeout` seconds."""
        if self._in.qsize() > 0:
            return True
        if timeout <= 0.0:
            return False
        with self._in.not_empty:
            if self._in._qsize() == 0:
                self._in.not_empty.wait(timeout)
        return self._in.qsize() > 0

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
