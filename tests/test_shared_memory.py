"""SharedMemory and ShareableList: named memory, for processes of this program and for strangers."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import pickle
import random
import resource
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leaks
import processing
from helpers import LIMIT, child, children, ended, run_program, until
from processing import _segments, shared_memory
from processing.shared_memory import ShareableList, SharedMemory

FOLDER = Path("/dev/shm")


def exists(name: str) -> bool:
    return (FOLDER / name).exists()


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody has, and that is gone afterwards."""
    made = f"pz-test-{secrets.token_hex(6)}"
    yield made
    (FOLDER / made).unlink(missing_ok=True)


@pytest.fixture
def segment() -> Iterator[SharedMemory]:
    made = SharedMemory(create=True, size=512)
    yield made
    made.close()
    (FOLDER / made.name).unlink(missing_ok=True)
    if os.path.exists(_segments.own_path()):
        _segments.end_of_program()  # the book may be looked through with the next name only


@pytest.fixture
def stranger(tmp_path: Path) -> Any:
    """`stranger(text, *arguments)`: what a program prints that uses the standard library."""

    def run(text: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text), *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


# The standard library's tracker of resources must not remove what is not its own (3.13 has `track=False` for that).
OPEN_AS_STRANGER = """
import sys
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = resource_tracker.unregister = lambda *unused: None
"""


# ---- One segment ----------------------------------------------------------------------------------------------------


def test_what_a_segment_has(name: str) -> None:
    made = SharedMemory(name, create=True, size=512)
    assert (made.name, made.size, len(made.buf)) == (name, 512, 512)
    assert repr(made) == f"SharedMemory({name!r}, size=512)"
    assert bytes(made.buf) == bytes(512)
    made.buf[:5] = b"hello"
    other = SharedMemory(name, size=10_000)  # its size is what it is
    assert (other.size, bytes(other.buf[:5])) == (512, b"hello")
    other.buf[0] = ord("J")
    assert bytes(made.buf[:5]) == b"Jello"
    other.close()
    assert other.buf is None
    other.close()
    made.unlink()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    made.buf[1] = ord("a")  # who has it open keeps it
    made.close()


def test_it_is_a_file_of_exactly_that_size_and_reserved(segment: SharedMemory) -> None:
    facts = (FOLDER / segment.name).stat()
    assert (facts.st_size, facts.st_blocks * 512) == (512, mmap.PAGESIZE)
    assert facts.st_mode & 0o777 == 0o600


def test_bad_arguments(name: str) -> None:
    for size in (-1, 0):
        with pytest.raises(ValueError):
            SharedMemory(create=True, size=size)
    with pytest.raises(ValueError):
        SharedMemory(create=True)
    with pytest.raises(ValueError):
        SharedMemory()
    with pytest.raises(ValueError):
        SharedMemory(name, size=-1)
    with pytest.raises(TypeError):
        SharedMemory(create=True, size=1.5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


@pytest.mark.parametrize("bad", ["a/b", "", "/", ".", ".."])
@pytest.mark.parametrize("create", [False, True])
def test_bad_names(bad: str, create: bool) -> None:
    with pytest.raises(OSError) as caught:
        SharedMemory(bad, create=create, size=1)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="null"):
        SharedMemory("a\0b", create=create, size=1)
    with pytest.raises(OSError, match="too long"):
        SharedMemory("x" * 300, create=create, size=1)


def test_a_name_is_given_once(segment: SharedMemory) -> None:
    with pytest.raises(FileExistsError, match=segment.name):
        SharedMemory(segment.name, create=True, size=1)
    assert segment.size == 512


def test_unlink_twice(segment: SharedMemory) -> None:
    other = SharedMemory(segment.name)
    other.unlink()
    other.close()
    with pytest.raises(FileNotFoundError):
        segment.unlink()


def test_a_symbolic_link_is_not_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    (FOLDER / name).symlink_to(tmp_path / "private")
    with pytest.raises(OSError):
        SharedMemory(name)


