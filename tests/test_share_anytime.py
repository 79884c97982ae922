"""Handles travel at any time, to processes that run already; and handles of what is not there any more."""

from __future__ import annotations

import dataclasses
import gc
import pickle
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, Flag, child, ended, run_program
from processing.connection import wait

pytestmark = pytest.mark.ends

KINDS: dict[str, tuple[Any, ...]] = {
    "Lock": (),
    "RLock": (),
    "Semaphore": (2,),
    "BoundedSemaphore": (2,),
    "Condition": (),
    "Event": (),
    "Barrier": (2,),
    "Queue": (3,),
    "BufferedQueue": (),
    "SimpleQueue": (),
    "JoinableQueue": (3,),
}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# ---- What all of them have in common --------------------------------------------------------------------------------


def test_name(kind: str) -> None:
    make = getattr(processing, kind)
    made = make(*KINDS[kind], name="a name")
    assert made.name == "a name"
    assert "'a name'" in repr(made)
    assert make(*KINDS[kind]).name is None
    assert kind in repr(made)


def test_statistics_are_frozen(kind: str) -> None:
    statistics = getattr(processing, kind)(*KINDS[kind]).statistics()
    assert dataclasses.is_dataclass(statistics)
    field = dataclasses.fields(statistics)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(statistics, field, 1)


def test_pickling_gives_the_same_object(kind: str) -> None:
    """Not a second one: what is done to one is seen by the other."""
    made = getattr(processing, kind)(*KINDS[kind], name="one")
    copy = pickle.loads(pickle.dumps(made))
    assert type(copy) is type(made)
    assert copy.name == "one"
    if kind.endswith("Queue"):
        made.put("x")
        assert copy.get() == "x"
    elif kind == "Event":
        made.set()
        assert copy.is_set()
    elif kind == "Barrier":
        made.abort()
        assert copy.broken
    elif kind == "Lock":
        made.acquire()
        assert copy.acquire(False) is False
        copy.release()
    elif kind.endswith("Semaphore"):
        made.acquire()
        assert copy.get_value() == 1
    else:
        assert made.acquire()
        copy.release()


def test_every_start_method_takes_them(start_method: Any, kind: str) -> None:
    made = getattr(start_method, kind)(*KINDS[kind], name="passed")
    with child(start_method, look_at, made, kind) as process:
        ended(process)


def look_at(made: Any, kind: str) -> None:
    assert type(made).__name__ == kind
    assert made.name == "passed"


# ---- To processes that run already ----------------------------------------------------------------------------------


def serve(requests: Any) -> None:
    """Receives handles, each with an order, and uses them; all of them were made after this process."""
    while (request := requests.get(timeout=LIMIT)) is not None:
        order, thing, *rest = request
        if order == "acquire":
            assert thing.acquire(timeout=LIMIT)
        elif order == "release":
            thing.release()
        elif order == "set":
            thing.set()
        elif order == "put":
            thing.put(*rest)
        elif order == "send":
            thing.send(*rest)
            thing.close()
        elif order == "echo":
            thing.send(thing.recv())
            thing.close()
        elif order == "notify":
            with thing:
                thing.notify()
        elif order == "wait":
            thing.wait(LIMIT)
        elif order == "move":
            rest[0].put(thing.get(timeout=LIMIT))
        rest.clear()
        del thing, request


@pytest.fixture
def server(start_method: Any) -> Any:
    requests = start_method.Queue()
    with child(start_method, serve, requests) as process:
        yield requests
        requests.put(None)
        ended(process)


def test_locks_and_signals_through_a_queue(server: Any) -> None:
    lock = processing.Lock(name="late")
    event = processing.Event()
    permits = processing.Semaphore(0)
    server.put(("acquire", lock))
    server.put(("release", permits))
    server.put(("set", event))
    assert event.wait(LIMIT)
    assert lock.acquire(False) is False
    assert permits.acquire(timeout=LIMIT)
    server.put(("release", lock))
    assert lock.acquire(timeout=LIMIT)


def test_conditions_and_barriers_through_a_queue(server: Any) -> None:
    condition = processing.Condition()
    with condition:
        server.put(("notify", condition))
        assert condition.wait(LIMIT)
    barrier = processing.Barrier(2)
    server.put(("wait", barrier))
    assert barrier.wait(LIMIT) in (0, 1)


def test_queues_through_a_queue(server: Any) -> None:
    answers = processing.Queue()
    for number in range(5):
        server.put(("put", answers, number))
    assert [answers.get(timeout=LIMIT) for _ in range(5)] == list(range(5))
    inner = processing.Queue()
    server.put(("put", answers, {"deep": [inner]}))
    answers.get(timeout=LIMIT)["deep"][0].put("same")
    assert inner.get(timeout=LIMIT) == "same"


def test_pipe_ends_through_a_queue(server: Any) -> None:
    ours, theirs = processing.Pipe()
    server.put(("echo", theirs))
    theirs.close()
    ours.send("there and back")
    assert ours.poll(LIMIT)
    assert ours.recv() == "there and back"
    assert ours.poll(LIMIT)
    with pytest.raises(EOFError):
        ours.recv()
    ours.close()


def test_a_message_on_its_way_keeps_the_object_alive(server: Any) -> None:
    answers = processing.Queue()
    inner = processing.Queue()
    inner.put("kept")
    server.put(("move", inner, answers))
    del inner
    gc.collect()
    assert answers.get(timeout=LIMIT) == "kept"


def test_a_message_on_its_way_keeps_the_pipe_open() -> None:
    ours, theirs = processing.Pipe()
    box = processing.Queue()
    box.put(theirs)
    theirs.close()
    assert ours.poll(0) is False
    ours.send("x")
    received = box.get(timeout=LIMIT)
    assert received.recv() == "x"
    received.close()
    ours.close()


