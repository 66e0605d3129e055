"""The probe: its sub-pixel bank, its modes, its centre, and where it comes from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 4
"""Sub-pixel positions along an axis: frames are placed to 1/8 pixel, and no frame costs an FFT for it."""

Modes = NDArray[np.complex64]


def shift_phases(size: int, bins: int = BINS) -> NDArray[np.complex64]:
    """(bins, N) complex64: multiply the FFT along an axis by row b to shift by b/bins pixels along it."""
    turns = np.fft.fftfreq(size) * (np.arange(bins) / bins)[:, None]
    return np.asarray(np.exp(-2j * np.pi * turns), np.complex64)


def orthogonal(modes: Modes) -> Modes:
    """The same incoherent sum in orthogonal modes, the strongest first (eigenvectors of the Gram matrix).

    Thibault & Menzel, Nature 494 (2013) 68. The total intensity of every pixel is unchanged.
    """
    if len(modes) == 1:
        return modes
    flat = modes.reshape(len(modes), -1).astype(np.complex128)
    values, vectors = np.linalg.eigh(flat.conj() @ flat.T)
    order = np.argsort(values)[::-1]
    return np.asarray((vectors[:, order].T @ flat).reshape(modes.shape).astype(np.complex64))


def with_modes(modes: Modes, count: int) -> Modes:
    """`count` modes: the given ones first, then what a shaking of the source makes of the first, at 10 % of it each.

    A beam that moves by a little is P and its derivatives; in Fourier space P times u, u*, u^2 ... with u = kx + i ky,
    so that one further mode has a part of a movement in any direction.
    """
    k = np.fft.fftfreq(modes.shape[-1])
    u = k[None] + 1j * k[:, None]
    spectrum = np.fft.fft2(modes[0])
    found = list(modes[:count])
    while len(found) < count:
        extra = len(found) - 1
        turned = spectrum * (u if extra % 2 == 0 else u.conj()) ** (1 + extra // 2)
        g: Modes = np.fft.ifft2(turned).astype(np.complex64)
        for known in found:
            g = np.asarray(g - known * np.vdot(known, g) / max(_power(known), 1e-30), np.complex64)
        found.append(g * np.sqrt(0.1 * _power(modes[0]) / max(_power(g), 1e-30)))
    return np.stack(found).astype(np.complex64)


def scaled_to(modes: Modes, counts: float) -> Modes:
    """The modes with a total intensity of `counts`, as an empty object would bring them to the detector."""
    return np.asarray(modes * np.sqrt(counts / max(_power(modes), 1e-30)), np.complex64)


def centre_offset_px(modes: Modes) -> NDArray[np.float64]:
    """(2,) where the intensity lies relative to pixel N//2, by its circular mean: no window edge breaks it."""
    return circular_centre_px((np.abs(modes.astype(np.complex128)) ** 2).sum(0), modes.shape[-1] // 2)


def circular_centre_px(intensity: NDArray[np.float64], origin: int) -> NDArray[np.float64]:
    """(2,) centre of an (N, N) image on the torus, relative to pixel `origin`, within +-N/2."""
    size = intensity.shape[0]
    turn = np.exp(2j * np.pi * (np.arange(size) - origin) / size)
    angles = [np.angle((intensity.sum(1 - axis) * turn).sum()) for axis in (0, 1)]
    return np.asarray(np.array(angles) * size / (2 * np.pi))


def _power(modes: Modes) -> float:
    return float((np.abs(modes.astype(np.complex128)) ** 2).sum())
