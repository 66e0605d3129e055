"""Counts that are no diffraction, and light that is not counted.

A level lies on the dark part of every frame and does not change with it; pixels never count although their neighbours
do; a beam fades while a scan goes on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Array

_DARK = 0.25
"""Share of a detector's pixels that is taken as its dark part."""
_FLAT, _BELOW = 1.5, 0.5
"""Of the dark part: largest to smallest value, but for a fifth of it, and level relative to the bright pixels'."""
_SPECKLE = 0.1
"""Variance beyond counting noise, relative to the square of the mean: 1 where light scattered by the object falls, less
with several modes; none in a background."""
_DEAD_BESIDE = 2000.0
"""Counts of a neighbour, in a whole scan, beside which a pixel without one is dead: optics do not cut off that sharply,
and of 0.5 % of them chance would bring ten."""
_GROUPS, _LEAST_IN_GROUP, _STEADY = 10, 4, 0.9


def dead_share(total_counts: NDArray[np.float64], valid: NDArray[np.float32]) -> tuple[int, float]:
    """How many pixels that count as valid border on bright ones and have never counted, and what share they miss.

    total_counts, valid: (N, N) of all frames, DC at the corner, where the detector's borders meet; what the dead
    pixels miss is taken from their brightest neighbours.
    """
    # A hot pixel, bright by itself, says nothing of those around it.
    beside = _largest_beside(np.minimum(total_counts, _largest_beside(total_counts)))
    dead = (valid > 0) & (total_counts <= 0) & (beside > _DEAD_BESIDE)
    return int(dead.sum()), float(beside[dead].sum() / max(float(total_counts.sum()), 1e-30))


def _largest_beside(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.max([np.roll(image, step, axis) for axis in (0, 1) for step in (-1, 1)], axis=0))


def fading(totals: NDArray[np.float64]) -> float:
    """By what factor frames' counts (n,) rise or fall steadily in the order of the scan; 1 where they do not."""
    if len(totals) < _GROUPS * _LEAST_IN_GROUP:
        return 1.0
    levels = np.array([np.median(group) for group in np.array_split(totals, _GROUPS)])
    if levels.min() <= 0 or np.ptp(levels) == 0:
        return 1.0
    ranks = np.argsort(np.argsort(levels))
    steady = abs(float(np.corrcoef(ranks, np.arange(_GROUPS))[0, 1])) >= _STEADY
    return float(levels.max() / levels.min()) if steady else 1.0


def background_share(counts: Array, valid: NDArray[np.float32]) -> float:
    """Share of all counts that a level on the dark pixels makes if it lies under the bright ones too; 0 for none seen.

    counts: (k, N, N) of some frames. valid: (N, N), 1 where a pixel counts. Pixels that never count are left out, as
    behind a beam stop.
    """
    pixels = counts.reshape(len(counts), -1)[:, valid.reshape(-1) > 0]
    mean = pixels.mean(0, dtype=np.float64)
    pixels, mean = pixels[:, mean > 0], mean[mean > 0]
    # A pixel of which a few frames have one count each says nothing yet.
    if len(counts) < 2 or mean.size < 16 or np.quantile(mean, _DARK) * len(counts) < 4:
        return 0.0
    dark = np.argsort(mean, kind="stable")[: int(_DARK * mean.size)]
    there = mean[dark]
    rough = float(there[-1] / there[int(0.2 * len(there))])
    # Sorted by their noisy means, pixels of one level are as far apart as counting noise makes them.
    noise = 1 + 2 / np.sqrt(float(there.mean()) * len(counts))
    if rough > _FLAT * noise or there.mean() > _BELOW * np.quantile(mean, 0.99):
        return 0.0
    beyond = pixels[:, dark].var(0, ddof=1, dtype=np.float64) - there
    chance = float(np.sqrt(2 / (len(counts) * len(dark))))
    if float(beyond.sum()) > (_SPECKLE * float((there**2).sum()) + 4 * chance * float(there.sum())):
        return 0.0
    return float(there.mean() * mean.size / mean.sum())
