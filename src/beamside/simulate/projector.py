"""Projections of a map by central sections of its Fourier transform.

The map is divided by the transform of the interpolating kernel, padded twice, and its transform is interpolated
linearly in three dimensions; see docs/conventions.md for axes and angles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beamside.optics.fourier import frequency_grid

if TYPE_CHECKING:
    from torch import Tensor

_PADDING = 2


class Projector:
    """Central sections of `volume`, a cube [z, y, x] with its origin at index n//2."""

    def __init__(self, volume: NDArray[np.float32]) -> None:
        import torch

        self.box_px = volume.shape[0]
        wide = _PADDING * self.box_px
        kernel = torch.sinc((torch.arange(self.box_px) - self.box_px // 2) / wide) ** 2
        flat = torch.as_tensor(volume) / (kernel[:, None, None] * kernel[None, :, None] * kernel[None, None, :])
        padded = torch.zeros((wide,) * 3)
        first = wide // 2 - self.box_px // 2
        inside = slice(first, first + self.box_px)
        padded[inside, inside, inside] = flat
        axes = (0, 1, 2)
        spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded, dim=axes)), dim=axes)
        self._spectrum = torch.stack([spectrum.real, spectrum.imag])[None].contiguous()
        ky, kx = frequency_grid(self.box_px)
        self._ky, self._kx = torch.broadcast_tensors(ky * self.box_px, kx * self.box_px)  # type: ignore[no-untyped-call]

    def sections(self, matrices: NDArray[np.float64]) -> Tensor:
        """Half planes (m, n, n//2 + 1) of the projections along row 2 of each of `matrices` (m, 3, 3).

        Zero from the Nyquist frequency on. Rows 0 and 1 are the x and y axes of the image in the frame of the map.
        """
        import torch

        rows = torch.as_tensor(matrices, dtype=torch.float32)
        x_axis, y_axis = rows[:, 0, None, None, :], rows[:, 1, None, None, :]
        frequency = self._kx[..., None] * x_axis + self._ky[..., None] * y_axis
        # grid_sample wants x, y, z in [-1, 1], the ends being the first and the last sample; 0 lies at sample N/2.
        wide = _PADDING * self.box_px
        grid = (frequency * _PADDING + wide // 2) * (2 / (wide - 1)) - 1
        parts = torch.nn.functional.grid_sample(
            self._spectrum, grid.reshape(1, -1, 1, 1, 3), mode="bilinear", align_corners=True
        )
        parts = parts.reshape(2, len(matrices), *self._kx.shape)
        inside = torch.hypot(self._kx, self._ky) < self.box_px // 2
        sections: Tensor = torch.complex(parts[0], parts[1]) * inside
        return sections
