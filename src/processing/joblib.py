"""A parallel backend for joblib, and so for scikit-learn: `processing[joblib]`.

    import joblib
    from processing.joblib import register

    register()
    with joblib.parallel_config("processing", n_jobs=4):
        ...

Workers are those of `processing.Pool`, started anew for each `Parallel` (a few milliseconds) unless that is used as a
context manager. What is called is pickled by value where it is in the main program, as joblib's default backend does.
numpy arrays above `max_nbytes` are put into shared memory once for all calls, and are read-only in the workers
(`mmap_mode="r"`, joblib's default); with "c" or None each call gets a copy. A worker that dies fails its batch of calls
with WorkerDied.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from .context import default_context
from .pool import Pool
from .sharing import share

__all__ = ["ProcessingBackend", "register"]

SETTINGS = frozenset(
    ("initializer", "initargs", "maxtasksperchild", "retries", "timeout", "memory_limit")
    + ("pin", "threads", "seed", "finalizer", "shared", "logs")
)


def register(name: str = "processing", make_default: bool = False) -> None:
    """Makes the backend known to joblib under that name; `make_default`: all programs' `Parallel` use it."""
    register_parallel_backend(name, ProcessingBackend, make_default=make_default)


class SharedArrays:
    """Large arrays of one `Parallel`, in shared memory: each once, as long as that works."""

    def __init__(self, least: int | None) -> None:
        self.least = least
        self.shared: dict[int, tuple[Any, Any]] = {}  # id -> (array, what stands for it)
        self.lock = threading.Lock()

    def reduce(self, obj: Any) -> Any:
        """For a pickler's `reducer_override`."""
        import numpy

        if (
            self.least is None
            or type(obj) is not numpy.ndarray
            or obj.nbytes <= self.least
            or obj.dtype.hasobject
        ):
            return NotImplemented
        with self.lock:
            entry = self.shared.get(id(obj))
            if entry is None:
                entry = self.shared[id(obj)] = (obj, share(obj))
        return _array_of, (entry[1],)

    def forget(self) -> None:
        """Nobody needs them any more."""
        self.shared.clear()


def _array_of(shared: Any) -> Any:
    return shared.get()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """By value what cannot be imported; large arrays through shared memory."""

    def __init__(self, file: Any, arrays: SharedArrays) -> None:
        super().__init__(file, protocol=5)
        self.arrays = arrays

    def reducer_override(self, obj: Any) -> Any:
        reduced = self.arrays.reduce(obj)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


class Batch:
    """Calls on their way to a worker, which gets the callable itself."""

    __slots__ = ("arrays", "func")

    def __init__(self, func: Callable[[], Any], arrays: SharedArrays) -> None:
        self.func = func
        self.arrays = arrays

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        Pickler(file, self.arrays).dump(self.func)
        return cloudpickle.loads, (file.getvalue(),)


def _run(batch: Callable[[], Any]) -> Any:
    """In a worker."""
    return batch()


class Outcome:
    """What joblib is given to retrieve a result from."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class ProcessingBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's view of a `processing.Pool`.

    Options beyond joblib's own, as in `parallel_config("processing", memory_limit=10**9)`: those of `processing.Pool`
    about workers, and `start_method`: "fork", "forkserver" or "spawn" (None: as the program's own).
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    _pool: Pool | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers `n_jobs` means; below zero: all usable CPUs but `-n_jobs - 1`."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            return max(1, default_context.cpu_count(usable=True) + 1 + n_jobs)
        return n_jobs

    def configure(
        self,
        n_jobs: int | None = 1,
        parallel: Any = None,
        *,
        max_nbytes: int | None = 1_000_000,
        mmap_mode: str | None = "r",
        start_method: str | None = None,
        **options: Any,
    ) -> int:
        """Starts the workers; joblib calls it. -> how many. ValueError if arrays are to be writable in place."""
        if mmap_mode not in ("r", "c", None):
            raise ValueError(
                f"mmap_mode={mmap_mode!r}: the backend shares large arrays read-only ('r') or copies them ('c', None). "
                "To let workers write into one, pass a processing.LocalManager().SharedArray"
            )
        given = {**self.backend_kwargs, **options}
        start_method = given.get("start_method", start_method)
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._arguments = {
            "max_nbytes": max_nbytes,
            "mmap_mode": mmap_mode,
            "start_method": start_method,
            **options,
        }
        settings = {name: value for name, value in given.items() if name in SETTINGS}
        if self.inner_max_num_threads is not None:
            settings["threads"] = self.inner_max_num_threads
        self._arrays = SharedArrays(max_nbytes if mmap_mode == "r" else None)
        self._pool = default_context.get_context(start_method).Pool(count, **settings)
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Outcome], object] | None = None) -> Any:
        """Sends a batch; `callback` is called with what `retrieve_result_callback` takes."""
        assert self._pool is not None
        return self._pool.apply_async(
            _run,
            (Batch(func, self._arrays),),
            callback=None if callback is None else lambda value: callback(Outcome(value)),
            error_callback=None if callback is None else lambda error: callback(Outcome(error=error)),
        )

    def retrieve_result_callback(self, out: Outcome) -> Any:
        """The values of a batch; raises what it raised."""
        if out.error is not None:
            raise out.error
        return out.value

    def terminate(self) -> None:
        """Ends the workers, and frees what they shared."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
            pool.join()
            self._arrays.forget()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stops all that runs; `ensure_ready`: starts new workers."""
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self._arguments)
