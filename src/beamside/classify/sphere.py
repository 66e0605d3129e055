"""Directions on the sphere, and central slices of a volume as a linear map from its spherical harmonics.

A real density has the transform F(k u) = sum over l, m' of i^[l odd] U_lm'(k) Y_lm'(u), with real U and real
orthonormal spherical harmonics Y (F. Dahlen and J. Tromp, Theoretical Global Seismology, 1998, appendix B.6). The ring
of radius k of its projection along a direction is F on a great circle (projection-slice theorem), so its angular
coefficients are linear in U(k), and even orders hear even l only, odd orders odd l.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.classify.polar import Circle

Array = NDArray[np.float64]
_VIEWS = 32
"""Views whose harmonics are computed at once: their values are large."""


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


def directions(count: int) -> Array:
    """(count, 3) unit vectors spread evenly over the sphere (a Fibonacci lattice)."""
    at = np.arange(count) + 0.5
    height = 1 - 2 * at / count
    azimuth = math.pi * (1 + math.sqrt(5)) * at
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], 1)


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


def random_rotation(generator: np.random.Generator) -> Array:
    """(3, 3), uniform."""
    return np.asarray(mean_rotation(generator.normal(size=(1, 1, 3, 3)), np.ones((1, 1)))[0])


def _scaled(analysis: Tensor, parity: int) -> Tensor:
    """(2 M_p, T/2) rows times sqrt(multiplicity) of their order."""
    scale = torch.full((len(analysis) // 2,), math.sqrt(2))
    if parity == 0:
        scale[0] = 1.0
    return analysis * scale.repeat(2)[:, None]


@dataclass(frozen=True)
class Slices:
    """The map from a volume's harmonics to the whitened angular coefficients of its slices along some views.

    even, odd: (V, 2 M_p, P_p) float32 tables of one parity, [Re | Im] of the orders, with sqrt(multiplicity) in them.
    degrees: l of each harmonic, even ones first, ascending within a parity.
    """

    even: Tensor
    odd: Tensor
    degrees: Tensor

    @classmethod
    def along(cls, frames: Array, orders: int, degree: int) -> Slices:
        """Slices in the planes of `frames` (V, 3, 3), of `orders` angular frequencies and harmonics up to `degree`."""
        angles = 2 * ((orders + degree) // 2 + 3)
        circle = Circle.of(orders, angles)
        theta = np.arange(angles // 2) * (2 * math.pi / angles)
        of_column = np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)
        mine = [of_column % 2 == parity for parity in (0, 1)]
        analysis = [_scaled(circle.analysis[parity].T, parity) for parity in (0, 1)]
        tables = [torch.empty(len(frames), len(a), int(m.sum())) for a, m in zip(analysis, mine, strict=True)]
        for at in range(0, len(frames), _VIEWS):
            x, y = frames[at : at + _VIEWS, None, 0], frames[at : at + _VIEWS, None, 1]
            points = np.cos(theta)[:, None] * x + np.sin(theta)[:, None] * y
            values = real_harmonics(degree, points.reshape(-1, 3)).reshape(len(x), angles // 2, -1)
            for parity in (0, 1):
                some = torch.as_tensor(values[:, :, mine[parity]]).float()
                tables[parity][at : at + _VIEWS] = torch.matmul(analysis[parity], some)
        degrees = np.concatenate([of_column[m] for m in mine])
        return cls(tables[0], tables[1], torch.as_tensor(degrees))

    def __len__(self) -> int:
        return len(self.even)

    def project(self, harmonics: Tensor) -> Tensor:
        """(P, R) float32 -> (V, M, R) complex64."""
        split = self.even.shape[2]
        parts = [
            (table.flatten(0, 1) @ part).view(len(self), -1, harmonics.shape[1])
            for table, part in ((self.even, harmonics[:split]), (self.odd, harmonics[split:]))
        ]
        found = torch.empty(len(self), sum(p.shape[1] // 2 for p in parts), harmonics.shape[1], dtype=torch.complex64)
        for first, part in enumerate(parts):
            half = part.shape[1] // 2
            found[:, first::2] = torch.complex(part[:, :half], part[:, half:])
        return found

    def adjoint(self, slices: Tensor) -> Tensor:
        """(V, M, R) complex64 -> (P, R)."""
        parts = []
        for first, table in enumerate((self.even, self.odd)):
            rows = torch.cat([slices[:, first::2].real, slices[:, first::2].imag], 1)
            parts.append(table.flatten(0, 1).T @ rows.flatten(0, 1))
        return torch.cat(parts)

    def power(self, weight: Tensor) -> Tensor:
        """(P, R): diagonal of the normal matrix for weights (V, R) on all orders of a ring."""
        squares = [(t**2).sum(1).T @ weight for t in (self.even, self.odd)]
        return torch.cat(squares)
