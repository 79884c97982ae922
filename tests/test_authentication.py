"""The handshake, as messages only."""

from __future__ import annotations

import hmac
import os
from typing import Any

import pytest

from processing.authentication import (
    CHALLENGE,
    DIGESTS,
    FAILURE,
    MARK,
    WELCOME,
    Handshake,
    answer_challenge,
    answer_to,
    deliver_challenge,
    is_right,
)
from processing.errors import AuthenticationError

KEY = b"a key"


def pair(listener_key: bytes = KEY, client_key: bytes = KEY) -> tuple[Handshake, Handshake]:
    return Handshake(listener_key, is_listener=True), Handshake(client_key, is_listener=False)


def converse(listener: Handshake, client: Handshake) -> list[bytes]:
    """Carries messages until nobody has one; -> all of them."""
    log: list[bytes] = []
    to_client, to_listener = listener.start(), client.start()
    while to_client or to_listener:
        log += to_client + to_listener
        answers = [part for message in to_client for part in client.receive(message)]
        to_client = [part for message in to_listener for part in listener.receive(message)]
        to_listener = answers
    return log


def test_both_are_ours() -> None:
    listener, client = pair()
    log = converse(listener, client)
    assert listener.done and client.done
    assert listener.peer_is_ours and client.peer_is_ours
    assert len(log) == 6
    assert all(len(message) <= 256 for message in log)
    assert log[0].startswith(CHALLENGE + MARK + b"L") and log[3].startswith(CHALLENGE + MARK + b"C")
    assert KEY not in b"".join(log)


def test_nonces_are_never_the_same() -> None:
    nonces = {Handshake(KEY, is_listener=True).start()[0] for _ in range(100)}
    assert len(nonces) == 100


@pytest.mark.parametrize("digest", sorted(DIGESTS))
def test_a_peer_with_another_digest(digest: str) -> None:
    listener = Handshake(KEY, is_listener=True)
    nonce = listener.start()[0][len(CHALLENGE) :]
    assert listener.receive(b"{%s}" % digest.encode() + hmac.digest(KEY, nonce, digest)) == [WELCOME]
    theirs = b"{%s}" % digest.encode() + bytes(40)
    (answer,) = listener.receive(CHALLENGE + theirs)
    assert answer == b"{%s}" % digest.encode() + hmac.digest(KEY, theirs, digest)
    assert listener.receive(WELCOME) == []
    assert listener.done and not listener.peer_is_ours


def test_an_old_peer() -> None:
    listener = Handshake(KEY, is_listener=True)
    nonce = listener.start()[0][len(CHALLENGE) :]
    assert listener.receive(hmac.digest(KEY, nonce, "md5")) == [WELCOME]
    theirs = os.urandom(20)
    assert listener.receive(CHALLENGE + theirs) == [hmac.digest(KEY, theirs, "md5")]
    listener.receive(WELCOME)
    assert listener.done and not listener.peer_is_ours


def test_wrong_key() -> None:
    listener, client = pair(client_key=b"another")
    (challenge,) = listener.start()
    client.start()
    (answer,) = client.receive(challenge)
    with pytest.raises(AuthenticationError, match="different keys"):
        listener.receive(answer)
    assert listener.farewell == [FAILURE]
    with pytest.raises(AuthenticationError, match="rejected"):
        client.receive(FAILURE)
    for end in (listener, client):
        assert not end.done
        with pytest.raises(ValueError):
            end.receive(WELCOME)


def test_a_client_notices_a_listener_without_the_key() -> None:
    client = Handshake(KEY, is_listener=False)
    client.start()
    client.receive(CHALLENGE + os.urandom(20))
    (challenge,) = client.receive(WELCOME)
    with pytest.raises(AuthenticationError):
        client.receive(hmac.digest(b"guess", challenge[len(CHALLENGE) :], "md5"))
    assert client.farewell == [FAILURE]


