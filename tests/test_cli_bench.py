"""`python -m processing bench`: every row runs, failures are contained, figures and bars are what they should be."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from processing.cli import bench, loops, measure, peers, report
from processing.cli.measure import Measurement
from processing.cli.rows import GROUPS, ROWS, Bar, Row, select

HAS_NUMPY = importlib.util.find_spec("numpy") is not None


# Groups of which only `processing` is measured here: the others would take long.
SLOW = ("arrays", "large-calls", "starts", "pool-starts", "manager-starts", "idle", "imports")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "processing", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, stdin=subprocess.DEVNULL)


def row_named(name: str) -> Row:
    [row] = select([name])
    return row


# ---- Rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_row_runs(name: str) -> None:
    row = row_named(name)
    if row.needs is not None and importlib.util.find_spec(row.needs) is None:
        pytest.skip(f"{row.needs} is not installed")
    count = max(row.least, 200 if row.count >= 1000 else 1)
    for peer in row.things:
        if peers.why_not(peer) is None and (peer == "processing" or row.group not in SLOW):
            found = measure.measure(row, peer, count, None, 0.01, 40)
            assert found.error is None, f"{peer}: {found.error}\n{found.details}"
            assert found.seconds > 0


def test_rows_are_consistent() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert not {row.name for row in ROWS} & set(GROUPS), "a pattern could mean a row or a group"
    for row in ROWS:
        assert row.group in GROUPS
        assert next(iter(row.things)) == "processing"
        assert set(row.things) <= set(peers.PEERS)
        assert {bar.peer for bar in row.bars} <= set(row.things)


def test_bars_of_the_issue() -> None:
    bars = {(row.name, bar.peer): bar.text() for row in ROWS for bar in row.bars}
    assert bars == {
        ("queue", "multiprocessing"): "15x",
        ("queue", "faster-fifo"): "10x",
        ("queue", "threads"): "4x",
        ("simplequeue", "multiprocessing"): "12x",
        ("pipe", "multiprocessing"): "10x",
        ("pipe-round-trip", "multiprocessing"): "8x",
        ("array-pipe", "multiprocessing"): "20x",
        ("array-hand-over", "message"): "+20 us",
        ("array-readers", "multiprocessing"): "7x",
        ("lock", "multiprocessing"): "1.5x",
        ("lock", "threads"): "1.5x",
        ("with-lock", "multiprocessing"): "1.5x",
        ("with-lock", "threads"): "1.5x",
        ("rlock", "multiprocessing"): "1.5x",
        ("semaphore", "multiprocessing"): "1.5x",
        ("contended-lock", "multiprocessing"): "1.2x",
        ("condition", "multiprocessing"): "8x",
        ("condition", "threads"): "8x",
        ("shared-array-read", "multiprocessing"): "15x",
        ("shared-array-read", "array"): "0.9x",
        ("shared-array-write", "multiprocessing"): "12x",
        ("shared-array-write", "array"): "0.9x",
        ("shared-value-read", "multiprocessing"): "2.5x",
        ("shared-value-update", "multiprocessing"): "4x",
        ("shared-dict-get", "multiprocessing"): "40x",
        ("shared-dict-get", "ultradict"): "1.5x",
        ("shared-dict-set", "multiprocessing"): "20x",
        ("shared-dict-set", "ultradict"): "5x",
        ("shared-dict-writers", "alone"): "1x",
        ("shared-dict-memory", "bytes"): "+1.5 times",
        ("manager-queue", "multiprocessing"): "8x",
        ("manager-lock", "multiprocessing"): "8x",
        ("manager-rlock", "multiprocessing"): "8x",
        ("manager-condition", "multiprocessing"): "8x",
        ("manager-list-read", "multiprocessing"): "8x",
        ("manager-dict-read", "multiprocessing"): "8x",
        ("manager-dict-write", "multiprocessing"): "8x",
        ("manager-value-read", "multiprocessing"): "8x",
        ("manager-tcp-read", "multiprocessing"): "1.5x",
        ("manager-tcp-write", "multiprocessing"): "1.5x",
        ("pool-apply-async", "multiprocessing"): "8x",
        ("pool-apply-async", "futures"): "15x",
        ("pool-apply-async", "loky"): "20x",
        ("pool-apply", "multiprocessing"): "8x",
        ("pool-imap", "multiprocessing"): "10x",
        ("pool-map", "multiprocessing"): "1.2x",
        ("pool-map", "mpire"): "20x",
        ("pool-map", "joblib"): "10x",
        ("pool-map-arrays", "multiprocessing"): "10x",
        ("pool-start-fork", "multiprocessing"): "0.9x",
        ("pool-start-forkserver", "multiprocessing"): "3x",
        ("pool-idle", "nothing"): "+0.5 %",
        ("pool-death", "nothing"): "+50 ms",
        ("start-fork", "multiprocessing"): "0.95x",
        ("start-forkserver", "multiprocessing"): "3x",
        ("start-spawn", "multiprocessing"): "0.95x",
        ("import", "multiprocessing"): "+20 ms",
        ("import-names", "multiprocessing"): "+20 ms",
    }


def test_on_one_cpu_nothing_may_be_slower_than_the_standard_library() -> None:
    for row in ROWS:
        if not row.less_is_better:
            assert row.bars_for(pinned=True) == (Bar("multiprocessing", 0.9),)


def test_select() -> None:
    assert select([]) == list(ROWS)
    assert [row.name for row in select(["lock", "pipe*"])] == ["pipe", "pipe-round-trip", "lock"]
    assert {row.group for row in select(["starts"])} == {"starts"}
    with pytest.raises(ValueError, match="no row is called 'nothing'"):
        select(["lock", "nothing"])


# ---- One measurement ------------------------------------------------------------------------------------------------


def test_the_count_is_found() -> None:
    calls = []

    def loop(kit: Any, count: int) -> float:
        calls.append(count)
        return count * 0.001

    row = Row("x", "locks", loop, {"processing": "x"}, count=1)
    assert measure.run(row, None, None, 0.3) == (300, 0.3, 300)
    assert calls == [1, 10, 100, 300]
    assert measure.run(row, None, 70, 0.3) == (70, pytest.approx(0.07), 70)


def test_a_first_guess_that_is_too_high_is_corrected_for_the_next_rounds() -> None:
    row = Row("x", "locks", lambda kit, count: count * 1.0, {"processing": "x"}, count=5, least=2)
    assert measure.run(row, None, None, 0.3) == (5, 5.0, 2)


@pytest.mark.once
def test_a_measurement_that_hangs_is_given_up_and_cleaned_up() -> None:
    found = measure.measure(row_named("lock"), "processing", 10**12, None, 0.3, 2.0)
    assert found.error == "no result within 2 s"
    # Where it was.
    assert "_acquire_release" in found.details


def test_the_other_party_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # A producer that fails would leave its consumer waiting: the measurement ends at once, and says why.
    code = (
        "import sys; from processing.cli import loops, measure\n"
        "def broken(gate, *args): raise RuntimeError('no messages today')\n"
        "loops._produce = broken\n"
        "measure.main(sys.argv[1])\n"
    )
    order = json.dumps({"row": "queue", "peer": "processing", "count": 10, "cpu": None, "target": 0.1})
    done = subprocess.run([sys.executable, "-c", code, order], capture_output=True, text=True, timeout=30)
    found = measure._result(done.returncode, 30, done.stdout, done.stderr)
    assert found.error == "the other party failed: RuntimeError: no messages today"


@pytest.mark.parametrize(
    ("status", "errors", "expected"),
    [
        (-signal.SIGSEGV, "Fatal Python error: Segmentation fault", "killed by SIGSEGV"),
        (1, "Traceback\nValueError: wrong", "ValueError: wrong"),
        (3, "", "exit status 3"),
        (0, "", "printed no result"),
        (None, "", "no result within 30 s"),
    ],
)
def test_what_a_failure_is_called(status: int | None, errors: str, expected: str) -> None:
    found = measure._result(status, 30, "", errors)
    assert found.error == expected
    assert found.details == errors


def test_gate() -> None:
    """Neither party passes before the other has come."""
    import threading

    gate = loops.Gate()
    seen: list[str] = []

    def other() -> None:
        gate.arrive()
        seen.append("let go")

    thread = threading.Thread(target=other)
    thread.start()
    gate.wait()
    assert seen == []
    gate.let_go()
    thread.join()
    assert seen == ["let go"]
    for fd in (*gate.arrived, *gate.opened):
        import os

        os.close(fd)


# ---- From measurements to the table ---------------------------------------------------------------------------------


def result(row: Row, pinned: bool = False, **rounds: list[float | None]) -> report.Result:
    """Rounds of one second each; None is a failure."""
    found = report.Result(row, pinned)
    for peer, counts in rounds.items():
        found.rounds[peer] = [
            Measurement(error="broke") if count is None else Measurement(int(count), 1.0, int(count))
            for count in counts
        ]
    return found


ROW = Row(
    "x",
    "locks",
    loops.lock,
    {"processing": "ours", "multiprocessing": "theirs"},
    (Bar("multiprocessing", 2),),
)


def test_ratios_are_formed_within_rounds() -> None:
    # A machine that slows down between the rounds: neither the ratio nor the verdict changes.
    found = result(ROW, processing=[300, 30, 3000], multiprocessing=[100, 10, 1000])
    assert found.ratios("multiprocessing") == [3, 3, 3]
    assert found.median("processing") == 300
    assert found.is_met(ROW.bars[0]) is True
    assert found.missed() == []


def test_a_bar_that_is_missed_is_marked() -> None:
    found = result(ROW, processing=[150, 150, 900], multiprocessing=[100, 100, 100])
    assert found.missed() == [ROW.bars[0]]
    assert found.lines()[1] == ["theirs", "100", "1.50x", "1.50-9.00", "2x", "NOT met"]


def test_failed_rounds_do_not_count() -> None:
    found = result(ROW, processing=[300, None, 300], multiprocessing=[100, 100, None])
    assert found.ratios("multiprocessing") == [3]
    assert found.lines()[0] == ["ours", "300", "", "", "", "FAILED 1 of 3"]
    assert found.is_met(ROW.bars[0]) is True


def test_a_peer_that_always_fails() -> None:
    found = result(ROW, processing=[None], multiprocessing=[100])
    assert found.lines()[0][1] == "FAILED"
    assert found.is_met(ROW.bars[0]) is None
    assert found.lines()[1][5] == "not measured"


def test_times_count_the_other_way_round() -> None:
    row = Row(
        "x",
        "imports",
        loops.lock,
        {"processing": "a", "multiprocessing": "b"},
        (Bar("multiprocessing", more=20),),
    )
    found = report.Result(row, False)
    found.rounds = {"processing": [Measurement(10, 0.5, 10)], "multiprocessing": [Measurement(10, 1.0, 10)]}
    assert found.figures("processing") == [50]
    assert found.ratios("multiprocessing") == [2]
    assert found.is_met(row.bars[0]) is True
    found.rounds["processing"] = [Measurement(10, 1.3, 10)]
    assert found.is_met(row.bars[0]) is False


def test_peers_take_turns() -> None:
    orders = [bench.in_turn(["a", "b", "c"], number) for number in range(6)]
    assert orders[:2] == [["a", "b", "c"], ["c", "b", "a"]]
    for place in range(3):
        assert {order[place] for order in orders} == {"a", "b", "c"}


# ---- The command ----------------------------------------------------------------------------------------------------


def test_list() -> None:
    done = run("--list")
    assert done.returncode == 0
    for row in ROWS:
        assert any(line.split()[:2] == [row.name, row.group] for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "nothing"], "no row is called 'nothing'"),
        (["--peers", "nobody"], "no peer is called 'nobody'"),
        (["--rounds", "0"], "--rounds is at least 1"),
        (["--cpu", "99999"], "--cpu 99999"),
        (["--seconds", "nan"], "--seconds"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.once
def test_tables() -> None:
    done = run("--rows", "lock,queue", "--rounds", "2", "--seconds", "0.01", "--plain")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("processing.Lock", "threading.Lock", "multiprocessing.Queue", "bars met"):
        assert text in done.stdout


def test_json() -> None:
    done = run(
        "--rows", "lock", "--rounds", "3", "--seconds", "0.01", "--peers", "processing,threads", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["machine"]["cpus"] >= 1
    [row] = document["rows"]
    assert (row["row"], row["unit"], set(row["peers"])) == ("lock", "per second", {"processing", "threads"})
    threads = row["peers"]["threads"]
    assert len(threads["rounds"]) == len(threads["ratios"]) == 3
    assert threads["bar"] == "1.5x"
    first = threads["rounds"][0]
    assert first["figure"] == pytest.approx(first["count"] / first["seconds"])


def test_json_into_a_file_on_one_cpu(tmp_path: Path) -> None:
    import os

    cpu = min(os.sched_getaffinity(0))
    path = tmp_path / "figures.json"
    done = run(
        *(
            "--rows",
            "rlock",
            "--rounds",
            "1",
            "--seconds",
            "0.01",
            "--cpu",
            str(cpu),
            "--json",
            str(path),
            "--plain",
        )
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"everything on CPU {cpu}" in done.stdout
    document = json.loads(path.read_text())
    assert document["options"]["cpu"] == cpu
    assert document["rows"][0]["peers"]["multiprocessing"]["bar"] == "0.9x"


@pytest.mark.skipif(not HAS_NUMPY, reason="numpy is not installed")
def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "faster-fifo", "no_such_module")
    wanted = list(peers.PEERS)
    assert bench.absences(row_named("queue"), wanted) == {"faster-fifo": "no_such_module is not installed"}
    assert bench.absences(row_named("array-pipe"), wanted) == {}
