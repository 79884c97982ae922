"""Contexts, start methods, CPU counts, and the helpers of util."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import child, ended, output_of, run_program
from processing import context, errors, spawn, util


class Thing:
    pass


def test_contexts_by_name() -> None:
    assert processing.get_all_start_methods() == ["fork", "spawn", "forkserver"]
    for method in processing.get_all_start_methods():
        chosen = processing.get_context(method)
        assert chosen.get_start_method() == method
        assert chosen.get_context() is chosen
        assert chosen.Process._start_method == method
        with pytest.raises(ValueError, match="concrete context"):
            chosen.set_start_method("spawn")
    with pytest.raises(ValueError, match="cannot find context for 'thread'"):
        processing.get_context("thread")


def test_the_start_method_is_settled_once(tmp_path: Path) -> None:
    text = """
    import processing
    assert processing.get_start_method(allow_none=True) is None
    for wrong in ("thread", None):
        try:
            processing.set_start_method(wrong)
        except ValueError as error:
            print(error)
    processing.set_start_method("spawn")
    try:
        processing.set_start_method("fork")
    except RuntimeError as error:
        print(error)
    processing.set_start_method("forkserver", force=True)
    print(processing.get_start_method(), type(processing.get_context()).__name__)
    processing.set_start_method(None, force=True)
    print(processing.get_start_method(allow_none=True), processing.get_start_method())
    try:
        processing.set_start_method("spawn")
    except RuntimeError as error:
        print(error)
    """
    assert output_of(tmp_path, text) == [
        "cannot find context for 'thread'",
        "cannot find context for None",
        "context has already been set",
        "forkserver ForkServerContext",
        "None fork",
        "context has already been set",
    ]


def test_cpu_counts(tmp_path: Path) -> None:
    assert processing.cpu_count() == os.cpu_count()
    assert 1 <= processing.cpu_count(usable=True) <= len(os.sched_getaffinity(0))
    text = """
    import os, processing
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(processing.cpu_count(usable=True), processing.cpu_count() == os.cpu_count())
    """
    assert output_of(tmp_path, text) == ["1 True"]


@pytest.mark.parametrize(
    ("quota", "expected"), [(1e9, 8), (0.2, 1), (1.0, 1), (1.5, 2), (7.5, 8), (100.0, 8)]
)
def test_a_quota_is_rounded_up(monkeypatch: Any, quota: float, expected: int) -> None:
    from processing import _program

    monkeypatch.setattr(_program, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert processing.cpu_count(usable=True) == expected


def test_freeze_support_does_nothing_here() -> None:
    processing.freeze_support()
    assert spawn.is_forking(["program", "--processing-fork"])
    assert not spawn.is_forking(["program"])


def test_a_frozen_program_starts_itself(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert spawn.get_command_line(arena=3, token=4) == [
        sys.executable,
        "--processing-fork",
        "arena=3",
        "token=4",
    ]


def test_an_interpreter_that_does_not_start() -> None:
    before = spawn.get_executable()
    processing.set_executable("/no/such/python")
    try:
        process = processing.get_context("spawn").Process(target=print)
        with pytest.raises(
            FileNotFoundError, match=r"cannot start the interpreter.*No such file.*/no/such/python"
        ):
            process.start()
        assert not process.is_alive()
    finally:
        processing.set_executable(before)


def test_interpreter_options_are_handed_on(tmp_path: Path) -> None:
    text = """
    import subprocess, sys
    from processing import util
    more = util.interpreter_flags()
    code = "import sys; print(sys.flags, sys.warnoptions, sorted(sys._xoptions))"
    print(sys.flags, sys.warnoptions, sorted(sys._xoptions))
    print(subprocess.run([sys.executable, *more, "-c", code], capture_output=True, text=True).stdout, end="")
    """
    path = tmp_path / "program.py"
    import subprocess
    import textwrap

    path.write_text(textwrap.dedent(text))
    for options in (
        [],
        ["-O", "-B"],
        ["-I"],
        ["-E", "-s", "-Wignore"],
        ["-X", "dev"],
        ["-bb", "-X", "utf8=0"],
    ):
        done = subprocess.run(
            [sys.executable, *options, str(path)], capture_output=True, text=True, check=True
        )
        first, second = done.stdout.splitlines()
        assert first == second, options


def test_sharing_by_inheritance_only() -> None:
    with pytest.raises(RuntimeError, match="Thing objects should only be shared between processes"):
        context.assert_spawning(Thing())
    context.set_spawning_popen("something")
    try:
        context.assert_spawning(Thing())
        assert context.get_spawning_popen() == "something"
    finally:
        context.set_spawning_popen(None)


def input_of_child(connection: Any) -> None:
    said: list[Any] = [sys.stdin.read(), sys.stdin.readline(), list(sys.stdin), sys.stdin.buffer.read()]
    said += [
        sys.stdin.isatty(),
        sys.stdin.readable(),
        sys.stdin.encoding,
        os.readlink(f"/proc/self/fd/{sys.stdin.fileno()}"),
    ]
    try:
        input()
    except EOFError:
        said.append("end")
    sys.stdin.close()
    try:
        sys.stdin.read()
    except ValueError:
        said.append("closed")
    connection.send(said)


def test_standard_input_of_a_child_is_empty(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with child(start_method, input_of_child, theirs) as process:
        assert ours.recv() == ["", "", [], b"", False, True, "utf-8", "/dev/null", "end", "closed"]
        ended(process)


# ---- util -----------------------------------------------------------------------------------------------------------


def test_finalize_when_collected() -> None:
    calls: list[Any] = []
    thing = Thing()
    finalizer = util.Finalize(thing, calls.append, args=[1])
    assert finalizer.still_active()
    assert repr(finalizer) == "<Finalize object, callback=append, args=(1,)>"
    del thing
    gc.collect()
    assert calls == [1]
    assert not finalizer.still_active()
    assert finalizer() is None
    assert repr(finalizer) == "<Finalize object, dead>"


def test_finalize_called_or_cancelled() -> None:
    calls: list[Any] = []
    thing = Thing()
    assert util.Finalize(thing, lambda: 5)() == 5
    util.Finalize(thing, calls.append, args=[2]).cancel()
    del thing
    assert calls == []
    with pytest.raises(ValueError, match="exitpriority"):
        util.Finalize(None, print)
    with pytest.raises(TypeError, match="exitpriority"):
        util.Finalize(Thing(), print, exitpriority="high")  # type: ignore[arg-type]


def test_finalizers_run_by_priority_the_youngest_first(tmp_path: Path) -> None:
    text = """
    import processing
    from processing.util import Finalize

    class Thing: pass
    thing = Thing()
    Finalize(thing, print, args=["never: no priority"])
    for priority in (-1, 0, 5, 0):
        Finalize(thing, print, args=[priority], exitpriority=priority)
    Finalize(None, print, args=["last"], exitpriority=-10)
    Finalize(None, lambda: 1 / 0, exitpriority=3)

    def child():
        print("child", flush=True)
    p = processing.Process(target=child)
    p.start()
    p.join()
    """
    done = run_program(tmp_path, text)
    assert done.stdout.splitlines() == ["child", "5", "0", "0", "-1", "last"]
    assert done.stderr.count("ZeroDivisionError") == 1


def test_after_fork(tmp_path: Path) -> None:
    text = """
    import gc, processing
    from processing.util import register_after_fork

    class Thing: pass
    first, second, gone = Thing(), Thing(), Thing()
    for name, thing in (("first", first), ("gone", gone), ("second", second)):
        thing.name = name
        register_after_fork(thing, lambda thing: print(thing.name))
    register_after_fork(first, lambda thing: 1 / 0)
    del gone, thing
    gc.collect()
    p = processing.Process(target=print, args=["run"])
    p.start()
    p.join()
    """
    assert output_of(tmp_path, text) == ["first", "second", "run"]


def test_logging_reaches_the_children(tmp_path: Path, start_method: Any) -> None:
    text = """
    import logging, processing

    def work():
        processing.get_logger().warning("from the child")

    if __name__ == "__main__":
        processing.set_start_method("METHOD")
        logger = processing.log_to_stderr()
        logger.setLevel(processing.util.SUBDEBUG if False else logging.INFO)
        assert logger is processing.get_logger() is logging.getLogger("processing")
        assert not logger.propagate
        p = processing.Process(target=work)
        p.start()
        p.join()
    """
    done = run_program(tmp_path, text.replace("METHOD", start_method.get_start_method()))
    lines = done.stderr.splitlines()
    assert "[INFO/Process-1] child process calling self.run()" in lines
    assert "[WARNING/Process-1] from the child" in lines
    assert "[INFO/Process-1] process exiting with exitcode 0" in lines
    assert "[INFO/MainProcess] process shutting down" in lines
    assert not logging.getLogger("multiprocessing").handlers


def test_exceptions_are_related_as_drawn() -> None:
    assert issubclass(errors.LockOwnerDied, (errors.ProcessingError, RuntimeError))
    assert issubclass(errors.StaleHandleError, ValueError)
    assert not issubclass(errors.TimeoutError, TimeoutError)
    died = errors.LockOwnerDied("words", "name", 5)
    import pickle

    back = pickle.loads(pickle.dumps(died))
    assert (str(back), back.name, back.pid) == ("words", "name", 5)
