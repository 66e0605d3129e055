"""The bank of shifted probes and its adjoint on the CPU, one image at a time, so that each stays in the cache.

The same as `probe.bank` and `probe.unshifted`, which work on all of them at once: on a GPU, and as the oracle. What is
not shifted along an axis is not transformed along it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.ptycho import kernels
from beamside.ptycho.probe import Modes

Planes = NDArray[np.float32]


def fill_bank(modes: Modes, phases: torch.Tensor, planes: Planes, light: Planes) -> None:
    """planes (bins^2, m, 2, N, N): the modes (m, N, N) shifted; light (bins^2, N, N): their intensity together."""
    bins, turned = len(phases), torch.empty(modes.shape[1:], dtype=torch.complex64)
    for m, mode in enumerate(torch.from_numpy(modes)):
        columns = torch.fft.fft(mode, dim=-2)
        for row in range(bins):
            half = mode
            if row:
                half = torch.fft.ifft(torch.mul(columns, phases[row][:, None], out=turned), dim=-2)
            rows = torch.fft.fft(half, dim=-1)
            for col in range(bins):
                wave = half
                if col:
                    wave = torch.fft.ifft(torch.mul(rows, phases[col], out=turned), dim=-1)
                k = row * bins + col
                kernels.split_mode(wave.numpy(), planes[k, m], light[k], m == 0)


def gathered(sums: Planes, phases: torch.Tensor) -> Modes:
    """sums (lanes, bins^2, m, 2, N, N) of shifted modes, brought back and added up: (m, N, N)."""
    bins, (count, _, size, _) = len(phases), sums.shape[2:]
    back = phases.conj().resolve_conj()
    out, wave = np.empty((count, size, size), np.complex64), torch.empty((size, size), dtype=torch.complex64)
    rows, columns = torch.empty_like(wave), torch.empty_like(wave)
    for m in range(count):
        for row in range(bins):
            rows.zero_()
            for col in range(1, bins):
                kernels.join(sums, row * bins + col, m, wave.numpy())
                rows.addcmul_(torch.fft.fft(wave, dim=-1), back[col])
            kernels.join(sums, row * bins, m, wave.numpy())
            wave += torch.fft.ifft(rows, dim=-1)
            if row:
                columns.addcmul_(torch.fft.fft(wave, dim=-2), back[row][:, None])
            else:
                out[m] = wave.numpy()
                columns.zero_()
        out[m] += torch.fft.ifft(columns, dim=-2).numpy()
    return out
