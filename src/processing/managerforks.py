"""References to objects of servers that do not share our arena, across a fork.

The child of a fork has copies of all proxies, but the server knows nothing of it yet, and the parent may drop its own
at once. So before a fork the parent asks the server to hold the objects for the child ("flight"); the child claims that
when it first connects. If it ends, or runs another program, without having done so, the parent gives it back: it learns
that from a pipe, whose other end the child has.
"""

from __future__ import annotations

import os
import select
from threading import get_ident

from . import util

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from .managerclient import Link

__all__ = ["Forks"]

CLAIMED = b"1"


class Forks:
    """What a link has to do with forks."""

    def __init__(self, link: Link) -> None:
        self.link = link
        # Forks that are going on, by thread: pipe (to read, to write), objects, flight.
        self.leaving: dict[int, tuple[int, int, list[str], int | None]] = {}
        self.children: list[
            tuple[int, list[str], int | None]
        ] = []  # which have not claimed yet, as far as we know
        self.ours: tuple[int, list[str], int | None] | None = None  # what our own parent holds for us

    def before(self) -> None:
        link = self.link
        channel = getattr(link.local, "channel", None)
        if not link.counted or (channel is not None and channel.busy):
            return  # busy: the fork is in the middle of a call (in a signal handler)
        try:
            self.look()
            idents = [*link.counted]
            if link.control is None:
                link.connect()
            flight: int | None = None
            if link.is_standard:
                for ident in idents:
                    link.function("incref", ident)
            else:
                flight = link.function("hold", *idents)
            reader, writer = os.pipe()
        except Exception as error:
            util.debug("the server at %r could not be told of a fork: %r", link.address, error)
            return
        self.leaving[get_ident()] = reader, writer, idents, flight

    def after_in_parent(self) -> None:
        leaving = self.leaving.pop(get_ident(), None)
        if leaving is not None:
            reader, writer, idents, flight = leaving
            os.close(writer)
            self.children.append((reader, idents, flight))

    def after_in_child(self) -> None:
        leaving = self.leaving.pop(get_ident(), None)
        for reader, writer, _, _ in self.leaving.values():  # of other threads, which do not exist here
            os.close(reader)
            os.close(writer)
        self.leaving = {}
        for reader, _, _ in self.children:
            os.close(reader)
        self.children = []
        if self.ours is not None:
            os.close(self.ours[0])
            self.ours = None
        if leaving is not None:
            reader, writer, idents, flight = leaving
            os.close(reader)
            self.ours = writer, idents, flight

    def claim(self) -> dict[str, int | None]:
        """What the parent holds for us, when we connect: -> the flight for each object."""
        if self.ours is None:
            return {}
        writer, idents, flight = self.ours
        self.ours = None
        try:
            os.write(writer, CLAIMED)
        except OSError:
            pass  # the parent has ended
        os.close(writer)
        return dict.fromkeys(idents, flight)

    def look(self) -> None:
        """Gives back what was held for children that have ended without claiming it."""
        if not self.children:
            return
        poll = select.poll()
        for reader, _, _ in self.children:
            poll.register(reader, select.POLLIN)
        told = {fd for fd, _ in poll.poll(0)}
        for child in [child for child in self.children if child[0] in told]:
            self.children.remove(child)
            reader, idents, flight = child
            claimed = os.read(reader, 1)
            os.close(reader)
            if not claimed:
                self.link.dropped += [(ident, flight) for ident in idents]
