"""Deaths of workers, of the supervisor and of the caller at chosen moments; each moment is made, not waited for."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import until
from processing.errors import WorkerDied
from processing.pool import Pool

Make = Callable[..., Any]
METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes pools, and ends them."""
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        made.append(Pool(*args, context=processing.get_context(request.param), **options))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def tell_and_sleep(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)


def kill_first(path: str) -> None:
    """An initializer: whoever comes first dies as it starts."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def large(size: int) -> bytes:
    return b"x" * size


class DiesAsItIsPickled:
    """A result whose worker is killed in the middle of sending it, 10 MB after its beginning."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")


def half_sent(size: int) -> Any:
    return [b"x" * size, DiesAsItIsPickled()]


def test_killed_while_it_starts(make: Make, tmp_path: Path) -> None:
    pool = make(2, kill_first, (str(tmp_path / "first"),))
    assert pool.map(large, [1] * 20) == [b"x"] * 20


def test_killed_while_it_sends_a_large_result(make: Make) -> None:
    pool = make(2)
    assert pool.apply(large, (1,)) == b"x"
    before = processing.memory_usage().objects
    lost = [pool.apply_async(half_sent, (10_000_000,)) for _ in range(5)]
    good = [pool.apply_async(large, (10_000_000,)) for _ in range(5)]
    for result in lost:
        with pytest.raises(WorkerDied) as caught:
            result.get(30)
        assert caught.value.signal == signal.SIGKILL
        assert "half_sent" in str(caught.value.task)
    assert all(len(result.get(30)) == 10_000_000 for result in good)
    del lost, good, result, caught
    until(lambda: processing.memory_usage().objects <= before)


def test_killed_while_the_pool_closes(make: Make, tmp_path: Path) -> None:
    pool = make(1)
    path = tmp_path / "pid"
    stuck = pool.apply_async(tell_and_sleep, (str(path),))
    queued = [pool.apply_async(large, (10,)) for _ in range(20)]
    until(lambda: path.exists() and path.read_text())
    pool.close()
    os.kill(int(path.read_text()), signal.SIGKILL)
    assert pool.join(30)
    with pytest.raises(WorkerDied) as caught:
        stuck.get(0)
    assert caught.value.pid == int(path.read_text())
    assert [result.get(0) for result in queued] == [b"x" * 10] * 20


def test_killed_while_the_pool_terminates(make: Make, tmp_path: Path) -> None:
    pool = make(2)
    path = tmp_path / "pid"
    pool.apply_async(tell_and_sleep, (str(path),))
    until(lambda: path.exists() and path.read_text())
    os.kill(int(path.read_text()), signal.SIGKILL)
    pool.terminate()
    assert pool.join(30)


CALLER = """
import os, sys, time
import processing
from processing.pool import Pool

def stay(number):
    os.write({pipe}, b"%d\\n" % os.getpid())
    time.sleep(3600)

if __name__ == "__main__":
    pool = Pool(2, context=processing.get_context("fork"))
    results = [pool.apply_async(stay, (number,)) for number in range(2)]
    results[0].get()
"""


def test_a_killed_caller_takes_its_workers(tmp_path: Path) -> None:
    read, write = os.pipe()
    program = tmp_path / "program.py"
    program.write_text(CALLER.format(pipe=write))
    with subprocess.Popen([sys.executable, str(program)], pass_fds=[write]) as caller:
        os.close(write)
        text = b""
        while text.count(b"\n") < 2:
            assert select.select([read], [], [], 30)[0], "the workers did not begin"
            text += os.read(read, 100)
        caller.kill()
    # The pipe ends with the last process that has it.
    assert select.select([read], [], [], 5)[0], "a worker outlived its caller"
    assert os.read(read, 100) == b""
    os.close(read)
