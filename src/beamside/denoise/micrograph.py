"""A micrograph that has become active: where its two images overlap, on which scale, and what it is used for."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.normalise import UNEQUAL, Scale
from beamside.run.engine import Batch

TRAIN, HELD_OUT = "train", "held out"
_HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Micrograph:
    """top, bottom: rows that belong to its role. dy_px, dx_px: where the second image's features lie.

    tile_px: side of the patches it is made of, 0 for a continuous image. load_bytes: the memory that reading it takes.
    levels: spread of either image in units of `scale`'s; both 1 where they are nearly the same, as of halves.
    """

    key: str
    height_px: int
    width_px: int
    tile_px: int
    scale: Scale
    dy_px: int
    dx_px: int
    load_bytes: int
    role: str
    top: int
    bottom: int
    levels: tuple[float, float] = (1.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse."""
        first, second = values.get("levels", (1.0, 1.0))
        return cls(**{**values, "scale": Scale.from_json(values["scale"]), "levels": (first, second)})

    def at_levels(self, first: float, second: float) -> Self:
        """With the spreads of its two images, in units of `scale`'s."""
        unequal = max(first, second) > UNEQUAL * min(first, second)
        return replace(self, levels=(first, second) if unequal else (1.0, 1.0))

    @property
    def unequal(self) -> bool:
        """Whether one image is much noisier than the other, as a frame beside the sum of all others."""
        return self.levels != (1.0, 1.0)

    @property
    def rows(self) -> tuple[int, int]:
        """First row and end of the rows of the first image that have a partner, within its role."""
        return max(self.top, -self.dy_px), min(self.bottom, self.height_px - max(0, self.dy_px))

    @property
    def columns(self) -> tuple[int, int]:
        """First column and end of the columns of the first image that have a partner."""
        return max(0, -self.dx_px), self.width_px - max(0, self.dx_px)

    def crop(self, pixels: NDArray[Any], y: int, x: int, height: int, width: int) -> NDArray[np.float32]:
        """(2, height, width) normalised; `pixels` (2, H, W), the corner (y, x) in the first image."""
        corners = (y, x), (y + self.dy_px, x + self.dx_px)
        made = []
        for image, (top, left) in zip(pixels, corners, strict=True):
            part = image[top : top + height, left : left + width]
            made.append(self.scale.normalise(part, top + np.arange(height), left + np.arange(width)))
        return np.stack(made)


def is_held_out(key: str) -> bool:
    """By a hash of the name, so that it does not depend on the order of arrival."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return number < _HELD_OUT_SHARE * 2**64


def earliest_by_hash(keys: list[str]) -> str:
    """The one to hold out where chance holds out none."""
    return min(keys, key=lambda key: hashlib.sha256(key.encode()).digest())


class Pixels:
    """Reads the pixels of micrographs through the batches that brought them."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Batch, int]] = {}

    def add(self, batch: Batch) -> None:
        """Remember where the items of a batch are."""
        self._places |= {key: (batch, row) for row, key in enumerate(batch.keys)}

    def read(self, key: str) -> NDArray[Any]:
        """(2, H, W) of one micrograph."""
        batch, row = self._places[key]
        pixels: NDArray[Any] = batch.load(np.array([row], dtype=np.int64))[0]
        return pixels
