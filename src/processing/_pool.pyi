from typing import Any, NamedTuple

from ._native import Handle

POOL: tuple[int, int, int]
MOST: int
STATES: tuple[str, ...]

class DeskView(NamedTuple):
    owner_pid: int
    state: str
    job: int
    first: int
    from_: int
    to: int
    done: int
    running: bool
    attempt: int
    retries: int
    timeout: float
    started_ns: int
    deadline_ns: int
    text: str | None
    calls: int
    busy_ns: int
    waited_ns: int
    orders: int
    broadcast: int
    memory: int

class PoolBase(Handle):
    watching: bool
    tracing: bool
    @property
    def desks(self) -> int: ...
    def report(self, kind: int, job: int, index: int, payload: object) -> None: ...
    def grow(self, count: int) -> None: ...
    def desk(self, rank: int) -> DeskView: ...
    def settle(self, rank: int) -> None: ...
    def flush(self, rank: int) -> None: ...
    def requeue(self, rank: int, begin: int, to: int, attempt: int) -> None: ...
    def clear(self, rank: int) -> None: ...
    def order(self, rank: int, what: str) -> None: ...
    def tasks_waiting(self) -> int: ...
    def close_tasks(self) -> None: ...
    def cancel_queued(self, job: int, index: int | None = None) -> bool: ...
    def forget_cancelled(self, job: int, index: int | None = None) -> None: ...

def new_pool(cls: type[Any], desks: int) -> Any: ...
