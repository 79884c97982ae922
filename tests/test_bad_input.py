"""Bad input: an error at the call that made the mistake, and nothing harmed."""

from __future__ import annotations

import os
import pickle
import queue
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, ended, output_of

QUEUES = ["Queue", "BufferedQueue", "SimpleQueue", "JoinableQueue", "PosixQueue"]


@pytest.fixture(params=QUEUES)
def messages(request: pytest.FixtureRequest) -> Any:
    made = getattr(processing, request.param)()
    yield made
    made.close()


# ---- Objects that cannot be pickled ---------------------------------------------------------------------------------


class Holder:
    def __init__(self, part: Any) -> None:
        self.part = part


class Refuses:
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this one")


def generator() -> Any:
    yield 1


UNPICKLABLE = {
    "a lock of threading": threading.Lock,
    "a generator": generator,
    "one that refuses": Refuses,
}


@pytest.mark.parametrize("what", sorted(UNPICKLABLE))
def test_put_refuses_what_cannot_be_pickled(messages: Any, what: str) -> None:
    culprit = UNPICKLABLE[what]()
    with pytest.raises((TypeError, pickle.PicklingError, AttributeError, RuntimeError)):
        messages.put(culprit)
    assert messages.empty()
    messages.put("fine")
    assert messages.get() == "fine"
    if isinstance(culprit, socket.socket):
        culprit.close()


@pytest.mark.parametrize("send", ["put", "put_many", "send"])
def test_the_error_names_the_path_to_the_culprit(send: str) -> None:
    culprit = {"results": [1, Holder(part=(0, threading.Lock()))]}
    if send == "send":
        ours, theirs = processing.Pipe()
        action = ours.send
    else:
        messages = processing.Queue()
        action = messages.put if send == "put" else lambda obj: messages.put_many([0, obj])
    with pytest.raises((TypeError, pickle.PicklingError)) as caught:
        action(culprit)
    assert "['results'][1].part[1]" in str(caught.value)
    if send == "send":
        ours.close()
        theirs.close()


def test_the_error_comes_from_the_callers_thread_at_once() -> None:
    """Nothing is printed by a thread of ours later."""
    messages = processing.Queue()
    before = threading.active_count()
    with pytest.raises(TypeError):
        messages.put(Refuses())
    assert threading.active_count() == before


def test_a_failure_in_the_middle_of_pickling_leaks_nothing() -> None:
    """Handles that had been written before the culprit are not kept alive by a message that never was."""
    ours, theirs = processing.Pipe()
    messages = processing.Queue()
    with pytest.raises(TypeError):
        messages.put([theirs, b"x" * 100_000, Refuses()])
    theirs.close()
    assert ours.poll(LIMIT)
    with pytest.raises(EOFError):
        ours.recv()
    ours.close()


def fail() -> None:
    raise ZeroDivisionError("while unpickling")


class Unloadable:
    def __reduce__(self) -> Any:
        return fail, ()


def test_what_cannot_be_unpickled_is_an_error_of_get(messages: Any) -> None:
    messages.put(Unloadable())
    messages.put("next")
    with pytest.raises(ZeroDivisionError):
        messages.get()
    assert messages.get() == "next"
    assert messages.empty()


# ---- Queues ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "PosixQueue"])
@pytest.mark.parametrize("maxsize", [-1, -(2**40)])
def test_negative_maxsize(kind: str, maxsize: int) -> None:
    with pytest.raises(ValueError):
        getattr(processing, kind)(maxsize)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "PosixQueue"])
@pytest.mark.parametrize("maxsize", ["5", 2.5, [1]])
def test_maxsize_that_is_no_number(kind: str, maxsize: Any) -> None:
    with pytest.raises(TypeError):
        getattr(processing, kind)(maxsize)


def test_a_closed_queue(messages: Any) -> None:
    messages.put("x")
    messages.close()
    for action in (lambda: messages.put(1), messages.get):
        with pytest.raises(ValueError, match="closed"):
            action()


