"""Directions and orientations on the sphere, and real spherical harmonics."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def real_harmonics(degree: int, points: Array) -> Array:
    """(n, 3) unit vectors -> (n, (degree+1)^2); Y_lm at column l^2 + l + m, cosines for m > 0 and sines for m < 0."""
    cosine, azimuth = points[:, 2], np.arctan2(points[:, 1], points[:, 0])
    sine = np.sqrt(np.maximum(0.0, 1.0 - cosine**2))
    legendre = np.zeros((degree + 1, degree + 1, len(points)))
    legendre[0, 0] = math.sqrt(1 / (4 * math.pi))
    for m in range(1, degree + 1):
        legendre[m, m] = -math.sqrt((2 * m + 1) / (2 * m)) * sine * legendre[m - 1, m - 1]
    for m in range(degree):
        legendre[m + 1, m] = math.sqrt(2 * m + 3) * cosine * legendre[m, m]
        for l in range(m + 2, degree + 1):  # noqa: E741 (the degree's name everywhere)
            up = math.sqrt((4 * l * l - 1) / (l * l - m * m))
            down = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
            legendre[l, m] = up * (cosine * legendre[l - 1, m] - down * legendre[l - 2, m])
    values = np.empty((len(points), (degree + 1) ** 2))
    for l in range(degree + 1):  # noqa: E741
        values[:, l * l + l] = legendre[l, 0]
        for m in range(1, l + 1):
            values[:, l * l + l + m] = math.sqrt(2) * legendre[l, m] * np.cos(m * azimuth)
            values[:, l * l + l - m] = math.sqrt(2) * legendre[l, m] * np.sin(m * azimuth)
    return values


def frames_along(toward: Array) -> Array:
    """(n, 3) directions -> (n, 3, 3) right-handed frames: rows are the image's x and y axes and the direction."""
    helper = np.where(np.abs(toward[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    x = np.cross(helper, toward)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(toward, x), toward], 1)


def turned_frames(frames: Array, alpha: Array) -> Array:
    """Frames of images that show the same view turned by `alpha` radians: (n, 3, 3)."""
    cosine, sine = np.cos(alpha)[:, None], np.sin(alpha)[:, None]
    x = cosine * frames[:, 0] - sine * frames[:, 1]
    y = sine * frames[:, 0] + cosine * frames[:, 1]
    turned: Array = np.stack([x, y, frames[:, 2]], 1)
    return turned


def twist(frames: Array, onto: Array) -> Array:
    """(n,) radians: by how much an image in `onto` is turned to lie as one in `frames` does, views brought together.

    The in-plane part of the rotation between two frames; inverse of `turned_frames` where the directions are equal.
    """
    between = np.einsum("nij,nkj->nik", frames, onto)
    angle: Array = np.arctan2(between[:, 1, 0] - between[:, 0, 1], between[:, 0, 0] + between[:, 1, 1])
    return angle


def mean_rotation(rotations: Array, weights: Array) -> Array:
    """(n, t, 3, 3) rotations with weights (n, t) -> (n, 3, 3) chordal means."""
    left, _, right = np.linalg.svd(np.einsum("nt,ntij->nij", weights, rotations))
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]
    return np.asarray(left @ right)
