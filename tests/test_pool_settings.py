"""What workers are like besides what they run: memory, CPUs, threads, seeds, state, hooks (users.md 16, 18)."""

from __future__ import annotations

import functools
import io
import os
import random
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import output_of, until
from processing.errors import WorkerDied
from processing.pool import Pool, ThreadPool

pytestmark = pytest.mark.ends

MB = 1 << 20
METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Any] = []

    def make(processes: int = 2, **options: Any) -> Any:
        pool = Pool(processes, context=processing.get_context(request.param), **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def worker() -> Any:
    found = processing.current_worker()
    assert found is not None
    return found


def rank_of(x: object = None) -> int:
    return worker().rank  # type: ignore[no-any-return]


# ---- current_worker -------------------------------------------------------------------------------------------------


def test_nobody_is_a_worker_outside() -> None:
    assert processing.current_worker() is None


def note_rank() -> None:
    worker().state["rank"] = worker().rank


def look_around(x: object) -> tuple[int, int, int, int]:
    me = worker()
    me.state["calls"] = me.state.get("calls", 0) + 1
    return me.rank, me.state["rank"], me.pid, os.getpid()


def test_rank_and_state(make: Any) -> None:
    pool = make(2, initializer=note_rank)
    seen = pool.map(look_around, range(50))
    assert {rank for rank, *_ in seen} <= {0, 1}
    assert all(rank == kept and pid == actual for rank, kept, pid, actual in seen)
    assert pool.broadcast(rank_of) == [0, 1]


def exit_at_once(x: object) -> None:
    os._exit(3)


def test_a_successor_has_the_rank_and_no_state(make: Any) -> None:
    pool = make(1, initializer=note_rank)
    first = pool.apply(look_around, (0,))
    with pytest.raises(WorkerDied):
        pool.apply(exit_at_once, (0,))
    second = pool.apply(look_around, (0,))
    assert first[0] == second[0] == 0 and first[2] != second[2]


def test_threads_are_workers_too() -> None:
    with ThreadPool(2) as pool:
        assert sorted(pool.broadcast(rank_of)) == [0, 1]
    assert processing.current_worker() is None


def forked_child_is_no_worker() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if processing.current_worker() is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_child_of_a_worker_is_none(make: Any) -> None:
    assert make(1).apply(forked_child_is_no_worker)


# ---- Hooks ----------------------------------------------------------------------------------------------------------


def leave_traces(folder: str) -> None:
    me = worker()
    me.on_exit(touch, folder, f"first-{me.rank}")
    me.on_exit(raise_it)

    @me.on_exit
    def last() -> None:
        touch(folder, f"second-{me.rank}")


def touch(folder: str, name: str) -> None:
    with open(os.path.join(folder, name), "w") as file:
        file.write(str(len(os.listdir(folder))))


def raise_it() -> None:
    raise KeyError("a hook that fails")


def finalize(folder: str) -> None:
    touch(folder, f"finalizer-{rank_of()}")


def test_exit_hooks_and_finalizer(make: Any, tmp_path: Path) -> None:
    arguments = (str(tmp_path),)
    pool = make(
        2, initializer=leave_traces, initargs=arguments, finalizer=functools.partial(finalize, *arguments)
    )
    assert pool.map(rank_of, range(10))
    pool.close()
    pool.join()
    assert sorted(os.listdir(tmp_path)) == [
        f"{what}-{rank}" for what in ("finalizer", "first", "second") for rank in "01"
    ]
    for rank in "01":  # last registered, first called
        assert int((tmp_path / f"second-{rank}").read_text()) < int((tmp_path / f"first-{rank}").read_text())


def test_exit_hooks_with_maxtasksperchild_and_resize(make: Any, tmp_path: Path) -> None:
    pool = make(1, initializer=leave_traces, initargs=(str(tmp_path),), maxtasksperchild=3)
    assert pool.map(rank_of, range(3)) == [0] * 3
    until(lambda: (tmp_path / "first-0").exists())


# ---- Seeds ----------------------------------------------------------------------------------------------------------


def draw() -> tuple[float, float]:
    import numpy

    return random.random(), float(numpy.random.random())


def import_numpy() -> None:
    import numpy  # noqa: F401


def test_workers_draw_different_numbers(make: Any) -> None:
    pool = make(4, initializer=import_numpy)
    drawn = pool.broadcast(draw)
    assert len({a for a, _ in drawn}) == 4 and len({b for _, b in drawn}) == 4


def test_a_seed_makes_them_the_same_again(make: Any) -> None:
    drawn = [make(3, initializer=import_numpy, seed=seed).broadcast(draw) for seed in (7, 7, 8, 1 << 80)]
    assert drawn[0] == drawn[1]
    assert len({pair for run in drawn[1:] for pair in run}) == 9


# ---- CPUs -----------------------------------------------------------------------------------------------------------


def affinity() -> set[int]:
    return os.sched_getaffinity(0)


def test_pinning(make: Any) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    shares = make(2, pin=True).broadcast(affinity)
    if len(allowed) > 1:
        assert shares[0] | shares[1] <= set(allowed) and not shares[0] & shares[1]
    last = allowed[-1]
    assert make(2, pin=[last, [*allowed]]).broadcast(affinity) == [{last}, set(allowed)]
    assert make(1).broadcast(affinity) == [set(allowed)]


def test_bad_pins() -> None:
    for pin, error in (
        ([100_000], ValueError),
        ([], ValueError),
        ([[]], ValueError),
        (3, TypeError),
        (["x"], TypeError),
    ):
        with pytest.raises(error):
            Pool(1, pin=pin)


# ---- Threads of libraries (users.md 16) -----------------------------------------------------------------------------


def thread_limit() -> tuple[str | None, set[int]]:
    import numpy
    import threadpoolctl

    numpy.ones((8, 8)) @ numpy.ones((8, 8))
    return os.environ.get("OPENBLAS_NUM_THREADS"), {
        library["num_threads"] for library in threadpoolctl.threadpool_info()
    }


def test_blas_threads_are_shared_out(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    share = max(1, processing.cpu_count(usable=True) // 2)
    for variable, counts in make(2).broadcast(thread_limit):
        assert variable == str(share)
        assert counts <= {share}


def test_blas_threads_as_wanted(make: Any) -> None:
    assert make(2, threads=3).broadcast(thread_limit)[0][0] == "3"
    assert make(2, threads=0).broadcast(thread_limit)[0][0] == os.environ.get("OPENBLAS_NUM_THREADS")


def test_whoever_starts_fewer_threads_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    program = """
        import numpy, threadpoolctl
        from processing.workersettings import _Libraries

        def limited(threads, exactly):
            _Libraries().limit(threads, exactly)
            return {library["num_threads"] for library in threadpoolctl.threadpool_info()}

        threadpoolctl.threadpool_limits(2)
        print(limited(3, False), limited(1, False), limited(3, True))
    """
    assert output_of(tmp_path, program) == ["{2} {1} {3}"]


def test_the_users_variables_stay(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert make(2).apply(os.environ.get, ("OMP_NUM_THREADS",)) == "5"


# ---- Memory (users.md 18) -------------------------------------------------------------------------------------------


def allocate(size: int) -> int:
    return len(bytearray(size))


def test_too_much_memory_is_a_memory_error_in_that_call(make: Any) -> None:
    pool = make(2, memory_limit=200 * MB)
    pids = set(pool.broadcast(os.getpid))
    results = [pool.apply_async(allocate, (size * MB,)) for size in (1, 400, 50, 1000, 2)]
    for result, size in zip(results, (1, 400, 50, 1000, 2), strict=True):
        if size > 200:
            with pytest.raises(MemoryError):
                result.get()
        else:
            assert result.get() == size * MB
    assert set(pool.broadcast(os.getpid)) == pids  # nobody died of it


def allocate_anyhow(size: int) -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    block = bytearray(size)
    for at in range(0, size, 4096):
        block[at] = 1
    import time

    time.sleep(60)
    return len(block)


def test_who_evades_the_limit_is_stopped(make: Any) -> None:
    pool = make(2, memory_limit=100 * MB)
    result = pool.apply_async(allocate_anyhow, (200 * MB,))
    with pytest.raises(WorkerDied, match="memory limit"):
        result.get()
    assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))


def test_bad_memory_limits() -> None:
    for limit, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("1 GB", TypeError)):
        with pytest.raises(error):
            Pool(1, memory_limit=limit)  # type: ignore[arg-type]


# ---- shared= --------------------------------------------------------------------------------------------------------


def add_shared(x: int) -> float:
    table, name = worker().shared
    assert name == "table"
    return float(table[x])


def own_memory() -> int:
    table, _ = worker().shared
    table.sum()
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["Anonymous"].split()[0]) * 1024


