"""Every public name of multiprocessing and its submodules is here, and may be called as it is there.

What is not is in LEFT_OUT, with the reason, and in docs/differences.md.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

# "module.name" or "module.Class.method": why.
LEFT_OUT = {
    "spawn._main": "a protocol between two halves of the standard library",
    "forkserver.connect_to_new_process": "a protocol between two halves of the standard library",
    "managers.SharedMemoryManager": "it needs no server, so no address and no key",
    "managers.SharedMemoryManager.__init__": "it needs no server",
    "managers.SharedMemoryManager.address": "it needs no server",
    "managers.SharedMemoryManager.get_server": "it needs no server",
    "managers.SharedMemoryManager.register": "it needs no server",
    "managers.SharedMemoryManager.connect": "it needs no server",
    "managers.SharedMemoryManager.join": "it needs no server",
}
# Of Windows.
NOT_LINUX = ("popen_spawn_win32",)
# What the runtime of Python passes and nobody else: the signatures of these are not looked at.
NOT_COMPARED = frozenset(
    {"__class__", "__new__", "__init_subclass__", "__subclasshook__", "__getattr__", "__exit__", "__call__"}
    | {"__class_getitem__"}
)


def submodules() -> list[str]:
    found = (info.name for info in pkgutil.walk_packages(multiprocessing.__path__))
    return [name for name in found if name not in NOT_LINUX]


def public_names(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)
        ]
    return sorted(names)


def pairs() -> Iterator[tuple[str, Any, Any]]:
    """Everything public: its name, theirs, ours (or LookupError)."""
    for name in ["", *submodules()]:
        theirs = importlib.import_module(f"multiprocessing.{name}".rstrip("."))
        ours = importlib.import_module(f"processing.{name}".rstrip("."))
        for public in public_names(theirs):
            where = f"{name}.{public}".lstrip(".")
            yield where, getattr(theirs, public), getattr(ours, public, LookupError)


NAMES = {where: (theirs, ours) for where, theirs, ours in pairs()}


@pytest.mark.parametrize("where", sorted(NAMES))
def test_it_is_here(where: str) -> None:
    assert NAMES[where][1] is not LookupError or where in LEFT_OUT


def methods(cls: type) -> dict[str, Any]:
    """The public ones, and those that operators and statements call."""
    return {
        name: getattr(cls, name)
        for name in dir(cls)
        if name not in NOT_COMPARED
        and (name[0] != "_" or (name[:2] == "__" and getattr(object, name, None) is not getattr(cls, name)))
        and callable(getattr(cls, name))
        and name not in ("__getstate__", "__setstate__", "__reduce__", "__repr__", "__del__")
    }


CLASSES = sorted(
    where
    for where, (theirs, ours) in NAMES.items()
    if inspect.isclass(theirs) and inspect.isclass(ours) and theirs is not ours
)


@pytest.mark.parametrize("where", CLASSES)
def test_the_methods_are_here(where: str) -> None:
    theirs, ours = NAMES[where]
    if issubclass(theirs, BaseException):
        return
    missing = {f"{where}.{name}" for name in dir(theirs) if name[0] != "_" and not hasattr(ours, name)}
    assert missing <= set(LEFT_OUT)


def refusals(theirs: Any, ours: Any) -> str | None:
    """What a caller may pass to theirs and not to ours; None if there is no such thing, or it cannot be seen."""
    try:
        accepted, offered = inspect.signature(theirs), inspect.signature(ours)
    except (TypeError, ValueError):
        return None  # in C
    kinds = inspect.Parameter
    ours_by_name = offered.parameters
    takes_any = any(each.kind is kinds.VAR_KEYWORD for each in ours_by_name.values())
    takes_many = any(each.kind is kinds.VAR_POSITIONAL for each in ours_by_name.values())
    places = [
        each
        for each in ours_by_name.values()
        if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    for place, parameter in enumerate(accepted.parameters.values()):
        if parameter.name in ("self", "ctx") or parameter.name[0] == "_":
            continue
        if parameter.kind is kinds.VAR_POSITIONAL:
            if not takes_many:
                return f"*{parameter.name}"
        elif parameter.kind is kinds.VAR_KEYWORD:
            if not takes_any:
                return f"**{parameter.name}"
        else:
            if parameter.name not in ours_by_name and not takes_any:
                return f"{parameter.name}="
            if parameter.kind is not kinds.KEYWORD_ONLY and not takes_many:
                if place >= len(places):
                    return f"{parameter.name} by position"
                if places[place].name != parameter.name and parameter.name in ours_by_name:
                    return f"{parameter.name} in the same place"
    if any(each.kind is kinds.VAR_POSITIONAL for each in accepted.parameters.values()):
        return None
    required = [
        each.name
        for each in ours_by_name.values()
        if each.default is kinds.empty and each.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    for name in required:
        there = accepted.parameters.get(name)
        if name != "self" and (there is None or there.default is not kinds.empty):
            return f"nothing for {name}"
    return None


@pytest.mark.parametrize("where", sorted(NAMES))
def test_it_may_be_called_as_theirs(where: str) -> None:
    theirs, ours = NAMES[where]
    if theirs is ours or ours is LookupError or not callable(theirs):
        return
    problems = {}
    if not (inspect.isclass(theirs) and issubclass(theirs, BaseException)) and where not in LEFT_OUT:
        problems[where] = refusals(theirs, ours)
    if inspect.isclass(theirs) and inspect.isclass(ours):
        there = methods(theirs)
        for name in there:
            if hasattr(ours, name) and f"{where}.{name}" not in LEFT_OUT:
                problems[f"{where}.{name}"] = refusals(there[name], getattr(ours, name))
    assert {name: problem for name, problem in problems.items() if problem is not None} == {}
