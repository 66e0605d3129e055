"""Fourier ring correlation, and the resolution at which it falls below a threshold.

Rings are whole Fourier pixels: ring r holds the frequencies with round(|k| n) = r, after van Heel, Ultramicroscopy 21
(1987) 95-100.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beamside.optics.fourier import frequency_grid, half_plane_weights, to_fourier

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def ring_index(box_px: int, *, device: torch.device | str | None = None) -> Tensor:
    """The ring of each coefficient of a half plane, int64 (n, n//2 + 1); the corners beyond n//2 have n//2 + 1."""
    import torch

    ky, kx = frequency_grid(box_px, dtype=torch.float64, device=device)
    radius = torch.round(torch.sqrt(ky**2 + kx**2) * box_px)
    return radius.clamp(max=box_px // 2 + 1).to(torch.int64)


def ring_sums(half: Tensor, box_px: int) -> Tensor:
    """Sums of a real quantity (..., n, n//2 + 1) over the rings of the full plane, (..., n//2 + 1)."""
    weights = half_plane_weights(box_px, dtype=half.dtype, device=half.device)
    rings = ring_index(box_px, device=half.device).reshape(-1)
    sums = half.new_zeros(*half.shape[:-2], box_px // 2 + 2)
    sums.index_add_(-1, rings, (half * weights).flatten(-2))
    return sums[..., :-1]


def ring_correlation(first: Tensor, second: Tensor) -> Tensor:
    """FRC of real images (..., n, n), pair by pair: (..., n//2 + 1), 0 where a ring is empty of power."""
    import torch

    box_px = first.shape[-1]
    a, b = to_fourier(first), to_fourier(second)
    cross = ring_sums((a * b.conj()).real, box_px)
    power = ring_sums(a.abs() ** 2, box_px) * ring_sums(b.abs() ** 2, box_px)
    # Compare with the strongest ring, so that rounding noise in an empty ring does not count as a signal.
    floor = power.amax(-1, keepdim=True) * torch.finfo(power.dtype).eps ** 2
    return torch.where(power > floor, cross / torch.sqrt(power.clamp(min=torch.finfo(power.dtype).tiny)), 0.0)


def resolution_A(curve: NDArray[np.floating], box_px: int, pixel_size_A: float, threshold: float = 0.143) -> float:
    """Where a curve (n//2 + 1,) first falls below `threshold` after ring 0, interpolated linearly in frequency.

    The Nyquist resolution where it never does; infinity where it does at once, in ring 1.
    """
    values = np.asarray(curve, dtype=np.float64)[: box_px // 2 + 1]
    below = np.flatnonzero(values[1:] < threshold) + 1
    if not below.size:
        return 2.0 * pixel_size_A
    ring = int(below[0])
    if ring == 1:
        return float("inf")
    high, low = values[ring - 1], values[ring]
    crossing = ring - 1 + (high - threshold) / (high - low)
    return float(box_px * pixel_size_A / crossing)
