"""A few seconds of the soak (soak.py), on all CPUs and on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("where", ["all CPUs", "one CPU"])
def test_soak(where: str) -> None:
    options = ["--cpu", str(min(os.sched_getaffinity(0)))] if where == "one CPU" else []
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "3", "--seed", "7", *options],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soak: passed" in done.stdout
