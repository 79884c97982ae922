"""What users suffer from with other pools, and are promised here: each test is named after the line of that list.

1 a killed worker hangs the pool          14 log records are lost            20 large arrays are copied
2 fork beside threads deadlocks           16 BLAS threads                    22 nested pools are forbidden
4 lambdas do not pickle                   17 quota and affinity are ignored  24 restarts without end
6 one death breaks the executor           18 memory grows                    25 nobody knows what happens
7 what runs cannot be stopped             19 imap reads everything
8 unpicklable results hang the caller     11, 12 processes are left over
"""

from __future__ import annotations

import gc
import io
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, until
from processing import Pool, ProcessPoolExecutor, RemoteError, TaskTimeout, WorkerDied

pytestmark = pytest.mark.ends

PROGRAM = """
import os, time
import processing
from processing.pool import Pool

def stay(how):
    os.write({pipe}, b"x\\n")
    if how == "sleep":
        time.sleep(3600)
    while True:
        pass

if __name__ == "__main__":
    with Pool(10, context=processing.get_context({method!r})) as pool:
        work = [{how!r}] * 10
        {wait}
"""

WAITS = {
    "map": "pool.map(stay, work, 1)",
    "imap": "list(pool.imap(stay, work))",
    "get": "[pool.apply_async(stay, (how,)) for how in work][0].get()",
}


