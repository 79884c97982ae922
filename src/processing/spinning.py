"""Looking again and again before sleeping, as long as that pays."""

from __future__ import annotations

import os
import time

__all__ = ["Spin"]

SECONDS = 30e-6
MISSES = 8  # so many waits in a row that took longer, and only every 16th still spins

_may_spin = len(os.sched_getaffinity(0)) > 1


class Spin:
    """What one waiter knows of its last waits."""

    __slots__ = ("misses",)

    def __init__(self) -> None:
        self.misses = 0

    def until(self) -> float:
        """The monotonic time until which to look again and again, 0 if not at all."""
        self.misses += 1
        if not _may_spin or (self.misses > MISSES and self.misses % 16):
            return 0.0
        return time.monotonic() + SECONDS

    def paid(self) -> None:
        """What was waited for came in that time."""
        self.misses = 0
