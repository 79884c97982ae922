"""Names that the program is to remove at its end, as `multiprocessing.resource_tracker` has them.

There is no process that tracks: the names are in the program's book (_segments.py), which also says what a program that
was killed has left behind.
"""

from __future__ import annotations

import os

from . import _segments
from ._this import this

__all__ = ["ensure_running", "register", "unregister"]

# What comes before a name in the folder of shared memory (shm_overview(7), sem_overview(7)).
PREFIXES = {"shared_memory": "", "semaphore": "sem."}


def ensure_running() -> None:
    """Does nothing: there is nothing to start."""


def register(name: str, rtype: str) -> None:
    """The program is to remove this name at its end: "shared_memory" or "semaphore", other kinds raise ValueError. What
    `processing.shared_memory` made is registered already; a name that does not exist is nobody's to remove."""
    path = _path_of(name, rtype)
    if os.path.lexists(path):
        _segments.remember(path)
        this.leave_last()  # and have the names removed before


def unregister(name: str, rtype: str) -> None:
    """The program is not to remove this name: somebody else will."""
    _segments.forget(_path_of(name, rtype))


def _path_of(name: str, rtype: str) -> str:
    prefix = PREFIXES.get(rtype)
    if prefix is None:
        raise ValueError(f"a resource is one of {', '.join(PREFIXES)}, not {rtype!r}")
    return _segments.path_of(prefix + name.lstrip("/"))
