"""Standing in for `multiprocessing`: after `install()`, importing that gives the modules of this package.

    import multiprocessing.pool  ──▶  Finder (first on sys.meta_path)  ──▶  sys.modules['multiprocessing.pool']
                                                                            is the module processing.pool
`import multiprocessing` itself gives this package. A module of the standard library's package that has no counterpart
cannot be imported any more. Children inherit it: by the fork, or by what they are prepared with (spawn.py).

Modules that have imported `multiprocessing` before are given ours in place of what they hold of it. Those that have
made classes of its classes already go on with it: a RuntimeWarning names them.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys

from . import util
from ._this import this

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    import types
    from collections.abc import Sequence
    from typing import Any

__all__ = ["install", "is_installed"]

OURS = "processing"
# Libraries that keep the standard library's: see standinkept.py, which is loaded when the first of them is.
KEEPERS = ("loky", "joblib.externals.loky")
THEIRS = "multiprocessing"


def counterpart(name: str) -> str:
    """The name of our module for one of theirs."""
    return OURS + name[len(THEIRS) :]


class Loader(importlib.abc.Loader):
    """Gives the module of ours."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        # What is there under the name afterwards is what the import statement gets.
        sys.modules[module.__name__] = importlib.import_module(counterpart(module.__name__))


class Finder:
    """Finds `multiprocessing` and what is in it, unless it is not active just now (standinkept.py)."""

    active = True
    keeps = False

    def __init__(self) -> None:
        self.before: dict[str, types.ModuleType] = {}  # what was loaded of the standard library's

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in KEEPERS and not self.keeps:
            from .standinkept import keep

            self.keeps = True
            keep(self, self.before)
        if not self.active or not _is_theirs(name):
            return None
        try:
            found = importlib.util.find_spec(counterpart(name))
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ModuleNotFoundError(
                f"No module named {name!r}: processing stands in for multiprocessing, and has no {counterpart(name)!r}",
                name=name,
            )
        return importlib.machinery.ModuleSpec(
            name, Loader(), origin=found.origin, is_package=found.submodule_search_locations is not None
        )


finder = Finder()


def is_installed() -> bool:
    """Whether importing `multiprocessing` gives this package."""
    return this.stands_in


def install() -> None:
    """Makes this package take the place of `multiprocessing` in this process and in all that it starts.

    `import multiprocessing` and `from multiprocessing.pool import Pool` give this package's from now on, for every
    module: the program's and the libraries' that it uses. Call it before anything else is imported. What was imported
    before gets ours in place of theirs, too, except modules that have subclassed theirs: these keep it, and a
    RuntimeWarning names them. Processes, queues and pools that exist already stay as they are. Twice is harmless.

    `python -m processing run PROGRAM` does this before it runs the program.
    """
    if is_installed():
        return
    before = {name: module for name, module in sys.modules.items() if _is_theirs(name)}
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    this.stands_in = True
    util.log.name = THEIRS  # programs look for it under that name
    finder.before = before
    import multiprocessing  # noqa: F401 - so that logging, which looks but does not import, finds it

    if before:
        _replace(before)


def _is_theirs(name: object) -> bool:
    return isinstance(name, str) and (name == THEIRS or name.startswith(THEIRS + "."))


def _replace(before: dict[str, types.ModuleType]) -> None:
    """Gives ours to the modules that hold some of `before`."""
    kept = []
    modules = {id(module): name for name, module in before.items()}
    for name, module in [*sys.modules.items()]:
        if id(module) in modules or name == OURS or name.startswith(OURS + "."):
            continue
        content = getattr(module, "__dict__", None)
        if type(content) is not dict:
            continue
        new = {key: _ours_for(value, modules) for key, value in [*content.items()]}
        new = {key: value for key, value in new.items() if value is not None}
        if not new:
            continue
        if any(_inherits(value) for value in content.values()):
            kept.append(name)
        else:
            content.update(new)
    if kept:
        import warnings

        warnings.warn(
            f"these modules were imported before processing.install() and keep using multiprocessing: "
            f"{', '.join(sorted(kept))}. Call it before they are imported, or use `python -m processing run`",
            RuntimeWarning,
            stacklevel=3,
        )


def _inherits(value: Any) -> bool:
    """Whether it is a class that somebody made of one of theirs."""
    return (
        isinstance(value, type)
        and not _is_theirs(value.__module__)
        and any(_is_theirs(base.__module__) for base in value.__mro__)
    )


def _ours_for(value: Any, modules: dict[int, str]) -> Any:
    """What is to be in its place; None if it is not theirs."""
    name = modules.get(id(value))
    if name is not None:
        return importlib.import_module(name)
    if type(value) is type(_ours_for.__get__(0)):  # multiprocessing.Queue and its like: methods of a context
        context = value.__self__
        if not _is_theirs(type(context).__module__):
            return None
        method = getattr(context, "_name", None) if hasattr(context, "_name") else None
        ours = importlib.import_module(OURS).get_context(method)
        return getattr(ours, value.__name__, None)
    home = getattr(value, "__module__", None)
    if not _is_theirs(home) or not isinstance(value, (type, type(_ours_for))):
        return None
    if not _has_counterpart(str(home)):
        return None
    return getattr(importlib.import_module(str(home)), value.__qualname__, None)


def _has_counterpart(name: str) -> bool:
    try:
        return importlib.util.find_spec(counterpart(name)) is not None
    except ModuleNotFoundError:
        return False
