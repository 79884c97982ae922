"""Attacks a listener: python fuzz_listener.py --seconds S --seed N

The listener runs in a process of its own. Attackers come without the key (garbage, wrong answers, replays, silence) and
with it (broken frames, absurd lengths, ends in the middle). What has to hold at all times: a good client is served
within a second; nothing of what came before authentication is unpickled; the process lives; at the end it has the
descriptors and threads that it began with.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import resource
import socket
import struct
import sys
import tempfile
import time
from typing import Any

import processing
from processing.authentication import Handshake
from processing.connection import Client, Listener

KEY = b"the key of the fuzzer"
PATIENCE = 1.0  # seconds within which a good client is to be served
SILENT = 500


def serve(address: Any, report: Any) -> None:
    """Echoes messages until it is told to end; a client that breaks the protocol loses its connection."""
    import threading

    with Listener(address, authkey=KEY, handshake_timeout=3.0, max_message=1 << 20) as listener:
        report.put(listener.address)
        ending = False

        def echo(connection: Any) -> None:
            nonlocal ending
            with connection:
                try:
                    while (message := connection.recv_bytes()) != b"end":
                        connection.send_bytes(message if message != b"facts" else facts())
                    ending = True
                except (EOFError, OSError):
                    pass

        while not ending:
            try:
                connection = listener.accept(0.1)
            except (processing.AuthenticationError, TimeoutError):
                continue
            threading.Thread(target=echo, args=[connection]).start()


def facts() -> bytes:
    return f"{len(os.listdir('/proc/self/fd'))} {len(os.listdir('/proc/self/task'))}".encode()


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class Fuzzer:
    def __init__(self, address: Any, seed: int, mark: str) -> None:
        self.address = address
        self.random = random.Random(seed)
        self.bomb = pickle.dumps(Bomb(mark))
        self.heard: list[bytes] = []  # challenges and answers, for replays
        self.open: list[socket.socket] = []
        self.attacks = 0
        self.slowest = 0.0

    # -- Sockets

    def connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family)
        sock.settimeout(5)
        while True:
            try:
                sock.connect(self.address)
                return sock
            except BlockingIOError:  # the backlog of a Unix socket is full
                time.sleep(0.01)

    def send(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.sendall(data)
        except OSError:
            pass  # it has dropped us, as it should

    def frame(self, sock: socket.socket) -> bytes:
        """One message; nothing at the end."""
        try:
            (size,) = struct.unpack("!i", self.exactly(sock, 4))
            message = self.exactly(sock, size)
        except (OSError, EOFError):
            return b""
        self.heard.append(message)
        return message

    def exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    @staticmethod
    def framed(data: bytes) -> bytes:
        return struct.pack("!i", len(data)) + data

    # -- Without the key

    def garbage(self, sock: socket.socket) -> None:
        self.send(sock, self.random.randbytes(self.random.randrange(1, 400)))

    def a_pickle(self, sock: socket.socket) -> None:
        for _ in range(self.random.randrange(1, 4)):
            self.send(sock, self.framed(self.bomb))

    def answer_of_a_pickle(self, sock: socket.socket) -> None:
        self.frame(sock)
        self.send(sock, self.framed(self.bomb))

    def wrong_key(self, sock: socket.socket) -> None:
        handshake = Handshake(b"another key", is_listener=False)
        for message in handshake.start():
            self.send(sock, self.framed(message))
        try:
            for _ in range(4):
                for message in handshake.receive(self.frame(sock)):
                    self.send(sock, self.framed(message))
        except Exception:
            pass
        self.send(sock, self.framed(self.bomb))

    def replay(self, sock: socket.socket) -> None:
        for message in self.random.sample(self.heard, min(3, len(self.heard))):
            self.send(sock, self.framed(message))
        self.send(sock, self.framed(self.bomb))

    def reflection(self, sock: socket.socket) -> None:
        """Has it answer its own challenge."""
        for _ in range(3):
            message = self.frame(sock)
            if not message:
                return
            self.send(sock, self.framed(message))

    def truncated(self, sock: socket.socket) -> None:
        self.send(sock, self.framed(b"x" * 40)[: self.random.randrange(1, 44)])
        sock.shutdown(socket.SHUT_WR)

    def oversized(self, sock: socket.socket) -> None:
        sizes = (257, 1 << 20, (1 << 31) - 1, -1, -2, -(1 << 31))
        self.send(sock, struct.pack("!i", self.random.choice(sizes)) + self.bomb * 20)

    def half_open(self, sock: socket.socket) -> None:
        self.open.append(sock.dup())

    def drip(self, sock: socket.socket) -> None:
        data = self.framed(b"#CHALLENGE#" + b"x" * 20)
        for byte in data[: self.random.randrange(1, 12)]:
            self.send(sock, bytes([byte]))
            time.sleep(0.002)

    # -- With the key

    def with_key(self) -> Any:
        return Client(self.address, authkey=KEY, timeout=5)

    def broken_frame(self) -> None:
        with self.with_key() as connection:
            sock, _ = connection.detach()
        with sock:
            self.send(sock, self.random.choice([
                struct.pack("!i", -1) + b"\xff" * 8,
                struct.pack("!i", -7) + b"rest",
                struct.pack("!i", 1 << 30) + b"little",
                struct.pack("!i", -1) + struct.pack("!Q", 1 << 40),
                self.random.randbytes(200),
                b"\0",
            ]))  # fmt: skip

    def end_in_the_middle(self) -> None:
        with self.with_key() as connection:
            sock, _ = connection.detach()
        with sock:
            self.send(sock, struct.pack("!i", 1000) + b"x" * self.random.randrange(1000))

    def too_long(self) -> None:
        with self.with_key() as connection:
            try:
                connection.send_bytes(bytes(2 << 20))
                connection.recv_bytes()
            except (OSError, EOFError):
                return
            raise AssertionError("a message longer than max_message was taken")

    # -- What has to hold

    def good_client(self) -> None:
        start = time.monotonic()
        with Client(self.address, authkey=KEY, timeout=5) as connection:
            word = self.random.randbytes(50)
            connection.send_bytes(word)
            assert connection.recv_bytes() == word
        self.slowest = max(self.slowest, time.monotonic() - start)
        assert self.slowest < PATIENCE, f"a good client waited for {self.slowest:.2f} s"

    def facts(self) -> tuple[int, int]:
        """Descriptors and threads of the listener's process. The last client may not yet be gone from there."""
        with self.with_key() as connection:
            connection.send_bytes(b"facts")
            descriptors, threads = connection.recv_bytes().split()
            return int(descriptors), int(threads)

    def facts_at_rest(self) -> tuple[int, int]:
        """The fewest of several looks."""
        looks = []
        for _ in range(5):
            looks.append(self.facts())
            time.sleep(0.02)
        descriptors, threads = zip(*looks, strict=True)
        return min(descriptors), min(threads)

    def attack(self) -> None:
        self.attacks += 1
        without = (
            *(
                self.garbage,
                self.a_pickle,
                self.answer_of_a_pickle,
                self.wrong_key,
                self.replay,
                self.reflection,
            ),
            *(self.truncated, self.oversized, self.half_open, self.drip),
        )
        if self.random.random() < 0.25:
            self.random.choice((self.broken_frame, self.end_in_the_middle, self.too_long))()
            return
        with self.connect() as sock:
            self.random.choice(without)(sock)

    def silence(self) -> None:
        self.open += [self.connect() for _ in range(SILENT)]

    def hang_up(self) -> None:
        for sock in self.open:
            sock.close()
        self.open.clear()


