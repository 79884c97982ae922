"""Proving to each other that both ends of a connection know one key, without sending it.

A `Handshake` is pure: messages go in, messages to send come out. A `Negotiation` takes them to and from a socket that
does not block, after a TLS handshake if that is a TLS socket. The messages are those of the standard library, so either
end may be `multiprocessing` of any Python 3:

    listener                                                     client
       "#CHALLENGE#" + nonce ---------------------------------------->
       <---------------------------------------- answer: HMAC of the nonce
       "#WELCOME#" or "#FAILURE#" ----------------------------------->
       <-------------------------------------- "#CHALLENGE#" + its nonce
       answer: HMAC of the nonce ------------------------------------>
       <------------------------------------- "#WELCOME#" or "#FAILURE#"

    Python 3.11 and older   nonce: 20 random bytes      answer: HMAC-MD5, 16 bytes, and nothing else
    Python 3.12 and newer   nonce: "{sha256}" + random  answer: "{sha256}" + HMAC-SHA256 (the whole nonce is hashed)

Our own nonce is a "{sha256}" one that goes on with "processing/1:", a letter for the role of its maker, and 32 random
bytes. To the standard library all of that is randomness, which it hashes. To us it says that the peer is this package
(`Handshake.peer_is_ours`), and who may ask it: a listener that is asked for an answer to a listener's nonce is being
used as an oracle (reflection), and refuses. Cutting the mark out on the way makes the answer wrong.

Whoever answers HMAC-MD5 gets in too, as older Pythons know nothing else; MD5 is not broken as a HMAC.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct

from .errors import AuthenticationError

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "MAX_MESSAGE",
    "Gone",
    "Handshake",
    "Negotiation",
    "PeerCredentials",
    "answer_challenge",
    "check_key",
    "credentials_of",
    "deliver_challenge",
    "prepare",
]

MAX_MESSAGE = 256  # bytes; a longer message before authentication is an attack or a mistake

CHALLENGE = b"#CHALLENGE#"
WELCOME = b"#WELCOME#"
FAILURE = b"#FAILURE#"

DIGESTS = frozenset({"md5", "sha256", "sha384", "sha3_256", "sha3_384"})
OLD_NONCE = 20  # bytes of a nonce of Python 3.11 and older
OLD_ANSWER = 16  # bytes of a HMAC-MD5
LONGEST_NAME = max(map(len, DIGESTS))

MARK = b"{sha256}processing/1:"
LISTENER, CLIENT, EITHER = b"L", b"C", b"-"

REJECTED = "the peer rejected our answer: the two ends have different keys (authkey)"
WRONG = "the peer's answer is wrong: the two ends have different keys (authkey)"


class PeerCredentials(tuple[int, int, int]):
    """Who made the other end of a Unix socket: (pid, uid, gid) when it connected, or began to listen."""

    __slots__ = ()
    pid = property(lambda self: self[0], doc="The process; 0 if it is in another PID namespace.")
    uid = property(lambda self: self[1], doc="Its effective user.")
    gid = property(lambda self: self[2], doc="Its effective group.")

    def __repr__(self) -> str:
        return f"PeerCredentials(pid={self[0]}, uid={self[1]}, gid={self[2]})"


def credentials_of(sock: socket.socket) -> PeerCredentials | None:
    """SO_PEERCRED; None if that is no Unix socket."""
    if sock.family != socket.AF_UNIX:
        return None
    return PeerCredentials(
        struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    )


def check_key(authkey: object) -> bytes:
    """The key, if it is one. TypeError if it is not bytes, ValueError if it is empty."""
    if not isinstance(authkey, bytes):
        raise TypeError(f"authkey should be a byte string, not {type(authkey).__name__}")
    if not authkey:
        raise ValueError("authkey is empty: anybody would know it")
    return bytes(authkey)


def make_nonce(role: bytes = EITHER) -> bytes:
    """A new nonce that says we made it, and as what."""
    return MARK + role + os.urandom(32)


def answer_to(authkey: bytes, nonce: bytes) -> bytes:
    """The proof, for whoever made `nonce`, that we know the key. AuthenticationError if that is no nonce."""
    if len(nonce) < OLD_NONCE:
        raise AuthenticationError(f"the peer's challenge is too short: {len(nonce)} bytes")
    if len(nonce) == OLD_NONCE:
        try:
            return hmac.digest(authkey, nonce, "md5")
        except ValueError:  # a system that forbids MD5; the peer will hardly know what this is
            return b"{sha256}" + hmac.digest(authkey, nonce, "sha256")
    name = _digest_of(nonce)[0]
    return b"{%s}" % name.encode() + hmac.digest(authkey, nonce, name)


def is_right(authkey: bytes, nonce: bytes, answer: bytes) -> bool:
    """Whether `answer` proves that its sender knows the key. AuthenticationError if it is of no known form."""
    name, proof = ("md5", answer) if len(answer) == OLD_ANSWER else _digest_of(answer)
    try:
        expected = hmac.digest(authkey, nonce, name)
    except ValueError:
        raise AuthenticationError(f"the peer's answer uses {name}, which this system forbids") from None
    return hmac.compare_digest(expected, proof)


def _digest_of(message: bytes) -> tuple[str, bytes]:
    """The name in braces that a message begins with, and the rest."""
    end = message.find(b"}", 1, LONGEST_NAME + 2)
    if message[:1] == b"{" and end > 0:
        name = message[1:end].decode("latin-1")
        if name in DIGESTS:
            return name, message[end + 1 :]
    raise AuthenticationError(f"the peer's message names no digest that is allowed: {message[:40]!r}")


def nonce_in(message: bytes) -> bytes:
    """The nonce of a challenge. AuthenticationError if it is something else."""
    if not message.startswith(CHALLENGE):
        raise AuthenticationError(
            f"expected a challenge, got {message[:40]!r}: does the peer use a key (authkey) at all?"
        )
    return message[len(CHALLENGE) :]


class Handshake:
    """One end's side of the exchange.

    `start()` gives what to send first; `receive(message)` what to send next, as a list of messages. Done when `done`;
    whatever the peer sends after that is no longer part of the handshake. `receive` raises AuthenticationError, once:
    what is then in `farewell` may still be sent, for the peer to know. One message of more than MAX_MESSAGE bytes fails
    too; callers should not even read so much.
    """

    __slots__ = ("_key", "_nonce", "_state", "done", "farewell", "is_listener", "peer_is_ours")

    def __init__(self, authkey: bytes, *, is_listener: bool) -> None:
        self._key = check_key(authkey)
        self.is_listener = is_listener
        self.done = False
        # Known when done: the peer is this package, not the standard library.
        self.peer_is_ours = False
        self.farewell: list[bytes] = []
        self._nonce = make_nonce(LISTENER if is_listener else CLIENT)
        self._state = "new"

    def start(self) -> list[bytes]:
        """What to send at the beginning: a listener's challenge; a client waits for it."""
        if self._state != "new":
            raise ValueError("this handshake has begun already")
        if self.is_listener:
            return self._challenge()
        self._state = "wait for challenge"
        return []

    def receive(self, message: bytes) -> list[bytes]:
        """What to send after this message of the peer. ValueError if nothing was expected any more."""
        if self.done or self._state in ("new", "failed"):
            raise ValueError("this handshake expects no message")
        try:
            if len(message) > MAX_MESSAGE:
                raise AuthenticationError(f"the peer's message is too long: {len(message)} bytes")
            return self._step(message)
        except AuthenticationError:
            self._state = "failed"
            raise

    def _step(self, message: bytes) -> list[bytes]:
        if self._state == "wait for answer":
            self._judge(message)
            if self.is_listener:
                self._state = "wait for challenge"
            else:
                self.done = True
            return [WELCOME]
        if self._state == "wait for challenge":
            nonce = nonce_in(message)
            self._refuse_reflection(nonce)
            answer = answer_to(self._key, nonce)
            self.peer_is_ours = nonce.startswith(MARK)
            self._state = "wait for welcome"
            return [answer]
        if message != WELCOME:
            raise AuthenticationError(REJECTED)
        if self.is_listener:
            self.done = True
            return []
        return self._challenge()

    def _challenge(self) -> list[bytes]:
        self._state = "wait for answer"
        return [CHALLENGE + self._nonce]

    def _judge(self, answer: bytes) -> None:
        try:
            if not is_right(self._key, self._nonce, answer):
                raise AuthenticationError(WRONG)
        except AuthenticationError:
            self.farewell = [FAILURE]
            raise

    def _refuse_reflection(self, nonce: bytes) -> None:
        mine = MARK + (LISTENER if self.is_listener else CLIENT)
        if hmac.compare_digest(nonce, self._nonce) or nonce.startswith(mine):
            raise AuthenticationError(
                "the peer sent back a challenge of our own side: it does not know the key"
            )

    def __repr__(self) -> str:
        role = "listener" if self.is_listener else "client"
        return f"<Handshake {role}: {'done' if self.done else self._state}>"


