"""Locks and their kin of a manager's server: each promise, and every order of events against simple models."""

from __future__ import annotations

import threading
from threading import BrokenBarrierError
from typing import Any

import pytest

from processing.errors import LockOwnerDied
from processing.managedsync import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
from test_managedqueue import FALSE, SETTINGS, TRUE, Clients, Owner, Request, Timeout, World

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import initialize, invariant, rule  # noqa: E402

pytestmark = pytest.mark.once

DIED = ("raised", LockOwnerDied)
BROKEN = ("raised", BrokenBarrierError)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=[Lock, RLock])
def lock(request: pytest.FixtureRequest, world: World) -> Any:
    return request.param(timers=world.timers)


# ---- Locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_goes_to_those_who_wait_in_their_order(world: World, lock: Any) -> None:
    assert world.go(lock, "acquire", "a1") is True
    waiters = [world.ask(lock, "acquire", owner) for owner in ("a2", "b1", "c1")]
    assert world.go(lock, "locked", "z1") is True
    holder = "a1"
    for waiter in waiters:
        assert waiter.outcome is None
        assert world.go(lock, "release", holder) is None
        assert waiter.outcome == TRUE
        holder = waiter.owner
    world.go(lock, "release", holder)
    assert world.go(lock, "locked", "z1") is False and not lock.holds_anything()


def test_acquire_without_blocking_and_with_a_timeout(world: World, lock: Any) -> None:
    world.go(lock, "acquire", "a1")
    assert world.go(lock, "acquire", "b1", False) is False
    assert world.go(lock, "acquire", "b1", True, 0) is False
    late = world.ask(lock, "acquire", "b1", True, 2.0)
    later = world.ask(lock, "acquire", "c1", timeout=3.0)
    forever = [world.ask(lock, "acquire", "d1", True, -1), world.ask(lock, "acquire", "e1", timeout=None)]
    assert world.timers.next() == 102.0 and late.deadline == 102.0 and late.waiting_at is lock
    world.wait(1.9)
    assert late.outcome is None
    world.wait(0.1)
    assert late.outcome == FALSE and later.outcome is None
    world.wait(1000)
    assert later.outcome == FALSE and [request.outcome for request in forever] == [None, None]
    assert world.timers.next() is None
    world.go(lock, "release", "a1")
    assert forever[0].outcome == TRUE


def test_errors_of_acquire_and_release_are_those_of_threading(world: World, lock: Any) -> None:
    std = threading.Lock() if isinstance(lock, Lock) else threading.RLock()
    for args in [(False, 1), (False, 0), (True, -2), (True, "1"), (True, threading.TIMEOUT_MAX * 2)]:
        with pytest.raises(Exception) as error:
            std.acquire(*args)
        assert world.ask(lock, "acquire", "a1", *args).outcome == ("raised", type(error.value)), args
    assert world.ask(lock, "acquire", "a1", True, float("nan")).outcome == ("raised", ValueError)
    with pytest.raises(RuntimeError) as error:
        std.release()
    with pytest.raises(RuntimeError, match=str(error.value)):
        world.go(lock, "release", "a1")
    assert world.go(lock, "acquire", "a1", False, -1) is True


def test_anybody_releases_a_lock_and_only_its_owner_an_rlock(world: World) -> None:
    lock, rlock = Lock(timers=world.timers), RLock(timers=world.timers)
    world.go(lock, "acquire", "a1")
    world.go(lock, "release", "b1")
    assert world.go(lock, "locked", "a1") is False
    world.go(rlock, "acquire", "a1")
    assert world.go(rlock, "acquire", "a1", True, 5) is True
    assert world.go(rlock, "acquire", "a1", False) is True
    assert world.go(rlock, "acquire", "a2", False) is False
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        world.go(rlock, "release", "a2")
    for locked in (True, True, False):
        world.go(rlock, "release", "a1")
        assert world.go(rlock, "locked", "b1") is locked


def test_a_killed_owner_is_told_once_and_the_lock_is_free(world: World, lock: Any) -> None:
    world.go(lock, "acquire", "a1")
    lock.process_gone("a", True)
    assert world.go(lock, "locked", "b1") is False
    assert world.ask(lock, "acquire", "b1", False).outcome == DIED
    assert world.go(lock, "locked", "b1") is False
    assert world.go(lock, "acquire", "b1") is True


