"""A model of a pool: a ring, desks, workers that take one step at a time, and a caller. The supervisor's state machine
is told what happens in it, and its actions are carried out one by one."""

from __future__ import annotations

from collections import deque, namedtuple
from typing import Any

from processing import supervisionmessages as msg
from processing.supervision import MS, Supervision
from processing.supervisionmessages import BROKEN, CANCELLED, LOST, TIMEOUT, WORKER

View = namedtuple(
    "View",
    "owner_pid state job first from_ to done running attempt retries timeout started_ns deadline_ns text calls "
    "broadcast",
    defaults=(0,),
)
EMPTY = View(0, "empty", 0, 0, 0, 0, 0, False, 0, 0, 0.0, 0, 0, None, 0)
Batch = namedtuple("Batch", "job first begin to attempt retries timeout")
MARKS = 2  # that the model has room for


class Desk:
    def __init__(self) -> None:
        self.pid = 0
        self.state = "empty"
        self.batch: Batch | None = None
        self.done = 0
        self.running = False
        self.started = self.deadline = 0
        self.text: str | None = None
        self.calls = 0
        self.retire = False

    def view(self) -> View:
        batch = self.batch or Batch(0, 0, 0, 0, 0, 0, 0.0)
        return View(
            *(self.pid, self.state, batch.job, batch.first, batch.begin, batch.to, self.done, self.running),
            *(
                batch.attempt,
                batch.retries,
                batch.timeout,
                self.started,
                self.deadline,
                self.text,
                self.calls,
            ),
        )


class Process:
    """A worker's process. phase: new, alive, dead (not reaped)."""

    def __init__(self, pid: int, rank: int) -> None:
        self.pid = pid
        self.rank = rank
        self.phase = "new"
        self.exitcode: int | None = None
        self.ran: tuple[int, int] | None = None  # when it died
        self.hit = False  # by a strike


