"""`python -m processing tour`: what the package does: the introduction's programs, managers, a picture, two real jobs.

The programs are the files in programs/, run as scripts by a Python of their own, the way a user would run them. With
--start-method they get the one line that a user would add, and show it.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .terminal import Terminal

__all__ = ["MANAGERS", "PICTURE", "PROGRAMS", "Program", "main", "source_of"]

FOLDER = Path(__file__).parent / "programs"
GUARD = "if __name__ == '__main__':\n"
TIME_LIMIT = 60.0


@dataclass(frozen=True)
class Program:
    """One program: its file in programs/, what it shows, how it is told; modules that it needs, and may be missing."""

    file: str
    title: str
    text: str
    needs: tuple[str, ...] = ()


PROGRAMS = (
    Program(
        "hello_process.py",
        "A process",
        "Process follows the API of threading.Thread. f runs in a child process.",
    ),
    Program(
        "through_queue.py",
        "A queue",
        "Queue is the queue.Queue of processes. When put returns, the object is in shared memory.",
    ),
    Program("through_pipe.py", "A pipe", "Pipe returns the two ends of a two-way pipe."),
    Program(
        "under_lock.py",
        "A lock",
        "Only one process prints at a time, in whatever order they come. Nobody joins the ten processes: the program\n"
        "waits for its children when it ends.",
    ),
    Program(
        "shared_memory.py",
        "Shared memory",
        "LocalManager makes values, structs and arrays that processes use at the speed of memory. There is no server.",
    ),
    Program(
        "managed_objects.py",
        "Objects in a server process",
        "Manager starts a process that holds objects. Others use them through proxies, which can be sent anywhere.",
    ),
    Program(
        "using_pool.py",
        "A pool of workers",
        "Pool has the methods of the standard library's. Calls reach its workers through one ring in shared memory.",
    ),
)

MANAGERS = (
    Program(
        "customised_manager.py",
        "A manager of one's own types",
        "The Bank and its Accounts stay in the server. What account() gives is a proxy, and rob() cannot be called.",
    ),
    Program(
        "across_network.py",
        "A work queue across a network",
        "The server with the queues and the client with the workers are two programs, each in a network namespace of\n"
        "its own: as if on two machines, connected by one cable. Where that is not allowed they use the loopback\n"
        "interface, and say so.",
    ),
)

PICTURE = Program(
    "mandelbrot.py",
    "A picture",
    "Several processes write into one numpy array. It lies in shared memory: what is sent to them is where it is.",
    needs=("numpy", "tqdm"),
)

WORDS = Program(
    "library_words.py",
    "The words of a library",
    "A pool reads every text and source file of this Python's standard library, counts the words, and finds the ten\n"
    "most frequent identifiers. imap_unordered moves the bar.",
    needs=("tqdm",),
)


def source_of(program: Program, start_method: str | None = None) -> str:
    """The program's text; with the line that selects a start method, if one is given."""
    lines = (FOLDER / program.file).read_text(encoding="utf-8").splitlines(keepends=True)
    source = "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines))
    if start_method is None:
        return source
    before, guard, after = source.partition(GUARD)
    if not guard:
        raise ValueError(f"{program.file} has no line {GUARD!r}")
    return (
        f"{before}{guard}    import processing\n    processing.set_start_method({start_method!r})\n\n{after}"
    )


def run(
    source: str, name: str, folder: Path, *arguments: str, progress: bool = False
) -> tuple[int | None, str, float]:
    """Runs a program as a script in `folder`; -> its exit status (None: too slow), its output, the seconds it took.

    `progress`: what it writes to stderr, a bar, is for the user's terminal.
    """
    script = folder / name
    script.write_text(source, encoding="utf-8")
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if progress else subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        text = error.output or ""
        return None, text if isinstance(text, str) else text.decode(errors="replace"), TIME_LIMIT
    return done.returncode, done.stdout, time.perf_counter() - start


def show(
    program: Program,
    start_method: str | None,
    folder: Path,
    terminal: Terminal,
    *arguments: str,
    progress: bool = False,
) -> bool:
    """Shows one program and what it prints; -> whether it ended well."""
    terminal.heading(program.title)
    terminal.say(program.text)
    source = source_of(program, start_method)
    terminal.program(source)
    missing = [name for name in program.needs if importlib.util.find_spec(name) is None]
    if missing:
        terminal.say(f"  Not run: it needs {' and '.join(missing)}, not installed here.", "dim")
        return True
    status, text, seconds = run(source, program.file, folder, *arguments, progress=progress)
    terminal.output(text, failed=status != 0)
    if status is None:
        terminal.say(f"  FAILED: still running after {seconds:.0f} s", "bold red")
    elif status:
        terminal.say(f"  FAILED: exit status {status}", "bold red")
    else:
        terminal.say(f"  ({seconds * 1000:.0f} ms, with the start of the interpreter)", "dim")
    return status == 0


def show_picture(options: argparse.Namespace, folder: Path, terminal: Terminal) -> bool:
    """Has the picture drawn, into a new temporary file unless one is named; it stays when the tour is over."""
    path = options.picture
    if path is None:
        descriptor, path = tempfile.mkstemp(prefix="processing-mandelbrot-", suffix=".png")
        os.close(descriptor)
    progress = not options.plain and sys.stderr.isatty()
    good = show(PICTURE, options.start_method, folder, terminal, path, progress=progress)
    if options.picture is None and not os.path.getsize(path):
        os.unlink(path)
    return good


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m processing tour",
        description="Runs the introduction's programs, shows their source and output, the same of a customised "
        "manager and of a work queue across a network, has several processes draw a picture, then does two real jobs "
        "on this Python's standard library: a pool counts its words, and several processes fed through a queue compute "
        "the checksums of its files.",
        epilog="Other commands: bench, doctor (`python -m processing --help`).",
    )
    result.add_argument(
        "--start-method",
        choices=("fork", "forkserver", "spawn"),
        help="how processes are started (default: fork)",
    )
    result.add_argument(
        "--workers", type=int, metavar="N", help="processes of the job (default: one per usable CPU)"
    )
    result.add_argument(
        "--picture", metavar="FILE", help="where the picture is saved, as PNG (default: a new temporary file)"
    )
    result.add_argument("--plain", action="store_true", help="no colours, no progress bar")
    return result


def main(arguments: list[str]) -> int:
    """Runs the tour; -> 0 if every program did what it should."""
    options = parser().parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        parser().error("--workers is at least 1")
    terminal = Terminal(options.plain)
    # The job loads the package itself: if that is impossible, let it be said before anything else.
    from . import checksums

    failed = []
    with tempfile.TemporaryDirectory(prefix="processing-tour-") as folder:
        for program in PROGRAMS + MANAGERS:
            if not show(program, options.start_method, Path(folder), terminal):
                failed.append(program.file)
        if not show_picture(options, Path(folder), terminal):
            failed.append(PICTURE.file)
        progress = not options.plain and sys.stderr.isatty()
        if not show(WORDS, options.start_method, Path(folder), terminal, progress=progress):
            failed.append(WORDS.file)
    if not checksums.show(terminal, options.start_method, options.workers, options.plain):
        failed.append("the checksums")
    if failed:
        terminal.say(
            f"\nFailed: {', '.join(failed)}. `python -m processing doctor` tells more about this machine."
        )
        return 1
    terminal.say("\nNext: python -m processing bench, python -m processing doctor")
    return 0
