"""Calls of managed objects in asyncio."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from . import managerprotocol as protocol
from .managerchannels import Channel, Lost
from .managertypes import AcquirerProxy

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from .managerclient import Link
    from .proxies import BaseProxy

__all__ = ["Awaitable"]

SPARE = 16  # channels that a link keeps for tasks to come

# What tasks acquire locks with: a task is to a lock what a thread is.
_pinned: weakref.WeakKeyDictionary[asyncio.Task[Any], dict[Link, Channel]] = weakref.WeakKeyDictionary()


class Awaitable:
    """What `processing.managers.awaitable` makes."""

    __slots__ = ("_proxy",)

    def __init__(self, proxy: BaseProxy) -> None:
        self._proxy = proxy

    def __getattr__(self, name: str) -> Any:
        async def method(*args: Any, **kwds: Any) -> Any:
            return await self._call(name, args, kwds)

        method.__name__ = method.__qualname__ = name
        return method

    async def _call(self, name: str, args: tuple[Any, ...], kwds: dict[str, Any]) -> Any:
        proxy = self._proxy
        kind, result = await _round_trip(
            proxy._link, isinstance(proxy, AcquirerProxy), (proxy._id, name, args, kwds)
        )
        if kind == "#RETURN":
            return result
        if kind == "#PROXY":
            return await asyncio.to_thread(proxy._other, name, kind, result)
        raise protocol.error_of(kind, result)

    async def __aenter__(self) -> Any:
        return await self._call("acquire", (), {})

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._call("release", (), {})

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Items, in batches that grow: of sequences as they are then, of others as they were at the beginning."""
        if hasattr(self._proxy, "append") and not hasattr(self._proxy, "popleft"):
            at, size = 0, 32
            while True:
                items = await self._call("__getitem__", (slice(at, at + size),), {})
                for item in items:
                    yield item
                at += len(items)
                if len(items) < size:
                    return
                size = min(size * 4, 4096)
        for item in await self._call("#GETVALUE", (), {}):
            yield item

    def __repr__(self) -> str:
        return f"awaitable({self._proxy!r})"


async def _round_trip(link: Link, pinned: bool, request: tuple[Any, ...]) -> tuple[str, Any]:
    method = request[1]
    deadline = 0.0
    while True:
        control = link.control
        try:
            channel = await _take_channel(link, pinned)
            control = link.control
            try:
                reply = await _exchange(channel, request)
            finally:
                if not pinned and channel.is_open() and len(link.spare) < SPARE:
                    link.spare.append(channel)
            return reply
        except (Lost, OSError, EOFError) as error:
            deadline = link.failed(control, method, error, deadline)
        await asyncio.sleep(0.02)


async def _take_channel(link: Link, pinned: bool) -> Channel:
    task = asyncio.current_task()
    if pinned and task is not None:
        mine = _pinned.setdefault(task, {})
        channel = mine.get(link)
        if channel is not None and channel.is_open():
            return channel
        channel = mine[link] = await asyncio.to_thread(link.new_channel)
        return channel
    while link.spare:
        channel = link.spare.pop()
        if channel.is_open():
            return channel
    return await asyncio.to_thread(link.new_channel)


async def _exchange(channel: Channel, request: tuple[Any, ...]) -> tuple[str, Any]:
    """What would block, that is a long message on its way, does so in a thread; waiting for the reply does not."""
    loop = asyncio.get_running_loop()
    channel.busy = True
    try:
        if channel.blocks:
            await asyncio.to_thread(channel.start, *request)
        else:
            channel.start(*request)
        fd = channel.fileno()
        while not channel.has_reply():
            arrived = loop.create_future()
            loop.add_reader(fd, _wake, arrived)
            try:
                await arrived
            finally:
                loop.remove_reader(fd)
        return await asyncio.to_thread(channel.finish) if channel.blocks else channel.finish()
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.to_thread(channel.take_back, *request[:2]))
        raise
    finally:
        channel.busy = False


def _wake(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)
