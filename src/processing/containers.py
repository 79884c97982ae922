"""Containers in shared memory: SharedDict, SharedSet, SharedList, SharedDeque and SharedNamespace.

    containers    the public names
    ├─ mappings   SharedDict, its views, SharedNamespace ─┐
    ├─ sets       SharedSet                               ├──▶ nesting   plain builtins <-> shared containers
    └─ sequences  SharedList, SharedDeque                ─┘
         each over a base class of `_dict` or `_sequence`, which do single steps on the store in the arena

They behave as the builtins. A change is made whole or not at all, whoever is killed when; reading waits for nobody;
what looks at all items looks at one moment.
"""

from __future__ import annotations

from collections import deque

from .mappings import SharedDict, SharedNamespace
from .nesting import CLASSES, convert
from .sequences import SharedDeque, SharedList
from .sets import SharedSet

__all__ = [
    "CLASSES",
    "SharedDeque",
    "SharedDict",
    "SharedList",
    "SharedNamespace",
    "SharedSet",
    "convert",
    "deque",
]
