"""Refinement of scan positions from the residuals of the frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]
LIMIT_PX = 0.5
"""Longest move of a frame in one iteration."""
_DAMPING = 0.1
"""Of the median curvature: frames that see little structure hardly move."""


def moves_px(normal: NDArray[np.float64], limit_px: float = LIMIT_PX) -> Positions:
    """(n, 2) Gauss-Newton moves (y, x) from the normal equations (n, 5) = (g_y, g_x, h_yy, h_xx, h_yx).

    Guizar-Sicairos & Fienup, Opt. Express 16 (2008) 7264, in the object's gradient rather than in a search.
    """
    g, h = normal[:, :2], normal[:, 2:]
    damping = _DAMPING * max(float(np.median(h[:, :2].sum(1))) / 2, 1e-30)
    yy, xx, yx = h[:, 0] + damping, h[:, 1] + damping, h[:, 2]
    det = yy * xx - yx**2
    step = np.stack([g[:, 0] * xx - g[:, 1] * yx, g[:, 1] * yy - g[:, 0] * yx], 1) / det[:, None]
    length = np.hypot(step[:, 0], step[:, 1])
    return np.asarray(step * np.minimum(1.0, limit_px / np.maximum(length, 1e-12))[:, None])


def without_affine(moved: Positions, recorded: Positions) -> Positions:
    """`moved` less the affine part of its distance from `recorded`.

    A shift, scale, shear or rotation of the whole scan trades against the object and the probe's curvature: residuals
    hardly see it, and a refinement that may move along it drifts. Needs more than a handful of frames.
    """
    if len(recorded) < 12:
        return np.asarray(moved - (moved - recorded).mean(0))
    centred = recorded - recorded.mean(0)
    terms = np.concatenate([np.ones((len(recorded), 1)), centred / max(float(np.abs(centred).max()), 1e-12)], 1)
    fit = np.linalg.lstsq(terms, moved - recorded, rcond=None)[0]
    return np.asarray(moved - terms @ fit)
