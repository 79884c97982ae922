"""The parallel backend for joblib."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import processing

joblib = pytest.importorskip("joblib")
numpy = pytest.importorskip("numpy")

from processing.joblib import ProcessingBackend, register  # noqa: E402 - only where joblib is

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def backend() -> Iterator[None]:
    register()
    with joblib.parallel_config("processing", n_jobs=2):
        yield


def square(number: int) -> int:
    return number * number


def test_values_are_in_order() -> None:
    assert joblib.Parallel()(joblib.delayed(square)(n) for n in range(500)) == [n * n for n in range(500)]


def test_calls_run_in_processes_of_their_own() -> None:
    pids = joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(20))
    assert os.getpid() not in pids
    assert len(set(pids)) <= 2


def test_functions_that_cannot_be_imported() -> None:
    factor = 3
    assert joblib.Parallel()(joblib.delayed(lambda n: n * factor)(n) for n in range(4)) == [0, 3, 6, 9]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_start_methods(method: str) -> None:
    with joblib.parallel_config("processing", n_jobs=2, start_method=method):
        names = joblib.Parallel()(joblib.delayed(worker_name)() for _ in range(4))
    assert {name.partition("PoolWorker")[0] for name in names} == {
        {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[method]
    }


def worker_name() -> str:
    return processing.current_process().name


def test_workers_stay_inside_a_context() -> None:
    with joblib.Parallel(batch_size=1) as parallel:
        first = set(parallel(joblib.delayed(os.getpid)() for _ in range(10)))
        second = set(parallel(joblib.delayed(os.getpid)() for _ in range(10)))
    assert len(first | second) <= 2


def facts(array: Any) -> tuple[bool, float]:
    return array.flags.writeable, float(array.sum())


def test_large_arrays_are_shared_once() -> None:
    array = numpy.ones(1_000_000)
    with joblib.Parallel(batch_size=1, pre_dispatch="all") as parallel:
        before = processing.memory_usage().used
        assert parallel(joblib.delayed(facts)(array) for _ in range(20)) == [(False, 1e6)] * 20
        assert array.nbytes <= processing.memory_usage().used - before < 3 * array.nbytes
    assert array.flags.writeable


def test_small_arrays_and_copies_are_writable() -> None:
    small = numpy.ones(10)
    assert joblib.Parallel()(joblib.delayed(facts)(small) for _ in range(3)) == [(True, 10.0)] * 3
    large = numpy.ones(1_000_000)
    copied = joblib.Parallel(mmap_mode="c")(joblib.delayed(facts)(large) for _ in range(2))
    assert copied == [(True, 1e6)] * 2


def test_arrays_cannot_be_written_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        joblib.Parallel(mmap_mode="r+")(joblib.delayed(square)(n) for n in range(3))


def refuse(number: int) -> int:
    if number == 7:
        raise LookupError("not seven")
    return number


def test_the_first_failure_is_raised() -> None:
    with pytest.raises(LookupError, match="not seven"):
        joblib.Parallel()(joblib.delayed(refuse)(n) for n in range(50))
    assert joblib.Parallel()(joblib.delayed(refuse)(n) for n in range(3)) == [0, 1, 2]


def die(number: int) -> None:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_fails_its_batch() -> None:
    with joblib.Parallel(batch_size=1) as parallel:
        with pytest.raises(processing.WorkerDied):
            parallel(joblib.delayed(die)(n) for n in range(5))
        assert parallel(joblib.delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_results_as_a_generator() -> None:
    values = joblib.Parallel(return_as="generator")(joblib.delayed(square)(n) for n in range(10))
    assert list(values) == [n * n for n in range(10)]


def test_a_time_limit() -> None:
    import multiprocessing
    import time

    with pytest.raises(multiprocessing.TimeoutError):  # joblib's
        joblib.Parallel(timeout=0.2)(joblib.delayed(time.sleep)(60) for _ in range(2))


def test_settings_of_workers_and_inner_threads() -> None:
    def look() -> tuple[str | None, int]:
        return os.environ.get("OMP_NUM_THREADS"), processing.current_worker().shared

    with joblib.parallel_config("processing", n_jobs=2, inner_max_num_threads=1, shared=41):
        assert joblib.Parallel()(joblib.delayed(look)() for _ in range(2)) == [("1", 41)] * 2


def nested(number: int) -> list[int]:
    values: list[int] = joblib.Parallel(n_jobs=2)(joblib.delayed(square)(n) for n in range(number))
    return values


def test_parallel_within_parallel() -> None:
    assert joblib.Parallel()(joblib.delayed(nested)(n) for n in range(3)) == [[], [0], [0, 1]]


def test_how_many_jobs() -> None:
    backend = ProcessingBackend()
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(3) == 3
    assert backend.effective_n_jobs(-1) == processing.cpu_count(usable=True)
    assert backend.effective_n_jobs(-1000) == 1
    with pytest.raises(ValueError):
        backend.effective_n_jobs(0)
    assert joblib.Parallel(n_jobs=1)(joblib.delayed(square)(n) for n in range(3)) == [0, 1, 4]
