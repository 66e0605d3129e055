"""Whole two-dimensional transforms of waves, unnormalised, for what does not go in one visit.

Torch is faster, and takes longer to import than many a scan to open: it is asked for frames that go the long way in
every iteration, and scipy for the few transforms of others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Waves = NDArray[np.complex64]


class Whole(NamedTuple):
    """forward, backward: of (..., N, N) complex64, both without a factor. one_thread: to be called in each lane."""

    forward: Callable[[Waves], Waves]
    backward: Callable[[Waves], Waves]
    one_thread: Callable[[], None]


def by_torch() -> Whole:
    """Transforms by torch, which is imported here."""
    import torch

    def forward(waves: Waves) -> Waves:
        return np.asarray(torch.fft.fft2(torch.from_numpy(waves)).numpy())

    def backward(waves: Waves) -> Waves:
        return np.asarray(torch.fft.ifft2(torch.from_numpy(waves), norm="forward").numpy())

    return Whole(forward, backward, lambda: torch.set_num_threads(1))


def by_scipy() -> Whole:
    """Transforms by scipy, which has one thread unless more are asked for."""
    from scipy import fft

    def forward(waves: Waves) -> Waves:
        return np.asarray(fft.fft2(waves))

    def backward(waves: Waves) -> Waves:
        return np.asarray(fft.ifft2(waves, norm="forward"))

    return Whole(forward, backward, lambda: None)
