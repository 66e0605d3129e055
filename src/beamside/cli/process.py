"""What a process must be told before it loads torch and starts threads."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the import of an engine: no search for garbage among half a million objects that are all there to stay.

    They are searched over and over while they are made, which is a tenth of the import, and never again afterwards.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searching:
            gc.enable()
