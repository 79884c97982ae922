"""Starting a process in a new interpreter."""

from __future__ import annotations

import os

from . import popen_fork, spawn
from ._this import this
from .popen_fork import block_stop, restore_mask

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    from typing import Any

    from .process import BaseProcess

__all__ = ["Popen"]


class InheritedFd:
    """A descriptor that the child has under the same number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        os.set_inheritable(self.fd, False)
        return self.fd


class Popen(popen_fork.Popen):
    """A child with an interpreter of its own. It inherits the arena, its ends of the two pipes, and what was pickled
    as a descriptor; nothing else."""

    method = "spawn"
    DupFd = InheritedFd

    def duplicate_for_child(self, fd: int) -> int:
        """Has the child inherit `fd`; returns what to give to DupFd."""
        self._fds.append(fd)
        return fd

    def _launch(self, process: BaseProcess) -> None:
        from . import _program

        self._fds: list[int] = []
        _program.attach()
        token = _program.reserve_child(False)
        parcel = None
        try:
            parcel = self._pack(process, token)
            self._start(token, *parcel)
        except BaseException:
            _program.cancel_child(token)
            raise
        self.token = token

    def _pack(self, process: BaseProcess, token: int) -> tuple[int, int]:
        """Puts the parcel for the child into the arena; returns its name."""
        from . import _program

        with _program.carrying() as references:
            data = spawn.make_parcel(process, self, references.clear)
        where: tuple[int, int] = _program.park(data, token, references)
        return where

    def _start(self, token: int, offset: int, generation: int) -> None:
        from . import _program

        self.sentinel, child_end, lifeline = this.lifeline.open_pipes()
        mask = block_stop() if self.stoppable else None
        try:
            numbers: dict[str, int] = {
                "arena": _program.arena_fd(),
                "token": token,
                "offset": offset,
                "generation": generation,
                "lifeline": lifeline,
                "sentinel": child_end,
            }
            self._fds += [numbers["arena"], lifeline, child_end]
            zygote = running_zygote()
            if zygote >= 0:
                numbers["zygote"] = zygote
                self._fds.append(zygote)
            self.pid = spawn.start_interpreter(spawn.get_command_line(**numbers), self._fds)
        finally:
            if mask is not None:
                restore_mask(mask)
            os.close(child_end)
            os.close(lifeline)
            self._fds.clear()


def running_zygote() -> int:
    """The descriptor on which this program's zygote takes requests, -1 if there is none."""
    import sys

    module: Any = sys.modules.get("processing.forkserver")
    fd: int = module.server.fileno() if module is not None else -1
    return fd
