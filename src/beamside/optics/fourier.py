"""Fourier transforms of images whose origin is at index n//2, on half planes.

A half plane is (..., n, n//2 + 1): ky in the FFT's own order (0, 1, ..., -1), kx from 0 up; no shift of frequencies.
Forward transforms carry no factor, inverse ones 1/n^2. Every function takes leading batch axes, and returns the dtype
and device that it was given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from beamside.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PLANE = (-2, -1)


def to_fourier(images: Tensor) -> Tensor:
    """Real images (..., n, n) to half planes (..., n, n//2 + 1), phases relative to pixel (n//2, n//2)."""
    import torch

    half: Tensor = torch.fft.rfft2(torch.fft.ifftshift(images, dim=_PLANE))
    return half


def to_real(half: Tensor, box_px: int) -> Tensor:
    """Half planes (..., n, n//2 + 1) back to real images (..., n, n)."""
    import torch

    images: Tensor = torch.fft.fftshift(torch.fft.irfft2(half, s=(box_px, box_px)), dim=_PLANE)
    return images


def frequency_grid(
    box_px: int,
    pixel_size_A: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """(ky, kx) of a half plane in 1/Angstrom, shapes (n, 1) and (1, n//2 + 1); a pixel size of 1 gives cycles/pixel."""
    import torch

    kind = dtype or torch.float32
    ky = torch.fft.fftfreq(box_px, d=pixel_size_A, dtype=kind, device=device)
    kx = torch.fft.rfftfreq(box_px, d=pixel_size_A, dtype=kind, device=device)
    return ky[:, None], kx[None, :]


def half_plane_weights(
    box_px: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """How many of the full plane's coefficients each column of a half plane stands for, (1, n//2 + 1): 1 or 2."""
    import torch

    weights = torch.full((1, box_px // 2 + 1), 2.0, dtype=dtype or torch.float32, device=device)
    weights[:, 0] = 1
    if box_px % 2 == 0:
        weights[:, -1] = 1
    return weights


def fourier_resize(half: Tensor, box_px: int, new_box_px: int) -> Tensor:
    """Half planes of a box of `box_px` as those of `new_box_px`: the same field of view with other pixels.

    Scaled by (new/old)^2, so the mean and the values of a band-limited image stay. Smaller: frequencies at and above
    the new Nyquist are dropped. Larger: zeros are added, and an even box's Nyquist coefficients are shared by +k and
    -k, so that at whole ratios every old pixel comes back unchanged.
    """
    if new_box_px < 2 or box_px < 2:
        raise OptionError(f"a box of {min(new_box_px, box_px)} px cannot be resized.", remedy="Use at least 2 px.")
    if new_box_px == box_px:
        return half
    resized = _crop(half, new_box_px) if new_box_px < box_px else _pad(half, box_px, new_box_px)
    return resized * (new_box_px / box_px) ** 2


def _crop(half: Tensor, new: int) -> Tensor:
    kept = (new - 1) // 2
    out = half.new_zeros(*half.shape[:-2], new, new // 2 + 1)
    out[..., : kept + 1, : kept + 1] = half[..., : kept + 1, : kept + 1]
    out[..., new - kept :, : kept + 1] = half[..., half.shape[-2] - kept :, : kept + 1]
    return out


def _pad(half: Tensor, old: int, new: int) -> Tensor:
    """The Nyquist row and column of an even box stand for +k and -k at once; each gets half."""
    kept, columns = (old - 1) // 2, old // 2 + 1
    out = half.new_zeros(*half.shape[:-2], new, new // 2 + 1)
    out[..., : kept + 1, :columns] = half[..., : kept + 1, :]
    out[..., new - kept :, :columns] = half[..., old - kept :, :]
    if old % 2 == 0:
        nyquist = half[..., old // 2, :] * 0.5
        out[..., old // 2, :columns] = nyquist
        out[..., new - old // 2, :columns] = nyquist
        out[..., :, old // 2] *= 0.5
    return out


def resample(images: Tensor, new_box_px: int) -> Tensor:
    """Real images (..., n, n) on `new_box_px` pixels of the same field of view, means kept; see `fourier_resize`."""
    box_px = images.shape[-1]
    if new_box_px == box_px:
        return images
    return to_real(fourier_resize(to_fourier(images), box_px, new_box_px), new_box_px)


def shift_phases(ky: Tensor, kx: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Factors (n, *grid) that move the content of an image by +dy rows and +dx columns.

    dy, dx: (n,), in the unit of which ky and kx are the reciprocal: pixels with cycles/pixel, Angstrom with 1/Angstrom.
    RELION's rlnOriginX/YAngst are the shift to apply to a particle to centre it: dx = +rlnOriginXAngst.
    """
    import torch

    ones = (1,) * max(ky.ndim, kx.ndim)
    angle = ky * dy.reshape(-1, *ones) + kx * dx.reshape(-1, *ones)
    return torch.polar(torch.ones_like(angle), -2 * math.pi * angle)


def shift_images(images: Tensor, dy_px: Tensor, dx_px: Tensor) -> Tensor:
    """Images (n, box, box) moved by +dy rows and +dx columns (n,), round the edges, by Fourier interpolation."""
    box_px = images.shape[-1]
    ky, kx = frequency_grid(box_px, dtype=images.dtype, device=images.device)
    return to_real(to_fourier(images) * shift_phases(ky, kx, dy_px.to(ky), dx_px.to(kx)), box_px)
