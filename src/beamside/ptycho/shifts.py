"""The bank of shifted probes and its adjoint on the CPU, one image at a time, so that each stays in the cache.

The same as `torch_workshop.bank` and `unshifted`, which work on all of them at once: on a GPU, and as the oracle. Along
x four images are shifted, along y all sixteen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft, ifft

from beamside.ptycho import columns, kernels, tiles
from beamside.ptycho.probe import Modes

Planes = NDArray[np.float32]
Image = NDArray[np.complex64]


class Bank:
    """What the shifts of one size of frames need, made once. phases: (bins, N) of `probe.shift_phases`."""

    def __init__(self, phases: Image) -> None:
        self._way = _Strips(phases) if columns.possible(phases.shape[1]) else _Whole(phases)

    def fill(self, modes: Modes, planes: Planes) -> None:
        """planes (bins^2, m, 2, N, N): the modes (m, N, N) shifted."""
        for m, mode in enumerate(modes):
            self._way.shift(mode, planes[:, m])

    def gathered(self, sums: Planes) -> Modes:
        """sums (lanes, bins^2, m, 2, N, N) of shifted modes, brought back and added up: (m, N, N)."""
        out = np.empty((sums.shape[2], *sums.shape[4:]), np.complex64)
        for m in range(len(out)):
            self._way.bring_back(sums, m, out[m])
        return out


class _Whole:
    """Of any size, by scipy."""

    def __init__(self, phases: Image) -> None:
        self.phases, self.back, self.bins = phases, phases.conj(), len(phases)

    def shift(self, mode: Image, planes: Planes) -> None:
        """planes (bins^2, 2, N, N) of one mode (N, N)."""
        rows = fft(mode)
        for col in range(self.bins):
            wave = ifft(rows * self.phases[col]) if col else mode
            spectrum = fft(wave, axis=0)
            for row in range(self.bins):
                there = ifft(spectrum * self.phases[row][:, None], axis=0) if row else wave
                kernels.split_mode(there, planes[row * self.bins + col])

    def bring_back(self, sums: Planes, m: int, out: Image) -> None:
        """out (N, N): the adjoint, of a mode's sums in all bins of the bank."""
        rows = np.zeros_like(out)
        for col in reversed(range(self.bins)):
            wave, spectrum = np.empty_like(out), np.zeros_like(out)
            for row in range(1, self.bins):
                kernels.join(sums, row * self.bins + col, m, wave)
                spectrum += fft(wave, axis=0) * self.back[row][:, None]
            kernels.join(sums, col, m, out)
            out += ifft(spectrum, axis=0)
            if col:
                rows += fft(out) * self.back[col]
        out += ifft(rows)


class _Strips:
    """As `_Whole`, in strips of columns: three times as fast."""

    def __init__(self, phases: Image) -> None:
        size, self.bins = phases.shape[1], len(phases)
        unsorted = phases[:, columns.order(size)] / np.float32(size)
        self.phases = np.ascontiguousarray(np.stack([unsorted.real, unsorted.imag], 2))
        self.back = self.phases * np.array([1, -1], np.float32)
        self.told = columns.twiddles(size), columns.sized(size)
        strips = size // columns.WIDTH
        self.across, self.moved, self.image, self.other = (columns.strip(size, strips) for _ in range(4))
        self.flat = columns.zeros(2 * size * size)
        self.wave: Image = self.flat.view(np.complex64).reshape(size, size)

    def shift(self, mode: Image, planes: Planes) -> None:
        """Likewise."""
        self._stand(mode)
        for col in range(self.bins):
            wave = mode
            if col:
                columns.turned(self.across, self.phases[col], self.moved, False)
                wave = self._lying()
            self._shift_along_y(wave, planes[col :: self.bins])

    def _shift_along_y(self, wave: Image, planes: Planes) -> None:
        kernels.split_mode(wave, planes[0])
        columns.cut(planes[None, :1, None], 0, 0, self.image)
        columns.forward(self.image, *self.told)
        for row in range(1, self.bins):
            columns.turned(self.image, self.phases[row], self.other, False)
            columns.backward(self.other, *self.told)
            columns.paste(self.other, planes[row])

    def bring_back(self, sums: Planes, m: int, out: Image) -> None:
        """Likewise."""
        self.moved[:] = 0
        for col in range(1, self.bins):
            self._bring_back_along_y(sums, col, m, self.wave)
            self._stand(self.wave)
            columns.turned(self.across, self.back[col], self.moved, True)
        self._bring_back_along_y(sums, 0, m, out)
        out += self._lying()

    def _bring_back_along_y(self, sums: Planes, col: int, m: int, out: Image) -> None:
        self.other[:] = 0
        for row in range(1, self.bins):
            columns.cut(sums, row * self.bins + col, m, self.image)
            columns.forward(self.image, *self.told)
            columns.turned(self.image, self.back[row], self.other, True)
        columns.backward(self.other, *self.told)
        kernels.join(sums, col, m, out)
        columns.add(self.other, out)

    def _stand(self, wave: Image) -> None:
        """`across`: the rows of an image transformed."""
        tiles.stand(wave.view(np.float32).ravel(), self.across, self.told[1], False)
        columns.forward(self.across, *self.told)

    def _lying(self) -> Image:
        """What is in `moved` transformed back."""
        columns.backward(self.moved, *self.told)
        tiles.stand(self.flat, self.moved, self.told[1], True)
        return self.wave
