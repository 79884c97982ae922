"""The state machine of a pool's supervisor: every order of events, death included, against a model of the pool
(poolmodel.py). Actions are carried out one by one, so that workers go on, or die, between any two of them."""

from __future__ import annotations

import pytest

from poolmodel import Pool, Process
from processing import supervisionmessages as msg
from processing.supervision import MS, Supervision
from processing.supervisionmessages import BROKEN, LOST

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule  # noqa: E402


class Lives(RuleBasedStateMachine):
    @initialize(processes=st.integers(1, 4), limit=st.sampled_from([0, 1000]))
    def begin(self, processes: int, limit: int) -> None:
        self.pool = Pool(processes, limit)
        self.pool.tell(msg.Begin(self.pool.now, {}, False))
        self.pool.work_off()

    def pick(self, number: int) -> Process | None:
        processes = sorted(self.pool.processes.values(), key=lambda process: process.rank)
        return processes[number % len(processes)] if processes else None

    @rule(
        size=st.integers(1, 5),
        retries=st.sampled_from([0, 0, 1, 2]),
        timeout=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    )
    def submit(self, size: int, retries: int, timeout: float) -> None:
        if not self.pool.closed and not self.pool.machine.closing:
            self.pool.submit(size, retries, timeout)

    @rule(number=st.integers(0, 9), steps=st.integers(1, 6))
    def work(self, number: int, steps: int) -> None:
        for _ in range(steps):
            if (process := self.pick(number)) is not None:
                self.pool.advance(process)

    @rule(rounds=st.integers(1, 30))
    def everybody_works(self, rounds: int) -> None:
        for _ in range(rounds):
            for process in self.pool.processes.values():
                self.pool.advance(process)

    @rule(number=st.integers(0, 9))
    def fail_or_leave(self, number: int) -> None:
        if (process := self.pick(number)) is not None:
            self.pool.advance(process, fail=True, leave=True)

    @rule(number=st.integers(0, 9), code=st.sampled_from([-9, -11, 0, 3]))
    def die(self, number: int, code: int) -> None:
        if (process := self.pick(number)) is not None and process.phase != "dead":
            self.pool.die(process, code)

    @rule()
    def notice_deaths(self) -> None:
        for process in list(self.pool.processes.values()):
            if process.phase == "dead":
                self.pool.collect(process)

    @rule(steps=st.integers(1, 4))
    def carry_out(self, steps: int) -> None:
        for _ in range(steps):
            if self.pool.todo:
                self.pool.step()

    @rule()
    def carry_out_all(self) -> None:
        self.pool.work_off()

    @rule(later=st.sampled_from([0, 10 * MS, 30 * MS, 60 * MS, 2000 * MS]))
    def time_passes(self, later: int) -> None:
        self.pool.now += later
        wake_at = self.pool.machine.wake_at
        if wake_at is not None and wake_at <= self.pool.now:
            self.pool.look()

    @rule(number=st.integers(1, 30), index=st.one_of(st.none(), st.integers(0, 4)))
    def cancel(self, number: int, index: int | None) -> None:
        pool = self.pool
        if pool.jobs:
            job = (number - 1) % len(pool.jobs) + 1
            pool.unwanted.add((job, index))
            pool.dropped.discard((job, index))
            pool.tell(msg.Cancel(pool.now, job, index, len(pool.ring), pool.view()))

    @rule()
    def forget(self) -> None:
        pool = self.pool
        for job, index in sorted(pool.marks, key=str):
            if all(pool.outcomes[call] for call in pool.calls_of(job, index)):
                pool.tell(msg.Forgotten(pool.now, job, index))

    @rule(number=st.integers(0, 3), size=st.sampled_from([500, 5000]))
    def use_memory(self, number: int, size: int) -> None:
        self.pool.memory[number] = size

    @rule(hits=st.lists(st.sampled_from([None, True]), max_size=3))
    def some_do_not_stop(self, hits: list[bool | None]) -> None:
        self.pool.hits = hits

    @rule(times=st.integers(0, 4))
    def no_processes(self, times: int) -> None:
        self.pool.refuse = times

    @rule(processes=st.integers(1, 5))
    def resize(self, processes: int) -> None:
        self.pool.tell(msg.Resize(self.pool.now, processes))

    @precondition(lambda self: len(self.pool.jobs) > 2)
    @rule()
    def close(self) -> None:
        self.pool.tell(msg.Close(self.pool.now, len(self.pool.ring)))

    @precondition(lambda self: len(self.pool.jobs) > 4)
    @rule()
    def terminate(self) -> None:
        self.pool.terminated = True
        self.pool.tell(msg.Terminate(self.pool.now))

    @precondition(lambda self: len(self.pool.jobs) > 1 and not self.pool.todo and not self.pool.machine.ended)
    @rule()
    def the_supervisor_is_killed(self) -> None:
        """With nothing half done, so nothing may be done twice."""
        pool = self.pool
        closing = pool.machine.closing
        pool.terminated = pool.terminated or pool.machine.terminating
        for process in list(pool.processes.values()):
            if process.phase != "dead":
                pool.die(process, -9)
            process.exitcode = None  # nobody knows
            process.hit = False
            pool.last_dead[process.rank] = process
        pool.processes.clear()
        pool.machine = Supervision(pool.machine.wanted, pool.machine.memory_limit)
        found = {rank: desk.view() for rank, desk in pool.desks.items() if desk.state != "empty"}
        pool.tell(msg.Begin(pool.now, found, pool.watching))
        if pool.said is not None:
            pool.tell(msg.Watch(pool.now, pool.said))
        if closing:
            pool.tell(msg.Close(pool.now, len(pool.ring)))
        pool.dropped |= pool.unwanted  # what is cancelled has to be said again
        pool.marks.clear()
        if pool.terminated:
            pool.tell(msg.Terminate(pool.now))

    @invariant()
    def every_call_is_somewhere_once(self) -> None:
        pool = getattr(self, "pool", None)
        if pool is None or pool.terminated or pool.machine.terminating:
            return
        places = pool.places()
        for call, outcomes in pool.outcomes.items():
            assert places.pop(call, 0) == 1 - len(outcomes), f"{call}: {outcomes}"
        assert not places

    @invariant()
    def deadlines_are_looked_after(self) -> None:
        pool = getattr(self, "pool", None)
        if pool is None or pool.todo or pool.machine.terminating:
            return
        for rank, process in pool.processes.items():
            desk = pool.desks[rank]
            worker = pool.machine.workers[rank]
            if process.phase != "dead" and desk.running and desk.deadline:
                due = pool.machine.wake_at
                watched = due is not None and due <= max(desk.deadline, pool.now)
                assert watched or worker.strike or worker.doom, "nobody looks after that deadline"

    @invariant()
    def nothing_is_forgotten(self) -> None:
        pool = getattr(self, "pool", None)
        if pool is None or pool.todo or pool.machine.terminating or pool.machine.ended:
            return
        for worker in pool.machine.workers.values():
            assert worker.strike is None or worker.again_at is not None, "a strike without an end"
        assert pool.unwanted == pool.marks | pool.machine.unkept.keys() | pool.dropped

    @invariant()
    def restarts_are_bounded(self) -> None:
        pool = getattr(self, "pool", None)
        if pool is not None:
            assert pool.starts <= pool.deaths + 5
            assert len(pool.processes) <= 5

    def teardown(self) -> None:
        pool = getattr(self, "pool", None)
        if pool is None:
            return
        pool.refuse = 0
        pool.hits = []
        pool.memory = {}
        pool.work_off()
        pool.tell(msg.Close(pool.now, len(pool.ring)))
        pool.finish()
        pool.machine.validate()
        for event in (msg.Close(pool.now, 0), msg.Terminate(pool.now), msg.Resize(pool.now, 3)):
            assert pool.machine.handle(event) == []
        assert pool.machine.wake_at is None
        if not pool.terminated and not pool.broken:
            for call, outcomes in pool.outcomes.items():
                assert len(outcomes) == 1, f"{call}: {outcomes}"
        assert all(times <= 3 for times in pool.begun.values()), "more retries than were asked for"


