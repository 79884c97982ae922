"""What the tests of managers have in common: managers of each start method, and functions that run in a child."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers import LIMIT, child, ended
from interop_programs import Doing

__all__ = ["Doing", "count", "in_child", "run_in_child", "started"]


@contextmanager
def started(made: Any) -> Iterator[Any]:
    """A manager that is started, and whose server has ended after the block."""
    with made:
        process = made._process
        yield made
    try:
        assert not process.is_alive()
    finally:
        made.join(LIMIT)  # closes what it has of its process


def _answer(writer: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        writer.send((True, function(*args)))
    except BaseException as error:
        writer.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


@contextmanager
def in_child(ctx: Any, function: Callable[..., Any], *args: Any) -> Iterator[Callable[[], Any]]:
    """Runs function(*args) in a child during the block; what is yielded waits for it and gives the result."""
    reader, writer = ctx.Pipe(duplex=False)

    def result() -> Any:
        assert reader.poll(LIMIT), "the child does not answer"
        good, value = reader.recv()
        assert good, f"in the child: {value}"
        ended(process)
        return value

    try:
        with child(ctx, _answer, writer, function, args) as process:
            result.process = process  # type: ignore[attr-defined]
            writer.close()
            yield result
    finally:
        reader.close()


def run_in_child(ctx: Any, function: Callable[..., Any], *args: Any) -> Any:
    """What function(*args) returns in a child."""
    with in_child(ctx, function, *args) as result:
        return result()


def count(manager: Any) -> int:
    """How many objects the server holds."""
    gc.collect()
    return int(manager._number_of_objects())