def test_shared_is_there_once(make: Any) -> None:
    numpy = pytest.importorskip("numpy")
    table = numpy.arange(4 * MB, dtype="f8")  # 32 MB
    pool = make(2, shared=(table, "table"))
    assert pool.map(add_shared, range(100)) == [float(x) for x in range(100)]
    del table
    plain = make(2, initializer=import_numpy).broadcast(anonymous)
    for more in pool.broadcast(own_memory):
        assert more < max(plain) + 48 * MB  # fork has the caller's own copy besides


def anonymous() -> int:
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["Anonymous"].split()[0]) * 1024


def test_there_is_no_shared_value(make: Any) -> None:
    with pytest.raises(ValueError, match="without shared="):
        make(1).apply(add_shared, (1,))


# ---- Progress -------------------------------------------------------------------------------------------------------


def step_by_step(n: int) -> int:
    for step in range(n):
        worker().progress(step + 1, n)
    return n


def test_progress_from_inside(make: Any) -> None:
    out = io.StringIO()
    pool = make(2)
    options = {"file": out, "mininterval": 0, "miniters": 0}
    assert pool.map(step_by_step, [5, 10, 20], progress=options) == [5, 10, 20]
    assert list(pool.imap_unordered(step_by_step, [3], progress=options)) == [3]
    text = out.getvalue()
    assert "3/3" in text and "1/1" in text and "4/3" not in text


def test_progress_of_a_program_without_tqdm(tmp_path: Path) -> None:
    (tmp_path / "tqdm.py").write_text("raise ImportError('no')")
    program = """
        import processing
        with processing.Pool(1) as pool:
            try:
                pool.map(abs, [1], progress=True)
            except ImportError as error:
                print(error)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "processing[progress]" in run.stdout, run.stderr