TestLives = pytest.mark.once(Lives.TestCase)
TestLives.settings = hypothesis.settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


# ---- One by one -----------------------------------------------------------------------------------------------------


class Shell:
    """A pool of the model in which everything is done at once."""

    def __init__(self, processes: int, memory_limit: int = 0) -> None:
        self.pool = Pool(processes, memory_limit)
        self.tell(msg.Begin(self.pool.now, {}, False))

    def tell(self, event: msg.Message) -> None:
        self.pool.tell(event)
        self.pool.work_off()

    def advance(self, rank: int, times: int = 1, **options: bool) -> None:
        for _ in range(times):
            self.pool.advance(self.pool.processes[rank], **options)

    def run_one(self, rank: int) -> None:
        """That worker becomes ready, takes a batch and begins its first call."""
        self.advance(rank, 4)
        assert self.pool.desks[rank].running

    def kill(self, rank: int, code: int = -9, oom: bool = False) -> None:
        process = self.pool.processes[rank]
        self.pool.die(process, code)
        self.collect(rank, oom)

    def collect(self, rank: int, oom: bool = False) -> None:
        self.pool.collect(self.pool.processes[rank], oom)
        self.pool.work_off()

    def look(self, later: int = 0) -> None:
        self.pool.now += later
        self.pool.look()
        self.pool.work_off()

    def cancel(self, job: int, index: int | None) -> None:
        pool = self.pool
        pool.unwanted.add((job, index))
        self.tell(msg.Cancel(pool.now, job, index, len(pool.ring), pool.view()))

    def fail(self, rank: int) -> None:
        self.advance(rank, 2, fail=True)
        self.collect(rank)