def deliver_challenge(connection: Any, authkey: bytes) -> None:
    """Asks the other end to prove that it knows the key, and judges. Blocks for its answer.

    AuthenticationError if the answer is wrong; whatever `recv_bytes` raises otherwise.
    """
    key = check_key(authkey)
    nonce = make_nonce()
    connection.send_bytes(CHALLENGE + nonce)
    answer = connection.recv_bytes(MAX_MESSAGE)
    try:
        if not is_right(key, nonce, answer):
            raise AuthenticationError(WRONG)
    except AuthenticationError:
        connection.send_bytes(FAILURE)
        raise
    connection.send_bytes(WELCOME)


def answer_challenge(connection: Any, authkey: bytes) -> None:
    """Proves to the other end that we know the key. Blocks for its challenge and its verdict.

    AuthenticationError if it sends no challenge, or rejects the answer; whatever `recv_bytes` raises otherwise.
    """
    key = check_key(authkey)
    connection.send_bytes(answer_to(key, nonce_in(connection.recv_bytes(MAX_MESSAGE))))
    if connection.recv_bytes(MAX_MESSAGE) != WELCOME:
        raise AuthenticationError(REJECTED)


# ---- Over a socket ---------------------------------------------------------------------------------------------------


def prepare(sock: socket.socket) -> None:
    """On TCP: no delay, and a peer whose machine is gone is noticed after about 11 seconds, also in mid-send."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 11_000),
    ):
        sock.setsockopt(level, option, value)


def acknowledge(sock: socket.socket) -> None:
    """On TCP: tells the peer at once what has come. The last word of a handshake and the first message are two small
    packets; a peer that delays small packets sends the second one when the first is acknowledged."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def is_readable(sock: socket.socket) -> bool:
    """Whether something waits there: data, a connection, the end."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


class Gone(Exception):
    """The peer has left, or speaks something else."""


class Negotiation:
    """One connection on its way to be a SocketConnection. `step()` goes as far as it can without blocking."""

    def __init__(
        self, sock: socket.socket, address: Any, handshake: Handshake | None, deadline: float | None
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.address = address
        self.deadline = deadline
        self.handshake = handshake
        self._tls = hasattr(sock, "do_handshake")
        self._output = b"" if handshake is None else _frames(handshake.start())
        self._input = bytearray()
        # What it waits for, once step() has returned False.
        self.events = select.POLLIN

    @property
    def stage(self) -> str:
        """For messages."""
        return "TLS handshake" if self._tls else "authentication"

    def step(self) -> bool:
        """True when all is done. AuthenticationError; Gone, or an OSError, if nothing will come of it."""
        try:
            if self._tls:
                self.sock.do_handshake()  # type: ignore[attr-defined]
                self._tls = False
            while True:
                while self._output:
                    self.events = select.POLLOUT
                    self._output = self._output[self.sock.send(self._output) :]
                self.events = select.POLLIN
                if self.handshake is None or self.handshake.done:
                    return True
                self._read(self.handshake)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                return False
            kind = type(error).__name__
            if kind not in ("SSLWantReadError", "SSLWantWriteError"):
                raise
            self.events = select.POLLIN if kind == "SSLWantReadError" else select.POLLOUT
            return False

    def _read(self, handshake: Handshake) -> None:
        """Reads on in the current message, and not a byte further: what follows the last one is not ours."""
        size = int.from_bytes(self._input[:4], "big", signed=True) if len(self._input) >= 4 else 0
        data = self.sock.recv(4 + size - len(self._input))
        if not data:
            raise Gone("it closed the connection")
        self._input += data
        if len(self._input) < 4:
            return
        size = int.from_bytes(self._input[:4], "big", signed=True)
        if not 0 < size <= MAX_MESSAGE:
            raise Gone(f"it sent a message of {size} bytes before it was authenticated")
        if len(self._input) < 4 + size:
            return
        message = bytes(self._input[4:])
        self._input.clear()
        try:
            self._output += _frames(handshake.receive(message))
        except AuthenticationError:
            try:
                self.sock.send(_frames(handshake.farewell))
            except OSError:
                pass
            raise


def _frames(messages: list[bytes]) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)
