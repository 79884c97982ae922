"""A timeline of what the workers of a pool did, for https://ui.perfetto.dev and chrome://tracing: `pool.trace(path)`.

One track for each worker rank; a slice for each call, a mark where a worker was started or died. The file is an array
of events of the Trace Event Format: viewers open it even if the process that wrote it was killed, and once `close` has
returned it is valid JSON. Events are written as they come: memory does not grow with the trace.
"""

from __future__ import annotations

import os
import threading
from time import monotonic, monotonic_ns, sleep

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .jobs import Jobs

__all__ = ["Timeline"]

LOST, TIMEOUT, CANCELLED, WORKER, SPAN = 2, 3, 4, 6, 9  # kinds of events, as in jobs.py
PIECE = 1 << 16  # characters that are written at once
LATE = 0.25  # seconds without news after which `close` waits no longer for calls that have ended
ENDS = {LOST: "worker died", TIMEOUT: "timeout", CANCELLED: "cancelled"}


class Timeline:
    """A trace that is being written. A context manager; `close` ends it, as do terminating and joining the pool."""

    def __init__(self, path: Any, pool: Any) -> None:
        """OSError if the file cannot be made."""
        import json

        self._dumps = json.JSONEncoder(separators=(",", ":")).encode
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._start = monotonic_ns()
        self._text: list[str] = []
        self._size = 0
        self._any = False
        self._ranks: set[int] = set()
        self._seen: dict[int, int] = {}  # by rank: calls that are in the file
        self._error: OSError | None = None
        self._came = monotonic()
        self.closed = False
        self._engine: Any = pool._engine
        self._jobs: Jobs = pool._jobs
        self._switch: Any = getattr(self._engine, "pool", self._engine)  # whoever has `tracing`
        self._add({"ph": "M", "name": "process_name", "args": {"name": repr(pool)}})
        self._before = self._counted()
        for kind in (LOST, TIMEOUT, CANCELLED, WORKER, SPAN):
            self._jobs.listeners[kind] = self._take
        self._switch.tracing = True

    def __enter__(self) -> Timeline:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<trace of a pool in {self.path!r}{' closed' if self.closed else ''}>"

    def close(self) -> None:
        """Ends the trace and its file. Calls that have ended by now are in it; those that run are not. OSError if
        something could not be written. Again: does nothing."""
        if self.closed or self._owner != os.getpid():
            return
        try:
            self._await_late()
        finally:
            self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._switch.tracing = False
            for kind in (LOST, TIMEOUT, CANCELLED, WORKER, SPAN):
                if self._jobs.listeners.get(kind) == self._take:
                    del self._jobs.listeners[kind]
            self._write("\n]\n")
            self._flush()
            os.close(self._fd)

    # -- What comes

    def _counted(self) -> dict[int, int]:
        return {facts.rank: facts.calls for facts in self._engine.workers()}

    def _await_late(self) -> None:
        """Workers tell of calls when they have nothing else to do, a moment after their results."""
        self._came = monotonic()
        while True:
            self._jobs.poll()
            missing = False
            for facts in self._engine.workers():
                ended = facts.calls - self._before.get(facts.rank, 0)
                missing = missing or (facts.running is None and ended > self._seen.get(facts.rank, 0))
            if not missing or monotonic() - self._came > LATE:
                return
            sleep(0.001)

    def _take(self, kind: int, job: int, index: int, payload: Any) -> None:
        with self._lock:
            if self.closed:
                return
            self._came = monotonic()
            try:
                if kind == SPAN:
                    self._spans(*payload)
                elif payload is not None:
                    self._mark(kind, job, index, payload)
            except OSError as error:  # told by close()
                self._error = self._error or error

    def _spans(self, rank: int, pid: int, spans: list[tuple[int, int, str, int, int, bool]]) -> None:
        self._seen[rank] = self._seen.get(rank, 0) + len(spans)
        for job, index, name, start, end, ok in spans:
            self._add(
                {
                    "ph": "X",
                    "name": name,
                    "cat": "call" if ok else "call,failed",
                    "ts": (start - self._start) / 1000,
                    "dur": (end - start) / 1000,
                    "args": {"job": job, "index": index, "ok": ok, "pid": pid},
                },
                rank,
            )

    def _mark(self, kind: int, job: int, index: int, facts: dict[str, Any]) -> None:
        args = {
            key: value for key, value in facts.items() if value is not None and key not in ("rank", "what")
        }
        name = ENDS.get(kind) or f"worker {facts.get('what')}"
        if kind != WORKER:
            args.update(job=job, index=index)
        event = {"ph": "i", "s": "t", "name": name, "cat": "worker", "args": args}
        self._add({**event, "ts": (monotonic_ns() - self._start) / 1000}, facts["rank"])

    # -- The file

    def _add(self, event: dict[str, Any], rank: int | None = None) -> None:
        event["pid"] = self._owner
        if rank is not None:
            event["tid"] = rank + 1  # 0 is the kernel's idle thread to viewers
            if rank not in self._ranks:
                self._ranks.add(rank)
                self._add(
                    {"ph": "M", "name": "thread_name", "args": {"name": f"worker {rank}"}, "tid": rank + 1}
                )
                self._add(
                    {"ph": "M", "name": "thread_sort_index", "args": {"sort_index": rank}, "tid": rank + 1}
                )
        self._write((",\n" if self._any else "[\n") + self._dumps(event))
        self._any = True

    def _write(self, text: str) -> None:
        self._text.append(text)
        self._size += len(text)
        if self._size >= PIECE:
            self._flush()

    def _flush(self) -> None:
        data = memoryview("".join(self._text).encode())
        self._text, self._size = [], 0
        try:
            while data and self._error is None:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._error = error
