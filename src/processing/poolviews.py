"""Seeing what a pool does: figures, a timeline, the workers' stacks, their log records.

Pool inherits Viewing; pool.py owns the attributes that this reads. What costs anything to import is imported when it is
asked for.
"""

from __future__ import annotations

import threading
from collections import namedtuple

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .jobs import Jobs
    from .logrelay import LogReceiver
    from .timeline import Timeline

__all__ = ["PoolStatistics", "Viewing"]


class PoolStatistics(
    namedtuple("PoolStatistics", "processes workers calls busy waiting pending state tasks", defaults=((),))
):
    """Of a moment; `str()` gives a table.

    workers: a tuple of facts of each: rank, pid, state, calls (that have ended), busy and waiting (seconds, up to its
    last batch), memory (resident bytes; 0: not known, as for threads), running ((job, index), or None), elapsed
    (seconds that this call has been running, or None). Whoever replaces a worker goes on with the counters of its rank.
    calls, busy, waiting: in all, workers that are gone included. pending: calls, maps and imaps that have not ended.
    tasks: for each of `workers`, what it runs as text, or ''.
    """

    __slots__ = ()

    def __str__(self) -> str:
        head = ("worker", "pid", "state", "calls", "busy s", "waiting s", "memory MiB", "runs")
        rows: list[tuple[str, ...]] = [head]
        for facts, task in zip(self.workers, self.tasks or [""] * len(self.workers), strict=True):
            runs = task and f"{task}, for {facts.elapsed or 0.0:.1f} s"
            memory = f"{facts.memory / (1 << 20):.1f}" if facts.memory else "-"
            figures = (f"{facts.calls}", f"{facts.busy:.3f}", f"{facts.waiting:.3f}", memory)
            rows.append((f"{facts.rank}", f"{facts.pid}", facts.state, *figures, runs))
        memory = sum(facts.memory for facts in self.workers)
        total = (f"{self.calls}", f"{self.busy:.3f}", f"{self.waiting:.3f}")
        shown = f"{memory / (1 << 20):.1f}" if memory else "-"
        rows.append(("all", "", self.state, *total, shown, f"{self.pending} pending" if self.pending else ""))
        widths = [max(len(row[at]) for row in rows) for at in range(7)]
        return "\n".join(
            "  ".join(
                cell if at == 7 else cell.ljust(widths[at]) if at == 2 else cell.rjust(widths[at])
                for at, cell in enumerate(row)
            ).rstrip()
            for row in rows
        )


_dumping = threading.Lock()  # a worker answers one at a time


class Viewing:
    """What Pool inherits."""

    _engine: Any
    _jobs: Jobs
    _state: str
    _timeline: Timeline | None = None
    _receiver: LogReceiver | None = None

    def _check_running(self) -> None:
        raise NotImplementedError

    def statistics(self) -> PoolStatistics:
        """What the workers do and have done, each and in all. Disturbs nobody; may be asked at any time."""
        workers = tuple(self._engine.workers())
        calls, busy, waiting = self._engine.totals()
        return PoolStatistics(
            self._engine.processes,
            workers,
            calls,
            busy,
            waiting,
            len(self._jobs.pending),
            self._state,
            tuple(self._task_of(facts.running) for facts in workers),
        )

    def _task_of(self, running: tuple[int, int] | None) -> str:
        """What a worker runs, as text."""
        if running is None:
            return ""
        result = self._jobs.pending.get(running[0])
        try:
            return (
                f"call {running[1]} of job {running[0]}" if result is None else str(result._task(running[1]))
            )
        except (AttributeError, LookupError, TypeError):  # it has ended meanwhile
            return f"call {running[1]} of job {running[0]}"

    def trace(self, path: Any) -> Timeline:
        """Writes a timeline of the calls into that file, for https://ui.perfetto.dev or chrome://tracing, until
        `close()` of what it gives, or the end of the `with` block, or of the pool. One at a time: ValueError. OSError
        if the file cannot be made.

        A slice for each call that begins and ends meanwhile, by worker rank; its arguments say job, index, pid and
        whether it returned. While it is on, every call costs a few microseconds more.
        """
        self._check_running()
        if self._timeline is not None and not self._timeline.closed:
            raise ValueError(f"the pool is being traced already: {self._timeline!r}")
        from .timeline import Timeline

        self._timeline = timeline = Timeline(path, self)
        return timeline

    def dump(self, file: Any = None, all_threads: bool = True) -> str | None:
        """Writes what every worker does just now to `file` (None: sys.stderr), with its Python stack, most recent call
        first; `all_threads`: of all its threads, otherwise of the one that runs calls. `file=False`: -> the text.

        Works also if a worker is stuck in a lock or in C code. Calls are not disturbed, but for a system call that a
        signal interrupts, which is restarted. A worker that does not answer within two seconds, as it is stopped, is
        said to.
        """
        text = self._stacks(all_threads)
        if file is False:
            return text
        if file is None:
            import sys

            file = sys.stderr
        file.write(text)
        getattr(file, "flush", bool)()
        return None

    def _stacks(self, all_threads: bool) -> str:
        from .stackdump import stacks, thread_stacks

        threads: dict[int, int | None] | None = getattr(self._engine, "idents", dict)() or None
        parts = [f"{self!r}\n"]
        with _dumping:
            for facts in self._engine.workers():
                task = self._task_of(facts.running)
                if task:
                    doing = f"runs {task}, for {facts.elapsed or 0.0:.1f} s"
                else:
                    doing = "waits for calls" if facts.state == "idle" else facts.state
                where = "a thread" if threads else f"pid {facts.pid}"
                parts.append(f"\nworker {facts.rank} ({where}) {doing}:\n")
                if threads is None:
                    parts.append(stacks(facts.pid, all_threads))
                else:
                    parts.append(thread_stacks(threads.get(facts.rank)))
        return "".join(parts)

    # -- For pool.py

    def _relay_logs(self) -> None:
        """The workers send their log records."""
        from .logrelay import LogReceiver

        self._receiver = LogReceiver(self._jobs)

    def _end_views(self) -> None:
        """The workers have ended, or are being ended."""
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.finish()
        if self._timeline is not None:
            self._timeline.close()
