"""Class sums and the averages that maximise the posterior given them.

Sums are additive over particles, blocks, rounds and machines: coefficient sums (K, M, R), ring sums of C^2 (K, R).
The prior power of the averages' coefficients is estimated from the averages themselves (empirical Bayes), shared by all
classes: where classes of many views cannot agree, the prior closes the band by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify import kernels
from beamside.classify.reference import Frame, unshifted
from beamside.classify.search import Poses

PRIOR_FACTOR = 2.0
"""Prior power over the estimated power; as RELION's T."""


@dataclass
class Sums:
    """Weighted sums over particles: coefficients, ring C^2, weights."""

    coefficients: Tensor
    """(K, M, R) complex64, every particle laid on its class average."""
    ctf2: Tensor
    """(K, R), relative to the average particle."""
    weight: Tensor
    """(K,)"""

    @classmethod
    def zero(cls, classes: int, frame: Frame) -> Sums:
        """Nothing added yet."""
        rings = frame.encoder.rings
        count = rings.last - rings.first + 1
        empty = torch.zeros(classes, frame.orders, count, dtype=torch.complex64)
        return cls(empty, torch.zeros(classes, count), torch.zeros(classes))

    def mixed(self, other: Sums, keep: float, take: float) -> Sums:
        """keep x self + take x other: a step of stepwise EM (P. Liang and D. Klein, NAACL 2009, 611-619)."""
        return Sums(
            keep * self.coefficients + take * other.coefficients,
            keep * self.ctf2 + take * other.ctf2,
            keep * self.weight + take * other.weight,
        )


class Accumulator:
    """Sums of one lane, one bucket a class and shift; shifts are undone once for all particles of a bucket."""

    def __init__(self, classes: int, frame: Frame) -> None:
        self._frame = frame
        self._shifts = len(frame.shifts.shifts_px)
        self._orders = frame.encoder.subspace.orders.long().numpy()
        self._columns = tuple(c.numpy() for c in component_columns(frame.encoder.subspace.sizes))
        self.buckets = torch.zeros(classes * self._shifts, 2 * len(self._orders))
        self.ctf2 = torch.zeros(classes, frame.encoder.rings.last - frame.encoder.rings.first + 1)
        self.weight = torch.zeros(classes)

    def add(self, vectors: Tensor, ctf2: Tensor, poses: Poses, weights: Tensor) -> None:
        """Particles (b, 2D) at all their candidate poses, weighted (b, T); zero weights cost nothing."""
        kernels.add_turned(
            vectors.numpy(), *self._columns, self._orders, poses.label.numpy(), poses.shift.numpy(),
            poses.alpha.numpy(), weights.numpy(), self._shifts, self.buckets.numpy(),
        )  # fmt: skip
        row, column = weights.nonzero(as_tuple=True)
        label, weight = poses.label[row, column], weights[row, column]
        self.ctf2.index_add_(0, label, ctf2[row] * weight[:, None])
        self.weight.index_add_(0, label, weight)

    @staticmethod
    def total(parts: list[Accumulator], threads: int = 1) -> Sums:
        """The lanes' sums, added in lane order."""
        first = parts[0]
        buckets = sum((p.buckets for p in parts[1:]), first.buckets)
        half = buckets.shape[1] // 2
        stacked = torch.complex(buckets[:, :half], buckets[:, half:]).view(len(first.weight), first._shifts, half)
        return Sums(
            unshifted(stacked, first._frame, threads),
            sum((p.ctf2 for p in parts[1:]), first.ctf2),
            sum((p.weight for p in parts[1:]), first.weight),
        )


def component_columns(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Columns of the real and of the imaginary parts in a stored vector, (D,) each: by order, [real | imaginary]."""
    real, imaginary, at = [], [], 0
    for size in sizes:
        real.append(torch.arange(at, at + size))
        imaginary.append(torch.arange(at + size, at + 2 * size))
        at += 2 * size
    return torch.cat(real), torch.cat(imaginary)


@dataclass(frozen=True)
class Averages:
    """Posterior means (K, M, R), with the diagonal of the posterior precision (K, D) and the prior power (D,).

    Slices of a volume have neither: one particle's share in them is too small to be taken out of its score.
    """

    values: Tensor
    precision: Tensor | None = None
    prior: Tensor | None = None


def solve(sums: Sums, frame: Frame) -> Averages:
    """The averages, each (V^H diag(sum C^2) V + 1 / prior) a = V^H sum, order by order, prior from the sums."""
    vectors = frame.encoder.subspace.vectors
    data = [sums.coefficients[:, m] @ v.conj() for m, v in enumerate(vectors)]
    seen = torch.cat([sums.ctf2 @ v.abs() ** 2 for v in vectors], 1)
    prior = _prior(torch.cat(data, 1), seen, sums.weight, frame)
    values, at = torch.zeros_like(sums.coefficients), 0
    for m, v in enumerate(vectors):
        here = prior[at : at + v.shape[1]]
        at += v.shape[1]
        normal = torch.einsum("rp,kr,rq->kpq", v.conj(), sums.ctf2.to(v.dtype), v) + torch.diag(1 / here)
        values[:, m] = torch.linalg.solve(normal, data[m][..., None])[..., 0] @ v.T
    return Averages(values, seen + 1 / prior, prior)


def _prior(data: Tensor, seen: Tensor, weight: Tensor, frame: Frame) -> Tensor:
    """(D,) power of the averages along each component: mean of |sum / C^2|^2 less its noise, smoothed over orders."""
    subspace = frame.encoder.subspace
    seen = seen.clamp(min=1e-3)
    share = weight / weight.sum().clamp(min=1e-6)
    excess = (((data / seen).abs() ** 2 - subspace.noise / seen) * share[:, None]).sum(0)
    widest = max(subspace.sizes)
    grid, mask = torch.zeros(len(subspace.sizes), widest), torch.zeros(len(subspace.sizes), widest)
    for m, (start, size) in enumerate(zip(subspace.offsets, subspace.sizes, strict=False)):
        grid[m, :size], mask[m, :size] = excess[start : start + size], 1.0
    window = torch.ones(1, 1, 3, 3)
    total, count = (torch.nn.functional.conv2d(x[None, None], window, padding=1)[0, 0] for x in (grid * mask, mask))
    smooth = (total / count.clamp(min=1))[mask > 0]
    return PRIOR_FACTOR * smooth.clamp(min=1e-4)
