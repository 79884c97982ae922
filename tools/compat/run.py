"""CPython's own tests of multiprocessing and of process pools, with `processing` in the place of `multiprocessing`.

    python run.py [--python PATH] [--method METHOD]... [--suite SUITE]... [--jobs N] [--verbose] [PATTERN...]

Runs each class in a process of its own (worker.py), within a time limit, and prints for each suite, start method and
Python how many tests passed, failed, were skipped (by the suite itself) and left out. What is left out is named in
left_out.toml, with the reason. PATTERN: only tests whose "Class.test" matches (fnmatch), left out or not.
The exit status is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
METHODS = ("fork", "spawn", "forkserver")
SUITES = ("multiprocessing", "futures")
# Seconds for one class, and for the list of all tests.
LIMIT, LIST_LIMIT = 240.0, 60.0


@dataclass(frozen=True)
class LeftOut:
    """A test, or several (a pattern), that this package cannot pass."""

    pattern: str
    kind: str
    reason: str
    methods: tuple[str, ...]
    pythons: tuple[str, ...]

    def fits(self, name: str, method: str, version: str) -> bool:
        here = method in self.methods and (not self.pythons or version in self.pythons)
        return here and fnmatch.fnmatchcase(name, self.pattern)


def read_left_out() -> list[LeftOut]:
    with open(HERE / "left_out.toml", "rb") as file:
        content = tomllib.load(file)
    return [
        LeftOut(
            pattern,
            kind,
            group["reason"],
            tuple(group.get("methods", METHODS)),
            tuple(group.get("pythons", ())),
        )
        for kind, groups in content.items()
        for group in groups
        for pattern in group["tests"]
    ]


@dataclass
class Outcome:
    """What became of the tests of one suite and start method."""

    suite: str
    method: str
    tests: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    def line(self) -> str:
        share = 100 * len(self.left_out) / len(self.tests) if self.tests else 0
        return (
            f"{self.suite:16} {self.method:10} {len(self.passed):5} passed {len(self.failed):4} failed "
            f"{len(self.skipped):4} skipped {len(self.left_out):4} left out ({share:.1f} % of {len(self.tests)})"
        )


class Runner:
    """Runs workers of one Python."""

    def __init__(self, python: str, folder: str, verbose: bool) -> None:
        self.python, self.folder, self.verbose = python, folder, verbose
        say = "import sys; print('%d.%d' % sys.version_info[:2])"
        self.version = subprocess.run(
            [python, "-c", say], capture_output=True, text=True, check=True
        ).stdout.strip()

    def worker(self, arguments: list[str], limit: float) -> tuple[int | None, str]:
        """-> exit status, None if it was killed at the time limit; and what it printed."""
        # In a session of its own, so that what it started can be ended with it.
        with subprocess.Popen(
            [self.python, str(HERE / "worker.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            cwd=self.folder,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit)
                return process.returncode, output
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.communicate()

    def names(self, suite: str, method: str) -> list[str] | None:
        """All tests; None if this Python has not got that suite."""
        path = Path(self.folder, f"{suite}-{method}.json")
        status, output = self.worker([suite, method, str(path)], LIST_LIMIT)
        if status != 0:
            if "No module named 'test" in output:
                return None
            raise SystemExit(f"the tests of {suite} ({method}) cannot be listed:\n{output}")
        names: list[str] = json.loads(path.read_text())
        return names

    def run(self, suite: str, method: str, cls: str, tests: list[str]) -> dict[str, tuple[str, str]]:
        """The outcome of each test of a class. After a test that hangs or kills the worker come the others."""
        outcomes: dict[str, tuple[str, str]] = {}
        todo = tests
        path = Path(self.folder, f"{suite}-{method}-{cls}")
        while todo:
            path.unlink(missing_ok=True)
            status, output = self.worker([suite, method, str(path), cls, *todo], LIMIT)
            lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            for name, outcome, text in lines:
                if not name.startswith(cls + "."):  # setUpClass
                    outcomes.update((f"{cls}.{test}", (outcome, text)) for test in todo)
                elif outcome == "started":
                    why = (
                        "hung"
                        if status is None
                        else f"the worker ended with status {status}\n{output[-3000:]}"
                    )
                    outcomes[name] = ("failed", why)
                elif outcomes.get(name, ("started",))[0] != "failed" or outcome == "failed":
                    outcomes[name] = (outcome, text)
                else:
                    before = outcomes[name]
                    outcomes[name] = (
                        (outcome, text) if before[1].startswith(("hung", "the worker")) else before
                    )
            rest = [test for test in todo if f"{cls}.{test}" not in outcomes]
            if rest == todo:
                why = "hung" if status is None else f"status {status}\n{output[-3000:]}"
                outcomes.update((f"{cls}.{test}", ("failed", why)) for test in rest)
                break
            todo = rest
        return outcomes


def judge(
    runner: Runner, suite: str, method: str, left_out: list[LeftOut], patterns: list[str], jobs: int
) -> Outcome | None:
    """Runs a suite under one start method."""
    names = runner.names(suite, method)
    if names is None:
        return None
    outcome = Outcome(suite, method)
    if patterns:
        names = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    outcome.tests = names
    by_class: dict[str, list[str]] = {}
    for name in names:
        excuse = (
            None
            if patterns
            else next((each for each in left_out if each.fits(name, method, runner.version)), None)
        )
        if excuse is not None:
            outcome.left_out[name] = excuse
        else:
            cls, _, test = name.partition(".")
            by_class.setdefault(cls, []).append(test)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(runner.run, suite, method, cls, tests) for cls, tests in by_class.items()]
        for future in concurrent.futures.as_completed(futures):
            for name, (kind, text) in future.result().items():
                if kind == "passed":
                    outcome.passed.append(name)
                elif kind == "skipped":
                    outcome.skipped[name] = text
                else:
                    outcome.failed[name] = text
                    print(f"FAILED {method} {name}", flush=True)
                    if runner.verbose:
                        print(text, flush=True)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("patterns", nargs="*")
    options = parser.parse_args()
    left_out = read_left_out()
    failed = False
    with tempfile.TemporaryDirectory(prefix="compat-") as folder:
        runner = Runner(options.python, folder, options.verbose)
        lines = []
        for suite in options.suite or SUITES:
            for method in options.method or METHODS:
                outcome = judge(runner, suite, method, left_out, options.patterns, options.jobs)
                if outcome is None:
                    lines.append(f"{suite:16} {method:10} not in this Python's library")
                    continue
                failed = failed or bool(outcome.failed)
                lines.append(outcome.line())
                print(outcome.line(), flush=True)
        print("\n".join(["", *lines]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
