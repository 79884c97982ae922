"""SocketConnection over socket pairs and TCP."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import processing.connection
from helpers import LIMIT, SHORT, take_seconds, until_asleep
from processing.connection import SocketConnection
from processing.errors import BufferTooShort

BIG = 1 << 20


@pytest.fixture
def raw() -> Iterator[tuple[SocketConnection, socket.socket]]:
    """A connection, and the bare socket at its other end."""
    first, second = socket.socketpair()
    second.settimeout(LIMIT)
    with SocketConnection(first) as connection, second:
        yield connection, second


@pytest.fixture(params=["unix", "tcp", "read ahead"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[SocketConnection, SocketConnection]]:
    if request.param == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            first = socket.create_connection(server.getsockname())
            second = server.accept()[0]
    else:
        first, second = socket.socketpair()
    with SocketConnection(first) as one, SocketConnection(second) as other:
        if request.param == "read ahead":
            one.read_ahead()
            other.read_ahead()
        yield one, other


def in_thread(function: Callable[..., Any], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def frame(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def test_objects(ends: tuple[SocketConnection, SocketConnection]) -> None:
    one, other = ends
    for obj in (None, 1, "text", [1, {"a": (2.5, b"x")}], bytes(5000)):
        one.send(obj)
        assert other.poll(LIMIT)
        assert other.recv() == obj
    assert not other.poll()
    other.send("back")
    assert one.recv() == "back"


@pytest.mark.parametrize(
    "size", [0, 1, 3, 16 << 10, (16 << 10) + 1, 65535, 65536, 65537, 3 * BIG, 40 * BIG + 1]
)
def test_sizes(ends: tuple[SocketConnection, SocketConnection], size: int) -> None:
    one, other = ends
    data = os.urandom(1000) * (size // 1000 + 1)
    thread = in_thread(one.send_bytes, data, 0, size)
    received = other.recv_bytes()
    thread.join(LIMIT)
    assert type(received) is bytes
    assert received == data[:size]
    thread = in_thread(one.send_bytes, memoryview(data)[:size])
    room = bytearray(size + 7)
    assert other.recv_bytes_into(room, 5) == size
    thread.join(LIMIT)
    assert room[5 : size + 5] == data[:size]


def test_many_small_messages_at_once(ends: tuple[SocketConnection, SocketConnection]) -> None:
    one, other = ends
    for number in range(100):
        one.send(number)
    assert [other.recv() for _ in range(100)] == list(range(100))
    assert not other.poll()
    one.close()
    assert other.poll()
    with pytest.raises(EOFError):
        other.recv()


def test_slices_and_their_errors(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    connection.send_bytes(b"0123456789", 2, 3)
    assert peer.recv(100) == frame(b"234")
    connection.send_bytes(memoryview(bytes(8)).cast("i"))
    assert peer.recv(100) == frame(bytes(8))
    for arguments in ((-1,), (11,), (0, -1), (5, 6)):
        with pytest.raises(ValueError):
            connection.send_bytes(b"0123456789", *arguments)
    with pytest.raises(ValueError):
        connection.recv_bytes(-1)
    for offset in (-1, 11):
        with pytest.raises(ValueError):
            connection.recv_bytes_into(bytearray(10), offset)


def test_the_wire(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    connection.send({"a": 1})
    data = peer.recv(1000)
    assert struct.unpack(">i", data[:4])[0] == len(data) - 4
    assert pickle.loads(data[4:]) == {"a": 1}
    peer.sendall(struct.pack(">iQ", -1, 3) + b"abc")  # the long form
    assert connection.recv_bytes() == b"abc"


def test_byte_by_byte(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    peer.sendall(b"\0")
    thread = in_thread(lambda: [peer.sendall(bytes([byte])) for byte in frame(b"slow")[1:]])
    assert connection.recv_bytes() == b"slow"
    thread.join(LIMIT)


def test_buffer_too_short(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    peer.sendall(frame(b"0123456789") + frame(b"next"))
    with pytest.raises(BufferTooShort) as caught:
        connection.recv_bytes_into(bytearray(9))
    assert caught.value.args[0] == b"0123456789"
    assert connection.recv_bytes() == b"next"


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">i", -2),
        struct.pack(">i", -(2**31)),
        struct.pack(">iQ", -1, 2**64 - 1),
        struct.pack(">iQ", -1, 2**63),
    ],
)
def test_absurd_lengths(raw: tuple[SocketConnection, socket.socket], sent: bytes) -> None:
    connection, peer = raw
    peer.sendall(sent)
    with pytest.raises(OSError, match="bad message length"):
        connection.recv()
    assert connection.closed
    with pytest.raises(OSError, match="closed"):
        connection.recv()


def test_limits(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    connection.max_message = 10
    peer.sendall(frame(bytes(10)) + frame(bytes(11)))
    assert connection.recv_bytes() == bytes(10)
    with pytest.raises(OSError, match="max_message"):
        connection.recv_bytes()
    assert connection.closed


def test_maxlength(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    peer.sendall(frame(bytes(10)) + frame(bytes(11)))
    assert connection.recv_bytes(10) == bytes(10)
    with pytest.raises(OSError, match="bad message length"):
        connection.recv_bytes(10)
    assert connection.closed


def test_announced_memory_is_not_taken(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peer.sendall(struct.pack(">iQ", -1, 1 << 50) + bytes(1000))
    peer.close()
    with pytest.raises(ConnectionResetError, match="middle of a message"):
        connection.recv_bytes()
    assert connection.closed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_cut_off(raw: tuple[SocketConnection, socket.socket], cut: int) -> None:
    connection, peer = raw
    peer.sendall(frame(b"abc")[:cut])
    peer.close()
    with pytest.raises(ConnectionResetError, match="middle of a message"):
        connection.recv_bytes()
    assert connection.closed


def test_the_end(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    peer.close()
    assert connection.poll(LIMIT)
    for _ in range(2):
        with pytest.raises(EOFError):
            connection.recv()
    with pytest.raises(BrokenPipeError):
        connection.send(1)
    connection.close()
    connection.close()
    assert connection.closed and not connection.readable and not connection.writable
    assert "closed" in repr(connection)
    for use in (connection.recv, connection.poll, connection.fileno, lambda: connection.send(1)):
        with pytest.raises(OSError, match="closed"):
            use()


def test_unpicklable(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    with pytest.raises((TypeError, pickle.PicklingError)):
        connection.send([1, threading.Lock()])
    connection.send_bytes(b"x")
    assert peer.recv(100) == frame(b"x")


def test_one_direction() -> None:
    first, second = socket.socketpair()
    with (
        SocketConnection(first, writable=False) as reader,
        SocketConnection(second.detach(), readable=False) as writer,
    ):
        writer.send(1)
        assert reader.recv() == 1
        with pytest.raises(OSError, match="read-only"):
            reader.send(1)
        for use in (writer.recv, writer.poll):
            with pytest.raises(OSError, match="write-only"):
                use()
        assert "read-only" in repr(reader) and "write-only" in repr(writer)
        with pytest.raises(ValueError):
            SocketConnection(first, False, False)


def test_poll(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    seconds, answer = take_seconds(lambda: connection.poll(SHORT))
    assert not answer and seconds >= SHORT * 0.9
    assert not connection.poll(-1)
    peer.sendall(frame(b"x"))
    assert connection.poll(None)
    assert connection.recv_bytes() == b"x"


def test_wait(ends: tuple[SocketConnection, SocketConnection]) -> None:
    one, other = ends
    assert processing.connection.wait([one, other], 0) == []
    one.send(1)
    one.send(2)
    assert processing.connection.wait([one, other], LIMIT) == [other]
    assert other.recv() == 1
    assert processing.connection.wait([one, other], LIMIT) == [other]
    assert other.recv() == 2
    assert processing.connection.wait([one, other], 0) == []


def test_concurrent_senders_and_receivers(ends: tuple[SocketConnection, SocketConnection]) -> None:
    one, other = ends
    received: list[bytes] = []
    sizes = (10, 20_000, 100_000)

    def send(number: int) -> None:
        for turn in range(50):
            one.send_bytes(bytes([number]) * sizes[turn % 3])

    def receive() -> None:
        for _ in range(50):
            received.append(other.recv_bytes())

    threads = [in_thread(send, number) for number in range(4)] + [in_thread(receive) for _ in range(4)]
    for thread in threads:
        thread.join(LIMIT)
    assert len(received) == 200
    assert all(message == message[:1] * len(message) and len(message) in sizes for message in received)


class Interrupted(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    def handler(number: int, stack: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda seconds: (signal.setitimer(signal.ITIMER_REAL, seconds), None)[1]
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_interrupted_while_idle(raw: tuple[SocketConnection, socket.socket], alarm: Any) -> None:
    """Nothing has been received: the connection stays good."""
    connection, peer = raw
    alarm(SHORT)
    with pytest.raises(Interrupted):
        connection.recv()
    peer.sendall(frame(b"x"))
    assert connection.recv_bytes() == b"x"


def test_interrupted_within_a_received_frame(raw: tuple[SocketConnection, socket.socket], alarm: Any) -> None:
    connection, peer = raw
    peer.sendall(frame(bytes(100))[:50])
    alarm(SHORT)
    with pytest.raises(Interrupted):
        connection.recv()
    assert connection.closed


def test_interrupted_within_a_sent_frame(raw: tuple[SocketConnection, socket.socket], alarm: Any) -> None:
    connection, peer = raw
    alarm(SHORT)
    with pytest.raises(Interrupted):
        connection.send_bytes(bytes(10 * BIG))
    assert connection.closed


def test_interrupted_before_a_frame_is_sent(raw: tuple[SocketConnection, socket.socket], alarm: Any) -> None:
    """The buffers are full: nothing of the second message has gone, so the connection stays good."""
    connection, peer = raw
    filler = socket.socket(fileno=os.dup(connection.fileno()))
    sent = 0
    with filler:
        filler.setblocking(False)
        try:
            while True:
                sent += filler.send(bytes(4096))
        except BlockingIOError:
            pass
    alarm(SHORT)
    with pytest.raises(Interrupted):
        connection.send_bytes(b"x")
    assert not connection.closed
    while sent:
        sent -= len(peer.recv(min(sent, 65536)))
    connection.send_bytes(b"y")
    assert peer.recv(100) == frame(b"y")


def test_signals_that_do_not_raise(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, stack: seen.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        data = bytes(20 * BIG)
        thread = in_thread(lambda: peer.sendall(frame(data)))
        assert connection.recv_bytes() == data
        thread.join(LIMIT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen


def test_use_by_a_handler_in_the_middle_of_a_message(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    errors: list[str] = []

    def handler(number: int, stack: object) -> None:
        try:
            connection.recv()
        except RuntimeError as error:
            errors.append(str(error))
        peer.sendall(b"cd")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        peer.sendall(frame(b"abcd")[:-2])
        signal.setitimer(signal.ITIMER_REAL, SHORT)
        assert connection.recv_bytes() == b"abcd"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "handler" in errors[0]


def test_fork_while_a_thread_receives() -> None:
    """The lock that the parent's thread holds means nothing in the child."""
    first, second = socket.socketpair()
    with SocketConnection(first) as connection, SocketConnection(second) as peer:
        thread = in_thread(connection.poll, LIMIT)
        lock = connection._line.receiving
        holder, held, done = threading.Thread, threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                done.wait(LIMIT)

        other = holder(target=hold)
        other.start()
        held.wait(LIMIT)
        peer.send("for the child")
        thread.join(LIMIT)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if connection.recv() == "for the child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        done.set()
        other.join(LIMIT)


