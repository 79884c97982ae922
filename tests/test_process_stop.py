"""Process.stop(): an exception in the main thread of a process made for it; never too early, never lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, ended, run_program, until_asleep
from processing.process import STOP_SIGNAL


def pause(connection: Any) -> None:
    connection.send("here")
    while True:
        time.sleep(LIMIT)


def busy(connection: Any) -> None:
    connection.send("here")
    while True:
        pass


def tidy(connection: Any) -> None:
    try:
        connection.send("here")
        while True:
            time.sleep(LIMIT)
    except processing.ProcessExit as error:
        connection.send(repr(error))
        raise
    finally:
        connection.send("finally")


def refuse(connection: Any, code: int) -> None:
    for _ in range(2):
        try:
            connection.send("here")
            while True:
                time.sleep(LIMIT)
        except processing.ProcessExit:
            connection.send("caught")
    sys.exit(code)


def wait_for_queue(connection: Any, queue: Any) -> None:
    connection.send("here")
    queue.get()


def wait_for_lock(connection: Any, lock: Any) -> None:
    connection.send("here")
    with lock:
        pass


def wait_for_event(connection: Any, event: Any) -> None:
    connection.send("here")
    event.wait()


def wait_for_message(connection: Any, pipe: Any) -> None:
    connection.send("here")
    pipe[0].recv()


def nothing() -> None:
    pass


def say_handler(connection: Any) -> None:
    connection.send(
        (str(signal.getsignal(STOP_SIGNAL)), STOP_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )


def parent_of_plain_child(connection: Any) -> None:
    process = processing.get_context("fork").Process(target=say_handler, args=(connection,))
    process.start()
    process.join()


def test_the_signal_is_the_documented_one() -> None:
    assert STOP_SIGNAL == signal.SIGRTMIN + 10
    assert issubclass(processing.ProcessExit, SystemExit)


@pytest.mark.parametrize("work", [pause, busy, tidy])
def test_stop(start_method: Any, work: Callable[..., Any]) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, work, theirs, stoppable=True, name="worker") as process:
        assert process.stoppable
        assert ours.recv() == "here"
        process.stop()
        ended(process)
        assert repr(process) == (
            f"<{type(process).__name__} name='worker' pid={process.pid} parent={os.getpid()} stopped[ProcessExit]>"
        )
        if work is tidy:
            assert [ours.recv(), ours.recv()] == ["ProcessExit()", "finally"]
        process.stop()  # it has ended: nothing happens


@pytest.mark.parametrize(
    ("work", "make"),
    [
        (wait_for_queue, lambda: processing.Queue()),
        (wait_for_lock, lambda: processing.Lock()),
        (wait_for_event, lambda: processing.Event()),
        (wait_for_message, lambda: processing.Pipe()),
    ],
    ids=["queue", "lock", "event", "pipe"],
)
def test_stop_out_of_our_own_blocking_calls(start_method: Any, work: Any, make: Any) -> None:
    ours, theirs = start_method.Pipe()
    awaited = make()
    if work is wait_for_lock:
        awaited.acquire()
    with child(start_method, work, theirs, awaited, stoppable=True) as process:
        assert ours.recv() == "here"
        until_asleep(process.pid)
        process.stop()
        ended(process)
        assert "stopped[ProcessExit]" in repr(process)


@pytest.mark.once
def test_stop_at_once_is_neither_lost_nor_deadly(start_method: Any) -> None:
    """The child is not ready for it yet: the signal waits until it is."""
    ours, theirs = start_method.Pipe()
    for _ in range(3 if start_method.get_start_method() == "spawn" else 20):
        with child(start_method, pause, theirs, stoppable=True) as process:
            process.stop()
            ended(process)
            assert "stopped[ProcessExit]" in repr(process)


def test_stop_may_be_caught(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, refuse, theirs, 5, stoppable=True) as process:
        for _ in range(2):
            assert ours.recv() == "here"
            process.stop()
            assert ours.recv() == "caught"
        ended(process, exitcode=5)
        assert "stopped exitcode=5" in repr(process)


def test_a_stop_after_the_work_is_done_does_no_harm(start_method: Any) -> None:
    for delay in range(5):
        with child(start_method, nothing, stoppable=True) as process:
            deadline = time.monotonic() + delay * 0.002
            while time.monotonic() < deadline:
                pass
            while process.is_alive():
                process.stop()
            ended(process)


def test_only_what_was_made_for_it_can_be_stopped(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, pause, theirs) as process:
        ours.recv()
        with pytest.raises(ValueError, match=r"stoppable=True"):
            process.stop()
        assert process.is_alive()
        process.kill()
        ended(process, exitcode=-signal.SIGKILL)


def test_stoppable_can_be_set_until_the_start(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    process = start_method.Process(target=pause, args=(theirs,))
    assert not process.stoppable
    process.stoppable = True
    process.start()
    with pytest.raises(AssertionError, match="already started"):
        process.stoppable = False
    process.stop()
    ended(process)
    process.close()


def test_a_child_of_a_stoppable_process_is_not_stoppable(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, parent_of_plain_child, theirs, stoppable=True) as process:
        assert ours.recv() == (str(signal.SIG_DFL), False)
        ended(process)


def test_the_starter_is_left_as_it_was(start_method: Any) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with child(start_method, nothing, stoppable=True) as process:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        assert signal.getsignal(STOP_SIGNAL) == signal.SIG_DFL
        ended(process)


def test_nothing_is_printed(tmp_path: Path, start_method: Any) -> None:
    program = """
    import atexit, processing, time

    def work(q):
        atexit.register(print, "at exit")
        q.put("here")
        time.sleep(100)

    if __name__ == "__main__":
        processing.set_start_method("METHOD")
        q = processing.Queue()
        p = processing.Process(target=work, args=[q], stoppable=True)
        p.start()
        q.get()
        p.stop()
        p.join()
        print(p.exitcode)
    """
    done = run_program(tmp_path, program.replace("METHOD", start_method.get_start_method()))
    assert (done.stdout, done.stderr) == ("at exit\n0\n", "")