def test_only_the_running_call_is_lost() -> None:
    shell = Shell(1)
    shell.pool.submit(8, 0, 0.0)
    shell.run_one(0)
    shell.advance(0, 2)  # call 0 ends, call 1 begins
    shell.kill(0, -11)
    assert {call for call, outcome in shell.pool.outcomes.items() if outcome == ["LOST"]} == {(1, 1)}
    assert shell.pool.outcomes[1, 0] == ["DONE"]
    assert [(batch.first + batch.begin, batch.first + batch.to) for batch in shell.pool.ring] == [
        (4, 8),
        (2, 4),
    ]
    assert shell.pool.starts == 2


def test_a_call_that_kills_is_tried_again_and_then_set_aside() -> None:
    shell = Shell(1)
    shell.pool.submit(1, 2, 0.0)
    for attempt in range(3):
        assert [batch.attempt for batch in shell.pool.ring] == [attempt]
        shell.run_one(0)
        shell.kill(0)
    assert shell.pool.outcomes[1, 0] == ["LOST"] and not shell.pool.ring


def test_an_initializer_that_fails_is_tried_three_times() -> None:
    shell = Shell(1)
    shell.fail(0)
    assert shell.pool.starts == 2, "the first successor comes at once"
    shell.fail(0)
    assert shell.pool.starts == 2 and shell.pool.machine.wake_at == shell.pool.now + 100 * MS
    shell.look(100 * MS)
    assert shell.pool.starts == 3
    shell.fail(0)
    assert shell.pool.broken and shell.pool.over


def test_failures_count_in_a_row_only() -> None:
    shell = Shell(2)
    for _ in range(5):
        shell.look(2000 * MS)
        shell.fail(0)
        shell.advance(1, 2)  # ready
        shell.kill(1)
    assert not shell.pool.broken


def test_the_death_of_a_starting_worker_is_a_failure_that_says_how_it_died() -> None:
    shell = Shell(1)
    said = []
    shell.pool.report = lambda action: said.append(action)  # type: ignore[method-assign]
    for _ in range(3):
        if 0 not in shell.pool.processes:
            shell.look(2000 * MS)
        shell.kill(0, -11)
    [broken] = [action for action in said if action.kind == BROKEN]
    assert "killed by SIGSEGV before it was ready" in broken.payload["traceback"]
    assert shell.pool.over


def test_workers_that_are_killed_before_they_are_ready() -> None:
    """By somebody else: the tenth in a row ends the pool. By the system for want of memory: the third."""
    shell = Shell(1)
    for kills in range(10):
        assert not shell.pool.broken and shell.pool.starts == 1 + kills
        shell.kill(0)
        shell.look(2000 * MS)
    assert shell.pool.broken and shell.pool.over
    shell = Shell(1)
    for kills in range(3):
        assert not shell.pool.broken and shell.pool.starts == 1 + kills
        shell.kill(0, oom=True)
        shell.look(2000 * MS)
    assert shell.pool.broken and shell.pool.over


