"""Queues of a manager's server: each promise, and every order of events against a simple model.

Here are also the server and the clients (World, Clients) that test_managedsync.py uses.
"""

from __future__ import annotations

import pickle
import queue
from typing import Any

import pytest

from processing import managedqueue
from processing.errors import LostItems
from processing.managedqueue import (
    PENDING,
    Call,
    JoinableQueue,
    LifoQueue,
    PriorityQueue,
    Queue,
    ShutDown,
    Timers,
)

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule  # noqa: E402

pytestmark = pytest.mark.once

SETTINGS = hypothesis.settings(max_examples=150, stateful_step_count=60, deadline=None)
TRUE, FALSE, NONE = ("returned", True), ("returned", False), ("returned", None)
EMPTY, FULL, SHUT = ("raised", queue.Empty), ("raised", queue.Full), ("raised", ShutDown)
LOST = ("raised", LostItems)


class Request(Call):
    """A call, and what became of it: None, ("returned", result) or ("raised", type of the exception)."""

    def __init__(self, world: World, owner: str) -> None:
        super().__init__(owner, owner[0])
        self.world = world
        self.blocked = False
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.expected: Any = None
        self.number = world.number

    def end(self, outcome: tuple[str, Any]) -> bool | None:
        assert self.blocked, "answered before PENDING was returned"
        assert self.outcome is None, "answered twice"
        assert self.waiting_at is None and self.deadline is None
        if self.process in self.world.unreachable:
            self.world.undelivered.append(self)
            return False
        self.outcome = outcome
        self.world.order.append(self)
        return None

    def answer(self, result: Any) -> bool | None:
        return self.end(("returned", result))

    def fail(self, exception: BaseException) -> bool | None:
        self.error = exception
        return self.end(("raised", type(exception)))


class World:
    """A server with a clock of its own. An owner is two letters: its process, and the thread in it."""

    def __init__(self) -> None:
        self.time = 100.0
        self.timers = Timers(lambda: self.time)
        self.unreachable: set[str] = set()
        self.undelivered: list[Request] = []
        self.order: list[Request] = []  # in which calls were answered
        self.number = 0

    def ask(self, at: Any, method: str, owner: str, *args: Any, **kwargs: Any) -> Request:
        self.number += 1
        request = Request(self, owner)
        try:
            result = getattr(at, method)(request, *args, **kwargs)
        except Exception as error:
            request.error = error
            request.outcome = ("raised", type(error))
            assert request.waiting_at is None
        else:
            if result is PENDING:
                request.blocked = True
                assert request.waiting_at is not None
            else:
                request.outcome = ("returned", result)
                assert request.waiting_at is None
        return request

    def go(self, at: Any, method: str, owner: str, *args: Any, **kwargs: Any) -> Any:
        """A call that does not block: its result."""
        request = self.ask(at, method, owner, *args, **kwargs)
        if request.outcome is not None and request.outcome[0] == "raised":
            assert request.error is not None
            raise request.error
        assert request.outcome is not None, "blocked"
        return request.outcome[1]

    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.timers.expire(self.time)
        following = self.timers.next()
        assert following is None or following > self.time, "somebody waits past the deadline"


OWNERS = [process + thread for process in "abc" for thread in "12"]
Owner = st.sampled_from(OWNERS)
Timeout = st.sampled_from([None, None, 0, 1, 2, 3])


