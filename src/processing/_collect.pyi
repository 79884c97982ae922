from collections import deque
from typing import Any

from ._pool import PoolBase

DONE: int
FAILED: int
LOST: int
TIMEOUT: int
CANCELLED: int
BROKEN: int
WORKER: int
PROGRESS: int
LOG: int
SPAN: int
WAKE: int
OVER: int

def collect(pool: PoolBase, inbox: deque[Any], most: int = 1000) -> None: ...
def await_results(pool: PoolBase, deadline: float | None) -> bool | None: ...
