"""The loops over pools of two workers: small calls, large arguments, starts, idle workers, deaths.

Every pool is warm (both workers have answered) before the clock starts, but for those whose start is measured. Peers
without the methods of `multiprocessing.Pool` are measured by what is nearest to them: `submit` and `result`, `map`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import repeat
from pathlib import Path
from time import perf_counter
from typing import Any

from . import loops

WORKERS = 2
MAP_LENGTH = 10_000
ARRAYS = 200
ARRAY_BYTES = 8 << 20
IDLE_WORKERS = 100
IDLE_SECONDS = 4.0
STARTING = Path(__file__).parent / "programs" / "starting_pools.py"


def _square(x: int) -> int:
    return x * x


def _first(array: Any) -> float:
    return float(array[0])


def _check(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


# ---- Small calls ----------------------------------------------------------------------------------------------------


def apply_async(kit: Any, count: int) -> float:
    """All calls are submitted, then all results are taken."""
    with kit.Pool(WORKERS) as pool:
        if hasattr(pool, "apply_async"):
            seconds = _submit_all(
                lambda x: pool.apply_async(_square, (x,)), lambda result: result.get(), count
            )
        else:
            seconds = _submit_all(lambda x: pool.submit(_square, x), lambda future: future.result(), count)
    return seconds


def submit(kit: Any, count: int) -> float:
    """The same, with Futures."""
    with kit.Pool(WORKERS) as pool:
        return _submit_all(lambda x: pool.submit(_square, x), lambda future: future.result(), count)


def _submit_all(send: Callable[[int], Any], take: Callable[[Any], int], count: int) -> float:
    for result in [send(x) for x in range(max(100, loops._warm(count)))]:
        take(result)
    start = perf_counter()
    results = [send(x) for x in range(count)]
    values = [take(result) for result in results]
    seconds = perf_counter() - start
    _check(values, [x * x for x in range(count)])
    return seconds


def apply(kit: Any, count: int) -> float:
    """A call is submitted when the one before has answered."""
    with kit.Pool(WORKERS) as pool:
        if hasattr(pool, "apply"):
            call = pool.apply
            for _ in repeat(None, max(20, loops._warm(count))):
                call(_square, (7,))
            start = perf_counter()
            for _ in repeat(None, count):
                value = call(_square, (7,))
        else:
            submit = pool.submit
            for _ in repeat(None, max(20, loops._warm(count))):
                submit(_square, 7).result()
            start = perf_counter()
            for _ in repeat(None, count):
                value = submit(_square, 7).result()
        seconds = perf_counter() - start
    _check(value, 49)
    return seconds


def imap(kit: Any, count: int) -> float:
    """Chunks of one."""
    with kit.Pool(WORKERS) as pool:
        for _ in pool.imap(_square, range(max(100, loops._warm(count))), chunksize=1):
            pass
        start = perf_counter()
        total = sum(pool.imap(_square, range(count), chunksize=1))
        seconds = perf_counter() - start
    _check(total, sum(x * x for x in range(count)))
    return seconds


def small_map(kit: Any, count: int) -> float:
    """`count` maps over 10,000 small items each, one after the other, with the peer's own size of chunks."""
    items = range(MAP_LENGTH)
    with _mapper(kit) as map_all:
        values = map_all(_square, items)
        start = perf_counter()
        for _ in repeat(None, count):
            values = map_all(_square, items)
        seconds = perf_counter() - start
    _check(values, [x * x for x in items])
    return seconds


class _mapper(AbstractContextManager[Callable[..., "list[Any]"]]):
    """The `map` of a peer's pool."""

    def __init__(self, kit: Any) -> None:
        self.kit = kit
        self.pool: Any = None

    def __enter__(self) -> Callable[..., list[Any]]:
        if self.kit.name == "joblib":
            self.pool = self.kit.Parallel(n_jobs=WORKERS).__enter__()
            return self._parallel
        self.pool = self.kit.Pool(WORKERS).__enter__()
        map_all: Callable[..., list[Any]] = self.pool.map
        return map_all

    def _parallel(self, function: Callable[[Any], Any], items: Any) -> list[Any]:
        call = self.kit.delayed(function)
        return list(self.pool(call(item) for item in items))

    def __exit__(self, *error: Any) -> None:
        self.pool.__exit__(*error)


