"""Promises of users.md that pools keep, each test named after its line.

So far only line 11, Ctrl-C: one SIGINT to the group ends all workers within a second, with one traceback.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, time
import processing
from processing.pool import Pool

def stay(how):
    os.write({pipe}, b"x\\n")
    if how == "sleep":
        time.sleep(3600)
    while True:
        pass

if __name__ == "__main__":
    with Pool(10, context=processing.get_context({method!r})) as pool:
        work = [{how!r}] * 10
        {wait}
"""

WAITS = {
    "map": "pool.map(stay, work, 1)",
    "imap": "list(pool.imap(stay, work))",
    "get": "[pool.apply_async(stay, (how,)) for how in work][0].get()",
}


@pytest.mark.parametrize("how", ["sleep", "loop"])
@pytest.mark.parametrize("wait", WAITS)
def test_line_11_one_interrupt_ends_all(tmp_path: Path, wait: str, how: str) -> None:
    read, write = os.pipe()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(pipe=write, method="fork", how=how, wait=WAITS[wait]))
    with subprocess.Popen(
        [sys.executable, str(program)],
        pass_fds=[write],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as caller:
        os.close(write)
        text = b""
        while text.count(b"\n") < 10:
            assert select.select([read], [], [], 30)[0], "the workers did not begin"
            text += os.read(read, 100)
        start = time.monotonic()
        os.killpg(caller.pid, signal.SIGINT)
        # The pipe ends with the last process that has it: the caller and all of its workers.
        assert select.select([read], [], [], 20)[0] and os.read(read, 100) == b""
        seconds = time.monotonic() - start
        _, errors = caller.communicate(timeout=20)
    os.close(read)
    assert seconds < 1, seconds
    assert caller.returncode == -signal.SIGINT, caller.returncode
    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert errors.splitlines()[-1] == "KeyboardInterrupt", errors
