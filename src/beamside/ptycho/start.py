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
LOOK_FRAMES, LOOK_ITERATIONS = 120, 4
GLANCE_FRAMES, GLANCE_ITERATIONS = 60, 2
"""Of a look at the geometry or at the defocus of a given probe, and of a glance, which says what is worth a look."""
_RUNGS = 10
"""Steps into which the reach of a search for the defocus of a given probe is divided."""
_GAIN, _MODES_GAIN = 0.99, 0.97
"""Misfit relative to that of the probe as given, from which it is moved: the order of a batch alone changes it by some
thousandths. Of several modes the further ones are a guess, and moving all of them mends that a little: it must do
more."""
_CURVED, _OFF = 0.01, 0.3
"""A minimum of the misfit counts when it is this much deeper than its neighbours, relative to itself, and lies this
part of a step from the probe as given. Nearer than that the solver finds the way itself."""


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
    phase = np.exp(1j * np.pi / optics.wavelength_m * _squared_angles(optics) * defocus_m)
    pupil = np.sqrt(np.maximum(mean_pattern, 0)) * phase
    return np.asarray(np.fft.fftshift(np.fft.ifft2(pupil))[None].astype(np.complex64))


def _squared_angles(optics: Optics) -> NDArray[np.float64]:
    k = np.fft.fftfreq(optics.size) * optics.size * optics.detector_pixel_m / optics.distance_m
    return np.asarray(k[:, None] ** 2 + k[None] ** 2)


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


def defocus_ladder_m(mean_pattern: NDArray[np.float64], optics: Optics) -> list[float]:
    """Candidates of both signs, the denser the nearer to the focus."""
    half = _CANDIDATES // 2
    rungs = largest_defocus_m(mean_pattern, optics) * (np.arange(1, half + 1) / half) ** 1.5
    return [*(-rungs[::-1]).tolist(), *rungs.tolist()]


def sweep(
    store: FrameStore, positions_px: NDArray[np.float64], optics: Optics, noise: Likelihood, *, seed: int, lanes: int
) -> list[Trial]:
    """Short reconstructions from defoci of both signs, then finer ones about the best; the best first."""
    frames = trial_frames(positions_px, store.usable)
    pattern = store.mean_pattern

    def trial(defocus_m: float) -> Trial:
        probe = pupil_probe(pattern, optics, defocus_m)
        _, last = short_run(store, positions_px, frames, probe, optics.detector, noise, seed, lanes)
        return Trial(defocus_m, last)

    ladder_m = defocus_ladder_m(pattern, optics)
    coarse = sorted((trial(z) for z in ladder_m), key=lambda t: t.misfit)
    best = coarse[0].defocus_m
    rungs = np.sort(np.abs([z - abs(best) for z in ladder_m if z > 0]))
    around = [best + side * share * rungs[1] for side in (-1, 1) for share in (0.25, 0.5)]
    return sorted([*coarse, *(trial(z) for z in around)], key=lambda t: t.misfit)


def cold_trial(
    store: FrameStore, positions_px: NDArray[np.float64], optics: Optics, noise: Likelihood, *, seed: int, lanes: int
) -> Trial:
    """The best of a hurried sweep, with a misfit to be compared with that of `refocus`."""
    best = glanced_defocus_m(store, positions_px, optics, noise, seed=seed, lanes=lanes)
    probe, frames = pupil_probe(store.mean_pattern, optics, best), trial_frames(positions_px, store.usable, LOOK_FRAMES)
    return Trial(
        best, short_run(store, positions_px, frames, probe, optics.detector, noise, seed, lanes, LOOK_ITERATIONS)[1]
    )


def glanced_defocus_m(
    store: FrameStore, positions_px: NDArray[np.float64], optics: Optics, noise: Likelihood, *, seed: int, lanes: int
) -> float:
    """The best of a hurried sweep."""
    frames, pattern = trial_frames(positions_px, store.usable, GLANCE_FRAMES), store.mean_pattern

    def misfit(defocus_m: float) -> float:
        probe = pupil_probe(pattern, optics, defocus_m)
        return short_run(store, positions_px, frames, probe, optics.detector, noise, seed, lanes, GLANCE_ITERATIONS)[1]

    return min(defocus_ladder_m(pattern, optics), key=misfit)


@dataclass(frozen=True)
class Refocus:
    """Where along the beam a given probe fits best: so far from where it was given, and the misfits there and here."""

    moved_m: float
    misfit: float
    given_misfit: float


def defocused(modes: Modes, optics: Optics, by_m: float) -> Modes:
    """The modes at another place along the beam; `pupil_probe` at z moved by d is the one at z + d."""
    phase = np.exp(1j * np.pi / optics.wavelength_m * _squared_angles(optics) * by_m)
    return np.asarray(np.fft.ifft2(np.fft.fft2(modes) * phase).astype(np.complex64))


def refocus(
    store: FrameStore, positions_px: NDArray[np.float64], optics: Optics, noise: Likelihood, probe: Modes, *,
    seed: int, lanes: int, given_misfit: float | None = None,
) -> Refocus:  # fmt: skip
    """Short reconstructions from the probe moved along the beam, downhill; moved_m is 0 where it fits as it is.

    given_misfit: of the probe where it is, from as long a run on the same frames, if there was one.
    """
    frames = trial_frames(positions_px, store.usable, LOOK_FRAMES)
    step = largest_defocus_m(store.mean_pattern, optics) / _RUNGS
    known: dict[float, float] = {} if given_misfit is None else {0: given_misfit}

    def misfit(at: float) -> float:
        if at not in known:
            moved = defocused(probe, optics, at * step) if at else probe
            known[at] = short_run(
                store, positions_px, frames, moved, optics.detector, noise, seed, lanes, LOOK_ITERATIONS
            )[1]
        return known[at]

    best = 0
    while abs(best) < _RUNGS and (lower := min((best - 1, best + 1), key=misfit)) and misfit(lower) < misfit(best):
        best = lower
    below, here, above = misfit(best - 1), misfit(best), misfit(best + 1)
    bend = below + above - 2 * here
    lowest = best + (below - above) / (2 * bend) if bend > 0 else float(best)
    clear = bend > _CURVED * here and abs(lowest) >= _OFF and abs(best) < _RUNGS
    enough = _MODES_GAIN if len(probe) > 1 else _GAIN
    if clear and misfit(lowest) < enough * misfit(0):
        return Refocus(lowest * step, misfit(lowest), misfit(0))
    return Refocus(0.0, misfit(0), misfit(0))


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
) -> tuple[float, float]:
    """Misfit a frame in the first and in the last of a few iterations from an empty object; infinity when not finite.

    The probe stays as it is in the first iteration, of which it would learn nothing, and in all of a glance, which
    would end before it could show what it has learnt. In the last of a look it counts: without it, right modes seemed
    to fit better elsewhere along the beam.
    """
    canvas = Canvas()
    canvas.cover(positions_px[frames], store.size)
    shop = Workshop(store, canvas, detector, lanes)
    shop.set_probe(scaled_to(probe, float(store.total[frames].mean())))
    shop.place(canvas.inside(positions_px, store.size))
    method = Accelerated(long_waves=False)
    learns = iterations > GLANCE_ITERATIONS
    misfits = [
        method.iterate(shop, Pass(frames, k, seed, noise, gain=1.0, probe=learns and k > 0)) / len(frames)
        for k in range(iterations)
    ]
    shop.shut()
    first, last = (m if np.isfinite(m) else float("inf") for m in (misfits[0], misfits[-1]))
    return first, last