def test_the_first_who_waits_is_told_and_the_second_gets_the_lock(world: World, lock: Any) -> None:
    world.go(lock, "acquire", "a1")
    first, second, third = (world.ask(lock, "acquire", owner) for owner in ("b1", "c1", "d1"))
    lock.process_gone("a", True)
    assert (first.outcome, second.outcome, third.outcome) == (DIED, TRUE, None)


def test_lock_owner_died_has_the_name_and_the_pid(world: World) -> None:
    class Process:
        pid = 4711

    lock = Lock(timers=world.timers, name="table")
    process = Process()
    call = Request(world, "a1")
    call.process = process
    lock.acquire(call)
    lock.process_gone(process, True)
    request = world.ask(lock, "acquire", "b1")
    assert isinstance(request.error, LockOwnerDied)
    assert (request.error.name, request.error.pid) == ("table", 4711)
    assert "process 4711 died while it held Lock 'table'" in str(request.error)


def test_orderly_ends(world: World) -> None:
    lock, rlock = Lock(timers=world.timers), RLock(timers=world.timers)
    for end in ("owner_gone", "process_gone"):
        for at in (lock, rlock):
            world.go(at, "acquire", "a1")
        world.go(rlock, "acquire", "a1")
        waiting = world.ask(rlock, "acquire", "b1")
        for at in (lock, rlock):
            at.owner_gone("a1") if end == "owner_gone" else at.process_gone("a", False)
        assert waiting.outcome == TRUE
        assert world.go(lock, "locked", "b1") is True
        world.go(lock, "release", "b1")
        world.go(rlock, "release", "b1")


def test_a_lock_that_was_left_locked_in_good_order_does_not_die_later(world: World) -> None:
    lock = Lock(timers=world.timers)
    world.go(lock, "acquire", "a1")
    lock.process_gone("a", False)
    lock.process_gone("a", True)  # another process of that name
    assert world.go(lock, "locked", "b1") is True


def test_calls_that_are_forgotten_get_no_answer(world: World, lock: Any) -> None:
    world.go(lock, "acquire", "a1")
    gone, dead, stays = (world.ask(lock, "acquire", owner, True, 5) for owner in ("b1", "c1", "d1"))
    lock.forget(gone)
    lock.forget(gone)
    lock.process_gone("c", True)
    assert (gone.waiting_at, gone.deadline, dead.waiting_at) == (None, None, None)
    world.go(lock, "release", "a1")
    assert stays.outcome == TRUE and gone.outcome is None and dead.outcome is None


def test_a_lock_that_cannot_be_delivered_goes_to_the_next(world: World, lock: Any) -> None:
    world.go(lock, "acquire", "a1")
    dead, alive = world.ask(lock, "acquire", "b1"), world.ask(lock, "acquire", "c1")
    world.unreachable.add("b")
    world.go(lock, "release", "a1")
    assert world.undelivered == [dead] and alive.outcome == TRUE
    last = world.ask(lock, "acquire", "b2")
    lock.process_gone("c", True)
    assert last.outcome is None and world.ask(lock, "acquire", "d1").outcome == DIED


# ---- Conditions -----------------------------------------------------------------------------------------------------


def test_a_notified_waiter_is_answered_when_it_has_the_lock(world: World, lock: Any) -> None:
    condition = Condition(lock, timers=world.timers)
    waiters = []
    for owner in ("a1", "b1", "c1"):
        world.go(condition, "acquire", owner)
        waiters.append(world.ask(condition, "wait", owner))
    world.go(lock, "acquire", "d1")
    assert world.go(condition, "notify", "d1", 2) is None
    assert [waiter.outcome for waiter in waiters] == [None] * 3
    world.go(lock, "release", "d1")
    assert [waiter.outcome for waiter in waiters] == [TRUE, None, None]
    world.go(condition, "notify_all", "a1")
    for owner in ("a1", "b1", "c1"):
        world.go(condition, "release", owner)
    assert world.order == waiters and not condition.holds_anything()


