"""`python -m processing`: the tour, or the command that is named.

    python -m processing [tour]     the introduction's programs, and one real job
    python -m processing bench      the speed table
    python -m processing doctor     what this machine offers
    python -m processing run ...    runs a program that uses multiprocessing, with this package in its place

Each command is a module of `processing.cli` and is imported only when it runs.
"""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "tour": "the introduction's programs run before your eyes, then one real job (the default)",
    "bench": "the speed of queues, pipes, locks and process starts, beside the alternatives",
    "doctor": "what this machine offers, and what is done without what it does not",
    "run": "runs a program that uses multiprocessing, with this package in its place",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m processing [COMMAND] [OPTION...]",
            "",
            *lines,
            "",
            "`python -m processing COMMAND --help` lists the options of a command.",
        ]
    )


def main(arguments: list[str]) -> int:
    """Runs the command that the arguments name, the tour if they name none; -> exit status."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if arguments[:1] == ["--version"]:
        import processing

        print(f"processing {processing.__version__}, Python {sys.version.split()[0]}")
        return 0
    command = "tour"
    if arguments and not arguments[0].startswith("-"):
        command, arguments = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"There is no command {command!r}.\n\n{usage()}", file=sys.stderr)
        return 2
    if command == "run":  # what it raises is the program's own
        from processing.cli import run

        return run.main(arguments)
    try:
        status: int = importlib.import_module(f"processing.cli.{command}").main(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough; nothing may be flushed into it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
