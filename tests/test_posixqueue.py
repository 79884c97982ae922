"""PosixQueue: the kernel's queue and its limits."""

from __future__ import annotations

import os
import pickle
import queue
import resource
import select
import signal
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, Flag, child, children, ended, kill, take_seconds, until_asleep
from processing.connection import wait

FOLDER = Path("/proc/sys/fs/mqueue")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="this kernel has no POSIX message queues")


def system(entry: str) -> int:
    return int((FOLDER / entry).read_text())


@pytest.fixture
def messages() -> Any:
    made = processing.PosixQueue()
    yield made
    made.close()


def test_zero_means_the_systems_largest(messages: Any) -> None:
    assert (messages.maxsize, messages.msgsize) == (system("msg_max"), system("msgsize_max"))


def test_more_than_the_system_allows() -> None:
    with pytest.raises(ValueError, match="msg_max"):
        processing.PosixQueue(system("msg_max") + 1)
    with pytest.raises(ValueError, match="msgsize_max"):
        processing.PosixQueue(1, system("msgsize_max") + 1)
    with pytest.raises(ValueError):
        processing.PosixQueue(10**9, 10**9)


@pytest.mark.parametrize("arguments", [(-1,), (1, -1)])
def test_negative_limits(arguments: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        processing.PosixQueue(*arguments)


def test_limits_that_are_no_numbers() -> None:
    with pytest.raises(TypeError):
        processing.PosixQueue("3")
    with pytest.raises(TypeError):
        processing.PosixQueue(1, 2.5)


def test_values(messages: Any) -> None:
    for value in (None, 0, -1.5, "text", b"bytes", [1, {"a": (2,)}], 10**100, "x" * 5000):
        messages.put(value)
        assert messages.get(timeout=LIMIT) == value


def test_first_in_first_out_and_sizes() -> None:
    messages = processing.PosixQueue(3)
    assert (messages.empty(), messages.full(), messages.qsize()) == (True, False, 0)
    for number in range(3):
        messages.put(number)
    assert (messages.empty(), messages.full(), messages.qsize()) == (False, True, 3)
    assert [messages.get() for _ in range(3)] == [0, 1, 2]
    messages.close()


def test_full_and_empty() -> None:
    messages = processing.PosixQueue(1)
    messages.put(1)
    for action in (
        lambda: messages.put_nowait(2),
        lambda: messages.put(2, False),
        lambda: messages.put(2, True, 0),
        lambda: messages.put(2, timeout=SHORT),
        lambda: messages.put(2, timeout=-1),
    ):
        with pytest.raises(queue.Full):
            action()
    assert messages.get() == 1
    for action in (
        messages.get_nowait,
        lambda: messages.get(False),
        lambda: messages.get(timeout=SHORT),
        lambda: messages.get(timeout=-1),
    ):
        with pytest.raises(queue.Empty):
            action()
    messages.close()


def test_timeouts_are_in_seconds(messages: Any) -> None:
    def get() -> None:
        with pytest.raises(queue.Empty):
            messages.get(timeout=0.15)

    seconds, _ = take_seconds(get)
    assert 0.14 <= seconds < 5


def test_a_message_that_is_too_long() -> None:
    messages = processing.PosixQueue(4, 1000)
    messages.put("before")
    with pytest.raises(ValueError, match="1000"):
        messages.put("x" * 1000)
    with pytest.raises(ValueError, match=r"items\[1\]"):
        messages.put_many(["between", b"x" * 2000, "never"])
    messages.put("after")
    assert messages.get_many() == ["before", "between", "after"]
    messages.close()


def test_the_longest_message_that_fits() -> None:
    messages = processing.PosixQueue(4, 1000)
    overhead = len(pickle.dumps(b"x" * 900, 5)) - 900
    messages.put(b"x" * (1000 - overhead))
    assert len(messages.get()) == 1000 - overhead
    with pytest.raises(ValueError):
        messages.put(b"x" * (1001 - overhead))
    messages.close()


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def test_what_cannot_be_pickled_is_refused_by_put(messages: Any) -> None:
    with pytest.raises(TypeError, match="not me"):
        messages.put({"key": Unpicklable()})
    assert messages.empty()
    messages.put("fine")
    assert messages.get() == "fine"


def echo(requests: Any, replies: Any) -> None:
    while (request := requests.get(timeout=LIMIT)) is not None:
        replies.put(request)


def test_given_to_a_new_process(start_method: Any) -> None:
    requests = start_method.PosixQueue(name="requests")
    replies = start_method.PosixQueue(2, 500)
    with child(start_method, echo, requests, replies) as process:
        for number in range(100):
            requests.put(number)
            assert replies.get(timeout=LIMIT) == number
        requests.put(None)
        ended(process)
    requests.close()
    replies.close()


def test_it_cannot_be_sent_to_a_running_process(messages: Any) -> None:
    with pytest.raises(RuntimeError, match="Process"):
        pickle.dumps(messages)
    with pytest.raises(RuntimeError):
        processing.Queue().put(messages)


def get_and_tell(messages: Any, asking: Flag, got: Flag) -> None:
    asking.say()
    got.say(messages.get())


def test_put_wakes_a_getter(messages: Any) -> None:
    asking, got = Flag(), Flag()
    with child(processing, get_and_tell, messages, asking, got) as process:
        asking.hear()
        until_asleep(process.pid)
        messages.put(42)
        assert got.hear() == 42
        ended(process)


def put_and_tell(messages: Any, asking: Flag, done: Flag) -> None:
    asking.say()
    messages.put("second")
    done.say()


def test_get_wakes_a_putter() -> None:
    messages = processing.PosixQueue(1)
    messages.put("first")
    asking, done = Flag(), Flag()
    with child(processing, put_and_tell, messages, asking, done) as process:
        asking.hear()
        until_asleep(process.pid)
        assert not done.was_said()
        assert messages.get() == "first"
        done.hear()
        assert messages.get() == "second"
        ended(process)
    messages.close()


def produce(number: int, messages: Any, count: int) -> None:
    for index in range(count):
        messages.put((number, index))


def consume(number: int, messages: Any, results: Any) -> None:
    seen = []
    while (message := messages.get(timeout=LIMIT)) is not None:
        seen.append(message)
    results.put(seen)


def test_many_producers_and_consumers(messages: Any) -> None:
    results = processing.Queue()
    with children(processing, 3, consume, messages, results) as takers:
        with children(processing, 3, produce, messages, 500) as makers:
            ended(*makers)
        for _ in takers:
            messages.put(None)
        seen = [results.get(timeout=LIMIT) for _ in takers]
        ended(*takers)
    assert sorted(pair for part in seen for pair in part) == [(m, i) for m in range(3) for i in range(500)]
    for part in seen:
        for maker in range(3):
            indices = [index for producer, index in part if producer == maker]
            assert indices == sorted(indices)


def test_what_was_put_survives_its_producer(messages: Any) -> None:
    asking, got = Flag(), Flag()
    with child(processing, put_and_tell, messages, asking, got) as process:
        got.hear()
        process.kill()
        process.join(LIMIT)
    assert messages.get(timeout=LIMIT) == "second"


def test_a_killed_getter_takes_nothing_with_it(messages: Any) -> None:
    asking, got = Flag(), Flag()
    with child(processing, get_and_tell, messages, asking, got) as process:
        asking.hear()
        until_asleep(process.pid)
        kill(process)
    messages.put(1)
    assert messages.get(timeout=LIMIT) == 1


def interrupted(messages: Any, asking: Flag, full: bool) -> None:
    asking.say()
    with pytest.raises(KeyboardInterrupt):
        if full:
            messages.put(1)
        else:
            messages.get()


@pytest.mark.parametrize("full", [False, True])
def test_control_c(full: bool) -> None:
    messages = processing.PosixQueue(1)
    if full:
        messages.put(1)
    asking = Flag()
    with child(processing, interrupted, messages, asking, full) as process:
        asking.hear()
        until_asleep(process.pid)
        os.kill(process.pid, signal.SIGINT)
        ended(process)
    messages.close()


def test_its_descriptor_can_be_watched(messages: Any) -> None:
    assert select.select([messages], [messages], [], 0) == ([], [messages], [])
    assert wait([messages], timeout=SHORT) == []
    messages.put(1)
    assert select.select([messages], [], [], 0)[0] == [messages]
    assert wait([messages], timeout=LIMIT) == [messages]
    messages.get()
    assert select.select([messages], [], [], 0)[0] == []


def test_closed() -> None:
    messages = processing.PosixQueue(name="gone")
    messages.close()
    messages.close()
    for action in (
        lambda: messages.put(1),
        messages.get,
        messages.get_nowait,
        messages.qsize,
        messages.empty,
        messages.full,
        messages.fileno,
        lambda: messages.put_many([1]),
        messages.get_many,
    ):
        with pytest.raises(ValueError, match="closed"):
            action()
    assert "'gone'" in repr(messages)


def test_others_may_go_on_after_close() -> None:
    messages = processing.PosixQueue()
    answers = processing.Queue()
    with child(processing, echo, messages, answers) as process:
        messages.put("x")
        messages.put(None)
        messages.close()
        assert answers.get(timeout=LIMIT) == "x"
        ended(process)


def test_it_has_no_name_in_the_system(messages: Any) -> None:
    target = os.readlink(f"/proc/self/fd/{messages.fileno()}")
    assert "deleted" in target
    if Path("/dev/mqueue").is_dir():
        assert not any("processing" in name for name in os.listdir("/dev/mqueue"))


def test_other_programs_do_not_inherit_it(messages: Any) -> None:
    assert not os.get_inheritable(messages.fileno())


def limited(which: int, value: int, outcome: Any) -> None:
    resource.setrlimit(which, (value, value))
    kept = []
    try:
        for _ in range(1000):
            kept.append(processing.PosixQueue(1, 4000))
    except OSError as error:
        outcome.put(str(error))
    kept.clear()
    processing.PosixQueue(1, 1000).close()


@pytest.mark.parametrize(
    ("which", "value", "words"),
    [(resource.RLIMIT_MSGQUEUE, 30_000, "RLIMIT_MSGQUEUE"), (resource.RLIMIT_NOFILE, 40, "ulimit -n")],
)
def test_out_of_what_the_system_gives(which: int, value: int, words: str) -> None:
    outcome = processing.Queue()
    with child(processing, limited, which, value, outcome) as process:
        assert words in outcome.get(timeout=LIMIT)
        ended(process)


def little_memory(outcome: Any) -> None:
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (30_000, 30_000))
    messages = processing.PosixQueue()
    outcome.put((messages.maxsize, messages.msgsize))
    for number in range(messages.maxsize):
        messages.put_nowait(number)
    messages.close()


def test_the_largest_is_what_the_users_limit_leaves() -> None:
    outcome = processing.Queue()
    with child(processing, little_memory, outcome) as process:
        maxsize, msgsize = outcome.get(timeout=LIMIT)
        ended(process)
    assert 1 <= maxsize <= system("msg_max")
    assert maxsize * msgsize <= 30_000


def test_statistics_and_repr() -> None:
    messages = processing.PosixQueue(4, 300, name="kernel")
    messages.put(1)
    statistics = messages.statistics()
    assert (statistics.name, statistics.maxsize, statistics.msgsize) == ("kernel", 4, 300)
    assert (statistics.puts, statistics.gets, statistics.qsize) == (1, 0, 1)
    assert "'kernel'" in repr(messages)
    assert repr(messages).startswith("<PosixQueue")
    messages.close()
