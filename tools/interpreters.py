"""Which CPythons this machine has.

Looks at `python3.X` and `python3` on the PATH and at every pyenv version (PYENV_ROOT, or ~/.pyenv), asks each what it
is, and gives the candidates of every X.Y >= 3.11, best first. A candidate without C headers cannot build extension
modules and is left out with a reason; whether it can make a virtual environment is only known by trying
(environments.py), which is why several candidates of one version are kept.

Standard library only. Run it to see what it finds: `python3 tools/interpreters.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 11)

PROBE = """
import json, os, platform, sys, sysconfig
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": list(sys.version_info[:3]),
    "level": sys.version_info.releaselevel,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "headers": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """One CPython that can build extension modules."""

    executable: str
    version: tuple[int, int, int]
    free_threaded: bool

    @property
    def tag(self) -> str:
        """As in the file names of extension modules: cp311, cp313t."""
        return f"cp{self.version[0]}{self.version[1]}{'t' if self.free_threaded else ''}"

    @property
    def name(self) -> str:
        suffix = " free-threaded" if self.free_threaded else ""
        return f"CPython {'.'.join(map(str, self.version))}{suffix}"


@dataclass(frozen=True)
class Found:
    """`usable`: for each X.Y, oldest first, its candidates, best first. `skipped`: sentences saying why not."""

    usable: tuple[tuple[Interpreter, ...], ...]
    skipped: tuple[str, ...]


def _candidates() -> list[str]:
    """Paths that may be a Python, in order of preference: the PATH before pyenv's other versions."""
    name = re.compile(r"python3(\.\d+t?)?$")
    paths: list[str] = []
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        try:
            entries = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        paths += [os.path.join(folder, entry) for entry in entries if name.match(entry)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in sorted((pyenv / "versions").glob("*")):
        executable = version / "bin" / "python3"
        if executable.exists():
            paths.append(str(executable))
    return [path for path in dict.fromkeys(paths) if os.access(path, os.X_OK)]


def _probe(path: str) -> dict[str, object] | None:
    """What the program at `path` says it is; None if it does not run (a pyenv shim of a version that is off)."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", PROBE], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )
        facts: dict[str, object] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return facts


def find(only: str = "") -> Found:
    """All usable CPythons. `only` ("3.11 3.13") limits the versions."""
    wanted = only.replace(",", " ").split()
    usable: dict[tuple[int, int, bool], list[Interpreter]] = {}
    skipped: list[str] = []
    seen: set[str] = set()
    for path in _candidates():
        facts = _probe(path)
        if (
            facts is None or facts["executable"] in seen
        ):  # of a virtual environment: the Python it is made from
            continue
        executable = str(facts["executable"])
        seen.add(executable)
        version = tuple(facts["version"])  # type: ignore[arg-type]
        dotted = ".".join(map(str, version))
        if version[:2] < OLDEST or facts["implementation"] != "CPython":
            continue
        if wanted and not any(dotted == want or dotted.startswith(want + ".") for want in wanted):
            continue
        if facts["level"] != "final":
            skipped.append(f"CPython {dotted} at {executable}: a pre-release ({facts['level']})")
        elif not facts["headers"]:
            skipped.append(f"CPython {dotted} at {executable}: has no C headers (Python.h)")
        else:
            found = Interpreter(executable, version, bool(facts["free_threaded"]))  # type: ignore[arg-type]
            usable.setdefault((*version[:2], found.free_threaded), []).append(found)
    ordered = tuple(tuple(usable[key]) for key in sorted(usable))
    return Found(ordered, tuple(skipped))


if __name__ == "__main__":
    result = find(" ".join(sys.argv[1:]))
    for group in result.usable:
        for interpreter in group:
            print(f"{interpreter.name}: {interpreter.executable}")
    for sentence in result.skipped:
        print(f"skipped {sentence}")
