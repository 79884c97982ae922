from collections.abc import Iterable, Mapping
from typing import Any

from ._pool import PoolBase

def call(
    pool: PoolBase,
    job: int,
    func: Any,
    args: Iterable[Any],
    kwds: Mapping[str, Any],
    timeout: float = 0.0,
    retries: int = 0,
) -> None: ...
def batch(
    pool: PoolBase,
    job: int,
    first: int,
    func: Any,
    items: Iterable[Any],
    star: bool,
    timeout: float = 0.0,
    retries: int = 0,
) -> None: ...
def announce(pool: PoolBase, job: int, func: Any, args: Any, kwds: Any, audience: int) -> object: ...
def unannounce(pool: PoolBase) -> None: ...