def test_credentials_and_options() -> None:
    first, second = socket.socketpair()
    with SocketConnection(first) as connection, second:
        credentials = connection.peer_credentials
        assert credentials == (os.getpid(), os.getuid(), os.getgid())
        assert credentials is not None and credentials.uid == os.getuid()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        with SocketConnection(server.accept()[0]) as connection:
            assert connection.peer_credentials is None
            sock = connection._line.sock
            assert sock is not None
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
            assert client


def test_only_stream_sockets() -> None:
    first, second = socket.socketpair(type=socket.SOCK_DGRAM)
    with first, second:
        for what in (first, first.fileno()):
            with pytest.raises(ValueError, match="stream"):
                SocketConnection(what)
        first.send(b"the descriptor is still open")


# ---- Waiting for a frame --------------------------------------------------------------------------------------------


def until_blocked(thread: threading.Thread) -> None:
    """Returns when the thread sleeps in the system."""
    stat = f"/proc/self/task/{thread.native_id}/stat"
    while thread.is_alive():
        with open(stat) as file:
            if file.read().rpartition(")")[2].split()[0] == "S":
                return


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 7])
def test_a_frame_in_two_parts_while_the_receiver_waits(
    raw: tuple[SocketConnection, socket.socket], cut: int
) -> None:
    connection, peer = raw
    for limit in (None, 4):
        received: list[bytes] = []
        thread = in_thread(lambda limit=limit, to=received: to.append(connection.recv_bytes(limit)))
        until_blocked(thread)
        peer.sendall(frame(b"abcd")[:cut])
        until_blocked(thread)
        peer.sendall(frame(b"abcd")[cut:])
        thread.join(LIMIT)
        assert received == [b"abcd"]
    assert not connection.poll()


