"""The network's result and the image itself, each weighed by frequency, for pairs of unequal noise.

A frame of a hundredth of the dose says so little that a network which learned from a few of them is in some bands below
the best linear filter. So the two are added with weights that depend on the frequency alone, those that come nearest to
the partner over training micrographs (least squares): with weight 0 for the network it is the best linear filter, with
weight 0 for the image the network with the best gain, so over what it was fitted to it is worse than neither. The
two images of a pair get weights of their own. Which of them a later image is like, its grain says: how strong its
coarse contrast is beside its noise.

Frequencies are those of the discrete cosine transform, which is a filter of the image mirrored at its borders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

Image = NDArray[np.float32]
KNOTS_PER_PX = tuple(float(value) for value in np.geomspace(1 / 256, 1 / 6, 25))
"""Frequencies at which weights are fitted, in cycles a pixel; between them linear in the logarithm."""
LOWEST_PER_PX = 1 / 4096
"""Coarser than any micrograph; frequencies below count as this."""
_BLOCK_PX, _LAG_BLOCKS = 8, 2
_LEAST_PX = 64
_BAND_ROWS = 256


@dataclass(frozen=True)
class Weights:
    """For images of one grain: what the network's result and what the image count at each of the frequencies."""

    grain: float
    network: tuple[float, ...]
    image: tuple[float, ...]


@dataclass(frozen=True)
class Blend:
    """Weights by grain, rising, at frequencies `knots_per_px`, rising too."""

    kinds: tuple[Weights, ...]
    knots_per_px: tuple[float, ...] = KNOTS_PER_PX

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"knots_per_px": list(self.knots_per_px), "kinds": [asdict(kind) for kind in self.kinds]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse.

        Raises:
            ValueError: not as many weights as frequencies, or frequencies that do not rise.
        """
        kinds = [
            Weights(float(kind["grain"]), tuple(map(float, kind["network"])), tuple(map(float, kind["image"])))
            for kind in values["kinds"]
        ]
        counts = {len(part) for kind in kinds for part in (kind.network, kind.image)}
        knots = tuple(map(float, values["knots_per_px"]))
        rising = all(low < high for low, high in pairwise((0.0, *knots)))
        if not kinds or counts != {len(knots)} or not rising:
            raise ValueError("its weights are not one for each of its frequencies")
        return cls(tuple(kinds), knots)

    def at(self, grain: float) -> Weights:
        """Those for an image of this grain: between two kinds linear in the logarithm, beyond them the nearest."""
        known = np.log([kind.grain for kind in self.kinds])
        parts = [np.array([getattr(kind, name) for kind in self.kinds]) for name in ("network", "image")]
        found = [tuple(float(np.interp(np.log(grain), known, column)) for column in part.T) for part in parts]
        return Weights(grain, *found)

    def add_to(self, output: Image, image: Image) -> None:
        """Turn the network's `output` (H, W) into the sum, in place; `image` is what the network saw, on one scale."""
        output += self.change(output.copy(), image.copy())

    def change(self, output: Image, image: Image) -> Image:
        """What is to be added to the output for the sum. Both images are used up."""
        if min(output.shape) < _LEAST_PX:
            return np.zeros_like(output)
        weights, shape = self.at(grain_of(image)), output.shape
        bands = [slice(at, at + _BAND_ROWS) for at in range(0, shape[0], _BAND_ROWS)]
        spectrum: Image = dctn(output, norm="ortho", overwrite_x=True)
        own: Image = dctn(image, norm="ortho", overwrite_x=True)
        for band in bands:
            spectrum[band] *= self._over(weights.network, shape, band) - 1
            spectrum[band] += own[band] * self._over(weights.image, shape, band)
        back: Image = idctn(spectrum, norm="ortho", overwrite_x=True)
        return back

    def _over(self, values: Sequence[float], shape: tuple[int, ...], band: slice) -> Image:
        """Weights at the frequencies of rows `band` of a transform of this shape."""
        y, x = (np.arange(size, dtype=np.float32) / (2 * size) for size in shape)
        frequency = np.maximum(np.hypot(y[band, None], x), LOWEST_PER_PX)
        return np.interp(np.log(frequency), np.log(self.knots_per_px), values).astype(np.float32)


def grain_of(image: Image) -> float:
    """Spread of differences between means of 8 x 8 pixels, 16 pixels apart, over that of the pixels; robust.

    0.18 for white noise, more where anything coarse is to be seen.
    """
    height, width = (size // _BLOCK_PX for size in image.shape)
    whole = image[: height * _BLOCK_PX, : width * _BLOCK_PX]
    means = whole.reshape(height, _BLOCK_PX, width, _BLOCK_PX).mean((1, 3), dtype=np.float64)
    lag = _LAG_BLOCKS
    coarse = np.concatenate([(means[lag:] - means[:-lag]).ravel(), (means[:, lag:] - means[:, :-lag]).ravel()])
    fine = np.abs(image[::3, ::3] - np.median(image[::3, ::3]))
    return max(float(np.median(np.abs(coarse)) / max(float(np.median(fine)), 1e-30)), 1e-6)
