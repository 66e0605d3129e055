"""Class averages at the full box, restored from the particles' own pixels once their poses are known.

Each class is the Wiener estimate sum(CTF X / sigma^2) / (sum(CTF^2 / sigma^2) + 1 / tau^2) of Scheres, J. Mol. Biol.
415 (2012) 406-418, from particles X moved by their origins and turned by psi. Sums are kept for two halves, so they
are additive over particles, and the halves' ring correlation gives tau^2 and a resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.classify.angular import damped, smooth
from beamside.errors import OptionError
from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import frequency_grid, shift_phases, to_fourier, to_real
from beamside.optics.frc import resolution_A, ring_correlation, ring_index, ring_sums
from beamside.optics.masks import radius_grid_px

_FINER = 2
"""Images are laid on a grid this much finer before they are turned."""
_BLOCK_PIXELS = 1 << 17
"""Most pixels in a block of particles, so that its finer grid stays in the cache."""
_FIRST_TAU_SHARE = 0.1
"""1/tau^2 over the mean CTF^2/sigma^2 of a class where no ring correlation is known yet."""
_LEAST_SSNR = 0.03
"""Rings with less are damped as if they had this much: the estimate itself is no better."""


@dataclass(frozen=True)
class ClassAverages:
    """K class averages of n x n pixels with R = n//2 + 1 rings.

    images: float32 (K, n, n), white on black, in the grey scale of the particles; zero for a class without particles.
    frc: (K, R) between the averages of even and odd particles, inside the mask. ssnr: (K, R) spectral signal-to-noise
    ratio of the merged average. resolution_A: (K,), where the FRC falls below 0.143; infinite where it never rises.
    occupancy: (K,) sums of weights.
    """

    images: NDArray[np.float32]
    frc: NDArray[np.float64]
    ssnr: NDArray[np.float64]
    resolution_A: NDArray[np.float64]
    occupancy: NDArray[np.float64]


class Restoration:
    """Sums over particles for `classes` classes and two halves of boxes of `box_px`; grows by `add` and `+=`.

    On a CPU the same calls in the same order give the same bits.
    """

    def __init__(self, classes: int, box_px: int, pixel_size_A: float, device: torch.device | str = "cpu") -> None:
        if classes < 1 or box_px < 8 or box_px % 2 or not pixel_size_A > 0:
            raise OptionError(f"{classes} classes of {box_px} px at {pixel_size_A} A cannot be restored.")
        self.classes, self.box_px, self.pixel_size_A, self.device = classes, box_px, pixel_size_A, torch.device(device)
        # Every turn of an image reaches these pixels; its corners end up in no average.
        inside = radius_grid_px(box_px, device=self.device) < box_px // 2
        self._pixels = torch.nonzero(inside.reshape(-1))[:, 0]
        rows, columns = self._pixels // box_px - box_px // 2, self._pixels % box_px - box_px // 2
        # grid_sample with align_corners=True maps -1 and 1 to the centres of the first and last of the finer pixels.
        self._places = torch.complex(columns.float(), rows.float()) * (2 * _FINER / (_FINER * box_px - 1))
        self._ky, self._kx = frequency_grid(box_px, device=self.device)
        self._sharpen = _FINER**2 / (_kernel(self._ky) * _kernel(self._kx))
        self._rings = ring_index(box_px, device=self.device).clamp(max=box_px // 2)
        self._numerator = self._zeros(len(self._pixels))
        self._denominator = self._zeros(box_px, box_px // 2 + 1)
        self._occupancy = self._zeros()

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(2 * self.classes, *shape, dtype=torch.float64, device=self.device)

    def __iadd__(self, other: Self) -> Self:
        """The sums of both: of all particles that either has seen."""
        if (other.classes, other.box_px, other.pixel_size_A) != (self.classes, self.box_px, self.pixel_size_A):
            raise OptionError("sums over other classes, boxes or pixels cannot be added.")
        self._numerator += other._numerator.to(self.device)
        self._denominator += other._denominator.to(self.device)
        self._occupancy += other._occupancy.to(self.device)
        return self

    def add(
        self,
        images: NDArray[np.float32] | Tensor,
        ctf_params: CtfParams | None,
        classes: NDArray[Any],
        psi_deg: NDArray[Any],
        origin_x_px: NDArray[Any],
        origin_y_px: NDArray[Any],
        weights: NDArray[Any],
        half: NDArray[Any],
        noise_power: NDArray[Any],
    ) -> None:
        """Add b particles.

        images: (b, n, n), white on black. ctf_params: None for images without a CTF. classes: (b,) from 0. psi_deg,
        origin_x_px, origin_y_px: (b,) as RELION has them, origins being the shift that centres a particle. weights:
        (b,). half: (b,) 0 or 1. noise_power: (b, n//2 + 1) variance of the noise in each ring of the Fourier
        transform divided by n; white noise of variance 1 a pixel has 1 everywhere.
        """
        target = torch.as_tensor(np.asarray(half) * self.classes + np.asarray(classes), dtype=torch.int64)
        values = (images, weights, 1.0 / np.asarray(noise_power), psi_deg, origin_x_px, origin_y_px)
        tensors = [torch.as_tensor(v, dtype=torch.float32) for v in values]
        for rows in _blocks(len(target), self.box_px):
            params = None if ctf_params is None else ctf_params.take(np.arange(rows.start, rows.stop))
            self._add_block(params, target[rows].to(self.device), *(t[rows].to(self.device) for t in tensors))

    def _add_block(
        self,
        params: CtfParams | None,
        target: Tensor,
        images: Tensor,
        weights: Tensor,
        inverse_noise: Tensor,
        psi_deg: Tensor,
        origin_x_px: Tensor,
        origin_y_px: Tensor,
    ) -> None:
        precision = (inverse_noise * weights[:, None])[:, self._rings]
        factors, squares = precision, precision
        if params is not None:
            ky, kx = self._ky / self.pixel_size_A, self._kx / self.pixel_size_A
            factors = precision * ctf(params, ky, kx)
            # Turning the image by psi turns the axis of its astigmatism along; nothing is interpolated.
            angle_deg = params.defocus_angle_deg + psi_deg.cpu().double().numpy()
            squares = ctf(replace(params, defocus_angle_deg=angle_deg), ky, kx).square_().mul_(precision)
        spectra = torch.fft.rfft2(images).mul_(factors * self._sharpen)
        self._numerator.index_add_(0, target, self._turned(spectra, psi_deg, origin_x_px, origin_y_px).double())
        self._denominator.index_add_(0, target, squares.double())
        self._occupancy.index_add_(0, target, weights.double())

    def _turned(self, spectra: Tensor, psi_deg: Tensor, origin_x_px: Tensor, origin_y_px: Tensor) -> Tensor:
        """Half planes (b, n, n//2 + 1), moved by their origins and turned by psi, at the pixels in the circle: (b, P).

        Linear interpolation on the finer grid multiplies the spectrum by a kernel, of which `_sharpen` is the
        inverse; what is left of it are aliases from beyond 3/4 of the finer sampling rate.
        """
        # Half a finer pixel back, the centre of the particle is the centre of the grid.
        back = 0.5 / _FINER
        spectra.mul_(shift_phases(self._ky[:, 0], self._ky.new_zeros(1), origin_y_px - back, origin_y_px)[:, :, None])
        spectra.mul_(shift_phases(self._kx.new_zeros(1), self._kx[0], origin_x_px, origin_x_px - back)[:, None, :])
        # As complex numbers, (x, y) -> (cos x + sin y, -sin x + cos y) is one product.
        angle = -torch.deg2rad(psi_deg)
        grid = torch.view_as_real(self._places * torch.polar(torch.ones_like(angle), angle)[:, None])
        finer = _finer_images(spectra, self.box_px)[:, None]
        sampled = torch.nn.functional.grid_sample(finer, grid[:, :, None], mode="bilinear", align_corners=True)
        return sampled[:, 0, :, 0]

    def averages(self, mask: NDArray[np.floating[Any]] | None = None, *, by_order: bool = False) -> ClassAverages:
        """The class averages of all that was added, inside `mask` (n, n) where one is given.

        by_order: angular orders that the halves do not share are damped too (`angular.damped`).

        tau^2 of a ring is the power that both halves of a class agree on, half of it its own and half that of all
        classes, smoothed over neighbouring rings: a class alone has too few coefficients in a ring to tell.
        """
        cover = self._denominator.new_tensor(1.0 if mask is None else np.asarray(mask))
        numerator, denominator = self._planes()
        addend = _FIRST_TAU_SHARE * denominator.mean((-2, -1), keepdim=True)
        halves = _masked(to_real(_divided(numerator, denominator + addend), self.box_px), cover)
        frc = ring_correlation(halves[0], halves[1])
        power = self._ring_means(denominator.sum(0))
        ssnr = (self._agreed_power(halves, denominator / (denominator + addend), cover) * power).clamp(_LEAST_SSNR)
        by_pixel = torch.where(power > 0, power / ssnr, 1.0)[..., self._rings]
        white = _divided(numerator.sum(0), denominator.sum(0) + by_pixel)
        wiener = (ssnr / (1 + ssnr))[..., self._rings]
        # The mask is laid on the image before its rings are damped: strong ones would spill over into weak ones.
        masked = to_fourier(_masked(to_real(white / wiener, self.box_px), cover)) * wiener
        occupancy = self._occupancy.reshape(2, -1).sum(0)
        images = to_real(masked, self.box_px)
        if by_order:
            share = occupancy / occupancy.sum().clamp(min=torch.finfo(occupancy.dtype).tiny)
            radius_px = math.sqrt(float(cover.expand(self.box_px, self.box_px).sum()) / math.pi)
            parts = (images.cpu(), halves.cpu(), ssnr.cpu(), share.cpu())
            images = damped(*parts, radius_px, _LEAST_SSNR).to(self.device)
        images = images * (occupancy > 0)[:, None, None]
        curves = frc.cpu().numpy()
        return ClassAverages(
            images=images.float().cpu().numpy(),
            frc=curves,
            ssnr=torch.where(power > 0, ssnr, 0.0).cpu().numpy(),
            resolution_A=np.array([resolution_A(curve, self.box_px, self.pixel_size_A) for curve in curves]),
            occupancy=occupancy.cpu().numpy(),
        )

    def _planes(self) -> tuple[Tensor, Tensor]:
        """Numerators of transforms divided by n, and denominators: (2, K, n, n//2 + 1) each."""
        shape = (2, self.classes, self.box_px, -1)
        images = self._numerator.new_zeros(2 * self.classes, self.box_px**2)
        images[:, self._pixels] = self._numerator
        return to_fourier(images.reshape(shape)), self._denominator.reshape(shape) * self.box_px**2

    def _agreed_power(self, halves: Tensor, gain: Tensor, cover: Tensor) -> Tensor:
        """tau^2 (K, R): what the halves (2, K, n, n), damped by `gain`, have in common a coefficient."""
        first, second = to_fourier(halves)
        common = ring_sums((first * second.conj()).real, self.box_px)
        seen = ring_sums(gain[0] * gain[1], self.box_px) * (cover**2).mean()
        own = smooth(torch.where(seen > 0, common / seen.clamp(min=torch.finfo(seen.dtype).tiny), 0.0))
        share = self._occupancy.reshape(2, -1).sum(0)
        shared = (own * share[:, None]).sum(0) / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
        return 0.5 * (own.clamp(min=0) + shared.clamp(min=0))

    def _ring_means(self, planes: Tensor) -> Tensor:
        return ring_sums(planes, self.box_px) / ring_sums(torch.ones_like(planes[0]), self.box_px)


def _blocks(count: int, box_px: int) -> Iterator[slice]:
    size = max(1, _BLOCK_PIXELS // box_px**2)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _kernel(frequency: Tensor) -> Tensor:
    """The Fourier transform of linear interpolation on the finer grid, at cycles per pixel of the box."""
    kernel: Tensor = torch.sinc(frequency / _FINER) ** 2
    return kernel


def _finer_images(spectra: Tensor, box_px: int) -> Tensor:
    """Half planes (b, n, n//2 + 1) as images (b, 2n, 2n) on half the pixels, the Nyquist frequency left out.

    Where the first pixel is the origin of the phases, it is so on both grids, and pixel j becomes pixel 2j.
    """
    wide, kept = _FINER * box_px, box_px // 2
    tall = spectra.new_zeros(len(spectra), wide, kept)
    tall[:, :kept] = spectra[:, :kept, :kept]
    tall[:, wide - kept + 1 :] = spectra[:, kept + 1 :, :kept]
    # Column by column first, so that the columns which are zero need no transform.
    finer: Tensor = torch.fft.irfft(torch.fft.ifft(tall, dim=1), n=wide, dim=2)
    return finer


def _masked(images: Tensor, cover: Tensor) -> Tensor:
    """Images (..., n, n) on the level that they have at the mask's rim, times the mask.

    The contrast transfer function all but removes the lowest frequencies, so their level is noise.
    """
    if cover.ndim == 0:
        return images
    rim = cover * (1 - cover)
    level = (images * rim).sum((-2, -1), keepdim=True) / rim.sum().clamp(min=1e-12)
    return (images - level) * cover


def _divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where there is nothing at all."""
    return torch.where(denominator > 0, numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny), 0.0)
