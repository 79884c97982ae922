"""Process: starting, joining, exit codes, what a child prints, how its end reads. For each start method."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, ended, kill, output_of, run_program, until


def nothing() -> None:
    pass


def send(connection: Any, *values: Any, **named: Any) -> None:
    connection.send((values, named))


def report(connection: Any) -> None:
    me = processing.current_process()
    connection.send(
        {
            "name": me.name,
            "pid": me.pid,
            "os pid": os.getpid(),
            "daemon": me.daemon,
            "authkey": bytes(me.authkey),
            "alive": me.is_alive(),
            "repr": repr(me),
            "exitcode": me.exitcode,
            "children": processing.active_children(),
            "method": processing.get_start_method(),
            "stdin": sys.stdin.read(),
        }
    )


def hold(connection: Any) -> None:
    """Says that it is here, and stays until told."""
    connection.send(os.getpid())
    connection.recv()


def leave(code: Any) -> None:
    sys.exit(code)


def leave_hard(code: int) -> None:
    os._exit(code)


def kill_myself(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


class Subclass(processing.Process):
    def __init__(self, connection: Any, value: int) -> None:
        super().__init__(name="mine")
        self.connection = connection
        self.value = value

    def run(self) -> None:
        self.connection.send((self.name, self.value, type(self).__name__))


# ---- Starting and joining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_arguments_of_any_kind(start_method: Any, kind: Any) -> None:
    ours, theirs = start_method.Pipe()
    process = start_method.Process(target=send, args=kind([theirs, 1, "two"]), kwargs={"three": [3]})
    process.start()
    assert ours.recv() == ((1, "two"), {"three": [3]})
    ended(process)
    process.close()


def test_a_child_knows_itself(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, report, theirs, name="worker", daemon=True) as process:
        said = ours.recv()
        assert said["name"] == "worker" == process.name
        assert said["pid"] == said["os pid"] == process.pid == process.ident != os.getpid()
        assert said["daemon"] is True
        assert said["authkey"] == processing.current_process().authkey
        assert said["alive"] is True
        assert said["repr"] == f"<{type(process).__name__} name='worker' parent={os.getpid()} started daemon>"
        assert said["exitcode"] is None
        assert said["children"] == []
        assert said["method"] == start_method.get_start_method()  # a context's processes go on with it
        assert said["stdin"] == ""
        ended(process)


def test_before_during_and_after(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    process = start_method.Process(target=hold, args=(theirs,))
    assert (process.pid, process.exitcode, process.is_alive(), process.daemon) == (None, None, False, False)
    with pytest.raises(ValueError, match="not started"):
        process.sentinel  # noqa: B018
    with pytest.raises(AssertionError, match="join a started process"):
        process.join()
    process.start()
    assert ours.recv() == process.pid
    assert process.exitcode is None
    assert process.is_alive()
    assert process in processing.active_children()
    process.join(0)
    process.join(SHORT)
    assert process.is_alive()
    with pytest.raises(AssertionError, match="twice"):
        process.start()
    with pytest.raises(AssertionError, match="already started"):
        process.daemon = True
    with pytest.raises(ValueError, match="still running"):
        process.close()
    ours.send("go")
    process.join()
    assert process.exitcode == 0
    assert not process.is_alive()
    assert process not in processing.active_children()
    process.join()
    process.close()
    process.close()
    for act in (process.join, process.is_alive, process.terminate, process.start):
        with pytest.raises(ValueError, match="closed"):
            act()
    assert repr(process).endswith("closed>")


def test_subclasses_run(tmp_path: Path) -> None:
    ours, theirs = processing.Pipe()
    process = Subclass(theirs, 5)
    process.start()
    assert ours.recv() == ("mine", 5, "Subclass")
    ended(process)
    process.close()


def test_a_finished_process_leaves_the_list_of_children(start_method: Any) -> None:
    process = start_method.Process(target=nothing)
    process.start()
    until(lambda: process not in processing.active_children())
    assert process.exitcode == 0
    process.close()


def test_the_sentinel_tells_the_end(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, hold, theirs) as process:
        ours.recv()
        assert processing.connection.wait([process.sentinel], 0) == []
        ours.send("go")
        assert processing.connection.wait([process.sentinel], LIMIT) == [process.sentinel]
        ended(process)


def test_threads_may_join_the_same_process(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    process = start_method.Process(target=hold, args=(theirs,))
    process.start()
    codes: list[Any] = []

    def wait() -> None:
        process.join()
        codes.append(process.exitcode)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    ours.send("go")
    for thread in threads:
        thread.join(LIMIT)
    assert codes == [0] * 8
    process.close()


def test_many_at_once(start_method: Any) -> None:
    count = 3 if start_method.get_start_method() == "spawn" else 20
    ours, theirs = start_method.Pipe()
    processes = [start_method.Process(target=hold, args=(theirs,)) for _ in range(count)]
    for process in processes:
        process.start()
    assert {ours.recv() for _ in processes} == {process.pid for process in processes}
    for _ in processes:
        ours.send("go")
    for process in processes:
        ended(process)
        process.close()


def test_processes_started_by_several_threads(start_method: Any) -> None:
    if start_method.get_start_method() == "fork":
        pytest.skip("forking beside threads is warned of, see there")
    processes = [start_method.Process(target=nothing) for _ in range(6)]
    threads = [threading.Thread(target=process.start) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    for process in processes:
        ended(process)
        process.close()


def test_only_the_maker_may_start_and_join() -> None:
    process = processing.get_context("fork").Process(target=nothing)
    other = processing.get_context("fork").Process(target=start_it, args=(process,))
    other.start()
    ended(other)
    other.close()


def start_it(process: Any) -> None:
    with pytest.raises(AssertionError, match="created by current process"):
        process.start()
    for act in (process.join, process.is_alive):
        with pytest.raises(AssertionError, match="child process"):
            act()
    assert " unknown" in repr(process)


# ---- How it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"), [(None, 0), (0, 0), (7, 7), (True, 1), ("words", 1), (300, 300 % 256), (-1, 255)]
)
def test_exit_codes(start_method: Any, code: Any, expected: int) -> None:
    with child(start_method, leave, code) as process:
        ended(process, exitcode=expected)


def test_the_way_it_ended_is_in_the_repr(start_method: Any) -> None:
    with child(start_method, leave_hard, 3) as process:
        ended(process, exitcode=3)
        assert repr(process).endswith(f"pid={process.pid} parent={os.getpid()} stopped exitcode=3>")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN + 3):
        with child(start_method, kill_myself, int(number), name="victim") as process:
            ended(process, exitcode=-number)
            end = "SIGRTMIN+3" if number > signal.SIGRTMIN else number.name
            assert repr(process) == (
                f"<{type(process).__name__} name='victim' pid={process.pid} parent={os.getpid()} stopped[{end}]>"
            )


@pytest.mark.parametrize(
    ("how", "expected"), [("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL), ("interrupt", 1)]
)
def test_ending_it(start_method: Any, how: str, expected: int, capfd: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, hold, theirs) as process:
        ours.recv()
        getattr(process, how)()
        ended(process, exitcode=expected)
        getattr(process, how)()  # it has ended: nothing happens
        assert process.exitcode == expected


@pytest.mark.parametrize("how", ["terminate", "kill", "interrupt", "stop"])
def test_nothing_to_end_yet(how: str) -> None:
    with pytest.raises(AssertionError, match="started process"):
        getattr(processing.Process(stoppable=True), how)()


def test_somebody_else_collected_it() -> None:
    process = processing.get_context("fork").Process(target=nothing)
    process.start()
    os.waitpid(process.pid or 0, 0)
    process.join()
    assert process.exitcode is None
    assert not process.is_alive()
    assert repr(process).endswith("stopped>")
    process.close()


def test_a_handler_of_sigchld_does_not_disturb(start_method: Any) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: calls.append(number))
    try:
        with child(start_method, leave, 4) as process:
            ended(process, exitcode=4)
        assert start_method.get_start_method() == "forkserver" or calls
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_sigchld_may_be_ignored() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = processing.get_context("fork").Process(target=nothing)
        process.start()
        process.join()
        assert not process.is_alive()
        assert process.exitcode is None
        process.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_join_keeps_its_timeout_when_the_child_closed_its_descriptors() -> None:
    """The sentinel says "gone" too early then."""
    ours, theirs = processing.Pipe()
    context = processing.get_context("fork")
    process = context.Process(target=close_sentinel_and_hold, args=(theirs,))
    process.start()
    ours.recv()
    start = time.monotonic()
    process.join(SHORT)
    assert SHORT / 2 < time.monotonic() - start < LIMIT
    assert process.is_alive()
    kill(process)
    process.close()


def close_sentinel_and_hold(connection: Any) -> None:
    from processing._this import this

    os.close(this.own_sentinel)
    connection.send("closed")
    signal.pause()


# ---- What it prints -------------------------------------------------------------------------------------------------


ENDS = """
import processing, sys

