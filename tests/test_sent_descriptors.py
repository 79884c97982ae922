"""Descriptors and sockets in messages: through all that carries messages, over the deaths of whoever takes part, and
that nothing is left of them. The descriptors that a whole process costs are counted in test_descriptors.py.

A socketpair tells what became of a descriptor: its other end reads end-of-file when the last duplicate is closed.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import leaks
import processing
from helpers import LIMIT, Flag, child, children, ended, kill, output_of, until
from processing import _program, fdkeeper
from processing.descriptors import Descriptor, keeper, reduce_fd
from processing.reduction import DupFd

pytestmark = pytest.mark.ends


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; reading from either is limited."""
    here, there = socket.socketpair()
    here.settimeout(LIMIT)
    there.settimeout(LIMIT)
    with here, there:
        yield here, there


def keeper_pid() -> int:
    found = fdkeeper.find(_program.arena_fd())
    return found[2] if found is not None else 0


def sockets_of(pid: int) -> int:
    """How many sockets a process has."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
        except OSError:
            pass
    return count


def started_keeper() -> int:
    """The pid of this program's keeper, which runs from now on and holds nothing."""
    if not keeper_pid():
        keeper.start()
    pid = keeper_pid()
    until(lambda: sockets_of(pid) == 1)
    return pid


# ---- What processes here do -----------------------------------------------------------------------------------------


def answer_one(messages: Any) -> None:
    with messages.get() as sock:
        sock.sendall(b"hello")


def answer_received(connection: Any) -> None:
    with connection.recv() as sock:
        sock.sendall(b"hello")


def answer(sock: socket.socket, what: bytes = b"hello") -> int:
    with sock:
        sock.sendall(what)
    return os.getpid()


def put_one_end(messages: Any) -> None:
    here, there = socket.socketpair()
    here.sendall(b"from the dead")
    messages.put(there)


def put_one_end_and_wait(messages: Any, forever: Any) -> None:
    put_one_end(messages)
    forever.wait()


def make_connected() -> socket.socket:
    here, there = socket.socketpair()
    here.sendall(b"made there")
    here.close()
    return there


def keep_until_killed(messages: Any, flag: Flag) -> None:
    sock = messages.get()
    flag.say()
    threading.Event().wait()
    sock.close()


def wait_and_store(number: int, barrier: Any, messages: Any) -> None:
    here, there = socket.socketpair()
    with here, there:
        barrier.wait(LIMIT)
        messages.put((keeper_pid(), there))
        messages.put((keeper_pid(), None))


def answer_shared(number: int, shared: Any, barrier: Any) -> None:
    sock = shared.get()
    barrier.wait(LIMIT)
    answer(sock, b"%d" % number)


# ---- Through everything ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_through_queues(start_method: Any, kind: str) -> None:
    messages = getattr(start_method, kind)()
    with child(start_method, answer_one, messages) as process:
        with pair() as (here, there):
            messages.put(there)
            there.close()
            assert here.recv(10) == b"hello"
            assert here.recv(10) == b""
        ended(process)


def test_through_pipes(start_method: Any) -> None:
    ours, theirs = start_method.Pipe()
    with ours, theirs, child(start_method, answer_received, theirs) as process, pair() as (here, there):
        ours.send(there)
        there.close()
        assert here.recv(10) == b"hello"
        assert here.recv(10) == b""
        ended(process)


def test_while_starting_without_the_keeper(start_method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "store", None)
    with pair() as (here, there):
        with child(start_method, answer, there) as process:
            assert here.recv(10) == b"hello"
            ended(process)
    reader, writer = os.pipe()
    with Descriptor(writer) as sent:
        os.close(writer)
        with child(start_method, write_to, sent) as process:
            assert os.read(reader, 10) == b"written"
            ended(process)
    os.close(reader)


def write_to(descriptor: Any) -> None:
    fd = descriptor.detach()
    os.write(fd, b"written")
    os.close(fd)