class Clients(RuleBasedStateMachine):
    """Threads of clients, each with at most one call that waits; their calls, and what is expected of them.

    A process that is killed is first unreachable (answers to it fail), then the objects hear of it; after that its
    letter stands for a new process.
    """

    at: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.blocked: dict[str, Request] = {}
        self.now: list[Request] = []  # requests of this step
        self.at = {}

    def free(self, owner: str) -> bool:
        return owner not in self.blocked and owner[0] not in self.world.unreachable

    def request(self, name: str, method: str, owner: str, expected: Any, *args: Any) -> Request:
        """Makes a call whose outcome is expected to be this (None: it waits)."""
        request = self.world.ask(self.at[name], method, owner, *args)
        assert request.outcome == expected, (name, method, owner, args)
        if request.blocked:
            self.blocked[owner] = request
        return request

    def ends(self, request: Request, outcome: Any) -> bool:
        """The model says that this call ends now. -> False: it cannot be delivered"""
        del self.blocked[request.owner]  # type: ignore[arg-type]
        if request.process in self.world.unreachable:
            return False
        request.expected = outcome
        self.now.append(request)
        return True

    def due(self, deadline: float) -> list[Request]:
        late = [
            call for call in self.blocked.values() if call.deadline is not None and call.deadline <= deadline
        ]
        return sorted(late, key=lambda call: (call.deadline, call.number))

    def lose(self, process: str, killed: bool, order: Any) -> None:
        """The objects hear of it, in any order."""
        for name in order:
            self.at[name].process_gone(process, killed)
        self.world.unreachable.discard(process)

    @rule(process=st.sampled_from("abc"))
    def unreachable(self, process: str) -> None:
        self.world.unreachable.add(process)

    @invariant()
    def as_expected(self) -> None:
        for request in self.now:
            assert request.outcome == request.expected
        self.now.clear()
        for request in self.blocked.values():
            assert request.outcome is None and request.waiting_at is not None
        waiting = {call for at in self.at.values() for call in at._waiters()}
        assert waiting == set(self.blocked.values())
        for at in self.at.values():
            assert at.holds_anything() or not at._waiting

    def teardown(self) -> None:
        for process in "abc":
            for at in self.at.values():
                at.process_gone(process, True)
        for at in self.at.values():
            assert not at._waiting, at
        assert self.world.timers.next() is None


@pytest.fixture
def world() -> World:
    return World()


def test_timers_stay_small(world: World) -> None:
    messages = Queue(timers=world.timers)
    stays = world.ask(messages, "get", "c1", True, 50)
    for _ in range(1000):
        messages.forget(world.ask(messages, "get", "b1", True, 1000))
    assert len(world.timers._heap) < 150
    world.wait(50)
    assert stays.outcome == EMPTY and world.timers.next() is None


@pytest.fixture(params=[Queue, JoinableQueue])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def got(request: Request) -> Any:
    assert request.outcome is not None and request.outcome[0] == "returned"
    return request.outcome[1]


# ---- Put and get ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "order"), [(Queue, "213"), (JoinableQueue, "213"), (LifoQueue, "312"), (PriorityQueue, "123")]
)
def test_the_order_of_items(world: World, kind: Any, order: str) -> None:
    messages = kind(timers=world.timers)
    for item in "213":
        assert world.go(messages, "put", "a1", item) is None
    assert (world.go(messages, "qsize", "a1"), world.go(messages, "empty", "a1")) == (3, False)
    taken = [
        world.go(messages, "get", "b1"),
        world.go(messages, "get_nowait", "b1"),
        world.go(messages, "get", "b1", True, 1),
    ]
    assert taken == list(order)
    assert world.ask(messages, "get_nowait", "b1").outcome == EMPTY
    world.go(messages, "put_many", "a1", list("213"))
    assert world.go(messages, "get_many", "b1", 2) == list(order[:2])
    assert world.go(messages, "get_many", "b1") == [order[2]]
    assert world.go(messages, "empty", "a1") is True and world.go(messages, "full", "a1") is False


def test_getters_are_served_in_their_order(world: World, kind: Any) -> None:
    messages = kind(timers=world.timers)
    getters = [world.ask(messages, "get", owner) for owner in ("a1", "b1", "c1")]
    late = world.ask(messages, "get", "d1", True, 1)
    world.go(messages, "put", "z1", 1)
    world.go(messages, "put_many", "z1", [2, 3])
    assert [got(getter) for getter in getters] == [1, 2, 3]
    world.wait(1)
    assert late.outcome == EMPTY and not messages._items
    many = world.ask(messages, "get_many", "a1", 5)
    one = world.ask(messages, "get", "b1")
    world.go(messages, "put", "z1", 4)
    world.go(messages, "put", "z1", 5)
    assert (got(many), got(one)) == ([4], 5)


