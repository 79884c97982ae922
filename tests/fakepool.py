"""A pool of files in place of the arena object: what a supervisor asks and does (PoolBase in _pool.pyi), slowly.

    task-N      a batch in the ring: a pickled dict; taking it is renaming it to batch-RANK, so a death loses nothing
    desk-RANK   who sits there and how far the batch is; written anew as a whole
    events      what is reported, appended
    marks, closed, watching, retire-RANK

The supervisor and the workers of one test use it in different processes; it pickles as the folder's path.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import struct
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

from helpers import LIMIT

View = namedtuple(
    "View",
    "owner_pid state job first from_ to done running attempt retries timeout started_ns deadline_ns text calls "
    "busy_ns waited_ns broadcast memory",
    defaults=(0, 0),
)
NOBODY = {
    "pid": 0, "state": "empty", "done": 0, "running": False, "started": 0, "deadline": 0, "text": None, "calls": 0,
}  # fmt: skip


class FakePool:
    def __init__(self, folder: Path, desks: int) -> None:
        self.folder = folder
        self.desks = desks
        self.numbers = 0

    def _read(self, name: str) -> Any:
        try:
            return pickle.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None

    def _write(self, name: str, obj: Any) -> None:
        new = self.folder / f"new-{os.getpid()}"
        new.write_bytes(pickle.dumps(obj))
        new.rename(self.folder / name)

    # -- The caller's

    def put(self, job: int, calls: list[tuple[Any, ...]], timeout: float = 0.0, retries: int = 0) -> None:
        """One batch; each call is the name of a function below and its arguments."""
        self._put({"job": job, "first": 0, "from": 0, "to": len(calls), "calls": calls, "attempt": 0,
                   "retries": retries, "timeout": timeout})  # fmt: skip

    def _put(self, batch: dict[str, Any]) -> None:
        self.numbers += 1
        self._write(f"task-{time.monotonic_ns():020}-{os.getpid()}-{self.numbers}", batch)

    def events(self) -> list[tuple[Any, ...]]:
        try:
            data = (self.folder / "events").read_bytes()
        except FileNotFoundError:
            return []
        found, at = [], 0
        while at + 4 <= len(data):
            size = struct.unpack_from("I", data, at)[0]
            if at + 4 + size > len(data):
                break
            found.append(pickle.loads(data[at + 4 : at + 4 + size]))
            at += 4 + size
        return found

    def wait_for(self, *kinds: int, count: int = 1) -> list[tuple[Any, ...]]:
        """Waits until there are so many events of these kinds; returns all of them."""
        end = time.monotonic() + LIMIT
        while len(found := [event for event in self.events() if event[0] in kinds]) < count:
            assert time.monotonic() < end, f"only {found} in {self.events()}"
            time.sleep(0.001)
        return found

    def wait_until(self, what: Any) -> None:
        end = time.monotonic() + LIMIT
        while not what():
            assert time.monotonic() < end
            time.sleep(0.001)

    # -- The supervisor's

    def desk(self, rank: int) -> View:
        desk = self._read(f"desk-{rank}") or NOBODY
        batch = self._read(f"batch-{rank}")
        state = desk["state"]
        if batch is None:
            facts = (0, 0, 0, 0, 0, False, 0, 0, 0.0)
        else:
            state = "taken"
            done = max(desk["done"], batch["from"]) if desk["state"] == "taken" else batch["from"]
            running = desk["running"] and desk["state"] == "taken"
            facts = (batch["job"], batch["first"], batch["from"], batch["to"], done, running,
                     batch["attempt"], batch["retries"], batch["timeout"])  # fmt: skip
        return View(
            desk["pid"], state, *facts, desk["started"], desk["deadline"], desk["text"], desk["calls"], 0, 0
        )

    def settle(self, rank: int) -> None:
        pid = self.desk(rank).owner_pid
        assert not pid or not is_alive(pid), "settled while it lives"

    def flush(self, rank: int) -> None:
        pass

    def requeue(self, rank: int, begin: int, to: int, attempt: int) -> None:
        batch = self._read(f"batch-{rank}")
        assert batch["from"] <= begin < to <= batch["to"]
        self._put({**batch, "from": begin, "to": to, "attempt": attempt})

    def clear(self, rank: int) -> None:
        for name in (f"batch-{rank}", f"desk-{rank}", f"retire-{rank}"):
            (self.folder / name).unlink(missing_ok=True)

    def report(self, kind: int, job: int, index: int, payload: Any) -> None:
        data = pickle.dumps((kind, job, index, payload, time.monotonic_ns()))
        fd = os.open(self.folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, struct.pack("I", len(data)) + data)
        os.close(fd)

    def order(self, rank: int, what: str) -> None:
        assert what == "retire"
        self._write(f"retire-{rank}", True)

    def tasks_waiting(self) -> int:
        return len(self.tasks())

    def tasks(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name.startswith("task-"))

    def close_tasks(self) -> None:
        self._write("closed", True)

    def cancel_queued(self, job: int, index: int | None) -> bool:
        self._write("marks", {*(self._read("marks") or ()), (job, index)})
        return True

    def forget_cancelled(self, job: int, index: int | None) -> None:
        self._write("marks", {*(self._read("marks") or ())} - {(job, index)})

    @property
    def watching(self) -> bool:
        return bool(self._read("watching"))

    @watching.setter
    def watching(self, on: bool) -> None:
        self._write("watching", on)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# ---- Workers --------------------------------------------------------------------------------------------------------

DONE, FAILED = 0, 1


def work(pool: FakePool, rank: int, startup: Any) -> None:
    """As worker.work. `startup`: None, or the name of what to do first."""
    desk = {**NOBODY, "pid": os.getpid(), "state": "starting"}

    def turn(**changes: Any) -> None:
        desk.update(changes)
        pool._write(f"desk-{rank}", desk)

    turn()
    try:
        if callable(startup):
            startup()
        elif startup:
            globals()[startup](rank)
    except Exception as error:
        turn(state="failed", text=f"Traceback: {error!r}")
        sys.exit(1)
    while True:
        turn(state="idle", running=False)
        while True:
            tasks = pool.tasks()
            if (pool.folder / f"retire-{rank}").exists() or (not tasks and (pool.folder / "closed").exists()):
                turn(state="left")
                return
            try:
                os.rename(pool.folder / tasks[0], pool.folder / f"batch-{rank}")
                break
            except (IndexError, FileNotFoundError):
                time.sleep(0.001)
        batch = pool._read(f"batch-{rank}")
        for i in range(batch["from"], batch["to"]):
            now = time.monotonic_ns()
            deadline = now + int(batch["timeout"] * 1e9) if batch["timeout"] else 0
            turn(state="taken", done=i, running=True, started=now, deadline=deadline)
            job, index = batch["job"], batch["first"] + i
            if {(job, index), (job, None)} & (pool._read("marks") or set()):
                pool.report(4, job, index, None)
            else:
                name, *args = batch["calls"][i]
                pool.report(DONE, job, index, globals()[name](*args))
            turn(done=i + 1, running=False, calls=desk["calls"] + 1)
        turn(state="ended")
        (pool.folder / f"batch-{rank}").unlink()


def double(x: int) -> int:
    return 2 * x


def facts() -> dict[str, Any]:
    import processing
    from processing import util

    current = processing.current_process()
    parent = processing.parent_process()
    assert parent is not None
    return {
        "pid": os.getpid(),
        "name": current.name,
        "daemon": current.daemon,
        "method": processing.get_start_method(),
        "parent": parent.name,
        "main": getattr(sys.modules["__main__"], "MARK", None),
        "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "sigterm": str(signal.getsignal(signal.SIGTERM)),
        "sigusr1": str(signal.getsignal(signal.SIGUSR1)),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "fds": sorted(
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(fd)
        ),
        "exiting": util.is_exiting(),
    }


def is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def die(number: int) -> None:
    faulthandler.disable()  # it is meant
    os.kill(os.getpid(), number)
    time.sleep(LIMIT)


def leave(code: int) -> None:
    os._exit(code)


def linger(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(LIMIT)


def hog(path: str, size: int) -> None:
    data = bytearray(b"x") * size
    linger(path)
    del data


def fail(rank: int) -> None:
    raise ValueError(f"no luck for {rank}")


def fail_by_death(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
