"""What the workers of a pool are like besides what they run: memory, CPUs, threads of libraries, random seeds.

    Pool(...)  ──▶ WorkerSettings   checked in the caller, where an error belongs
    supervisor ──▶ environment      before a worker exists: libraries read it when they are loaded
    worker     ──▶ apply(rank)      before its initializer; settle() after it

A pool that was asked for nothing limits the threads of libraries, and seeds numpy's generator if that is loaded. If its
workers are forked, libraries are looked for in the caller, once, and limited in the supervisor: to limit OpenBLAS after
a fork starts threads, which the supervisor's next fork ends.
"""

from __future__ import annotations

import operator
import os
import sys

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .logrelay import LogLevels

__all__ = ["WorkerSettings", "thread_environment"]

# What tells libraries how many threads to start, read when they are loaded.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
LEAST_MEMORY = 1 << 20
# Who has loaded one of these may have loaded a library that starts threads.
LOADERS = frozenset(("numpy", "scipy", "torch", "sklearn", "numba", "cv2"))


class WorkerSettings:
    """What is the same for all workers of a pool; pickles."""

    __slots__ = (
        *("memory_limit", "cpus", "threads", "exactly", "seed", "finalizer", "shared", "levels"),
        "seeded",
    )

    def __init__(
        self,
        memory_limit: int = 0,
        cpus: tuple[tuple[int, ...], ...] = (),
        threads: int = 0,
        exactly: bool = False,
        seed: int | None = None,
        finalizer: Callable[[], object] | None = None,
        shared: Any = None,
        levels: LogLevels | None = None,
    ) -> None:
        self.memory_limit = memory_limit  # bytes; 0: none
        self.cpus = cpus  # of rank r: the r-th, around
        self.threads = threads  # 0: whatever they like
        self.exactly = exactly  # not fewer threads either
        self.seed = seed
        self.finalizer = finalizer
        self.shared = shared  # a handle
        self.seeded = False  # numpy's generator is, in this process
        self.levels = levels  # of loggers, whose records go to the caller; None: they do not

    def __reduce__(self) -> Any:
        return WorkerSettings, tuple(getattr(self, name) for name in self.__slots__[:-1])

    def seed_of(self, rank: int) -> int | None:
        """64 bits that follow from the pool's seed and the rank."""
        if self.seed is None:
            return None
        # SplitMix64 (Steele, Lea, Flood 2014): neighbouring inputs, unrelated outputs.
        mask = (1 << 64) - 1
        z = (_folded(self.seed) + (rank + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def prepare_forks(self) -> None:
        """In the caller, if workers are forked of it: what need not be done in each of them."""
        if self.threads:
            _libraries.find()

    def prepare_workers(self) -> None:
        """In the supervisor, before it forks workers."""
        if self.threads:
            _libraries.limit(self.threads, self.exactly)

    def apply(self, rank: int, seat: Any) -> None:
        """In a worker, first of all."""
        if self.levels is not None:
            from .logrelay import install

            install(seat, self.levels)
        if self.cpus:
            os.sched_setaffinity(0, self.cpus[rank % len(self.cpus)])
        if self.threads and _libraries.limited != self.threads:
            _libraries.limit(self.threads, self.exactly)
        seed = self.seed_of(rank)
        if seed is not None:
            import random

            random.seed(seed)  # without one, Python seeds it in every process
        generators = sys.modules.get("numpy.random")
        if generators is not None:
            generators.seed(None if seed is None else seed & 0xFFFFFFFF)
            self.seeded = True

    def settle(self, rank: int) -> None:
        """In a worker, once its initializer has been run."""
        seed = self.seed_of(rank)
        if seed is not None and not self.seeded and "numpy" in sys.modules:
            import numpy.random

            numpy.random.seed(seed & 0xFFFFFFFF)
        if self.memory_limit:
            limit_memory(self.memory_limit)


def _folded(seed: int) -> int:
    """64 bits of an integer of any length."""
    value = abs(seed)
    folded = 1 if seed < 0 else 0
    while value:
        folded = (folded * 0x9E3779B97F4A7C15 + (value & ((1 << 64) - 1))) & ((1 << 64) - 1)
        value >>= 64
    return folded


class _Libraries:
    """The libraries of this process that start threads: finding them takes threadpoolctl 10 ms and more."""

    def __init__(self) -> None:
        self.found: Any = None  # a ThreadpoolController
        self.modules = 0  # that were loaded then
        self.limited = 0  # by the supervisor, if this is a worker that it forked

    def find(self) -> None:
        """Looks for them, unless no module was loaded since the last time."""
        if LOADERS.isdisjoint(sys.modules) or self.modules == len(sys.modules):
            return
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            return
        self.found = ThreadpoolController()
        self.modules = len(sys.modules)

    def limit(self, threads: int, exactly: bool) -> None:
        """Unless `exactly`, those that start fewer threads anyway are left alone."""
        if self.found is None:
            self.find()
        if self.found is not None:
            for library in self.found.lib_controllers:
                if exactly or library.num_threads > threads:
                    library.set_num_threads(threads)
        self.limited = threads


_libraries = _Libraries()


def limit_memory(limit: int) -> None:
    """From now on, this process may have so many bytes more; what does not fit raises MemoryError.

    Counted is what the kernel counts for RLIMIT_DATA (since Linux 4.7): private writable memory, used or not.
    """
    import resource

    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmData:"):
                data = int(line.split()[1]) * 1024
                break
        else:
            raise OSError("/proc/self/status does not say VmData")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = data + limit
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# ---- In the caller --------------------------------------------------------------------------------------------------


def make_settings(
    processes: int,
    *,
    memory_limit: int | None,
    pin: Any,
    threads: int | None,
    seed: int | None,
    finalizer: Callable[[], object] | None,
    shared: Any,
    logs: Any,
) -> WorkerSettings:
    """Checks what the caller wants."""
    exactly = threads is not None
    threads = checked_threads(threads, processes)
    limit = checked_memory_limit(memory_limit)
    cpus = checked_cpus(pin, processes)
    if seed is not None:
        seed = _an_int("seed", seed)
    if finalizer is not None and not callable(finalizer):
        raise TypeError("finalizer must be a callable")
    levels = None
    if logs is not False:
        from .logrelay import levels_of

        levels = levels_of(logs)
    if shared is not None:
        from .sharing import Shared, share

        if not isinstance(shared, Shared):
            shared = share(shared)
    return WorkerSettings(limit, cpus, threads, exactly, seed, finalizer, shared, levels)


def _an_int(what: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{what} must be an int, not {type(value).__name__}")


def checked_memory_limit(limit: int | None) -> int:
    """Bytes; 0 for none."""
    if limit is None:
        return 0
    limit = _an_int("memory_limit", limit)
    if limit < LEAST_MEMORY:
        raise ValueError(f"memory_limit must be at least {LEAST_MEMORY} bytes (1 MiB), not {limit}")
    return limit


def checked_cpus(pin: Any, processes: int) -> tuple[tuple[int, ...], ...]:
    """For each rank, the CPUs that it may use; () for all."""
    if pin is None or pin is False:
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    count = len(allowed)
    if pin is True:
        if processes >= count:
            return tuple((cpu,) for cpu in allowed)
        return tuple(
            tuple(allowed[rank * count // processes : (rank + 1) * count // processes])
            for rank in range(processes)
        )
    if isinstance(pin, (str, bytes)) or not hasattr(pin, "__iter__"):
        raise TypeError("pin must be True, or a list with a CPU or a list of CPUs for each worker")
    found = []
    for entry in pin:
        wanted = entry if hasattr(entry, "__iter__") and not isinstance(entry, str) else (entry,)
        cpus = tuple(sorted(_an_int("pin: a CPU", cpu) for cpu in wanted))
        if not cpus:
            raise ValueError("pin: a worker needs at least one CPU")
        for cpu in cpus:
            if cpu not in allowed:
                raise ValueError(f"pin: this process may not use CPU {cpu}; it may use {allowed}")
        found.append(cpus)
    if len(found) < processes:
        raise ValueError(f"pin says where {len(found)} workers run; there are {processes}")
    return tuple(found)


def checked_threads(threads: int | None, processes: int) -> int:
    """How many threads each worker's libraries may start; 0: any number."""
    if threads is None:
        from .context import default_context

        usable = default_context.cpu_count(usable=True)
        return 0 if processes < 2 and usable == os.cpu_count() else max(1, usable // processes)
    threads = _an_int("threads", threads)
    if threads < 0:
        raise ValueError(f"threads must be 0 (no limit) or more, not {threads}")
    if threads and not LOADERS.isdisjoint(sys.modules):
        try:
            import threadpoolctl  # noqa: F401
        except ImportError:
            raise ImportError(
                "numpy, or another library that starts threads, is loaded already: limiting them needs threadpoolctl; "
                "pip install processing[threads]"
            ) from None
    return threads


def thread_environment(settings: WorkerSettings) -> dict[str, str]:
    """Variables for workers that have not loaded those libraries yet. Unless it was wanted, what is set stays."""
    if not settings.threads:
        return {}
    return {name: str(settings.threads) for name in VARIABLES if settings.exactly or name not in os.environ}
