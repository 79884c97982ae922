"""Managers with the standard library at the other end: its clients with our servers, our clients with its servers.

interop_programs.py has the two programs, interop_scenarios.py what a client does. Every pairing of a server and a
client is run once; each scenario of it is a test, which looks its outcome up. The standard library's end is every
Python from 3.11 to 3.13 that is found; a version that is not here is skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import interop_scenarios
import leaks
from helpers import LIMIT, until
from interop_ends import KEY, TCP, VERSIONS, count, environment, python_of, pythons, run, serving
from interop_scenarios import ALL, ONLY_OURS, ONLY_XMLRPC

METHODS = ("fork", "spawn", "forkserver")
UNIX = "unix"  # a path of ours
BATCH_LIMIT = 50.0  # seconds for all scenarios of a pairing

QUICK = ["rlocks", "errors", "work_of_the_other_side", "children_by_fork"]


# ---- All scenarios of a pairing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Who serves and who uses it; `version` is that of the standard library's end."""

    server: str
    client: str
    version: str
    where: str
    method: str = "fork"
    serializer: str = "pickle"

    def __str__(self) -> str:
        ends = f"{short(self.server)}-serves-{short(self.client)}"
        kind = "tcp" if self.where == TCP else "unix"
        return f"{ends}-{self.version}-{kind}-{self.method}-{self.serializer}"

    def python(self, package: str) -> str:
        return sys.executable if package == "processing" else python_of(self.version)


def short(package: str) -> str:
    return {"processing": "ours", "multiprocessing": "std"}[package]


@cache
def outcome(pairing: Pairing, names: tuple[str, ...]) -> dict[str, str | None]:
    """What became of each scenario: None, or what went wrong."""
    try:
        return outcomes_of(pairing, names)
    except pytest.fail.Exception as error:  # the server did not even start
        return dict.fromkeys([*names, "client", "server"], str(error))


def outcomes_of(pairing: Pairing, names: tuple[str, ...]) -> dict[str, str | None]:
    folder = Path(os.environ["TMPDIR"])
    where = (
        json.dumps(str(folder / f"socket-{time.monotonic_ns():x}"))
        if pairing.where == UNIX
        else pairing.where
    )
    python, client = pairing.python(pairing.server), pairing.python(pairing.client)
    with serving(python, pairing.server, where, pairing.method, pairing.serializer) as server:
        facts = ("client", pairing.client, server.where, pairing.server, pairing.serializer, KEY, *names)
        done = run(client, *facts, limit=BATCH_LIMIT)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        outcomes: dict[str, str | None] = {line["name"]: line["error"] for line in lines}
        for name in names:
            outcomes.setdefault(name, f"not reached: the client ended with {done.returncode}\n{done.stderr}")
        outcomes["client"] = done.stderr if done.returncode or done.stderr else None
        outcomes["server"] = server.stop() or None
    return outcomes


def ours_or_once(version: str) -> Any:
    """Pairs with other versions of Python are for the oldest one that the suite runs on."""
    return () if version == f"3.{sys.version_info[1]}" else pytest.mark.once


def cases(names: list[str], pairings: list[Pairing]) -> list[Any]:
    return [
        pytest.param(pairing, name, tuple(names), id=f"{pairing}-{name}", marks=ours_or_once(pairing.version))
        for pairing in pairings
        for name in [*names, "client", "server"]
    ]


EACH = [pytest.param(version, marks=ours_or_once(version)) for version in VERSIONS]
OTHER_METHODS = METHODS[1:]
EVERYTHING = [Pairing("processing", "multiprocessing", version, UNIX) for version in VERSIONS] + [
    Pairing("multiprocessing", "processing", version, where)
    for version, where in zip((*VERSIONS, VERSIONS[-1]), (UNIX, TCP, TCP, UNIX), strict=True)
]
# On TCP, a client of the standard library needs 40 ms for each connection, for how it sends (Nagle's algorithm).
NOT_EVERYTHING = [Pairing("processing", "multiprocessing", version, TCP) for version in VERSIONS]
STARTED_BY = [
    Pairing(server, client, VERSIONS[-1], where, method)
    for server, client in (("processing", "multiprocessing"), ("multiprocessing", "processing"))
    for method, where in zip(OTHER_METHODS, (TCP, UNIX), strict=True)
]
XMLRPC = [
    Pairing(server, client, VERSIONS[-1], TCP, "fork", "xmlrpclib")
    for server, client in (
        ("processing", "multiprocessing"),
        ("multiprocessing", "processing"),
        ("processing", "processing"),
    )
]


