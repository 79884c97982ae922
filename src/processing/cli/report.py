"""From measurements to the speed table: medians, ratios, bars.

A ratio is formed within each round, between measurements that were made one after the other; shown is the median of the
rounds' ratios, and the lowest and the highest of them. Above 1 `processing` is the faster one, in every row.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .measure import Measurement
from .rows import GROUPS, Bar, Row
from .terminal import Terminal

__all__ = ["Result", "Table"]

OURS = "processing"


@dataclass
class Result:
    """All rounds of one row: measurements by peer, in the order of the rounds."""

    row: Row
    pinned: bool
    rounds: dict[str, list[Measurement]] = field(default_factory=dict)
    # Peers that are not measured, and why.
    absent: dict[str, str] = field(default_factory=dict)

    def figures(self, peer: str) -> list[float | None]:
        """One figure for each round, None where it failed."""
        return [None if m.error else self.row.figure(m.count, m.seconds) for m in self.rounds.get(peer, [])]

    def median(self, peer: str) -> float | None:
        good = [figure for figure in self.figures(peer) if figure is not None]
        return statistics.median(good) if good else None

    def ratios(self, peer: str) -> list[float]:
        """How many times as fast as the peer, round by round. There is no such thing for `nothing`."""
        if peer == "nothing":
            return []
        pairs = zip(self.figures(OURS), self.figures(peer), strict=False)
        both = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
        if self.row.less_is_better:
            return [theirs / ours for ours, theirs in both]
        return [ours / theirs for ours, theirs in both]

    def errors(self, peer: str) -> list[Measurement]:
        return [m for m in self.rounds.get(peer, []) if m.error]

    def bar(self, peer: str) -> Bar | None:
        return next((bar for bar in self.row.bars_for(self.pinned) if bar.peer == peer), None)

    def is_met(self, bar: Bar) -> bool | None:
        """Whether `processing` reaches a bar; None if that was not measured."""
        if bar.more is not None:
            ours, theirs = self.median(OURS), self.median(bar.peer)
            return None if ours is None or theirs is None else ours - theirs <= bar.more
        ratios = self.ratios(bar.peer)
        return statistics.median(ratios) >= bar.least if ratios else None

    def missed(self) -> list[Bar]:
        return [bar for bar in self.row.bars_for(self.pinned) if self.is_met(bar) is False]

    def to_json(self) -> dict[str, Any]:
        """Everything, raw figures included."""
        peers: dict[str, Any] = {}
        for peer in self.row.things:
            if peer not in self.rounds:
                continue
            ratios = self.ratios(peer) if peer != OURS else []
            bar = self.bar(peer)
            peers[peer] = {
                "thing": self.row.things[peer],
                "median": self.median(peer),
                "rounds": [
                    {"error": m.error, "details": m.details}
                    if m.error
                    else {
                        "count": m.count,
                        "seconds": m.seconds,
                        "figure": self.row.figure(m.count, m.seconds),
                    }
                    for m in self.rounds[peer]
                ],
                "ratio": statistics.median(ratios) if ratios else None,
                "ratios": ratios,
                "bar": None if bar is None else bar.text(),
                "met": None if bar is None else self.is_met(bar),
            }
        return {
            "row": self.row.name,
            "group": self.row.group,
            "unit": GROUPS[self.row.group].unit,
            "less_is_better": self.row.less_is_better,
            "peers": peers,
            "absent": self.absent,
        }

    def lines(self) -> list[list[str]]:
        """The row's lines of the table, `processing` first."""
        lines = []
        for peer, thing in self.row.things.items():
            if peer not in self.rounds:
                continue
            median = self.median(peer)
            errors = self.errors(peer)
            cells = [thing, _number(median), "", "", "", ""]
            if median is None:
                cells[1] = "FAILED"
            elif errors:
                cells[5] = f"FAILED {len(errors)} of {len(self.rounds[peer])}"
            bar = self.bar(peer)
            ratios = self.ratios(peer) if peer != OURS else []
            if ratios:
                cells[2] = f"{_ratio(statistics.median(ratios))}x"
                cells[3] = f"{_ratio(min(ratios))}-{_ratio(max(ratios))}"
            if bar is not None:
                cells[4] = bar.text()
                met = self.is_met(bar)
                cells[5] = cells[5] or {True: "met", False: "NOT met", None: "not measured"}[met]
            lines.append(cells)
        return lines


def _number(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


COLUMNS = ("", "figure", "processing is", "range", "bar", "")


class Table:
    """The results of a run, as the tables of the introduction."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results

    def print(self, terminal: Terminal) -> None:
        for name, group in GROUPS.items():
            chosen = [result for result in self.results if result.row.group == name and result.rounds]
            rows: list[list[str] | None] = []
            for result in chosen:
                if rows:
                    rows.append(None)
                rows += result.lines()
            if rows:
                columns = [chosen[0].row.group if len(chosen) > 1 else chosen[0].row.name, *COLUMNS[1:]]
                columns[1] = group.unit
                terminal.table(group.title, columns, rows, frozenset({1, 2, 3, 4}))
        self._print_errors(terminal)
        self._print_summary(terminal)

    def _print_errors(self, terminal: Terminal) -> None:
        absent: dict[str, str] = {}
        for result in self.results:
            for peer, reason in result.absent.items():
                absent[f"{result.row.name}: {reason}" if peer == OURS else reason] = peer
            for peer in result.rounds:
                errors = result.errors(peer)
                if errors:
                    terminal.say(
                        f"FAILED: {result.row.name}, {result.row.things[peer]} ({len(errors)} of "
                        f"{len(result.rounds[peer])} rounds): {errors[0].error}",
                        "bold red",
                    )
                    details = errors[0].details.strip().splitlines()
                    terminal.say("\n".join("    " + line for line in details[-40:]), "dim")
        for reason in absent:
            terminal.say(f"Not measured: {reason}.")

    def _print_summary(self, terminal: Terminal) -> None:
        bars = [(result, bar) for result in self.results for bar in result.row.bars_for(result.pinned)]
        judged = [(result, bar, result.is_met(bar)) for result, bar in bars]
        met = sum(verdict is True for _, _, verdict in judged)
        missed = [(result, bar) for result, bar, verdict in judged if verdict is False]
        if met or missed:
            terminal.say(f"\n{met} of {met + len(missed)} bars met.")
        for result, bar in missed:
            terminal.say(
                f"NOT met: {result.row.name}, {bar.text()} of {result.row.things[bar.peer]}", "bold red"
            )