def fail():
    raise LookupError("no such thing")

if __name__ == "__main__":
    processing.set_start_method("METHOD")
    for target, args in ((fail, ()), (sys.exit, ("good bye",))):
        process = processing.Process(target=target, args=args)
        process.start()
        process.join()
        print(process.exitcode)
"""


def test_tracebacks_and_the_words_of_sys_exit_are_printed(tmp_path: Path, start_method: Any) -> None:
    done = run_program(tmp_path, ENDS.replace("METHOD", start_method.get_start_method()))
    assert done.stdout == "1\n1\n"
    assert done.stderr.startswith("Process Process-1:\nTraceback (most recent call last):\n")
    assert done.stderr.endswith("LookupError: no such thing\ngood bye\n")


PRINTS = """
import atexit, processing, sys, threading, time

def late():
    threading.main_thread().join()
    sys.stdout.write("thread\\n")

def work():
    atexit.register(sys.stdout.write, "at exit\\n")
    threading.Thread(target=late).start()
    sys.stdout.write("work\\n")

if __name__ == "__main__":
    processing.set_start_method("METHOD")
    sys.stdout.write("before\\n")
    process = processing.Process(target=work)
    process.start()
    process.join()
    print(process.exitcode)
"""


def test_output_is_flushed_and_threads_and_exit_functions_are_waited_for(
    tmp_path: Path, start_method: Any
) -> None:
    program = PRINTS.replace("METHOD", start_method.get_start_method())
    assert output_of(tmp_path, program) == ["before", "work", "thread", "at exit", "0"]


NAMES = """
import processing

