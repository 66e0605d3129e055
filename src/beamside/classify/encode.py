"""Particles as short whitened vectors: mask, CTF and noise weights, centring, polar coefficients, compression.

The likelihood of a reference A is the sum over Fourier pixels of |X - C A|^2 / sigma^2; only the products X C / sigma^2
and the ring means of C^2 / sigma^2 enter it. The first is kept as coefficients in an orthonormal steerable basis,
scaled so that white noise has unit variance a real component; the second as one number a ring, relative to its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from beamside.classify.polar import Rings, bessel_table, largest_argument, supported, transform_matrix
from beamside.classify.subspace import Subspace, train
from beamside.compute.lanes import blocks, over_lanes
from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import frequency_grid, half_plane_weights, shift_phases
from beamside.optics.frc import ring_index

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
class Images:
    """What the encoder needs of a set of particles; `load` gives pixels of rows, (k, n, n) float32."""

    ctf: CtfParams | None
    group: Tensor
    """(N,) noise group."""
    centres_px: Tensor
    """(N, 2) as (x, y): where the particle's centre lies, relative to pixel (n//2, n//2)."""


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

    def encode(
        self, images: Tensor, params: CtfParams | None, group: Tensor, centres_px: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images (b, n, n) -> vectors (b, 2D) and relative ring means of C^2 / sigma^2 (b, R)."""
        # A group that first came after the noise was measured shares the last one's spectrum until the next stage.
        group = group.clamp(max=len(self.noise) - 1)
        contrast = contrast_half(params, len(images), self.rings.box_px, self.pixel_size_A)
        weighted = weighted_crops(images, contrast, self.noise[group], centres_px, self.mask, self.rings)
        return weighted.flatten(1) @ self.operator, self.ring_ctf2(contrast, group)

    def ring_ctf2(self, contrast: Tensor, group: Tensor) -> Tensor:
        """(b, R): ring means of C^2 / sigma_g^2 over those of the average particle."""
        r = slice(self.rings.first, self.rings.last + 1)
        own = shell_means(contrast**2, self.rings.box_px)[:, r] / self.noise[group][:, r]
        return own / (self.mean_ctf2 / self.noise.mean(0)[r])


def contrast_half(params: CtfParams | None, count: int, box_px: int, pixel_size_A: float) -> Tensor:
    """The CTF on half planes (b, n, n//2+1); ones where no CTF is asked for."""
    if params is None:
        return torch.ones(count, box_px, box_px // 2 + 1)
    ky, kx = frequency_grid(box_px, pixel_size_A)
    return ctf(params, ky, kx).float()


def weighted_crops(
    images: Tensor, contrast: Tensor, noise: Tensor, centres_px: Tensor, mask: Tensor, rings: Rings
) -> Tensor:
    """C X / sigma^2 of masked images, moved to their centres and Fourier-cropped: (b, c, c) with the origin at c//2.

    Scaled so that the sum over pixels of y exp(-2 pi i k.x / c) is the weighted transform at k (FFT scaled by 1/n).
    """
    n, c = rings.box_px, rings.cropped_px
    half = torch.fft.rfft2(images * mask) / n
    ky, kx = frequency_grid(n)
    move = shift_phases(ky, kx, -centres_px[:, 1] - n // 2, -centres_px[:, 0] - n // 2)
    index = ring_index(n)
    inverse = torch.where(index <= rings.last + 2, 1 / noise[:, index.clamp(max=n // 2)], torch.zeros(()))
    half = half * move * (contrast * inverse)
    h = c // 2
    small = torch.zeros(len(images), c, h + 1, dtype=half.dtype)
    small[:, :h, :h], small[:, c - h + 1 :, :h] = half[:, :h, :h], half[:, n - h + 1 :, :h]
    ky, kx = frequency_grid(c)
    place = torch.tensor([float(c // 2)])
    crops: Tensor = torch.fft.irfft2(small * shift_phases(ky, kx, place, place), s=(c, c))
    return crops


def build(
    rings: Rings,
    mask: Tensor,
    noise: Tensor,
    pixel_size_A: float,
    images: Tensor,
    params: CtfParams | None,
    group: Tensor,
    centres_px: Tensor,
    *,
    radius_px: float,
    variance: float,
    generator: torch.Generator,
    threads: int,
) -> Encoder:
    """An encoder trained on `images` (t, n, n), which are centred by `centres_px`.

    radius_px: reach of the object with its shifts, which bounds the angular frequencies.
    variance: share of the vectors' variance that the compression keeps.
    """
    contrast = contrast_half(params, len(images), rings.box_px, pixel_size_A)
    r = slice(rings.first, rings.last + 1)
    mean_ctf2 = shell_means((contrast**2).mean(0), rings.box_px)[r].clamp(min=1e-4)
    ring_noise = noise.mean(0)[r]
    scale = torch.sqrt(rings.multiplicity[:, None] * 2 * math.pi * rings.radii * ring_noise / mean_ctf2)
    table = bessel_table(rings.orders, largest_argument(rings))
    basis = torch.stack([transform_matrix(rings, m, table) for m in range(rings.orders)]) * scale[..., None]
    allowed = supported(rings, radius_px)
    pure = torch.randn(min(_NOISE_IMAGES, len(images)), *images.shape[1:], generator=generator)
    index = ring_index(rings.box_px).clamp(max=rings.box_px // 2)
    few = slice(0, len(pure))
    pure = torch.fft.irfft2(torch.fft.rfft2(pure) * noise[group[few]][:, index].sqrt(), s=pure.shape[-2:])
    real = _covariances(images, contrast, noise[group], centres_px, mask, rings, basis, threads)
    white = _covariances(pure, contrast[few], noise[group[few]], centres_px[few], mask, rings, basis, threads)
    subspace = train(real, white, allowed, variance, particles=len(images))
    columns = []
    for m, vectors in enumerate(subspace.vectors):
        rows = vectors.mH @ basis[m]
        columns += [rows.real, rows.imag]
    return Encoder(rings, mask, noise, pixel_size_A, mean_ctf2, subspace, torch.cat(columns).T.contiguous())


def _covariances(
    images: Tensor,
    contrast: Tensor,
    noise: Tensor,
    centres_px: Tensor,
    mask: Tensor,
    rings: Rings,
    basis: Tensor,
    threads: int,
) -> Tensor:
    """(M, R, R) complex64: mean outer product of the scaled coefficients, one matrix an order."""
    flat = basis.flatten(0, 1)
    orders, count = basis.shape[:2]

    def lane(pieces: Sequence[slice]) -> Tensor:
        total = torch.zeros(orders, count, count, dtype=torch.complex64)
        for piece in pieces:
            crops = weighted_crops(images[piece], contrast[piece], noise[piece], centres_px[piece], mask, rings)
            pixels = crops.flatten(1)
            found = torch.complex(pixels @ flat.real.T, pixels @ flat.imag.T).view(-1, orders, count).transpose(0, 1)
            total += found.mT @ found.conj()
        return total

    return sum(over_lanes(lane, blocks(len(images), BLOCK), threads), torch.zeros(())) / len(images)
