"""From what the supervisor reports of a call to the exception that its caller gets."""

from __future__ import annotations

import signal as signals

from .errors import InitializerFailed, TaskTimeout, WorkerDied

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["cancelled", "describe", "initializer_failed", "overtime", "worker_died"]


def _short(value: object, limit: int = 60) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(func: Callable[..., object], args: Any = (), kwds: Any = None) -> str:
    """A call as text, shortened: f(17)."""
    name = getattr(func, "__qualname__", None) or _short(func)
    try:
        parts = [_short(value) for value in args]
    except TypeError:  # will fail in the worker as well
        parts = [f"*{_short(args)}"]
    parts += [f"{key}={_short(value)}" for key, value in (kwds or {}).items()]
    inside = ", ".join(parts)
    return f"{name}({inside if len(inside) <= 120 else inside[:117] + '...'})"


def _size(number: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"


def _end(facts: dict[str, Any]) -> str:
    number = facts.get("signal")
    if facts.get("reason") == "memory limit":
        return "was stopped, as it had more than its memory limit,"
    if number:
        try:
            name = signals.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        text = f"was killed by {name}"
        if facts.get("oom"):
            return f"{text} because its control group is out of memory,"
        return f"{text}, often the out-of-memory killer," if name == "SIGKILL" else text
    code = facts.get("exitcode")
    return "ended" if code is None else f"ended with exit code {code}"


def worker_died(task: str, index: int, facts: dict[str, Any]) -> WorkerDied:
    """LOST: the worker died while it ran that call."""
    attempts = facts.get("attempts") or 1
    peak = facts.get("peak_memory")
    message = f"worker {facts.get('rank')} (pid {facts.get('pid')}) {_end(facts)} while it ran {task}"
    if peak:
        message += f"; peak memory {_size(peak)}"
    if attempts > 1:
        message += f"; attempt {attempts}, it is not tried again"
    message += "; other calls go on"
    return WorkerDied(
        message,
        task=task,
        index=index,
        worker=facts.get("rank"),
        pid=facts.get("pid"),
        signal=facts.get("signal") or None,
        exitcode=None if facts.get("signal") else facts.get("exitcode"),
        peak_memory=peak,
        oom=bool(facts.get("oom")),
        attempts=attempts,
    )


def overtime(task: str, index: int, timeout: float, facts: dict[str, Any]) -> TaskTimeout:
    """TIMEOUT: that call ran too long."""
    return TaskTimeout(
        f"{task} ran longer than its timeout of {timeout:g} s and was stopped (worker {facts.get('rank')}, "
        f"pid {facts.get('pid')}); other calls go on",
        task=task,
        index=index,
        timeout=timeout,
        worker=facts.get("rank"),
        pid=facts.get("pid"),
    )


def cancelled(text: str) -> BaseException:
    """A call that was stopped on request, or with its pool."""
    from concurrent.futures import CancelledError

    return CancelledError(text)


def initializer_failed(facts: dict[str, Any]) -> InitializerFailed:
    """BROKEN: no worker gets through its initializer."""
    from .remote import RemoteTraceback

    text = str(facts.get("traceback") or "")
    said = text.strip().rpartition("\n")[2]
    error = InitializerFailed(
        "the initializer of the pool failed in one worker after another" + (f": {said}" if said else ""), text
    )
    if text:
        error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return error