def test_an_empty_segment_is_refused_and_left(name: str) -> None:
    (FOLDER / name).touch()
    with pytest.raises(ValueError, match="empty"):
        SharedMemory(name)
    assert exists(name)


def test_no_room() -> None:
    before = set(os.listdir(FOLDER))
    room = os.statvfs(FOLDER)
    with pytest.raises(OSError, match="no room for") as caught:
        SharedMemory(create=True, size=room.f_blocks * room.f_frsize + 2**30)
    assert caught.value.errno == errno.ENOSPC
    assert set(os.listdir(FOLDER)) <= before


def test_one_descriptor_each(segment: SharedMemory) -> None:
    before = len(os.listdir("/proc/self/fd"))
    opened = [SharedMemory(segment.name) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5
    for each in opened:
        each.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_is_left_by_failures(name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError):
            SharedMemory(name, create=True, size=1 << 21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
    assert not exists(name)


def test_close_refuses_while_others_look(segment: SharedMemory) -> None:
    view = segment.buf[10:20]
    # The slice is a view of its own; the cast makes it one that has been exported by `buf`.
    array = memoryview(segment.buf)
    segment.buf[10] = 7
    assert view[0] == array[10] == 7
    array.release()
    view.release()
    segment.close()


def test_a_view_outlives_the_object(segment: SharedMemory) -> None:
    numpy = pytest.importorskip("numpy")
    other = SharedMemory(segment.name)
    array = numpy.ndarray((4,), "i8", buffer=other.buf)
    array[:] = 5
    del other
    gc.collect()
    assert array.sum() == 20
    assert segment.buf[0] == 5


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_by_name(segment: SharedMemory, protocol: int) -> None:
    segment.buf[0] = 1
    same = pickle.loads(pickle.dumps(segment, protocol))
    assert (type(same), same.name, same.buf[0]) == (SharedMemory, segment.name, 1)
    same.close()
    data = pickle.dumps(segment, protocol)
    segment.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


def test_generated_names_avoid_those_in_use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    names = iter([f"/{name}", f"/{name}", f"/{name}2"])
    monkeypatch.setattr(shared_memory, "_make_filename", lambda: next(names))
    first, second = (SharedMemory(create=True, size=1) for _ in range(2))
    assert (first.name, second.name) == (name, f"{name}2")
    for each in (first, second):
        each.close()
        each.unlink()


def fill(number: int, names: list[str]) -> None:
    for name in names:
        other = SharedMemory(name)
        other.buf[number] = number + 1
        other.close()


def test_processes_of_all_kinds(start_method: Any) -> None:
    made = [SharedMemory(create=True, size=8) for _ in range(3)]
    with children(start_method, 3, fill, [each.name for each in made]) as processes:
        ended(*processes)
    for each in made:
        assert bytes(each.buf) == b"\1\2\3\0\0\0\0\0"
        each.close()
        each.unlink()


def write_into(memory: SharedMemory, items: Any, queue: Any) -> None:
    memory.buf[:5] = b"child"
    items[0] = "child"
    made = SharedMemory(create=True, size=10)
    made.buf[:5] = b"mine!"
    queue.put(made)


def test_a_childs_segment_outlives_the_child(start_method: Any, segment: SharedMemory) -> None:
    queue = start_method.SimpleQueue()
    items = ShareableList(["parent"])
    with child(start_method, write_into, segment, items, queue) as process:
        ended(process)
    theirs = queue.get()
    assert (bytes(segment.buf[:5]), items[0], bytes(theirs.buf[:5])) == (b"child", "child", b"mine!")
    for each in (theirs, items.shm):
        each.close()
        each.unlink()


def churn() -> None:
    for _ in range(50):
        made = SharedMemory(create=True, size=100)
        other = SharedMemory(made.name)
        other.close()
        made.close()
        made.unlink()


def churn_with_threads(number: int) -> None:
    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_at_once_leave_nothing() -> None:
    before = set(os.listdir(FOLDER))
    with children(processing.get_context("fork"), 3, churn_with_threads) as processes:
        churn()
        ended(*processes)
    assert set(os.listdir(FOLDER)) <= before


def test_the_book_stays_short_and_goes() -> None:
    kept = [SharedMemory(create=True, size=1) for _ in range(60)]
    book = Path(_segments.own_path())
    for _ in range(300):
        made = SharedMemory(create=True, size=1)
        made.close()
        made.unlink()
    assert book.stat().st_size < 20_000
    for each in kept:
        each.close()
        each.unlink()
    if book.exists():  # it may be looked through later only, when it had grown long
        _segments.end_of_program()
    assert not book.exists()


# ---- How long a name lives ------------------------------------------------------------------------------------------


def test_the_end_of_the_program_removes_what_it_forgot(tmp_path: Path, name: str) -> None:
    done = run_program(
        tmp_path,
        f"""
        import os
        import processing
        from processing.shared_memory import SharedMemory, ShareableList

        def make(queue):
            queue.put(SharedMemory(create=True, size=10).name)

        if __name__ == "__main__":
            kept = SharedMemory({name!r}, create=True, size=10, track=False)
            made = [SharedMemory(create=True, size=10).name, ShareableList([1, 2]).shm.name]
            for method in processing.get_all_start_methods():
                context = processing.get_context(method)
                queue = context.SimpleQueue()
                process = context.Process(target=make, args=(queue,))
                process.start()
                made.append(queue.get())
                process.join()
            assert all(os.path.exists("/dev/shm/" + each) for each in made)
            print(*made)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    made = done.stdout.split()
    assert len(made) == 5
    assert [each for each in made if exists(each)] == []
    assert exists(name)


def test_a_program_that_sent_descriptors_removes_what_it_forgot(tmp_path: Path) -> None:
    """The process that keeps descriptors ends after the first one, and keeps nothing else."""
    done = run_program(
        tmp_path,
        """
        import socket
        import processing
        from processing.shared_memory import SharedMemory

        if __name__ == "__main__":
            queue = processing.SimpleQueue()
            ends = socket.socketpair()
            queue.put(ends[0])
            queue.get().close()
            print(SharedMemory(create=True, size=10).name)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not exists(done.stdout.strip())


def test_only_a_child_made_one(tmp_path: Path) -> None:
    done = run_program(
        tmp_path,
        """
        import processing

        def make(queue):
            from processing.shared_memory import SharedMemory
            queue.put(SharedMemory(create=True, size=10).name)

        queue = processing.SimpleQueue()
        process = processing.Process(target=make, args=(queue,))
        process.start()
        process.join()
        print(queue.get())
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not exists(done.stdout.strip())


def test_the_end_of_another_process_removes_nothing(segment: SharedMemory, tmp_path: Path) -> None:
    done = run_program(
        tmp_path,
        f"""
        from processing.shared_memory import SharedMemory
        mine = SharedMemory(create=True, size=1)
        theirs = SharedMemory({segment.name!r})
        theirs.buf[0] = 42
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert segment.buf[0] == 42
    assert exists(segment.name)


def test_a_name_that_was_taken_over_is_not_ours_to_remove(tmp_path: Path, name: str) -> None:
    done = run_program(
        tmp_path,
        f"""
        import os
        from processing.shared_memory import SharedMemory
        mine = SharedMemory({name!r}, create=True, size=1)
        os.unlink("/dev/shm/{name}")
        open("/dev/shm/{name}", "w").close()
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert exists(name)


def killed_program(tmp_path: Path, text: str, victims: str = "all") -> list[str]:
    """Runs a program until it prints what it made, then kills it, or its first process only; -> what it printed."""
    path = tmp_path / "killed.py"
    path.write_text(textwrap.dedent(text))
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if victims == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    if victims == "all":
        until(lambda: not leaks.is_running(int(words[-1])))
    return words


MAKES_AND_WAITS = """
import signal
import processing
from processing.shared_memory import SharedMemory

def make(queue):
    queue.put(SharedMemory(create=True, size=10).name)
    signal.pause()

queue = processing.SimpleQueue()
process = processing.Process(target=make, args=(queue,))
process.start()
mine = SharedMemory(create=True, size=10)
print(mine.name, queue.get(), process.pid, flush=True)
signal.pause()
"""


def test_a_killed_program_is_tidied_up_after(tmp_path: Path) -> None:
    before = set(os.listdir(FOLDER))
    *names, _ = killed_program(tmp_path, MAKES_AND_WAITS)
    assert all(map(exists, names))
    _segments.sweep()
    assert not any(map(exists, names))
    assert set(os.listdir(FOLDER)) <= before


@pytest.mark.parametrize("lately", [False, True])
def test_opening_is_such_an_opportunity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lately: bool
) -> None:
    *names, _ = killed_program(tmp_path, MAKES_AND_WAITS)
    monkeypatch.setattr(_segments.turns, "swept", time.monotonic() if lately else 0.0)
    with pytest.raises(FileNotFoundError):
        SharedMemory(names[0])
    assert not any(map(exists, names))


def test_a_restarted_program_gets_its_name_again(tmp_path: Path, name: str) -> None:
    text = f"""
    import os
    from processing.shared_memory import SharedMemory
    mine = SharedMemory({name!r}, create=True, size=10)
    print(mine.name, os.getpid(), flush=True)
    input()
    """
    for _ in range(2):
        assert killed_program(tmp_path, text)[0] == name
        assert exists(name)
    made = SharedMemory(name, create=True, size=10)
    made.unlink()
    made.close()


def churn_until_killed(number: int, started: Any) -> None:
    started.release()
    while True:
        churn()


def test_killed_at_random_moments_nothing_hangs_or_stays() -> None:
    """Processes that make and remove names are killed; the others go on, and in the end no name is left."""
    before = set(os.listdir(FOLDER))
    context = processing.get_context("fork")
    started = context.Semaphore(0)
    for _ in range(10):
        with children(context, 3, churn_until_killed, started) as processes:
            for _ in processes:
                assert started.acquire(timeout=LIMIT)
            for process in processes:
                time.sleep(random.random() / 100)
                process.kill()
        churn()
    if os.path.exists(_segments.own_path()):
        _segments.end_of_program()
    assert set(os.listdir(FOLDER)) <= before


def test_not_while_a_process_of_it_lives(tmp_path: Path, is_running: Any) -> None:
    *names, pid = killed_program(tmp_path, MAKES_AND_WAITS, victims="first")
    try:
        _segments.sweep()
        assert all(map(exists, names))
    finally:
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not is_running(int(pid)))
    _segments.sweep()
    assert not any(map(exists, names))


def test_not_while_somebody_has_it_open(tmp_path: Path) -> None:
    *names, _ = killed_program(tmp_path, MAKES_AND_WAITS)
    opened = os.open(FOLDER / names[0], os.O_RDWR)
    mapped = mmap.mmap(opened, 10)
    os.close(opened)
    _segments.sweep()
    assert [exists(each) for each in names] == [True, False]
    mapped.close()
    _segments.sweep()
    assert not exists(names[0])


def test_what_another_namespace_left_is_not_ours_to_judge(tmp_path: Path, name: str) -> None:
    (FOLDER / name).touch()
    inode = (FOLDER / name).stat().st_ino
    book = FOLDER / f"psm_pz.{'0' * 16}"
    line = f"+{inode} 1 - {name.encode().hex()}\n"
    try:
        book.write_text(f"processing 1 0 1 1\n{line}")
        _segments.sweep()
        assert exists(name)
        # The same of a program in this one that is gone; with lines that make no sense.
        namespace = os.stat("/proc/self/ns/pid").st_ino
        book.write_text(f"processing {namespace} 0 1 1\nnonsense\n+1 2\n{line}+{inode} 1 - 2e2e2f66\n+torn")
        _segments.sweep()
        assert not exists(name)
    finally:
        book.unlink(missing_ok=True)


# ---- Strangers ------------------------------------------------------------------------------------------------------


def test_a_stranger_opens_ours(segment: SharedMemory, stranger: Any) -> None:
    segment.buf[:5] = b"hello"
    text = """
    memory = shared_memory.SharedMemory(sys.argv[1])
    print(bytes(memory.buf[:5]).decode(), memory.size, memory.name)
    memory.buf[:5] = b"HELLO"
    memory.close()
    """
    assert stranger(OPEN_AS_STRANGER + textwrap.dedent(text), segment.name) == f"hello 512 {segment.name}"
    assert bytes(segment.buf[:5]) == b"HELLO"


def test_we_open_a_strangers(name: str, stranger: Any) -> None:
    text = """
    memory = shared_memory.SharedMemory(sys.argv[1], create=True, size=5000)
    memory.buf[:5] = b"hello"
    memory.close()
    """
    stranger(OPEN_AS_STRANGER + textwrap.dedent(text), name)
    ours = SharedMemory(name)
    assert (bytes(ours.buf[:5]), ours.size) == (b"hello", 5000)
    ours.unlink()
    ours.close()


ITEMS: list[Any] = [
    "howdy",
    b"HoWdY",
    -273.154,
    100,
    None,
    True,
    False,
    42,
    "",
    b"",
    "é" * 3,
    "x" * 100,
    -(2**63),
]


def test_a_stranger_reads_and_writes_our_list(stranger: Any) -> None:
    ours = ShareableList([*ITEMS, b"nulls\0\0"])
    text = """
    theirs = shared_memory.ShareableList(name=sys.argv[1])
    print(list(theirs))
    theirs[0], theirs[3], theirs[4], theirs[13] = "changed", None, "was None", b"12345678"
    theirs.shm.close()
    """
    printed = stranger(OPEN_AS_STRANGER + textwrap.dedent(text), ours.shm.name)
    assert printed == repr([*ITEMS, b"nulls"])
    assert (ours[0], ours[3], ours[4], ours[13]) == ("changed", None, "was None", b"12345678")
    ours.shm.unlink()
    ours.shm.close()


def test_we_read_and_write_a_strangers_list(name: str, stranger: Any) -> None:
    text = f"""
    theirs = shared_memory.ShareableList({ITEMS!r}, name=sys.argv[1])
    theirs[0] = b"bytes"
    print(theirs.format)
    theirs.shm.close()
    """
    formats = stranger(OPEN_AS_STRANGER + textwrap.dedent(text), name)
    ours = ShareableList(name=name)
    assert list(ours) == [b"bytes", *ITEMS[1:]]
    assert ours.format == formats
    ours[0], ours[2] = "text\0", None
    assert (ours[0], ours[2]) == ("text\0", None)
    assert stranger(
        OPEN_AS_STRANGER + "print(list(shared_memory.ShareableList(name=sys.argv[1]))[:4])", name
    ) == repr(["text", b"HoWdY", None, 100])
    ours.shm.close()


# ---- ShareableList --------------------------------------------------------------------------------------------------


@pytest.fixture
def items() -> Iterator[ShareableList]:
    made = ShareableList(["howdy", b"HoWdY", -273.154, 100, None, True, 42])
    yield made
    made.shm.unlink()
    made.shm.close()


def test_a_list(items: ShareableList) -> None:
    assert (len(items), items[0], items[-2], items[-7]) == (7, "howdy", True, "howdy")
    assert list(items) == ["howdy", b"HoWdY", -273.154, 100, None, True, 42]
    assert items.format == "8s8sdqxxxxxx?xxxxxxxx?q"
    assert repr(items) == f"ShareableList({list(items)!r}, name={items.shm.name!r})"
    assert (items.index(100), items.count(42), items.count("adios"), 42 in items) == (3, 1, 0, True)
    with pytest.raises(ValueError, match="not in this container"):
        items.index("100")
    items[3], items[4] = 42, "some"
    assert (items[3], items[4], items.format) == (42, "some", "8s8sdq8sxxxxxxx?q")


@pytest.mark.parametrize("position", [7, -8, 100, -100])
def test_no_such_position(items: ShareableList, position: int) -> None:
    with pytest.raises(IndexError, match="index out of range"):
        items[position]
    with pytest.raises(IndexError, match="assignment index out of range"):
        items[position] = 1


@pytest.mark.parametrize(
    ("position", "value", "error"),
    [
        (0, "123456789", ValueError),
        (0, "éééée", ValueError),  # nine bytes
        (1, b"123456789", ValueError),
        (2, 2**63, Exception),  # struct.error, as in the standard library
        (3, object(), TypeError),
        (3, [1], TypeError),
        (0, "\ud800", UnicodeEncodeError),
    ],
)
def test_what_does_not_fit_changes_nothing(
    items: ShareableList, position: int, value: Any, error: type[Exception]
) -> None:
    before, formats = list(items), items.format
    with pytest.raises(error):
        items[position] = value
    assert (list(items), items.format) == (before, formats)


def test_nulls_at_the_end_are_kept() -> None:
    """cpython#106939: str and bytes lost their trailing nulls."""
    values = ["text\0", b"\0", b"\0\0\0", "\0" * 8, b"abc\0", b"plain", "", b"x" * 16 + b"\0"]
    items = ShareableList(values)
    assert list(items) == values
    copy = ShareableList(name=items.shm.name)
    assert list(copy) == values
    copy[0], copy[5], copy[6] = "none", b"end\0\0", "\0"
    assert (items[0], items[5], items[6]) == ("none", b"end\0\0", "\0")
    copy[5] = b"longer"
    assert items[5] == b"longer"
    copy.shm.close()
    items.shm.unlink()
    items.shm.close()


def test_text_of_many_bytes_is_not_cut() -> None:
    """The standard library counts characters, and cuts what takes more bytes."""
    values = ["é" * 15, "€" * 20, "encodés"]
    items = ShareableList(values)
    assert list(items) == values
    items.shm.unlink()
    items.shm.close()


def test_a_failed_list_leaves_nothing() -> None:
    before = set(os.listdir(FOLDER))
    for bad in ([2**63], [object()], ["\ud800"], [1 + 2j]):
        with pytest.raises(Exception):
            ShareableList(bad)  # type: ignore[arg-type]
    assert set(os.listdir(FOLDER)) <= before


def test_copies_and_empty_lists(items: ShareableList, name: str) -> None:
    items[0] = "encodés"
    copy = ShareableList(items, name=name)
    assert (copy.shm.name, list(copy), copy.format) == (name, list(items), items.format)
    copy[-1] = 77
    assert items[-1] == 42
    copy.shm.unlink()
    copy.shm.close()
    for empty in (ShareableList(), ShareableList([])):
        assert (len(empty), list(empty), empty.format, empty.count(1)) == (0, [], "", 0)
        empty.shm.unlink()
        empty.shm.close()


@pytest.mark.parametrize("content", [b"x" * 64, b"\xff" * 64, b"\2" + bytes(63), b"abc"])
def test_other_memory_is_no_list(content: bytes) -> None:
    made = SharedMemory(create=True, size=len(content))
    made.buf[:] = content
    with pytest.raises(ValueError, match="contains no ShareableList"):
        ShareableList(name=made.name)
    made.unlink()
    made.close()


def test_lists_pickle_by_name(items: ShareableList) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        same = pickle.loads(pickle.dumps(items, protocol))
        same[3] = protocol
        assert items[3] == protocol
        same.shm.close()
