"""SimpleQueue, and JoinableQueue's counting of unfinished messages."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, children, ended, until_asleep

# ---- SimpleQueue ----------------------------------------------------------------------------------------------------


def test_simple_queue() -> None:
    messages = processing.SimpleQueue()
    assert messages.empty() is True
    for value in (1, "two", [3], None, b"x" * 300_000):
        messages.put(value)
        assert messages.empty() is False
    assert [messages.get() for _ in range(5)] == [1, "two", [3], None, b"x" * 300_000]
    assert messages.empty() is True


def test_simple_queue_never_blocks_a_putter() -> None:
    messages = processing.SimpleQueue()
    for number in range(50_000):
        messages.put(number)
    assert all(messages.get() == number for number in range(50_000))


def echo(requests: Any, replies: Any) -> None:
    while (request := requests.get()) is not None:
        replies.put(request)


def test_simple_queue_between_processes(start_method: Any) -> None:
    requests, replies = start_method.SimpleQueue(), start_method.SimpleQueue()
    with child(start_method, echo, requests, replies) as process:
        for value in (1, "a", {"b": [2]}, b"x" * 100_000):
            requests.put(value)
            assert replies.get() == value
        requests.put(None)
        ended(process)


def test_simple_queue_wakes_a_getter() -> None:
    requests, replies = processing.SimpleQueue(), processing.SimpleQueue()
    with child(processing, echo, requests, replies) as process:
        until_asleep(process.pid)
        requests.put("x")
        assert replies.get() == "x"
        requests.put(None)
        ended(process)


def test_simple_queue_closed() -> None:
    messages = processing.SimpleQueue()
    messages.close()
    messages.close()
    with pytest.raises((ValueError, OSError)):
        messages.put(1)
    with pytest.raises((ValueError, OSError)):
        messages.get()


# ---- JoinableQueue --------------------------------------------------------------------------------------------------


def in_time(action: Any) -> threading.Thread:
    """Starts it in a thread, to see whether it ends."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_it_is_a_queue() -> None:
    messages = processing.JoinableQueue(2)
    messages.put_nowait(1)
    messages.put_nowait(2)
    assert messages.full()
    with pytest.raises(processing.queues.Full):
        messages.put_nowait(3)
    assert [messages.get(), messages.get_nowait()] == [1, 2]
    with pytest.raises(ValueError):
        processing.JoinableQueue(-1)


def test_join_of_one_that_was_never_used() -> None:
    processing.JoinableQueue().join()


def test_join_waits_for_task_done() -> None:
    messages = processing.JoinableQueue()
    messages.put("a")
    messages.put("b")
    joining = in_time(messages.join)
    for _ in range(2):
        messages.get()
        joining.join(0.02)
        assert joining.is_alive()
        messages.task_done()
    joining.join(LIMIT)
    assert not joining.is_alive()
    messages.join()


def test_task_done_too_often() -> None:
    messages = processing.JoinableQueue()
    with pytest.raises(ValueError):
        messages.task_done()
    for _ in range(2):
        messages.put(1)
        messages.get()
        messages.task_done()
        with pytest.raises(ValueError):
            messages.task_done()
    messages.join()


def test_a_batch_counts_each_message() -> None:
    messages = processing.JoinableQueue()
    messages.put_many(range(5))
    assert messages.get_many() == [0, 1, 2, 3, 4]
    joining = in_time(messages.join)
    for _ in range(5):
        assert joining.is_alive()
        messages.task_done()
    joining.join(LIMIT)
    assert not joining.is_alive()
    with pytest.raises(ValueError):
        messages.task_done()


def work(number: int, messages: Any, results: Any) -> None:
    while True:
        value = messages.get(timeout=LIMIT)
        if value is not None:
            results.put(value)
        messages.task_done()
        if value is None:
            break


def test_between_processes(start_method: Any) -> None:
    messages, results = start_method.JoinableQueue(), start_method.Queue()
    with children(start_method, 3, work, messages, results) as processes:
        for number in range(200):
            messages.put(number)
        messages.join()
        # All have been dealt with by now.
        assert sorted(results.get_many()) == list(range(200))
        for _ in processes:
            messages.put(None)
        messages.join()
        ended(*processes)


def join_and_tell(messages: Any, asking: Flag, joined: Flag) -> None:
    asking.say()
    messages.join()
    joined.say()


def test_any_process_may_join() -> None:
    messages = processing.JoinableQueue()
    messages.put(1)
    asking, joined = Flag(), Flag()
    with child(processing, join_and_tell, messages, asking, joined) as process:
        asking.hear()
        until_asleep(process.pid)
        messages.get()
        assert not joined.was_said()
        messages.task_done()
        joined.hear()
        ended(process)


def get_and_exit(messages: Any, how: str) -> None:
    messages.get(timeout=LIMIT)
    messages.task_done()
    if how == "_exit":
        os._exit(0)


@pytest.mark.parametrize("how", ["return", "_exit"])
def test_what_was_done_stays_done_when_the_consumer_ends(how: str) -> None:
    messages = processing.JoinableQueue()
    messages.put(1)
    with child(processing, get_and_exit, messages, how) as process:
        ended(process)
    messages.join()
    with pytest.raises(ValueError):
        messages.task_done()


def test_closed() -> None:
    messages = processing.JoinableQueue()
    messages.close()
    with pytest.raises(ValueError):
        messages.put(1)
    with pytest.raises(ValueError):
        messages.get()


def test_repr() -> None:
    assert "JoinableQueue" in repr(processing.JoinableQueue())
    assert "'tasks'" in repr(processing.JoinableQueue(name="tasks"))
