"""What a process must be told before it loads torch and starts threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_M_ARENA_MAX = -8
"""Parameter of mallopt(3)."""


def prepare() -> None:
    """Threads that wait do not spin, and share one heap."""
    # Idle OpenMP threads that spin take the processor from the lanes; this must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    # Each thread's heap keeps what was freed in it, for nobody: a fifth of the memory of a run. Other C libraries have
    # no such parameter.
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1)
