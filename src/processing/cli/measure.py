"""One measurement, in an interpreter of its own.

    bench (measure())                             python -c "... main()"  (main())
      starts it in a session of its own  ------>    pins itself, makes the kit, finds the count, runs the loop
      waits, at most the time limit                 prints one line of JSON
      reads it; kills the whole session  <------    ends

So whatever a peer does (crash, hang, leave processes behind) ends with its measurement and is reported as what it is.
Before a measurement that hangs is killed, all its processes print their stacks.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, TextIO

from .rows import Row, select

__all__ = ["Measurement", "main", "measure"]

MARK = "measured "
STACKS_SIGNAL = signal.SIGUSR1


@dataclass(frozen=True)
class Measurement:
    """What came out: `count` operations took `seconds`, or `error` says why there is no figure.

    `following` is the count with which the next measurement takes the time that was asked for.
    """

    count: int = 0
    seconds: float = 0.0
    following: int = 0
    error: str | None = None
    details: str = ""


def measure(
    row: Row, peer: str, count: int | None, cpu: int | None, target: float, limit: float
) -> Measurement:
    """Measures one peer once. Never raises for what the peer does; takes `limit` seconds at most, plus one."""
    order = json.dumps({"row": row.name, "peer": peer, "count": count, "cpu": cpu, "target": target})
    code = "import sys; from processing.cli.measure import main; sys.exit(main(sys.argv[1]))"
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, order],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _signal_session(process.pid, STACKS_SIGNAL)
            time.sleep(0.5)
        finally:
            _signal_session(process.pid, signal.SIGKILL)
            process.wait()
        return _result(status, limit, _text(output), _text(errors))


def _signal_session(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        pass


def _text(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def _result(status: int | None, limit: float, output: str, errors: str) -> Measurement:
    last = errors.strip().splitlines()[-1:] or [""]
    if status is None:
        return Measurement(error=f"no result within {limit:g} s", details=errors)
    if status == -signal.SIGTERM:
        return Measurement(error=f"the other party failed: {last[0]}", details=errors)
    if status < 0:
        return Measurement(error=f"killed by {signal.Signals(-status).name}", details=errors)
    if status:
        return Measurement(error=last[0] or f"exit status {status}", details=errors)
    for line in output.splitlines():
        if line.startswith(MARK):
            return Measurement(**json.loads(line[len(MARK) :]))
    return Measurement(error="printed no result", details=output + errors)


# ---- In the interpreter that measures -------------------------------------------------------------------------------


def main(order: str) -> int:
    """Does what the order (JSON of `measure`) says and prints the result."""
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    spec: dict[str, Any] = json.loads(order)
    if spec["cpu"] is not None:
        # Before anything is loaded that looks at how many there are.
        os.sched_setaffinity(0, {spec["cpu"]})
    [row] = select([spec["row"]])
    from .peers import kit_of

    kit = kit_of(spec["peer"])
    gc.collect()
    gc.disable()
    count, seconds, following = run(row, kit, spec["count"], spec["target"])
    print(MARK + json.dumps({"count": count, "seconds": seconds, "following": following}), flush=True)
    return 0


def run(row: Row, kit: Any, count: int | None, target: float) -> tuple[int, float, int]:
    """One measurement; -> count, seconds, count for the next time. Without a count, the first that is long enough."""
    if count is not None:
        return count, row.loop(kit, count), count
    count = row.count
    while True:
        seconds = max(row.loop(kit, count), 1e-9)
        following = count if row.fixed else max(row.least, int(count * target / seconds))
        if seconds >= target / 2 or following <= count:
            return count, seconds, following
        # Towards it in steps: a short run says little of a long one.
        count = min(following, count * 10)
