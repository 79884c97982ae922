"""The limit of shared memory: a MemoryError that explains itself, and everything goes on afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import output_of, run_program
from processing.values import SharedArray


def test_the_default_is_at_most_what_the_machine_has() -> None:
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert 0 < processing.memory_limit() <= total


def test_usage() -> None:
    usage = processing.memory_usage()
    assert usage.limit == processing.memory_limit()
    assert 0 <= usage.used <= usage.reserved <= usage.limit
    messages = processing.Queue()
    messages.put(b"x" * 1_000_000)
    assert processing.memory_usage().used >= usage.used + 1_000_000
    messages.get()


def test_setting_it() -> None:
    before = processing.memory_limit()
    try:
        processing.set_memory_limit(100 << 20)
        assert processing.memory_limit() == 100 << 20
        assert processing.memory_usage().limit == 100 << 20
    finally:
        processing.set_memory_limit(before)


def test_a_lower_limit_holds_for_memory_that_was_reserved_before() -> None:
    before = processing.memory_limit()
    block = SharedArray("B", 64 << 20)
    del block
    assert processing.memory_usage().free >= 64 << 20
    limit = max(processing.memory_usage().used * 2, 4 << 20)
    try:
        processing.set_memory_limit(limit)
        assert processing.memory_usage().reserved <= limit
        with pytest.raises(MemoryError):
            SharedArray("B", 64 << 20)
    finally:
        processing.set_memory_limit(before)


@pytest.mark.parametrize(
    ("text", "size"), [("33554432", 32 << 20), ("32M", 32 << 20), ("65536K", 64 << 20), ("1G", 1 << 30)]
)
def test_the_environment_variable(tmp_path: Path, text: str, size: int) -> None:
    program = "import processing; processing.Lock(); print(processing.memory_limit())"
    assert output_of(tmp_path, program, PROCESSING_MEMORY_LIMIT=text) == [str(size)]


@pytest.mark.parametrize("text", ["much", "-5M", "0", "5 M M"])
def test_an_environment_variable_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    done = run_program(tmp_path, "import processing; processing.Lock()", PROCESSING_MEMORY_LIMIT=text)
    assert done.returncode == 1
    assert "PROCESSING_MEMORY_LIMIT" in done.stderr.splitlines()[-1]


COMMON = """
import gc
import processing

LIMIT = 24 << 20

def refused(action):
    try:
        action()
    except MemoryError as error:
        return str(error)
    raise AssertionError("it was not refused")

def fill(action):
    count = 0
    while True:
        try:
            action()
        except MemoryError as error:
            return count, str(error)
        count += 1
        assert count < 10_000_000

def main():
    processing.set_memory_limit(LIMIT)
"""


def program(body: str) -> str:
    lines = "\n".join("    " + line for line in body.strip("\n").splitlines())
    return COMMON + lines + "\n\nif __name__ == '__main__':\n    main()\n"


CASES = {
    "one large message": """
messages = processing.Queue(name="results")
messages.put("before")
text = refused(lambda: messages.put(b"x" * 50_000_000))
assert "results" in text and "24.0 MiB" in text, text
assert messages.qsize() == 1
messages.put("after")
assert [messages.get(), messages.get()] == ["before", "after"]
""",
    "many small messages": """
messages = processing.Queue(name="results")
count, text = fill(lambda: messages.put("x" * 1000))
assert 5000 < count < 30_000, count
assert "results" in text
assert messages.qsize() == count
for _ in range(count):
    assert messages.get() == "x" * 1000
assert messages.empty()
# All of it can be used again.
again, text = fill(lambda: messages.put("x" * 1000))
assert again >= count * 0.9, (count, again)
""",
    "messages of middle size": """
messages = processing.Queue(name="results")
for _ in range(3):
    count, text = fill(lambda: messages.put(b"x" * 100_000))
    assert 100 < count < 300, count
    while not messages.empty():
        assert len(messages.get()) == 100_000
""",
    "a batch": """
messages = processing.Queue(name="results")
text = refused(lambda: messages.put_many(bytes([n % 256]) * 100_000 for n in range(1000)))
assert "results" in text
for number in range(messages.qsize()):
    assert messages.get() == bytes([number % 256]) * 100_000
messages.put("fine")
assert messages.get() == "fine"
""",
    "a bounded queue": """
messages = processing.Queue(5, name="results")
refused(lambda: messages.put(b"x" * 50_000_000))
for number in range(5):
    messages.put_nowait(number)
assert messages.full()
assert [messages.get() for _ in range(5)] == [0, 1, 2, 3, 4]
""",
    "a buffered queue": """
messages = processing.BufferedQueue(name="results")
refused(lambda: messages.put(b"x" * 50_000_000))
assert messages.empty()
""",
    "a joinable queue": """
messages = processing.JoinableQueue(name="results")
refused(lambda: messages.put(b"x" * 50_000_000))
messages.join()
messages.put(1)
messages.get()
messages.task_done()
messages.join()
""",
    "a pipe": """
receiver, sender = processing.Pipe(False)
refused(lambda: sender.send(b"x" * 50_000_000))
refused(lambda: sender.send_bytes(b"x" * 50_000_000))
assert not receiver.poll()
sender.send("fine")
assert receiver.recv() == "fine"
""",
    "locks": """
kept = []
count, text = fill(lambda: kept.append(processing.Lock()))
assert count > 100_000 * 20 / 24 / 2, count
assert "Lock" in text, text
assert kept[0].acquire() and kept[-1].acquire()
kept.clear()
gc.collect()
again, text = fill(lambda: kept.append(processing.Lock()))
assert again >= count * 0.9, (count, again)
""",
    "queues": """
kept = []
count, text = fill(lambda: kept.append(processing.Queue()))
assert count > 100, count
assert "Queue" in text, text
kept[0].close()
del kept[50:]
gc.collect()
kept[1].put([1])
assert kept[1].get() == [1]
""",
    "raising the limit helps": """
messages = processing.Queue()
refused(lambda: messages.put(b"x" * 50_000_000))
processing.set_memory_limit(128 << 20)
messages.put(b"x" * 50_000_000)
assert len(messages.get()) == 50_000_000
""",
    "a view keeps its memory": """
messages = processing.Queue()
messages.put(bytearray(15_000_000))
kept = messages.get()
messages.put(b"x" * 10_000)
assert len(messages.get()) == 10_000
assert len(kept) == 15_000_000
""",
    "the kernel's queue needs none": """
kept = []
fill(lambda: kept.append(processing.Lock()))
messages = processing.PosixQueue()
messages.put("x" * 1000)
assert messages.get() == "x" * 1000
""",
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_at_the_limit(case: str, tmp_path: Path) -> None:
    assert output_of(tmp_path, program(CASES[case])) == []


CHILD = """
import processing

def put(messages, replies):
    try:
        while True:
            messages.put(b"x" * 100_000)
    except MemoryError:
        replies.put("refused")

def main():
    messages, replies = processing.Queue(), processing.Queue()
    replies.put("warm")
    replies.get()
    process = processing.get_context(METHOD).Process(target=put, args=(messages, replies))
    process.start()
    print(replies.get(timeout=15))
    process.join()
    print(100 < messages.qsize() < 400)

if __name__ == "__main__":
    main()
"""


def test_the_limit_is_the_programs(start_method: Any, tmp_path: Path) -> None:
    """A child shares it, and can still answer when it is reached: it has its ring already."""
    text = CHILD.replace("METHOD", repr(start_method.get_start_method()))
    assert output_of(tmp_path, text, PROCESSING_MEMORY_LIMIT="32M") == ["refused", "True"]