def inner(q):
    q.put(processing.current_process().name)

def outer(q):
    p = processing.Process(target=inner, args=[q])
    p.start()
    p.join()
    q.put((processing.current_process().name, p.name))

if __name__ == "__main__":
    processing.set_start_method("METHOD")
    q = processing.SimpleQueue()
    for _ in range(2):
        p = processing.Process(target=outer, args=[q])
        p.start()
        p.join()
    print(processing.current_process().name, p.name)
    for _ in range(4):
        print(q.get())
"""


def test_names_count_by_generation(tmp_path: Path, start_method: Any) -> None:
    assert output_of(tmp_path, NAMES.replace("METHOD", start_method.get_start_method())) == [
        "MainProcess Process-2",
        "Process-1:1",
        "('Process-1', 'Process-1:1')",
        "Process-2:1",
        "('Process-2', 'Process-2:1')",
    ]


UNJOINED = """
import processing, sys

def work(flag, word):
    flag.wait()
    sys.stdout.write(word + "\\n")

if __name__ == "__main__":
    processing.set_start_method("METHOD")
    flag, never = processing.Event(), processing.Event()
    processing.Process(target=work, args=[never, "daemon"], daemon=True).start()
    processing.Process(target=work, args=[flag, "child"]).start()
    flag.set()
    sys.stdout.write("main\\n")
"""


def test_children_that_nobody_joined_are_joined_at_exit(tmp_path: Path, start_method: Any) -> None:
    lines = output_of(tmp_path, UNJOINED.replace("METHOD", start_method.get_start_method()))
    assert sorted(lines) == ["child", "main"]


def test_a_missing_guard_is_explained_in_few_words(tmp_path: Path, start_method: Any) -> None:
    method = start_method.get_start_method()
    text = f"""
    import processing
    processing.set_start_method({method!r}, force=True)
    p = processing.Process(target=print, args=("hello",))
    p.start()
    p.join()
    """
    done = run_program(tmp_path, text)
    assert done.returncode == 0
    if method == "fork":
        assert (done.stdout, done.stderr) == ("hello\n", "")
        return
    assert done.stdout == ""
    assert done.stderr.startswith("Process Process-1:\nRuntimeError: ")
    assert "if __name__ == '__main__':\n" in done.stderr
    assert len(done.stderr.splitlines()) < 8
    assert "Traceback" not in done.stderr


def test_the_fork_beside_threads_is_warned_of_once(tmp_path: Path) -> None:
    text = """
    import processing, threading
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    for _ in range(2):
        p = processing.Process(target=print, args=("hello",))
        p.start()
        p.join()
    done.set()
    """
    done = run_program(tmp_path, text, PYTHONWARNINGS="always")
    assert done.stdout == "hello\n" * 2
    assert done.stderr.count("Warning") == 1
    assert "program.py:8: RuntimeWarning" in done.stderr
    assert "forkserver" in done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_exit_functions_of_the_program_still_reach_its_children(tmp_path: Any, method: str) -> None:
    """The program's own run before its children are waited for."""
    text = """
    import atexit, sys
    import processing

    def serve(requests):
        while requests.get() is not None:
            pass

    if __name__ == "__main__":
        requests = processing.Queue()
        atexit.register(requests.put, None)
        processing.get_context(sys.argv[1]).Process(target=serve, args=(requests,)).start()
        print("end")
    """.replace("sys.argv[1]", repr(method))
    assert output_of(tmp_path, text) == ["end"]
