"""`make release`: the files of a release, each made and tested as its users would.

    source tree ──▶ dist/processing-X.tar.gz          in a clean environment, from what is committed
                      └─ unpacked; for every CPython >= 3.11:
                           ──▶ dist/processing-X-cp3Y-....whl      in a clean environment (pip makes it)
                                 └─ installed into a new environment; the tests of the unpacked sdist run against it

Wheels for other machines than this one come from cibuildwheel (pyproject.toml).
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import steps
from environments import BUILD, ROOT, Environment
from interpreters import Interpreter
from steps import Tally

DIST = ROOT / "dist"
WORK = BUILD / "release"

# Every wheel holds these and more of their kind.
NEEDED = ("processing/__init__.py", "processing/py.typed", "processing/_sync.pyi", "processing/cli/tour.py")
# No wheel holds files that end so: sources of what is compiled, and what only building needs.
UNWANTED = (".pyx", ".pxd", ".c", ".h", "meson.build", ".o", ".a")


def _problem_of_wheel(wheel: Path) -> str:
    """What is wrong with its content; "" for nothing."""
    names = zipfile.ZipFile(wheel).namelist()
    if missing := [name for name in NEEDED if name not in names]:
        return f"{wheel.name} lacks {', '.join(missing)}"
    if extra := [name for name in names if name.endswith(UNWANTED) or not name.startswith("processing")]:
        return f"{wheel.name} should not hold {', '.join(extra)}"
    return "" if any(name.endswith(".so") for name in names) else f"{wheel.name} holds nothing compiled"


def sdist(environment: Environment, tally: Tally) -> Path | None:
    """Makes dist/*.tar.gz; the folder that it is unpacked in."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(WORK, ignore_errors=True)
    command = [environment.python, "-m", "build", "--sdist", "--outdir", str(DIST)]
    if not steps.run_one(tally, "sdist", command):
        return None
    (archive,) = DIST.glob("*.tar.gz")
    shutil.unpack_archive(archive, WORK)
    (folder,) = WORK.iterdir()
    return folder


def _new_environment(tally: Tally, interpreter: Interpreter, folder: Path) -> str:
    """An environment with nothing in it; its python."""
    shutil.rmtree(folder, ignore_errors=True)
    steps.run_one(
        tally,
        f"new environment, {interpreter.name}",
        [interpreter.executable, "-m", "venv", str(folder)],
    )
    return str(folder / "bin" / "python")


def wheel(tally: Tally, interpreter: Interpreter, source: Path) -> str:
    """Makes and installs the wheel of one Python; the python of the environment that has it, or ""."""
    folder = WORK / f"{interpreter.tag}-wheel"
    python = _new_environment(tally, interpreter, WORK / f"{interpreter.tag}-venv")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    make = [*pip, "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(source)]
    if not steps.run_one(tally, f"wheel, {interpreter.name}", make, limit=600):
        return ""
    (made,) = folder.glob("*.whl")
    problem = _problem_of_wheel(made)
    if problem:
        print(f"   {problem}")
    tally.add(f"content of the wheel, {interpreter.name}", int(not problem), int(bool(problem)))
    shutil.copy(made, DIST)
    get = [*pip, "install", "-q", f"{made}[test]"]
    return python if steps.run_one(tally, f"install, {interpreter.name}", get, limit=600) else ""


def release(
    environment: Environment, groups: tuple[tuple[Interpreter, ...], ...], arguments: list[str], limit: float
) -> int:
    """Makes and tests them all. `arguments` go to pytest (default: what shows something on every Python)."""
    tally = Tally()
    source = sdist(environment, tally)
    for interpreter, *_ in groups if source is not None else ():
        python = wheel(tally, interpreter, source)
        if python:
            command = [python, "-m", "pytest", *(arguments or ["-q", "-m", "not once and not ends"])]
            name = f"tests of the sdist, {interpreter.name}"
            env = {"PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
            steps.run_pytest(tally, name, command, limit=limit, env=env, folder=source)
    files = [str(path) for path in sorted(DIST.glob("*"))]
    steps.run_one(tally, "twine check", [environment.python, "-m", "twine", "check", "--strict", *files])
    for file in files:
        print(os.path.relpath(file, ROOT))
    return tally.finish()
