"""What the tests of shared objects have in common: children that are always collected, and ways to watch them.

Order between processes comes from `Flag`s (a byte through a pipe of the operating system, so independent of what is
tested) and from `until_asleep`, never from sleeping for a while. No step may take longer than LIMIT.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Seconds that no step of any test needs, however busy the machine.
LIMIT = 20.0
# A wait that is meant to run into its timeout.
SHORT = 0.05


@contextmanager
def child(ctx: Any, target: Callable[..., Any], *args: Any, **options: Any) -> Iterator[Any]:
    """A started process, which does not outlive the block."""
    process = ctx.Process(target=target, args=args, **options)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join(LIMIT)
        process.close()


@contextmanager
def children(ctx: Any, count: int, target: Callable[..., Any], *args: Any) -> Iterator[list[Any]]:
    """Processes that call target(0, *args), target(1, *args)..."""
    processes = [ctx.Process(target=target, args=(number, *args)) for number in range(count)]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.pid is not None:
                if process.is_alive():
                    process.kill()
                process.join(LIMIT)
                process.close()


def ended(*processes: Any, exitcode: int = 0) -> None:
    """Waits for the ends of the processes, which have to be good ones."""
    deadline = time.monotonic() + LIMIT
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        assert process.exitcode == exitcode, f"{process!r} ended with {process.exitcode}, not {exitcode}"


def kill(process: Any) -> None:
    """SIGKILL, and its end."""
    os.kill(process.pid, signal.SIGKILL)
    ended(process, exitcode=-signal.SIGKILL)


def until(condition: Callable[[], Any], limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.001)


def _sleep_state(pid: int) -> tuple[str, str]:
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    # State; and user plus system time: a process that spins is not asleep, whatever one sample says.
    return fields[0], fields[11] + "+" + fields[12]


def until_asleep(pid: int, samples: int = 4) -> None:
    """Until that process sleeps in the kernel, as it does in a blocking call: several looks in a row."""
    deadline = time.monotonic() + LIMIT
    seen = 0
    before = ""
    while seen < samples:
        assert time.monotonic() < deadline, f"process {pid} did not go to sleep"
        state, used = _sleep_state(pid)
        seen = seen + 1 if state == "S" and used == before else 0
        before = used
        time.sleep(0.004)


class Flag:
    """Said in one process, heard in another, as often as it was said. Inherited by fork only."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def say(self, pid: int = 0) -> None:
        os.write(self.writer, struct.pack("i", pid))

    def hear(self, limit: float = LIMIT) -> int:
        assert select.select([self.reader], [], [], limit)[0], "it was never said"
        number: int = struct.unpack("i", os.read(self.reader, 4))[0]
        return number

    def was_said(self) -> bool:
        return bool(select.select([self.reader], [], [], 0)[0])

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Cells:
    """Integers in memory that forked children share, or, given a path, every process that opens that file."""

    def __init__(self, count: int, path: Path | None = None) -> None:
        if path is None:
            self.memory = mmap.mmap(-1, 8 * count)
            return
        with open(path, "ab") as file:
            file.truncate(8 * count)
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 8 * count)

    # Through a cast view, one store each: struct.pack_into writes zeros first, which others see.
    def __getitem__(self, index: int) -> int:
        with memoryview(self.memory) as view, view.cast("q") as cells:
            number: int = cells[index]
        return number

    def __setitem__(self, index: int, value: int) -> None:
        with memoryview(self.memory) as view, view.cast("q") as cells:
            cells[index] = value

    def close(self) -> None:
        self.memory.close()


def take_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what it returned."""
    start = time.monotonic()
    result = action()
    return time.monotonic() - start, result


def run_program(
    tmp_path: Path, text: str, *, limit: float = LIMIT, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program of its own, with its own arena."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=limit,
        cwd=tmp_path,
        env={**os.environ, **environ},
    )


def output_of(tmp_path: Path, text: str, *, limit: float = LIMIT, **environ: str) -> list[str]:
    """The lines that such a program prints; it has to end well."""
    done = run_program(tmp_path, text, limit=limit, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
