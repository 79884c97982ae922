"""Managers over TLS: the server's certificate is checked, and the client's."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, child, ended
from processing import managers
from processing.managers import SyncManager
from test_listener import certificates, client_context, server_context

__all__ = ["certificates"]  # a fixture

KEY = b"a key"


@pytest.fixture
def no_context() -> Iterator[None]:
    yield
    managers.use_ssl_context(None)


def append(shared: Any) -> None:
    shared.append(processing.current_process().pid)


def test_both_ends_are_checked(certificates: Path, no_context: None) -> None:
    def context() -> ssl.SSLContext:
        return client_context(certificates, "client")

    managers.use_ssl_context(context, server_hostname="localhost")
    ctx = processing.get_context("fork")
    with SyncManager(
        ("localhost", 0), KEY, ctx=ctx, ssl_context=lambda: server_context(certificates)
    ) as manager:
        shared = manager.list([1])
        shared.append("x" * 100_000)
        assert [len(str(item)) for item in shared] == [1, 100_000]
        with child(ctx, append, shared) as process:
            process.join(LIMIT)
            ended(process)
            assert shared[-1] == process.pid

        other = SyncManager(("localhost", manager.address[1]), KEY, ssl_context=context)
        other.connect()
        with other:
            threads = [threading.Thread(target=other.list, args=[[n]]) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
                assert not thread.is_alive()


@pytest.mark.parametrize("name", [None, "rogue"])
def test_a_client_without_a_good_certificate(certificates: Path, no_context: None, name: str | None) -> None:
    managers.use_ssl_context(client_context(certificates, "client"), server_hostname="localhost")
    ctx = processing.get_context("fork")
    with SyncManager(
        ("localhost", 0), KEY, ctx=ctx, ssl_context=lambda: server_context(certificates)
    ) as manager:
        where = ("localhost", manager.address[1])
        stranger = SyncManager(where, KEY, ssl_context=client_context(certificates, name))
        with pytest.raises((OSError, EOFError)):
            stranger.connect()
        assert manager.list([1])[:] == [1]
        managers.use_ssl_context(None, where)


def test_without_tls_a_server_with_tls_is_not_reached(certificates: Path, no_context: None) -> None:
    managers.use_ssl_context(client_context(certificates, "client"), server_hostname="localhost")
    ctx = processing.get_context("fork")
    with SyncManager(
        ("localhost", 0), KEY, ctx=ctx, ssl_context=lambda: server_context(certificates)
    ) as manager:
        assert manager.list([1])[:] == [1]
        managers.use_ssl_context(None)
        plain = SyncManager(manager.address, b"another", timeout=1)
        with pytest.raises((OSError, EOFError)):
            plain.connect()
        managers.use_ssl_context(client_context(certificates, "client"), server_hostname="localhost")
