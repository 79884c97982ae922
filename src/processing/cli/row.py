"""What a row of the speed table is: what is measured, against whom, and the bar that it should reach; and the tables.

A bar says how many times as fast as a peer `processing` should be on an idle machine of two cores with CPython 3.11.
When all is pinned to one CPU only one bar counts, the same for every row: not below 0.9 of the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GROUPS", "STANDARD_LIBRARY", "Bar", "Group", "Row"]

STANDARD_LIBRARY = "multiprocessing"
PINNED_LEAST = 0.9


@dataclass(frozen=True)
class Group:
    """One table: its heading, and the unit of its rows; `times`: less is better, and a second is so many units."""

    title: str
    unit: str = "per second"
    times: float = 0.0


GROUPS = {
    "messages": Group("256-character strings passed between processes or threads, per second"),
    "trips": Group("Round trips of a 256-character string, per second"),
    "arrays": Group("numpy arrays of 64 MiB, GiB per second", "GiB/s"),
    "hand-over": Group("A numpy array handed to another process, microseconds", "us", 1e6),
    "memory": Group(
        "An array that eight processes open: growth of the memory of all, in sizes of the array", "copies", 1
    ),
    "locks": Group("Acquires and releases of a lock, per second"),
    "waking": Group("Two processes or threads that wait for each other in turn, waits per second"),
    "values": Group("Shared numbers read, written and updated under their lock, per second"),
    "containers": Group("Small values in a shared dict, per second"),
    "managed": Group("Items and values that the server of a manager holds, calls per second"),
    "sizes": Group(
        "Memory of a million entries of a shared dict, in bytes of their keys and values", "times", 1
    ),
    "calls": Group("Small calls in a pool of two workers, per second"),
    "large-calls": Group(
        "numpy arrays of 8 MiB as arguments of calls in a pool of two, GiB per second", "GiB/s"
    ),
    "pool-starts": Group("Pools of two workers, from their making to both workers' answers, per second"),
    "idle": Group("CPU time of a hundred idle workers and of all around them, in % of one core", "%", 100),
    "deaths": Group(
        "From a worker's SIGKILL to the exception of the call that it ran, milliseconds", "ms", 1e3
    ),
    "manager-starts": Group("Managers started, used once and shut down, per second"),
    "starts": Group("Processes started and joined, per second"),
    "imports": Group("Time to import, milliseconds", "ms", 1e3),
}


@dataclass(frozen=True)
class Bar:
    """`processing` should reach `least` times the peer's figure; or take at most `more` units more."""

    peer: str
    least: float = 0.0
    more: float | None = None
    unit: str = "ms"

    def text(self) -> str:
        return f"{self.least:g}x" if self.more is None else f"+{self.more:g} {self.unit}"


@dataclass(frozen=True)
class Row:
    """One measurement.

    `things` names what is measured, by peer, and so lists the peers. A count of one stands for `scale` units of the
    group. `count` is the first guess; `fixed`: it is not adapted.
    """

    name: str
    group: str
    loop: Callable[[Any, int], float]
    things: Mapping[str, str]
    bars: tuple[Bar, ...] = ()
    count: int = 1000
    least: int = 1
    scale: float = 1.0
    fixed: bool = False
    needs: str | None = field(default=None)

    @property
    def less_is_better(self) -> bool:
        return GROUPS[self.group].times > 0

    def figure(self, count: int, seconds: float) -> float:
        """What is shown of one measurement."""
        if self.less_is_better:
            return seconds / count / self.scale * GROUPS[self.group].times
        return count * self.scale / seconds

    def bars_for(self, pinned: bool) -> tuple[Bar, ...]:
        if not pinned or self.less_is_better:
            return self.bars
        return (Bar(STANDARD_LIBRARY, PINNED_LEAST),) if STANDARD_LIBRARY in self.things else ()
