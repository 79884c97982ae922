"""Signals while a call blocks: Ctrl-C, stop(), and handlers that return."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, ended, take_seconds, until_asleep
from processing.connection import wait


def locked() -> Any:
    lock = processing.Lock()
    lock.acquire()
    return lock


def lock_of_another_thread() -> Any:
    import threading

    lock = processing.RLock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    return lock


def block_in_condition(timeout: float | None) -> Any:
    condition = processing.Condition()
    with condition:
        try:
            condition.wait(timeout)
        finally:
            condition.notify()  # AssertionError unless the lock was taken again


def block_in_full_queue(timeout: float | None) -> Any:
    messages = processing.Queue(1)
    messages.put(1)
    messages.put(2, True, timeout)


def block_in_full_pipe(timeout: float | None) -> Any:
    receiver, sender = processing.Pipe(False)
    while True:
        sender.send_bytes(b"x" * 50_000)
        assert receiver is not None


def block_in_join(timeout: float | None) -> Any:
    messages = processing.JoinableQueue()
    messages.put(1)
    messages.join()


def block_in_recv(timeout: float | None) -> Any:
    ours, theirs = processing.Pipe()
    try:
        ours.recv()
    finally:
        theirs.close()


def block_in_poll(timeout: float | None) -> Any:
    ours, theirs = processing.Pipe()
    try:
        ours.poll(timeout)
    finally:
        theirs.close()


def block_in_wait(timeout: float | None) -> Any:
    ours, theirs = processing.Pipe()
    try:
        wait([ours, processing.Queue()], timeout)
    finally:
        theirs.close()


BLOCKING: dict[str, Callable[[float | None], Any]] = {
    "Lock.acquire": lambda timeout: locked().acquire(True, timeout),
    "RLock.acquire": lambda timeout: lock_of_another_thread().acquire(True, timeout),
    "Semaphore.acquire": lambda timeout: processing.Semaphore(0).acquire(True, timeout),
    "BoundedSemaphore.acquire": lambda timeout: processing.BoundedSemaphore(0).acquire(True, timeout),
    "Condition.wait": block_in_condition,
    "Event.wait": lambda timeout: processing.Event().wait(timeout),
    "Barrier.wait": lambda timeout: processing.Barrier(2).wait(timeout),
    "Queue.get": lambda timeout: processing.Queue().get(True, timeout),
    "Queue.put": block_in_full_queue,
    "Queue.get_many": lambda timeout: processing.Queue().get_many(timeout=timeout),
    "SimpleQueue.get": lambda timeout: processing.SimpleQueue().get(),
    "JoinableQueue.join": block_in_join,
    "PosixQueue.get": lambda timeout: processing.PosixQueue().get(True, timeout),
    "Connection.recv": block_in_recv,
    "Connection.send": block_in_full_pipe,
    "Connection.poll": block_in_poll,
    "connection.wait": block_in_wait,
}
WITHOUT_TIMEOUT = {"SimpleQueue.get", "JoinableQueue.join", "Connection.recv", "Connection.send"}


@pytest.fixture(params=sorted(BLOCKING))
def call(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def expect(
    call: str, exception: type[BaseException], timeout: float | None, asking: Flag, outcome: Flag
) -> None:
    asking.say()
    try:
        BLOCKING[call](timeout)
    except exception:
        outcome.say(1)
        # And the process is in order.
        messages = processing.Queue()
        messages.put(1)
        assert messages.get(timeout=LIMIT) == 1
    else:
        outcome.say(2)


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_control_c(call: str, timeout: float | None) -> None:
    if timeout is not None and call in WITHOUT_TIMEOUT:
        timeout = None
    asking, outcome = Flag(), Flag()
    with child(processing, expect, call, KeyboardInterrupt, timeout, asking, outcome) as process:
        asking.hear()
        until_asleep(process.pid)
        os.kill(process.pid, signal.SIGINT)
        assert outcome.hear() == 1
        ended(process)


def test_stop(call: str) -> None:
    asking, outcome = Flag(), Flag()
    with child(
        processing, expect, call, processing.ProcessExit, None, asking, outcome, stoppable=True
    ) as process:
        asking.hear()
        until_asleep(process.pid)
        process.stop()
        assert outcome.hear() == 1
        ended(process)


def count(handled: Flag) -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: handled.say())


def wait_for_set(event: Any, asking: Flag, handled: Flag) -> None:
    count(handled)
    asking.say()
    assert event.wait(LIMIT) is True


def test_a_handler_that_returns_does_not_end_the_wait() -> None:
    event = processing.Event()
    asking, handled = Flag(), Flag()
    with child(processing, wait_for_set, event, asking, handled) as process:
        asking.hear()
        for _ in range(20):
            until_asleep(process.pid, samples=2)
            os.kill(process.pid, signal.SIGUSR1)
            handled.hear()
        assert process.is_alive()
        event.set()
        ended(process)


def wait_in_vain(asking: Flag, handled: Flag) -> None:
    count(handled)
    asking.say()
    seconds, result = take_seconds(lambda: processing.Event().wait(0.5))
    assert result is False
    assert 0.49 <= seconds < 5


def test_handlers_do_not_prolong_a_timeout() -> None:
    asking, handled = Flag(), Flag()
    with child(processing, wait_in_vain, asking, handled) as process:
        asking.hear()
        while process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.02)
        ended(process)


def get_and_tell(messages: Any, asking: Flag, outcome: Flag) -> None:
    signal.signal(signal.SIGUSR1, interrupt)
    asking.say()
    while True:
        try:
            number = messages.get()
        except InterruptedError:
            asking.say()
            continue
        outcome.say(number)
        break


def interrupt(number: int, frame: Any) -> None:
    raise InterruptedError("by the handler")


def test_an_interrupted_get_takes_nothing() -> None:
    messages = processing.Queue()
    asking, outcome = Flag(), Flag()
    with child(processing, get_and_tell, messages, asking, outcome) as process:
        for _ in range(10):
            asking.hear()
            until_asleep(process.pid, samples=2)
            os.kill(process.pid, signal.SIGUSR1)
        asking.hear()
        messages.put(5)
        assert outcome.hear() == 5
        ended(process)
    assert messages.empty()


def wait_interruptibly(number: int, condition: Any, asking: Flag, outcome: Flag) -> None:
    signal.signal(signal.SIGUSR1, interrupt)
    try:
        with condition:
            asking.say()
            outcome.say(number if condition.wait(LIMIT) else 0)
    except InterruptedError:
        outcome.say(-number)


def test_an_interrupted_waiter_waits_no_more() -> None:
    """Interrupted before it is notified: the notification is for another."""
    condition = processing.Condition()
    asking, outcome = Flag(), Flag()
    with child(processing, wait_interruptibly, 1, condition, asking, outcome) as first:
        asking.hear()
        until_asleep(first.pid)
        with child(processing, wait_interruptibly, 2, condition, asking, outcome) as second:
            asking.hear()
            until_asleep(second.pid)
            os.kill(first.pid, signal.SIGUSR1)
            assert outcome.hear() == -1
            with condition:
                condition.notify()
            assert outcome.hear() == 2
            ended(first, second)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_waiter_interrupted_after_it_was_notified(kind: str) -> None:
    """While it waits for the lock: wait() does not return without it, and the notification goes to another."""
    lock = getattr(processing, kind)()
    condition = processing.Condition(lock)
    asking, outcome = Flag(), Flag()
    with child(processing, wait_interruptibly, 1, condition, asking, outcome) as first:
        asking.hear()
        until_asleep(first.pid)
        with child(processing, wait_interruptibly, 2, condition, asking, outcome) as second:
            asking.hear()
            until_asleep(second.pid)
            with condition:
                condition.notify()
                until_asleep(first.pid)
                os.kill(first.pid, signal.SIGUSR1)
                until_asleep(first.pid)
                assert not outcome.was_said()
                # Nobody has released what this process holds.
                assert repr(lock).startswith(("<Lock(owner=MainProcess", "<RLock(MainProcess, 1"))
            assert sorted([outcome.hear(), outcome.hear()]) == [-1, 2]
            ended(first, second)


def test_control_c_in_the_main_process_leaves_locks_as_they_are() -> None:
    lock = locked()
    asking = Flag()
    with child(processing, interrupt_parent, os.getpid(), asking) as process:
        with pytest.raises(KeyboardInterrupt):
            asking.say()
            lock.acquire()
        ended(process)
    assert lock.acquire(False) is False
    lock.release()
    assert lock.acquire(False) is True


def interrupt_parent(pid: int, asking: Flag) -> None:
    asking.hear()
    until_asleep(pid)
    os.kill(pid, signal.SIGINT)
