"""Free memory is given back to the system.

glibc raises its threshold for mapped blocks to the largest block that was ever freed (up to 32 MB), and takes what is
smaller from heaps that never shrink while anything lives above the gap. A process that reads one micrograph after
another so grows by tens of megabytes that hold nothing.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Free pages of all heaps to the system, where the C library can; a millisecond or so."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
