"""Client: connecting to a Listener."""

from __future__ import annotations

import errno
import select
import socket
import time

from .authentication import Gone, Handshake, Negotiation, acknowledge, check_key, credentials_of, prepare
from .errors import AuthenticationError
from .socketaddresses import family_of, is_welcome, rule_for
from .socketconnection import SocketConnection

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    import ssl
    from typing import Any

    from .socketaddresses import Address, CheckPeer

__all__ = ["Client"]


def connection_of(negotiation: Negotiation, max_message: int | None) -> SocketConnection:
    made = SocketConnection(negotiation.sock, max_message=max_message)
    made.peer_is_processing = negotiation.handshake is not None and negotiation.handshake.peer_is_ours
    if not made.peer_is_processing:
        acknowledge(negotiation.sock)
    return made


def Client(
    address: Address,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    timeout: float | None = None,
    max_message: int | None = None,
    check_peer: CheckPeer | None = None,
) -> SocketConnection:
    """Connects to a Listener, and blocks until both ends have authenticated themselves, if there is an `authkey`.

    At most `timeout` seconds (None: as long as it takes), then TimeoutError. AuthenticationError if the keys differ, or
    if another user listens on an abstract Unix socket (`check_peer` as for Listener; here None checks only those).
    ConnectionRefusedError if nobody listens, EOFError if the listener closes the connection meanwhile. With
    `ssl_context` the listener's certificate is checked as that says, for `server_hostname`, by default the host.
    """
    family = family_of(address, family)
    rule = rule_for(address, check_peer, False)
    key = None if authkey is None else check_key(authkey)
    end = None if timeout is None else time.monotonic() + timeout
    sock = socket.socket(getattr(socket, family), socket.SOCK_STREAM)
    try:
        _connect(sock, address, end)
        if not is_welcome(sock, rule):
            raise AuthenticationError(f"{address!r} belongs to another user: {credentials_of(sock)!r}")
        prepare(sock)
        if ssl_context is not None:
            sock.setblocking(False)
            if server_hostname is None and isinstance(address, tuple):
                server_hostname = address[0]
            sock = ssl_context.wrap_socket(
                sock, server_hostname=server_hostname, do_handshake_on_connect=False
            )
        handshake = None if key is None else Handshake(key, is_listener=False)
        negotiation = Negotiation(sock, address, handshake, end)
        _finish(negotiation)
        return connection_of(negotiation, max_message)
    except BaseException:
        sock.close()
        raise


def _left(end: float | None) -> float | None:
    return None if end is None else end - time.monotonic()


def _connect(sock: socket.socket, address: Any, end: float | None) -> None:
    late = f"{address!r} did not take the connection in time; its backlog may be full"
    while True:
        left = _left(end)
        if left is not None and left <= 0:
            raise TimeoutError(late)
        try:
            if sock.family != socket.AF_UNIX:
                sock.settimeout(left)
                sock.connect(address)
                return
            # A non-blocking connect would fail at once where the backlog is full: this waits.
            seconds, micros = divmod(max(1, int((left or 0) * 1e6)) if left is not None else 0, 1_000_000)
            limit = seconds.to_bytes(8, "little") + micros.to_bytes(8, "little")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.connect(address)
            sock.getpeername()  # a signal may have made `connect` believe that it was done
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(16))
            return
        except BlockingIOError:
            raise TimeoutError(late) from None
        except TimeoutError:
            raise TimeoutError(late) from None
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise


def _finish(negotiation: Negotiation) -> None:
    """Goes on until it is done, sleeping in between."""
    try:
        while not negotiation.step():
            left = _left(negotiation.deadline)
            poller = select.poll()
            poller.register(negotiation.sock.fileno(), negotiation.events)
            if (left is not None and left <= 0) or not poller.poll(None if left is None else left * 1000):
                raise TimeoutError(
                    f"the {negotiation.stage} with {negotiation.address!r} took too long: it stalls"
                )
    except Gone as error:
        raise EOFError(
            f"no {negotiation.stage} with {negotiation.address!r}: {error} (does it use a key, and the same?)"
        ) from None