def test_putters_wait_for_room_in_their_order(world: World, kind: Any) -> None:
    messages = kind(2, timers=world.timers)
    world.go(messages, "put_many", "a1", [1, 2])
    assert world.go(messages, "full", "a1") is True
    assert world.ask(messages, "put_nowait", "a1", 0).outcome == FULL
    assert world.ask(messages, "put", "a1", 0, True, 0).outcome == FULL
    first, late, many = (
        world.ask(messages, "put", "a1", 3),
        world.ask(messages, "put", "b1", 0, True, 1),
        world.ask(messages, "put_many", "c1", [4, 5, 6]),
    )
    world.wait(1)
    assert late.outcome == FULL and first.outcome is None
    assert world.go(messages, "get", "z1") == 1 and first.outcome == NONE
    assert world.go(messages, "get_many", "z1") == [2, 3] and many.outcome is None
    assert world.go(messages, "qsize", "z1") == 2
    assert world.go(messages, "get", "z1") == 4 and many.outcome == NONE
    assert world.go(messages, "get_many", "z1") == [5, 6]


def test_full_says_how_many_were_put(world: World) -> None:
    messages = Queue(2, timers=world.timers)
    now = world.ask(messages, "put_many", "a1", [1, 2, 3], False)
    later = world.ask(messages, "put_many", "a1", [3, 4, 5], True, 1)
    world.go(messages, "get", "b1")
    world.wait(1)
    assert now.outcome == later.outcome == FULL
    assert isinstance(now.error, queue.Full) and isinstance(later.error, queue.Full)
    assert (now.error.put, later.error.put) == (2, 1)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(later.error)).put == 1
    assert world.go(messages, "get_many", "b1") == [2, 3]


def test_errors_are_those_of_queue(world: World) -> None:
    for size in (0, 1):
        ours, std = Queue(size, timers=world.timers), queue.Queue(size)
        for method, args in [
            ("put", (1, True, -1)), ("get", (True, -1)), ("get", (False, -1)), ("put", (1, False, -1)),
            ("put", (1, False)), ("get_nowait", ()), ("get", (False,)), *[("task_done", ())] * 3,
        ]:  # fmt: skip
            expected: Any
            try:
                expected = ("returned", getattr(std, method)(*args))
            except Exception as error:
                expected = ("raised", type(error))
            assert world.ask(ours, method, "a1", *args).outcome == expected, (size, method, args)
    assert world.ask(ours, "get_many", "a1", 0).outcome == ("raised", ValueError)
    assert world.ask(ours, "get", "a1", True, "1").outcome == ("raised", TypeError)


def test_an_item_for_a_getter_that_is_gone_goes_back_to_the_front(world: World, kind: Any) -> None:
    messages = kind(timers=world.timers)
    dead, alive = world.ask(messages, "get", "a1"), world.ask(messages, "get_many", "b1", 2)
    world.unreachable.add("a")
    world.go(messages, "put", "z1", 1)
    assert world.undelivered == [dead] and got(alive) == [1]
    dead = world.ask(messages, "get_many", "a1", 2)
    world.go(messages, "put_many", "z1", [2, 3])
    assert world.go(messages, "get_many", "b1") == [2, 3] and dead.outcome is None
    messages.process_gone("a", True)
    for _ in range(3):
        world.go(messages, "task_done", "b1")
    assert world.go(messages, "join", "b1") is True


@pytest.mark.parametrize("buried", [False, True])
@pytest.mark.parametrize("kind", [Queue, JoinableQueue, LifoQueue])
def test_what_was_not_delivered_after_all_is_taken_back(world: World, kind: Any, buried: bool) -> None:
    messages = kind(timers=world.timers)
    world.go(messages, "put_many", "z1", [1, 2, 3, 4])
    one, many = world.ask(messages, "get", "a1"), world.ask(messages, "get_many", "a1", 2)
    if buried:
        messages.process_gone("a", True)
    messages.undelivered(many, "get_many", got(many))
    messages.undelivered(one, "get", got(one))
    messages.undelivered(one, "qsize", 1)
    order = [4, 3, 2, 1] if kind is LifoQueue else [1, 2, 3, 4]
    assert world.go(messages, "get_many", "b1") == order
    joiner = world.ask(messages, "join", "c1")
    for _ in range(4):
        assert joiner.outcome is None
        world.go(messages, "task_done", "b1")
    assert joiner.outcome == TRUE


def test_calls_of_processes_that_are_gone_are_forgotten(world: World, kind: Any) -> None:
    messages = kind(1, timers=world.timers)
    getter, given_up = world.ask(messages, "get", "a1"), world.ask(messages, "get", "c1", True, 9)
    messages.process_gone("a", True)
    messages.forget(given_up)
    assert world.timers.next() is None
    world.go(messages, "put", "z1", 1)
    putter, thread, other = (world.ask(messages, "put", owner, owner) for owner in ("a1", "b1", "b2"))
    joiner = world.ask(messages, "join", "a2")
    messages.process_gone("a", False)
    messages.owner_gone("b1")
    assert world.go(messages, "get_many", "z1") == [1]
    assert world.go(messages, "get_many", "z1") == ["b2"] and other.outcome == NONE
    assert getter.outcome is given_up.outcome is putter.outcome is thread.outcome is joiner.outcome is None


