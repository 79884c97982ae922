"""What the Makefile's targets do: `python3 tools/check.py TARGET [arguments]`.

    test    everything: on every CPython >= 3.11 found, build, install, pytest; on the oldest of them also the linters,
            the documentation and the tests of the C core, plain, under ASan+UBSan and under TSan.
            PYTHONS="3.11 3.13" limits the Pythons; arguments go to pytest and then only pytest runs
            (make test ARGS="-k queue").
    demo    build, then the tour and a short speed table
    bench   build, then the speed table; arguments go to it
    proof   kill the core's operations at every instruction boundary, no sampling
    soak    random SIGKILLs for a while; arguments go to tests/soak.py and soak_containers.py
    compat  CPython's own tests of multiprocessing and process pools, with this package in the place of
            multiprocessing, on every CPython; arguments go to tools/compat/run.py
    release the sdist and a wheel for every CPython, into dist, built in clean environments and tested; arguments go
            to pytest
    docs    the documentation, into build/docs
    dev     an environment with the package and every tool; prints the path of its python

The last line of `test` is `N passed, N failed`; the exit status is 1 if anything failed.

Standard library only; interpreters.py finds Pythons, environments.py prepares them, steps.py runs and counts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

from interpreters import OLDEST, Interpreter, find

if sys.version_info < OLDEST:
    # The tools use tomllib: go on in one of the Pythons that they look for anyway.
    groups = find().usable
    if not groups:
        sys.exit(
            "processing needs CPython 3.11 or newer with its C headers; none was found on the PATH or in pyenv."
        )
    os.execv(groups[0][0].executable, [groups[0][0].executable, *sys.argv])

import environments
import release
import steps
from environments import BUILD, ROOT, Environment
from steps import Tally

# Seconds. Generous: a step that takes this long hangs.
PYTEST_LIMIT = 1200.0
CORE_LIMIT = 600.0

# Name, options of `meson setup`, suites left out, environment of the tests.
CORE_BUILDS = (
    ("plain", [], (), {}),
    (
        "asan",
        ["-Db_sanitize=address,undefined"],
        ("proof",),
        {
            "ASAN_OPTIONS": "abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1",
            "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
        },
    ),
    (
        "tsan",
        ["-Db_sanitize=thread"],
        ("proof", "fork"),
        {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"},
    ),
)


def all_candidates() -> tuple[tuple[Interpreter, ...], ...]:
    """Every X.Y with its candidates; says what was skipped. Ends the program if there is none."""
    found = find(os.environ.get("PYTHONS", ""))
    for sentence in found.skipped:
        print(f"SKIPPED {sentence}")
    if not found.usable:
        sys.exit(
            "No CPython >= 3.11 with C headers was found on the PATH or in pyenv: nothing can be built or tested."
        )
    return found.usable


def environ_of(environment: Environment) -> dict[str, str]:
    return {"PATH": environments.tool_path(environment, os.environ.get("PATH", ""))}


def oldest(kind: str) -> Environment:
    """An environment of the oldest usable Python."""
    for group in all_candidates():
        environment, reasons = environments.first_usable(group, kind)
        for reason in reasons:
            print(f"SKIPPED {reason}")
        if environment is not None:
            return environment
    sys.exit("None of the Pythons found can make a virtual environment.")


def install(environment: Environment, tally: Tally) -> bool:
    name = f"build and install, {environment.interpreter.name}"
    return steps.run_one(
        tally, name, environments.install_command(environment), limit=600, env=environ_of(environment)
    )


def installed(kind: str) -> Environment:
    """The oldest Python's environment with the package in it; ends the program if it does not build."""
    environment = oldest(kind)
    if not install(environment, Tally()):
        sys.exit("The package does not build.")
    return environment


def meson(environment: Environment) -> list[str]:
    return [environment.python, "-m", "mesonbuild.mesonmain"]


def core_build(environment: Environment, tally: Tally, name: str, options: list[str]) -> bool:
    """Configures and compiles the core with its tests in build/core-<name>."""
    folder = BUILD / f"core-{name}"
    env = environ_of(environment)
    if not (folder / "build.ninja").exists():
        shutil.rmtree(folder, ignore_errors=True)
        setup = [
            *meson(environment),
            "setup",
            str(folder),
            "-Dbindings=false",
            "-Dcore_tests=true",
            "-Dstrict=true",
            "-Dbuildtype=debugoptimized",
            *options,
        ]
        if not steps.run_one(tally, f"core {name}: configure", setup, env=env):
            return False
    compile_ = [*meson(environment), "compile", "-C", str(folder)]
    return steps.run_one(tally, f"core {name}: compile", compile_, env=env)


def same_addresses() -> list[str]:
    """A wrapper that switches address randomisation off, where that is allowed: some TSan cannot stand much of it."""
    setarch = shutil.which("setarch")
    if setarch and subprocess.run([setarch, "-R", "true"], capture_output=True).returncode == 0:
        return ["--wrapper", f"{setarch} -R"]
    return []


