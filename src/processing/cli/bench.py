"""`python -m processing bench`: the introduction's speed tables, beside the alternatives.

    row by row:  round 1:  processing, threads, multiprocessing, faster-fifo
                 round 2:  faster-fifo, multiprocessing, threads, processing
                 ...

The peers take turns, so that a busy machine or a hot CPU is unfair to all alike. The first round finds, for each peer,
the number of operations that takes the time of one measurement. Every measurement has an interpreter of its own
(measure.py); one that crashes or hangs is reported and the rest goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from typing import Any

from . import facts
from .measure import measure
from .peers import PEERS, why_not
from .report import OURS, Result, Table
from .rows import GROUPS, ROWS, Row, select
from .terminal import Progress, Terminal, plain_table

__all__ = ["main"]

# After so many failures in a row's rounds a peer is not tried again.
PATIENCE = 2


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m processing bench",
        description="Measures queues, pipes, locks, conditions and process starts: processing, threads, "
        "multiprocessing, and faster-fifo where it is installed, in turn.",
    )
    result.add_argument(
        "--rows",
        metavar="PATTERN,...",
        default="",
        help="only these rows or groups of rows (see --list); `*` stands for anything: lock,pipe*,starts",
    )
    result.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="how often each is measured (default 5)"
    )
    result.add_argument("--peers", metavar="NAME,...", default="", help=f"only these of {', '.join(PEERS)}")
    result.add_argument(
        "--cpu", type=int, metavar="N", help="run everything on this one CPU; the bars are those for one CPU"
    )
    result.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="all figures as JSON into this file; `-` or nothing: to stdout, instead of the tables",
    )
    result.add_argument("--list", action="store_true", help="only say which rows there are, with their bars")
    result.add_argument("--check", action="store_true", help="exit status 1 if a bar is not met")
    result.add_argument(
        "--seconds",
        type=float,
        default=0.3,
        metavar="S",
        help="about how long one measurement takes (default 0.3)",
    )
    result.add_argument(
        "--time-limit",
        type=float,
        default=30.0,
        metavar="S",
        help="a measurement is given up after so long (30)",
    )
    result.add_argument("--plain", action="store_true", help="no colours, no progress bar")
    return result


def listing() -> str:
    """The rows, as a table."""
    rows: list[list[str] | None] = []
    for group in GROUPS:
        if rows:
            rows.append(None)
        for row in (row for row in ROWS if row.group == group):
            bars = ", ".join(f"{bar.text()} {bar.peer}" for bar in row.bars)
            rows.append([row.name, row.group, ", ".join(row.things), bars])
    return plain_table("", ("row", "group", "peers", "bars"), rows, frozenset())


def words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def absences(row: Row, wanted: list[str]) -> dict[str, str]:
    """The peers of a row that cannot be measured, and why. Those that are not wanted are not mentioned."""
    if row.needs is not None and importlib.util.find_spec(row.needs) is None:
        return {OURS: f"{row.needs} is not installed"}
    reasons = {peer: why_not(peer) for peer in row.things if peer in wanted}
    return {peer: reason for peer, reason in reasons.items() if reason is not None}


def in_turn(peers: list[str], number: int) -> list[str]:
    """The order of the peers in a round: forwards and backwards in turn, beginning with another one each time."""
    ordered = peers if number % 2 == 0 else peers[::-1]
    shift = number // 2 % len(ordered)
    return ordered[shift:] + ordered[:shift]


def run(row: Row, options: argparse.Namespace, wanted: list[str], progress: Progress) -> Result:
    """All rounds of one row."""
    result = Result(row, options.cpu is not None, absent=absences(row, wanted))
    peers = [peer for peer in row.things if peer in wanted and peer not in result.absent]
    if OURS in result.absent:
        peers = []
    counts: dict[str, int | None] = dict.fromkeys(peers)
    for number in range(options.rounds if peers else 0):
        for peer in in_turn(peers, number):
            rounds = result.rounds.setdefault(peer, [])
            if len(result.errors(peer)) < PATIENCE:
                rounds.append(
                    measure(row, peer, counts[peer], options.cpu, options.seconds, options.time_limit)
                )
                counts[peer] = counts[peer] or rounds[-1].following or None
            progress.step(f"{row.name}: {row.things[peer]}")
    return result


def check(options: argparse.Namespace, wanted: list[str]) -> str | None:
    """What is wrong with the options; None if nothing is."""
    if unknown := [peer for peer in wanted if peer not in PEERS]:
        return f"no peer is called {unknown[0]!r}; there are {', '.join(PEERS)}"
    if options.rounds < 1:
        return "--rounds is at least 1"
    if not options.seconds > 0 or not options.time_limit > 0:
        return "--seconds and --time-limit are above 0"
    if options.cpu is not None and options.cpu not in os.sched_getaffinity(0):
        return f"--cpu {options.cpu}: this process may use {sorted(os.sched_getaffinity(0))}"
    return None


def document(results: list[Result], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What --json writes."""
    return {
        "machine": facts.machine(),
        "options": {"rounds": options.rounds, "seconds": options.seconds, "cpu": options.cpu},
        "took": seconds,
        "rows": [result.to_json() for result in results],
    }


def introduce(terminal: Terminal, options: argparse.Namespace) -> None:
    here = facts.machine()
    terminal.say(
        f"processing {here['processing']}, Python {here['python']}, Linux {here['kernel']}, {here['cpu']}, "
        f"{len(here['affinity'])} CPUs"
        + (f", everything on CPU {options.cpu}" if options.cpu is not None else "")
        + f"; {options.rounds} rounds, medians"
    )
    if here["load"][0] > 0.5 * len(here["affinity"]):
        terminal.say(f"The machine is busy (load {here['load'][0]:.1f}): expect low figures.")


def main(arguments: list[str]) -> int:
    """Runs the benchmark; -> 1 if a measurement of `processing` failed, or with --check a bar was missed."""
    options = parser().parse_args(arguments)
    if options.list:
        print(listing())
        return 0
    wanted = words(options.peers) or list(PEERS)
    problem = check(options, wanted)
    if problem is None:
        try:
            rows = select(words(options.rows))
        except ValueError as error:
            problem = str(error)
    if problem is not None:
        parser().error(problem)
    quiet = options.json == "-"
    terminal = Terminal(options.plain, sys.stderr if quiet else sys.stdout)
    if not quiet:
        introduce(terminal, options)
    start = time.perf_counter()
    total = sum(options.rounds * sum(peer in wanted for peer in row.things) for row in rows)
    results = []
    with Progress(total, "measurements", options.plain) as progress:
        for row in rows:
            before = progress.done
            results.append(run(row, options, wanted, progress))
            progress.step(
                count=options.rounds * sum(peer in wanted for peer in row.things) - progress.done + before
            )
    if options.json is not None:
        text = json.dumps(document(results, options, time.perf_counter() - start), indent=1)
        if quiet:
            print(text)
        else:
            with open(options.json, "w", encoding="utf-8") as file:
                file.write(text + "\n")
    if not quiet:
        Table(results).print(terminal)
        terminal.say(f"Took {time.perf_counter() - start:.0f} s.")
    failed = any(result.errors(OURS) for result in results)
    missed = options.check and any(result.missed() for result in results)
    return 1 if failed or missed else 0
