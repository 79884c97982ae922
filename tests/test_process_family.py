"""Parents and children: the lifeline, daemonic processes, nested processes, the zygote, descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, SHORT, child, ended, kill, output_of, run_program, until
from processing.forkserver import server

METHODS = ("fork", "forkserver", "spawn")


def nothing() -> None:
    pass


def hold(connection: Any) -> None:
    connection.send(os.getpid())
    connection.recv()


def watch_parent(connection: Any) -> None:
    parent = processing.parent_process()
    assert parent is not None
    connection.send((parent.name, parent.pid, parent.is_alive(), os.getpid()))
    start = time.monotonic()
    parent.join(SHORT)
    assert time.monotonic() - start >= SHORT
    connection.send("waited")
    parent.join()
    # The sentinel says the same.
    assert processing.connection.wait([parent.sentinel], 0) == [parent.sentinel]
    connection.send(parent.is_alive())


def start_and_hold(connection: Any, target: Any, method: str, daemon: bool) -> None:
    process = processing.get_context(method).Process(target=target, args=(connection,), daemon=daemon)
    process.start()
    signal.pause()


def exit_code_of_child(connection: Any, method: str) -> None:
    process = processing.get_context(method).Process(target=hold, args=(connection,), daemon=True)
    process.start()
    process.join()
    connection.send(process.exitcode)


def descriptors(connection: Any) -> None:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    connection.send(found)


def daemon_and_pause(connection: Any) -> None:
    connection.send(os.getpid())
    x = 0
    while True:  # in the middle of a computation, not in a call
        x += 1


def test_the_first_process_has_no_parent() -> None:
    assert processing.parent_process() is None
    assert processing.current_process().name == "MainProcess"
    assert processing.current_process().pid == os.getpid()
    with pytest.raises(AssertionError):
        processing.current_process().start()


def test_a_child_watches_its_parent(start_method: Any, is_running: Any) -> None:
    ours, theirs = start_method.Pipe()
    method = start_method.get_start_method()
    with child(start_method, start_and_hold, theirs, watch_parent, method, False, name="middle") as middle:
        name, pid, alive, own = ours.recv()
        assert (name, pid, alive) == ("middle", middle.pid, True)
        assert ours.recv() == "waited"
        kill(middle)
        assert ours.recv() is False
    until(lambda: not is_running(own))


@pytest.mark.parametrize("target", [hold, daemon_and_pause])
def test_daemonic_children_die_with_a_killed_parent(start_method: Any, target: Any, is_running: Any) -> None:
    ours, theirs = start_method.Pipe()
    method = start_method.get_start_method()
    with child(start_method, start_and_hold, theirs, target, method, True) as middle:
        pid = ours.recv()
        assert is_running(pid)
        kill(middle)
        until(lambda: not is_running(pid), 2.0)


def test_other_children_live_on(start_method: Any, is_running: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, start_and_hold, theirs, hold, start_method.get_start_method(), False) as middle:
        pid = ours.recv()
        kill(middle)
        time.sleep(SHORT)
        assert is_running(pid)
        ours.send("end")
        until(lambda: not is_running(pid))


GENERATIONS = """
import os, processing, sys, time

def grow(q, depth):
    q.put(os.getpid())
    if depth:
        processing.Process(target=grow, args=(q, depth - 1), daemon=True).start()
    while True:
        time.sleep(100)

if __name__ == "__main__":
    processing.set_start_method("METHOD")
    q = processing.Queue()
    processing.Process(target=grow, args=(q, 2), daemon=True).start()
    for _ in range(3):
        print(q.get())
    from processing.forkserver import server
    print(server.pid, flush=True)
    time.sleep(100)
