"""The low-frequency part of images: all that a resolution stage looks at.

The half plane of the box is cut to the frequencies of a smaller box; CTF, noise and shifts are applied there alone, so
an early stage costs a fraction of a late one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from beamside.classify.polar import Rings
from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import shift_phases


@dataclass(frozen=True)
class Lowpass:
    """Frequencies of the cropped box `rings.cropped_px` = c within a box of n pixels, as half planes (c, c//2 + 1).

    The Nyquist row and column of the cropped box stay empty.
    """

    rings: Rings
    pixel_size_A: float

    @cached_property
    def grid(self) -> tuple[Tensor, Tensor]:
        """(ky, kx) in whole Fourier pixels: (c, 1), (1, c//2 + 1)."""
        c = self.rings.cropped_px
        return torch.fft.fftfreq(c, 1 / c)[:, None], torch.arange(c // 2 + 1, dtype=torch.float32)[None]

    @cached_property
    def index(self) -> Tensor:
        """(c, c//2 + 1) int64: the ring of each coefficient."""
        ky, kx = (k.double() for k in self.grid)
        return torch.round(torch.sqrt(ky**2 + kx**2)).long()

    @cached_property
    def _share(self) -> Tensor:
        """(c (c//2+1), R): the weights with which coefficients enter the means of the rings."""
        c, rings = self.rings.cropped_px, self.rings
        inside = torch.full((c, c // 2 + 1), 2.0)
        inside[:, 0] = 1.0
        if c < rings.box_px:
            inside[c // 2], inside[:, c // 2] = 0.0, 0.0
        chosen = (self.index[..., None] == torch.arange(rings.first, rings.last + 1)) * inside[..., None]
        return (chosen / chosen.sum((0, 1))).flatten(0, 1)

    def cut(self, images: Tensor) -> Tensor:
        """(b, n, n) -> (b, c, c//2 + 1) complex64: FFT scaled by 1/n."""
        n, c = self.rings.box_px, self.rings.cropped_px
        h = c // 2
        half = torch.fft.rfft2(images)
        small = torch.zeros(len(images), c, h + 1, dtype=half.dtype)
        small[:, :h, :h], small[:, c - h + 1 :, :h] = half[:, :h, :h], half[:, n - h + 1 :, :h]
        return small / n

    def contrast(self, params: CtfParams | None, count: int) -> Tensor:
        """The CTF (b, c, c//2 + 1); ones where there is none."""
        ky, kx = self.grid
        if params is None:
            return torch.ones(count, *self.index.shape)
        scale = 1 / (self.rings.box_px * self.pixel_size_A)
        return ctf(params, ky * scale, kx * scale).float()

    def ring_means(self, values: Tensor) -> Tensor:
        """(b, c, c//2 + 1) -> (b, R) means over the rings."""
        return values.flatten(1) @ self._share

    def spread(self, spectrum: Tensor) -> Tensor:
        """(b, n//2 + 1) values of shells -> (b, c, c//2 + 1); zero beyond the last ring and its margin."""
        index = self.index
        values = spectrum[:, index.clamp(max=spectrum.shape[1] - 1)]
        return torch.where(index <= self.rings.last + 2, values, torch.zeros(()))

    def centred(self, half: Tensor, centres_px: Tensor) -> Tensor:
        """(b, c, c) images of the cropped box: what lies at `centres_px` (b, 2) from pixel n//2 comes to pixel c//2.

        Scaled so that the sum over pixels of y exp(-2 pi i k.x / c) is the half plane at k.
        """
        n, c = self.rings.box_px, self.rings.cropped_px
        ky, kx = self.grid
        middle = c // 2 / c
        dy, dx = ((-centres_px[:, axis] - n // 2) / n + middle for axis in (1, 0))
        images: Tensor = torch.fft.irfft2(half * shift_phases(ky, kx, dy, dx), s=(c, c))
        return images