def test_a_handle_that_nobody_received_is_freed_with_its_queue() -> None:
    ours, theirs = processing.Pipe()
    box = processing.Queue()
    box.put(theirs)
    theirs.close()
    del box
    gc.collect()
    assert ours.poll(LIMIT)
    with pytest.raises(EOFError):
        ours.recv()
    ours.close()


def test_a_queue_in_itself() -> None:
    messages = processing.Queue()
    messages.put(messages)
    copy = messages.get(timeout=LIMIT)
    copy.put("x")
    assert messages.get(timeout=LIMIT) == "x"


def make_and_send(number: int, box: Any) -> None:
    inner = processing.Queue(name=f"from {number}")
    inner.put("hello")
    box.put(inner)


def test_a_childs_object_outlives_the_child(start_method: Any) -> None:
    box = start_method.Queue()
    with child(start_method, make_and_send, 3, box) as process:
        ended(process)
    inner = box.get(timeout=LIMIT)
    assert inner.name == "from 3"
    assert inner.get(timeout=LIMIT) == "hello"


def test_start_then_delete(start_method: Any) -> None:
    """The child has its references before it exists: what the parent drops at once is still there for it."""
    box = start_method.Queue()
    inner = start_method.Queue()
    inner.put("still here")
    process = start_method.Process(target=move, args=(inner, box))
    process.start()
    del inner
    gc.collect()
    assert box.get(timeout=LIMIT) == "still here"
    ended(process)


def move(source: Any, target: Any) -> None:
    target.put(source.get(timeout=LIMIT))


def test_siblings_and_grandchildren() -> None:
    box = processing.Queue()
    with child(processing, have_a_child, box) as process:
        lock = box.get(timeout=LIMIT)
        event = box.get(timeout=LIMIT)
        assert lock.acquire(False) is False
        event.set()
        assert lock.acquire(timeout=LIMIT)
        ended(process)


def have_a_child(box: Any) -> None:
    with child(processing, make_a_lock, box) as process:
        ended(process)


def make_a_lock(box: Any) -> None:
    lock, event = processing.Lock(), processing.Event()
    lock.acquire()
    box.put(lock)
    box.put(event)
    assert event.wait(LIMIT)
    lock.release()


def test_many_handles_in_one_message() -> None:
    box = processing.Queue()
    locks = [processing.Lock() for _ in range(500)]
    box.put(locks)
    copies = box.get(timeout=LIMIT)
    locks[499].acquire()
    assert copies[499].acquire(False) is False
    assert copies[498].acquire(False) is True


# ---- Handles of what is not there -----------------------------------------------------------------------------------


def test_a_freed_object(kind: str) -> None:
    made = getattr(processing, kind)(*KINDS[kind])
    data = pickle.dumps(made)
    del made
    gc.collect()
    with pytest.raises(processing.StaleHandleError):
        pickle.loads(data)


def test_a_freed_object_whose_place_is_taken_again(kind: str) -> None:
    make = getattr(processing, kind)
    made = make(*KINDS[kind])
    data = pickle.dumps(made)
    del made
    gc.collect()
    others = [make(*KINDS[kind]) for _ in range(100)]
    with pytest.raises(processing.StaleHandleError):
        pickle.loads(data)
    del others


def test_a_freed_pipe_end() -> None:
    ours, theirs = processing.Pipe()
    data = pickle.dumps(theirs)
    ours.close()
    theirs.close()
    del ours, theirs
    gc.collect()
    with pytest.raises(processing.StaleHandleError):
        pickle.loads(data)


ANOTHER_PROGRAM = """
    import pickle, sys
    import processing

    def main():
        kept = [processing.Lock() for _ in range(50)] + [processing.Queue() for _ in range(50)]
        with open("handles", "rb") as file:
            handles = pickle.load(file)
        refused = 0
        for data in handles:
            try:
                pickle.loads(data)
            except processing.StaleHandleError as error:
                assert "program" in str(error)
                refused += 1
        print(refused)

    if __name__ == "__main__":
        main()
"""


def test_a_handle_of_another_program(tmp_path: Path) -> None:
    kept: list[Any] = [getattr(processing, kind)(*KINDS[kind]) for kind in KINDS]
    kept += processing.Pipe()
    (tmp_path / "handles").write_bytes(pickle.dumps([pickle.dumps(each) for each in kept]))
    done = run_program(tmp_path, ANOTHER_PROGRAM)
    assert (done.stdout.split(), done.stderr) == ([str(len(kept))], "")


def test_it_is_a_value_error_too() -> None:
    assert issubclass(processing.StaleHandleError, ValueError)
    assert issubclass(processing.StaleHandleError, processing.ProcessingError)


def test_a_stale_handle_in_a_message_leaves_the_queue_usable() -> None:
    lock = processing.Lock()
    data = pickle.dumps(lock)
    del lock
    gc.collect()
    ours, theirs = processing.Pipe()
    ours.send_bytes(data)
    ours.send("next")
    with pytest.raises(processing.StaleHandleError):
        theirs.recv()
    assert wait([theirs], LIMIT)
    assert theirs.recv() == "next"
    ours.close()
    theirs.close()


def report(flag: Flag, made: Any) -> None:
    flag.say(made.acquire(False))


def test_a_fork_shares_what_its_parent_has() -> None:
    lock = processing.Lock()
    lock.acquire()
    flag = Flag()
    with child(processing, report, flag, lock) as process:
        assert flag.hear() == 0
        ended(process)
