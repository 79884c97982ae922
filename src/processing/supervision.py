"""What the supervisor of a pool decides: a pure state machine. An event goes in, a list of actions comes out.

    supervisor.py (shell)                                   Supervision (here)
      a worker ended, its desk ------- Ended ------------->   blame, requeue, replace
      a message of the caller -------- Cancel, Resize, ... ->
      the time of `wake_at` has come - Look -------------->   timeouts, memory, restarts that had to wait
                               <------ Start, Strike, Report, Requeue, Clear, ... (carried out in that order)

It owns who sits at which desk and what is still to be done about whom. It does no I/O and has no clock: every event
says what time it is (monotonic ns), and brings what lay on the desks. It guarantees, for every order of events:

    - of a dead worker's batch, the call that ran is reported once, or put back while it has retries left; the calls
      that had not begun are put back; those that had ended are left alone; nobody is blamed who was not running
    - a call that is stopped (Strike) for its timeout, on request or for its memory takes no other call with it
    - `FAILURES` workers in a row that did not become ready, none becoming ready in between, end the pool; so do
      `KILLS` that were killed before they were
    - after Close or Terminate it comes to Exit, the last action of all

A Strike is answered at once by Struck: whether the worker was killed while it ran exactly that call.
"""

from __future__ import annotations

# fmt: off
# isort: off
from .supervisionmessages import (
    BROKEN, Begin, CANCELLED, Cancel, Clear, Close, CloseTasks, Ended, Exit, Forget, Forgotten, Kill, LOST,
    Look, LookAgain, Mark, Marked, Message, NotStarted, Report, Requeue, Resize, Retire, SetWatching, Start,
    Started, Strike, Struck, TIMEOUT, Terminate, WORKER, Watch, signal_of, why_not_ready,
)
# isort: on
# fmt: on

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .supervisionmessages import Desk, Desks

    Do = Callable[[Message], None]

__all__ = ["Supervision"]

SIGKILL, SIGTERM = 9, 15

MS = 1_000_000
FAILURES = 3  # workers in a row that did not become ready
KILLS = 10  # ... because somebody killed them with SIGKILL
PAUSE = 100 * MS  # before the third of them is started; the unit of all pauses
LONGEST_PAUSE = 1000 * MS
PATIENCE = 500 * MS  # between SIGTERM and SIGKILL
MEMORY_INTERVAL = 100 * MS  # between looks at the memory of workers that run something
SHORTEST_INTERVAL = 2 * MS
AGAIN = 50 * MS  # until what could not be done is tried again
BARREN = 3  # workers in a row that ended without having run anything before their successors have to wait

READY = frozenset({"idle", "taken", "left"})


# ---- The machine ----------------------------------------------------------------------------------------------------


class Worker:
    """Somebody at a desk."""

    __slots__ = ("rank", "pid", "ready", "retiring", "strike", "again_at", "doom", "calls")

    def __init__(self, rank: int, calls: int) -> None:
        self.rank = rank
        self.pid = 0  # 0: is being started
        self.ready = False
        self.retiring = False
        # job, index, why: has been ordered (again_at: and is to be tried again then); has hit.
        self.strike: tuple[int, int, str] | None = None
        self.again_at: int | None = None
        self.doom: tuple[int, int, str] | None = None
        self.calls = calls  # of that desk, when this worker was started


