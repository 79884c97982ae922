"""Log records of workers reach the handlers of the caller: `Pool(logs=True)`.

    worker   logging.getLogger("x").warning(...) ──▶ Relay, the only handler there ──▶ LOG events
    caller   LogReceiver ──▶ logging.getLogger("x").handle(record), in whatever thread takes results (jobs.py)

Records arrive in the order in which their worker made them, before the result of the call that made them. If nobody
takes results, a thread (PoolPump) does; it sleeps while nothing comes. If there is no room for a record, the worker
waits, as it does with results: nothing is dropped.
"""

from __future__ import annotations

import logging
import os
from _pickle import dumps, loads

from .process import current_process

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

    from .jobs import Jobs

__all__ = ["LogLevels", "LogReceiver", "install", "levels_of"]

LOG = 8  # a kind of events, as in jobs.py
PIECE = 15_000  # bytes of a record that are sent at once
JOB = -1  # what the pump is kept for

# What logging itself puts into a record.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LogLevels:
    """How much the caller wants to be told; pickles."""

    __slots__ = ("root", "levels", "disabled")

    def __init__(self, root: int, levels: dict[str, int], disabled: int) -> None:
        self.root = root
        self.levels = levels  # of loggers that have one
        self.disabled = disabled  # see logging.disable

    def __reduce__(self) -> Any:
        return LogLevels, (self.root, self.levels, self.disabled)


def levels_of(option: Any) -> LogLevels:
    """`option`: True: the levels of the caller's loggers, as they are now; a level (int, or its name): the root logger
    of the workers has that one."""
    root = logging.getLogger()
    if option is True:
        level = root.level
    elif isinstance(option, (int, str)) and option is not False:
        level = logging.Handler(option).level  # checks it
    else:
        raise TypeError(f"logs must be True or a level, not {type(option).__name__}")
    levels = {
        name: logger.level
        for name, logger in list(root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level
    }
    return LogLevels(level, levels, root.manager.disable)


# ---- In a worker ----------------------------------------------------------------------------------------------------


class Relay(logging.Handler):
    """Sends records to the caller. Whichever thread, or forked child, logs."""

    def __init__(self, seat: Any) -> None:
        super().__init__()
        self.seat = seat

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = packed(record)
            rank, pid = self.seat.rank, os.getpid()
            count = -(-len(data) // PIECE)
            for at in range(count):  # the lock of the handler is held: no other record comes between
                piece = data[at * PIECE : (at + 1) * PIECE]
                self.seat.event(LOG, (rank, pid, at, count, piece))
        except Exception:
            self.handleError(record)


def packed(record: logging.LogRecord) -> bytes:
    """A record as bytes: arguments are merged into the message, a traceback is text. What else was given (`extra`) is
    as it was if it can be pickled, otherwise its repr."""
    fields = dict(vars(record))
    fields["msg"] = record.getMessage()
    fields["args"] = None
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    fields["exc_info"] = None
    fields["processName"] = current_process().name
    extra = {}
    for name in [name for name in fields if name not in _OWN]:
        value = fields.pop(name)
        try:
            extra[name] = dumps(value, 5)
        except Exception:
            extra[name] = dumps(repr(value), 5)
    return dumps((fields, extra), 5)


def unpacked(data: bytes) -> logging.LogRecord:
    """The record. An extra that cannot be read here is the text of why."""
    fields, extra = loads(data)
    for name, value in extra.items():
        try:
            fields[name] = loads(value)
        except Exception as error:
            fields[name] = f"<unreadable: {error!r}>"
    return logging.makeLogRecord(fields)


def install(seat: Any, levels: LogLevels) -> None:
    """In a worker, before its initializer: all that is logged goes to the caller. Handlers inherited from it are taken
    off: they would write a second time. What the initializer adds is kept."""
    root = logging.getLogger()
    for logger in list(root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers = []
            logger.propagate = True
    root.handlers = [Relay(seat)]
    logging.disable(levels.disabled)
    for name, level in levels.levels.items():
        logging.getLogger(name).setLevel(level)
    root.setLevel(levels.root)


# ---- In the caller --------------------------------------------------------------------------------------------------


class LogReceiver:
    """Gives what comes to the loggers of this process: their levels, filters and handlers count."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.parts: dict[tuple[int, int], list[bytes]] = {}  # (rank, pid) -> of a record that is long
        jobs.listeners[LOG] = self.receive
        jobs.attend(JOB)

    def receive(self, kind: int, job: int, index: int, payload: Any) -> None:
        rank, pid, at, count, data = payload
        if count > 1:
            if at == 0:
                # Its predecessor at that rank may have died in the middle of one.
                self.parts = {key: parts for key, parts in self.parts.items() if key[0] != rank}
                self.parts[rank, pid] = []
            parts = self.parts.get((rank, pid))
            if parts is None or len(parts) != at:
                return
            parts.append(data)
            if len(parts) < count:
                return
            data = b"".join(self.parts.pop((rank, pid)))
        record = unpacked(data)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def finish(self) -> None:
        """The workers have ended: hands on what is left, then needs no thread any more."""
        jobs = self.jobs
        jobs.attended.pop(JOB, None)
        jobs.stir()
        jobs.join_pump()
        jobs.poll()
        # Another thread may be about it.
        if jobs.runner.acquire(timeout=1.0):
            try:
                jobs.run_due()
            finally:
                jobs.runner.release()
        jobs.listeners.pop(LOG, None)