def test_reflected_challenge() -> None:
    """Our own nonce, and those of other connections in the same role."""
    for reflected in (None, Handshake(KEY, is_listener=True).start()[0]):
        listener = Handshake(KEY, is_listener=True)
        (mine,) = listener.start()
        listener.receive(answer_to(KEY, mine[len(CHALLENGE) :]))
        with pytest.raises(AuthenticationError, match="sent back"):
            listener.receive(reflected or mine)
    first, second = Handshake(KEY, is_listener=False), Handshake(KEY, is_listener=False)
    first.start(), second.start()
    first.receive(CHALLENGE + os.urandom(20))
    (of_a_client,) = first.receive(WELCOME)
    with pytest.raises(AuthenticationError, match="sent back"):
        second.receive(of_a_client)


def test_replayed_answer() -> None:
    first, second = Handshake(KEY, is_listener=True), Handshake(KEY, is_listener=True)
    answer = answer_to(KEY, first.start()[0][len(CHALLENGE) :])
    second.start()
    assert first.receive(answer) == [WELCOME]
    with pytest.raises(AuthenticationError):
        second.receive(answer)


def test_the_mark_cannot_be_cut_out() -> None:
    nonce = Handshake(KEY, is_listener=True).start()[0][len(CHALLENGE) :]
    assert not is_right(KEY, nonce, answer_to(KEY, b"{sha256}" + nonce[len(MARK) :]))


BAD_ANSWERS = [
    b"",
    b"x",
    b"{",
    b"{sha256}",
    b"{md5}",
    b"{none}" + bytes(32),
    b"{sha1}" + bytes(20),
    bytes(32),
]
BAD_ANSWERS += [
    b"{sha256" + bytes(32),
    b"{sha256}" + bytes(31),
    bytes(16),
    bytes(20),
    WELCOME,
    b"\xff" * 256,
    bytes(257),
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_bad_answers(answer: bytes) -> None:
    listener = Handshake(KEY, is_listener=True)
    listener.start()
    with pytest.raises(AuthenticationError):
        listener.receive(answer)


BAD_CHALLENGES = [
    b"",
    WELCOME,
    CHALLENGE,
    CHALLENGE + bytes(19),
    CHALLENGE + bytes(21),
    CHALLENGE + b"{sha1}" + bytes(40),
]
BAD_CHALLENGES += [
    CHALLENGE + b"{sha256" + bytes(40),
    CHALLENGE + b"{sha256}" + bytes(300),
    b"GET / HTTP/1.0\r\n\r\n",
]


@pytest.mark.parametrize("challenge", BAD_CHALLENGES)
def test_bad_challenges(challenge: bytes) -> None:
    client = Handshake(KEY, is_listener=False)
    client.start()
    with pytest.raises(AuthenticationError):
        client.receive(challenge)


@pytest.mark.parametrize("verdict", [b"", FAILURE, WELCOME + b"x", WELCOME.lower()])
def test_bad_verdicts(verdict: bytes) -> None:
    client = Handshake(KEY, is_listener=False)
    client.start()
    client.receive(CHALLENGE + bytes(20))
    with pytest.raises(AuthenticationError, match="keys"):
        client.receive(verdict)


@pytest.mark.parametrize("key", ["text", None, 7, bytearray(b"x")])
def test_keys_are_bytes(key: Any) -> None:
    with pytest.raises(TypeError, match="authkey"):
        Handshake(key, is_listener=True)


def test_empty_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        Handshake(b"", is_listener=False)


class Script:
    """A connection whose peer answers by a function."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)

    def recv_bytes(self, maxlength: int) -> bytes:
        assert maxlength == 256
        answer = self.answers.pop(0)
        return answer(self.sent) if callable(answer) else answer  # type: ignore[no-any-return]


def test_blocking_functions() -> None:
    right = Script(lambda sent: answer_to(KEY, sent[-1][len(CHALLENGE) :]))
    deliver_challenge(right, KEY)
    assert right.sent[-1] == WELCOME
    wrong = Script(lambda sent: answer_to(b"x", sent[-1][len(CHALLENGE) :]))
    with pytest.raises(AuthenticationError):
        deliver_challenge(wrong, KEY)
    assert wrong.sent[-1] == FAILURE
    asked = Script(CHALLENGE + bytes(20), WELCOME)
    answer_challenge(asked, KEY)
    assert asked.sent == [hmac.digest(KEY, bytes(20), "md5")]
    with pytest.raises(AuthenticationError):
        answer_challenge(Script(CHALLENGE + bytes(20), FAILURE), KEY)