"""


def test_three_generations_and_the_zygote_end_with_a_killed_program(
    tmp_path: Path, start_method: Any, is_running: Any
) -> None:
    path = tmp_path / "program.py"
    path.write_text(GENERATIONS.replace("METHOD", start_method.get_start_method()))
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        pids = [int(program.stdout.readline()) for _ in range(4)]
        assert all(is_running(pid) for pid in pids if pid)
        program.kill()
        until(lambda: not any(is_running(pid) for pid in pids if pid), 3.0)


def test_a_fork_by_other_means_does_not_hide_a_death(start_method: Any, is_running: Any) -> None:
    """Neither an os.fork() nor a program started keeps the lifeline or a sentinel open."""
    ours, theirs = start_method.Pipe()
    method = start_method.get_start_method()
    with child(start_method, start_and_fork, theirs, method) as middle:
        daemon, forked, started = ours.recv()
        kill(middle)
        until(lambda: not is_running(daemon), 2.0)
        assert is_running(forked)
        assert is_running(started)
        os.kill(forked, signal.SIGKILL)
        os.kill(started, signal.SIGKILL)


def start_and_fork(connection: Any, method: str) -> None:
    here, there = processing.Pipe()
    process = processing.get_context(method).Process(target=hold, args=(there,), daemon=True)
    process.start()
    here.recv()
    forked = os.fork()
    if forked == 0:
        signal.pause()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as program:
        connection.send((process.pid, forked, program.pid))
        signal.pause()


def test_daemonic_processes_may_have_children(start_method: Any) -> None:
    for method in METHODS:
        ours, theirs = start_method.Pipe()
        with child(start_method, exit_code_of_child, theirs, method, daemon=True) as middle:
            ours.recv()
            ours.send("end")
            assert ours.recv() == 0
            ended(middle)


def test_daemonic_by_default_like_the_parent() -> None:
    context = processing.get_context("fork")
    process = context.Process(target=daemons_child, daemon=True)
    process.start()
    ended(process)
    process.close()


def daemons_child() -> None:
    assert processing.Process().daemon
    assert not processing.Process(daemon=False).daemon


def test_a_raw_fork_has_no_children_of_its_own(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, hold, theirs):
        ours.recv()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if processing.active_children() == [] else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(processing.active_children()) == 1
        ours.send("end")


def test_a_child_holds_few_descriptors(start_method: Any) -> None:
    """Standard streams, the arena, its parent's lifeline, its own sentinel, the way to the zygote."""
    ours, theirs = start_method.Pipe()
    if start_method.get_start_method() == "fork":
        pytest.skip("a fork has what its parent has")
    with child(start_method, descriptors, theirs) as process:
        found = {
            fd: name
            for fd, name in ours.recv().items()
            if fd > 2 and "/proc/" not in name and "/null" not in name
        }
        assert len(found) <= 4, found
        ended(process)


# ---- The zygote -----------------------------------------------------------------------------------------------------


def zygote_pid() -> int:
    with child(processing.get_context("forkserver"), nothing) as process:
        ended(process)
    assert server.pid
    return server.pid


def test_one_zygote_serves_the_program() -> None:
    assert zygote_pid() == zygote_pid()
    ours, theirs = processing.Pipe()
    with child(processing.get_context("forkserver"), parent_pids, theirs) as process:
        assert ours.recv() == (server.pid, server.pid)
        ended(process)


def parent_pids(connection: Any) -> None:
    here, there = processing.Pipe()
    process = processing.get_context("forkserver").Process(target=os_parent, args=(there,))
    process.start()
    connection.send((os.getppid(), here.recv()))
    process.join()


def os_parent(connection: Any) -> None:
    connection.send(os.getppid())


def test_a_killed_zygote_is_replaced() -> None:
    first = zygote_pid()
    os.kill(first, signal.SIGKILL)
    second = zygote_pid()
    assert second != first


def test_children_outlive_a_killed_zygote() -> None:
    ours, theirs = processing.Pipe()
    with child(processing.get_context("forkserver"), hold, theirs) as process:
        ours.recv()
        os.kill(zygote_pid(), signal.SIGKILL)
        process.join(SHORT)
        assert process.is_alive()
        ours.send("end")
        ended(process, exitcode=255)
        assert "exitcode=255" in repr(process)
    zygote_pid()


def test_a_stopped_zygote_only_delays() -> None:
    pid = zygote_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        ours, theirs = processing.Pipe()
        process = processing.get_context("forkserver").Process(target=hold, args=(theirs,))
        import threading

        thread = threading.Thread(target=process.start)
        thread.start()
        thread.join(SHORT)
        assert thread.is_alive()
    finally:
        os.kill(pid, signal.SIGCONT)
    thread.join(LIMIT)
    ours.recv()
    ours.send("end")
    ended(process)
    process.close()