def test_wait_restores_the_count_of_an_rlock(world: World) -> None:
    condition = Condition(timers=world.timers)
    for _ in range(3):
        world.go(condition, "acquire", "a1")
    waiter = world.ask(condition, "wait", "a1")
    world.go(condition, "acquire", "b1")
    world.go(condition, "notify", "b1")
    world.go(condition, "release", "b1")
    assert waiter.outcome == TRUE
    assert world.go(condition, "wait", "a1", 0) is False
    for _ in range(3):
        assert world.go(condition, "acquire", "b1", False) is False
        world.go(condition, "release", "a1")
    assert world.go(condition, "acquire", "b1", False) is True


def test_wait_and_notify_need_the_lock(world: World, lock: Any) -> None:
    condition = Condition(lock, timers=world.timers)
    for _ in range(2):
        for method in ("wait", "notify", "notify_all"):
            with pytest.raises(RuntimeError, match="un-acquired lock"):
                world.go(condition, method, "a1")
        world.go(lock, "acquire", "b1", False)  # now somebody else has it
    with pytest.raises(TypeError, match="managed Lock or RLock, not int"):
        Condition(3, timers=world.timers)  # type: ignore[arg-type]


def test_a_wait_that_times_out_takes_the_lock_before_it_answers(world: World, lock: Any) -> None:
    condition = Condition(lock, timers=world.timers)
    world.go(lock, "acquire", "a1")
    waiter = world.ask(condition, "wait", "a1", 1)
    assert waiter.deadline == 101
    world.go(lock, "acquire", "b1")
    world.wait(1)
    assert waiter.outcome is None and waiter.deadline is None and waiter.waiting_at is lock
    world.go(condition, "notify", "b1")  # too late
    world.go(lock, "release", "b1")
    assert waiter.outcome == FALSE
    behind = world.ask(lock, "acquire", "b1")
    again = world.ask(condition, "wait", "a1", 0)
    assert behind.outcome == TRUE and again.outcome is None
    world.go(lock, "release", "b1")
    assert again.outcome == FALSE


@pytest.mark.parametrize("end", ["killed", "ended", "forgotten", "unreachable"])
@pytest.mark.parametrize("lock_first", [False, True])
def test_a_notified_waiter_that_goes_passes_the_notification_on(
    world: World, lock: Any, end: str, lock_first: bool
) -> None:
    condition = Condition(lock, timers=world.timers)
    waiters = []
    for owner in ("a1", "a2", "b1"):
        world.go(lock, "acquire", owner)
        waiters.append(world.ask(condition, "wait", owner))
    world.go(lock, "acquire", "c1")
    world.go(condition, "notify", "c1")
    if end == "forgotten":
        condition.forget(waiters[0])
        condition.forget(waiters[1])
    elif end == "unreachable":
        world.unreachable.add("a")
    else:
        for at in (lock, condition) if lock_first else (condition, lock):
            at.process_gone("a", end == "killed")
    world.go(lock, "release", "c1")
    assert waiters[0].outcome is waiters[1].outcome is None and waiters[2].outcome == TRUE


def test_out_of_wait_comes_lock_owner_died_with_the_lock_held(world: World, lock: Any) -> None:
    condition = Condition(lock, timers=world.timers)
    world.go(lock, "acquire", "a1")
    waiter = world.ask(condition, "wait", "a1")
    world.go(lock, "acquire", "b1")
    world.go(condition, "notify", "b1")
    condition.process_gone("b", True)
    lock.process_gone("b", True)
    assert waiter.outcome == DIED and world.go(lock, "locked", "a1") is True
    world.go(condition, "release", "a1")


def test_two_conditions_share_a_lock(world: World, lock: Any) -> None:
    one, two = Condition(lock, timers=world.timers), Condition(lock, timers=world.timers)
    world.go(one, "acquire", "a1")
    waiter = world.ask(one, "wait", "a1")
    world.go(two, "acquire", "b1")
    world.go(two, "notify_all", "b1")
    world.go(two, "release", "b1")
    assert waiter.outcome is None
    world.go(two, "acquire", "b1")
    world.go(one, "notify", "b1")
    world.go(one, "release", "b1")
    assert waiter.outcome == TRUE