class Supervision:
    """The workers of one pool, ranks 0 to processes - 1."""

    def __init__(self, processes: int, memory_limit: int = 0) -> None:
        self.wanted = processes
        self.memory_limit = memory_limit
        self.workers: dict[int, Worker] = {}
        self.pending: dict[int, int] = {}  # rank -> when to start its worker
        self.number = 0
        self.calls: dict[int, int] = {}  # rank -> calls of that desk so far
        self.failures = 0  # in a row
        self.kills = 0  # of workers that were not ready yet, in a row
        self.barren = 0  # in a row
        self.closing = self.terminating = self.ended = False
        self.kill_at: int | None = None
        # The caller says each timeout that is smaller than any before, so this one is never forgotten.
        self.smallest: int | None = None
        self.watching = False
        self.look_at: int | None = None
        self.marks: set[tuple[int, int | None]] = set()
        self.unkept: dict[
            tuple[int, int | None], int
        ] = {}  # marks that there was no room for -> when to try again

    def handle(self, event: Message) -> list[Message]:
        """What to do about it, in that order."""
        if self.ended:
            return []
        actions: list[Message] = []
        _HANDLERS[type(event)](self, event, actions.append)
        if (self.closing or self.terminating) and not self.workers and not self.pending:
            self.ended = True
            actions.append(Exit())
        return actions

    @property
    def wake_at(self) -> int | None:
        """When a Look is due; None: not before something happens."""
        if self.ended:
            return None
        times = [*self.pending.values(), *self.unkept.values()]
        times += [worker.again_at for worker in self.workers.values() if worker.again_at is not None]
        times += [at for at in (self.kill_at, self.look_at) if at is not None]
        return min(times, default=None)

    def validate(self) -> None:
        """Raises AssertionError if an invariant does not hold."""
        assert self.wanted >= 1
        assert not self.workers.keys() & self.pending.keys(), "a rank twice"
        assert all(rank == worker.rank for rank, worker in self.workers.items())
        pids = [worker.pid for worker in self.workers.values() if worker.pid]
        assert len(pids) == len(set(pids)), "a process at two desks"
        for worker in self.workers.values():
            assert worker.strike is None or worker.doom is None, "struck again after it was hit"
            assert worker.again_at is None or worker.strike is not None
            assert worker.pid or (worker.strike is None and worker.doom is None), "nobody there to strike"
        if self.ended:
            assert self.closing or self.terminating
            assert not self.workers and not self.pending and self.wake_at is None
        elif self.terminating:
            assert self.workers and not self.pending and not self.unkept and self.look_at is None
        elif self.closing:
            assert self.workers or self.pending
        else:
            missing = set(range(self.wanted)) - self.workers.keys() - self.pending.keys()
            assert not missing, f"nobody for ranks {missing}"
        assert (self.failures < FAILURES and self.kills < KILLS) or self.terminating, "too many failures"
        assert self.look_at is None or self.watching

    # -- Starting

    def _begin(self, event: Begin, do: Do) -> None:
        for rank, desk in event.found.items():
            self.calls[rank] = desk.calls
            self._blame(rank, desk.owner_pid, desk, None, event, (None, None, False), do)
            do(Clear(rank))
        if event.watching:
            # Which timeouts are in use died with the other supervisor.
            self.watching, self.smallest, self.look_at = True, MEMORY_INTERVAL, event.now
        for rank in range(self.wanted):
            self._start(rank, do)

    def _start(self, rank: int, do: Do) -> None:
        if self.terminating:
            return
        self.pending.pop(rank, None)
        self.number += 1
        self.workers[rank] = Worker(rank, self.calls.get(rank, 0))
        do(Start(rank, self.number))

    def _replace(self, rank: int, now: int, pause: int, do: Do) -> None:
        if pause > 0:
            self.pending[rank] = now + min(pause, LONGEST_PAUSE)
        else:
            self._start(rank, do)

    def _started(self, event: Started, do: Do) -> None:
        worker = self.workers[event.rank]
        worker.pid = event.pid
        do(Report(WORKER, 0, 0, {"rank": event.rank, "what": "started", "pid": event.pid}))
        if self.terminating:
            do(Kill(event.rank, SIGTERM if self.kill_at is not None else SIGKILL))
        elif event.rank >= self.wanted:
            worker.retiring = True
            do(Retire(event.rank))

    def _not_started(self, event: NotStarted, do: Do) -> None:
        """The machine is out of processes or memory. As long as others work, that is no reason to give up; if none
        could be started, that is one failure."""
        del self.workers[event.rank]
        if self.terminating:
            return
        self.pending[event.rank] = event.now + (LONGEST_PAUSE if self.workers else PAUSE)
        if not self.workers:
            self.failures += 1
            if self.failures >= FAILURES:
                self._give_up(event.now, event.text, do)

    def _failed(self, rank: int, now: int, text: str, do: Do, killed: bool) -> None:
        """A worker did not become ready. One that was killed says less about the next than one that failed."""
        if killed:
            self.kills += 1
        else:
            self.failures += 1
        if self.failures >= FAILURES or self.kills >= KILLS:
            self._give_up(now, text, do)
        elif rank < self.wanted:
            self._replace(rank, now, PAUSE * (self.failures + self.kills - 1), do)

    def _give_up(self, now: int, text: str, do: Do) -> None:
        do(Report(BROKEN, 0, 0, {"traceback": text}))
        self._terminate_all(now, do)

    def _note_ready(self, desks: Desks) -> None:
        for rank, desk in desks.items():
            worker = self.workers.get(rank)
            if worker and not worker.ready and desk.state in READY and desk.owner_pid == worker.pid:
                worker.ready = True
                self.failures = self.kills = 0

    # -- The end of a worker

    def _ended(self, event: Ended, do: Do) -> None:
        desk = event.desk
        rank = event.rank
        worker = self.workers.pop(rank)
        self._note_ready(event.desks)
        if desk.state in READY and not worker.ready:
            worker.ready = True
            self.failures = self.kills = 0
        signal = signal_of(event.exitcode)
        facts = {
            "rank": rank,
            "what": "ended",
            "pid": worker.pid,
            "exitcode": event.exitcode,
            "signal": signal,
        }
        do(Report(WORKER, 0, 0, {**facts, "peak_memory": event.peak_memory}))
        if self.terminating:
            do(Clear(rank))
            return
        end = (event.exitcode, event.peak_memory, event.oom)
        requeued = self._blame(rank, worker.pid, desk, worker.doom, event, end, do)
        do(Clear(rank))
        worked = desk.state == "taken" or desk.calls != worker.calls
        self.calls[rank] = desk.calls
        if self.closing and not requeued and not event.waiting:
            return  # nothing is left for a successor to do
        if not worker.ready:
            killed = signal == SIGKILL and not event.oom
            self._failed(rank, event.now, why_not_ready(event, worker.pid), do, killed)
        elif rank < self.wanted:
            self.barren = 0 if worked or worker.retiring else self.barren + 1
            self._replace(rank, event.now, PAUSE * (self.barren - BARREN), do)
        if not self.workers and not self.pending:
            self._start(0, do)  # closing: the others have left already

    def _blame(
        self,
        rank: int,
        pid: int,
        desk: Desk,
        doom: tuple[int, int, str] | None,
        event: Ended | Begin,
        end: tuple[int | None, int | None, bool],
        do: Do,
    ) -> bool:
        """Deals with what a dead worker had on its desk; whether anything is in the ring again."""
        exitcode, peak, oom = end
        facts: dict[str, Any] = {"rank": rank, "pid": pid}
        died = {"signal": signal_of(exitcode), "exitcode": exitcode, "peak_memory": peak, "oom": oom}
        if desk.broadcast:
            do(Report(LOST, desk.broadcast, rank, {**facts, **died}))
        if desk.state != "taken":
            return False
        rest = desk.done
        retry = False
        index = desk.first + desk.done
        if desk.running and (doom is None or doom[:2] == (desk.job, index)):
            rest += 1
            why = "died" if doom is None else doom[2]
            retry = why in ("died", "memory limit") and desk.attempt < desk.retries
            if not retry:
                facts["runtime"] = max(0, event.now - desk.started_ns) / 1e9
                kind = LOST
                if why == "timeout":
                    kind = TIMEOUT
                    facts["timeout"] = desk.timeout
                elif why == "cancelled":
                    kind = CANCELLED
                else:
                    facts.update(died, reason=why, attempts=desk.attempt + 1)
                do(Report(kind, desk.job, index, facts))
                if (desk.job, index) in self.marks:
                    self._forget((desk.job, index), do)
        if rest < desk.to:
            do(Requeue(rank, rest, desk.to, desk.attempt))
        if retry:
            do(Requeue(rank, desk.done, desk.done + 1, desk.attempt + 1))
        return retry or rest < desk.to

    # -- Looking around

    def _look(self, event: Look, do: Do) -> None:
        now = event.now
        self._note_ready(event.desks)
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            for worker in self.workers.values():
                if worker.pid:
                    do(Kill(worker.rank, SIGKILL))
        for rank in [rank for rank, at in self.pending.items() if at <= now]:
            self._start(rank, do)
        for worker in self.workers.values():
            if worker.strike is not None and worker.again_at is not None and worker.again_at <= now:
                worker.again_at = None
                do(Strike(worker.rank, *worker.strike[:2]))
        for mark in [mark for mark, at in self.unkept.items() if at <= now]:
            self._mark(mark, event.waiting, event.desks, do)
        if self.watching and (event.again or (self.look_at is not None and self.look_at <= now)):
            self._watch_over(event, do)

    def _watch_over(self, event: Look, do: Do) -> None:
        """Timeouts and memory; and when to look again."""
        now = event.now
        busy = event.waiting > 0
        at = now + self._interval()
        for rank, desk in event.desks.items():
            if desk.state != "taken":
                continue
            busy = True
            worker = self.workers.get(rank)
            if not desk.running or worker is None or worker.pid != desk.owner_pid:
                continue
            if worker.strike is not None or worker.doom is not None:
                continue
            if desk.deadline_ns and desk.deadline_ns <= now:
                self._strike(worker, desk.job, desk.first + desk.done, "timeout", do)
            elif self.memory_limit and event.memory.get(rank, 0) > self.memory_limit:
                self._strike(worker, desk.job, desk.first + desk.done, "memory limit", do)
            elif desk.deadline_ns:
                at = min(at, desk.deadline_ns)
        if busy:
            self.look_at = at
            if event.again:
                do(SetWatching(True))
        elif event.again:
            # Unless a Watch came in between, which counts.
            self.watching = self.look_at is not None
        else:
            self.look_at = None
            # Who submits from now on says so; who has submitted just before is seen by looking again.
            do(SetWatching(False))
            do(LookAgain())

    def _interval(self) -> int:
        interval = MEMORY_INTERVAL if self.memory_limit or self.smallest is None else self.smallest
        if self.smallest is not None:
            interval = min(interval, self.smallest)
        return max(interval, SHORTEST_INTERVAL)

    def _watch(self, event: Watch, do: Do) -> None:
        if self.terminating:
            return
        if event.seconds > 0:
            nanoseconds = int(event.seconds * 1e9)
            self.smallest = nanoseconds if self.smallest is None else min(self.smallest, nanoseconds)
        at = event.now + self._interval()
        self.look_at = at if self.look_at is None else min(self.look_at, at)
        self.watching = True
        do(SetWatching(True))

    # -- Stopping one call

    def _strike(self, worker: Worker, job: int, index: int, why: str, do: Do) -> None:
        worker.strike = (job, index, why)
        do(Strike(worker.rank, job, index))

    def _struck(self, event: Struck, do: Do) -> None:
        worker = self.workers.get(event.rank)
        if worker is None or worker.strike is None:
            return
        if event.hit is None and not self.terminating:
            worker.again_at = event.now + AGAIN
            return
        if event.hit:
            worker.doom = worker.strike
        worker.strike = None

    def _cancel(self, event: Cancel, do: Do) -> None:
        if not self.terminating:
            self._mark((event.job, event.index), event.waiting, event.desks, do)

    def _mark(
        self, mark: tuple[int, int | None], waiting: int, desks: Desks, do: Callable[[Message], None]
    ) -> None:
        """Has workers skip a call. Marks of calls that cannot be anywhere any more make room first."""
        if self.marks and not waiting and all(desk.state != "taken" for desk in desks.values()):
            for old in sorted(self.marks, key=str):
                self._forget(old, do)
        self.unkept.pop(mark, None)
        if mark not in self.marks:
            do(Mark(*mark))

    def _marked(self, event: Marked, do: Do) -> None:
        if self.terminating:
            return
        mark = (event.job, event.index)
        if event.kept:
            self.marks.add(mark)
        else:
            self.unkept[mark] = event.now + AGAIN
        # Nothing of it begins from now on, so what is to be stopped runs already.
        for rank, desk in event.desks.items():
            index = desk.first + desk.done
            if not desk.running or desk.job != event.job or event.index not in (None, index):
                continue
            worker = self.workers.get(rank)
            if worker is None or worker.pid != desk.owner_pid:
                continue
            if worker.strike is None and worker.doom is None:
                self._strike(worker, desk.job, index, "cancelled", do)

    def _forgotten(self, event: Forgotten, do: Do) -> None:
        mark = (event.job, event.index)
        self.unkept.pop(mark, None)
        if mark in self.marks:
            self._forget(mark, do)

    def _forget(self, mark: tuple[int, int | None], do: Do) -> None:
        self.marks.discard(mark)
        do(Forget(*mark))

    # -- The size, the end

    def _resize(self, event: Resize, do: Do) -> None:
        if self.closing or self.terminating:
            return
        self.wanted = max(1, event.processes)
        for rank in [rank for rank in self.pending if rank >= self.wanted]:
            del self.pending[rank]
        for worker in self.workers.values():
            if worker.rank >= self.wanted and worker.pid and not worker.retiring:
                worker.retiring = True
                do(Retire(worker.rank))
        for rank in range(self.wanted):
            if rank not in self.workers and rank not in self.pending:
                self._start(rank, do)

    def _close(self, event: Close, do: Do) -> None:
        if self.closing or self.terminating:
            return
        self.closing = True
        do(CloseTasks())
        if not event.waiting:
            self.pending.clear()

    def _terminate(self, event: Terminate, do: Do) -> None:
        if not self.terminating:
            self._terminate_all(event.now, do)

    def _terminate_all(self, now: int, do: Do) -> None:
        self.terminating = True
        self.pending.clear()
        self.unkept.clear()
        self.watching, self.look_at = False, None
        self.kill_at = now + PATIENCE
        for worker in self.workers.values():
            worker.strike = worker.again_at = None
            if worker.pid:
                do(Kill(worker.rank, SIGTERM))


_HANDLERS: dict[type[Message], Callable[[Supervision, Any, Do], None]] = {
    Begin: Supervision._begin,
    Started: Supervision._started,
    NotStarted: Supervision._not_started,
    Ended: Supervision._ended,
    Look: Supervision._look,
    Struck: Supervision._struck,
    Watch: Supervision._watch,
    Cancel: Supervision._cancel,
    Marked: Supervision._marked,
    Forgotten: Supervision._forgotten,
    Resize: Supervision._resize,
    Close: Supervision._close,
    Terminate: Supervision._terminate,
}
