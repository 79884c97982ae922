"""Real programs that use multiprocessing: with it, and under `processing run`.

    python programs.py [--rounds N] [--without-tests | --only-tests] [NAME...]

Each program runs N times each way, in turn, on the same input, and must give the same output: what it prints, the files
it makes, its exit status. For each, the times and their ratio are printed. Then the tests of the source distributions
named in programs.toml run each way: what passes with multiprocessing must pass with processing.
The exit status is 1 if anything differs; no time is ever judged.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WAYS = {"multiprocessing": [], "processing": ["-m", "processing", "run"]}
# Seconds for one run of a program, and of one file of tests.
LIMIT, TESTS_LIMIT = 300.0, 900.0


@dataclass(frozen=True)
class Program:
    """A program and what it works on.

    `fill` makes its input in a new folder before each run; `command` is what it is run with there, given the arguments
    that stand between the interpreter and the program; `made` names the files that count as its output.
    """

    name: str
    command: Callable[[list[str]], list[str]]
    fill: Callable[[Path], None] = lambda folder: None
    made: str = ""
    names_only: bool = False


def library(*packages: str) -> Callable[[Path], None]:
    """Copies packages of the standard library into the folder."""

    def fill(folder: Path) -> None:
        for package in packages:
            source = Path(sysconfig.get_path("stdlib"), package)
            shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", "test*"))

    return fill


def documentation(folder: Path) -> None:
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "README.md", folder)


def script(name: str) -> str:
    return str(HERE / "programs" / name)


PACKAGES = ("asyncio", "ctypes", "email", "http", "json", "logging", "unittest", "xml")
PROGRAMS = (
    Program(
        "compileall",
        lambda way: [*way, "-m", "compileall", "-f", "-q", "-j2", "."],
        library(*PACKAGES, "encodings", "importlib"),
        "**/*.pyc",
        # How often an object is referred to while it is written shows in the bytes.
        names_only=True,
    ),
    Program(
        "pylint",
        lambda way: [
            *way,
            "-m",
            "pylint",
            "-j2",
            "--persistent=n",
            "--exit-zero",
            "--score=n",
            "json",
            "logging",
        ],
        library("json", "logging"),
    ),
    Program(
        "sphinx",
        lambda way: [*way, "-m", "sphinx", "-q", "-j2", "-E", "-b", "html", "-d", "trees", "docs", "html"],
        documentation,
        "html/**/*.html",
    ),
    Program("process_map", lambda way: [*way, script("square.py")]),
    Program(
        "black",
        lambda way: [*way, "-m", "black", "-q", "-W2", "-l", "70", "."],
        library("asyncio", "json", "logging"),
        "**/*.py",
    ),
    Program("scikit-learn", lambda way: [*way, script("learn.py")]),
    Program("uvicorn", lambda way: [script("serve.py"), *way]),
)


class Failed(Exception):
    pass


def run(command: list[str], folder: Path, limit: float) -> tuple[int, str, str]:
    """Exit status, output, errors. What it started ends with it."""
    # Written anew for each run: else the second of two would find what the first has left.
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHON"))}
    environ |= {"PYTHONHASHSEED": "0", "BLACK_CACHE_DIR": str(folder / ".cache"), "PYTHONPATH": PATH}
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        cwd=folder,
        env=environ,
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"took longer than {limit:.0f} s")
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return process.returncode, output, errors


PATH = os.environ.get("PYTHONPATH", "")


def once(program: Program, way: list[str], folder: Path) -> tuple[float, object]:
    """Seconds, and everything that must be the same."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    program.fill(folder)
    start = time.perf_counter()
    status, output, errors = run(program.command(way), folder, LIMIT)
    seconds = time.perf_counter() - start
    made = {}
    for path in sorted(folder.glob(program.made)) if program.made else ():
        if path.is_file():
            content = b"" if program.names_only else path.read_bytes()
            made[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    if status != 0 or not (output or made):
        raise Failed(f"ended with status {status}\n{output[-2000:]}{errors[-4000:]}")
    return seconds, (output, errors, made)


def compare(program: Program, rounds: int, folder: Path) -> bool:
    """Runs a program both ways and prints a line about it; whether the output was the same."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    try:
        # The first runs fill the caches of the system and do not count, but for what they make.
        for number in range(rounds + 1):
            outputs = []
            for name, way in WAYS.items():
                seconds, output = once(program, way, folder)
                outputs.append(output)
                if number:
                    times[name].append(seconds)
            if outputs[0] != outputs[1]:
                for name, output in zip(WAYS, outputs, strict=True):
                    print(f"--- {name}\n{str(output)[:3000]}")
                raise Failed("the outputs differ")
    except Failed as failure:
        print(f"FAILED {program.name}: {failure}", flush=True)
        return False
    before, after = (statistics.median(times[name]) for name in WAYS)
    least = min(times["processing"]) / min(times["multiprocessing"])
    print(
        f"{program.name:14} same output   {before:7.2f} s   {after:7.2f} s   "
        f"{after / before:5.2f}x of the median, {least:.2f}x of the least",
        flush=True,
    )
    return True


# ---- tests of source distributions ---------------------------------------------------------------------------------


def source_of(name: str, version: str, folder: Path) -> Path:
    """Downloads and unpacks a source distribution."""
    wanted = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", f"{name}=={version}"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob(f"{name}-*.tar.gz"))
    if not archives:
        raise Failed(f"cannot be downloaded:\n{done.stdout}{done.stderr}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return archives[0].with_name(archives[0].name.removesuffix(".tar.gz"))


def outcomes(way: list[str], test: str, source: Path) -> dict[str, str]:
    """What became of each test of a file: passed, failed or skipped."""
    report = source / "report.xml"
    report.unlink(missing_ok=True)
    # Not "-p no:cacheprovider": a cache of its own would be read by the other way's run.
    options = ["-q", "--color=no", "-p", "no:cacheprovider", f"--junit-xml={report}", test]
    _, output, errors = run([*way, "-m", "pytest", *options], source, TESTS_LIMIT)
    if not report.exists():
        raise Failed(f"{test}: no report\n{output[-2000:]}{errors[-2000:]}")
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def compare_tests(name: str, settings: dict[str, object], folder: Path) -> bool:
    """Runs a distribution's tests both ways and prints a line about it."""
    totals = {way: {"passed": 0, "failed": 0, "skipped": 0} for way in WAYS}
    worse: list[str] = []
    left_out = 0
    try:
        source = source_of(name, str(settings["version"]), folder)
        files = [path for pattern in settings["tests"] for path in sorted(source.glob(pattern))]  # type: ignore[attr-defined]
        for file in files:
            found = {
                way: outcomes(arguments, str(file.relative_to(source)), source)
                for way, arguments in WAYS.items()
            }
            for way, results in found.items():
                for outcome in results.values():
                    totals[way][outcome] += 1
            for test, outcome in found["multiprocessing"].items():
                if outcome == "passed" and found["processing"].get(test) != "passed":
                    if any(fnmatch.fnmatchcase(test, pattern) for pattern in settings["left_out"]):  # type: ignore[attr-defined]
                        left_out += 1
                    else:
                        worse.append(test)
    except Failed as failure:
        print(f"FAILED {name}: {failure}", flush=True)
        return False
    for test in worse:
        print(f"FAILED {name}: {test} passes with multiprocessing only")
    counts = "; ".join(
        f"{way}: " + ", ".join(f"{count} {kind}" for kind, count in total.items())
        for way, total in totals.items()
    )
    print(f"tests of {name} {settings['version']}: {counts}; {left_out} left out", flush=True)
    return not worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-tests", action="store_true")
    parser.add_argument("--only-tests", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    with open(HERE / "programs.toml", "rb") as file:
        distributions = tomllib.load(file)
    good = True
    with tempfile.TemporaryDirectory(prefix="programs-") as name:
        folder = Path(name)
        for program in () if options.only_tests else PROGRAMS:
            if not options.names or program.name in options.names:
                good = compare(program, options.rounds, folder / "work") and good
        for distribution, settings in {} if options.without_tests else distributions.items():
            if not options.names or distribution in options.names:
                good = compare_tests(distribution, settings, folder) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
