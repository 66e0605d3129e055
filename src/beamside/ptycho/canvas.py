"""The object's canvas: it grows when frames leave it, and knows where its first pixel lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beamside.errors import CapacityError

MARGIN_PX = 16
"""Pixels around the outermost windows: room for positions that move while they are refined."""
_GROW_PX = 64
MOST_PIXELS = 1 << 28


class Canvas:
    """The object (H, W) complex64 and the velocity of its updates; `origin` is the first pixel's place.

    Places are pixels (row, col) in the input's own frame, in which a window's first pixel is at position_m/pixel_m.
    """

    def __init__(self) -> None:
        self.origin: NDArray[np.int64] = np.zeros(2, np.int64)
        self.object: NDArray[np.complex64] = np.ones((0, 0), np.complex64)
        self.velocity: NDArray[np.complex64] = np.zeros((0, 0), np.complex64)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.object.shape[0], self.object.shape[1]

    def cover(self, positions_px: NDArray[np.float64], size: int) -> bool:
        """Make sure that every window (n, 2) of `size` lies inside with its margin; True when the canvas has grown.

        CapacityError when the canvas would become absurdly large.
        """
        low = np.floor(positions_px.min(0)).astype(np.int64) - MARGIN_PX
        high = np.ceil(positions_px.max(0)).astype(np.int64) + size + MARGIN_PX
        if not self.object.size:
            return self._resize(low, high)
        end = self.origin + np.array(self.shape)
        if (low >= self.origin).all() and (high <= end).all():
            return False
        first = np.where(low < self.origin, low - _GROW_PX, self.origin)
        last = np.where(high > end, high + _GROW_PX, end)
        return self._resize(first, last)

    def corners(self, positions_px: NDArray[np.float64], bins: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Whole-pixel corners (n, 2) on the canvas, and the index of the sub-pixel shift, row * bins + col."""
        q = np.round((positions_px - self.origin) * bins).astype(np.int64)
        rest = q % bins
        return (q // bins).astype(np.int32), (rest[:, 0] * bins + rest[:, 1]).astype(np.int32)

    def inside(self, positions_px: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Positions brought back so that their windows, with a pixel around, stay on the canvas."""
        low, high = self.origin + 1.0, self.origin + np.array(self.shape) - size - 2.0
        return np.asarray(np.clip(positions_px, low, high))

    def roll(self, by_px: NDArray[np.int64]) -> None:
        """Shift what is drawn by whole pixels; what comes in from outside is empty."""
        self.object = _rolled(self.object, by_px, 1.0)
        self.velocity = _rolled(self.velocity, by_px, 0.0)

    def _resize(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> bool:
        height, width = (int(v) for v in last - first)
        if height * width > MOST_PIXELS:
            raise CapacityError(
                f"the scan would need a canvas of {height} x {width} pixels.",
                remedy="Check the unit of the positions; --position-unit sets it.",
            )
        obj, velocity = np.ones((height, width), np.complex64), np.zeros((height, width), np.complex64)
        row, col = (int(v) for v in self.origin - first)
        h, w = self.shape
        if h:
            obj[row : row + h, col : col + w] = self.object
            velocity[row : row + h, col : col + w] = self.velocity
        self.object, self.velocity, self.origin = obj, velocity, first
        return True


def _rolled(image: NDArray[np.complex64], by_px: NDArray[np.int64], fill: float) -> NDArray[np.complex64]:
    out = np.full_like(image, fill)
    h, w = image.shape
    dy, dx = int(by_px[0]), int(by_px[1])
    out[max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)] = image[
        max(0, -dy) : h + min(0, -dy), max(0, -dx) : w + min(0, -dx)
    ]
    return out
