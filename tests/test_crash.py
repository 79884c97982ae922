"""Processes killed while they hold, wait or carry something: the others go on, and nothing committed is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, children, ended, kill, take_seconds, until, until_asleep
from processing.connection import wait

pytestmark = pytest.mark.ends


def end_badly(how: str, flag: Flag) -> None:
    """The end of the calling process, or, for "killed", waiting for it."""
    flag.say(os.getpid())
    if how == "_exit":
        os._exit(3)
    if how == "exec":
        os.execv(sys.executable, [sys.executable, "-c", ""])
    if how == "signal":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    while True:
        signal.pause()


ENDS = ["killed", "_exit", "exec", "signal"]


def die(process: Any, how: str, flag: Flag) -> None:
    flag.hear()
    if how == "killed":
        os.kill(process.pid, signal.SIGKILL)
    process.join(LIMIT)
    assert process.exitcode is not None


# ---- Locks ----------------------------------------------------------------------------------------------------------


def take_and_die(lock: Any, how: str, flag: Flag) -> None:
    lock.acquire()
    end_badly(how, flag)


@pytest.fixture(params=["Lock", "RLock"])
def lock(request: pytest.FixtureRequest) -> Any:
    return getattr(processing, request.param)(name="the table")


@pytest.mark.parametrize("how", ENDS)
def test_the_death_of_an_owner_is_reported_once(lock: Any, how: str) -> None:
    flag = Flag()
    with child(processing, take_and_die, lock, how, flag) as process:
        die(process, how, flag)
        with pytest.raises(processing.LockOwnerDied) as caught:
            lock.acquire(timeout=LIMIT)
        assert (caught.value.name, caught.value.pid) == ("the table", process.pid)
        assert "the table" in str(caught.value)
        assert str(process.pid) in str(caught.value)
        assert isinstance(caught.value, RuntimeError)
    # It is free, and all is as before.
    assert lock.acquire(False) is True
    lock.release()
    with lock:
        pass


@pytest.mark.parametrize("options", [{"block": False}, {"timeout": 0}, {"timeout": SHORT}, {}])
def test_however_it_is_acquired(lock: Any, options: Any) -> None:
    flag = Flag()
    with child(processing, take_and_die, lock, "killed", flag) as process:
        die(process, "killed", flag)
        with pytest.raises(processing.LockOwnerDied):
            lock.acquire(**options)
    assert lock.acquire(timeout=LIMIT)
    lock.release()


def test_with_leaves_it_free(lock: Any) -> None:
    """with never runs __exit__ when __enter__ raises."""
    flag = Flag()
    with child(processing, take_and_die, lock, "killed", flag) as process:
        die(process, "killed", flag)
        with pytest.raises(processing.LockOwnerDied):
            with lock:
                raise AssertionError("entered")
    with lock:
        pass


def take(lock: Any, asking: Flag, outcome: Flag) -> None:
    asking.say()
    try:
        lock.acquire()
    except processing.LockOwnerDied as error:
        outcome.say(error.pid or -1)
    else:
        outcome.say(0)
        lock.release()


def test_waiters_learn_of_it(lock: Any) -> None:
    """One of them is told, the others simply get the lock."""
    flag, asking, outcome = Flag(), Flag(), Flag()
    with child(processing, take_and_die, lock, "killed", flag) as owner:
        flag.hear()
        with child(processing, take, lock, asking, outcome) as first:
            with child(processing, take, lock, asking, outcome) as second:
                asking.hear()
                asking.hear()
                for process in (first, second):
                    until_asleep(process.pid)
                kill(owner)
                assert sorted([outcome.hear(), outcome.hear()]) == [0, owner.pid]
                ended(first, second)


def test_a_killed_waiter_changes_nothing(lock: Any) -> None:
    asking, outcome = Flag(), Flag()
    with lock:
        with child(processing, take, lock, asking, outcome) as first:
            with child(processing, take, lock, asking, outcome) as second:
                asking.hear()
                asking.hear()
                until_asleep(first.pid)
                until_asleep(second.pid)
                kill(first)
                lock.release()
                assert outcome.hear() == 0
                ended(second)
                assert lock.acquire(timeout=LIMIT)


@pytest.mark.parametrize("order", ["kill then release", "release then kill"])
def test_a_waiter_killed_around_its_wake_up(order: str) -> None:
    """It may have been chosen already; then its turn goes to the next."""
    lock = processing.Lock()
    asking, outcome = Flag(), Flag()
    for _ in range(15):
        assert lock.acquire(timeout=LIMIT)
        with child(processing, take, lock, asking, outcome) as first:
            with child(processing, take, lock, asking, outcome) as second:
                asking.hear()
                asking.hear()
                until_asleep(first.pid, samples=2)
                until_asleep(second.pid, samples=2)
                if order == "kill then release":
                    os.kill(first.pid, signal.SIGKILL)
                    lock.release()
                else:
                    lock.release()
                    os.kill(first.pid, signal.SIGKILL)
                second.join(LIMIT)
                assert second.exitcode == 0
                first.join(LIMIT)
        while outcome.was_said():
            outcome.hear()
        # The first may have died with the lock in hand, and the second been told or not.
        try:
            assert lock.acquire(timeout=LIMIT)
        except processing.LockOwnerDied:
            assert lock.acquire(timeout=LIMIT)
        lock.release()


def take_and_exit(lock: Any) -> None:
    lock.acquire()


def test_a_normal_exit_is_no_crash(start_method: Any) -> None:
    lock = start_method.Lock()
    with child(start_method, take_and_exit, lock) as process:
        ended(process)
    assert lock.locked()
    assert lock.acquire(timeout=SHORT) is False
    lock.release()
    assert lock.acquire(False) is True


def test_sys_exit_and_an_exception_are_normal_exits() -> None:
    for how, code in (("exit", 5), ("raise", 1)):
        lock = processing.Lock()
        with child(processing, take_and_leave, lock, how) as process:
            ended(process, exitcode=code)
        assert lock.acquire(timeout=SHORT) is False
        lock.release()


def take_and_leave(lock: Any, how: str) -> None:
    lock.acquire()
    if how == "exit":
        sys.exit(5)
    sys.stderr = open(os.devnull, "w")
    raise ValueError("on purpose")


def thread_that_takes(lock: Any, flag: Flag, go: Flag) -> None:
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    flag.say()
    go.hear()
    lock.release()


def test_the_end_of_a_thread_is_no_death() -> None:
    lock = processing.Lock()
    flag, go = Flag(), Flag()
    with child(processing, thread_that_takes, lock, flag, go) as process:
        flag.hear()
        assert lock.acquire(timeout=0.6) is False
        go.say()
        assert lock.acquire(timeout=LIMIT)
        ended(process)


def test_under_every_start_method(start_method: Any) -> None:
    lock = start_method.Lock(name="L")
    ours, theirs = start_method.Pipe()
    with child(start_method, take_and_wait, lock, theirs) as process:
        assert ours.poll(LIMIT)
        ours.recv()
        kill(process)
        with pytest.raises(processing.LockOwnerDied) as caught:
            lock.acquire(timeout=LIMIT)
        assert caught.value.pid == process.pid
    ours.close()
    theirs.close()


def take_and_wait(lock: Any, connection: Any) -> None:
    lock.acquire()
    connection.send("mine")
    connection.recv()


# ---- Semaphores -----------------------------------------------------------------------------------------------------


def take_permits(semaphore: Any, count: int, how: str, flag: Flag) -> None:
    for _ in range(count):
        semaphore.acquire()
    if how == "exit":
        flag.say()
    else:
        end_badly(how, flag)


@pytest.mark.parametrize("how", ENDS)
def test_permits_of_a_semaphore_stay_taken(how: str) -> None:
    semaphore = processing.Semaphore(3)
    flag = Flag()
    with child(processing, take_permits, semaphore, 2, how, flag) as process:
        die(process, how, flag)
    assert semaphore.acquire(timeout=LIMIT)
    assert semaphore.acquire(timeout=0.3) is False
    semaphore.release()
    semaphore.release()
    assert semaphore.get_value() == 2


@pytest.mark.parametrize("how", ENDS)
def test_permits_of_a_bounded_semaphore_come_back(how: str) -> None:
    semaphore = processing.BoundedSemaphore(3)
    semaphore.acquire()
    flag = Flag()
    with child(processing, take_permits, semaphore, 2, how, flag) as process:
        die(process, how, flag)
    for _ in range(2):
        assert semaphore.acquire(timeout=LIMIT)
    assert semaphore.acquire(timeout=SHORT) is False
    for _ in range(3):
        semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()


def test_bounded_permits_of_one_who_exited_normally_stay_taken() -> None:
    semaphore = processing.BoundedSemaphore(2)
    flag = Flag()
    with child(processing, take_permits, semaphore, 2, "exit", flag) as process:
        ended(process)
    assert semaphore.acquire(timeout=0.3) is False
    semaphore.release()
    assert semaphore.acquire(timeout=LIMIT)


def test_a_waiter_gets_the_permits_of_the_dead() -> None:
    semaphore = processing.BoundedSemaphore(1)
    flag, asking, outcome = Flag(), Flag(), Flag()
    with child(processing, take_permits, semaphore, 1, "killed", flag) as owner:
        flag.hear()
        with child(processing, take, semaphore, asking, outcome) as process:
            asking.hear()
            until_asleep(process.pid)
            kill(owner)
            assert outcome.hear() == 0
            ended(process)


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_killed_waiter_does_not_eat_a_release(kind: str) -> None:
    semaphore = getattr(processing, kind)(1)
    asking, outcome = Flag(), Flag()
    for _ in range(10):
        assert semaphore.acquire(timeout=LIMIT)
        with child(processing, take_one, semaphore, asking, outcome) as first:
            with child(processing, take_one, semaphore, asking, outcome) as second:
                asking.hear()
                asking.hear()
                until_asleep(first.pid, samples=2)
                until_asleep(second.pid, samples=2)
                kill(first)
                semaphore.release()
                outcome.hear()
                ended(second)


def take_one(semaphore: Any, asking: Flag, outcome: Flag) -> None:
    asking.say()
    semaphore.acquire()
    outcome.say()
    semaphore.release()


# ---- Condition, Event, Barrier --------------------------------------------------------------------------------------


def wait_for_notify(number: int, condition: Any, ready: Flag, woken: Flag) -> None:
    with condition:
        ready.say(number)
        assert condition.wait(LIMIT)
        woken.say(number)


def all_wait(condition: Any, ready: Flag, count: int) -> None:
    for _ in range(count):
        ready.hear()
    with condition:
        pass


def test_a_killed_waiter_does_not_eat_a_notification() -> None:
    condition = processing.Condition()
    ready, woken = Flag(), Flag()
    with children(processing, 2, wait_for_notify, condition, ready, woken) as (first, second):
        all_wait(condition, ready, 2)
        kill(first)
        with condition:
            condition.notify()
        assert woken.hear() == 1
        ended(second)


def test_a_waiter_killed_after_it_was_notified_passes_it_on() -> None:
    """It cannot run before it has the lock, so here it has been chosen and has not run."""
    for _ in range(10):
        condition = processing.Condition()
        ready, woken = Flag(), Flag()
        with children(processing, 1, wait_for_notify, condition, ready, woken) as [first]:
            all_wait(condition, ready, 1)
            with child(processing, wait_for_notify, 1, condition, ready, woken) as second:
                all_wait(condition, ready, 1)
                with condition:
                    condition.notify()
                    kill(first)
                assert woken.hear() == 1
                ended(second)


def test_notify_all_with_the_dead_among_the_waiting() -> None:
    condition = processing.Condition()
    ready, woken = Flag(), Flag()
    with children(processing, 4, wait_for_notify, condition, ready, woken) as processes:
        all_wait(condition, ready, 4)
        kill(processes[0])
        kill(processes[2])
        with condition:
            condition.notify_all()
        assert {woken.hear(), woken.hear()} == {1, 3}
        ended(processes[1], processes[3])


def hold_condition(condition: Any, flag: Flag) -> None:
    condition.acquire()
    end_badly("killed", flag)


def test_the_owner_of_a_conditions_lock_dies() -> None:
    condition = processing.Condition(processing.Lock(name="guard"))
    flag = Flag()
    with child(processing, hold_condition, condition, flag) as process:
        die(process, "killed", flag)
        with pytest.raises(processing.LockOwnerDied) as caught:
            condition.acquire(timeout=LIMIT)
        assert caught.value.pid == process.pid
    with condition:
        condition.notify_all()


def wait_for_event(number: int, event: Any, asking: Flag, woken: Flag) -> None:
    asking.say()
    assert event.wait(LIMIT)
    woken.say(number)


def test_events_do_not_mind_the_dead() -> None:
    event = processing.Event()
    asking, woken = Flag(), Flag()
    with children(processing, 3, wait_for_event, event, asking, woken) as processes:
        for _ in processes:
            asking.hear()
        for process in processes:
            until_asleep(process.pid)
        kill(processes[0])
        event.set()
        assert {woken.hear(), woken.hear()} == {1, 2}
        ended(*processes[1:])


def test_an_event_that_nobody_sets_keeps_to_its_timeout() -> None:
    event = processing.Event()
    seconds, result = take_seconds(lambda: event.wait(0.3))
    assert result is False
    assert 0.29 <= seconds < 5


def meet(number: int, barrier: Any, outcome: Flag) -> None:
    try:
        barrier.wait(LIMIT)
    except processing.BrokenBarrierError:
        outcome.say(1)
    else:
        outcome.say(0)


def test_a_death_breaks_the_barrier() -> None:
    barrier = processing.Barrier(4)
    outcome = Flag()
    with children(processing, 3, meet, barrier, outcome) as processes:
        until(lambda: barrier.n_waiting == 3)
        kill(processes[1])
        assert [outcome.hear(), outcome.hear()] == [1, 1]
        ended(processes[0], processes[2])
    assert barrier.broken
    with pytest.raises(processing.BrokenBarrierError):
        barrier.wait(LIMIT)
    barrier.reset()
    assert not barrier.broken
    assert barrier.n_waiting == 0


# ---- Queues ---------------------------------------------------------------------------------------------------------


def put_and_die(messages: Any, count: int, size: int, how: str, flag: Flag) -> None:
    for number in range(count):
        messages.put((number, b"x" * size))
    end_badly(how, flag)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("size", [3, 300_000])
def test_what_was_put_stays(how: str, size: int) -> None:
    messages = processing.Queue()
    flag = Flag()
    with child(processing, put_and_die, messages, 50, size, how, flag) as process:
        die(process, how, flag)
    assert messages.qsize() == 50
    for number in range(50):
        index, payload = messages.get(timeout=LIMIT)
        assert (index, len(payload)) == (number, size)
    assert messages.empty()
    messages.put("goes on")
    assert messages.get(timeout=LIMIT) == "goes on"


def put_for_ever(messages: Any, flag: Flag, size: int) -> None:
    flag.say()
    number = 0
    while True:
        messages.put((number, b"x" * size))
        number += 1


def get_for_ever(messages: Any, flag: Flag) -> None:
    flag.say()
    while True:
        messages.get()


@pytest.mark.parametrize("size", [10, 30_000])
def test_putters_killed_at_work(size: int) -> None:
    """Whole messages in order, or nothing; and the next one finds the queue in order."""
    for _ in range(15):
        messages = processing.Queue(100)
        flag = Flag()
        with child(processing, put_for_ever, messages, flag, size) as process:
            flag.hear()
            for number in range(30):
                assert messages.get(timeout=LIMIT) == (number, b"x" * size)
            kill(process)
        if not messages.full():
            messages.put("end", timeout=LIMIT)
        expected = 30
        while not messages.empty():
            message = messages.get(timeout=LIMIT)
            if message != "end":
                assert message == (expected, b"x" * size)
                expected += 1


def test_getters_killed_at_work() -> None:
    messages = processing.Queue()
    flag = Flag()
    for _ in range(15):
        with child(processing, get_for_ever, messages, flag) as process:
            flag.hear()
            for number in range(200):
                messages.put(number)
            kill(process)
        messages.put("goes on")
        got = None
        before = -1
        while got != "goes on":
            got = messages.get(timeout=LIMIT)
            if got != "goes on":
                assert before < got
                before = got
        assert messages.qsize() == 0


def test_a_killed_getter_does_not_eat_the_wake_up() -> None:
    messages = processing.Queue()
    asking, got = Flag(), Flag()
    for _ in range(10):
        with child(processing, get_and_tell, messages, asking, got) as first:
            with child(processing, get_and_tell, messages, asking, got) as second:
                asking.hear()
                asking.hear()
                until_asleep(first.pid, samples=2)
                until_asleep(second.pid, samples=2)
                kill(first)
                messages.put(7)
                assert got.hear() == 7
                ended(second)


def get_and_tell(messages: Any, asking: Flag, got: Flag) -> None:
    asking.say()
    got.say(messages.get())


def test_a_killed_putter_does_not_eat_the_wake_up() -> None:
    messages = processing.Queue(1)
    asking, done = Flag(), Flag()
    messages.put(0)
    with child(processing, put_and_tell, messages, asking, done) as first:
        with child(processing, put_and_tell, messages, asking, done) as second:
            asking.hear()
            asking.hear()
            until_asleep(first.pid)
            until_asleep(second.pid)
            kill(first)
            assert messages.get() == 0
            done.hear()
            assert messages.get(timeout=LIMIT) == second.pid
            ended(second)


def put_and_tell(messages: Any, asking: Flag, done: Flag) -> None:
    asking.say()
    messages.put(os.getpid())
    done.say()


def get_handle_and_die(box: Any, flag: Flag) -> None:
    box.get(timeout=LIMIT)
    end_badly("killed", flag)


def test_a_handle_dies_with_its_receiver() -> None:
    """The message was taken; with the taker's death nobody holds that end of the pipe any more."""
    ours, theirs = processing.Pipe()
    box = processing.Queue()
    flag = Flag()
    # Started before there is a pipe that it could inherit.
    with child(processing, get_handle_and_die, box, flag) as process:
        ours, theirs = processing.Pipe()
        box.put(theirs)
        theirs.close()
        die(process, "killed", flag)
        assert ours.poll(LIMIT)
        with pytest.raises(EOFError):
            ours.recv()
    ours.close()


