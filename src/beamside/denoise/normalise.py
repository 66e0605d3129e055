"""One scale for a micrograph and for both halves of a pair, which gold, carbon and dead pixels do not move.

The scale is that of a half (in normalised units a half has robust mean 0 and spread 1); a full sum is brought to the
halves' scale by halving it. Both halves share it, so no brightness is learned from their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.ground import LEAST_PX, Ground, ground_of
from beamside.errors import InputError

Pixels = NDArray[Any]
Places = NDArray[np.int64]
CLIP = 8.0
"""Normalised values are cut at this many spreads: gold and hot pixels stay visible, but pull no large gradients."""
UNEQUAL = 1.15
"""Two images whose spreads differ by more have each a level of their own."""
_SAMPLES = 1 << 18
_ROUNDS = 8
_REJECT = 4.0
_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Scale:
    """Normalised value = (pixel - mean - ground) / spread, all in the micrograph's units.

    ground: how the mean changes over the field; None where it does not to speak of. `rows` and `columns` say which
    pixels of the micrograph are given; by default the first ones, as of a whole micrograph.
    """

    mean: float
    spread: float
    ground: Ground | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` gives."""
        ground = values.get("ground")
        return cls(values["mean"], values["spread"], None if ground is None else Ground.from_json(ground))

    def times(self, factor: float) -> Scale:
        """That of an image which is so many times as bright."""
        ground = None if self.ground is None else self.ground.times(factor)
        return Scale(factor * self.mean, factor * self.spread, ground)

    def levelled(self, pixels: Pixels, rows: Places | None = None, columns: Places | None = None) -> Pixels:
        """Pixels less the ground: themselves where there is none."""
        return pixels if self.ground is None else pixels - self._ground(pixels, rows, columns)

    def normalise(
        self, pixels: Pixels, rows: Places | None = None, columns: Places | None = None
    ) -> NDArray[np.float32]:
        """Normalised and cut at +-CLIP, float32; non-finite pixels become 0, the mean."""
        level = self.levelled(np.asarray(pixels, dtype=np.float32), rows, columns)
        z = (level - np.float32(self.mean)) / np.float32(self.spread)
        np.nan_to_num(z, copy=False, nan=0.0, posinf=CLIP, neginf=-CLIP)
        return np.clip(z, -CLIP, CLIP, out=z)

    def restore(
        self, normalised: Pixels, rows: Places | None = None, columns: Places | None = None
    ) -> NDArray[np.float32]:
        """Back to the micrograph's units, float32."""
        found = np.asarray(normalised, dtype=np.float32) * np.float32(self.spread) + np.float32(self.mean)
        if self.ground is not None:
            found += self._ground(found, rows, columns)
        return found

    def _ground(self, pixels: Pixels, rows: Places | None, columns: Places | None) -> NDArray[np.float32]:
        assert self.ground is not None
        height, width = pixels.shape[-2:]
        return self.ground.at(
            np.arange(height) if rows is None else rows, np.arange(width) if columns is None else columns
        )


def robust_scale(*images: Pixels, where: str = "", sloping: bool = True, like: Scale | None = None) -> Scale:
    """Mean and standard deviation of the pixels of all `images` (H, W) after repeated rejection at 4 spreads.

    A regular sample of pixels is enough and the same in every process. Median and MAD start the rejection, so even
    thousands of hot or dead pixels do not hide themselves. All images are of one shape and share one ground. sloping:
    False for images that are no one field, which have none. like: one whose ground is known already.

    Raises:
        InputError: the finite pixels are all of one value, or there are none.
    """
    parts = [_sample(image, len(images)) for image in images]
    if not sum(len(values) for _, values in parts):
        raise InputError("no pixel is finite.", where=where, remedy="Export this micrograph again.")
    ground = like.ground if like is not None else _shared_ground(parts, images[0].shape) if sloping else None
    if ground is not None:
        parts = [(places, values - ground.at_points(*_apart(places, ground))) for places, values in parts]
    sample = np.concatenate([values for _, values in parts])
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
    return Scale(mean, spread, ground)


def _sample(image: Pixels, count: int) -> tuple[Places, NDArray[np.float64]]:
    """Finite pixels of one of `count` images: their places in it, row after row, and their values."""
    flat = np.asarray(image).reshape(-1)
    every = max(1, flat.size * count // _SAMPLES)
    # An even step would see only some columns of an image whose width it divides.
    every += every % 2 == 0
    values = flat[::every].astype(np.float64)
    finite = np.isfinite(values)
    return np.flatnonzero(finite) * every, values[finite]


def _shared_ground(parts: Sequence[tuple[Places, NDArray[np.float64]]], shape: tuple[int, ...]) -> Ground | None:
    """By all samples, or by that of the quieter image where the other has much more noise."""
    if len(shape) != 2 or min(shape) < LEAST_PX:
        return None
    spreads = [float(np.median(np.abs(values - np.median(values)))) if len(values) else np.inf for _, values in parts]
    quiet = [part for part, spread in zip(parts, spreads, strict=True) if spread <= UNEQUAL * min(spreads)]
    places, values = (np.concatenate(side) for side in zip(*quiet, strict=True))
    height, width = shape
    return ground_of(*np.divmod(places, width), values, (height, width))


def _apart(places: Places, ground: Ground) -> tuple[Places, Places]:
    rows, columns = np.divmod(places, ground.width_px)
    return rows, columns
