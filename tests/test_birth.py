"""Children of a plain `os.fork()` that die before they have taken their place, or that never come to be."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, output_of
from processing import _program
from processing.connection import wait

try:
    # fork() as the kernel has it: no hook runs in the child.
    bare_fork: Callable[[], int] = ctypes.PyDLL(None)._Fork
except AttributeError:
    pytest.skip("this C library has no _Fork", allow_module_level=True)


def a_child_killed_at_birth() -> int:
    """Its pid, for the caller to collect."""
    _program.before_fork()
    pid = bare_fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    _program.after_fork_in_parent()
    return pid


def a_fork_that_fails() -> None:
    """What the hooks see of one: no child, and no error."""
    _program.before_fork()
    _program.after_fork_in_parent()


def test_its_ends_of_pipes_are_closed() -> None:
    ours, theirs = processing.Pipe()
    pid = a_child_killed_at_birth()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and not collected
    theirs.close()
    assert wait([ours], LIMIT) == [ours]
    with pytest.raises(EOFError):
        ours.recv()
    with pytest.raises(BrokenPipeError):
        ours.send("anybody?")
    os.waitpid(pid, 0)
    ours.close()


@pytest.mark.parametrize("birth", [a_child_killed_at_birth, a_fork_that_fails])
def test_its_place_is_free_again(birth: Callable[[], Any]) -> None:
    lock = processing.Lock()
    _program.sweep()
    blocks = _program.memory()[4]
    pid = birth()
    assert _program.memory()[4] > blocks
    if pid is not None:
        os.waitpid(pid, 0)
    assert _program.sweep() == 1
    assert _program.memory()[4] == blocks
    assert lock.acquire(timeout=LIMIT)
    lock.release()


def test_one_who_has_not_come_that_far_is_left_alone() -> None:
    ours, theirs = processing.Pipe()
    go, went = os.pipe()
    _program.before_fork()
    pid = bare_fork()
    if pid == 0:
        os.read(go, 1)
        os._exit(0)
    _program.after_fork_in_parent()
    theirs.close()
    assert _program.sweep() == 0
    assert wait([ours], 0) == []
    os.write(went, b"x")
    os.waitpid(pid, 0)
    assert wait([ours], LIMIT) == [ours]
    ours.close()
    os.close(go)
    os.close(went)


def arenas() -> int:
    """How many descriptors of this process are the program's arena."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    arena = os.fstat(_program.arena_fd()).st_ino
    return sum(os.path.exists(link) and os.stat(link).st_ino == arena for link in links)


def test_no_descriptor_is_left_in_parent_or_child() -> None:
    processing.Lock()
    pid = os.fork()
    if pid == 0:
        os._exit(arenas())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert arenas() == 1


def test_threads_that_fork_at_once_have_children_of_their_own(tmp_path: Path) -> None:
    program = """
        import os, threading
        both = threading.Barrier(2, timeout=20)
        # Hooks run in reverse order: both threads are past those of the package before either forks.
        os.register_at_fork(before=both.wait)
        import processing
        from processing import _program
        lock = processing.Lock()
        reader, writer = os.pipe()
        def fork():
            pid = os.fork()
            if pid == 0:
                os.write(writer, _program.self_slot().to_bytes(4, "little"))
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        threads = [threading.Thread(target=fork) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        told = os.read(reader, 100)
        slots = {int.from_bytes(told[i:i + 4], "little") for i in range(0, len(told), 4)}
        print(len(slots - {_program.self_slot(), 0}))
    """
    assert output_of(tmp_path, program, PYTHONWARNINGS="ignore") == ["2"]