def get_some_and_die(messages: Any, count: int, done: int, how: str, flag: Flag) -> None:
    for _ in range(count):
        messages.get(timeout=LIMIT)
    for _ in range(done):
        messages.task_done()
    end_badly(how, flag)


@pytest.mark.parametrize("how", ENDS)
def test_join_reports_what_a_dead_consumer_had_taken(how: str) -> None:
    messages = processing.JoinableQueue()
    for number in range(5):
        messages.put(number)
    flag = Flag()
    with child(processing, get_some_and_die, messages, 3, 1, how, flag) as process:
        die(process, how, flag)
    for _ in range(2):
        messages.get(timeout=LIMIT)
        messages.task_done()
    with pytest.raises(processing.LostItems) as caught:
        messages.join()
    assert caught.value.count == 2
    assert "2" in str(caught.value)
    # Reported once; the queue goes on.
    messages.join()
    messages.put("x")
    messages.get(timeout=LIMIT)
    messages.task_done()
    messages.join()


def join_and_tell(messages: Any, asking: Flag, outcome: Flag) -> None:
    asking.say()
    try:
        messages.join()
    except processing.LostItems as error:
        outcome.say(error.count)
    else:
        outcome.say(0)


def test_one_who_joins_already_learns_of_it() -> None:
    messages = processing.JoinableQueue()
    messages.put("x")
    flag, asking, outcome = Flag(), Flag(), Flag()
    with child(processing, get_some_and_die, messages, 1, 0, "killed", flag) as consumer:
        flag.hear()
        with child(processing, join_and_tell, messages, asking, outcome) as process:
            asking.hear()
            until_asleep(process.pid)
            kill(consumer)
            assert outcome.hear() == 1
            ended(process)


