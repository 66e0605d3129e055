"""What is far darker or brighter than anything a network learns from, over more than a few pixels: ice crystals, gold.

A network that is shown such depths answers with artefacts in them and round them. So the part of the micrograph's
coarse brightness that lies beyond 2 spreads is taken away before the network and given back after it: what the network
sees has everything that is fine, on a ground that it knows. The coarse brightness is measured once for the whole
micrograph, so tiles stay invisible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from beamside.denoise.normalise import Scale

LIMIT = 2.0
"""In spreads of a half: molecules, blurred over 8 px, are within 1."""
BLOCK_PX = 4
_SIGMA_BLOCKS = 2.0
_MOST = 64.0
"""A single pixel counts at most as so many spreads, so that a hot one cannot look like a crystal."""


@dataclass(frozen=True)
class Depth:
    """values: what lies beyond the limit at the centres of blocks of 4 x 4 pixels, in spreads."""

    values: NDArray[np.float32]

    def at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """(rows, columns), in spreads, interpolated between the blocks; None where it is 0 everywhere."""
        (top, y), (left, x) = (_between(at, size) for at, size in zip((rows, columns), self.values.shape, strict=True))
        if not self.values[top.min() : top.max() + 2, left.min() : left.max() + 2].any():
            return None
        along = self.values[top] + y[:, None] * (self.values[top + 1] - self.values[top])
        return np.asarray(along[:, left] + x * (along[:, left + 1] - along[:, left]))


def depth_of(image: NDArray[Any], scale: Scale) -> Depth | None:
    """That of `image` (H, W); None where it is within the limit everywhere, as nearly all micrographs are."""
    if min(image.shape) < 2 * BLOCK_PX:
        return None
    coarse = gaussian_filter(_blocks(image, scale), _SIGMA_BLOCKS, mode="nearest")
    values = coarse - np.clip(coarse, -LIMIT, LIMIT)
    return Depth(values) if values.any() else None


def _blocks(image: NDArray[Any], scale: Scale) -> NDArray[np.float32]:
    """Means of blocks; medians where they look deep, so that lines and spots of bad pixels do not."""
    height, width = (size // BLOCK_PX for size in image.shape)
    found = np.empty((height, width), dtype=np.float32)
    for row in range(height):
        pixels = np.asarray(image[row * BLOCK_PX : (row + 1) * BLOCK_PX, : width * BLOCK_PX], dtype=np.float32)
        pixels = scale.levelled(pixels, np.arange(row * BLOCK_PX, (row + 1) * BLOCK_PX))
        z = np.nan_to_num((pixels - np.float32(scale.mean)) / np.float32(scale.spread), nan=0.0)
        blocks = np.clip(z, -_MOST, _MOST).reshape(BLOCK_PX, width, BLOCK_PX)
        found[row] = blocks.mean((0, 2))
        deep = np.abs(found[row]) > LIMIT
        if deep.any():
            found[row, deep] = np.median(blocks[:, deep], axis=(0, 2))
    return found


def _between(at: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each pixel: the block before it, and how far it is on the way to the next one's centre."""
    place = np.clip((at - (BLOCK_PX - 1) / 2) / BLOCK_PX, 0, count - 1)
    first = np.minimum(place.astype(np.int64), count - 2)
    return first, (place - first).astype(np.float32)
