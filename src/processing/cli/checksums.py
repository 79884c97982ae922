"""The tour's last job: the SHA-256 checksum of every file of the running Python's standard library.

    this process --- paths ---> Queue ---> worker 1 .. N
                 <-- digests -- Queue <---

A worker ends when it takes None out of the queue, and puts what it did as its last result. A worker that dies is
noticed: its tasks are missing, the others' results are there.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from .terminal import Progress, Terminal

__all__ = ["Digest", "Summary", "checksum", "compute", "files_of_the_library", "show"]

CHUNK = 1 << 20
SAMPLE = 20  # every so many files are computed once more, in this process
NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class Digest:
    """What a worker found out about one file; `digest` is None for one that cannot be read."""

    path: str
    size: int
    digest: str | None


@dataclass(frozen=True)
class Summary:
    """What one worker did: `seconds` is the time it spent on files, not waiting."""

    worker: int
    files: int
    size: int
    seconds: float


@dataclass
class Outcome:
    """Everything that came back."""

    digests: dict[str, Digest] = field(default_factory=dict)
    summaries: dict[int, Summary] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    seconds: float = 0.0


def files_of_the_library() -> list[str]:
    """Every file of the standard library, without what was installed into it and without caches."""
    found = []
    for folder in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}):
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(set(folders) - NOT_THE_LIBRARY)
            found += [os.path.join(parent, name) for name in sorted(files)]
    return sorted({path for path in found if os.path.isfile(path)})


def checksum(path: str) -> Digest:
    """Reads one file."""
    digest = hashlib.sha256()
    size = 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError:
        return Digest(path, size, None)
    return Digest(path, size, digest.hexdigest())


def work(number: int, tasks: Any, results: Any) -> None:
    """What a worker does. `tasks` and `results` are queues."""
    files = size = 0
    seconds = 0.0
    while (path := tasks.get()) is not None:
        start = time.perf_counter()
        digest = checksum(path)
        seconds += time.perf_counter() - start
        files += 1
        size += digest.size
        results.put(digest)
    results.put(Summary(number, files, size, seconds))


def results_of(results: Any, workers: dict[int, Any]) -> Iterator[Digest | Summary]:
    """Results until every worker has reported or died."""
    missing = dict(workers)
    while missing:
        # Who has ended by now has put all that it ever will: if nothing is in the queue after this, nothing comes.
        ended = not any(worker.is_alive() for worker in missing.values())
        try:
            result = results.get(timeout=0.5)
        except Empty:
            if ended:
                return
            continue
        if isinstance(result, Summary):
            del missing[result.worker]
        yield result


def compute(context: Any, paths: list[str], count: int, progress: Progress) -> Outcome:
    """The checksums of `paths` by `count` processes of `context`."""
    outcome = Outcome()
    tasks, results = context.Queue(), context.Queue()
    start = time.perf_counter()
    workers = {
        number: context.Process(target=work, args=(number, tasks, results), name=f"checksums-{number}")
        for number in range(1, count + 1)
    }
    for worker in workers.values():
        worker.start()
    for path in paths:
        tasks.put(path)
    for _ in workers:
        tasks.put(None)
    for result in results_of(results, workers):
        if isinstance(result, Summary):
            outcome.summaries[result.worker] = result
        else:
            outcome.digests[result.path] = result
            progress.step(os.path.basename(result.path))
    outcome.seconds = time.perf_counter() - start
    for worker in workers.values():
        worker.join()
        if worker.exitcode:
            outcome.died.append(f"{worker.name} ended with exit code {worker.exitcode}")
    return outcome


def fingerprint(digests: dict[str, Digest]) -> str:
    """One checksum of all: the same whatever the order in which they arrived."""
    whole = hashlib.sha256()
    for path in sorted(digests):
        whole.update(f"{path} {digests[path].digest}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def errors_of(outcome: Outcome, paths: list[str]) -> list[str]:
    """What is wrong with the outcome: checked against the list of files and, for a sample, a plain computation."""
    errors = list(outcome.died)
    missing = [path for path in paths if path not in outcome.digests]
    if missing:
        errors.append(f"{len(missing)} files have no result, the first is {missing[0]}")
    for path in paths[::SAMPLE]:
        found = outcome.digests.get(path)
        if found is not None and found != (here := checksum(path)):
            errors.append(f"{path}: {found.digest} from a worker, {here.digest} computed here")
    return errors


def show(terminal: Terminal, start_method: str | None, count: int | None, plain: bool) -> bool:
    """Does the job and tells about it; -> whether the result is right."""
    import processing

    context = processing.get_context(start_method)
    count = count or max(2, processing.cpu_count(usable=True))
    paths = files_of_the_library()
    terminal.heading("The checksums of a library")
    terminal.say(
        f"The SHA-256 checksums of the {len(paths):,} files of this Python's standard library, by {count} processes:\n"
        f"paths reach them through one Queue, results come back through another."
    )
    with Progress(len(paths), "files", plain) as progress:
        outcome = compute(context, paths, count, progress)
    rows = [
        [f"worker {s.worker}", f"{s.files:,}", f"{s.size / 1e6:.1f}", f"{s.seconds:.3f}"]
        for s in sorted(outcome.summaries.values(), key=lambda summary: summary.worker)
    ]
    size = sum(digest.size for digest in outcome.digests.values())
    total = [
        "all, with their start",
        f"{len(outcome.digests):,}",
        f"{size / 1e6:.1f}",
        f"{outcome.seconds:.3f}",
    ]
    terminal.table("", ["", "files", "MB", "seconds"], [*rows, None, total], frozenset({1, 2, 3}))
    terminal.say(f"Checksum of the checksums: {fingerprint(outcome.digests)}")
    unreadable = sum(digest.digest is None for digest in outcome.digests.values())
    if unreadable:
        terminal.say(f"{unreadable} files could not be read.")
    errors = errors_of(outcome, paths)
    for error in errors:
        terminal.say(f"FAILED: {error}", "bold red")
    if not errors:
        terminal.say(
            f"Every file has a result, and {len(paths[::SAMPLE])} of them were computed again by this process alone: "
            f"the same.",
            "green",
        )
    return not errors