@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1, 100_000])
def test_no_more_than_a_frame_is_taken(raw: tuple[SocketConnection, socket.socket], size: int) -> None:
    """Also by a receiver that has waited: select sees what follows."""
    connection, peer = raw
    received: list[bytes] = []
    thread = in_thread(lambda: received.append(connection.recv_bytes()))
    until_blocked(thread)
    peer.sendall(frame(bytes(size)) + frame(b""))
    thread.join(LIMIT)
    assert received == [bytes(size)]
    assert select.select([connection], [], [], 0)[0] == [connection]
    assert connection.recv_bytes() == b""
    assert select.select([connection], [], [], 0)[0] == []


def test_the_peer_ends_while_the_receiver_waits(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    errors: list[str] = []

    def receive() -> None:
        try:
            connection.recv()
        except (EOFError, OSError) as error:
            errors.append(type(error).__name__)

    thread = in_thread(receive)
    until_blocked(thread)
    peer.shutdown(socket.SHUT_WR)
    thread.join(LIMIT)
    assert errors == ["EOFError"]
    connection.send_bytes(b"this way is open")
    assert peer.recv(100) == frame(b"this way is open")


def test_limits_hold_for_a_receiver_that_waits(raw: tuple[SocketConnection, socket.socket]) -> None:
    connection, peer = raw
    connection.max_message = 10
    errors: list[str] = []

    def receive() -> None:
        try:
            connection.recv_bytes()
        except OSError as error:
            errors.append(str(error))

    thread = in_thread(receive)
    until_blocked(thread)
    peer.sendall(frame(bytes(11)))
    thread.join(LIMIT)
    assert "max_message is 10" in errors[0]
    assert connection.closed


def test_two_processes_that_wait_get_whole_messages(raw: tuple[SocketConnection, socket.socket]) -> None:
    """One of them gets it; the other goes on waiting. (Nothing is promised for one that has just begun to receive.)"""
    connection, peer = raw
    back, answers = os.pipe()
    pids = []
    for _ in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                peer.close()
                while connection.recv_bytes() == b"message":
                    os.write(answers, b"1")
            except EOFError:
                os._exit(0)
            finally:
                os._exit(1)
    try:
        for _ in range(20):
            for pid in pids:
                until_asleep(pid)
            peer.sendall(frame(b"message"))
            assert os.read(back, 100) == b"1"
    finally:
        peer.shutdown(socket.SHUT_WR)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        os.close(back)
        os.close(answers)
    assert codes == [0, 0]


# ---- Giving the socket away, and its end ----------------------------------------------------------------------------


def test_detach(ends: tuple[SocketConnection, SocketConnection]) -> None:
    one, other = ends
    for message in (b"first", b"second"):
        one.send_bytes(message)
    assert other.recv_bytes() == b"first"
    family = other._family
    sock, ahead = other.detach()
    with sock:
        assert other.closed and "closed" in repr(other)
        for use in (other.recv, other.fileno, other.detach, lambda: other.send(1)):
            with pytest.raises(OSError, match="closed"):
                use()
        other.close()
        assert sock.family == family and sock.gettimeout() is None
        sock.settimeout(LIMIT)
        while len(ahead) < len(frame(b"second")):
            ahead += sock.recv(100)
        assert ahead == frame(b"second")
        sock.sendall(frame(b"back"))
        assert one.recv_bytes() == b"back"
    with pytest.raises(EOFError):
        one.recv()


def test_closed_when_collected() -> None:
    """Without help of the garbage collector, also if it reads ahead: it is in no reference cycle."""
    first, second = socket.socketpair()
    with second:
        connection: SocketConnection | None = SocketConnection(first)
        assert connection is not None
        connection.read_ahead()
        del first
        gc.disable()
        try:
            connection = None
            second.settimeout(LIMIT)
            assert second.recv(1) == b""
        finally:
            gc.enable()
