"""Runs tests of CPython's own suite with `processing` in the place of `multiprocessing`.

    python worker.py SUITE METHOD RESULTS [CLASS [TEST...]]

Without a class, writes the names of all tests to the file RESULTS, a JSON list of "Class.test"; otherwise runs those of
the class, or just the tests named, and appends a line for each: [name, outcome, text].

Children of spawn and forkserver import this file: what they need is made whenever it is imported.
"""

from __future__ import annotations

import importlib
import json
import sys
import unittest
from typing import Any

import processing

processing.install()

SUITE, METHOD, RESULTS = sys.argv[1:4]

# The modules of test.test_concurrent_futures with tests of process pools.
FUTURES = ("as_completed", "deadlock", "init", "process_pool", "shutdown", "wait")


def collect() -> list[type[unittest.TestCase]]:
    """The test classes of the suite for that start method."""
    if SUITE == "multiprocessing":
        suite = importlib.import_module("test._test_multiprocessing")
        # Compares the semaphores of which a Condition is made there.
        suite._TestCondition.check_invariant = lambda self, cond: None  # type: ignore[attr-defined]
        suite.install_tests_in_module_dict(globals(), METHOD)  # type: ignore[attr-defined]
        found = list(globals().values())
    else:
        found = []
        for module in FUTURES:
            found += vars(importlib.import_module(f"test.test_concurrent_futures.test_{module}")).values()
    classes = [each for each in found if isinstance(each, type) and issubclass(each, unittest.TestCase)]
    if SUITE == "futures":
        word = {"fork": "Fork", "spawn": "Spawn", "forkserver": "Forkserver"}[METHOD]
        classes = [each for each in classes if each.__name__.lower().startswith(f"processpool{word.lower()}")]
        if METHOD == "fork":
            classes = [each for each in classes if not each.__name__.startswith("ProcessPoolForkserver")]
    return list(dict.fromkeys(classes))


classes = collect()


class Results(unittest.TextTestResult):
    """Writes every outcome down at once: the next test may hang."""

    def note(self, test: Any, outcome: str, text: str = "") -> None:
        if isinstance(test, unittest.TestCase):
            name = f"{type(test).__name__}.{test._testMethodName}"
        else:
            name = str(test)
        with open(RESULTS, "a") as file:
            file.write(json.dumps([name, outcome, text]) + "\n")

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.note(test, "started")

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self.note(test, "passed")

    def addFailure(self, test: Any, error: Any) -> None:
        super().addFailure(test, error)
        self.note(test, "failed", self.failures[-1][1])

    def addError(self, test: Any, error: Any) -> None:
        super().addError(test, error)
        self.note(test, "failed", self.errors[-1][1])

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, error: Any) -> None:
        super().addExpectedFailure(test, error)
        self.note(test, "passed")

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self.note(test, "failed", "passed, which it is expected not to do")

    def addSubTest(self, test: Any, subtest: Any, error: Any) -> None:
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.note(test, "failed", f"{subtest}\n{(self.failures + self.errors)[-1][1]}")


def main() -> None:
    loader = unittest.defaultTestLoader
    if len(sys.argv) == 4:
        names = [f"{each.__name__}.{name}" for each in classes for name in loader.getTestCaseNames(each)]
        with open(RESULTS, "w") as file:
            json.dump(names, file)
        return
    chosen = next(each for each in classes if each.__name__ == sys.argv[4])
    names = sys.argv[5:] or list(loader.getTestCaseNames(chosen))
    suite = unittest.TestSuite(map(chosen, names))
    set_up = globals().get("setUpModule")
    if set_up is not None:
        set_up()
    try:
        unittest.TextTestRunner(resultclass=Results, verbosity=2).run(suite)
    finally:
        tear_down = globals().get("tearDownModule")
        if tear_down is not None:
            tear_down()


if __name__ == "__main__":
    main()
