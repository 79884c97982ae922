"""The introduction's programs: run as scripts, as it prints them, under every start method.

What the introduction does not join is not joined here. All that is changed is what Python 3 changed (`print`) and a
missing indentation in the program of the pipe; to select a start method, the main part gets the line that a user would
add.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from processing.cli import tour

GUARD = "if __name__ == '__main__':\n"

PROCESS = """\
from processing import Process

def f(name):
    print('hello', name)

if __name__ == '__main__':
    p = Process(target=f, args=['bob'])
    p.start()
    p.join()
"""

QUEUE = """\
from processing import Process, Queue

def f(q):
    q.put([42, None, 'hello'])

if __name__ == '__main__':
    q = Queue()
    p = Process(target=f, args=[q])
    p.start()
    print(q.get())    # prints "[42, None, 'hello']"
    p.join()
"""

PIPE = """\
from processing import Process, Pipe

def f(conn):
    conn.send([42, None, 'hello'])

if __name__ == '__main__':
    parent_conn, child_conn = Pipe()
    p = Process(target=f, args=[child_conn])
    p.start()
    print(parent_conn.recv())   # prints "[42, None, 'hello']"
    p.join()
"""

LOCK = """\
from processing import Process, Lock

def f(l, i):
    l.acquire()
    print('hello world', i)
    l.release()

if __name__ == '__main__':
    lock = Lock()

    for num in range(10):
        Process(target=f, args=[lock, num]).start()
"""

SHARED_MEMORY = """\
from processing import Process, LocalManager

def f(n, s, a):
    n.value = 42
    s.value = (0.75, 'hello')
    for i in range(len(a)):
        a[i] = -a[i]

if __name__ == '__main__':
    manager = LocalManager()

    number = manager.SharedValue('i', 0)
    struct = manager.SharedStruct('d256p', (0.0, ''))
    array = manager.SharedArray('i', range(10))

    p = Process(target=f, args=[number, struct, array])
    p.start()
    p.join()

    print(number)
    print(struct)
    print(array)
"""

PRINTED = """\
SharedValue('i', 42)
SharedStruct('d256p', (0.75, 'hello'))
SharedArray('i', [0, -1, -2, -3, -4, -5, -6, -7, -8, -9])
"""

MANAGER = """\
from processing import Process, Manager

def f(d, l):
    d[1] = '1'
    d['2'] = 2
    d[0.25] = None
    l.reverse()

if __name__ == '__main__':
    manager = Manager()

    d = manager.dict()
    l = manager.list(range(10))

    p = Process(target=f, args=[d, l])
    p.start()
    p.join()

    print(d)
    print(l)
"""

POOL = """\
from processing import Pool

def f(x):
    return x*x

if __name__ == '__main__':
    pool = Pool(processes=4)              # start 4 worker processes
    result = pool.apply_async(f, [10])    # evaluate "f(10)" asynchronously
    print(result.get(timeout=1))          # prints "100" unless your computer is *very* slow
    print(pool.map(f, range(10)))         # prints "[0, 1, 4,..., 81]"
"""

PROGRAMS = {
    "process": PROCESS,
    "queue": QUEUE,
    "pipe": PIPE,
    "lock": LOCK,
    "shared memory": SHARED_MEMORY,
    "manager": MANAGER,
    "pool": POOL,
}

METHODS = pytest.mark.parametrize("method", [None, "fork", "forkserver", "spawn"])


def run(text: str, method: str | None, folder: Path) -> str:
    """What a program prints. It ends well and says nothing on stderr."""
    if method is not None:
        line = f"    import processing; processing.set_start_method({method!r})\n"
        text = text.replace(GUARD, GUARD + line)
    script = folder / "program.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@METHODS
def test_process(method: str | None, tmp_path: Path) -> None:
    assert run(PROCESS, method, tmp_path) == "hello bob\n"


@METHODS
def test_queue(method: str | None, tmp_path: Path) -> None:
    assert run(QUEUE, method, tmp_path) == "[42, None, 'hello']\n"


@METHODS
def test_pipe(method: str | None, tmp_path: Path) -> None:
    assert run(PIPE, method, tmp_path) == "[42, None, 'hello']\n"


@METHODS
def test_lock(method: str | None, tmp_path: Path) -> None:
    """Ten processes that nobody joins: the program waits for them when it ends, and no line is mixed up."""
    lines = run(LOCK, method, tmp_path).splitlines()
    assert sorted(lines) == [f"hello world {number}" for number in range(10)]


@METHODS
def test_lock_is_what_keeps_the_lines_apart(method: str | None, tmp_path: Path) -> None:
    """The same with lines that are written in pieces, which only the lock keeps together."""
    pieces = LOCK.replace(
        "    print('hello world', i)\n",
        "    for piece in ('hello', ' ', 'world', ' ', str(i), chr(10)):\n        print(piece, end='', flush=True)\n",
    )
    assert pieces != LOCK
    lines = run(pieces, method, tmp_path).splitlines()
    assert sorted(lines) == [f"hello world {number}" for number in range(10)]


@METHODS
def test_shared_memory(method: str | None, tmp_path: Path) -> None:
    assert run(SHARED_MEMORY, method, tmp_path) == PRINTED


@METHODS
def test_manager(method: str | None, tmp_path: Path) -> None:
    """Dicts keep their order now: it is that of the assignments."""
    assert run(MANAGER, method, tmp_path) == "{1: '1', '2': 2, 0.25: None}\n[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]\n"


@METHODS
def test_pool(method: str | None, tmp_path: Path) -> None:
    patient = POOL.replace("timeout=1)", "timeout=60)")  # a busy machine may be "very slow" with spawn
    assert run(patient, method, tmp_path) == "100\n[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n"


def test_the_tour_shows_these_programs() -> None:
    assert [tour.source_of(program) for program in tour.PROGRAMS] == list(PROGRAMS.values())