def test_close_while_another_thread_waits() -> None:
    """Whatever that thread gets, it ends, and nothing crashes."""
    messages = processing.Queue()
    outcome: list[Any] = []

    def get() -> None:
        try:
            outcome.append(messages.get(timeout=0.5))
        except (ValueError, queue.Empty) as error:
            outcome.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    messages.close()
    thread.join(LIMIT)
    assert len(outcome) == 1


@pytest.mark.parametrize("timeout", ["1", [1], object()])
def test_timeouts_that_are_no_numbers(timeout: Any) -> None:
    lock = processing.Lock()
    lock.acquire()
    for action in (
        lambda: lock.acquire(True, timeout),
        lambda: processing.Queue().get(True, timeout),
        lambda: processing.Event().wait(timeout),
        lambda: processing.PosixQueue().get(True, timeout),
    ):
        with pytest.raises(TypeError):
            action()


def test_a_timeout_that_is_not_a_number() -> None:
    with pytest.raises(ValueError):
        processing.Event().wait(float("nan"))


@pytest.mark.parametrize("timeout", [1e12, float("inf"), 2**70])
def test_timeouts_beyond_all_clocks(timeout: float) -> None:
    lock = processing.Lock()
    assert lock.acquire(timeout=timeout)
    event = processing.Event()
    thread = threading.Timer(SHORT, event.set)
    thread.start()
    assert event.wait(timeout)
    thread.join()


def test_oversized_messages_of_a_posix_queue() -> None:
    messages = processing.PosixQueue(2, 500)
    with pytest.raises(ValueError, match="500"):
        messages.put("x" * 500)
    assert messages.empty()
    messages.put("x" * 400)
    assert messages.get() == "x" * 400
    messages.close()


def test_a_posix_queue_larger_than_the_system_allows() -> None:
    with pytest.raises(ValueError):
        processing.PosixQueue(10**9)
    with pytest.raises(ValueError):
        processing.PosixQueue(1, 10**9)


# ---- Locks ----------------------------------------------------------------------------------------------------------