# ---- Semaphores, events, barriers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
def test_semaphores(world: World, kind: Any) -> None:
    std = getattr(threading, kind.__name__)
    with pytest.raises(ValueError) as error:
        std(-1)
    with pytest.raises(ValueError, match=str(error.value)):
        kind(-1, timers=world.timers)
    semaphore = kind(2, timers=world.timers)
    assert world.go(semaphore, "acquire", "a1") is True
    assert world.go(semaphore, "acquire", "a1", True, 1) is True
    assert world.go(semaphore, "acquire", "a1", False) is False
    assert world.go(semaphore, "acquire", "a1", True, 0) is False
    assert world.ask(semaphore, "acquire", "a1", False, 1).outcome == ("raised", ValueError)
    assert world.ask(semaphore, "release", "a1", 0).outcome == ("raised", ValueError)
    late = world.ask(semaphore, "acquire", "b1", True, 1)
    waiters = [world.ask(semaphore, "acquire", owner) for owner in ("c1", "d1", "e1")]
    world.wait(1)
    world.unreachable.add("c")
    world.go(semaphore, "release", "a1", 2)
    assert late.outcome == FALSE and [waiter.outcome for waiter in waiters] == [None, TRUE, TRUE]
    world.go(semaphore, "release", "d1", 2)
    if kind is BoundedSemaphore:
        assert not semaphore.holds_anything()
        with pytest.raises(ValueError, match="Semaphore released too many times"):
            world.go(semaphore, "release", "d1")
    else:
        world.go(semaphore, "release", "d1")
        assert semaphore._value == 3


def test_permits_of_a_killed_process_come_back_to_a_bounded_semaphore(world: World) -> None:
    semaphore = BoundedSemaphore(3, timers=world.timers)
    for owner in ("a1", "a2", "b1"):
        world.go(semaphore, "acquire", owner)
    waiters = [world.ask(semaphore, "acquire", owner) for owner in ("c1", "a3", "d1", "e1")]
    semaphore.process_gone("a", True)
    assert [waiter.outcome for waiter in waiters] == [TRUE, None, TRUE, None]
    semaphore.process_gone("b", False)  # in good order: still taken, anybody may release
    semaphore.process_gone("b", True)
    assert waiters[3].outcome is None
    world.go(semaphore, "release", "z1")
    assert waiters[3].outcome == TRUE
    for process in "cde":
        semaphore.process_gone(process, True)
    assert semaphore._value == 3 and not semaphore.holds_anything()


def test_permits_of_a_semaphore_do_not_come_back(world: World) -> None:
    semaphore = Semaphore(timers=world.timers)
    world.go(semaphore, "acquire", "a1")
    semaphore.process_gone("a", True)
    assert world.go(semaphore, "acquire", "b1", False) is False


def test_an_event_that_is_set_and_cleared_releases_all_who_waited(world: World) -> None:
    event = Event(timers=world.timers)
    assert world.go(event, "wait", "a1", 0) is False and world.go(event, "wait", "a1", -1) is False
    late, one, two = (
        world.ask(event, "wait", f"{name}1", timeout) for name, timeout in (("a", 1), ("b", 9), ("c", None))
    )
    world.wait(1)
    world.go(event, "set", "z1")
    assert world.go(event, "is_set", "z1") is True and world.go(event, "wait", "z1", 0) is True
    world.go(event, "clear", "z1")
    assert (late.outcome, one.outcome, two.outcome) == (FALSE, TRUE, TRUE)
    assert world.go(event, "is_set", "z1") is False and world.ask(event, "wait", "z1").outcome is None


def test_a_barrier_gives_each_its_index_after_the_action(world: World) -> None:
    seen: list[int] = []
    barrier = Barrier(3, lambda: seen.append(len(world.order)), timers=world.timers)
    for turn in range(2):
        early = [world.ask(barrier, "wait", owner) for owner in ("a1", "b1")]
        assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 2, False)
        assert [world.go(barrier, f"_get_{name}", "z1") for name in ("parties", "n_waiting", "broken")] == [
            3,
            2,
            False,
        ]
        assert world.go(barrier, "wait", "c1") == 2
        assert [request.outcome for request in early] == [("returned", 0), ("returned", 1)]
        assert seen == [0, 2][: turn + 1] and barrier.n_waiting == 0
    with pytest.raises(ValueError):
        Barrier(0, timers=world.timers)