def core_tests(environment: Environment, tally: Tally) -> None:
    for name, options, left_out, env in CORE_BUILDS:
        if not core_build(environment, tally, name, list(options)):
            continue
        if name == "plain":
            checker = [environment.python, "tools/check_core.py", str(BUILD / "core-plain")]
            steps.run_one(tally, "core: no Python, no mutable globals", checker)
        folder = BUILD / f"core-{name}"
        command = [*meson(environment), "test", "-C", str(folder), "--no-rebuild", "--print-errorlogs"]
        for suite in left_out:
            command += ["--no-suite", suite]
        if name == "tsan":
            command += same_addresses()
        full_env = {**environ_of(environment), **env}
        steps.run_meson_tests(tally, f"core {name}: tests", folder, command, limit=CORE_LIMIT, env=full_env)


def lint(environment: Environment, tally: Tally) -> None:
    ruff = environment.program("ruff")
    steps.run_one(tally, "ruff check", [ruff, "check", "."])
    steps.run_one(tally, "ruff format", [ruff, "format", "--check", "."])
    steps.run_one(tally, "mypy --strict", [environment.python, "-m", "mypy", "--strict"])


def docs(environment: Environment, tally: Tally) -> None:
    sphinx = [environment.python, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    steps.run_one(tally, "documentation", [*sphinx, "docs", str(BUILD / "docs")])


def pytest(environment: Environment, tally: Tally, arguments: list[str]) -> None:
    name = f"pytest, {environment.interpreter.name}"
    command = [environment.python, "-m", "pytest", *arguments]
    steps.run_pytest(tally, name, command, limit=PYTEST_LIMIT, env=environ_of(environment))


def test(arguments: list[str]) -> int:
    tally = Tally()
    groups = all_candidates()
    for group in groups:
        print(f"found {group[0].name} at {group[0].executable}")
    checked = False
    for number, group in enumerate(groups, 1):
        # The oldest one that can make an environment also runs the linters, the documentation and the core's tests.
        kind = "test" if checked or arguments else "dev"
        environment, reasons = environments.first_usable(group, kind)
        for reason in reasons:
            print(f"SKIPPED {reason}")
            tally.notes.append(f"skipped {reason.splitlines()[0]}")
        if environment is None:
            continue
        if kind == "dev":
            lint(environment, tally)
            core_tests(environment, tally)
            docs(environment, tally)
            checked = True
        if install(environment, tally):
            newest = number == len(groups)
            chosen = [] if kind == "dev" else ["-m", "not once" if newest else "not once and not ends"]
            pytest(environment, tally, arguments or ["-q", *chosen])
            tally.notes.append(
                f"tested on {environment.interpreter.name} ({environment.interpreter.executable})"
            )
    return tally.finish()


def demo(arguments: list[str]) -> int:
    python = installed("bench").python
    status = subprocess.call([python, "-m", "processing"], cwd=ROOT)
    return status or subprocess.call(
        [python, "-m", "processing", "bench", "--rounds", "3", *arguments], cwd=ROOT
    )


def bench(arguments: list[str]) -> int:
    return subprocess.call([installed("bench").python, "-m", "processing", "bench", *arguments], cwd=ROOT)


def soak(arguments: list[str]) -> int:
    python = installed("test").python
    worst = 0
    for program in ("soak.py", "soak_containers.py"):
        worst |= subprocess.call([python, f"tests/{program}", *arguments], cwd=ROOT)
    return worst


def compat(arguments: list[str]) -> int:
    worst = 0
    for group in all_candidates():
        environment, reasons = environments.first_usable(group, "test")
        for reason in reasons:
            print(f"SKIPPED {reason}")
        if environment is not None and install(environment, Tally()):
            print(f"== {environment.interpreter.name}", flush=True)
            worst |= subprocess.call([environment.python, "tools/compat/run.py", *arguments], cwd=ROOT)
    return worst


def make_release(arguments: list[str]) -> int:
    return release.release(oldest("release"), all_candidates(), arguments, PYTEST_LIMIT)


def proof(arguments: list[str]) -> int:
    tally = Tally()
    if not core_build(oldest("test"), tally, "plain", []):
        return tally.finish()
    binary = str(BUILD / "core-plain" / "core" / "tests" / "proof")
    return subprocess.call([binary, *arguments], cwd=ROOT, env={**os.environ, "PZ_PROOF": "full"})


def only_docs(arguments: list[str]) -> int:
    tally = Tally()
    docs(oldest("dev"), tally)
    return tally.finish()


def dev(arguments: list[str]) -> int:
    print(installed("dev").python)
    return 0


TARGETS = {
    "test": test,
    "demo": demo,
    "bench": bench,
    "proof": proof,
    "soak": soak,
    "compat": compat,
    "release": make_release,
    "docs": only_docs,
    "dev": dev,
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(__doc__)
        return 2
    if sys.platform != "linux":
        sys.exit("processing needs Linux 5.10 or newer on x86-64 or aarch64; this is " + sys.platform + ".")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell without job control has it for what it starts with `&`; tests that press Ctrl-C would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return TARGETS[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
