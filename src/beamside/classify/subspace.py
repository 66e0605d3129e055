"""Steerable radial compression: for each angular frequency, the radial components that carry the variance.

Principal components of the ring profiles of each order separately commute with rotations (Z. Zhao, Y. Shkolnisky and
A. Singer, IEEE Trans. Comput. Imaging 2 (2016) 1-12). Eigenvalues of the signal are shrunk by the noise's, known
from white noise sent through the same path, and serve as the first prior of class averages (T. Bhamre, T. Zhang and
A. Singer, J. Struct. Biol. 195 (2016) 72-81).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subspace:
    """Orthonormal radial vectors of each order, with the power of signal and noise along them.

    vectors: one (R, p_m) complex64 an order, p_m >= 1 for every order kept.
    signal, noise: (D,) power of one particle's signal (shrunk) and noise, all orders one after the other.
    """

    vectors: tuple[Tensor, ...]
    signal: Tensor
    noise: Tensor
    kept: float
    """Share of the total variance that is kept."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """p_m of each order."""
        return tuple(v.shape[1] for v in self.vectors)

    @property
    def offsets(self) -> list[int]:
        """Where each order begins among the D components, and D at the end."""
        ends = [0]
        for size in self.sizes:
            ends.append(ends[-1] + size)
        return ends

    @property
    def dimension(self) -> int:
        """D, complex components of a particle."""
        return sum(self.sizes)

    @property
    def orders(self) -> Tensor:
        """(D,) float32: the angular frequency of each component."""
        return torch.cat([torch.full((size,), float(m)) for m, size in enumerate(self.sizes)])

    @property
    def bytes_per_particle(self) -> int:
        """Of the stored vector, float32 real and imaginary parts."""
        return 8 * self.dimension


def train(total: Tensor, noise: Tensor, allowed: Tensor, variance: float, *, particles: int) -> Subspace:
    """The components that hold `variance` of the total variance.

    total, noise: (M, R, R) covariances of particles and of pure noise; allowed: (M, R) rings that an order can have.
    """
    total, noise = (_restricted(c, allowed) for c in (total, noise))
    values, vectors = torch.linalg.eigh(total)
    values, vectors = values.flip(1).clamp(min=0), vectors.flip(2)
    values = torch.where(torch.arange(values.shape[1]) < allowed.sum(1, keepdim=True), values, torch.zeros(()))
    ordered = values.flatten().sort(descending=True).values
    cumulative = ordered.double().cumsum(0) / ordered.double().sum()
    threshold = float(ordered[min(int((cumulative < variance).sum()), len(ordered) - 1)])
    keep = (values >= max(threshold, 1e-12)).sum(1)
    orders = int((keep > 0).nonzero().max()) + 1
    keep = keep.clamp(min=1)
    kept = [vectors[m, :, : int(keep[m])] for m in range(orders)]
    along = [torch.einsum("rj,rs,sj->j", v.conj(), noise[m], v).real for m, v in enumerate(kept)]
    return Subspace(
        tuple(v.contiguous() for v in kept),
        torch.cat([_shrunk(values[m, : int(keep[m])], along[m], particles, total.shape[1]) for m in range(orders)]),
        torch.cat(along).clamp(min=1e-3),
        float(sum(values[m, : int(keep[m])].sum() for m in range(orders)) / values.sum()),
    )


def _restricted(covariance: Tensor, allowed: Tensor) -> Tensor:
    both = allowed[:, :, None] & allowed[:, None, :]
    hermitian = 0.5 * (covariance + covariance.mH)
    return torch.where(both, hermitian, torch.zeros((), dtype=hermitian.dtype))


def _shrunk(values: Tensor, noise: Tensor, particles: int, rings: int) -> Tensor:
    """Signal power behind sample eigenvalues: what exceeds the noise, less the spread that few samples cause.

    The spread is the Marchenko-Pastur edge, noise x ((1 + sqrt(R/N))^2 - 1); a floor keeps every component usable.
    """
    edge = noise * ((1 + math.sqrt(rings / particles)) ** 2 - 1)
    return torch.maximum(values - noise - edge, 0.02 * noise).clamp(min=1e-6)
