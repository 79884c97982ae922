"""Libraries that are built on the inside of `multiprocessing` keep it when this package stands in (standin.py).

loky (joblib has a copy) makes its own processes, queues and semaphores out of halves of the standard library's. For its
modules, and for the standard library's own, importing `multiprocessing` gives the real one, which is kept beside ours:
an importer is known by the globals of its import statement.
"""

from __future__ import annotations

import builtins
import sys
import threading

from ._this import this
from .standin import KEEPERS, THEIRS

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    import types
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["keep"]


class Kept:
    """The standard library's modules, and the import function that gives them to those who keep them."""

    def __init__(self, finder: Any, theirs: Mapping[str, types.ModuleType]) -> None:
        self.finder = finder
        self.theirs = dict(theirs)
        self.lock = threading.RLock()
        self.depth = 0
        self.keyed = False  # theirs has our authkey: proxies of managers work in loky's processes
        self.ours: dict[str, types.ModuleType] = {}
        self.original = builtins.__import__

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        importer = globals.get("__name__") if globals is not None else None
        if not isinstance(importer, str) or not is_within(importer, (*KEEPERS, THEIRS)):
            return self.original(name, globals, locals, fromlist, level)
        if not (is_within(name, (THEIRS,)) if level == 0 else is_within(importer, (THEIRS,))):
            return self.original(name, globals, locals, fromlist, level)
        with self.lock:
            self.change_places()
            try:
                return self.original(name, globals, locals, fromlist, level)
            finally:
                self.change_back()

    def change_places(self) -> None:
        """From here on the names are theirs."""
        self.depth += 1
        if self.depth == 1:
            self.ours = _take_out()
            sys.modules.update(self.theirs)
            self.finder.active = False

    def change_back(self) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.finder.active = True
            self.theirs = _take_out()
            sys.modules.update(self.ours)
            process: Any = self.theirs.get("multiprocessing.process")
            if process is not None and not self.keyed:
                self.keyed = True
                process.current_process().authkey = this.current.authkey


def _take_out() -> dict[str, types.ModuleType]:
    found = {name: module for name, module in [*sys.modules.items()] if is_within(name, (THEIRS,))}
    for name in found:
        del sys.modules[name]
    return found


def is_within(name: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of these packages or in one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def keep(finder: Any, theirs: Mapping[str, types.ModuleType]) -> None:
    """Begins it. `theirs`: what is loaded of the standard library's."""
    builtins.__import__ = Kept(finder, theirs)