# ---- Pipes ----------------------------------------------------------------------------------------------------------


def hold_and_wait(connection: Any, flag: Flag) -> None:
    flag.say()
    connection.recv()


def test_the_end_of_a_dead_process_is_closed() -> None:
    ours, theirs = processing.Pipe()
    flag = Flag()
    with child(processing, send_and_die, theirs, ours, flag) as process:
        theirs.close()
        die(process, "killed", flag)
        assert ours.recv() == "last words"
        assert wait([ours], LIMIT) == [ours]
        with pytest.raises(EOFError):
            ours.recv()
        with pytest.raises(BrokenPipeError):
            ours.send("anybody?")
    ours.close()


def send_and_die(connection: Any, other: Any, flag: Flag) -> None:
    other.close()
    connection.send("last words")
    end_badly("killed", flag)


def receive_and_tell(connection: Any, other: Any, asking: Flag, outcome: Flag) -> None:
    other.close()
    asking.say()
    try:
        connection.recv()
    except EOFError:
        outcome.say(1)


def test_a_blocked_receiver_gets_the_end() -> None:
    ours, theirs = processing.Pipe()
    flag, asking, outcome = Flag(), Flag(), Flag()
    with child(processing, receive_and_tell, ours, theirs, asking, outcome) as receiver:
        ours.close()
        with child(processing, hold_and_wait, theirs, flag) as holder:
            theirs.close()
            flag.hear()
            asking.hear()
            until_asleep(receiver.pid)
            assert not outcome.was_said()
            kill(holder)
            assert outcome.hear() == 1
            ended(receiver)