def test_a_barrier_breaks(world: World) -> None:
    def action() -> None:
        raise KeyError("action")

    barrier = Barrier(2, action, timeout=5, timers=world.timers)

    def broken_by(what: Any) -> None:
        waiter = world.ask(barrier, "wait", "a1")
        what(waiter)
        assert barrier.broken and waiter.outcome in (BROKEN, None)
        assert world.ask(barrier, "wait", "a1").outcome == BROKEN
        world.go(barrier, "reset", "a1")
        assert not barrier.broken

    broken_by(lambda waiter: world.wait(5))
    broken_by(lambda waiter: world.go(barrier, "abort", "b1"))
    broken_by(lambda waiter: barrier.process_gone("a", True))
    broken_by(lambda waiter: barrier.process_gone("a", False))
    broken_by(lambda waiter: barrier.owner_gone("a1"))
    broken_by(lambda waiter: barrier.forget(waiter))
    waiter = world.ask(barrier, "wait", "a1")
    with pytest.raises(KeyError):
        world.go(barrier, "wait", "b1")
    assert waiter.outcome == BROKEN and barrier.broken
    world.go(barrier, "reset", "a1")
    assert world.ask(barrier, "wait", "a1", 0).outcome == BROKEN and barrier.broken
    world.go(barrier, "reset", "a1")
    waiter = world.ask(barrier, "wait", "a1")
    barrier.process_gone("z", True)
    world.go(barrier, "reset", "b1")
    assert waiter.outcome == BROKEN and not barrier.broken and not barrier.holds_anything()


def test_only_calls_of_the_others_fail_when_an_arrival_dies(world: World) -> None:
    barrier = Barrier(4, timers=world.timers)
    dead, also, alive = (world.ask(barrier, "wait", owner) for owner in ("a1", "a2", "b1"))
    barrier.process_gone("a", True)
    assert dead.outcome is also.outcome is None and alive.outcome == BROKEN


# ---- Every order of events ------------------------------------------------------------------------------------------

LOCKS = ["lock", "rlock"]
CONDITIONS = {"x": "lock", "y": "lock", "u": "rlock", "v": "rlock"}


