"""Running one step of a check: a command in a session of its own, with a time limit, counted and cleaned up after.

A step must leave no process behind: whatever is still in its session when it ends is killed, and counts as a failure.

Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from environments import BUILD, ROOT


@dataclass
class Tally:
    """What passed and what did not, over all steps."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, passed: int, failed: int, skipped: int = 0) -> None:
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if failed:
            self.failures.append(f"{name}: {failed} failed")

    def finish(self) -> int:
        """Prints the summary, last line `N passed, N failed`; returns the exit status."""
        print()
        for note in self.notes:
            print(f"NOTE: {note}")
        for failure in self.failures:
            print(f"FAILED: {failure}")
        line = f"{self.passed} passed, {self.failed} failed"
        print(line + (f", {self.skipped} skipped" if self.skipped else ""), flush=True)
        return 1 if self.failed or not self.passed else 0


@dataclass(frozen=True)
class Outcome:
    status: int
    seconds: float
    problem: str  # "" or a sentence


def _session_members(session: int) -> list[int]:
    """Processes of that session that still run (zombies are somebody's to collect, and harmless)."""
    members = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            members.append(int(entry))
    return members


def _kill_session(session: int) -> int:
    """Kills what is left of the session; how many there were. A short grace for what is just ending."""
    end = time.monotonic() + 2
    while (members := _session_members(session)) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(members)


def run(
    name: str,
    command: list[str],
    *,
    limit: float,
    env: dict[str, str] | None = None,
    show: bool = False,
    folder: Path = ROOT,
) -> Outcome:
    """Runs `command` in a folder. Output is shown as it comes (`show`) or only if it fails."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environ.update(env or {})
    logs = BUILD / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / ("".join(c if c.isalnum() or c in ".-" else "_" for c in name) + ".log")
    problem = ""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=None if show else output,
            stderr=None if show else subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            problem = f"took longer than {limit:.0f} s"
            process.kill()
            status = process.wait()
        except BaseException:
            for pid in _session_members(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()
            raise
        left = _kill_session(process.pid)
    if left and not problem:
        problem = f"left {left} process(es) behind"
    if status and not problem:
        problem = f"ended with status {status}"
    if problem and not show:
        sys.stdout.write(log.read_text(errors="replace")[-20_000:])
    seconds = time.monotonic() - start
    print(f"   {problem or 'ok'} ({seconds:.1f} s)", flush=True)
    return Outcome(status, seconds, problem)


def run_one(tally: Tally, name: str, command: list[str], *, limit: float = 300, **options: object) -> bool:
    """A step that counts as one test."""
    outcome = run(name, command, limit=limit, **options)  # type: ignore[arg-type]
    tally.add(name, 0 if outcome.problem else 1, 1 if outcome.problem else 0)
    return not outcome.problem


def run_pytest(
    tally: Tally, name: str, command: list[str], *, limit: float, env: dict[str, str], folder: Path = ROOT
) -> None:
    """pytest, counted test by test from its JUnit file."""
    report = BUILD / "logs" / f"pytest-{os.getpid()}-{len(tally.failures)}-{tally.passed}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    current = report.with_suffix(".current")
    env = {**env, "PROCESSING_CURRENT_TEST": str(current)}
    outcome = run(name, [*command, f"--junit-xml={report}"], limit=limit, env=env, show=True, folder=folder)
    passed = failed = skipped = 0
    try:
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
            # A test whose teardown fails too is counted twice by pytest: never let that make `passed` negative.
            failed += counts["failures"] + counts["errors"]
            skipped += counts["skipped"]
            passed += max(0, counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"])
        report.unlink()
    except (OSError, ElementTree.ParseError):
        problem = outcome.problem or "wrote no report"
        if current.exists():
            problem += f" in {current.read_text()}"
        outcome = Outcome(outcome.status, outcome.seconds, problem)
    current.unlink(missing_ok=True)
    if outcome.problem and not failed:
        failed = 1
        tally.notes.append(f"{name}: {outcome.problem}")
    tally.add(name, passed, failed, skipped)


def run_meson_tests(
    tally: Tally, name: str, folder: Path, command: list[str], *, limit: float, env: dict[str, str]
) -> None:
    """`meson test`, counted test by test from its log."""
    log = folder / "meson-logs" / "testlog.json"
    log.unlink(missing_ok=True)
    outcome = run(name, command, limit=limit, env=env)
    results = []
    if log.exists():
        results = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    passed = sum(item["result"] in ("OK", "EXPECTEDFAIL") for item in results)
    skipped = sum(item["result"] == "SKIP" for item in results)
    failed = len(results) - passed - skipped
    for item in results:
        if item["result"] == "SKIP":
            reason = (item.get("stdout") or "").strip().splitlines()
            tally.notes.append(f"{name}: {item['name']} skipped" + (f": {reason[-1]}" if reason else ""))
    if outcome.problem and not failed:
        failed = 1
        tally.notes.append(f"{name}: {outcome.problem}")
    tally.add(name, passed, failed, skipped)