def test_processes_that_cannot_be_made() -> None:
    """While others work that is no reason to give up; if nobody can work it is, after three rounds."""
    shell = Shell(2)
    shell.advance(0, 2)
    shell.pool.refuse = 5
    shell.kill(1)
    for _ in range(4):
        shell.look(1000 * MS)
    assert shell.pool.refuse == 0 and not shell.pool.broken
    shell.look(1000 * MS)
    assert len(shell.pool.processes) == 2
    alone = Pool(2)
    alone.refuse = 100
    alone.tell(msg.Begin(alone.now, {}, False))
    for _ in range(3):
        alone.work_off()
        assert not alone.terminated
        alone.now += 1000 * MS
        alone.look()
    alone.work_off()
    assert alone.broken and alone.over and alone.refused == 6


def test_workers_that_die_idle_again_and_again_are_replaced_more_slowly() -> None:
    shell = Shell(1)
    while shell.pool.processes:
        shell.advance(0, 2)
        shell.kill(0)
        assert shell.pool.starts < 10
    assert shell.pool.machine.wake_at is not None and not shell.pool.broken


def test_a_call_is_stopped_when_its_time_is_over() -> None:
    shell = Shell(2)
    shell.pool.submit(4, 2, 1.0)
    shell.pool.work_off()
    shell.run_one(0)
    assert shell.pool.watching
    while shell.pool.processes[0].phase != "dead":
        wake_at = shell.pool.machine.wake_at
        assert wake_at is not None
        shell.look(wake_at - shell.pool.now)
    assert shell.pool.now == shell.pool.last_begun + 1000 * MS
    shell.collect(0)
    assert shell.pool.outcomes[1, 0] == ["TIMEOUT"], "no retries for that"
    assert (1, 1) in shell.pool.places()


def test_one_that_does_not_stop_is_tried_again() -> None:
    shell = Shell(1)
    shell.pool.submit(1, 0, 0.0)
    shell.run_one(0)
    shell.pool.hits = [None]
    shell.cancel(1, 0)
    assert shell.pool.processes[0].phase == "alive"
    shell.look(50 * MS)
    shell.collect(0)
    assert shell.pool.outcomes[1, 0] == ["CANCELLED"] and not shell.pool.marks


def test_a_strike_that_comes_too_late_harms_nobody() -> None:
    shell = Shell(1)
    shell.pool.submit(4, 0, 0.0)
    shell.run_one(0)
    shell.pool.unwanted.add((1, 0))
    shell.pool.tell(msg.Cancel(shell.pool.now, 1, 0, 1, shell.pool.view()))
    shell.pool.step()  # Mark: the call runs
    shell.advance(0, 2)  # and ends, the next one runs
    shell.pool.work_off()
    assert shell.pool.processes[0].phase == "alive" and shell.pool.desks[0].running
    assert shell.pool.outcomes[1, 0] == ["DONE"]


def test_no_room_for_a_mark() -> None:
    shell = Shell(1)
    for _ in range(3):
        shell.pool.submit(1, 0, 0.0)
    for job in (1, 2, 3):
        shell.cancel(job, 0)
    assert shell.pool.marks == {(1, 0), (2, 0)}
    shell.advance(0, 5)  # ready, skips the first
    shell.tell(msg.Forgotten(shell.pool.now, 1, 0))
    shell.look(50 * MS)
    assert shell.pool.marks == {(2, 0), (3, 0)}
    shell.advance(0, 12)
    assert [shell.pool.outcomes[job, 0] for job in (1, 2, 3)] == [["CANCELLED"]] * 3
    shell.pool.submit(1, 0, 0.0)
    shell.advance(0, 4)
    shell.cancel(4, 0)
    assert shell.pool.outcomes[4, 0] == ["DONE"]
    assert shell.pool.marks == {(4, 0)}, "the others could not be anywhere any more"


def test_the_memory_limit() -> None:
    shell = Shell(1, 1000)
    shell.pool.submit(2, 0, 0.0)
    shell.pool.work_off()
    shell.run_one(0)
    assert shell.pool.machine.wake_at == shell.pool.now + 100 * MS
    shell.pool.memory[0] = 1001
    said = []
    report = shell.pool.report
    shell.pool.report = lambda action: (said.append(action), report(action))[1]  # type: ignore[method-assign]
    shell.look(100 * MS)
    shell.collect(0)
    [lost] = [action for action in said if action.kind == LOST]
    assert lost.payload["reason"] == "memory limit" and lost.payload["signal"] == 9


