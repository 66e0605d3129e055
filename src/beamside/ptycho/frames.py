"""The diffraction frames of a run: counts in memory up to the capacity, the rest read again when it is their turn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Array, Batch, Loader

_LOAD_FRAMES = 64
_LEAST_ROOM = 256
_LEAST_TOP, _CHANCE = 5, 20
"""A largest count below the one, or in no more pixels than the other, is nothing strange."""


@dataclass(frozen=True)
class _Beyond:
    """Frames that are not held: which batch has them, and where in it the first of them lies."""

    first: int
    row: int
    count: int
    load: Loader


@dataclass(frozen=True)
class Crowd:
    """How many pixels hold the largest count, and how many up to 2 % less: counts above a limit crowd there."""

    top: int = 0
    at_top: int = 0
    below: int = 0

    def seen(self, pixels: Array) -> Crowd:
        """With further frames; where these reach higher, they alone are counted."""
        top = int(pixels.max()) if pixels.size and pixels.dtype.kind == "u" else 0
        if top < max(self.top, 1):
            return self
        at_top, high = (int(np.count_nonzero(pixels >= limit)) for limit in (top, min(top - 1, math.ceil(0.98 * top))))
        before = (self.at_top, self.below) if top == self.top else (0, 0)
        return Crowd(top, before[0] + at_top, before[1] + high - at_top)

    @property
    def crowded(self) -> bool:
        """Whether more than chance has brought so many pixels there."""
        return self.top >= _LEAST_TOP and self.at_top > _CHANCE + self.below


class FrameStore:
    """Counts with DC at the corner, (n, N, N) uint16 while all are integers below 65536, else float32.

    2 N^2 bytes a frame for integer counts (32 KiB at 128^2, 128 KiB at 256^2), and nothing else that grows with the
    pixels. capacity: frames held in memory; those beyond are read by their batch's loader, block by block, in every
    iteration.
    """

    def __init__(self, size: int, capacity: int) -> None:
        self.size, self.capacity = size, capacity
        self.counts: Array = np.empty((0, size, size), np.uint16)
        self.held = 0
        self.keys: list[str] = []
        self.position_m: NDArray[np.float64] = np.empty((0, 2))
        self.total: NDArray[np.float64] = np.empty(0)
        self.usable: NDArray[np.bool_] = np.empty(0, bool)
        self.pattern_sum: NDArray[np.float64] = np.zeros((size, size))
        self.root_sum: NDArray[np.float64] = np.zeros((size, size))
        self.integer = True
        self.crowd = Crowd()
        self._beyond: list[_Beyond] = []

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def beyond(self) -> int:
        """Frames that memory does not hold."""
        return len(self) - self.held

    @property
    def bytes_per_frame(self) -> int:
        """What one held frame costs."""
        return self.size * self.size * self.counts.dtype.itemsize

    @property
    def mean_pattern(self) -> NDArray[np.float64]:
        """(N, N) mean of the usable frames."""
        return self.pattern_sum / max(1, int(self.usable.sum()))

    @property
    def mean_root(self) -> NDArray[np.float64]:
        """(N, N) mean of the square roots of the usable frames."""
        return self.root_sum / max(1, int(self.usable.sum()))

    def append(self, batch: Batch) -> list[str]:
        """Take a batch; the keys of frames that are not finite, negative or empty, which are set aside."""
        n, first = len(batch), len(self)
        hold = max(0, min(n, self.capacity - self.held)) if not self.beyond else 0
        self._make_room(self.held + hold)
        totals, usable = np.zeros(n), np.zeros(n, bool)
        for at in range(0, n, _LOAD_FRAMES):
            rows = np.arange(at, min(n, at + _LOAD_FRAMES))
            pixels = batch.load(rows)
            totals[rows], usable[rows] = self._judge(pixels)
            self.pattern_sum += pixels[usable[rows]].sum(0, dtype=np.float64)
            self._add_roots(pixels[usable[rows]])
            self.crowd = self.crowd.seen(pixels[usable[rows]])
            self._hold(pixels, usable[rows], hold - at)
        self.keys += batch.keys
        self.position_m = np.concatenate([self.position_m, np.asarray(batch.columns["position_m"], np.float64)])
        self.total, self.usable = np.concatenate([self.total, totals]), np.concatenate([self.usable, usable])
        if hold < n:
            self._beyond.append(_Beyond(first + hold, hold, n - hold, batch.load))
        return [batch.keys[i] for i in np.flatnonzero(~usable).tolist()]

    def block(self, frames: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
        """Counts that contain the given frames, and their rows in them."""
        if not self.beyond or frames.max() < self.held:
            return self.counts, frames
        pixels = np.zeros((len(frames), self.size, self.size), np.float32)
        inside = frames < self.held
        pixels[inside] = self.counts[frames[inside]]
        for part in self._beyond:
            at = np.flatnonzero((frames >= part.first) & (frames < part.first + part.count))
            if at.size:
                pixels[at] = part.load(frames[at] - part.first + part.row)
        return pixels, np.arange(len(frames))

    def _add_roots(self, pixels: Array) -> None:
        self.root_sum += np.sqrt(pixels, dtype=np.float32).sum(0, dtype=np.float64)

    def _judge(self, pixels: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        flat = pixels.reshape(len(pixels), -1)
        totals = flat.sum(1, dtype=np.float64)
        usable = np.isfinite(totals) & (totals > 0)
        if pixels.dtype.kind == "f":
            usable &= np.isfinite(flat).all(1) & (flat.min(1) >= 0)
        totals[~usable] = 0
        return totals, usable

    def _hold(self, pixels: Array, usable: NDArray[np.bool_], most: int) -> None:
        pixels = pixels[: max(0, most)]
        if not len(pixels):
            return
        if pixels.dtype.kind == "f" and self.counts.dtype != np.float32:
            self.counts, self.integer = self.counts.astype(np.float32), False
        kept = np.where(usable[: len(pixels), None, None], pixels, 0)
        self.counts[self.held : self.held + len(kept)] = kept
        self.held += len(kept)

    def _make_room(self, frames: int) -> None:
        if frames > len(self.counts):
            # Pages that no frame has been written to cost nothing, so growth is generous.
            room = min(self.capacity, max(_LEAST_ROOM, 2 * frames))
            larger = np.empty((room, self.size, self.size), self.counts.dtype)
            larger[: self.held] = self.counts[: self.held]
            self.counts = larger
