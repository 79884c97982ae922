"""Seeing what a pool does: statistics, timelines, logs, stacks (users.md 14, 25)."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, until
from processing.errors import WorkerDied
from processing.pool import Pool, ThreadPool

pytestmark = pytest.mark.ends

METHODS = ["fork", "forkserver", "spawn"]


def _maker(kind: str) -> Iterator[Any]:
    made: list[Any] = []

    def make(processes: int = 2, **options: Any) -> Any:
        if kind == "threads":
            pool: Any = ThreadPool(processes)
        else:
            pool = Pool(processes, context=processing.get_context(kind), **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture(params=METHODS)
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from _maker(request.param)


@pytest.fixture(params=[*METHODS, "threads"])
def make_any(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from _maker(request.param)


def square(x: int) -> int:
    return x * x


def fail(x: object) -> None:
    raise KeyError(x)


# ---- Statistics -----------------------------------------------------------------------------------------------------


def test_statistics(make_any: Any) -> None:
    pool = make_any(2)
    until(lambda: len(pool.statistics().workers) == 2)
    pool.map(square, range(100))
    pool.map(square, range(50))
    until(lambda: pool.statistics().calls == 150)
    facts = pool.statistics()
    assert facts.processes == 2 and len(facts.workers) == 2 and facts.state == "RUN" and facts.pending == 0
    assert [worker.rank for worker in facts.workers] == [0, 1]
    table = str(facts).splitlines()
    assert (
        len(table) == 4
        and "150" in table[-1]
        and all(str(worker.pid) in str(facts) for worker in facts.workers)
    )


def test_counters_of_a_rank_go_on(make: Any) -> None:
    pool = make(1, maxtasksperchild=5)
    pids = set(pool.map(os_getpid, range(20)))
    assert len(pids) >= 4
    until(lambda: pool.statistics().calls == 20)


def os_getpid(x: object) -> int:
    return os.getpid()


# ---- Timelines ------------------------------------------------------------------------------------------------------


def load(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(path.read_text())
    assert all({"ph", "name", "pid"} <= set(event) for event in events)
    return events


def test_a_timeline_has_each_call_once(make_any: Any, tmp_path: Path) -> None:
    pool = make_any(2)
    pool.map(square, range(30))  # before: not in it
    with pool.trace(tmp_path / "calls.json"):
        pool.map(square, range(100))
        assert list(pool.imap(square, range(200), chunksize=7))
        for x in range(3):
            with pytest.raises(KeyError):
                pool.apply(fail, (x,))
    pool.map(square, range(30))  # after: neither
    events = load(tmp_path / "calls.json")
    calls = [event for event in events if event["ph"] == "X"]
    assert len(calls) == 303
    assert len({(event["args"]["job"], event["args"]["index"]) for event in calls}) == 303
    assert sum(event["name"] == "square" for event in calls) == 300
    assert sum("failed" in event["cat"] and event["name"] == "fail" for event in calls) == 3
    assert all(event["dur"] >= 0 and event["tid"] in (1, 2) for event in calls)
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names and names <= {"worker 0", "worker 1"}
    for rank in (1, 2):  # calls of one worker do not overlap
        mine = sorted((event["ts"], event["dur"]) for event in calls if event["tid"] == rank)
        assert all(a + d <= b + 0.002 for (a, d), (b, _) in itertools.pairwise(mine))


def test_a_timeline_shows_deaths_and_ends_with_the_pool(make: Any, tmp_path: Path) -> None:
    pool = make(1)
    pool.trace(str(tmp_path / "calls.json"))
    with pytest.raises(ValueError, match="already"):
        pool.trace(tmp_path / "other.json")
    with pytest.raises(WorkerDied):
        pool.apply(os.kill, (pool.apply(os.getpid), signal.SIGKILL))
    assert pool.apply(square, (3,)) == 9
    pool.close()
    pool.join()
    events = load(tmp_path / "calls.json")
    assert any(
        event["ph"] == "i" and event["name"] == "worker ended" and event["args"]["signal"] == 9
        for event in events
    )
    assert any(event["ph"] == "X" and event["name"] == "square" for event in events)


def test_a_timeline_needs_a_file(make: Any, tmp_path: Path) -> None:
    pool = make(1)
    with pytest.raises(FileNotFoundError):
        pool.trace(tmp_path / "no" / "calls.json")
    assert pool.apply(square, (2,)) == 4


# ---- Logs (users.md 14) ---------------------------------------------------------------------------------------------


class Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Keep]:
    """Handles what the logger `pools.test` gets, in this process."""
    logger, handler = logging.getLogger("pools.test"), Keep()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


class Odd:
    def __reduce__(self) -> Any:
        raise TypeError("does not pickle")

    def __repr__(self) -> str:
        return "<odd>"


def log(x: int) -> int:
    logger = logging.getLogger("pools.test")
    logger.debug("too low %d", x)
    logger.info("call %d", x, extra={"odd": Odd(), "nice": x})
    return x


def log_error() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("pools.test").exception("it failed")


def log_much(length: int) -> None:
    logging.getLogger("pools.test").warning("x" * length)


def test_records_of_workers_are_handled_here(make: Any, kept: Keep) -> None:
    pool = make(2, logs=True)
    assert pool.map(log, range(50)) == list(range(50))
    pool.apply(log_error)
    until(lambda: len(kept.records) == 51)
    messages = [record.getMessage() for record in kept.records]
    assert sorted(messages) == sorted([f"call {x}" for x in range(50)] + ["it failed"])
    first = kept.records[0]
    assert first.process != os.getpid() and "Worker" in (first.processName or "")
    assert first.__dict__["odd"] == "<odd>" and isinstance(first.__dict__["nice"], int)
    failure = next(record for record in kept.records if record.exc_text)
    assert "KeyError: 'lost'" in (failure.exc_text or "")


def test_nobody_has_to_wait_for_records(make: Any, kept: Keep) -> None:
    pool = make(1, logs=True)
    pool.apply_async(log_error)
    until(lambda: len(kept.records) == 1)
    pool.close()
    pool.join()
    assert [record.levelno for record in kept.records] == [logging.ERROR]
    assert not any(thread.name == "PoolPump" for thread in threading.enumerate())


def test_long_records(make: Any, kept: Keep) -> None:
    pool = make(1, logs=True)
    pool.apply(log_much, (10_000,))
    pool.apply(log_much, (100_000,))
    until(lambda: len(kept.records) == 2)
    assert kept.records[0].getMessage() == "x" * 10_000
    assert kept.records[1].getMessage() == "x" * 100_000


def test_without_logs_there_is_no_thread(make: Any) -> None:
    pool = make(1)
    pool.apply(log, (1,))
    assert not any(thread.name == "PoolPump" for thread in threading.enumerate())


# ---- Stacks ---------------------------------------------------------------------------------------------------------


def wait_in_python(folder: str) -> None:
    (Path(folder) / f"here-{os.getpid()}").touch()
    time.sleep(LIMIT)


def wait_for_a_lock(folder: str) -> None:
    lock = threading.Lock()
    lock.acquire()
    (Path(folder) / f"here-{os.getpid()}").touch()
    lock.acquire()


def test_dump_shows_where_workers_are(make: Any, tmp_path: Path) -> None:
    pool = make(2)
    pool.apply_async(wait_in_python, (str(tmp_path),))
    pool.apply_async(wait_for_a_lock, (str(tmp_path),))
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    for _ in range(2):
        out = io.StringIO()
        pool.dump(out)
        text = out.getvalue()
        assert text.count("in wait_in_python\n") == 1 and text.count("in wait_for_a_lock\n") == 1, text
        assert "worker 0 (pid" in text and "worker 1 (pid" in text and "does not answer" not in text
        assert "runs wait_in_python('" in text  # what it runs, from the caller's side
    assert pool.statistics().calls == 0  # nobody was woken or killed


def test_dump_of_threads(tmp_path: Path) -> None:
    end = threading.Event()

    def hang_here() -> None:
        (tmp_path / "here").touch()
        end.wait(LIMIT)

    with ThreadPool(1) as pool:
        pool.apply_async(hang_here)
        until(lambda: (tmp_path / "here").exists())
        out = io.StringIO()
        pool.dump(out)
        end.set()
    assert "in hang_here" in out.getvalue()


@pytest.mark.once
def test_dump_of_a_stopped_worker(make: Any) -> None:
    pool = make(1)
    pid = pool.apply(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    try:
        out = io.StringIO()
        pool.dump(out)
        assert "does not answer" in out.getvalue()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert pool.apply(square, (2,)) == 4
