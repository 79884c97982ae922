"""The rows of the speed table about managers: objects in a server process, here and behind a TCP connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import loops_managers
from .row import STANDARD_LIBRARY as MP
from .row import Bar, Row

__all__ = ["MANAGER_ROWS"]


def _row(
    name: str,
    group: str,
    loop: Callable[[Any, int], float],
    what: str,
    bar: float,
    count: int = 1000,
    scale: float = 1,
) -> Row:
    things = {peer: f"{peer} {what}" for peer in ("processing", MP)}
    return Row(f"manager-{name}", group, loop, things, (Bar(MP, bar),), count=count, scale=scale)


MANAGER_ROWS = (
    _row("queue", "messages", loops_managers.queue, "Manager().Queue", 8),
    _row("lock", "locks", loops_managers.lock, "Manager().Lock", 8),
    _row("rlock", "locks", loops_managers.rlock, "Manager().RLock", 8),
    _row("condition", "waking", loops_managers.condition, "Manager().Condition", 8, scale=2),
    _row("list-read", "managed", loops_managers.list_read, "Manager().list, a[5]", 8),
    _row("dict-read", "managed", loops_managers.dict_read, "Manager().dict, d[k]", 8),
    _row("dict-write", "managed", loops_managers.dict_write, "Manager().dict, d[k] = 7", 8),
    _row("value-read", "managed", loops_managers.value_read, "Manager().Value, v.value", 8),
    _row("tcp-read", "managed", loops_managers.tcp_read, "dict over TCP, d[k]", 1.5),
    _row("tcp-write", "managed", loops_managers.tcp_write, "dict over TCP, d[k] = 7", 1.5),
    Row(
        "manager-start",
        "manager-starts",
        loops_managers.start,
        {"processing": "processing.Manager, fork", MP: "multiprocessing.Manager, fork"},
        count=5,
        least=3,
    ),
)