def test_items_that_do_not_compare_leave_a_priority_queue_as_it_was(world: World) -> None:
    messages = PriorityQueue(2, timers=world.timers)
    world.go(messages, "put_many", "a1", [2, 1])
    wrong, right = world.ask(messages, "put", "a1", "x"), world.ask(messages, "put", "b1", 0)
    assert world.go(messages, "get", "z1") == 1
    assert wrong.outcome == ("raised", TypeError) and right.outcome == NONE
    assert world.go(messages, "get_many", "z1") == [0, 2]


# ---- Join, shutdown -------------------------------------------------------------------------------------------------


def test_join_waits_for_task_done(world: World, kind: Any) -> None:
    messages = kind(timers=world.timers)
    assert world.go(messages, "join", "a1") is True
    world.go(messages, "put_many", "a1", [1, 2])
    assert world.go(messages, "join", "a1", 0) is False
    joiner, late = world.ask(messages, "join", "a1"), world.ask(messages, "join", "b1", 1)
    world.go(messages, "get_many", "c1")
    world.go(messages, "task_done", "c1")
    world.wait(1)
    assert (joiner.outcome, late.outcome) == (None, FALSE)
    world.go(messages, "task_done", "d1")  # anybody may say so
    assert joiner.outcome == TRUE and not messages.holds_anything()


def test_items_of_a_killed_consumer_are_lost_and_join_says_so_once(world: World) -> None:
    messages = JoinableQueue(timers=world.timers)
    world.go(messages, "put_many", "z1", [1, 2, 3, 4])
    for owner in ("a1", "a2", "b1"):
        world.go(messages, "get", owner)
    world.go(messages, "task_done", "a1")
    joiners = [world.ask(messages, "join", owner) for owner in ("c1", "d1")]
    messages.process_gone("a", True)
    world.go(messages, "task_done", "b1")
    assert joiners[0].outcome is None
    world.go(messages, "get", "b1")
    world.go(messages, "task_done", "b1")
    assert [joiner.outcome for joiner in joiners] == [LOST, LOST]
    assert isinstance(joiners[0].error, LostItems) and joiners[0].error.count == 1
    assert world.go(messages, "join", "c1") is True
    world.go(messages, "put", "z1", 5)
    world.go(messages, "get", "a1")
    messages.process_gone("a", True)
    assert world.ask(messages, "join", "c1").outcome == LOST and world.go(messages, "join", "c1") is True


def test_a_consumer_that_ends_in_good_order_leaves_its_items_to_be_done(world: World) -> None:
    messages = JoinableQueue(timers=world.timers)
    world.go(messages, "put", "z1", 1)
    world.go(messages, "get", "a1")
    joiner = world.ask(messages, "join", "c1")
    messages.process_gone("a", False)
    messages.process_gone("a", True)
    assert joiner.outcome is None
    world.go(messages, "task_done", "b1")
    assert joiner.outcome == TRUE


def test_a_task_that_was_done_before_it_was_taken_is_not_lost(world: World) -> None:
    messages = JoinableQueue(timers=world.timers)
    world.go(messages, "put", "z1", 1)
    world.go(messages, "task_done", "a1")
    world.go(messages, "get", "a1")
    world.go(messages, "put", "z1", 2)
    messages.process_gone("a", True)
    assert world.go(messages, "join", "c1", 0) is False and world.go(messages, "get", "b1") == 2


def test_shutdown(world: World, kind: Any) -> None:
    messages = kind(1, timers=world.timers)
    world.go(messages, "put", "a1", 1)
    putter, joiner = world.ask(messages, "put", "a1", 2), world.ask(messages, "join", "b1")
    world.go(messages, "shutdown", "c1")
    assert putter.outcome == SHUT and world.ask(messages, "put", "a1", 2, True, -1).outcome == SHUT
    assert world.ask(messages, "put_many", "a1", []).outcome == SHUT
    assert world.go(messages, "get", "a1") == 1 and world.ask(messages, "get", "a1").outcome == SHUT
    assert joiner.outcome is None
    world.go(messages, "task_done", "a1")
    assert joiner.outcome == TRUE