# ---- Large arguments ------------------------------------------------------------------------------------------------


def map_arrays(kit: Any, count: int) -> float:
    """`count` maps over 200 different arrays (of the same one, a pickle would hold it once for each chunk)."""
    import numpy

    arrays = [numpy.full(ARRAY_BYTES // 8, number, float) for number in range(ARRAYS)]
    with kit.Pool(WORKERS) as pool:
        pool.map(_first, arrays[:8])
        start = perf_counter()
        for _ in repeat(None, count):
            values = pool.map(_first, arrays)
        seconds = perf_counter() - start
    _check(values, [float(number) for number in range(ARRAYS)])
    return seconds


# ---- Starts ---------------------------------------------------------------------------------------------------------


def _starts(kit: Any, method: str, count: int) -> float:
    order = [sys.executable, str(STARTING), kit.name, method, str(count)]
    return float(subprocess.run(order, stdout=subprocess.PIPE, text=True, check=True).stdout)


def start_fork(kit: Any, count: int) -> float:
    return _starts(kit, "fork", count)


def start_forkserver(kit: Any, count: int) -> float:
    """The server is running already."""
    return _starts(kit, "forkserver", count)


# ---- Idle workers ---------------------------------------------------------------------------------------------------


def idle(kit: Any, count: int) -> float:
    """The share of one core that this process and all it has started use while nothing is to be done; times `count`."""
    if kit.name == "nothing":
        return 1e-9 * count
    with kit.Pool(IDLE_WORKERS) as pool:
        pool.map(_square, range(10 * IDLE_WORKERS), chunksize=1)
        time.sleep(1.0)
        used = -_cpu_seconds()
        start = perf_counter()
        time.sleep(IDLE_SECONDS)
        used += _cpu_seconds()
        share = used / (perf_counter() - start)
    return max(share, 1e-9) * count


def _cpu_seconds() -> float:
    """Of all processes of this session (each measurement has its own). What reading this costs is not in it."""
    session = str(os.getsid(0))
    total = 0.0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                if fields[3] == session:
                    total += sum(
                        map(
                            _thread_seconds,
                            (f"/proc/{name}/task/{t}" for t in os.listdir(f"/proc/{name}/task")),
                        )
                    )
            except OSError:
                pass  # it has ended
    # Of this process: its other threads, as the main thread sleeps or reads this.
    mine = [
        f"/proc/self/task/{thread}" for thread in os.listdir("/proc/self/task") if int(thread) != os.getpid()
    ]
    return total + sum(map(_thread_seconds, mine))


def _thread_seconds(folder: str) -> float:
    try:
        with open(f"{folder}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9
    except FileNotFoundError:  # a kernel without it: in ticks
        with open(f"{folder}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- Deaths ---------------------------------------------------------------------------------------------------------


def _tell_and_sleep(path: str) -> None:
    with open(path, "w") as fifo:
        fifo.write(str(os.getpid()))
    time.sleep(60)


def death(kit: Any, count: int) -> float:
    """From the SIGKILL of the worker that runs a call to the exception where its result is waited for."""
    if kit.name == "nothing":
        return 1e-9 * count
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="processing-bench-") as folder:
        path = f"{folder}/fifo"
        os.mkfifo(path)
        pool: Any = None
        for _ in range(count):
            # The peers' pools are broken by a death.
            pool = kit.Pool(WORKERS) if pool is None or kit.name != "processing" else pool
            if hasattr(pool, "apply_async"):
                wait = pool.apply_async(_tell_and_sleep, (path,)).get
            else:
                wait = pool.submit(_tell_and_sleep, path).result
            with open(path) as fifo:
                victim = int(fifo.read())
            time.sleep(0.02)
            start = perf_counter()
            os.kill(victim, signal.SIGKILL)
            try:
                wait()
            except Exception:
                seconds += perf_counter() - start
            else:
                raise AssertionError("no exception")
        if hasattr(pool, "terminate"):
            pool.terminate()
    return seconds
