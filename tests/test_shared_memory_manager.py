"""SharedMemoryManager: it removes the named memory that it made, whoever else may have died."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import child, ended, run_program
from processing import _segments, managers
from processing.shared_memory import SharedMemory


def exists(name: str) -> bool:
    return Path("/dev/shm", name).exists()


def test_a_manager_removes_what_it_made() -> None:
    with managers.SharedMemoryManager() as manager:
        memory, items = manager.SharedMemory(size=100), manager.ShareableList(range(5))
        names = [memory.name, items.shm.name]
        assert all(map(exists, names))
        manager.SharedMemory(10).unlink()
    assert not any(map(exists, names))
    memory.buf[0] = 1
    assert list(items) == [0, 1, 2, 3, 4]
    manager.shutdown()
    with pytest.raises(ValueError, match="shut down"):
        manager.SharedMemory(1)
    with pytest.raises(processing.ProcessError):
        manager.start()
    memory.close()
    items.shm.close()


def test_a_manager_that_was_not_started() -> None:
    manager = managers.SharedMemoryManager()
    with pytest.raises(ValueError, match="not been started"):
        manager.SharedMemory(9)
    with pytest.raises(ValueError, match="not been started"):
        manager.ShareableList([])
    with pytest.raises(NotImplementedError):
        manager.connect()
    with pytest.raises(NotImplementedError):
        managers.SharedMemoryManager(address=("", 0))
    with pytest.raises(TypeError):
        manager.start(print)
    manager.shutdown()


def test_a_manager_that_is_collected() -> None:
    manager = managers.SharedMemoryManager()
    manager.start()
    name = manager.SharedMemory(10).name
    del manager
    gc.collect()
    assert not exists(name)


def make_some(manager: managers.SharedMemoryManager, queue: Any) -> None:
    queue.put((manager.SharedMemory(10), manager.ShareableList(["a"])))
    manager.shutdown()  # not here


def test_a_manager_in_other_processes(start_method: Any) -> None:
    with managers.SharedMemoryManager() as manager:
        queue = start_method.SimpleQueue()
        with child(start_method, make_some, manager, queue) as process:
            ended(process)
        memory, items = queue.get()
        assert exists(memory.name) and exists(items.shm.name)
        copy = pickle.loads(pickle.dumps(manager))
    assert not exists(memory.name) and not exists(items.shm.name)
    with pytest.raises(ValueError, match="shut down"):
        copy.SharedMemory(10)
    memory.close()
    items.shm.close()


def test_a_manager_that_the_program_forgot(tmp_path: Path) -> None:
    done = run_program(
        tmp_path,
        """
        from processing.managers import SharedMemoryManager
        manager = SharedMemoryManager()
        manager.start()
        print(manager.SharedMemory(10).name, manager.ShareableList([1]).shm.name)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(map(exists, done.stdout.split()))


def test_a_collection_within_a_making(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that is collected, and a segment that is unlinked, while their thread has the book open."""
    manager = managers.SharedMemoryManager()
    manager.start()
    held = [manager]
    del manager
    name = held[0].SharedMemory(10).name
    other = SharedMemory(create=True, size=1)
    other.close()
    link = _segments._link

    def link_and_collect(fd: int, path: str) -> None:
        link(fd, path)
        held.clear()
        gc.collect()
        other.unlink()

    monkeypatch.setattr(_segments, "_link", link_and_collect)
    made = SharedMemory(create=True, size=1)
    assert not exists(name) and not exists(other.name)
    made.unlink()
    made.close()
    _segments.end_of_program()