class Locks(Clients):
    """A Lock and an RLock with two conditions each."""

    def __init__(self) -> None:
        super().__init__()
        timers = self.world.timers
        self.at = {"lock": Lock(timers=timers), "rlock": RLock(timers=timers)}
        for name, lock in CONDITIONS.items():
            self.at[name] = Condition(self.at[lock], timers=timers)
        self.holder: dict[str, str | None] = dict.fromkeys(LOCKS)  # "": who has ended in good order
        self.count = dict.fromkeys(LOCKS, 0)
        self.died = dict.fromkeys(LOCKS, False)
        self.queue: dict[str, list[tuple[Request, str | None, int, bool]]] = {name: [] for name in LOCKS}
        self.waiting: dict[str, list[tuple[Request, int]]] = {name: [] for name in CONDITIONS}

    def grant(self, lock: str) -> None:
        while self.holder[lock] is None and self.queue[lock]:
            request, condition, count, result = self.queue[lock].pop(0)
            died = self.died[lock]
            if not self.ends(request, DIED if died else ("returned", result)):
                if condition is not None and result:
                    self.move(condition, 1)
                continue
            self.died[lock] = False
            if condition is not None or not died:
                self.holder[lock], self.count[lock] = request.owner, count  # type: ignore[assignment]

    def open(self, lock: str, died: bool = False) -> None:
        self.holder[lock], self.died[lock] = None, died
        self.grant(lock)

    def move(self, condition: str, n: int, result: bool = True) -> None:
        for request, count in self.waiting[condition][:n]:
            self.queue[CONDITIONS[condition]].append((request, condition, count, result))
        del self.waiting[condition][:n]
        self.grant(CONDITIONS[condition])

    def leave(self, gone: Any) -> None:
        """Calls that are forgotten: their notifications are passed on."""
        for condition in CONDITIONS:
            self.waiting[condition] = [entry for entry in self.waiting[condition] if not gone(entry[0])]
        for lock in LOCKS:
            left = [entry for entry in self.queue[lock] if gone(entry[0])]
            self.queue[lock] = [entry for entry in self.queue[lock] if not gone(entry[0])]
            for _, condition, _, result in left:
                if condition is not None and result:
                    self.move(condition, 1)
        self.blocked = {owner: request for owner, request in self.blocked.items() if not gone(request)}

    @rule(
        owner=Owner,
        lock=st.sampled_from(LOCKS),
        through=st.integers(0, 2),
        block=st.booleans(),
        timeout=Timeout,
    )
    def acquire(self, owner: str, lock: str, through: int, block: bool, timeout: int | None) -> None:
        if not self.free(owner):
            return
        expected: Any = None
        if self.died[lock]:
            expected = DIED
            self.died[lock] = False
        elif self.holder[lock] is None:
            expected = TRUE
            self.holder[lock], self.count[lock] = owner, 1
        elif lock == "rlock" and self.holder[lock] == owner:
            expected = TRUE
            self.count[lock] += 1
        elif not block or timeout == 0:
            expected = FALSE
        name = [lock, *[name for name, its in CONDITIONS.items() if its == lock]][through]
        request = self.request(name, "acquire", owner, expected, block, timeout if block else None)
        if expected is None:
            self.queue[lock].append((request, None, 1, True))

    @rule(owner=Owner, lock=st.sampled_from(LOCKS))
    def release(self, owner: str, lock: str) -> None:
        if not self.free(owner):
            return
        if self.holder[lock] is None or (lock == "rlock" and self.holder[lock] != owner):
            self.request(lock, "release", owner, ("raised", RuntimeError))
            return
        self.count[lock] -= 1
        if not self.count[lock]:
            self.open(lock)
        self.request(lock, "release", owner, ("returned", None))

    @rule(owner=Owner, condition=st.sampled_from(list(CONDITIONS)), timeout=Timeout, first=st.booleans())
    def wait(self, owner: str, condition: str, timeout: int | None, first: bool) -> None:
        lock = CONDITIONS[condition]
        if first:
            self.acquire(owner, lock, 0, False, None)
        if not self.free(owner):
            return
        if self.holder[lock] != owner:
            self.request(condition, "wait", owner, ("raised", RuntimeError), timeout)
            return
        count = self.count[lock]
        self.open(lock)
        if timeout == 0 and self.holder[lock] is None:
            self.holder[lock], self.count[lock] = owner, count
            self.request(condition, "wait", owner, FALSE, timeout)
            return
        request = self.request(condition, "wait", owner, None, timeout)
        if timeout == 0:
            self.queue[lock].append((request, condition, count, False))
        else:
            self.waiting[condition].append((request, count))

    @rule(owner=Owner, condition=st.sampled_from(list(CONDITIONS)), n=st.integers(0, 3), first=st.booleans())
    def notify(self, owner: str, condition: str, n: int, first: bool) -> None:
        if first:
            self.acquire(owner, CONDITIONS[condition], 0, False, None)
        if not self.free(owner):
            return
        mine = self.holder[CONDITIONS[condition]] == owner
        if mine:
            self.move(condition, n or 99)
        method, args = ("notify", [n]) if n else ("notify_all", [])
        self.request(
            condition, method, owner, ("returned", None) if mine else ("raised", RuntimeError), *args
        )

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        for request in self.due(self.world.time + seconds):
            for condition in CONDITIONS:
                for entry in self.waiting[condition]:
                    if entry[0] is request:
                        self.waiting[condition].remove(entry)
                        self.waiting[condition].insert(0, entry)
                        self.move(condition, 1, False)
                        break
            for lock in LOCKS:
                for left in self.queue[lock]:
                    if left[0] is request and left[1] is None:
                        self.queue[lock].remove(left)
                        self.ends(request, FALSE)
                        break
        self.world.wait(seconds)

    @rule(owner=Owner)
    def given_up(self, owner: str) -> None:
        if owner in self.blocked:
            request = self.blocked[owner]
            self.leave(lambda call: call is request)
            self.at["x"].forget(request)  # whichever object is asked

    @rule(owner=Owner)
    def thread_ends(self, owner: str) -> None:
        self.leave(lambda call: call.owner == owner)
        if self.holder["rlock"] == owner:
            self.open("rlock")
        for at in self.at.values():
            at.owner_gone(owner)

    @rule(process=st.sampled_from("abc"), killed=st.booleans(), order=st.permutations([*LOCKS, *CONDITIONS]))
    def process_ends(self, process: str, killed: bool, order: list[str]) -> None:
        self.leave(lambda call: call.process == process)
        for lock in LOCKS:
            if (self.holder[lock] or "")[:1] == process:
                if killed:
                    self.open(lock, True)
                elif lock == "rlock":
                    self.open(lock)
                else:
                    self.holder[lock] = ""
        self.lose(process, killed, order)

    @invariant()
    def nothing_is_lost(self) -> None:
        for lock in LOCKS:
            assert self.at[lock]._state == (
                1 if self.holder[lock] is not None else 2 if self.died[lock] else 0
            )
            assert (self.at[lock]._owner or "") == (self.holder[lock] or "")
            assert list(self.at[lock]._waiting) == [entry[0] for entry in self.queue[lock]]
            assert self.holder[lock] is not None or not self.at[lock]._waiting, (
                "a free lock with somebody waiting"
            )
        for condition in CONDITIONS:
            assert list(self.at[condition]._waiting) == [entry[0] for entry in self.waiting[condition]]

    def teardown(self) -> None:
        super().teardown()
        if self.holder["lock"] != "":
            assert not any(at.holds_anything() for at in self.at.values())


