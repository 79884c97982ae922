"""A few seconds of each soak, on all CPUs and on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

HERE = Path(__file__).parent


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("where", ["all CPUs", "one CPU"])
@pytest.mark.parametrize("program", ["soak.py", "soak_containers.py", "soak_pool.py"])
def test_soak(program: str, where: str) -> None:
    options = ["--cpu", str(min(os.sched_getaffinity(0)))] if where == "one CPU" else []
    done = subprocess.run(
        [sys.executable, str(HERE / program), "--seconds", "3", "--seed", "7", *options],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soak: passed" in done.stdout