def test_through_pools(start_method: Any) -> None:
    with pair() as (here, there):
        with start_method.Pool(2) as pool:
            pool.apply(answer, (there,))
            assert here.recv(10) == b"hello"
            pool.map(answer, [there] * 4)
            there.close()
            assert here.recv(20, socket.MSG_WAITALL) == b"hello" * 4
            with pool.apply(make_connected) as made:
                made.settimeout(LIMIT)
                assert made.recv(100) == b"made there"
                assert made.recv(100) == b""
        pool.join()
        # A worker holds its last tasks until it takes others, or ends.
        assert here.recv(10) == b""


def test_through_the_executor() -> None:
    with pair() as (here, there):
        with processing.ProcessPoolExecutor(1) as executor:
            executor.submit(answer, there).result(LIMIT)
            there.close()
            assert here.recv(10) == b"hello"
            with executor.submit(make_connected).result(LIMIT) as made:
                assert made.recv(100) == b"made there"
        assert here.recv(10) == b""


def test_in_a_shared_dict() -> None:
    values = processing.LocalManager().dict()
    with pair() as (here, there):
        values["sock"] = there
        there.close()
        for _ in range(2):
            answer(values["sock"])
            assert here.recv(10) == b"hello"
        del values["sock"]
        assert here.recv(10) == b""


def test_of_open_files(tmp_path: Path) -> None:
    messages = processing.Queue()
    path = tmp_path / "file"
    with open(path, "w+") as file:
        messages.put([Descriptor(file), Descriptor(file.fileno())])
    one, two = messages.get()
    with os.fdopen(one.detach(), "w") as file:
        file.write("written")
    with pytest.raises(ValueError, match="closed or detached"):
        one.detach()
    assert os.get_inheritable(two.fileno()) is False
    with two:
        assert os.pread(two.fileno(), 10, 0) == b"written"
    with pytest.raises(ValueError, match="closed or detached"):
        two.fileno()
    assert "closed" in repr(two)


class OwnsDescriptor:
    """As an object of a user's does it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return rebuild, (reduce_fd(self.fd), DupFd(self.fd))


def rebuild(one: Any, two: Any) -> tuple[int, int]:
    return one.detach(), two.detach()


def test_of_objects_that_own_one() -> None:
    messages = processing.Queue()
    reader, writer = os.pipe()
    messages.put(OwnsDescriptor(writer))
    os.close(writer)
    one, two = messages.get()
    os.write(one, b"1")
    os.write(two, b"2")
    os.close(one)
    os.close(two)
    # To the end: also the keeper has closed its duplicates.
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"12"


# ---- Sockets are as they were ---------------------------------------------------------------------------------------


class Named(socket.socket):
    """A subclass with attributes, whose constructor takes others than the base's."""

    def __init__(self, name: str) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.name = name


@pytest.mark.parametrize("timeout", [None, 0.0, 1.5])
def test_sockets_keep_their_kind_and_timeout(timeout: float | None) -> None:
    messages = processing.Queue()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as sock:
        sock.settimeout(timeout)
        messages.put(sock)
        with messages.get() as received:
            assert type(received) is socket.socket
            assert received.fileno() != sock.fileno()
            for name in ("family", "type", "proto"):
                assert getattr(received, name) == getattr(sock, name)
            assert received.gettimeout() == sock.gettimeout() == timeout
            assert received.getblocking() == os.get_blocking(sock.fileno()) or timeout


def test_subclasses_of_sockets() -> None:
    messages = processing.Queue()
    with Named("this one") as sock:
        messages.put(sock)
        with messages.get() as received:
            assert type(received) is Named
            assert received.name == "this one"
            assert received.type == socket.SOCK_DGRAM


def test_listeners_accept_in_another_process() -> None:
    messages = processing.Queue()
    with child(processing, accept_one, messages) as process:
        with socket.create_server(("127.0.0.1", 0)) as server:
            messages.put(server)
            with socket.create_connection(server.getsockname(), timeout=LIMIT) as client:
                assert client.recv(10) == b"hello"
        ended(process)


def accept_one(messages: Any) -> None:
    with messages.get() as server:
        answer(server.accept()[0])


def test_encrypted_and_closed_sockets_are_refused() -> None:
    messages = processing.Queue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with pair() as (here, _):
        with context.wrap_socket(here, do_handshake_on_connect=False) as wrapped:
            with pytest.raises(TypeError, match="encryption lies in this process"):
                messages.put([wrapped])
    with pytest.raises(ValueError, match="closed socket"):
        messages.put(here)
    assert messages.empty()


