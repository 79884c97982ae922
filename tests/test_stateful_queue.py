"""Random sequences of calls on a queue, in two processes, against queue.Queue."""

from __future__ import annotations

import pickle
import queue
import select
import socket
import struct
from typing import Any

import pytest

import processing
from helpers import LIMIT

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule  # noqa: E402

pytestmark = pytest.mark.once

SMALL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=50),
    st.binary(max_size=50),
    st.lists(st.integers(), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)
# Around the borders of what is stored in which way.
LARGE = st.builds(
    lambda size, delta, kind: kind((b"ab" * size)[: max(0, size + delta)]),
    st.sampled_from([256, 4096, 16_384, 65_536, 300_000]),
    st.integers(-40, 40),
    st.sampled_from([bytes, bytearray, lambda data: data.decode()]),
)
VALUES = st.one_of(SMALL, SMALL, LARGE)
BATCHES = st.lists(VALUES, max_size=8)
WHERE = st.sampled_from(["here", "there"])


def call(messages: Any, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[str, Any]:
    """("returned", value), or ("raised", name of the exception)."""
    try:
        return "returned", getattr(messages, method)(*arguments, **options)
    except (queue.Empty, queue.Full, ValueError) as error:
        return "raised", type(error).__name__


def send(sock: socket.socket, obj: Any) -> None:
    data = pickle.dumps(obj)
    sock.sendall(struct.pack("q", len(data)) + data)


def receive(sock: socket.socket) -> Any:
    length = struct.unpack("q", sock.recv(8, socket.MSG_WAITALL))[0]
    return pickle.loads(sock.recv(length, socket.MSG_WAITALL))


def agent(sock: socket.socket, messages: Any) -> None:
    """Makes the calls that it is told of, in another process."""
    while (order := receive(sock)) is not None:
        send(sock, call(messages, *order))


class Queues(RuleBasedStateMachine):
    joinable = False

    @initialize(maxsize=st.sampled_from([0, 0, 1, 3, 10]))
    def make(self, maxsize: int) -> None:
        kind = processing.JoinableQueue if self.joinable else processing.Queue
        self.messages = kind(maxsize)
        self.oracle: queue.Queue[Any] = queue.Queue(maxsize)
        self.got = self.done = 0
        self.sock, theirs = socket.socketpair()
        self.process = processing.Process(target=agent, args=(theirs, self.messages))
        self.process.start()
        theirs.close()

    def do(self, where: str, method: str, *arguments: Any, **options: Any) -> tuple[str, Any]:
        if where == "here":
            return call(self.messages, method, arguments, options)
        send(self.sock, (method, arguments, options))
        assert select.select([self.sock], [], [], LIMIT)[0], "no answer"
        answer: tuple[str, Any] = receive(self.sock)
        return answer

    def same(self, where: str, method: str, *arguments: Any) -> None:
        expected = call(self.oracle, method, arguments, {})
        assert self.do(where, method, *arguments) == expected
        self.got += method.startswith("get") and expected[0] == "returned"

    @rule(where=WHERE, value=VALUES)
    def put(self, where: str, value: Any) -> None:
        self.same(where, "put_nowait", value)

    @rule(where=WHERE)
    def get(self, where: str) -> None:
        self.same(where, "get_nowait")

    @rule(where=WHERE, batch=BATCHES)
    def put_many(self, where: str, batch: list[Any]) -> None:
        expected: tuple[str, Any] = ("returned", None)
        for value in batch:
            try:
                self.oracle.put_nowait(value)
            except queue.Full:
                expected = ("raised", "Full")
                break
        assert self.do(where, "put_many", batch, block=False) == expected

    @rule(where=WHERE, most=st.one_of(st.none(), st.integers(1, 10)))
    def get_many(self, where: str, most: int | None) -> None:
        self.take_many(where, most)

    def take_many(self, where: str, most: int | None) -> None:
        values: list[Any] = []
        while (most is None or len(values) < most) and not self.oracle.empty():
            values.append(self.oracle.get_nowait())
        expected = ("returned", values) if values else ("raised", "Empty")
        assert self.do(where, "get_many", most, block=False) == expected
        self.got += len(values)

    @rule()
    def copy(self) -> None:
        """From now on through another handle."""
        self.messages = pickle.loads(pickle.dumps(self.messages))

    @precondition(lambda self: self.joinable and self.done < self.got)
    @rule()
    def task_done(self) -> None:
        self.messages.task_done()
        self.oracle.task_done()
        self.done += 1

    @precondition(lambda self: self.joinable and self.oracle.unfinished_tasks == 0)
    @rule(where=WHERE)
    def finished(self, where: str) -> None:
        assert self.do(where, "join")[0] == "returned"
        assert self.do(where, "task_done") == ("raised", "ValueError")

    @invariant()
    def sizes(self) -> None:
        if hasattr(self, "messages"):
            assert self.messages.qsize() == self.oracle.qsize()
            assert self.messages.empty() == self.oracle.empty()
            assert self.messages.full() == self.oracle.full()

    def teardown(self) -> None:
        if hasattr(self, "process"):
            send(self.sock, None)
            self.sock.close()
            self.process.join(LIMIT)
            assert self.process.exitcode == 0
            self.process.close()


class JoinableQueues(Queues):
    joinable = True

    @rule(where=WHERE)
    def get(self, where: str) -> None:
        # The messages are this process's: it is the one that says task_done.
        self.same("here", "get_nowait")

    @rule(where=WHERE, most=st.one_of(st.none(), st.integers(1, 10)))
    def get_many(self, where: str, most: int | None) -> None:
        self.take_many("here", most)


SETTINGS = hypothesis.settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
TestQueues = Queues.TestCase
TestQueues.settings = SETTINGS
TestJoinableQueues = JoinableQueues.TestCase
TestJoinableQueues.settings = SETTINGS
