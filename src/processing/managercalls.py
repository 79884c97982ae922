"""Calls of locks and queues of a manager's server: by clients, and by code that runs in the server itself."""

from __future__ import annotations

import threading

from .managedbase import Call
from .managedsync import Condition, _Exclusive

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .managerpeers import Peer
    from .managertraffic import Traffic

__all__ = ["PeerCall", "CallHere", "give_up"]


class PeerCall(Call):
    """A call by a client, which may be answered later."""

    __slots__ = ("traffic", "peer")

    def __init__(self, traffic: Traffic, peer: Peer) -> None:
        super().__init__(peer, peer.session if peer.session is not None else peer)
        self.traffic, self.peer = traffic, peer

    def answer(self, result: Any) -> bool:
        self.peer.call = None
        return self.traffic.deliver(self.peer, ("#RETURN", result))

    def fail(self, exception: BaseException) -> bool:
        self.peer.call = None
        return self.traffic.deliver(self.peer, ("#ERROR", exception))


class CallHere(Call):
    """A call from code that runs in the server itself."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        super().__init__(("server", threading.get_ident()), "server")
        self.done = threading.Event()

    def answer(self, result: Any) -> bool:
        self.outcome: tuple[Any, BaseException | None] = (result, None)
        self.done.set()
        return True

    def fail(self, exception: BaseException) -> bool:
        self.outcome = (None, exception)
        self.done.set()
        return True


def give_up(call: Call) -> int:
    """The caller has given up. -> How many answers will come in spite of that: the `wait` of a condition ends with the
    lock held, whatever it ends with."""
    at = call.waiting_at
    assert at is not None
    if isinstance(at, Condition):
        at._timed_out(call)
        return 1
    if isinstance(at, _Exclusive) and call._note is not None:  # it has been notified, and waits for the lock
        return 1
    at.forget(call)
    return 0
