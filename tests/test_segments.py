"""The book of named shared memory (processing._segments): what its users do not see."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import LIMIT, output_of
from processing import _segments
from processing.shared_memory import SharedMemory

OPEN_NOW = """
import os, sys
try:
    os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
except BlockingIOError:
    print("is kept waiting")
"""


@pytest.fixture
def path() -> Iterator[Path]:
    """A segment of this user, in nobody's book and opened by nobody."""
    made = Path(f"/dev/shm/pz-test-{secrets.token_hex(6)}")
    made.touch(mode=0o600)
    yield made
    made.unlink(missing_ok=True)


def entry_of(path: Path) -> _segments.Entry:
    return _segments.Entry(path.stat().st_ino, os.getpid(), "-", path.name)


def test_whoever_opens_it_just_then_does_not_kill_us(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells the holder of a lease by SIGIO, which ends a process that does not expect it."""
    assert signal.getsignal(signal.SIGIO) == signal.SIG_DFL
    said = []
    unlink = os.unlink

    def unlink_while_opened(target: Any) -> None:
        command = [sys.executable, "-c", OPEN_NOW, str(target)]
        said.append(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True).stdout
        )
        unlink(target)

    monkeypatch.setattr(os, "unlink", unlink_while_opened)
    assert _segments._remove(entry_of(path), unless_open=True)
    assert said == ["is kept waiting\n"]
    assert not path.exists()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_what_is_open_in_any_way_is_left(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        assert not _segments._remove(entry_of(path), unless_open=True)
        assert path.exists()
    finally:
        os.close(fd)
    assert _segments._remove(entry_of(path), unless_open=True)
    assert not path.exists()


def test_what_has_another_inode_is_left(path: Path) -> None:
    entry = entry_of(path)
    entry.inode += 1
    assert _segments._remove(entry, unless_open=False)
    assert path.exists()


FORGETS = """
import sys, time
import processing
from processing.shared_memory import ShareableList, SharedMemory

def make(queue):
    queue.put(SharedMemory(create=True, size=5).name)

if __name__ == "__main__":
    ctx = processing.get_context(METHOD)
    queue = ctx.SimpleQueue()
    ctx.Process(target=make, args=(queue,)).start()
    ctx.Process(target=time.sleep, args=(100,), daemon=True).start()
    print(queue.get())
    print(SharedMemory(create=True, size=5).name)
    print(ShareableList([1, 2]).shm.name)
"""


def test_nothing_is_left_at_the_end_whatever_processes_it_had(tmp_path: Path, start_method: Any) -> None:
    """Neither a daemonic child nor the fork server, which end a moment later, keep the names alive."""
    before = set(os.listdir(_segments.FOLDER))
    names = output_of(tmp_path, FORGETS.replace("METHOD", repr(start_method.get_start_method())))
    assert len(names) == 3
    assert set(os.listdir(_segments.FOLDER)) <= before


def test_a_name_can_be_opened_in_a_finalizer(path: Path) -> None:
    """One that runs while its thread has the book open."""
    path.write_bytes(b"abc")
    # Another program's book, which tells of the name: of a namespace that is not ours, so nobody touches it.
    other = Path(f"{_segments.FOLDER}/{_segments.BOOK}{0:016x}")
    other.write_bytes(b"processing 0 0 0 0\n" + entry_of(path).line())
    try:
        with _segments.Book(_segments.own_path()):
            found = SharedMemory(path.name)
            assert bytes(found.buf[:3]) == b"abc"
            found.close()
    finally:
        other.unlink()
    assert path.exists()
