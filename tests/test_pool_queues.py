"""Pools whose class makes its own queues, as joblib's do: calls and results are pickled as these queues do."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

import processing
from processing.pool import MaybeEncodingError, Pool


class Celsius:
    """Pickled by the queues only."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __reduce__(self) -> Any:
        raise TypeError("not in the ordinary way")


def down(temperature: Celsius) -> Any:
    return Celsius, (temperature.degrees - 1,)


class Numbering(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return down(obj) if isinstance(obj, Celsius) else NotImplemented


class ColdQueue:
    def __init__(self, context: Any) -> None:
        self._reader, self._writer = context.Pipe(duplex=False)
        self._lock = context.Lock()

    def __getstate__(self) -> Any:
        processing.context.assert_spawning(self)
        return self._reader, self._writer, self._lock

    def __setstate__(self, state: Any) -> None:
        self._reader, self._writer, self._lock = state

    def put(self, obj: Any) -> None:
        buffer = io.BytesIO()
        Numbering(buffer).dump(obj)
        with self._lock:
            self._writer.send_bytes(buffer.getvalue())

    def get(self) -> Any:
        return self._reader.recv()


class ColdPool(Pool):
    def _setup_queues(self) -> None:
        self._inqueue = ColdQueue(self._ctx)
        self._outqueue = ColdQueue(self._ctx)
        self._quick_put = self._inqueue.put
        self._quick_get = self._outqueue._reader.recv


def warmed(temperature: Celsius, by: float = 0) -> Celsius:
    return Celsius(temperature.degrees + by)


def degrees(temperature: Celsius) -> float:
    return temperature.degrees


def test_calls_and_results(start_method: Any) -> None:
    begun = start_method.Event()
    with ColdPool(2, begun.set, context=start_method) as pool:
        cold = Celsius(20)
        assert pool.apply(degrees, (cold,)) == 19
        assert pool.apply(warmed, (cold,), {"by": 10}).degrees == 28
        assert pool.apply_async(warmed, [cold]).get().degrees == 18
        assert pool.map(degrees, [cold] * 3) == [19] * 3
        assert pool.starmap(degrees, [(cold,), (cold,)]) == [19, 19]
        assert [each.degrees for each in pool.imap(warmed, [cold] * 3)] == [18] * 3
        assert sum(pool.imap_unordered(degrees, iter([cold] * 3))) == 57
        assert begun.is_set()
        with pytest.raises(AttributeError):
            pool.apply(degrees, (None,))
    pool.join()


def a_lambda() -> Any:
    return lambda: 1


def test_what_the_queues_cannot_pickle() -> None:
    with ColdPool(1) as pool:
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pool.apply(lambda: 1)
        with pytest.raises(MaybeEncodingError):
            pool.apply(a_lambda)
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


class Elsewhere(Pool):
    def _setup_queues(self) -> None:
        self._inqueue = self._outqueue = processing.Queue()


def test_queues_of_other_things() -> None:
    with pytest.raises(NotImplementedError, match="_writer"):
        Elsewhere(1)


class Simple(Pool):
    def _setup_queues(self) -> None:
        self._inqueue = self._ctx.SimpleQueue()
        self._outqueue = self._ctx.SimpleQueue()


def test_queues_of_the_context() -> None:
    with Simple(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    pool.join()
