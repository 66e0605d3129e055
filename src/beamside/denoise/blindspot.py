"""Learning from single images: predict pixels from surroundings in which they, and what shares their noise, are hidden.

Noise2Void (Krull et al. 2019) with the structured mask of Broaddus et al. (2020): interpolation and the detector
spread the noise of one pixel over its neighbours, so these are hidden with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.loss import Tally

SPOT_REACH_PX = 2
"""The hidden square is 5 x 5: noise is taken to be independent beyond two pixels."""
_SPACING_PX = 12
_RING_PX = (4.5, 6.5)
"""Distances from which hidden pixels take their values: outside the square at any angle."""
_LAGS = range(3, 9)


def hide(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h, w) -> the image with squares of it hidden, and a mask that is 1 at their centres.

    The centres lie on a jittered grid. Hidden pixels take the values of pixels drawn from a ring around their square,
    so that the network cannot see which ones are hidden.
    """
    h, w = image.shape
    reach = SPOT_REACH_PX
    rows, columns = np.meshgrid(np.arange(0, h, _SPACING_PX), np.arange(0, w, _SPACING_PX), indexing="ij")
    ys = (rows + rng.integers(0, _SPACING_PX - 2 * reach, rows.shape)).clip(reach, h - 1 - reach).ravel()
    xs = (columns + rng.integers(0, _SPACING_PX - 2 * reach, columns.shape)).clip(reach, w - 1 - reach).ravel()
    hidden, mask = image.copy(), np.zeros_like(image)
    mask[ys, xs] = 1.0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            angle = rng.uniform(0, 2 * np.pi, ys.shape)
            away = rng.uniform(_RING_PX[0], _RING_PX[1], ys.shape)
            move_y, move_x = (np.rint(away * part(angle)).astype(int) for part in (np.sin, np.cos))
            hidden[ys + dy, xs + dx] = image[_inside(ys, move_y, h), _inside(xs, move_x, w)]
    return hidden, mask


def below_floor(counted: Tally, floor: float) -> bool:
    """Whether a loss lies under the floor by more than three of its standard errors (Gaussian noise)."""
    return counted.pixels > 0 and counted.mean < floor * (1 - 3 * (2 / counted.pixels) ** 0.5)


def _inside(at: NDArray[np.int64], move: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """at + move, or at - move where that leaves the image."""
    there = at + move
    return np.where((there < 0) | (there >= size), at - move, there)


def noise_floor(images: list[NDArray[np.float32]]) -> float:
    """The variance of the noise in normalised images (h, w): the least loss that honest prediction can reach.

    The covariance of pixels 3 to 8 apart is the signal's alone; a parabola through it, carried on to distance 0, gives
    the signal's variance, and the rest of the variance is noise. Detail finer than that counts as noise here, so the
    floor is rather too high, and training rather stops early.
    """
    total, lagged = [], []
    for image in images:
        z = image.astype(np.float64) - image.mean()
        total.append(float(np.mean(z * z)))
        rows = [float(np.mean(z[lag:] * z[:-lag])) for lag in _LAGS]
        columns = [float(np.mean(z[:, lag:] * z[:, :-lag])) for lag in _LAGS]
        lagged.append((np.array(rows) + columns) / 2)
    lags = np.array(list(_LAGS), dtype=np.float64)
    signal = float(np.polyfit(lags**2, np.mean(lagged, axis=0), 1)[1])
    return float(np.mean(total)) - max(signal, 0.0)