@pytest.mark.parametrize(
    ("pairing", "name", "names"),
    [*cases(ALL, EVERYTHING), *cases(QUICK, NOT_EVERYTHING + STARTED_BY), *cases(ONLY_XMLRPC, XMLRPC)],
)
def test_pairing(pairing: Pairing, name: str, names: tuple[str, ...]) -> None:
    """ "client" and "server": that program ended well and wrote nothing on stderr."""
    python_of(pairing.version)
    error = outcome(pairing, names)[name]
    if error is not None:
        pytest.fail(error, pytrace=False)


# ---- Keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", EACH)
@pytest.mark.parametrize(
    ("package", "client"), [("processing", "multiprocessing"), ("multiprocessing", "processing")]
)
def test_wrong_key(package: str, client: str, version: str) -> None:
    """The client is told so, and the server serves others."""
    pairing = Pairing(package, client, version, TCP)
    with serving(pairing.python(package), package, TCP) as server:
        for _ in range(2):
            done = run(pairing.python(client), "wrong_key", client, server.where, "another key")
            assert json.loads(done.stdout)["error"] == "AuthenticationError", done
            done = run(pairing.python(client), "wrong_key", client, server.where, KEY)
            assert json.loads(done.stdout)["error"] is None, done
        if package == "processing":
            assert server.stop() == ""


# ---- Ends that are not orderly --------------------------------------------------------------------------------------


HOLD = """
import interop_programs, os, sys
env = interop_programs.Env("multiprocessing", {address!r}, "processing", "pickle", {key!r})
table = env.manager.table()
lock = env.manager.RLock()
table["lock"] = lock
table["mine"] = [1]
lock.acquire()
print(os.getpid(), flush=True)
sys.stdin.read()
"""

TAKE = """
import interop_programs, time
from processing import LockOwnerDied
env = interop_programs.Env("processing", {address!r}, "processing", "pickle", {key!r})
table = env.manager.table()
lock = table["lock"]
try:
    print(lock.acquire(True, 10))
except LockOwnerDied:
    print(lock.acquire(True, 10))
lock.release()
print(table["mine"][:])
"""


@pytest.mark.parametrize("version", EACH)
def test_a_killed_client_of_the_standard_library(version: str) -> None:
    """What it alone could release becomes free; its connections are closed; the rest goes on.

    Not a Lock, which anybody may release: such a client does not say whether it ends well.
    """
    with serving(sys.executable, "processing", TCP) as server:
        before = count(server.pid, "fd")
        text = HOLD.format(address=server.address, key=KEY.encode())
        with subprocess.Popen(
            [python_of(version), "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as holder:
            try:
                assert holder.stdout is not None
                assert int(holder.stdout.readline()) == holder.pid
            finally:
                holder.kill()
        done = subprocess.run(
            [sys.executable, "-c", TAKE.format(address=server.address, key=KEY.encode())],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env=environment(),
        )
        assert (done.stdout, done.stderr) == ("True\n[1]\n", "")
        until(lambda: count(server.pid, "fd") <= before)


@pytest.mark.once
@pytest.mark.parametrize("where", [UNIX, TCP])
def test_nothing_is_left_of_many_clients(where: str) -> None:
    """Descriptors, threads and objects in our server, after clients of all versions have come and gone."""
    path = json.dumps(str(Path(os.environ["TMPDIR"]) / f"many-{time.monotonic_ns():x}"))
    with serving(sys.executable, "processing", path if where == UNIX else TCP) as server:
        names = ("lists", "queues", "own_types", "iterators")
        versions = [version for version in VERSIONS if version in pythons()]

        def clients(version: str) -> None:
            facts = ("client", "multiprocessing", server.where, "processing", "pickle", KEY, *names)
            done = run(pythons()[version], *facts, limit=BATCH_LIMIT)
            errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
            assert errors == [None] * len(names), [*filter(None, errors)]

        clients(versions[0])  # what is made once and kept
        descriptors, threads = count(server.pid, "fd"), count(server.pid, "task")
        for version in versions[1:] or versions:
            clients(version)
        until(lambda: count(server.pid, "fd") <= descriptors)
        until(lambda: count(server.pid, "task") <= threads + 1)
        pid = server.pid
        assert server.stop() == ""
        until(lambda: not leaks.is_running(pid))


def test_scenarios_are_run_by_somebody() -> None:
    source = Path(interop_scenarios.__file__).read_text()
    written = re.findall(r"@scenario\ndef (\w+)", source)
    assert sorted(written) == sorted([*ALL, *ONLY_XMLRPC, *ONLY_OURS])
