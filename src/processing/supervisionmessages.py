"""What the shell of a pool's supervisor (supervisor.py) and its state machine (supervision.py) say to each other.

Times are monotonic nanoseconds. Where an action has an answer, the shell gives it at once.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    class Desk(Protocol):
        """What the machine reads of a DeskView (_pool.pyx)."""

        @property
        def owner_pid(self) -> int: ...
        @property
        def state(self) -> str: ...
        @property
        def job(self) -> int: ...
        @property
        def first(self) -> int: ...
        @property
        def to(self) -> int: ...
        @property
        def done(self) -> int: ...
        @property
        def running(self) -> bool: ...
        @property
        def attempt(self) -> int: ...
        @property
        def retries(self) -> int: ...
        @property
        def timeout(self) -> float: ...
        @property
        def started_ns(self) -> int: ...
        @property
        def deadline_ns(self) -> int: ...
        @property
        def text(self) -> str | None: ...
        @property
        def calls(self) -> int: ...
        @property
        def broadcast(self) -> int: ...

    Desks = Mapping[int, Desk]


__all__: list[str] = []

# Kinds of reports, as in jobs.py.
# Bytes of a traceback that fit a report.
TEXT_MAX = 12_000
LOST, TIMEOUT, CANCELLED, BROKEN, WORKER = 2, 3, 4, 5, 6


class Message:
    """A message. Not a dataclass: importing those costs a program 10 ms at its start."""

    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)

    def __init__(self, *values: Any) -> None:
        self.__dict__.update(zip(self._fields, values, strict=True))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({facts})"


# ---- Events ---------------------------------------------------------------------------------------------------------


class Begin(Message):
    """First of all. `found`: the desks that a supervisor which was killed has left, all their workers dead by now."""

    now: int
    found: Desks
    watching: bool


class Started(Message):
    """A worker that was to be started exists."""

    now: int
    rank: int
    pid: int


class NotStarted(Message):
    """It could not be started."""

    now: int
    rank: int
    text: str


class Ended(Message):
    """A worker has ended and its desk is settled and flushed. exitcode: -N for signal N, None: not known.
    `desks` are those of all other workers; `waiting` is the number of batches in the ring."""

    now: int
    rank: int
    exitcode: int | None
    peak_memory: int | None
    oom: bool
    desk: Desk
    desks: Desks
    waiting: int


class Look(Message):
    """It is time to look around. `waiting` was read before `desks`. memory: bytes more than when it was ready, by rank,
    of those that run a call.
    `again`: the answer to LookAgain."""

    now: int
    desks: Desks
    memory: Mapping[int, int]
    waiting: int
    again: bool


class Struck(Message):
    """The answer to Strike: killed (True), runs something else by now (False), could not be stopped (None)."""

    now: int
    rank: int
    hit: bool | None


class Watch(Message):
    """A call with that timeout (seconds; 0.0: none, but the pool has a memory limit) is in the ring."""

    now: int
    seconds: float


class Cancel(Message):
    """That call is not wanted any more (index None: no call of the job). `waiting` was read before `desks`."""

    now: int
    job: int
    index: int | None
    waiting: int
    desks: Desks


class Marked(Message):
    """The answer to Mark: whether it could be remembered, and the desks as they were afterwards."""

    now: int
    job: int
    index: int | None
    kept: bool
    desks: Desks


class Forgotten(Message):
    """The caller knows that a cancelled call is over."""

    now: int
    job: int
    index: int | None


class Resize(Message):
    now: int
    processes: int


class Close(Message):
    now: int
    waiting: int


class Terminate(Message):
    now: int


# ---- Actions --------------------------------------------------------------------------------------------------------


class Start(Message):
    """Start the worker of that rank; it is the number-th of this supervisor. Answer: Started or NotStarted."""

    rank: int
    number: int


class Strike(Message):
    """Stop that worker, look, and kill it if it runs exactly that call. Answer: Struck."""

    rank: int
    job: int
    index: int


class Report(Message):
    kind: int
    job: int
    index: int
    payload: dict[str, Any]


class Requeue(Message):
    """Put calls [begin, to) of the batch on that desk back into the ring."""

    rank: int
    begin: int
    to: int
    attempt: int


class Clear(Message):
    """Nobody sits at that desk."""

    rank: int


class Retire(Message):
    """Order that worker to leave after its batch."""

    rank: int


class Kill(Message):
    rank: int
    signal: int


class Mark(Message):
    """Have workers skip that call. Answer: Marked."""

    job: int
    index: int | None


class Forget(Message):
    """The mark of that call is not needed any more."""

    job: int
    index: int | None


class CloseTasks(Message):
    """Have workers leave when the ring is empty."""


class SetWatching(Message):
    """Tell the callers whether they need not say that they submit calls with timeouts."""

    on: bool


class LookAgain(Message):
    """Answer: Look, at once."""


class Exit(Message):
    """All has ended."""


# ---- In words -------------------------------------------------------------------------------------------------------


def signal_of(exitcode: int | None) -> int | None:
    """The signal that ended a process."""
    return -exitcode if exitcode is not None and exitcode < 0 else None


def why_not_ready(event: Ended, pid: int) -> str:
    """Of a worker that ended before it was ready."""
    if event.desk.state == "failed" and event.desk.text:
        return event.desk.text.encode()[-TEXT_MAX:].decode(errors="replace")  # its end says most
    signal = signal_of(event.exitcode)
    if signal is not None:
        from signal import Signals

        try:
            name = Signals(signal).name
        except ValueError:
            name = f"signal {signal}"
        how = f"was killed by {name}{', out of memory,' if event.oom else ''}"
    else:
        how = f"ended with exit code {event.exitcode}"
    return f"worker {event.rank} (pid {pid}) {how} before it was ready; it may have said why on stderr"
