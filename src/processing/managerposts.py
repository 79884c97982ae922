"""Puts that nobody waits for: a process of the program puts into a queue that has no limit, and goes on at once.

    client                                                 server
      is the flag up?           one byte of the arena
      posts the item ─────────────── request ring ───────▶  its loop puts the item into the queue
      is the flag still up? Then the put is done.
      It is down: waits until the ring was read up to here

Every other call of the program's processes goes through the same ring, so nobody sees the queue without an item whose
put has returned. Who comes another way might: another program's client, code that runs in the server. The first such
call on a queue takes its flag down, for good, and waits until the ring was read up to there. Both sides write before
they read, so either the client sees that the flag is down, or the server finds the item in the ring.

Every so often a put waits for its reply all the same (managerchannels.py): so a server that is slower than its clients
holds them back, and they learn when it has ended.
"""

from __future__ import annotations

import itertools
import threading
from _thread import get_ident

from .managedqueue import PriorityQueue, Queue

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .arrays import ArrayMemory
    from .managerobjects import Entry, Objects

__all__ = ["Posts", "make_flag"]

LOOK = 0.1  # seconds between looks whether the ring is read any more


def make_flag(obj: Any) -> ArrayMemory | None:
    """A flag that is up, if this is a queue into which nothing can fail to be put; else None."""
    if not isinstance(obj, Queue) or isinstance(obj, PriorityQueue) or not obj.takes_all():
        return None
    from .arrays import ArrayMemory

    flag = ArrayMemory(1)
    with memoryview(flag) as view:
        view[0] = 1
    return flag


class Posts:
    """The server's side. `ring_thread` is the one that reads the ring now."""

    def __init__(
        self, objects: Objects, mutex: threading.RLock, requests: Any, over: threading.Event
    ) -> None:
        self.objects, self.mutex, self.requests, self.over = objects, mutex, requests, over
        self.ring_thread = 0
        self.numbers = itertools.count(1)
        self.fences: dict[str, threading.Event] = {}

    def put(self, ident: str | None, item: Any) -> None:
        """An item was posted; if nobody has the queue any more, it has gone with that."""
        with self.mutex:
            entry = self.objects.entries.get(ident or "")
            if entry is not None and isinstance(entry.obj, Queue):
                entry.obj.put_late(item)

    def end(self, entry: Entry) -> None:
        """The flag goes down, and what was posted till then is put. Under the mutex only in the ring's thread."""
        flag = entry.flag
        if flag is None:
            return
        flag[0] = 0
        if get_ident() != self.ring_thread:
            number = str(next(self.numbers))
            passed = self.fences[number] = threading.Event()
            self.requests.put((0, number, "#FENCE", (), None))
            while not passed.wait(LOOK) and not self.over.is_set():
                pass
            self.fences.pop(number, None)
        entry.flag = None

    def fence(self, number: str | None) -> None:
        """The ring was read up to a fence."""
        passed = self.fences.get(number or "")
        if passed is not None:
            passed.set()

    def end_all(self) -> None:
        """The server ends: puts wait for a reply that will not come, and say so."""
        for entry in [*self.objects.entries.values()]:
            if entry.flag is not None:
                entry.flag[0] = 0
