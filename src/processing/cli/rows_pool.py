"""The rows of the speed table about pools, all of two workers but for the idle ones."""

from __future__ import annotations

from . import loops_pool
from .row import STANDARD_LIBRARY as MP
from .row import Bar, Row

__all__ = ["POOL_ROWS"]


def _pools(method: str, *others: str, submits: str = "submit") -> dict[str, str]:
    """Pools of processes."""
    names = {
        "futures": f"concurrent.futures, {submits}",
        "loky": f"loky, {submits}",
        "mpire": "mpire.WorkerPool.map",
        "joblib": "joblib.Parallel",
    }
    things = {peer: f"{peer}.Pool, {method}" for peer in ("processing", "multiprocessing")}
    return things | {peer: names[peer] for peer in others}


POOL_ROWS = (
    Row(
        "pool-apply-async",
        "calls",
        loops_pool.apply_async,
        _pools("apply_async", "futures", "loky"),
        (Bar(MP, 8), Bar("futures", 15), Bar("loky", 20)),
        count=1000,
    ),
    Row(
        "pool-apply",
        "calls",
        loops_pool.apply,
        _pools("apply", "futures", "loky", submits="submit and result"),
        (Bar(MP, 8),),
        count=500,
    ),
    Row("pool-imap", "calls", loops_pool.imap, _pools("imap, chunks of 1"), (Bar(MP, 10),), count=1000),
    Row(
        "pool-map",
        "calls",
        loops_pool.small_map,
        _pools("map of 10,000", "mpire", "joblib"),
        (Bar(MP, 1.2), Bar("mpire", 20), Bar("joblib", 10)),
        count=1,
        scale=loops_pool.MAP_LENGTH,
    ),
    Row(
        "pool-map-arrays",
        "large-calls",
        loops_pool.map_arrays,
        _pools("map of 200"),
        (Bar(MP, 10),),
        count=1,
        scale=loops_pool.ARRAYS * loops_pool.ARRAY_BYTES / 2**30,
        needs="numpy",
    ),
    Row(
        "pool-start-fork",
        "pool-starts",
        loops_pool.start_fork,
        _pools("fork"),
        (Bar(MP, 0.9),),
        count=5,
        least=3,
    ),
    Row(
        "pool-start-forkserver",
        "pool-starts",
        loops_pool.start_forkserver,
        _pools("forkserver"),
        (Bar(MP, 3),),
        count=3,
        least=3,
    ),
    Row(
        "pool-idle",
        "idle",
        loops_pool.idle,
        {**_pools("100 workers"), "nothing": "nothing at all"},
        (Bar("nothing", more=0.5, unit="%"),),
        count=1,
        fixed=True,
    ),
    Row(
        "pool-death",
        "deaths",
        loops_pool.death,
        {
            "processing": "processing.Pool",
            "futures": "concurrent.futures, which ends the pool",
            "loky": "loky, which ends the pool",
            "nothing": "no time at all",
        },
        (Bar("nothing", more=50),),
        count=5,
        fixed=True,
    ),
)
