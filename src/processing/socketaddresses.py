"""Addresses of listeners, and who may connect to them."""

from __future__ import annotations

import errno
import os
import secrets

from .authentication import credentials_of

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from .authentication import PeerCredentials

    Address = str | bytes | tuple[Any, ...]
    CheckPeer = bool | Callable[[PeerCredentials], bool]

__all__ = ["address_type", "arbitrary_address"]

FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX")


def is_abstract(address: object) -> bool:
    """Whether that is the name of an abstract Unix socket: one that begins with a NUL."""
    return isinstance(address, str | bytes) and address[:1] in ("\0", b"\0")


def address_type(address: object) -> str:
    """The family of an address: 'AF_UNIX' for a str (or the bytes of an abstract name), 'AF_INET6' for a tuple whose
    host has a colon or that has four items, 'AF_INET' for other tuples. ValueError for anything else."""
    if isinstance(address, tuple):
        six = len(address) == 4 or (len(address) > 0 and isinstance(address[0], str) and ":" in address[0])
        return "AF_INET6" if six else "AF_INET"
    if isinstance(address, str) and address.startswith("\\\\"):
        raise ValueError(f"{address!r} is the address of a named pipe of Windows")
    if isinstance(address, str) or is_abstract(address):
        return "AF_UNIX"
    raise ValueError(f"address type of {address!r} unrecognized")


def arbitrary_address(family: str) -> Address:
    """A free address: any port of this machine's own network, or an abstract name that nobody can guess."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_INET6":
        return ("::1", 0)
    if family == "AF_UNIX":
        return f"\0processing-{os.getpid()}-{secrets.token_hex(16)}"
    raise ValueError(f"unrecognized family: {family!r}")


def family_of(address: object, family: str | None) -> str:
    family = family or (address_type(address) if address else "AF_UNIX")
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is not one of {', '.join(FAMILIES)}")
    return family


def rule_for(address: object, check_peer: CheckPeer | None, default: bool) -> CheckPeer:
    if check_peer is None:
        return default or is_abstract(address)
    if check_peer is False and is_abstract(address):
        raise ValueError(
            "an abstract socket has no permissions, so its peers have to be checked: "
            "give check_peer a function, or use a path"
        )
    return check_peer


def is_welcome(sock: socket.socket, rule: CheckPeer) -> bool:
    credentials = credentials_of(sock) if rule is not False else None
    if credentials is None:
        return True
    if rule is True:
        return credentials.uid in (os.geteuid(), 0)
    return bool(rule(credentials))  # type: ignore[operator]


def explained(error: OSError, address: Address) -> OSError:
    text = f"{error.strerror or error}: {address!r}"
    if error.errno == errno.EADDRINUSE and isinstance(address, str | bytes) and not is_abstract(address):
        text += " (if nobody listens there, a killed process has left it behind: remove the file)"
    return OSError(error.errno, text) if error.errno is not None else error


def remove_path(path: str, device: int, inode: int) -> None:
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) == (device, inode):
            os.unlink(path)
    except OSError:
        pass
