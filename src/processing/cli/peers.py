"""Whom `processing` is measured against, and how to reach each.

A kit has, under the names of the standard library, what the loops need: `Process`, `Queue`, `Pipe`, `Lock`... Processes
are started with the peer's own fork context; for threads a `Process` is a thread.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any

__all__ = ["PEERS", "kit_of", "why_not"]

# Name -> the module that must be there.
PEERS = {
    "processing": "processing",
    "threads": "threading",
    "multiprocessing": "multiprocessing",
    "message": "processing",
    "faster-fifo": "faster_fifo",
    "ultradict": "UltraDict",
    "futures": "concurrent.futures",
    "loky": "loky",
    "mpire": "mpire",
    "joblib": "joblib",
    "nothing": "builtins",
    "alone": "processing",
    "bytes": "builtins",
    "array": "array",
    "list": "builtins",
}

IMPORTS = {
    "processing": "import processing",
    "multiprocessing": "import multiprocessing, multiprocessing.queues, multiprocessing.synchronize",
}


def why_not(peer: str) -> str | None:
    """Why a peer cannot be measured here; None if it can."""
    module = PEERS[peer]
    return None if importlib.util.find_spec(module) is not None else f"{module} is not installed"


class Kit:
    """A peer of process contexts: a name that is not its own is looked up in the fork context of its module."""

    def __init__(self, name: str, module: Any, **more: Any) -> None:
        self.name = name
        self.import_statement = IMPORTS.get(name, "")
        self.get_context = module.get_context
        self._context = module.get_context("fork")
        self.__dict__.update(more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _threads() -> SimpleNamespace:
    import queue
    import threading

    kit = SimpleNamespace(
        name="threads",
        Process=threading.Thread,
        Queue=queue.Queue,
        SimpleQueue=queue.SimpleQueue,
        JoinableQueue=queue.Queue,
        PosixQueue=queue.Queue,
    )
    kit.get_context = lambda method: kit
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"):
        setattr(kit, name, getattr(threading, name))
    return kit


def _pools(peer: str) -> SimpleNamespace:
    """Of others: `Pool(n)` makes what is nearest to one."""
    module = importlib.import_module(PEERS[peer])
    if peer == "joblib":
        return SimpleNamespace(name=peer, Parallel=module.Parallel, delayed=module.delayed)
    if peer == "loky":
        return SimpleNamespace(name=peer, Pool=module.get_reusable_executor)
    if peer == "mpire":
        return SimpleNamespace(
            name=peer, Pool=lambda count: module.WorkerPool(count, start_method="fork", keep_alive=True)
        )
    import multiprocessing

    context = multiprocessing.get_context("fork")
    return SimpleNamespace(
        name=peer, Pool=lambda count: module.ProcessPoolExecutor(count, mp_context=context)
    )


def kit_of(peer: str) -> Any:
    """The kit of a peer, with its module loaded. ImportError if it is not installed."""
    if peer == "threads":
        return _threads()
    if peer == "faster-fifo":
        import multiprocessing

        queue = importlib.import_module("faster_fifo").Queue
        # Its ring has one size for good; the default (1 MB) holds no large array.
        return Kit(peer, multiprocessing, Queue=queue, LargeQueue=lambda: queue(max_size_bytes=192 << 20))
    if peer == "ultradict":
        import multiprocessing

        return Kit(peer, multiprocessing, SharedDict=importlib.import_module("UltraDict").UltraDict)
    if peer in ("futures", "loky", "mpire", "joblib"):
        return _pools(peer)
    if peer in ("bytes", "nothing"):
        return SimpleNamespace(name=peer)
    if peer == "array":
        import array

        return SimpleNamespace(name=peer, SharedArray=array.array)
    if peer == "list":
        return SimpleNamespace(name=peer, SharedArray=lambda typecode, items: list(items))
    module = importlib.import_module(PEERS[peer])
    if peer == "multiprocessing":
        # The kernel's queues have no likeness there: the nearest is measured. Others have another name.
        context = module.get_context("fork")
        return Kit(
            peer,
            module,
            PosixQueue=context.Queue,
            SharedArray=context.Array,
            SharedValue=context.Value,
            SharedDict=lambda: context.Manager().dict(),
        )
    if peer == "message":
        return Kit(peer, module)
    if peer in ("processing", "alone"):
        manager = module.LocalManager()
        return Kit(
            peer,
            module,
            SharedArray=manager.SharedArray,
            SharedValue=manager.SharedValue,
            SharedDict=manager.dict,
        )
    return Kit(peer, module)
