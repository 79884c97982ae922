"""How the tests of managers run interop_programs.py: interpreters, servers and clients as programs of their own.

Each program leads a process group, which does not outlive the block or call that it was started for.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers import LIMIT

VERSIONS = ("3.11", "3.12", "3.13")
PROGRAM = "import interop_programs; interop_programs.main()"
KEY = "the key of these tests"
TCP = '["127.0.0.1", 0]'


@cache
def pythons() -> dict[str, str]:
    """Interpreters that work, by version; this one first."""
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    candidates = [shutil.which(f"python{version}") for version in VERSIONS]
    candidates += sorted(glob.glob(f"{root}/versions/3.*/bin/python"))
    ask = "import sys, _multiprocessing, _ctypes; print('%d.%d' % sys.version_info[:2])"
    for path in candidates:
        if path is None or path in found.values():
            continue
        done = subprocess.run([path, "-c", ask], capture_output=True, text=True, timeout=LIMIT)
        if done.returncode == 0:
            found.setdefault(done.stdout.strip(), path)
    return found


def python_of(version: str) -> str:
    if version not in pythons():
        pytest.skip(f"no Python {version} on the path or among pyenv's")
    return pythons()[version]


def environment() -> dict[str, str]:
    """For programs that find this folder's modules, and warn nobody."""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def run(python: str, *arguments: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """A program of interop_programs.py, to its end."""
    command = [python, "-c", PROGRAM, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment(),
        process_group=0,
    ) as program:
        try:
            stdout, stderr = program.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            kill_group(program.pid)
            stdout, stderr = program.communicate()
            stderr += f"\nkilled after {limit} seconds"
        finally:
            kill_group(program.pid)
    return subprocess.CompletedProcess(command, program.returncode, stdout, stderr)


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class ServerProgram:
    """A running server: its address as JSON, the pid of the server process."""

    def __init__(
        self,
        python: str,
        package: str,
        where: str,
        method: str = "fork",
        serializer: str = "pickle",
        before: tuple[str, ...] | list[str] = (),
    ) -> None:
        self.package = package
        self.program = subprocess.Popen(
            [*before, python, "-c", PROGRAM, "server", package, where, method, serializer, KEY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            process_group=0,
        )
        assert self.program.stdout is not None
        line = self.program.stdout.readline()
        if not line:
            self.kill()
            pytest.fail(f"the server did not start: {self.stderr}")
        facts = json.loads(line)
        self.address = facts["address"]
        self.where = json.dumps(self.address)
        self.pid: int = facts["pid"]

    def stop(self) -> str:
        """Ends it in an orderly way: -> what it wrote on stderr."""
        try:
            _, self.stderr = self.program.communicate("", timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"killed, as it did not end\n{self.stderr}"
        kill_group(self.program.pid)
        return self.stderr

    def kill(self) -> None:
        kill_group(self.program.pid)
        _, self.stderr = self.program.communicate()


@contextmanager
def serving(*arguments: Any, **options: Any) -> Iterator[ServerProgram]:
    server = ServerProgram(*arguments, **options)
    try:
        yield server
    finally:
        server.kill()


def count(pid: int, what: str) -> int:
    """Entries of /proc/PID/fd or /proc/PID/task."""
    return len(os.listdir(f"/proc/{pid}/{what}"))