def test_a_pickle_alone_cannot_hold_one() -> None:
    with pair() as (here, _), Descriptor(here) as descriptor:
        with pytest.raises(RuntimeError, match="only for messages of processing"):
            pickle.dumps(descriptor)
        with pytest.raises(TypeError):
            pickle.dumps(here)
        with pytest.raises(RuntimeError, match="only for messages of processing"):
            processing.reduction.dumps([here])


# ---- Deaths ---------------------------------------------------------------------------------------------------------


def test_the_sender_has_ended(start_method: Any) -> None:
    messages = start_method.Queue()
    with child(start_method, put_one_end, messages) as process:
        ended(process)
    with messages.get(timeout=LIMIT) as sock:
        assert sock.recv(100) == b"from the dead"
        assert sock.recv(100) == b""


def test_the_sender_was_killed(start_method: Any) -> None:
    messages, forever = start_method.Queue(), start_method.Event()
    with child(start_method, put_one_end_and_wait, messages, forever) as process:
        until(lambda: not messages.empty())
        kill(process)
    with messages.get(timeout=LIMIT) as sock:
        assert sock.recv(100) == b"from the dead"
        assert sock.recv(100) == b""


@pytest.mark.once
def test_the_receiver_was_killed_before_it_asked() -> None:
    ours, theirs = processing.Pipe()
    flag = Flag()
    with pair() as (here, there):
        with child(processing, stop_before_receiving, theirs, flag) as process:
            flag.hear()
            ours.send(there)
            there.close()
            theirs.close()
            kill(process)
        ours.close()
        assert here.recv(10) == b""


def stop_before_receiving(connection: Any, flag: Flag) -> None:
    flag.say()
    threading.Event().wait()
    connection.close()


def test_the_receiver_was_killed_afterwards() -> None:
    messages = processing.Queue()
    flag = Flag()
    with pair() as (here, there):
        with child(processing, keep_until_killed, messages, flag) as process:
            messages.put(there)
            there.close()
            flag.hear()
            kill(process)
        assert here.recv(10) == b""


@pytest.mark.once
@pytest.mark.parametrize("how", ["collected", "never made", "closed"])
def test_a_dropped_message_closes_it(how: str) -> None:
    with pair() as (here, there):
        messages = processing.Queue()
        if how == "never made":
            with pytest.raises(TypeError):
                messages.put([there, threading.Lock()])
        else:
            messages.put(there)
        there.close()
        if how == "closed":
            messages.close()
        del messages
        gc.collect()
        assert here.recv(10) == b""


@pytest.mark.once
def test_it_is_held_as_long_as_it_can_be_asked_for() -> None:
    """Also over several looks of the keeper."""
    pid = started_keeper()
    messages = processing.Queue()
    with pair() as (here, there):
        messages.put(there)
        there.close()
        wakes = voluntary_switches(pid)
        until(lambda: voluntary_switches(pid) >= wakes + 3)
        answer(messages.get())
        assert here.recv(10) == b"hello"


