"""Descriptors on their way to another process, as `multiprocessing.resource_sharer` has them."""

from __future__ import annotations

from .reduction import DupFd

__all__ = ["DupFd", "stop"]


def stop(timeout: float | None = None) -> None:
    """Does nothing: there is no thread to be stopped (processing.fdkeeper)."""
