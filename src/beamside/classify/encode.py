"""Particles as short whitened vectors: mask, CTF and noise weights, centring, polar coefficients, compression.

The likelihood of a reference A is the sum over Fourier pixels of |X - C A|^2 / sigma^2; only the products X C / sigma^2
and the ring means of C^2 / sigma^2 enter it. The first is kept as coefficients in an orthonormal steerable basis,
scaled so that white noise has unit variance a real component; the second as one number a ring, relative to its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from beamside.classify.lowpass import Lowpass
from beamside.classify.polar import Rings, bessel_table, largest_argument, supported, transform_matrix
from beamside.classify.subspace import Subspace, train
from beamside.compute.lanes import blocks, over_lanes
from beamside.optics.ctf import CtfParams
from beamside.optics.fourier import half_plane_weights
from beamside.optics.frc import ring_index
from beamside.optics.masks import moved

BLOCK = 128
_NOISE_IMAGES = 600


@dataclass(frozen=True)
class Spectra:
    """Mean power of masked images per noise group and shell (G, n//2+1), and the mask's mean square.

    power / coverage is the noise variance a Fourier pixel (FFT scaled by 1/n) as long as noise dominates.
    """

    power: Tensor
    coverage: float

    def noise(self, signal: Tensor | None = None) -> Tensor:
        """(G, n//2+1) noise variance; `signal` is the power that CTF x references explain, (n//2+1)."""
        explained = torch.zeros(()) if signal is None else signal
        least = 0.3 * self.power
        return torch.maximum(self.power - explained, least).clamp(min=1e-12) / self.coverage


def shell_means(half: Tensor, box_px: int) -> Tensor:
    """(..., n, n//2+1) real -> (..., n//2+1) means over shells of the full plane."""
    index = ring_index(box_px, device=half.device).flatten()
    inside = index <= box_px // 2
    weight = half_plane_weights(box_px, device=half.device).expand(box_px, -1).flatten()[inside]
    shells = box_px // 2 + 1
    total = torch.zeros(*half.shape[:-2], shells, dtype=half.dtype, device=half.device)
    total.index_add_(-1, index[inside], half.flatten(-2)[..., inside] * weight)
    count = torch.zeros(shells, device=half.device).index_add_(0, index[inside], weight)
    return total / count


def masked_power(images: Tensor, mask: Tensor) -> Tensor:
    """(b, n, n) -> (b, n//2+1): power of the masked images, FFT scaled by 1/n."""
    box_px = images.shape[-1]
    return shell_means((torch.fft.rfft2(images * mask).abs() / box_px) ** 2, box_px)


@dataclass(frozen=True)
class Particles:
    """What the encoder needs of b particles."""

    images: Tensor
    """(b, n, n) float32."""
    ctf: CtfParams | None
    group: Tensor
    """(b,) noise group."""
    centres_px: Tensor
    """(b, 2) as (x, y): where the particle's centre lies, relative to pixel (n//2, n//2)."""


@dataclass
class Encoder:
    """Everything that turns an image into its vector at one resolution."""

    rings: Rings
    mask: Tensor
    noise: Tensor
    pixel_size_A: float
    mean_ctf2: Tensor
    """(R,) mean of C^2 on the rings over the training particles."""
    subspace: Subspace
    operator: Tensor
    """(c*c, 2D): the steerable basis on the pixels of the cropped box."""

    @cached_property
    def ring_weight(self) -> Tensor:
        """(R,) q = 2 pi r mean(C^2) / sigma^2: the metric in which references are whitened."""
        noise = self.noise.mean(0)[self.rings.first : self.rings.last + 1]
        return 2 * math.pi * self.rings.radii * self.mean_ctf2 / noise

    @cached_property
    def lowpass(self) -> Lowpass:
        """The frequencies that this resolution needs."""
        return Lowpass(self.rings, self.pixel_size_A)

    def encode(self, some: Particles) -> tuple[Tensor, Tensor]:
        """Vectors (b, 2D) and relative ring means of C^2 / sigma^2 (b, R)."""
        # A group that first came after the noise was measured shares the last one's spectrum until the next stage.
        group = some.group.clamp(max=len(self.noise) - 1)
        contrast = self.lowpass.contrast(some.ctf, len(some.images))
        masked = some.images * moved(self.mask, some.centres_px)
        weighted = weighted_crops(masked, contrast, self.noise[group], some.centres_px, self.lowpass)
        return weighted.flatten(1) @ self.operator, self._ring_ctf2(contrast, group)

    def _ring_ctf2(self, contrast: Tensor, group: Tensor) -> Tensor:
        """(b, R): ring means of C^2 / sigma_g^2 over those of the average particle."""
        r = slice(self.rings.first, self.rings.last + 1)
        own = self.lowpass.ring_means(contrast**2) / self.noise[group][:, r]
        return own / (self.mean_ctf2 / self.noise.mean(0)[r])


def weighted_crops(masked: Tensor, contrast: Tensor, noise: Tensor, centres_px: Tensor, lowpass: Lowpass) -> Tensor:
    """C X / sigma^2 of masked images (b, n, n), moved to their centres: (b, c, c) with the origin at c//2.

    contrast: (b, c, c//2 + 1); noise: (b, n//2 + 1) variance in each shell.
    """
    return lowpass.centred(lowpass.cut(masked) * (contrast * lowpass.spread(1 / noise)), centres_px)


def build(
    rings: Rings,
    mask: Tensor,
    noise: Tensor,
    pixel_size_A: float,
    sample: Callable[[slice], Particles],
    count: int,
    *,
    radius_px: float,
    variance: float,
    seed: int,
    threads: int,
) -> Encoder:
    """An encoder trained on `count` centred particles; `sample` gives those of a slice of 0..count.

    radius_px: reach of the object with its shifts, which bounds the angular frequencies.
    variance: share of the vectors' variance that the compression keeps.
    """
    table = bessel_table(rings.orders, largest_argument(rings))
    basis = torch.stack([transform_matrix(rings, m, table) for m in range(rings.orders)])
    allowed = supported(rings, radius_px)
    lowpass = Lowpass(rings, pixel_size_A)
    moments = _moments(lowpass, mask, noise, sample, count, basis, allowed, seed, threads)
    mean_ctf2 = moments.ctf2.clamp(min=1e-4)
    ring_noise = noise.mean(0)[rings.first : rings.last + 1]
    scale = torch.sqrt(rings.multiplicity[:, None] * 2 * math.pi * rings.radii * ring_noise / mean_ctf2)
    both = scale[:, :, None] * scale[:, None, :]
    subspace = train(moments.real * both, moments.white * both, allowed, variance, particles=count)
    columns = []
    for m, vectors in enumerate(subspace.vectors):
        rows = vectors.mH @ (basis[m] * scale[m, :, None])
        columns += [rows.real, rows.imag]
    return Encoder(rings, mask, noise, pixel_size_A, mean_ctf2, subspace, torch.cat(columns).T.contiguous())


@dataclass
class _Moments:
    """Means over training particles: outer products of their coefficients and of pure noise's (M, R, R), C^2 (R,)."""

    real: Tensor
    white: Tensor
    ctf2: Tensor


def _moments(
    lowpass: Lowpass,
    mask: Tensor,
    noise: Tensor,
    sample: Callable[[slice], Particles],
    count: int,
    basis: Tensor,
    allowed: Tensor,
    seed: int,
    threads: int,
) -> _Moments:
    """Block by block, so that no more pixels are in memory than the lanes hold."""
    orders, rings = allowed.shape
    used = allowed.flatten().nonzero()[:, 0]
    parts = basis.flatten(0, 1)[used]
    operator = torch.cat([parts.real, parts.imag]).T.contiguous()
    noisy = min(_NOISE_IMAGES, count)

    def outer(crops: Tensor) -> Tensor:
        flat = crops.flatten(1) @ operator
        found = torch.zeros(len(crops), orders * rings, dtype=torch.complex64)
        found[:, used] = torch.complex(flat[:, : len(used)], flat[:, len(used) :])
        rows = found.view(-1, orders, rings).transpose(0, 1)
        return rows.mT @ rows.conj()

    def lane(pieces: Sequence[slice]) -> _Moments:
        square = torch.zeros(orders, rings, rings, dtype=torch.complex64)
        total = _Moments(square, square.clone(), torch.zeros(rings))
        for piece in pieces:
            some = sample(piece)
            contrast, own = lowpass.contrast(some.ctf, len(some.images)), noise[some.group]
            total.ctf2 += lowpass.ring_means(contrast**2).sum(0)
            around = moved(mask, some.centres_px).expand(len(some.images), -1, -1)
            total.real += outer(weighted_crops(some.images * around, contrast, own, some.centres_px, lowpass))
            if (few := min(noisy, piece.stop) - piece.start) > 0:
                pure = noise_images(own[:few], mask.shape[-1], seed + piece.start) * around[:few]
                total.white += outer(weighted_crops(pure, contrast[:few], own[:few], some.centres_px[:few], lowpass))
        return total

    lanes = over_lanes(lane, blocks(count, BLOCK), threads)
    return _Moments(
        sum((t.real for t in lanes[1:]), lanes[0].real) / count,
        sum((t.white for t in lanes[1:]), lanes[0].white) / noisy,
        sum((t.ctf2 for t in lanes[1:]), lanes[0].ctf2) / count,
    )


def noise_images(spectrum: Tensor, box_px: int, seed: int) -> Tensor:
    """(b, n, n) of noise with the variance `spectrum` (b, n//2 + 1) in each shell."""
    white = torch.randn(len(spectrum), box_px, box_px, generator=torch.Generator().manual_seed(seed))
    index = ring_index(box_px).clamp(max=box_px // 2)
    coloured: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * spectrum[:, index].sqrt(), s=white.shape[-2:])
    return coloured
