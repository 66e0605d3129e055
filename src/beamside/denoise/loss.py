"""The loss, counted exactly: the sum of squared errors and the number of pixels, both added up in float64.

A mean of batch means is wrong as soon as one batch or crop is smaller; here nothing is divided before it is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def mean_squared_error(
    outputs: list[NDArray[np.float32]], targets: list[NDArray[np.float32]], weights: list[NDArray[np.float32] | None]
) -> float:
    """The same number by another way: all errors in one array, one mean, with numpy alone."""
    errors = [(o.astype(np.float64) - t.astype(np.float64)).ravel() for o, t in zip(outputs, targets, strict=True)]
    kept = [e if w is None else e[w.ravel() > 0] for e, w in zip(errors, weights, strict=True)]
    return float(np.mean(np.square(np.concatenate(kept))))
