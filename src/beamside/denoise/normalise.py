"""One scale for a micrograph and for both halves of a pair, which gold, carbon and dead pixels do not move.

The scale is that of a half (in normalised units a half has robust mean 0 and spread 1); a full sum is brought to the
halves' scale by halving it. Both halves share it, so no brightness is learned from their difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError

Pixels = NDArray[Any]
CLIP = 8.0
"""Normalised values are cut at this many spreads: gold and hot pixels stay visible, but pull no large gradients."""
_SAMPLES = 1 << 18
_ROUNDS = 8
_REJECT = 4.0
_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Scale:
    """Normalised value = (pixel - mean) / spread, both in the micrograph's units."""

    mean: float
    spread: float

    def normalise(self, pixels: Pixels) -> NDArray[np.float32]:
        """Normalised and cut at +-CLIP, float32; non-finite pixels become 0, the mean."""
        z = (np.asarray(pixels, dtype=np.float32) - np.float32(self.mean)) / np.float32(self.spread)
        np.nan_to_num(z, copy=False, nan=0.0, posinf=CLIP, neginf=-CLIP)
        return np.clip(z, -CLIP, CLIP, out=z)

    def restore(self, normalised: Pixels) -> NDArray[np.float32]:
        """Back to the micrograph's units, float32."""
        return np.asarray(normalised, dtype=np.float32) * np.float32(self.spread) + np.float32(self.mean)


def robust_scale(*images: Pixels, where: str = "") -> Scale:
    """Mean and standard deviation of the pixels of all `images` (H, W) after repeated rejection at 4 spreads.

    A regular sample of pixels is enough and the same in every process. Median and MAD start the rejection, so even
    thousands of hot or dead pixels do not hide themselves.

    Raises:
        InputError: the finite pixels are all of one value, or there are none.
    """
    parts = []
    for image in images:
        flat = np.asarray(image).reshape(-1)
        every = max(1, flat.size * len(images) // _SAMPLES)
        # An even step would see only some columns of an image whose width it divides.
        parts.append(flat[:: every + (every % 2 == 0)].astype(np.float64))
    sample = np.concatenate(parts) if parts else np.zeros(0)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise InputError("no pixel is finite.", where=where, remedy="Export this micrograph again.")
    mean = float(np.median(sample))
    spread = float(np.median(np.abs(sample - mean))) * _MAD_TO_SD
    if spread == 0:
        spread = float(sample.std())
    for _ in range(_ROUNDS):
        kept = sample[np.abs(sample - mean) <= _REJECT * spread] if spread > 0 else sample[:0]
        if not kept.size:
            break
        before = mean, spread
        mean, spread = float(kept.mean()), float(kept.std())
        if (mean, spread) == before:
            break
    if not spread > 0:
        raise InputError("all pixels have one value.", where=where, remedy="Leave this micrograph out.")
    return Scale(mean, spread)
