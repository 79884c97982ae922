"""What can be sent into a process and through a queue, and what an error says when something cannot."""

from __future__ import annotations

import copyreg
import pickle
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, ended, output_of, run_program
from processing import reduction


class Slots:
    __slots__ = ("__private", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.__private = 1


class Plain:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Reduces:
    """Only its reduction shows what is inside."""

    __slots__ = ("get",)

    def __init__(self, part: Any) -> None:
        self.get = None
        PARTS[id(self)] = part

    def __reduce__(self) -> Any:
        return (Reduces, (PARTS[id(self)],))


PARTS: dict[int, Any] = {}


class Counted:
    """Reduced by a registered function only."""

    def __init__(self, value: int) -> None:
        self.value = value


def reduce_counted(counted: Counted) -> Any:
    return Counted, (counted.value + 1,)


class Sourced:
    def __reduce__(self) -> Any:
        raise TypeError("not with me")


def send(connection: Any, value: Any) -> None:
    connection.send(value)


def call(connection: Any, function: Any, *args: Any) -> None:
    connection.send(function(*args))


def talk(sock: socket.socket) -> None:
    sock.sendall(sock.recv(10).upper())


def type_names(connection: Any, values: Any) -> None:
    connection.send([f"{type(value).__module__}.{type(value).__qualname__}" for value in values])


# ---- Into a process -------------------------------------------------------------------------------------------------


def test_lambdas_and_closures(start_method: Any) -> None:
    factor = 3

    def times(x: int) -> int:
        return x * factor

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

        def __call__(self) -> int:
            return times(self.x)

    ours, theirs = start_method.Pipe()
    for function, args in ((lambda x: x + factor, (4,)), (times, (5,)), (Local(6), ())):
        with child(start_method, call, theirs, function, *args) as process:
            assert ours.recv() == {4: 7, 5: 15, (): 18}[args[0] if args else ()]
            ended(process)
    with child(start_method, lambda c: c.send("direct"), theirs) as process:
        assert ours.recv() == "direct"
        ended(process)


def test_classes_of_this_module_stay_what_they_are(start_method: Any) -> None:
    """Also when a lambda beside them goes by value."""
    ours, theirs = start_method.Pipe()
    with child(start_method, type_names, theirs, [Plain(), lambda: None]) as process:
        assert ours.recv() == [f"{__name__}.Plain", "builtins.function"]
        ended(process)


def test_sockets_travel(start_method: Any) -> None:
    here, there = socket.socketpair()
    with here, there:
        with child(start_method, talk, there) as process:
            here.sendall(b"hello")
            assert here.recv(10) == b"HELLO"
            ended(process)


def test_authentication_keys_travel_only_at_the_start() -> None:
    with pytest.raises(TypeError, match="disallowed for security"):
        pickle.dumps(processing.current_process().authkey)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_cannot_be_sent_is_named(method: str) -> None:
    context = processing.get_context(method)
    bad = Plain(y=threading.Lock())
    for process in (
        context.Process(target=send, args=(1, {"x": bad})),
        context.Process(target=send, args=(1,), kwargs={"x": bad}),
    ):
        with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object: at Process\.") as caught:
            process.start()
        where = "args[1]['x'].y" if len(process._args) == 2 else "kwargs['x'].y"
        assert str(caught.value).endswith(f": at Process.{where}")
        assert isinstance(caught.value.__cause__, TypeError)
        # It may be tried again.
        assert process.pid is None
        assert not process.is_alive()


@pytest.mark.once
def test_many_failed_starts_leave_nothing_behind() -> None:
    context = processing.get_context("spawn")
    for _ in range(5000):  # there are not that many slots
        with pytest.raises(TypeError):
            context.Process(target=send, args=(threading.Lock(),)).start()


# ---- From a __main__ that nobody can import -------------------------------------------------------------------------

INTERACTIVE = """
import processing

class Thing:
    def __init__(self, x): self.x = x

def double(thing): return 2 * thing.x

def work(q, f, thing): q.put((f(thing), type(thing).__name__))

processing.set_start_method("METHOD")
q = processing.Queue()
p = processing.Process(target=work, args=[q, double, Thing(4)])
p.start()
print(q.get())
p.join()
print(p.exitcode)
"""


@pytest.mark.parametrize("how", ["-c", "stdin", "-i"])
def test_functions_of_an_interactive_main(start_method: Any, how: str) -> None:
    text = INTERACTIVE.replace("METHOD", start_method.get_start_method())
    if how == "-i":
        # What is typed: an empty line ends a block.
        text = text.replace("self.x = x\n", "self.x = x\n\n")
    done = subprocess.run(
        [sys.executable, *(["-c", text] if how == "-c" else ["-i", "-q"] if how == "-i" else ["-"])],
        input="" if how == "-c" else text,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout.splitlines() == ["(8, 'Thing')", "0"], done.stderr
    if how != "-i":
        assert done.stderr == ""


def test_from_dash_m(tmp_path: Path, start_method: Any) -> None:
    text = """
    import processing

    class Thing: pass

    def work(q, thing): q.put((__name__, type(thing) is Thing, thing))

    if __name__ == "__main__":
        processing.set_start_method("METHOD")
        q = processing.Queue()
        p = processing.Process(target=work, args=[q, Thing()])
        p.start()
        name, same, back = q.get()
        print(name, same, type(back) is Thing)
        p.join()
    """
    import textwrap

    method = start_method.get_start_method()
    (tmp_path / "started.py").write_text(textwrap.dedent(text).replace("METHOD", method))
    done = subprocess.run(
        [sys.executable, "-m", "started"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    name = "__main__" if method == "fork" else "__mp_main__"
    assert (done.stdout, done.stderr) == (f"{name} True True\n", "")


def test_paths_arguments_and_folder_are_the_parents(tmp_path: Path, start_method: Any) -> None:
    text = """
    import os, processing, sys

    def work(q): q.put((os.getcwd(), sys.argv, sys.path[-1], processing.get_start_method(), sys.flags.utf8_mode))

    if __name__ == "__main__":
        processing.set_start_method("METHOD")
        sys.path.append("/nowhere")
        sys.argv.append("more")
        os.mkdir("sub")
        os.chdir("sub")
        q = processing.Queue()
        p = processing.Process(target=work, args=[q])
        p.start()
        print(q.get() == (os.getcwd(), sys.argv, "/nowhere", "METHOD", 1))
        p.join()
    """
    method = start_method.get_start_method()
    assert output_of(tmp_path, text.replace("METHOD", method), PYTHONUTF8="1") == ["True"]


# ---- dumps ----------------------------------------------------------------------------------------------------------


def test_the_path_to_the_culprit() -> None:
    lock = threading.Lock()
    cases: list[tuple[Any, str]] = [
        ([1, lock], "obj[1]"),
        ({"a": {"b": [lock]}}, "obj['a']['b'][0]"),
        ({lock: 1}, f"obj<key {lock!r:.60}>"),
        (Plain(x=Plain(y=lock)), "obj.x.y"),
        (Slots(Slots(lock)), "obj.inner.inner"),
        (Plain(x=Plain().__init__, y=Plain(z=lock).__init__), "obj.y.__self__.z"),  # type: ignore[misc]
        (Reduces(lock), "obj.<reduced[1][0]>"),
        ((lambda: lock), "obj.<variable 'lock'>"),
        (types.SimpleNamespace(a=Sourced()), "obj.a"),
    ]
    for value, path in cases:
        assert reduction.find_unpicklable(value) == path
        with pytest.raises(TypeError, match=": at ") as caught:
            reduction.dumps(value)
        assert str(caught.value).endswith(f": at {path}")
    assert reduction.find_unpicklable([1, "2", Plain(x=3)]) is None


def test_a_cycle_is_no_endless_search() -> None:
    ring: list[Any] = [threading.Lock()]
    ring.insert(0, ring)
    assert reduction.find_unpicklable(ring) == "obj[1]"


def test_a_queue_names_it_too() -> None:
    queue = processing.Queue()
    with pytest.raises(TypeError, match=r"at obj\['a'\]$"):
        queue.put({"a": threading.Lock()})
    queue.put("still good")
    assert queue.get() == "still good"


def test_an_open_file_is_not_read_and_sent(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+") as file, pytest.raises(TypeError):
        reduction.dumps(file)


def test_registered_reducers_are_used(start_method: Any) -> None:
    reduction.register(Counted, reduce_counted)
    try:
        assert pickle.loads(pickle.dumps(Counted(1))).value == 1
        assert reduction.loads(reduction.dumps([Counted(1)]))[0].value == 2
        assert reduction.loads(reduction.ForkingPickler.dumps(Counted(1))).value == 2
        # By value as well.
        assert reduction.loads(reduction.dumps((lambda: None, Counted(1))))[1].value == 2
        ours, theirs = start_method.Pipe()
        with child(start_method, send, theirs, Counted(1)) as process:
            ours.recv()
            ended(process)
    finally:
        del reduction.reducers.own[Counted]
        reduction.reducers.sources = (-1, -1)
    assert reduction.loads(reduction.dumps(Counted(1))).value == 1


def test_reducers_of_the_standard_library_are_honoured() -> None:
    from multiprocessing.reduction import ForkingPickler

    assert reduction.reducers.table() is None or Counted not in (reduction.reducers.table() or {})
    ForkingPickler.register(Counted, reduce_counted)
    try:
        assert reduction.loads(reduction.dumps(Counted(1))).value == 2
    finally:
        del ForkingPickler._extra_reducers[Counted]  # type: ignore[attr-defined]
    assert reduction.loads(reduction.dumps(Counted(1))).value == 1


def test_copyreg_is_honoured() -> None:
    copyreg.pickle(Counted, reduce_counted)
    try:
        assert reduction.loads(reduction.dumps(Counted(1))).value == 2
    finally:
        del copyreg.dispatch_table[Counted]


def test_buffers_out_of_band_and_a_second_attempt() -> None:
    data = pickle.PickleBuffer(bytearray(b"x" * 100))
    buffers: list[Any] = []
    body = reduction.dumps([data, lambda: 5], buffers.append, on_retry=buffers.clear)
    assert len(buffers) == 1
    back, function = reduction.loads(body, buffers=buffers)
    assert bytes(back) == b"x" * 100
    assert function() == 5


def test_a_second_attempt_does_not_mix_buffers_up() -> None:
    """What a queue sends when plain pickling fails between two buffers."""
    first, second = bytearray(b"1" * 200_000), bytearray(b"2" * 200_000)
    queue = processing.Queue()
    queue.put([pickle.PickleBuffer(first), lambda: 5, pickle.PickleBuffer(second)])
    one, function, two = queue.get()
    assert bytes(one) == first
    assert bytes(two) == second
    assert function() == 5


def test_no_cloudpickle_as_long_as_pickle_will_do(tmp_path: Path) -> None:
    text = """
    import sys, processing

    def work(q, x): q.put((x, "cloudpickle" in sys.modules))

    if __name__ == "__main__":
        q = processing.Queue()
        p = processing.get_context("spawn").Process(target=work, args=[q, {"a": [1, 2.0]}])
        p.start()
        print(q.get(), "cloudpickle" in sys.modules)
        p.join()
    """
    assert output_of(tmp_path, text) == ["({'a': [1, 2.0]}, False) False"]


def test_without_cloudpickle_the_error_is_the_plain_one(tmp_path: Path) -> None:
    text = """
    import sys
    sys.modules["cloudpickle"] = None
    from processing import reduction
    reduction.dumps({"f": [lambda: None]})
    """
    done = run_program(tmp_path, text)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(": at obj['f'][0]")
