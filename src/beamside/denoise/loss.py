"""The loss, counted exactly: the sum of squared errors and the number of pixels, both added up in float64.

A mean of batch means is wrong as soon as one batch or crop is smaller; here nothing is divided before it is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class Tally:
    """Sum of squared errors over pixels; sums of two tallies are those of the joined pixels."""

    squared: float = 0.0
    pixels: float = 0.0

    def add(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count a batch, (B, 1, h, w) each; weight 1 where a pixel counts and 0 elsewhere."""
        squares = (output.detach().double() - target.double()).square()
        self.squared += float(squares.sum() if weight is None else (squares * weight).sum())
        self.pixels += float(squares.numel() if weight is None else weight.double().sum())

    def merge(self, other: Tally) -> None:
        """Count what another tally has counted (of another rank, or another round)."""
        self.squared += other.squared
        self.pixels += other.pixels

    @property
    def mean(self) -> float:
        """Mean squared error a pixel; 0 while nothing is counted."""
        return self.squared / self.pixels if self.pixels else 0.0


@dataclass
class Comparison:
    """The same by another way, and what else two sets of pixels have in common; numpy alone, an example at a time.

    Means and centred moments of each example are joined by the rule of Chan, Golub and LeVeque (1979), so that no more
    than one example is in memory in float64.
    """

    pixels: int = 0
    squared: list[float] = field(default_factory=list)
    means: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    moments: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))

    def add(self, output: NDArray[np.float32], target: NDArray[np.float32], weight: NDArray[np.float32] | None) -> None:
        """Count an example (h, w); weight 1 where a pixel counts and 0 elsewhere."""
        kept = slice(None) if weight is None else weight.ravel() > 0
        both = np.stack([output.ravel()[kept], target.ravel()[kept]]).astype(np.float64)
        count = both.shape[1]
        if not count:
            return
        self.squared.append(float(np.square(both[0] - both[1]).sum()))
        means = both.mean(axis=1)
        both -= means[:, None]
        total, apart = self.pixels + count, means - self.means
        self.moments = self.moments + both @ both.T + np.outer(apart, apart) * (self.pixels * count / total)
        self.means = self.means + apart * (count / total)
        self.pixels = total

    @property
    def mean(self) -> float:
        """Mean squared error a pixel; 0 while nothing is counted."""
        return math.fsum(self.squared) / self.pixels if self.pixels else 0.0

    @property
    def correlation(self) -> float:
        """Pearson's; 0 where one of both is of one value."""
        spread = math.sqrt(self.moments[0, 0] * self.moments[1, 1])
        return float(self.moments[0, 1]) / spread if spread > 0 else 0.0

    @property
    def offset(self) -> float:
        """Mean output less mean target."""
        return float(self.means[0] - self.means[1])
