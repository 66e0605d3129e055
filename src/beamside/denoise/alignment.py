"""How far the second image of a pair is displaced against the first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.denoise.normalise import Scale

REACH_PX = 32
"""Largest displacement that is looked for."""
_WINDOW_PX = 1024
_HIGH_CUT, _LOW_CUT = 1 / 12, 1 / 200
"""Band in cycles a pixel: below it lie gradients of illumination, above it noise."""


@dataclass(frozen=True)
class Displacement:
    """A feature at (y, x) of the first image lies at (y + dy, x + dx) of the second.

    significance: height of the peak of the cross-correlation over the root mean square of the map beyond REACH_PX.
    """

    dy_px: float
    dx_px: float
    significance: float

    @property
    def length_px(self) -> float:
        """Of the vector."""
        return float(np.hypot(self.dy_px, self.dx_px))


def displacement(first: NDArray[Any], second: NDArray[Any], scale: Scale) -> Displacement:
    """From the cross-correlation of the two images (H, W) on their scale, band-passed, averaged over windows.

    The peak is refined to a fraction of a pixel by a parabola through its neighbours on each axis.
    """
    side = min(*first.shape, _WINDOW_PX)
    total: Tensor = torch.zeros(side, side)
    for rows in _windows(first.shape[0], side):
        for columns in _windows(first.shape[1], side):
            places = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
            one, other = (scale.normalise(image[rows, columns], *places) for image in (first, second))
            total = total + _correlate(one, other)
    # Noise at far lags is weaker, since the tapers overlap less there; after this it has one variance everywhere.
    return _peak(total * _evening(side))


@lru_cache(maxsize=1)
def _taper(side: int) -> Tensor:
    taper = torch.hann_window(side, periodic=False)
    return taper[:, None] * taper


@lru_cache(maxsize=1)
def _band(side: int) -> Tensor:
    k2 = torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side)[None] ** 2
    band: Tensor = torch.exp(-k2 / (2 * (_HIGH_CUT / 2) ** 2)) * (1 - torch.exp(-k2 / (2 * _LOW_CUT**2)))
    return band


@lru_cache(maxsize=1)
def _evening(side: int) -> Tensor:
    overlap = torch.fft.irfft2(torch.fft.rfft2(_taper(side).square()).abs().square(), s=(side, side))
    evening: Tensor = (overlap / overlap[0, 0]).clamp(min=1e-3).rsqrt()
    return evening


def _windows(length: int, side: int) -> list[slice]:
    """At most two windows an axis: they cover enough, and cost little for the largest detectors."""
    starts = {0, length - side} if length >= 2 * side else {(length - side) // 2}
    return [slice(start, start + side) for start in sorted(starts)]


def _correlate(first: NDArray[Any], second: NDArray[Any]) -> Tensor:
    side = first.shape[0]
    spectra = []
    for image in (first, second):
        pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        spectra.append(torch.fft.rfft2((pixels - pixels.mean()) * _taper(side)))
    found: Tensor = torch.fft.irfft2(spectra[0].conj() * spectra[1] * _band(side), s=(side, side))
    return found


def _peak(correlation: Tensor) -> Displacement:
    reach = min(REACH_PX, correlation.shape[0] // 8)
    wide = _lags(correlation, 3 * reach)
    inner = wide[2 * reach : -2 * reach, 2 * reach : -2 * reach]
    at = int(inner.argmax())
    row, column = at // inner.shape[1] + 2 * reach, at % inner.shape[1] + 2 * reach
    around = float(wide.double().square().sum() - inner.double().square().sum())
    noise = (around / (wide.numel() - inner.numel())) ** 0.5
    dy = row - 3 * reach + _vertex(wide[row - 1 : row + 2, column])
    dx = column - 3 * reach + _vertex(wide[row, column - 1 : column + 2])
    return Displacement(dy, dx, float(wide[row, column]) / max(noise, 1e-30))


def _lags(correlation: Tensor, reach: int) -> Tensor:
    """(2 reach + 1, 2 reach + 1): lags -reach .. reach of a correlation whose lag 0 is in the corner."""
    return torch.roll(correlation, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def _vertex(three: Tensor) -> float:
    """Where the parabola through values at -1, 0, 1 has its top."""
    low, mid, high = (float(v) for v in three)
    bend = low - 2 * mid + high
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, 0.5 * (low - high) / bend))