def test_a_sender_killed_at_work() -> None:
    for _ in range(4):
        receiver, sender = processing.Pipe(False)
        flag = Flag()
        with child(processing, send_for_ever, sender, flag) as process:
            sender.close()
            flag.hear()
            receiver.recv()
            os.kill(process.pid, signal.SIGKILL)
            expected = 1
            with pytest.raises(EOFError):
                while True:
                    assert receiver.recv() == (expected, b"y" * (expected % 3000))
                    expected += 1
            process.join(LIMIT)
        receiver.close()


def send_for_ever(connection: Any, flag: Flag) -> None:
    flag.say()
    number = 0
    while True:
        connection.send((number, b"y" * (number % 3000)))
        number += 1


# ---- Memory ---------------------------------------------------------------------------------------------------------


def make_and_die(flag: Flag) -> None:
    kept = [processing.Lock() for _ in range(2000)]
    messages = processing.Queue()
    messages.put(b"x" * 1_000_000)
    kept.append(messages)
    end_badly("killed", flag)


def test_what_the_dead_alone_held_is_freed() -> None:
    flag = Flag()
    with child(processing, make_and_die, flag) as process:
        die(process, "killed", flag)
    before = processing.memory_usage().used
    for _ in range(5):
        with child(processing, make_and_die, flag) as process:
            die(process, "killed", flag)
    until(lambda: processing.memory_usage().used < before + 200_000)


def wait_and_see(condition: Any, ready: Flag, outcome: Flag) -> None:
    try:
        with condition:
            ready.say()
            condition.wait(LIMIT)
            outcome.say(1)
    except processing.LockOwnerDied:
        outcome.say(2)


def notify_and_die(condition: Any, flag: Flag) -> None:
    condition.acquire()
    condition.notify()
    end_badly("killed", flag)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_the_notifier_dies_with_the_lock(kind: str) -> None:
    """The waiter learns of it from wait(), inside its `with`, whose end must not release what others have by then."""
    lock = getattr(processing, kind)()
    condition = processing.Condition(lock)
    ready, flag, outcome = Flag(), Flag(), Flag()
    with child(processing, wait_and_see, condition, ready, outcome) as waiter:
        ready.hear()
        until_asleep(waiter.pid)
        with child(processing, notify_and_die, condition, flag) as notifier:
            die(notifier, "killed", flag)
            assert outcome.hear() == 2
            ended(waiter)
    assert condition.acquire(timeout=LIMIT)
    condition.release()
