"""The suite's own plugin: start methods, time limits, leaks.

Every test
    - runs under a time limit (60 s, or `@pytest.mark.time_limit(seconds)`), watched by watchdog.py;
    - fails if it leaves descriptors, threads, processes, or files behind (leaks.py), unless it is marked
      `@pytest.mark.leaks("why")` or has failed anyway; processes are killed in any case.

The suite runs against the installed package: nothing here puts the source tree on the path.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# Threads of numpy's linear algebra would be taken for leaks.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import pytest

import leaks

DEFAULT_LIMIT = 60.0
DUMP_SIGNAL = signal.SIGRTMAX - 1
FAIL_SIGNAL = signal.SIGRTMAX - 2

# A file for the name of the test that runs, for who has to say where the run was killed.
CURRENT = os.environ.pop("PROCESSING_CURRENT_TEST", "")

FAILED = pytest.StashKey[bool]()
BEFORE = pytest.StashKey[leaks.Snapshot]()


# ---- Fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Any:
    """The context of each start method in turn (its name: `start_method.get_start_method()`)."""
    import processing

    return processing.get_context(request.param)


@pytest.fixture
def manager() -> Iterator[Any]:
    """A SyncManager whose server is a fork; at the end it has ended."""
    import processing
    from manager_helpers import started
    from processing.managers import SyncManager

    with started(SyncManager(ctx=processing.get_context("fork"))) as made:
        yield made


@pytest.fixture
def each(start_method: Any) -> Iterator[Any]:
    """A SyncManager of each start method; `each.ctx` is the context."""
    from manager_helpers import started
    from processing.managers import SyncManager

    with started(SyncManager(ctx=start_method)) as made:
        made.ctx = start_method
        yield made


@pytest.fixture
def is_running() -> Any:
    """`is_running(pid)`: whether a process still executes; a zombie does not, whoever has to collect it."""
    return leaks.is_running


# ---- Time limit -----------------------------------------------------------------------------------------------------


class Watchdog:
    """This process's end of watchdog.py."""

    def __init__(self) -> None:
        self.running = False
        # A copy of the real stderr, where pytest's capturing does not reach.
        self.stderr = os.dup(2)
        reader, self.orders = os.pipe()
        program = [sys.executable, str(Path(__file__).with_name("watchdog.py"))]
        numbers = [str(int(number)) for number in (os.getpid(), DUMP_SIGNAL, FAIL_SIGNAL)]
        subprocess.run([*program, *numbers], stdin=reader, check=True)
        os.close(reader)
        faulthandler.register(DUMP_SIGNAL, file=self.stderr, all_threads=True)
        signal.signal(FAIL_SIGNAL, self.fail)
        self.owner = os.getpid()

    def fail(self, number: int, frame: FrameType | None) -> None:
        if self.running and os.getpid() == self.owner:
            self.running = False
            pytest.fail("took longer than its time limit (stacks are in the output above)")

    def start(self, seconds: float) -> None:
        self.running = True
        os.write(self.orders, b"start %f\n" % seconds)

    def stop(self) -> None:
        self.running = False
        os.write(self.orders, b"stop\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("time_limit")
    watchdog = item.config.stash[WATCHDOG]
    if CURRENT:
        Path(CURRENT).write_text(item.nodeid)
    watchdog.start(float(marker.args[0]) if marker else DEFAULT_LIMIT)
    try:
        return (yield)
    finally:
        watchdog.stop()


# ---- Leaks ----------------------------------------------------------------------------------------------------------


def _nothing() -> None:
    """The target of the warm-up's processes."""


def _warm_up() -> None:
    """Makes what a program makes once and keeps: the arena, the zygote. From then on every descriptor counts."""
    try:
        import processing

        for method in processing.get_all_start_methods():
            process = processing.get_context(method).Process(target=_nothing)
            process.start()
            process.join()
            process.close()
    except Exception as error:
        warnings.warn(f"the warm-up failed, leaks may be reported wrongly: {error!r}", stacklevel=1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    if not item.config.stash.get(WARM, False):
        item.config.stash[WARM] = True
        _warm_up()
    item.stash[BEFORE] = leaks.Snapshot.take()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        before = item.stash[BEFORE]
        excused = item.stash.get(FAILED, False) or item.get_closest_marker("leaks") is not None
        leaked = leaks.settle(before, patience=0.2 if excused else 2.0)
        stray = [
            pid
            for pid, kind in leaks.processes().items()
            if pid not in before.processes and kind not in before.kinds and not kind.startswith("servant")
        ]
        leaks.kill_all(stray)
        leaks.reap(stray)
        if leaked and not excused:
            pytest.fail("left behind:\n  " + "\n  ".join(leaked), pytrace=False)


# ---- The run --------------------------------------------------------------------------------------------------------

WATCHDOG = pytest.StashKey[Watchdog]()
WARM = pytest.StashKey[bool]()
FOLDER = pytest.StashKey[str]()

PR_SET_CHILD_SUBREAPER = 36


def pytest_configure(config: pytest.Config) -> None:
    # Files of tests go to a folder of this run: others' files in the machine's are not ours to judge.
    # pytest's own tmp_path stays where people look for it.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.stash[FOLDER] = tempfile.mkdtemp(prefix="pz-tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = config.stash[FOLDER]
    config.stash[WATCHDOG] = Watchdog()
    # Descendants whose parent dies become this process's children: an orphan cannot hide. After the watchdog, which
    # must not become one. Not inherited by children.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        import hypothesis
    except ImportError:
        return
    # The same cases on every run; processes are slow to start, which no deadline per case should notice.
    hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("suite")


def pytest_unconfigure(config: pytest.Config) -> None:
    left = [
        pid for pid, kind in leaks.Snapshot.take().processes.items() if not kind.startswith("servant")
    ]  # a servant sees us end and follows
    leaks.kill_all(left)
    if WATCHDOG in config.stash:
        os.close(config.stash[WATCHDOG].orders)
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)
