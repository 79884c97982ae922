"""What the commands print: with rich and tqdm where they are installed, plainly otherwise.

A `Terminal` writes to one stream. Colours and boxes appear only where rich is installed, the stream is a terminal and
`plain` was not asked for; in a file or a pipe the same text arrives without them. A `Progress` is shown on stderr if
that is a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress", "Terminal"]


class Terminal:
    """Prints headings, programs and tables to `stream` (stdout if None)."""

    def __init__(self, plain: bool = False, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.console: Any = None
        if not plain and self.stream.isatty():
            try:
                from rich.console import Console
            except ImportError:
                return
            self.console = Console(file=self.stream, highlight=False)

    def say(self, text: str = "", style: str = "") -> None:
        """Prints text as it is, wrapped nowhere."""
        if self.console is not None:
            self.console.print(text, style=style or None, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream)

    def heading(self, text: str) -> None:
        if self.console is not None:
            self.console.print()
            self.console.rule(f"[bold]{text}", align="left")
        else:
            print(f"\n{text}\n{'=' * len(text)}", file=self.stream)
        self.stream.flush()

    def program(self, source: str) -> None:
        """Prints the source of a Python program."""
        if self.console is not None:
            from rich.padding import Padding
            from rich.syntax import Syntax

            code = Syntax(source, "python", theme="ansi_dark", background_color="default")
            self.console.print(Padding(code, (1, 0, 1, 4)))
        else:
            print("\n" + _indent(source) + "\n", file=self.stream)
        self.stream.flush()

    def output(self, text: str, failed: bool = False) -> None:
        """Prints what a program has printed."""
        for line in text.splitlines():
            self.say(f"  > {line}", "red" if failed else "green")

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str] | None], right: frozenset[int]
    ) -> None:
        """Prints a table; None among the rows is a line between groups. Columns numbered in `right` are flush right."""
        if self.console is not None:
            from rich import box
            from rich.table import Table
            from rich.text import Text

            table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
            table.show_header = any(columns)
            for number, column in enumerate(columns):
                # Where the terminal is too narrow, the notes in the last column are wrapped and nothing is cut off.
                wraps = number == len(columns) - 1
                table.add_column(column, justify="right" if number in right else "left", no_wrap=not wraps)
            for row in rows:
                if row is None:
                    table.add_section()
                else:
                    table.add_row(*(Text(cell, style=_style_of(cell)) for cell in row))
            self.console.print(table)
        else:
            print("\n" + plain_table(title, columns, rows, right), file=self.stream)
        self.stream.flush()


def _style_of(cell: str) -> str:
    """Marks stand out: what is missing or below its bar, what is there or above it."""
    first = cell.partition(" ")[0].strip(":,")
    if first in ("NOT", "FAILED", "no"):
        return "bold red"
    return "green" if first in ("met", "yes") else ""


def _indent(text: str) -> str:
    return "\n".join("    " + line if line else "" for line in text.strip("\n").splitlines())


def plain_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str] | None], right: frozenset[int]
) -> str:
    """A table in the style of reStructuredText, as the introduction's. Without names of columns, without lines."""
    texts = [columns, *(row for row in rows if row is not None)]
    widths = [max(len(row[number]) for row in texts) for number in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    ruler = "  ".join("=" * width for width in widths)
    body = ["" if row is None else line(row) for row in rows]
    if not any(columns):
        return "\n".join([title, "-" * len(title), *body])
    head = [title, ""] if title else []
    return "\n".join([*head, ruler, line(columns), ruler, *body, ruler])


class Progress:
    """A bar for `total` steps: tqdm's, else rich's, else a line that is rewritten; only if stderr is a terminal."""

    def __init__(self, total: int, unit: str, plain: bool = False) -> None:
        self.total = total
        self.done = 0
        self.bar: Any = None
        self.rich: Any = None
        self.shown = sys.stderr.isatty()
        if plain or not self.shown:
            return
        try:
            import tqdm

            # Without its monitor thread: a program that forks wants none.
            tqdm.tqdm.monitor_interval = 0
            self.bar = tqdm.tqdm(total=total, unit=unit, leave=False, dynamic_ncols=True)
            return
        except ImportError:
            pass
        try:
            from rich.progress import Progress as RichProgress

            self.rich = RichProgress(transient=True, auto_refresh=False)
        except ImportError:
            return
        self.rich.start()
        self.task = self.rich.add_task(unit, total=total)

    def step(self, text: str = "", count: int = 1) -> None:
        """`count` more are done; what is next may be named."""
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(count)
        elif self.rich is not None:
            self.rich.update(self.task, advance=count, description=text, refresh=True)
        elif self.shown:
            print(f"\r{self.done}/{self.total} {text:40.40}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.rich is not None:
            self.rich.stop()
        elif self.shown:
            print("\r" + " " * 60, end="\r", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
