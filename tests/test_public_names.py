"""The public names: what `processing` offers, that each lives in exactly one place, and that importing costs little."""

from __future__ import annotations

import importlib
import pickle
import queue
import subprocess
import sys
import threading
from types import ModuleType

import pytest

import processing

# Where each public name really is. `processing.X` is that very object.
HOME: dict[str, str] = {
    "Process": "process",
    "ProcessExit": "errors",
    "current_process": "process",
    "parent_process": "process",
    "active_children": "process",
    "cpu_count": "context",
    "get_context": "context",
    "get_start_method": "context",
    "set_start_method": "context",
    "get_all_start_methods": "context",
    "freeze_support": "context",
    "set_forkserver_preload": "context",
    "set_executable": "context",
    "Lock": "synchronize",
    "RLock": "synchronize",
    "Semaphore": "synchronize",
    "BoundedSemaphore": "synchronize",
    "Condition": "synchronize",
    "Event": "synchronize",
    "Barrier": "synchronize",
    "BrokenBarrierError": "synchronize",
    "Queue": "queues",
    "BufferedQueue": "queues",
    "SimpleQueue": "queues",
    "JoinableQueue": "queues",
    "PosixQueue": "posixqueue",
    "Pipe": "connection",
    "ProcessingError": "errors",
    "LockOwnerDied": "errors",
    "LostItems": "errors",
    "StaleHandleError": "errors",
    "ProcessError": "errors",
    "BufferTooShort": "errors",
    "AuthenticationError": "errors",
    "TimeoutError": "errors",
    "get_logger": "util",
    "log_to_stderr": "util",
    "allow_connection_pickling": "context",
    "LocalManager": "local",
    "Manager": "managers",
    "Value": "sharedctypes",
    "Array": "sharedctypes",
    "RawValue": "sharedctypes",
    "RawArray": "sharedctypes",
    "memory_limit": "memory",
    "memory_usage": "memory",
    "set_memory_limit": "memory",
    "share": "sharing",
    "install": "standin",
    "Pool": "pool",
    "current_worker": "currentworker",
    "ThreadPool": "pool",
    "ProcessPoolExecutor": "executor",
    "WorkerDied": "errors",
    "TaskTimeout": "errors",
    "InitializerFailed": "errors",
    "RemoteError": "errors",
}

# On contexts as well (`ctx.Lock()`), as in the standard library.
ON_CONTEXTS = sorted(set(HOME) - {"ProcessingError", "BrokenBarrierError", "current_worker", "install"})

# Names of the standard library's package that come with later capabilities (managers).
LATER = {"Manager"}
# Plain modules that its package leaks.
NOT_NAMES = {"context", "reducer"}

SUBMODULES = (
    "connection",
    "context",
    "process",
    "queues",
    "synchronize",
    "reduction",
    "util",
    "spawn",
    "forkserver",
    "managers",
    "shared_memory",
    "sharedctypes",
)


def test_the_package_lists_exactly_the_public_names() -> None:
    assert sorted(processing.__all__) == sorted(HOME)
    assert len(set(processing.__all__)) == len(processing.__all__)


@pytest.mark.parametrize("name", sorted(HOME))
def test_public_name(name: str) -> None:
    value = getattr(processing, name)
    assert name in dir(processing)
    if isinstance(value, type):
        # What a traceback or a repr says is where users find it.
        assert value.__name__ == name


@pytest.mark.parametrize("name", ON_CONTEXTS)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_contexts_offer_it_too(name: str, method: str) -> None:
    assert hasattr(processing.get_context(method), name)


def test_everything_of_multiprocessing_is_here_or_planned() -> None:
    import multiprocessing

    theirs = set(multiprocessing.__all__) - NOT_NAMES
    assert theirs - set(HOME) <= LATER


def modules() -> list[ModuleType]:
    return [importlib.import_module(f"processing.{name}") for name in (*SUBMODULES, "errors")]


def test_each_name_is_in_exactly_one_module() -> None:
    places: dict[str, list[str]] = {}
    for module in modules():
        assert hasattr(module, "__all__"), f"{module.__name__} has no __all__"
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.__all__ lists {name}, which is not there"
            places.setdefault(name, []).append(module.__name__)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice


def test_names_of_the_standard_library_keep_their_meaning() -> None:
    import multiprocessing

    assert processing.BrokenBarrierError is threading.BrokenBarrierError
    assert issubclass(processing.TimeoutError, processing.ProcessError)
    assert issubclass(processing.BufferTooShort, processing.ProcessError)
    assert issubclass(processing.AuthenticationError, processing.ProcessError)
    assert issubclass(processing.ProcessExit, SystemExit)
    assert processing.queues.Empty is queue.Empty
    assert processing.queues.Full is queue.Full
    assert set(processing.get_all_start_methods()) == set(multiprocessing.get_all_start_methods())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        processing.no_such_name  # noqa: B018


def test_exceptions_pickle() -> None:
    for name, home in HOME.items():
        value = getattr(processing, name)
        if home == "errors" and name not in ("LockOwnerDied",):
            error = pickle.loads(pickle.dumps(value("what happened")))
            assert type(error) is value
            assert error.args == ("what happened",)


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_starts_nothing() -> None:
    """No arena, no descriptor, no thread, no signal handler: that is for the first object."""
    code = """
import os, signal, threading
def facts():
    return (sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), threading.active_count(),
            [signal.getsignal(number) for number in sorted(signal.valid_signals())])
before = facts()
import processing, processing.queues, processing.synchronize, processing.connection, processing.context
from processing import _program
print(before == facts() and not _program.is_attached())
"""
    assert fresh(code) == "True"


def test_importing_the_package_imports_little() -> None:
    heavy = (
        "asyncio",
        "numpy",
        "cloudpickle",
        "rich",
        "tqdm",
        "psutil",
        "multiprocessing",
        "subprocess",
        "inspect",
    )
    code = f"import sys, processing; print([name for name in {heavy!r} if name in sys.modules])"
    assert fresh(code) == "[]"