class Pool:
    """The model, and the part of the shell that carries out actions."""

    def __init__(self, processes: int, memory_limit: int = 0) -> None:
        self.machine = Supervision(processes, memory_limit)
        self.now = 1_000_000 * MS
        self.desks: dict[int, Desk] = {}
        self.processes: dict[int, Process] = {}  # by rank
        self.pids = 100
        self.ring: list[Batch] = []
        self.jobs: dict[int, int] = {}  # job -> number of calls
        self.outcomes: dict[tuple[int, int], list[str]] = {}
        self.begun: dict[tuple[int, int], int] = {}
        self.marks: set[tuple[int, int | None]] = set()
        self.unwanted: set[tuple[int, int | None]] = set()  # all that was ever cancelled
        self.dropped: set[tuple[int, int | None]] = set()  # marks that are not needed any more
        self.watching = self.closed = self.over = self.broken = self.terminated = False
        self.said: float | None = None  # smallest timeout
        self.todo: deque[Any] = deque()
        self.starts = self.deaths = self.refused = 0
        self.hits: list[bool | None] = []  # what is to become of strikes; empty: they hit
        self.refuse = 0  # so many starts fail
        self.memory: dict[int, int] = {}
        self.last_begun = 0
        self.last_dead: dict[int, Process] = {}

    # -- The shell

    def tell(self, event: msg.Message) -> None:
        over = self.machine.ended
        actions = self.machine.handle(event)
        assert not (over and actions), "an action after the end"
        self.machine.validate()
        self.todo.extend(actions)

    def work_off(self) -> None:
        while self.todo:
            self.step()

    def step(self) -> None:
        action = self.todo.popleft()
        assert not self.over
        getattr(self, type(action).__name__.lower())(action)

    def view(self) -> dict[int, View]:
        return {rank: self.desks[rank].view() for rank in self.processes}

    def start(self, action: msg.Start) -> None:
        assert action.rank not in self.processes, "two workers at one desk"
        if self.refuse:
            self.refuse -= 1
            self.refused += 1
            self.tell(msg.NotStarted(self.now, action.rank, "no more processes"))
            return
        self.starts += 1
        self.pids += 1
        desk = self.desks.setdefault(action.rank, Desk())
        assert desk.state == "empty", "the desk was not cleared"
        self.processes[action.rank] = Process(self.pids, action.rank)
        self.tell(msg.Started(self.now, action.rank, self.pids))

    def strike(self, action: msg.Strike) -> None:
        hit: bool | None = False
        process = self.processes.get(action.rank)
        if process is not None and process.phase != "dead":
            hit = self.hits.pop() if self.hits else True
            desk = self.desks[action.rank]
            if hit is not None:
                batch = desk.batch
                hit = bool(
                    batch
                    and desk.running
                    and (batch.job, batch.first + desk.done) == (action.job, action.index)
                )
            if hit:
                self.die(process, -9)
                process.hit = True
        self.tell(msg.Struck(self.now, action.rank, hit))

    def report(self, action: msg.Report) -> None:
        if action.kind == WORKER:
            return
        if action.kind == BROKEN:
            assert action.payload["traceback"]
            self.broken = True
            return
        call = action.job, action.index
        process = self.last_dead[action.payload["rank"]]
        assert process.pid == action.payload["pid"]
        assert process.ran == call, f"{call} is blamed, {process.ran} ran"
        payload = action.payload
        assert process.hit == (action.kind != LOST or payload["reason"] == "memory limit"), "killed by whom?"
        if action.kind == LOST:
            assert payload["attempts"] == self.begun[call] <= 3
            assert payload["exitcode"] == process.exitcode
        elif action.kind == TIMEOUT:
            assert 1e9 * payload["runtime"] >= 1e9 * payload["timeout"] > 0
        else:
            assert {call, (call[0], None)} & self.unwanted
        self.end(call, {LOST: "LOST", TIMEOUT: "TIMEOUT", CANCELLED: "CANCELLED"}[action.kind])

    def end(self, call: tuple[int, int], outcome: str) -> None:
        self.outcomes[call].append(outcome)
        assert len(self.outcomes[call]) == 1, f"call {call}: {self.outcomes[call]}"

    def requeue(self, action: msg.Requeue) -> None:
        batch = self.desks[action.rank].batch
        assert batch is not None and batch.begin <= action.begin < action.to <= batch.to
        assert action.attempt <= batch.retries
        self.ring.append(batch._replace(begin=action.begin, to=action.to, attempt=action.attempt))

    def clear(self, action: msg.Clear) -> None:
        assert action.rank not in self.processes
        calls = self.desks[action.rank].calls
        self.desks[action.rank] = Desk()
        self.desks[action.rank].calls = calls

    def retire(self, action: msg.Retire) -> None:
        self.desks[action.rank].retire = True

    def kill(self, action: msg.Kill) -> None:
        process = self.processes.get(action.rank)
        if process is not None and process.phase != "dead" and action.signal == 9:
            self.die(process, -9)

    def mark(self, action: msg.Mark) -> None:
        kept = len(self.marks) < MARKS
        if kept:
            self.marks.add((action.job, action.index))
        self.tell(msg.Marked(self.now, action.job, action.index, kept, self.view()))

    def forget(self, action: msg.Forget) -> None:
        for call in self.calls_of(action.job, action.index):
            assert self.outcomes[call], f"{call} may still run"
        self.marks.remove((action.job, action.index))
        self.dropped.add((action.job, action.index))

    def closetasks(self, action: msg.CloseTasks) -> None:
        self.closed = True

    def setwatching(self, action: msg.SetWatching) -> None:
        self.watching = action.on

    def lookagain(self, action: msg.LookAgain) -> None:
        self.look(True)

    def exit(self, action: msg.Exit) -> None:
        assert not self.processes and not self.todo
        self.over = True

    def look(self, again: bool = False) -> None:
        running = {rank: size for rank, size in self.memory.items() if rank in self.processes}
        self.tell(msg.Look(self.now, self.view(), running, len(self.ring), again))

    def collect(self, process: Process, oom: bool = False) -> None:
        """The shell notices a death."""
        rank = process.rank
        del self.processes[rank]
        self.last_dead[rank] = process
        self.tell(
            msg.Ended(
                *(self.now, rank, process.exitcode, 1000, oom, self.desks[rank].view(), self.view()),
                len(self.ring),
            )
        )

    # -- The caller

    def calls_of(self, job: int, index: int | None) -> list[tuple[int, int]]:
        return [(job, i) for i in range(self.jobs.get(job, 0)) if index in (None, i)]

    def submit(self, size: int, retries: int, timeout: float) -> None:
        job = len(self.jobs) + 1
        self.jobs[job] = size
        self.outcomes.update({(job, i): [] for i in range(size)})
        half = size // 2
        for first, last in ((0, half), (half, size)):
            if first < last:
                self.ring.append(Batch(job, first, 0, last - first, 0, retries, timeout))
        # Said at once: as long as it is under way, a deadline may be missed.
        if (timeout and (self.said is None or timeout < self.said or not self.watching)) or (
            self.machine.memory_limit and not self.watching
        ):
            if timeout:
                self.said = min(timeout, self.said or timeout)
            self.tell(msg.Watch(self.now, timeout))

    # -- Workers

    def die(self, process: Process, exitcode: int) -> None:
        desk = self.desks[process.rank]
        if desk.running and desk.batch:
            process.ran = desk.batch.job, desk.batch.first + desk.done
        process.phase = "dead"
        process.exitcode = exitcode
        self.deaths += 1

    def advance(self, process: Process, fail: bool = False, leave: bool = False) -> bool:
        """One step of a worker; False if it has nothing to do."""
        desk = self.desks[process.rank]
        if process.phase == "dead":
            return False
        if process.phase == "new":
            process.phase = "alive"
            desk.pid, desk.state = process.pid, "starting"
        elif desk.state == "starting":
            desk.state = "idle"
            if fail:
                desk.state, desk.text = "failed", "Traceback: no luck"
                self.die(process, 1)
        elif desk.state == "idle":
            if desk.retire or leave or (self.closed and not self.ring):
                desk.state = "left"
                self.die(process, 0)
            elif not self.ring:
                return False
            else:
                desk.state, desk.batch = "taken", self.ring.pop(0)
                desk.done, desk.running = desk.batch.begin, False
        else:
            assert desk.batch is not None
            call = desk.batch.job, desk.batch.first + desk.done
            if desk.running:
                desk.running, desk.deadline = False, 0
                desk.done += 1
                desk.calls += 1
                self.end(call, "DONE")
            elif desk.done == desk.batch.to:
                desk.state, desk.batch = "idle", None
            elif call in self.marks or (call[0], None) in self.marks:
                desk.done += 1
                self.end(call, "CANCELLED")
            else:
                desk.running, desk.started = True, self.now
                self.last_begun = self.now
                self.begun[call] = self.begun.get(call, 0) + 1
                desk.deadline = self.now + int(desk.batch.timeout * 1e9) if desk.batch.timeout else 0
        return True

    # -- Facts

    def places(self) -> dict[tuple[int, int], int]:
        """Where calls without an outcome are: in the ring, on a desk, or about to be put back or reported."""
        found: dict[tuple[int, int], int] = {}

        def add(batch: Batch, begin: int, to: int) -> None:
            for i in range(begin, to):
                call = batch.job, batch.first + i
                found[call] = found.get(call, 0) + 1

        for batch in self.ring:
            add(batch, batch.begin, batch.to)
        for rank in self.processes:
            desk = self.desks[rank]
            if desk.batch:
                add(desk.batch, desk.done, desk.batch.to)
        for action in self.todo:
            if isinstance(action, msg.Requeue):
                batch = self.desks[action.rank].batch
                assert batch is not None
                add(batch, action.begin, action.to)
            elif isinstance(action, msg.Report) and action.kind in (LOST, TIMEOUT, CANCELLED):
                call = action.job, action.index
                found[call] = found.get(call, 0) + 1
        return found

    def finish(self) -> None:
        """Everybody goes on until all has ended."""
        for _ in range(10_000):
            self.work_off()
            if self.over:
                return
            moved = False
            for process in list(self.processes.values()):
                if process.phase == "dead":
                    self.collect(process)
                    self.work_off()
                    moved = True
                else:
                    moved = self.advance(process) or moved
            wake_at = self.machine.wake_at
            if wake_at is not None and (wake_at <= self.now or not moved):
                self.now = max(self.now, wake_at)
                self.look()
                moved = True
            assert moved or self.over, "everybody sleeps"
        raise AssertionError("it does not end")