PRELOAD = """
import os, processing, sys

if __name__ != "__main__":
    print("imported in", os.getpid(), flush=True)

def work(q):
    q.put((os.getppid(), "given_module" in sys.modules, __name__))

if __name__ == "__main__":
    processing.set_start_method("forkserver")
    processing.set_forkserver_preload(["__main__", "given_module", "no_such_module"])
    q = processing.Queue()
    for _ in range(2):
        p = processing.Process(target=work, args=(q,))
        p.start()
        p.join()
        print(q.get())
"""


def test_preloading(tmp_path: Path) -> None:
    (tmp_path / "given_module.py").write_text("")
    done = run_program(tmp_path, PRELOAD)
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    zygote = int(first.split()[-1])
    assert rest == [repr((zygote, True, "__mp_main__"))] * 2  # the main module ran once, in the zygote


def test_ctrl_c_is_not_for_the_zygote() -> None:
    pid = zygote_pid()
    os.kill(pid, signal.SIGINT)
    assert zygote_pid() == pid


def test_a_main_module_started_by_name_is_preloaded(tmp_path: Path) -> None:
    (tmp_path / "given_module.py").write_text("")
    (tmp_path / "program.py").write_text(PRELOAD)
    done = subprocess.run(
        [sys.executable, "-m", "program"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert rest == [repr((int(first.split()[-1]), True, "__mp_main__"))] * 2


def test_preload_wants_names() -> None:
    with pytest.raises(TypeError, match="list of strings"):
        processing.set_forkserver_preload([1, 2])  # type: ignore[list-item]


def test_nothing_is_left_of_a_program(tmp_path: Path, is_running: Any) -> None:
    text = """
    import processing
    from processing.forkserver import server

    if __name__ == "__main__":
        processing.set_start_method("forkserver")
        p = processing.Process(target=print)
        p.start()
        p.join()
        print(server.pid)
    """
    done = run_program(tmp_path, textwrap.dedent(text))
    assert done.stderr == ""
    assert not os.path.exists(f"/proc/{int(done.stdout.split()[-1])}")


def test_the_parent_has_its_place_until_its_children_are_joined(tmp_path: Path, start_method: Any) -> None:
    """Although the arena was attached after the first process, so that atexit would leave it first."""
    text = """
    import processing
    from processing.util import Finalize

    def work(event, connection):
        event.wait()
        connection.send("heard at the end")

    def end(connection):
        print(connection.recv())

    if __name__ == "__main__":
        processing.Process(target=print, args=["first"]).start()
        event = processing.Event()
        ours, theirs = processing.Pipe()
        processing.get_context("METHOD").Process(target=work, args=[event, theirs]).start()
        del theirs
        Finalize(None, event.set, exitpriority=0)
        Finalize(None, end, args=[ours], exitpriority=-1)  # children have been joined by then
    """
    done = run_program(tmp_path, text.replace("METHOD", start_method.get_start_method()))
    assert (done.stdout, done.stderr) == ("first\nheard at the end\n", "")


def test_out_of_descriptors_and_back(tmp_path: Path, start_method: Any) -> None:
    text = """
    import os, processing, resource

    def nothing(): pass

    if __name__ == "__main__":
        context = processing.get_context("METHOD")
        for _ in range(2):
            p = context.Process(target=nothing)
            p.start()
            p.join()
            p.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        count = len(os.listdir("/proc/self/fd"))
        taken = []
        failed = 0
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        while True:
            p = context.Process(target=nothing)
            try:
                p.start()
            except OSError as error:
                assert error.errno == 24, error
                assert p.pid is None and not p.is_alive() and p.exitcode is None
                failed += 1
                os.close(taken.pop())
            else:
                break
        p.join()
        print(p.exitcode, failed > 1)
        p.close()
        for fd in taken:
            os.close(fd)
        print(len(os.listdir("/proc/self/fd")) - count)
    """
    assert output_of(tmp_path, text.replace("METHOD", start_method.get_start_method())) == ["0 True", "0"]


def test_a_started_process_does_not_pickle() -> None:
    with child(processing.get_context("fork"), nothing) as process:
        ended(process)
        other = processing.get_context("spawn").Process(target=nothing, args=(process,))
        with pytest.raises(TypeError, match=r"started process cannot be pickled.*args\[0\]"):
            other.start()
