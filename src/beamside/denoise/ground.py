"""The smooth brightness of a whole micrograph, as a beam that is not centred or not even gives it.

A network sees some tens of pixels round each of its own, and learns most from what lies near the mean. A slope over the
field that is as large as the noise makes its input brighter than most of what it learned from at one end and darker at
the other, and widens the spread by which everything is scaled. So such a slope is taken away before the network and
given back after it: a cubic surface, fitted once for the whole micrograph, so that tiles stay invisible. Nothing is
lost by it, whatever it is: the surface returns as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

ORDER = 3
LEAST_SHARE = 0.15
"""Of the spread round it: a surface whose own spread is smaller is left where it is. Beams of ordinary sessions fall
off by a few per cent, which networks know."""
LEAST_EXPLAINED = 0.88
"""Of the variance of the cells' means beyond that of the noise in them. Beams and vignettes give .99; a straight edge
of carbon .92, and is better off without its slope; the rim of a hole .75 to .86: a surface would only bend round it."""
LEAST_PX = 256
"""Across smaller images there is no slope to speak of, and a molecule is a part of the field."""
_ORDINARY = 0.9
"""The share of the cells that this is asked of: crystals and gold are in the others."""
_CELLS = 32
"""A side: means over so many cells are what is fitted."""
_FEWEST = 8
"""Samples of a cell that counts."""
_REJECT = 6.0
"""Spreads from the median, the slope's own part in them included: gold and hot pixels do not count."""
_ROUNDS, _HUBER = 8, 1.5
_MAD_TO_SD = 1.4826
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Ground:
    """A polynomial surface of mean 0 over an image of this size, in the image's units.

    coefficients: [i][j] belongs to v^i u^j, where v (down) and u (across) run from -1 to 1 over the image.
    """

    height_px: int
    width_px: int
    coefficients: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        rows = tuple(tuple(float(value) for value in row) for row in values["coefficients"])
        return cls(int(values["height_px"]), int(values["width_px"]), rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def raised(self, by: float) -> Ground:
        """With another mean."""
        (first, *others), *rows = self.coefficients
        return Ground(self.height_px, self.width_px, ((first + by, *others), *rows))

    def times(self, factor: float) -> Ground:
        """That of an image which is so many times as bright."""
        rows = tuple(tuple(factor * value for value in row) for row in self.coefficients)
        return Ground(self.height_px, self.width_px, rows)

    def at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """(rows, columns): over a part of the image."""
        down, across = _place(rows, self.height_px), _place(columns, self.width_px).astype(np.float32)
        # Pixel by pixel in one order of sums, so that a part is bit for bit that of the whole.
        out = np.zeros((len(rows), len(columns)), dtype=np.float32)
        for power in range(ORDER, -1, -1):
            out *= across
            out += self._along(down, power).astype(np.float32)[:, None]
        return out

    def at_points(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Vector:
        """At single pixels."""
        down, across = _place(rows, self.height_px), _place(columns, self.width_px)
        total = np.zeros(len(rows))
        for power in range(ORDER, -1, -1):
            total = total * across + self._along(down, power)
        return total

    def _along(self, down: Vector, power: int) -> Vector:
        """What belongs to this power of u, at places v."""
        total = np.zeros(len(down))
        for row in reversed(self.coefficients):
            total = total * down + row[power]
        return total


def ground_of(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: Vector, shape: tuple[int, int]
) -> Ground | None:
    """From pixels `values` at (rows, columns) of an image of this shape; None where nothing is to be taken away.

    Means over cells are fitted with Huber's weights, which crystals and gold hardly pull.
    """
    middle = float(np.median(values))
    limit = _REJECT * _MAD_TO_SD * float(np.median(np.abs(values - middle)))
    kept = np.abs(values - middle) <= limit
    rows, columns, values = rows[kept], columns[kept], values[kept]
    cell = rows * _CELLS // shape[0] * _CELLS + columns * _CELLS // shape[1]
    count = np.bincount(cell, minlength=_CELLS**2)
    full = np.flatnonzero(count >= _FEWEST)
    means = np.bincount(cell, values - middle, _CELLS**2)[full] / count[full]
    centres = _place(np.arange(_CELLS), _CELLS)
    v, u = centres[full // _CELLS], centres[full % _CELLS]
    table = _fitted(v, u, means)
    made = Ground(*shape, tuple(tuple(float(value) for value in row) for row in table))
    surface = made.at_points(rows, columns)
    around = float((values - surface).var())
    if float(surface.var()) <= LEAST_SHARE**2 * around:
        return None
    left = means - polynomial.polyval2d(v, u, table)
    ordinary = np.abs(left) <= np.quantile(np.abs(left), _ORDINARY)
    by_chance = around / float(count[full].mean())
    unexplained, all_of_it = (float(part[ordinary].var()) - by_chance for part in (left, means))
    if unexplained > (1 - LEAST_EXPLAINED) * all_of_it:
        return None
    return made.raised(-float(surface.mean()))


def _place(at: NDArray[np.int64], size: int) -> Vector:
    """Pixel centres from -1 to 1 over the image."""
    return (2.0 * at + 1) / size - 1


def _fitted(v: Vector, u: Vector, means: Vector) -> NDArray[np.float64]:
    """Coefficients of the surface nearest to the means of cells at (v, u), by iterated reweighting."""
    powers = [(i, j) for i in range(ORDER + 1) for j in range(ORDER + 1 - i)]
    terms = np.stack([v**i * u**j for i, j in powers], axis=1)
    weights = np.ones(len(means))
    for _ in range(_ROUNDS):
        found = np.linalg.lstsq(terms * weights[:, None], means * weights, rcond=None)[0]
        away = np.abs(means - terms @ found)
        limit = _HUBER * _MAD_TO_SD * float(np.median(away))
        weights = np.sqrt(limit / np.maximum(away, limit)) if limit > 0 else weights
    table = np.zeros((ORDER + 1, ORDER + 1))
    for (i, j), value in zip(powers, found, strict=True):
        table[i, j] = value
    return table