@pytest.mark.parametrize("how", ["sleep", "loop"])
@pytest.mark.parametrize("wait", WAITS)
def test_line_11_one_interrupt_ends_all(tmp_path: Path, wait: str, how: str) -> None:
    read, write = os.pipe()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(pipe=write, method="fork", how=how, wait=WAITS[wait]))
    with subprocess.Popen(
        [sys.executable, str(program)],
        pass_fds=[write],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as caller:
        os.close(write)
        text = b""
        while text.count(b"\n") < 10:
            assert select.select([read], [], [], 30)[0], "the workers did not begin"
            text += os.read(read, 100)
        start = time.monotonic()
        os.killpg(caller.pid, signal.SIGINT)
        # The pipe ends with the last process that has it: the caller and all of its workers.
        assert select.select([read], [], [], 20)[0] and os.read(read, 100) == b""
        seconds = time.monotonic() - start
        _, errors = caller.communicate(timeout=20)
    os.close(read)
    assert seconds < LIMIT / 2, seconds  # some 50 ms on a machine that has nothing else to do
    assert caller.returncode == -signal.SIGINT, caller.returncode
    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert errors.splitlines()[-1] == "KeyboardInterrupt", errors


Make = Callable[..., Any]


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(method: str) -> Iterator[Make]:
    """Makes pools, and ends them."""
    made: list[Any] = []

    def make(processes: int = 2, **options: Any) -> Any:
        made.append(Pool(processes, context=processing.get_context(method), **options))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def square(x: int) -> int:
    return x * x


def die(x: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_if(x: int, bad: int) -> int:
    if x == bad:
        die(x)
    return x


def touch_and_stay(path: str) -> None:
    Path(path).touch()
    while True:
        time.sleep(1)


# ---- Deaths ---------------------------------------------------------------------------------------------------------


def test_line_01_a_killed_worker_fails_its_call_alone(make: Make) -> None:
    pool = make(2)
    others = pool.map_async(square, range(1000))
    with pytest.raises(WorkerDied) as caught:
        pool.apply(die, ("why",))
    died = caught.value
    assert died.task == "die('why')" and died.signal == signal.SIGKILL and died.pid and died.peak_memory
    assert others.get(LIMIT) == [x * x for x in range(1000)]
    assert pool.map(square, range(100)) == [x * x for x in range(100)]


def test_line_06_an_executor_survives_and_tries_again(make: Make, method: str) -> None:
    with ProcessPoolExecutor(2, processing.get_context(method)) as executor:
        bad, good = executor.submit(die, 1), executor.submit(square, 3)
        assert isinstance(bad.exception(LIMIT), WorkerDied) and good.result(LIMIT) == 9
        assert list(executor.map(square, range(5))) == [0, 1, 4, 9, 16]
    pool = make(2, retries=2)
    results = [pool.apply_async(die_if, (x, 3)) for x in range(6)]
    with pytest.raises(WorkerDied) as caught:
        results.pop(3).get(LIMIT)
    assert caught.value.attempts == 3  # it is set aside then
    assert [result.get(LIMIT) for result in results] == [0, 1, 2, 4, 5]


def test_line_12_a_killed_caller_takes_its_workers_with_it(method: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    text = PROGRAM.format(pipe="{pipe}", method=method, how="sleep", wait=WAITS["get"])
    (tmp_path / "program.py").write_text(text.replace("{pipe}", f"os.open({str(pipe)!r}, os.O_WRONLY)"))
    begun = b""

    def have_begun() -> bool:
        nonlocal begun
        try:
            begun += os.read(read, 100)
        except BlockingIOError:
            pass
        return begun.count(b"\n") == 10

    with subprocess.Popen([sys.executable, str(tmp_path / "program.py")]) as caller:
        until(have_begun, 3 * LIMIT)
        caller.kill()
        until(lambda: is_over(read))  # the pipe ends with the last process that has it
    os.close(read)


def is_over(pipe: int) -> bool:
    try:
        return bool(select.select([pipe], [], [], 0)[0]) and os.read(pipe, 100) == b""
    except BlockingIOError:
        return False


# ---- What can be sent -----------------------------------------------------------------------------------------------


def test_line_04_lambdas_and_closures(make: Make) -> None:
    factor = 3

    def times(x: int) -> int:
        return factor * x

    pool = make(2)
    assert pool.map(lambda x: x + factor, range(5)) == [3, 4, 5, 6, 7]
    assert pool.map(times, range(5)) == [0, 3, 6, 9, 12]


def give_lock(x: object) -> Any:
    return threading.Lock()


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("odd")
        self.lock = threading.Lock()


def raise_odd(x: object) -> None:
    raise Odd(1, 2)


def test_line_08_something_always_arrives(make: Make) -> None:
    pool = make(2)
    with pytest.raises(RemoteError, match="lock"):
        pool.apply(give_lock, (1,))
    with pytest.raises(RemoteError, match="Odd") as caught:
        pool.apply(raise_odd, (1,))
    assert "raise Odd(1, 2)" in caught.value.traceback
    with pytest.raises(TypeError, match="lock"):
        pool.apply(square, (threading.Lock(),))  # at the call
    assert pool.apply(square, (3,)) == 9


# ---- Control --------------------------------------------------------------------------------------------------------


def test_line_07_what_runs_is_stopped(make: Make, tmp_path: Path) -> None:
    pool = make(2)
    result = pool.apply_async(touch_and_stay, (str(tmp_path / "a"),))
    until((tmp_path / "a").exists)
    assert result.cancel() and result.cancelled()
    with pytest.raises(TaskTimeout):
        pool.apply(touch_and_stay, (str(tmp_path / "b"),), timeout=0.2)
    assert pool.map(square, range(100)) == [x * x for x in range(100)]
    until(lambda: all(worker.running is None for worker in pool.statistics().workers))


def test_line_17_as_many_workers_as_cpus_that_may_be_used() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        with Pool() as pool:
            assert pool.statistics().processes == 1
        pool.join()
    finally:
        os.sched_setaffinity(0, allowed)


def allocate(size: int) -> int:
    return len(bytearray(size))


def test_line_18_memory_has_a_limit_and_workers_are_renewed(make: Make) -> None:
    pool = make(1, memory_limit=100 << 20, maxtasksperchild=3)
    with pytest.raises(MemoryError):
        pool.apply(allocate, (400 << 20,))
    pids = [pool.apply(os.getpid) for _ in range(6)]
    assert len(set(pids)) >= 2 and max(map(pids.count, pids)) <= 3


def test_line_19_imap_reads_no_more_than_it_needs(make: Make) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    results = make(2).imap(square, endless(), window=50)
    assert [next(results) for _ in range(10)] == [x * x for x in range(1, 11)]
    assert read <= 10 + 50 + 2
    results.cancel()


def nest(n: int) -> list[int]:
    with Pool(2) as pool:
        return pool.map(square, range(n))  # type: ignore[no-any-return]


def test_line_22_pools_within_pools(make: Make) -> None:
    assert make(2).map(nest, [3, 4]) == [[0, 1, 4], [0, 1, 4, 9]]


def fail_to_begin() -> None:
    raise ValueError("not here")


@pytest.mark.once
def test_line_24_restarts_are_bounded(make: Make) -> None:
    pool = make(2, initializer=fail_to_begin)
    with pytest.raises(processing.InitializerFailed, match="not here"):
        pool.apply(square, (2,))
    short = make(1, maxtasksperchild=1)
    assert short.map(square, range(20)) == [x * x for x in range(20)]
    short.close()
    assert short.join(LIMIT)


# ---- Libraries ------------------------------------------------------------------------------------------------------


def test_line_02_no_threads_of_ours(make: Make) -> None:
    threads = set(threading.enumerate())
    pool = make(2)
    assert pool.map(square, range(1000)) and pool.apply(square, (1,)) == 1
    assert list(pool.imap(square, range(100))) and pool.apply_async(square, (2,)).get() == 4
    assert set(threading.enumerate()) == threads


def log_it(x: int) -> None:
    logging.getLogger("promises").warning("record %d", x)


def test_line_14_records_reach_the_handlers_here(make: Make) -> None:
    heard: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, handler = logging.getLogger("promises"), Handler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        pool = make(2, logs=True)
        pool.map(log_it, range(20))
        pool.close()
        pool.join()
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert sorted(heard) == sorted(f"record {x}" for x in range(20))


def blas_threads() -> set[int]:
    import numpy
    import threadpoolctl

    numpy.ones((4, 4)) @ numpy.ones((4, 4))
    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def test_line_16_libraries_share_the_cpus(make: Make) -> None:
    pytest.importorskip("numpy")
    share = max(1, processing.cpu_count(usable=True) // 2)
    assert set().union(*make(2).broadcast(blas_threads)) <= {share}


def first_and_place(array: Any) -> tuple[float, bool]:
    return float(array[0]), bool(array.flags.owndata)


def make_array(n: int) -> Any:
    import numpy

    return numpy.full(n, 7.0)


def test_line_20_arrays_travel_without_copies(make: Make) -> None:
    numpy = pytest.importorskip("numpy")
    pool = make(2)
    gc.collect()
    before = processing.memory_usage().used
    array = numpy.full(1 << 20, 3.0)
    assert pool.apply(first_and_place, (array,)) == (3.0, False)  # a view of shared memory
    result = pool.apply(make_array, (1 << 20,))
    assert not result.flags.owndata and result.sum() == 7 << 20
    del result
    gc.collect()
    until(lambda: processing.memory_usage().used < before + (1 << 20))  # and is gone with its last view


def test_line_25_what_happens_can_be_seen(make: Make) -> None:
    pytest.importorskip("tqdm")
    pool = make(2)
    shown, dumped = io.StringIO(), io.StringIO()
    pool.map(square, range(50), progress={"file": shown})
    until(lambda: pool.statistics().calls == 50)
    pool.dump(dumped)
    assert "50/50" in shown.getvalue() and "worker 0 (pid" in dumped.getvalue()
