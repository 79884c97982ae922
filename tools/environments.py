"""Virtual environments under build/, and the package built and installed into them.

    build/cp311-dev-<hash>/venv     the environment; the hash covers pyproject.toml and the interpreter, so a change
                                    of either makes a new one, and an unchanged one is used again
    build/cp311-dev-<hash>/meson    the build folder: a second build compiles only what changed

Kinds of environment: `test` (what the suite needs), `dev` (`test` and the linters, documentation tools), `bench`
(the peers of the speed table and the progress bar; what cannot be installed is left out and said), `release` (what
makes and checks the files of a release).

Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interpreters import Interpreter

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"

# Extras of pyproject.toml that make up each kind.
KINDS = {
    "test": ("test",),
    "dev": ("test", "dev"),
    "bench": ("numpy", "cli", "bench"),
    "release": ("release",),
}
# May fail to install (no wheel for this Python, no compiler for it): a peer of the speed table, nothing of ours.
OPTIONAL = ("faster-fifo", "ultradict", "loky", "mpire", "joblib")


class Unusable(Exception):
    """This interpreter cannot make an environment; the sentence says why."""


@dataclass(frozen=True)
class Environment:
    interpreter: Interpreter
    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "venv" / "bin" / "python")

    def program(self, name: str) -> str:
        return str(self.folder / "venv" / "bin" / name)


def requirements(kind: str) -> list[str]:
    """What to install for `kind`, from pyproject.toml alone: build tools, run-time dependencies, extras."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], "ninja>=1.11", *project["project"]["dependencies"]]
    for extra in KINDS[kind]:
        wanted += [item for item in extras[extra] if not item.startswith("processing[")]
    return list(dict.fromkeys(wanted))


@contextmanager
def _locked() -> Iterator[None]:
    """Two runs at once in the same tree must not build the same environment."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise Unusable(f"{what} failed:\n{done.stdout}")


def prepare(interpreter: Interpreter, kind: str) -> Environment:
    """The environment of that kind, made if there is none yet. Raises Unusable."""
    wanted = requirements(kind)
    key = "\0".join(
        [(ROOT / "pyproject.toml").read_text(), interpreter.executable, interpreter.name, *wanted]
    )
    stem = f"{interpreter.tag}-{kind}"
    folder = BUILD / f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    environment = Environment(interpreter, folder)
    with _locked():
        if (folder / "ready").exists():
            return environment
        for stale in BUILD.glob(f"{stem}-*"):
            shutil.rmtree(stale)
        print(f"   making the {kind} environment of {interpreter.name}", flush=True)
        folder.mkdir(parents=True)
        _run(
            [interpreter.executable, "-m", "venv", str(folder / "venv")],
            "making a virtual environment (is the module venv/ensurepip installed?)",
        )
        pip = [environment.python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        must = [item for item in wanted if not item.startswith(OPTIONAL)]
        _run([*pip, *must], "installing " + ", ".join(must))
        for item in wanted:
            if item.startswith(OPTIONAL):
                try:
                    _run([*pip, item], f"installing {item}")
                except Unusable:
                    print(f"   left out: {item} cannot be installed here", flush=True)
        (folder / "ready").touch()
    return environment


def first_usable(candidates: tuple[Interpreter, ...], kind: str) -> tuple[Environment | None, list[str]]:
    """The environment of the first candidate that can make one, and why the ones before it could not."""
    reasons = []
    for interpreter in candidates:
        try:
            return prepare(interpreter, kind), reasons
        except Unusable as reason:
            reasons.append(f"{interpreter.name} at {interpreter.executable}: {reason}")
    return None, reasons


def install_command(environment: Environment) -> list[str]:
    """Builds the package with warnings as errors and installs it into the environment."""
    return [
        environment.python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-build-isolation",
        "--no-deps",
        "--force-reinstall",
        f"-Cbuild-dir={environment.folder / 'meson'}",
        "-Csetup-args=-Dstrict=true",
        str(ROOT),
    ]


def tool_path(environment: Environment, path: str) -> str:
    """A PATH on which meson, ninja and cython are the environment's; `path` without pyenv's shims of them."""
    bin_folder = str(environment.folder / "venv" / "bin")
    rest = [folder for folder in path.split(":") if not re.search(r"/\.?pyenv/.*shims", folder)]
    return ":".join([bin_folder, *rest])


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1] if len(sys.argv) > 1 else "dev")))
