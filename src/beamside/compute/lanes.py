"""Blocks of items over a fixed number of lanes, so that sums do not depend on how many threads there are.

Lane l takes the blocks l, l + LANES, ... in order, whoever runs it; the caller adds the results up in lane order.
Every lane computes with one thread: on small matrix products many single threads beat one threaded product.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
LANES = 4
BLOCK_ITEMS = 256


def available_threads(requested: int | None) -> int:
    """Threads to use: what was asked for, else the processors this process may run on."""
    return requested or len(os.sched_getaffinity(0))


def blocks(count: int, size: int) -> list[slice]:
    """0..count cut into slices of `size`, the last one shorter."""
    return [slice(at, min(count, at + size)) for at in range(0, count, size)]


def over_lanes(work: Callable[[Sequence[slice]], T], pieces: Sequence[slice], threads: int) -> list[T]:
    """`work` on each lane's blocks; the results in lane order. Exceptions pass through."""
    import torch  # where it is needed: importing it takes longer than many a small piece of work

    lanes = [pieces[lane::LANES] for lane in range(min(LANES, max(1, len(pieces))))]
    torch.set_num_threads(1)
    if threads == 1 or len(lanes) == 1:
        return [work(lane) for lane in lanes]
    with ThreadPoolExecutor(min(threads, len(lanes)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, lanes))
