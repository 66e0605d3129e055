"""What a process must be told before it loads torch and starts threads."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

from beamside.compute import heap


def prepare() -> None:
    """Threads that wait do not spin, and share one heap."""
    # Idle OpenMP threads that spin take the processor from the lanes; this must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    heap.share()


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
