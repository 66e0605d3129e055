"""The volume whose slices explain sums of particles over views: a regularised least-squares problem in harmonics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify.slices import Slices

_STEPS = 3
"""Conjugate gradient steps a solution; each starts from the volume before."""
_PRIOR_FACTOR = 2.0


@dataclass(frozen=True)
class Volume:
    """A density as whitened spherical harmonics on rings.

    harmonics: (P, R) float32, even degrees first, `split` of them; variance: (P, R) their posterior variance, diagonal;
    prior: (R,) their power; ring_weight: (R,) the weights that whiten them (`Encoder.ring_weight`).
    """

    harmonics: Tensor
    variance: Tensor
    prior: Tensor
    ring_weight: Tensor
    split: int


def degrees_of(radii: Tensor, radius_px: float, box_px: int, most: int) -> Tensor:
    """(R,) int64: the finest degree that an object within `radius_px` has on rings of these radii (Fourier pixels)."""
    bound = 2 * math.pi * radii * radius_px / box_px + 2
    return bound.long().clamp(max=most)


def solve(
    slices: Slices, sums: Tensor, seen: Tensor, degrees: Tensor, ring_weight: Tensor, start: Volume | None
) -> Volume:
    """The volume that maximises the posterior of the views' sums.

    sums: (V, M, R) complex64, whitened coefficients summed over the particles of a view; seen: (V, R) their precision
    (sums of relative C^2); degrees: (R,) the finest degree of each ring. The prior's power is that of the estimate and
    its posterior variance (one EM step a call), so it follows what the particles agree on.
    """
    allowed = (slices.degrees[:, None] <= degrees).float()
    right = slices.adjoint(sums) * allowed
    diagonal = slices.power(seen) * allowed
    if start is None:
        raw = right / diagonal.clamp(min=1e-6)
        excess = ((raw**2 - 1 / diagonal.clamp(min=1e-6)) * allowed).sum(0) / allowed.sum(0)
        prior = _PRIOR_FACTOR * excess.clamp(min=1e-6)
        harmonics = torch.zeros_like(right)
    else:
        prior, harmonics = start.prior, start.harmonics * allowed
    weight = seen[:, None, :]
    inverse = allowed / (diagonal + 1 / prior)

    def normal(x: Tensor) -> Tensor:
        return slices.adjoint(slices.project(x) * weight) * allowed + x / prior

    residual = right - normal(harmonics)
    z = residual * inverse
    direction, old = z, (residual * z).sum(0)
    for _ in range(_STEPS):
        through = normal(direction)
        length = old / (direction * through).sum(0).clamp(min=1e-20)
        harmonics = harmonics + length * direction
        residual = residual - length * through
        z = residual * inverse
        new = (residual * z).sum(0)
        direction, old = z + new / old.clamp(min=1e-20) * direction, new
    power = ((harmonics**2 + inverse) * allowed).sum(0) / allowed.sum(0)
    return Volume(harmonics, inverse, _PRIOR_FACTOR * power.clamp(min=1e-8), ring_weight, slices.split)


def carried(volume: Volume, slices: Slices, ring_weight: Tensor) -> Volume:
    """A volume in the coordinates of other slices, with their ring weights; what they do not hold is dropped."""
    rings = min(len(ring_weight), len(volume.ring_weight))
    scale = torch.sqrt(ring_weight[:rings] / volume.ring_weight[:rings])
    found = []
    for values, factor in ((volume.harmonics, scale), (volume.variance, scale**2)):
        there = torch.zeros(len(slices.degrees), len(ring_weight))
        split = slices.split
        halves = ((values[: volume.split], there[:split]), (values[volume.split :], there[split:]))
        for old, new in halves:
            count = min(len(old), len(new))
            new[:count, :rings] = old[:count, :rings] * factor
        found.append(there)
    prior = torch.full((len(ring_weight),), float((volume.prior[:rings] * scale**2)[-2:].mean()))
    prior[:rings] = volume.prior[:rings] * scale**2
    return Volume(found[0], found[1], prior, ring_weight, slices.split)