def test_shutdown_at_once(world: World, kind: Any) -> None:
    messages = kind(timers=world.timers)
    getter = world.ask(messages, "get", "a1")
    world.go(messages, "shutdown", "c1", True)
    assert getter.outcome == SHUT
    messages = kind(timers=world.timers)
    world.go(messages, "put_many", "a1", [1, 2])
    joiner = world.ask(messages, "join", "b1")
    world.go(messages, "shutdown", "c1", True)
    assert joiner.outcome == TRUE and world.go(messages, "empty", "a1") is True


def test_shut_down_is_the_exception_of_queue_where_there_is_one() -> None:
    assert getattr(queue, "ShutDown", managedqueue.ShutDown) is ShutDown
    assert type(pickle.loads(pickle.dumps(ShutDown()))) is ShutDown


# ---- Every order of events ------------------------------------------------------------------------------------------


class Queues(Clients):
    """One queue of any kind. Items are numbers, so that none can be confused with another."""

    @initialize(
        kind=st.sampled_from([Queue, JoinableQueue, LifoQueue, PriorityQueue]), size=st.integers(0, 3)
    )
    def begin(self, kind: Any, size: int) -> None:
        self.kind, self.size = kind, size or 10**9
        self.at = {"queue": kind(size, timers=self.world.timers)}
        self.items: list[int] = []
        self.item = 0
        self.getters: list[tuple[Request, int | None]] = []
        self.putters: list[tuple[Request, list[int]]] = []
        self.joiners: list[Request] = []
        self.unfinished = self.lost = 0
        self.held: list[str] = []
        self.closed = False

    def take(self, owner: Any, most: int | None) -> Any:
        count = 1 if most is None else min(most, len(self.items))
        if self.kind is LifoQueue:
            taken = self.items[-count:][::-1]
            del self.items[-count:]
        else:
            taken = self.items[:count]
            del self.items[:count]
        if self.kind is JoinableQueue:
            self.held += [owner[0]] * count
        return taken[0] if most is None else taken

    def add(self, items: list[int]) -> list[int]:
        """-> for which there is no room"""
        room = max(0, self.size - len(self.items))
        self.items += items[:room]
        self.unfinished += len(items[:room])
        if self.kind is PriorityQueue:
            self.items.sort()
        return items[room:]

    def pump(self) -> None:
        moving = True
        while moving:
            moving = False
            while self.putters and len(self.items) < self.size:
                request, items = self.putters.pop(0)
                rest = self.add(items)
                if rest:
                    self.putters.insert(0, (request, rest))
                else:
                    self.ends(request, NONE)
            if self.getters and self.items:
                moving = True
                request, most = self.getters.pop(0)
                before, held = list(self.items), list(self.held)
                if not self.ends(request, ("returned", self.take(request.owner, most))):
                    self.items, self.held = before, held

    def finish(self) -> None:
        if self.unfinished == 0:
            told = [self.ends(joiner, LOST if self.lost else TRUE) for joiner in self.joiners]
            self.joiners.clear()
            if any(told):
                self.lost = 0

    @rule(owner=Owner, count=st.integers(0, 4), block=st.booleans(), timeout=Timeout)
    def put(self, owner: str, count: int, block: bool, timeout: int | None) -> None:
        if not self.free(owner):
            return
        items = [(self.item + i) * 7 % 101 + 1000 * (self.item + i) for i in range(count or 1)]
        self.item += len(items)
        args = (items if count else items[0], block, timeout)
        method = "put_many" if count else "put"
        if self.closed:
            self.request("queue", method, owner, SHUT, *args)
            return
        rest = items
        while rest and len(self.items) < self.size:  # what is there is handed on at once
            rest = self.add(rest[:1]) + rest[1:]
            self.pump()
        expected = NONE if not rest else FULL if not block or timeout == 0 else None
        request = self.request("queue", method, owner, expected, *args)
        if expected is None:
            self.putters.append((request, rest))

    @rule(owner=Owner, most=st.sampled_from([None, None, 1, 2, 9]), block=st.booleans(), timeout=Timeout)
    def get(self, owner: str, most: int | None, block: bool, timeout: int | None) -> None:
        if not self.free(owner):
            return
        expected: Any = None
        if self.items:
            expected = ("returned", self.take(owner, most))
            self.pump()
        elif self.closed:
            expected = SHUT
        elif not block or timeout == 0:
            expected = EMPTY
        args = (block, timeout) if most is None else (most, block, timeout)
        request = self.request("queue", "get" if most is None else "get_many", owner, expected, *args)
        if expected is None:
            self.getters.append((request, most))

    @rule(owner=Owner)
    def task_done(self, owner: str) -> None:
        # Not for items that are not taken yet: that is tested above.
        if not self.free(owner) or self.unfinished <= len(self.items):
            return
        self.unfinished -= 1
        if self.held:
            whose = [process for process in (owner[0], "") if process in self.held]
            self.held.remove(whose[0] if whose else next(iter(self.at["queue"]._held)))
        self.finish()
        self.request("queue", "task_done", owner, NONE)

    @rule(owner=Owner, timeout=Timeout)
    def join(self, owner: str, timeout: int | None) -> None:
        if not self.free(owner):
            return
        expected = FALSE if timeout == 0 else None
        if not self.unfinished:
            expected = LOST if self.lost else TRUE
            self.lost = 0
        request = self.request("queue", "join", owner, expected, timeout)
        if expected is None:
            self.joiners.append(request)

    @rule(owner=Owner, sure=st.integers(0, 3), immediate=st.booleans())
    def shutdown(self, owner: str, sure: int, immediate: bool) -> None:
        if not self.free(owner) or sure:
            return
        self.closed, self.size = True, 0
        if immediate:
            self.unfinished -= len(self.items)
            self.items.clear()
            self.finish()
        for request, _ in [*self.putters, *self.getters]:
            self.ends(request, SHUT)
        self.putters.clear()
        self.getters.clear()
        self.request("queue", "shutdown", owner, NONE, immediate)

    def leave(self, gone: Any) -> None:
        self.getters = [entry for entry in self.getters if not gone(entry[0])]
        self.putters = [entry for entry in self.putters if not gone(entry[0])]
        self.joiners = [joiner for joiner in self.joiners if not gone(joiner)]
        self.blocked = {owner: request for owner, request in self.blocked.items() if not gone(request)}

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        for request in self.due(self.world.time + seconds):
            outcome = EMPTY
            if any(request is putter for putter, _ in self.putters):
                outcome = FULL
            elif request in self.joiners:
                outcome = FALSE
            blocked = dict(self.blocked)
            self.leave(lambda call, request=request: call is request)
            self.blocked = blocked
            self.ends(request, outcome)
        self.world.wait(seconds)

    @rule(owner=Owner, thread=st.booleans())
    def given_up(self, owner: str, thread: bool) -> None:
        request = self.blocked.get(owner)
        self.leave(lambda call: call.owner == owner)
        if thread:
            self.at["queue"].owner_gone(owner)
        elif request is not None:
            self.at["queue"].forget(request)

    @rule(process=st.sampled_from("abc"), killed=st.booleans())
    def process_ends(self, process: str, killed: bool) -> None:
        self.leave(lambda call: call.process == process)
        count = self.held.count(process)
        self.held = [other for other in self.held if other != process] + [""] * (0 if killed else count)
        if killed and count:
            self.lost += count
            self.unfinished -= count
            self.finish()
        self.lose(process, killed, self.at)

    @invariant()
    def nothing_is_lost(self) -> None:
        if not self.at:
            return
        messages = self.at["queue"]
        assert list(messages._items) == self.items
        assert list(messages._waiting) == [request for request, _ in self.getters]
        assert list(messages._putters) == [request for request, _ in self.putters]
        assert not (self.items and self.getters), "items, and somebody waits to get one"
        assert not (self.putters and len(self.items) < self.size), "room, and somebody waits to put"
        assert (messages._unfinished, messages._lost) == (self.unfinished, self.lost)
        assert self.unfinished or not self.joiners
        assert sum(messages._held.values()) == len(self.held)
        for process in "abc":
            assert messages._held.get(process, 0) == self.held.count(process)

    def teardown(self) -> None:
        super().teardown()
        if self.at and "" not in self.held:
            assert not self.at["queue"].holds_anything()


TestQueues = Queues.TestCase
TestQueues.settings = SETTINGS