class Others(Clients):
    """A Semaphore, a BoundedSemaphore, an Event and a Barrier."""

    @initialize(value=st.integers(0, 3), bounded=st.integers(1, 3), parties=st.integers(1, 4))
    def begin(self, value: int, bounded: int, parties: int) -> None:
        timers = self.world.timers
        self.at = {
            "semaphore": Semaphore(value, timers=timers),
            "bounded": BoundedSemaphore(bounded, timers=timers),
        }
        self.at |= {"event": Event(timers=timers), "barrier": Barrier(parties, timers=timers)}
        self.value = {"semaphore": value, "bounded": bounded}
        self.bound, self.parties = bounded, parties
        self.held: list[
            str
        ] = []  # processes, once for each permit of the bounded one; "": left in good order
        self.queue: dict[str, list[Request]] = {name: [] for name in self.at}
        self.is_set = self.broken = False

    def grant(self, name: str) -> None:
        while self.value[name] and self.queue[name]:
            request = self.queue[name].pop(0)
            if self.ends(request, TRUE):
                self.take(name, request.owner)  # type: ignore[arg-type]

    def take(self, name: str, owner: str) -> None:
        self.value[name] -= 1
        if name == "bounded":
            self.held.append(owner[0])

    def enter(self, name: str, method: str, owner: str, expected: Any, *args: Any) -> None:
        request = self.request(name, method, owner, expected, *args)
        if expected is None:
            self.queue[name].append(request)

    def breaks(self, broken: bool) -> None:
        self.broken = broken
        for request in self.queue["barrier"]:
            self.ends(request, BROKEN)
        self.queue["barrier"].clear()

    def leave(self, gone: Any) -> None:
        self.blocked = {owner: request for owner, request in self.blocked.items() if not gone(request)}
        broken = any(map(gone, self.queue["barrier"]))
        for name in self.queue:
            self.queue[name] = [request for request in self.queue[name] if not gone(request)]
        if broken:
            self.breaks(True)

    @rule(owner=Owner, name=st.sampled_from(["semaphore", "bounded"]), block=st.booleans(), timeout=Timeout)
    def acquire(self, owner: str, name: str, block: bool, timeout: int | None) -> None:
        if self.free(owner):
            expected = TRUE if self.value[name] else None if block and timeout != 0 else FALSE
            if expected == TRUE:
                self.take(name, owner)
            self.enter(name, "acquire", owner, expected, block, timeout if block else None)

    @rule(owner=Owner, name=st.sampled_from(["semaphore", "bounded"]), n=st.integers(1, 2))
    def release(self, owner: str, name: str, n: int) -> None:
        if not self.free(owner):
            return
        if name == "bounded" and self.value[name] + n > self.bound:
            return self.enter(name, "release", owner, ("raised", ValueError), n)
        self.value[name] += n
        for _ in range(n if name == "bounded" else 0):
            whose = next((process for process in (owner[0], "") if process in self.held), None)
            if whose is None:
                whose = next(iter(self.at[name]._held))
            self.held.remove(whose)
        self.grant(name)
        self.enter(name, "release", owner, ("returned", None), n)

    @rule(owner=Owner, timeout=Timeout, method=st.sampled_from(["wait", "wait", "is_set", "set", "clear"]))
    def event(self, owner: str, timeout: int | None, method: str) -> None:
        if not self.free(owner):
            return
        if method == "wait":
            expected = TRUE if self.is_set else FALSE if timeout == 0 else None
            return self.enter("event", "wait", owner, expected, timeout)
        if method != "is_set":
            self.is_set = method == "set"
        if method == "set":
            for request in self.queue["event"]:
                self.ends(request, TRUE)
            self.queue["event"].clear()
        self.enter("event", method, owner, ("returned", self.is_set if method == "is_set" else None))

    @rule(owner=Owner, timeout=Timeout, method=st.sampled_from(["wait"] * 5 + ["abort", "reset"]))
    def barrier(self, owner: str, timeout: int | None, method: str) -> None:
        if not self.free(owner):
            return
        index = len(self.queue["barrier"])
        if method != "wait":
            self.breaks(method == "abort")
            self.enter("barrier", method, owner, ("returned", None))
        elif self.broken:
            self.enter("barrier", "wait", owner, BROKEN, timeout)
        elif index + 1 == self.parties:
            for arrival, request in enumerate(self.queue["barrier"]):
                self.ends(request, ("returned", arrival))
            self.queue["barrier"].clear()
            self.enter("barrier", "wait", owner, ("returned", index), timeout)
        elif timeout == 0:
            self.breaks(True)
            self.enter("barrier", "wait", owner, BROKEN, timeout)
        else:
            self.enter("barrier", "wait", owner, None, timeout)

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        for request in self.due(self.world.time + seconds):
            for name in ("semaphore", "bounded", "event"):
                if request in self.queue[name]:
                    self.queue[name].remove(request)
                    self.ends(request, FALSE)
            if request in self.queue["barrier"]:
                self.breaks(True)
        self.world.wait(seconds)

    @rule(owner=Owner, thread=st.booleans())
    def given_up(self, owner: str, thread: bool) -> None:
        request = self.blocked.get(owner)
        self.leave(lambda call: call.owner == owner)
        for at in self.at.values():
            if thread:
                at.owner_gone(owner)
            elif request is not None:
                at.forget(request)

    @rule(process=st.sampled_from("abc"), killed=st.booleans())
    def process_ends(self, process: str, killed: bool) -> None:
        self.leave(lambda call: call.process == process)
        if killed:
            self.value["bounded"] += self.held.count(process)
        left = [""] * (0 if killed else self.held.count(process))
        self.held = [other for other in self.held if other != process] + left
        self.grant("bounded")
        self.lose(process, killed, self.at)

    @invariant()
    def nothing_is_lost(self) -> None:
        for name, queue in self.queue.items() if self.at else ():
            assert list(self.at[name]._waiting) == queue, "not first in, first out"
        for name, value in self.value.items() if self.at else ():
            assert self.at[name]._value == value and not (value and self.queue[name])
        assert not self.at or self.at["barrier"].broken == self.broken

    def teardown(self) -> None:
        super().teardown()
        assert not self.at or self.at["bounded"]._value == self.bound - self.held.count("")


TestLocks = Locks.TestCase
TestLocks.settings = SETTINGS
TestOthers = Others.TestCase
TestOthers.settings = SETTINGS
