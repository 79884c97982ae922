"""`python -m processing doctor`: what this machine offers, and what is done without what it does not.

The findings are probes.py's and, for the arena, those of the package's own core (`processing._program.doctor()`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from . import facts
from .probes import Finding, findings
from .terminal import Terminal

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m processing doctor",
        description="Says what this machine offers, and which fallback is in use for what it does not. "
        "Worth adding to a bug report.",
    )
    result.add_argument("--json", action="store_true", help="for programs")
    result.add_argument("--plain", action="store_true", help="no colours")
    return result


def sections(found: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """The findings by section, in the order in which the sections first appear."""
    for name in dict.fromkeys(finding.section for finding in found):
        yield name, [finding for finding in found if finding.section == name]


def show(found: list[Finding], terminal: Terminal) -> None:
    for name, members in sections(found):
        rows = [[finding.name, finding.text(), finding.note] for finding in members]
        terminal.table(name, ("", "", ""), rows, frozenset())
    lacking = [finding for finding in found if finding.ok is False]
    if not lacking:
        terminal.say("\nNothing is missing: no fallback is in use.", "green")
        return
    terminal.say(f"\n{len(lacking)} missing or limited:", "bold")
    for finding in lacking:
        terminal.say(f"  {finding.name}: {finding.note or finding.text()}")


def document(found: list[Finding]) -> dict[str, object]:
    """What --json prints."""
    return {
        "machine": facts.machine(),
        "findings": {
            name: {
                finding.name: {"value": finding.value, "ok": finding.ok, "note": finding.note}
                for finding in members
            }
            for name, members in sections(found)
        },
        "missing": [finding.name for finding in found if finding.ok is False],
    }


def main(arguments: list[str]) -> int:
    """Prints the findings; -> 1 if the package cannot work here."""
    options = parser().parse_args(arguments)
    found = findings()
    if options.json:
        print(json.dumps(document(found), indent=1, default=str))
    else:
        show(found, Terminal(options.plain))
    return 1 if any(finding.fatal for finding in found) else 0
