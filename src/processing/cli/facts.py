"""What bench and doctor say of the machine they run on. Plain reading of /proc and of what Python knows."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from ..cgroups import text_of

__all__ = ["OPTIONAL", "cpu_model", "machine", "text_of", "version_of"]

# Distribution -> what it is good for.
OPTIONAL = {
    "cloudpickle": "lambdas, closures and functions of an interactive __main__ as targets",
    "numpy": "arrays without copies",
    "tqdm": "progress bars",
    "rich": "coloured tables and programs",
    "psutil": "facts about processes",
    "threadpoolctl": "limits for the threads of numerical libraries",
    "faster-fifo": "a peer in the speed table",
    "ultradict": "a peer in the speed table",
    "loky": "a peer in the speed table",
    "mpire": "a peer in the speed table",
    "joblib": "a peer in the speed table",
}


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    for line in (text_of("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What a reader of figures wants to know, as JSON knows it."""
    import processing

    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "gil": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),
        "processing": getattr(processing, "__version__", None),
        "packages": {name: version for name in OPTIONAL if (version := version_of(name)) is not None},
    }
