"""Threads share one heap, and free memory is given back to the system.

glibc raises its threshold for mapped blocks to the largest block that was ever freed (up to 32 MB), and takes what is
smaller from heaps that never shrink while anything lives above the gap. A process that reads one micrograph after
another so grows by tens of megabytes that hold nothing.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

_M_ARENA_MAX = -8
"""Parameter of mallopt(3)."""


def share() -> None:
    """One heap for all threads, where the C library can; to be called before there are any.

    A heap of its own keeps what a thread has freed, for nobody: a fifth of the memory of a classification.
    """
    mallopt = _function("mallopt")
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Free pages of all heaps to the system, where the C library can; a millisecond or so."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _function(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
