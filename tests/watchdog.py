"""A process that watches the time limit of each test from outside.

Started once by conftest.py as `python watchdog.py PID DUMP_SIGNAL FAIL_SIGNAL`; orders come as lines on stdin:
`start SECONDS` and `stop`. When a test takes too long:

    1. DUMP_SIGNAL to the test process and to its descendants: faulthandler writes every thread's stack to stderr
    2. SIGKILL to the descendants
    3. FAIL_SIGNAL to the test process: its handler raises in the main thread, so the test fails and the run goes on
    4. 10 s later, if the test has still not ended: the stacks again, SIGKILL to the test process

Why a process and not a thread (faulthandler.dump_traceback_later has one): the package under test forks, and since
3.12 Python warns of every fork in a process that has threads; and a thread of ours needs the GIL that a hanging
extension module may hold. It is no child of the test process either, so that waiting for any child finds none.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import leaks


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def show(dump: int, pids: list[int]) -> None:
    """Their stacks."""
    for pid in pids:
        send(pid, dump)
    time.sleep(0.5)


def main() -> None:
    if os.fork():
        os._exit(0)  # the test process waits for this one; the other one is nobody's child
    pid, dump, fail = map(int, sys.argv[1:4])
    target = os.pidfd_open(pid)
    deadline: float | None = None
    stage = 0
    pending = b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0, target], [], [], wait)
        if target in ready:
            return
        if 0 in ready:
            received = os.read(0, 4096)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                word, _, seconds = line.partition(b" ")
                deadline = time.monotonic() + float(seconds) if word == b"start" else None
                stage = 0
        elif deadline is not None and time.monotonic() >= deadline:
            family = list(leaks.descendants(pid))
            if stage == 0:
                # Descendants that were exec'ed since have no handler: the signal ends them, as step 2 would.
                show(dump, [pid, *family])
                leaks.kill_all(family)
                send(pid, fail)
                stage, deadline = 1, time.monotonic() + 10
            else:
                show(dump, [pid, *family])
                leaks.kill_all([*family, pid])
                return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test process; this one ends with it
    main()