def voluntary_switches(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_the_keeper_sleeps_when_it_holds_nothing() -> None:
    pid = started_keeper()
    assert Path(f"/proc/{pid}/wchan").exists()
    with open(f"/proc/{pid}/syscall") as file:
        fields = file.read().split()
    # poll(fds, count, timeout): the third argument is -1, an int.
    assert fields[0] != "running"
    assert int(fields[3], 16) & 0xFFFFFFFF == 0xFFFFFFFF, fields


# ---- Many -----------------------------------------------------------------------------------------------------------


def test_one_message_loaded_by_several(start_method: Any) -> None:
    with pair() as (here, there):
        shared = processing.share(there)
        there.close()
        barrier = start_method.Barrier(3)
        with children(start_method, 3, answer_shared, shared, barrier) as processes:
            ended(*processes)
        assert sorted(here.recv(3, socket.MSG_WAITALL)) == list(b"012")
        shared.close()
        assert here.recv(10) == b""


def test_two_hundred_on_their_way() -> None:
    messages = processing.Queue()
    heres = []
    for number in range(200):
        here, there = socket.socketpair()
        with there:
            messages.put((number, there))
        heres.append(here)
    with child(processing, answer_many, messages, 200) as process:
        for number, here in enumerate(heres):
            here.settimeout(LIMIT)
            assert here.recv(10) == b"%d" % number
            assert here.recv(10) == b""
            here.close()
        ended(process)


def answer_many(messages: Any, count: int) -> None:
    for _ in range(count):
        number, sock = messages.get()
        answer(sock, b"%d" % number)


def test_many_in_one_message() -> None:
    reader, writer = os.pipe()
    messages = processing.Queue()
    messages.put([Descriptor(writer) for _ in range(50)])
    os.close(writer)
    for descriptor in messages.get():
        os.write(descriptor.fileno(), b"x")
        descriptor.close()
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"x" * 50


def test_the_keeper_lets_go_in_the_middle_of_many_requests() -> None:
    pid = started_keeper()
    messages = processing.Queue()
    with pair() as (_, there):
        for _ in range(1000):
            messages.put(there)
            messages.get().close()
        assert sockets_of(pid) < 500


def test_threads_send_at_once() -> None:
    messages = processing.Queue()

    def work() -> None:
        for _ in range(20):
            with pair() as (_, there):
                messages.put(there)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(80):
        messages.get().close()


# ---- The keeper -----------------------------------------------------------------------------------------------------


def end_keeper() -> None:
    if pid := keeper_pid():
        os.kill(pid, signal.SIGKILL)
        until(lambda: not keeper_pid())


def test_two_processes_race_for_the_first_use(start_method: Any) -> None:
    messages = start_method.Queue()
    for _ in range(3):
        end_keeper()
        barrier = start_method.Barrier(4)
        with children(start_method, 4, wait_and_store, barrier, messages) as processes:
            ended(*processes)
        received = [messages.get(timeout=LIMIT) for _ in range(8)]
        seen = {pid for pid, sock in received if sock is None}
        assert seen == {keeper_pid()}
        for _, sock in received:
            if sock is not None:
                sock.close()
        running = [pid for pid in leaks.parents() if b"processing.fdkeeper" in leaks.command_line(pid)]
        ours = [pid for pid in running if same_arena(pid) and leaks.is_running(pid)]
        assert ours == [keeper_pid()]


def same_arena(pid: int) -> bool:
    inode = str(os.fstat(_program.arena_fd()).st_ino)
    try:
        return any(line.split()[4] == inode for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    except OSError:
        return False


def test_the_keeper_was_killed() -> None:
    pid = started_keeper()
    messages = processing.Queue()
    with pair() as (here, there):
        messages.put(there)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not keeper_pid())
        with pytest.raises(processing.StaleHandleError, match="was killed since it was sent"):
            messages.get()
        messages.put(there)
        there.close()
        assert keeper_pid() not in (0, pid)
        answer(messages.get())
        assert here.recv(10) == b"hello"
        assert here.recv(10) == b""


def test_a_killed_keeper_that_was_replaced_knows_nothing() -> None:
    pid = started_keeper()
    messages = processing.Queue()
    with pair() as (_, there):
        messages.put(there)
        os.kill(pid, signal.SIGKILL)
        messages.put(there)  # at once: its locks may still be there
        with pytest.raises(processing.StaleHandleError, match="was killed since it was sent"):
            messages.get()
        messages.get().close()


def test_a_starter_that_is_killed_leaves_the_start_to_others() -> None:
    end_keeper()
    flag = Flag()
    with child(processing, hold_the_start, flag) as process:
        flag.hear()
        messages = processing.Queue()
        with pair() as (_, there):
            killer = threading.Timer(0.05, os.kill, (process.pid, signal.SIGKILL))
            killer.start()
            messages.put(there)
            killer.join()
            messages.get().close()
    assert keeper_pid()


def hold_the_start(flag: Flag) -> None:
    assert fdkeeper.lock(_program.arena_fd(), fdkeeper.STARTING)
    flag.say()
    threading.Event().wait()


def test_strangers_get_nothing() -> None:
    started_keeper()
    found = fdkeeper.find(_program.arena_fd())
    assert found is not None
    secret, address = fdkeeper.read_card(*found[:2])
    messages = processing.Queue()
    with pair() as (here, there):
        lease = keeper.store(there.fileno())
        there.close()
        place = lease._key()[1:]
        requests = [
            fdkeeper.REQUEST.pack(fdkeeper.FETCH, bytes(16), *place),
            b"short",
            b"",
            fdkeeper.REQUEST.pack(fdkeeper.STORE, secret, *place),  # brings nothing
            fdkeeper.REQUEST.pack(fdkeeper.FETCH, secret, 64, 1),
        ]
        answers = []
        for request in requests:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                stranger.settimeout(LIMIT)
                stranger.connect(address)
                if request:
                    stranger.send(request)
                else:
                    stranger.shutdown(socket.SHUT_WR)
                reply, fds, _, _ = socket.recv_fds(stranger, 100, 4)
                assert not fds
                answers.append(reply[:1])
        assert answers == [fdkeeper.ERROR, b"", b"", fdkeeper.ERROR, fdkeeper.UNKNOWN]
        messages.put("still works")
        assert messages.get() == "still works"
        os.close(keeper.fetch(*place))
        lease._close()
        assert here.recv(10) == b""


@pytest.mark.once
def test_too_many_for_the_keeper() -> None:
    import resource

    pid = started_keeper()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    messages = processing.Queue()
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, before[1]))
        with pair() as (_, there):
            with pytest.raises(OSError, match="cannot be sent"):
                messages.put([there, *(Descriptor(there) for _ in range(20))])
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    with pair() as (_, there):
        messages.put(there)
        messages.get().close()
    until(lambda: sockets_of(pid) == 1)