def test_an_idle_pool_is_not_looked_after() -> None:
    shell = Shell(1)
    shell.pool.submit(2, 0, 0.5)
    shell.pool.work_off()
    shell.advance(0, 12)
    assert all(outcome == ["DONE"] for outcome in shell.pool.outcomes.values())
    shell.look(500 * MS)
    assert not shell.pool.watching and shell.pool.machine.wake_at is None


def test_a_call_put_while_the_supervisor_stops_looking() -> None:
    """The caller has seen `watching` and said nothing."""
    shell = Shell(1)
    shell.pool.submit(1, 0, 0.5)
    shell.pool.work_off()
    shell.advance(0, 6)
    shell.pool.now += 500 * MS
    shell.pool.look()  # idle
    shell.pool.submit(1, 0, 0.5)
    assert [type(action) for action in shell.pool.todo] == [msg.SetWatching, msg.LookAgain]
    shell.pool.work_off()
    assert shell.pool.watching and shell.pool.machine.wake_at == shell.pool.now + 500 * MS


def test_a_word_of_the_caller_while_the_supervisor_stops_looking() -> None:
    shell = Shell(1)
    shell.pool.submit(1, 0, 0.5)
    shell.pool.work_off()
    shell.advance(0, 6)
    shell.pool.now += 500 * MS
    shell.pool.look()
    shell.pool.step()  # watching is off
    shell.tell(msg.Watch(shell.pool.now, 1.0))  # of a call that is about to be put
    assert shell.pool.watching and shell.pool.machine.wake_at is not None


def test_the_smallest_timeout_is_never_forgotten() -> None:
    """The caller says no timeout that is not smaller than all before."""
    shell = Shell(1)
    shell.tell(msg.Watch(shell.pool.now, 0.05))
    shell.look(50 * MS)
    assert not shell.pool.watching
    shell.tell(msg.Watch(shell.pool.now, 1.0))
    assert shell.pool.machine.wake_at == shell.pool.now + 50 * MS


def test_resize() -> None:
    shell = Shell(2)
    shell.tell(msg.Resize(shell.pool.now, 4))
    assert shell.pool.processes.keys() == {0, 1, 2, 3}
    for rank in range(4):
        shell.advance(rank, 2)
    shell.tell(msg.Resize(shell.pool.now, 1))
    for rank in (1, 2, 3):
        shell.advance(rank)
        shell.collect(rank)
    assert shell.pool.processes.keys() == {0}
    shell.tell(msg.Resize(shell.pool.now, 2))
    assert shell.pool.processes.keys() == {0, 1}


def test_a_retired_one_is_wanted_again_before_it_has_left() -> None:
    shell = Shell(2)
    shell.advance(1, 2)
    shell.tell(msg.Resize(shell.pool.now, 1))
    shell.tell(msg.Resize(shell.pool.now, 2))
    shell.advance(1)
    shell.collect(1)
    assert shell.pool.processes.keys() == {0, 1} and not shell.pool.desks[1].retire


def test_a_worker_dies_while_the_pool_closes() -> None:
    """All others have left already, and it was to retire: its calls are run all the same."""
    shell = Shell(2)
    shell.pool.submit(4, 0, 0.0)
    shell.advance(0, 2)
    shell.run_one(1)
    shell.advance(0, 99)  # the other half
    shell.tell(msg.Resize(shell.pool.now, 1))
    shell.tell(msg.Close(shell.pool.now, 0))
    shell.advance(0)
    shell.collect(0)
    assert shell.pool.processes.keys() == {1}
    shell.kill(1)
    assert shell.pool.processes.keys() == {0}
    shell.pool.finish()
    assert sorted(outcome for [outcome] in shell.pool.outcomes.values()) == ["DONE", "DONE", "DONE", "LOST"]


def test_terminate() -> None:
    shell = Shell(2)
    shell.tell(msg.Terminate(shell.pool.now))
    assert shell.pool.machine.wake_at == shell.pool.now + 500 * MS
    shell.pool.die(shell.pool.processes[0], -15)
    shell.collect(0)
    shell.look(500 * MS)
    assert shell.pool.processes[1].exitcode == -9 and not shell.pool.over
    shell.collect(1)
    assert shell.pool.over


def test_kinds_of_reports() -> None:
    from processing import jobs

    for name in ("LOST", "TIMEOUT", "CANCELLED", "BROKEN", "WORKER"):
        assert getattr(msg, name) == getattr(jobs, name)
