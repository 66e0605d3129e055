"""The bank of shifted probes and its adjoint on the CPU, one image at a time, so that each stays in the cache.

The same as `probe.bank` and `probe.unshifted`, which work on all of them at once: on a GPU, and as the oracle. Along x
four images are shifted, by torch; along y all sixteen, in strips of columns where `columns` can.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels
from beamside.ptycho.probe import Modes

Planes = NDArray[np.float32]
Image = NDArray[np.complex64]


class Bank:
    """What the shifts of one size of frames need, made once. phases: (bins, N) of `probe.shift_phases`."""

    def __init__(self, phases: torch.Tensor) -> None:
        self.phases, self.back = phases, phases.conj().resolve_conj()
        self.along_y = _Strips(phases) if columns.possible(phases.shape[1]) else _Whole(phases)

    def fill(self, modes: Modes, planes: Planes) -> None:
        """planes (bins^2, m, 2, N, N): the modes (m, N, N) shifted."""
        bins, turned = len(self.phases), torch.empty(modes.shape[1:], dtype=torch.complex64)
        for m, mode in enumerate(torch.from_numpy(modes)):
            rows = torch.fft.fft(mode, dim=-1)
            for col in range(bins):
                wave = mode
                if col:
                    wave = torch.fft.ifft(torch.mul(rows, self.phases[col], out=turned), dim=-1)
                self.along_y.shift(wave.numpy(), [planes[k, m] for k in range(col, bins * bins, bins)])

    def gathered(self, sums: Planes) -> Modes:
        """sums (lanes, bins^2, m, 2, N, N) of shifted modes, brought back and added up: (m, N, N)."""
        bins, (count, _, size, _) = len(self.phases), sums.shape[2:]
        out, wave = np.empty((count, size, size), np.complex64), torch.empty((size, size), dtype=torch.complex64)
        rows = torch.empty_like(wave)
        for m in range(count):
            rows.zero_()
            for col in range(1, bins):
                self.along_y.bring_back(sums, range(col, bins * bins, bins), m, wave.numpy())
                rows.addcmul_(torch.fft.fft(wave, dim=-1), self.back[col])
            self.along_y.bring_back(sums, range(0, bins * bins, bins), m, out[m])
            out[m] += torch.fft.ifft(rows, dim=-1).numpy()
        return out


class _Whole:
    """Shifts of an image along y, by torch, for any size."""

    def __init__(self, phases: torch.Tensor) -> None:
        self.phases, self.back = phases[:, :, None], phases.conj().resolve_conj()[:, :, None]

    def shift(self, wave: Image, moved: list[Planes]) -> None:
        """Planes (2, N, N) of the image (N, N) by each phase."""
        spectrum = torch.fft.fft(torch.from_numpy(wave), dim=-2)
        for row, planes in enumerate(moved):
            there = torch.fft.ifft(spectrum * self.phases[row], dim=-2).numpy() if row else wave
            kernels.split_mode(there, planes)

    def bring_back(self, sums: Planes, shifted: range, m: int, out: Image) -> None:
        """out (N, N): the adjoint, of the mode's sums in some bins of the bank."""
        wave, spectrum = np.empty_like(out), torch.zeros(out.shape, dtype=torch.complex64)
        for row, k in enumerate(shifted):
            if row:
                kernels.join(sums, k, m, wave)
                spectrum.addcmul_(torch.fft.fft(torch.from_numpy(wave), dim=-2), self.back[row])
        kernels.join(sums, shifted[0], m, out)
        out += torch.fft.ifft(spectrum, dim=-2).numpy()


class _Strips:
    """As `_Whole`, in strips of columns: three times as fast."""

    def __init__(self, phases: torch.Tensor) -> None:
        size = phases.shape[1]
        unsorted = phases.numpy()[:, columns.order(size)] / np.float32(size)
        self.phases = np.ascontiguousarray(np.stack([unsorted.real, unsorted.imag], 2))
        self.back = self.phases * np.array([1, -1], np.float32)
        self.turns = columns.twiddles(size)
        self.sized = columns.sized(size)
        self.image, self.other = columns.strip(size, size // columns.WIDTH), columns.strip(size, size // columns.WIDTH)

    def shift(self, wave: Image, moved: list[Planes]) -> None:
        """Likewise."""
        kernels.split_mode(wave, moved[0])
        columns.cut(moved[0][None, None, None], 0, 0, self.image)
        columns.forward(self.image, self.turns, self.sized)
        for planes, phase in zip(moved[1:], self.phases[1:], strict=True):
            columns.turned(self.image, phase, self.other, False)
            columns.backward(self.other, self.turns, self.sized)
            columns.paste(self.other, planes)

    def bring_back(self, sums: Planes, shifted: range, m: int, out: Image) -> None:
        """Likewise."""
        self.other[:] = 0
        for k, phase in zip(shifted[1:], self.back[1:], strict=True):
            columns.cut(sums, k, m, self.image)
            columns.forward(self.image, self.turns, self.sized)
            columns.turned(self.image, phase, self.other, True)
        columns.backward(self.other, self.turns, self.sized)
        kernels.join(sums, shifted[0], m, out)
        columns.add(self.other, out)