# ---- The end of a program -------------------------------------------------------------------------------------------

PROGRAM = """
    import os, socket, sys
    import processing
    from processing import _program, fdkeeper

    def send(messages):
        messages.put(socket.socketpair()[0])

    def main():
        messages = processing.Queue()
        if {in_child}:
            process = processing.get_context({method!r}).Process(target=send, args=[messages])
            process.start()
            process.join()
        else:
            send(messages)
        messages.get().close()
        messages.put(socket.socketpair()[0])
        print(fdkeeper.find(_program.arena_fd())[2], flush=True)
        sys.stdin.read()

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize("end", ["orderly", "killed"])
@pytest.mark.parametrize("starter", ["main", "fork", "forkserver", "spawn"])
def test_no_keeper_is_left(tmp_path: Path, starter: str, end: str) -> None:
    text = textwrap.dedent(PROGRAM).format(in_child=starter != "main", method=starter)
    path = tmp_path / "program.py"
    path.write_text(text)
    with subprocess.Popen([sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdin is not None
        pid = int(program.stdout.readline())
        assert leaks.is_running(pid)
        if end == "killed":
            program.kill()
        program.stdin.close()
        assert program.wait(LIMIT) == (0 if end == "orderly" else -signal.SIGKILL)
        until(lambda: not leaks.is_running(pid))


def test_a_program_whose_first_process_is_gone(tmp_path: Path) -> None:
    """Its other processes have a keeper of their own, which ends with the last that used it."""
    lines = output_of(
        tmp_path,
        """
        import os, signal, socket, sys, time
        import processing
        from processing import _program, fdkeeper

        def orphan(messages, first):
            os.kill(first, signal.SIGKILL)
            while os.getppid() == first:
                time.sleep(0.001)
            here, there = socket.socketpair()
            for _ in range(2):
                messages.put(there)
                with messages.get() as received:
                    received.send(b"x")
            print(here.recv(10).decode(), fdkeeper.find(_program.arena_fd())[2], flush=True)
            here.close()

        def main():
            first = os.fork()
            if first == 0:
                messages = processing.Queue()
                process = processing.Process(target=orphan, args=[messages, os.getpid()])
                process.start()
                process.join()
            else:
                os.waitpid(first, 0)

        if __name__ == "__main__":
            main()
        """,
    )
    said, pid = lines[0].split()
    assert said == "xx"
    until(lambda: not leaks.is_running(int(pid)))