def test_release_of_what_is_not_held() -> None:
    with pytest.raises(ValueError):
        processing.Lock().release()
    with pytest.raises(AssertionError):
        processing.RLock().release()
    with pytest.raises(ValueError):
        processing.BoundedSemaphore(1).release()
    with pytest.raises((ValueError, AssertionError)):
        processing.Condition().release()


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
@pytest.mark.parametrize("value", [-1, 2**31, 2**64])
def test_impossible_numbers_of_permits(kind: str, value: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        getattr(processing, kind)(value)


@pytest.mark.parametrize("name", [5, b"bytes", ["x"]])
def test_names_that_are_no_text(name: Any) -> None:
    for make in (processing.Lock, processing.Queue, processing.Event, processing.PosixQueue):
        with pytest.raises(TypeError):
            make(name=name)


def test_long_and_strange_names_do_no_harm() -> None:
    for name in ("x" * 1000, "日本語" * 50, "a\x00b", ""):
        lock = processing.Lock(name=name)
        assert lock.acquire()
        assert repr(lock).startswith("<Lock(")
        lock.release()


def test_a_condition_of_something_else() -> None:
    for lock in (threading.Lock(), "lock", processing.Event()):
        with pytest.raises((TypeError, AttributeError)):
            processing.Condition(lock).acquire()


# ---- Bytes that are no messages -------------------------------------------------------------------------------------

GARBAGE = [
    b"",
    b"\x00",
    b"garbage",
    b"\x80\x05",
    os.urandom(50) + b"\xff",
    pickle.dumps(list(range(1000)))[:-1],
    pickle.dumps(list(range(1000)))[:500],
    b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff" * 100_000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_sent_into_a_connection(data: bytes) -> None:
    """An error for that message; the connection goes on working."""
    ours, theirs = processing.Pipe()
    ours.send_bytes(data)
    ours.send("next")
    with pytest.raises(Exception):
        theirs.recv()
    assert theirs.recv() == "next"
    ours.close()
    theirs.close()


def test_pickles_of_handles_that_were_tampered_with() -> None:
    """Refused, or the very object; never a crash."""
    lock = processing.Lock(name="real")
    data = pickle.dumps(lock)
    for index in range(len(data)):
        for flip in (0x01, 0x40, 0xFF):
            bad = bytearray(data)
            bad[index] ^= flip
            try:
                made = pickle.loads(bytes(bad))
            except Exception:
                continue
            if isinstance(made, type(lock)):
                assert made.name == "real"
    assert lock.acquire(timeout=LIMIT)
    lock.release()


# ---- Out of descriptors, out of memory ------------------------------------------------------------------------------


def use_up_descriptors(messages: Any) -> None:
    """With no descriptor left, what exists goes on working; what needs a new one says so."""
    receiver, sender = processing.Pipe(False)
    lock = processing.Lock()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    # Made and used without any.
    for made in (processing.Lock(), processing.Queue(), processing.Event(), processing.Condition()):
        assert made is not None
    other = processing.Queue()
    other.put([1] * 1000)
    assert other.get(timeout=LIMIT) == [1] * 1000
    with lock:
        pass
    sender.send("x")
    assert receiver.recv() == "x"
    for action in (receiver.fileno, processing.PosixQueue, lambda: processing.Process(target=abs).start()):
        with pytest.raises(OSError):
            action()
    for fd in kept:
        os.close(fd)
    # And all is well again.
    assert receiver.fileno() >= 0
    process = processing.Process(target=abs, args=[1])
    process.start()
    ended(process)
    messages.put("done")


def test_out_of_descriptors() -> None:
    messages = processing.Queue()
    with child(processing, use_up_descriptors, messages) as process:
        assert messages.get(timeout=LIMIT) == "done"
        ended(process)


OUT_OF_DESCRIPTORS_AT_FIRST = """
    import os, resource
    import processing

    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        processing.Lock()
    except OSError as error:
        print("refused")
    for fd in kept:
        os.close(fd)
    with processing.Lock():
        print("fine")
"""


def test_no_descriptor_for_the_first_object(tmp_path: Path) -> None:
    """Nor is anything half made: later it works."""
    assert output_of(tmp_path, OUT_OF_DESCRIPTORS_AT_FIRST) == ["refused", "fine"]


OUT_OF_MEMORY = """
    import processing

    messages = processing.Queue(name="results")
    messages.put("before")
    refused = 0
    try:
        while True:
            messages.put(b"x" * 1_000_000)
    except MemoryError as error:
        refused += 1
        assert "results" in str(error), error
    size = messages.qsize()
    print(refused, 2 < size < 40)
    assert messages.get() == "before"
    for _ in range(size - 1):
        assert messages.get() == b"x" * 1_000_000
    messages.put("after")
    print(messages.get(), messages.empty())
"""


def test_out_of_memory(tmp_path: Path) -> None:
    assert output_of(tmp_path, OUT_OF_MEMORY, PROCESSING_MEMORY_LIMIT="32M") == ["1 True", "after True"]


# ---- Processes ------------------------------------------------------------------------------------------------------


def test_an_unpicklable_argument_of_a_process() -> None:
    for method in ("spawn", "forkserver"):
        process = processing.get_context(method).Process(target=print, args=[{"deep": threading.Lock()}])
        with pytest.raises((TypeError, pickle.PicklingError)) as caught:
            process.start()
        assert "['deep']" in str(caught.value)
    assert processing.active_children() == []


def test_an_unknown_start_method() -> None:
    with pytest.raises(ValueError):
        processing.get_context("telepathy")


@pytest.mark.parametrize("size", [0, -1])
def test_memory_limits_that_make_no_sense(size: int) -> None:
    with pytest.raises(ValueError):
        processing.set_memory_limit(size)