def fuzz(address: Any, seconds: float, seed: int, folder: str) -> str:
    mark = os.path.join(folder, "unpickled")
    report = processing.SimpleQueue()
    process = processing.Process(target=serve, args=(address, report))
    process.start()
    try:
        fuzzer = Fuzzer(report.get(), seed, mark)
        fuzzer.good_client()
        before = fuzzer.facts_at_rest()
        fuzzer.silence()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fuzzer.attack()
            if fuzzer.attacks % 5 == 0:
                fuzzer.good_client()
        fuzzer.good_client()
        fuzzer.hang_up()
        end = time.monotonic() + 10
        while (after := fuzzer.facts_at_rest()) != before:
            assert time.monotonic() < end, f"descriptors and threads: {before} before, {after} after"
        assert not os.path.exists(mark), "bytes of a stranger were unpickled"
        with fuzzer.with_key() as connection:
            connection.send_bytes(b"end")
        process.join(10)
        assert process.exitcode == 0, f"the listener ended with {process.exitcode}"
        return f"{fuzzer.attacks} attacks, a good client waited {fuzzer.slowest * 1000:.0f} ms at most"
    finally:
        if process.is_alive():
            process.kill()
            process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with tempfile.TemporaryDirectory() as folder:
        for address in (os.path.join(folder, "socket"), ("127.0.0.1", 0)):
            print(
                "unix" if isinstance(address, str) else "tcp",
                fuzz(address, options.seconds / 2, options.seed, folder),
                flush=True,
            )
    print("fuzz: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
