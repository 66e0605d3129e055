"""Where a reconstruction begins: a probe from the data alone, and its defocus by a sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.canvas import Canvas
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.optics import Optics
from beamside.ptycho.probe import Modes, scaled_to
from beamside.ptycho.solvers.accelerated import Accelerated
from beamside.ptycho.solvers.base import Pass
from beamside.ptycho.workshop import Detector, Frames, Likelihood, Workshop

TRIAL_FRAMES = 300
_TRIAL_ITERATIONS = 5
_CANDIDATES = 10


@dataclass(frozen=True)
class Trial:
    """One candidate start and the misfit a frame that a short reconstruction from it reaches."""

    defocus_m: float
    misfit: float


def pupil_probe(mean_pattern: NDArray[np.float64], optics: Optics, defocus_m: float) -> Modes:
    """(1, N, N) probe: the mean pattern's amplitude as pupil, with the phase of a defocus.

    mean_pattern: (N, N) counts, DC at the corner. A pupil coordinate is an angle, detector pixel / distance; defocus
    adds pi q^2 defocus / wavelength (Goodman, Fourier Optics, 5.1).
    """
    k = np.fft.fftfreq(optics.size) * optics.size * optics.detector_pixel_m / optics.distance_m
    q2 = k[:, None] ** 2 + k[None] ** 2
    pupil = np.sqrt(np.maximum(mean_pattern, 0)) * np.exp(1j * np.pi / optics.wavelength_m * q2 * defocus_m)
    return np.asarray(np.fft.fftshift(np.fft.ifft2(pupil))[None].astype(np.complex64))


def flat_probe(mean_pattern: NDArray[np.float64]) -> Modes:
    """(1, N, N) near-field start: the mean frame's amplitude with a flat phase."""
    return np.asarray(np.sqrt(np.maximum(mean_pattern, 0))[None].astype(np.complex64))


def largest_defocus_m(mean_pattern: NDArray[np.float64], optics: Optics) -> float:
    """The defocus at which the beam fills three quarters of the window: its aperture comes from the mean pattern."""
    n = optics.size
    k = np.fft.fftfreq(n) * n
    radius2 = (k[:, None] ** 2 + k[None] ** 2).ravel()
    order = np.argsort(radius2)
    inside = np.cumsum(mean_pattern.ravel()[order])
    edge_px = np.sqrt(radius2[order][np.searchsorted(inside, 0.9 * inside[-1])])
    aperture = 2 * max(edge_px, 1.0) * optics.detector_pixel_m / optics.distance_m
    return float(0.75 * n * optics.pixel_m / aperture)


def sweep(
    store: FrameStore, positions_px: NDArray[np.float64], optics: Optics, noise: Likelihood, *, seed: int, lanes: int
) -> list[Trial]:
    """Short reconstructions from defoci of both signs, then finer ones about the best; the best first."""
    frames = trial_frames(positions_px, store.usable)
    pattern = store.mean_pattern
    reach = largest_defocus_m(pattern, optics)

    def trial(defocus_m: float) -> Trial:
        probe = pupil_probe(pattern, optics, defocus_m)
        return Trial(defocus_m, short_run(store, positions_px, frames, probe, optics.detector, noise, seed, lanes))

    half = _CANDIDATES // 2
    ladder = reach * (np.arange(1, half + 1) / half) ** 1.5
    coarse = sorted((trial(z) for z in [*(-ladder[::-1]), *ladder]), key=lambda t: t.misfit)
    best = coarse[0].defocus_m
    rungs = np.sort(np.abs(ladder - abs(best)))
    around = [best + side * share * rungs[1] for side in (-1, 1) for share in (0.25, 0.5)]
    return sorted([*coarse, *(trial(z) for z in around)], key=lambda t: t.misfit)


def trial_frames(positions_px: NDArray[np.float64], usable: NDArray[np.bool_], most: int = TRIAL_FRAMES) -> Frames:
    """Usable frames that lie close together, so that they overlap however far the scan reaches."""
    frames = np.flatnonzero(usable)
    middle = np.median(positions_px[frames], axis=0)
    distance = np.hypot(*(positions_px[frames] - middle).T)
    return np.sort(frames[np.argsort(distance, kind="stable")[:most]])


def short_run(
    store: FrameStore,
    positions_px: NDArray[np.float64],
    frames: Frames,
    probe: Modes,
    detector: Detector,
    noise: Likelihood,
    seed: int,
    lanes: int,
    iterations: int = _TRIAL_ITERATIONS,
) -> float:
    """Misfit a frame after a few iterations from an empty object; infinity when it is not finite."""
    canvas = Canvas()
    canvas.cover(positions_px[frames], store.size)
    shop = Workshop(store, canvas, detector, lanes)
    shop.set_probe(scaled_to(probe, float(store.total[frames].mean())))
    shop.place(canvas.inside(positions_px, store.size))
    method = Accelerated()
    misfit = 0.0
    for k in range(iterations):
        misfit = method.iterate(shop, Pass(frames, k, seed, noise, gain=1.0, probe=k > 0))
    shop.shut()
    return misfit / len(frames) if np.isfinite(misfit) else float("inf")
