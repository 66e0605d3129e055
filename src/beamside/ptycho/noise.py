"""The noise of the counts: which likelihood, and how much smoothness the dose asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.frames import FrameStore
from beamside.ptycho.options import Noise, PtychoOptions
from beamside.ptycho.workshop import Frames, Likelihood, Workshop

_FLOOR_SHARE, _LEAST_FLOOR, _MOST_FLOOR = 0.004, 0.005, 0.05
"""The model's floor relative to the mean count of a pixel, and its limits in counts."""
_PROJECTIONS = ("dm", "raar")
_SMOOTH_COUNTS = 0.6
"""Smoothness at one count per object pixel, relative to the best-lit one; falls as one over the dose."""
_MOST_SMOOTH = 0.05
_AMPLITUDE_FLOOR = 1e-9
_STRONG_COUNTS = 10.0
"""Mean counts of a pixel below which the noise is the counts' own whatever else is wrong."""
_UNEXPLAINED = 1.5
_DIFFERS = 0.15
"""Difference between frames, relative to counting noise, from which it says something of the model."""
_LARGE = 20.0
"""Counts above which a square root has variance 1/4 to a few per cent."""


def choose_likelihood(noise: Noise, method: str, store: FrameStore, *, unexplained: bool = False) -> Likelihood:
    """Poisson for integer counts, Gaussian amplitudes for anything else, unless the user says which.

    unexplained: the misfit of a strong beam is more than counting noise can be (see `is_unexplained`). What is left
    then is in the model, not in the counts, and amplitudes weigh it more evenly.
    """
    poisson = noise == "poisson" or (noise == "auto" and store.integer and not unexplained)
    if method in _PROJECTIONS or not poisson:
        return Likelihood(False, _AMPLITUDE_FLOOR)
    mean = float(store.total[store.usable].mean()) / store.size**2
    return Likelihood(True, float(np.clip(_FLOOR_SHARE * mean, _LEAST_FLOOR, _MOST_FLOOR)))


def smoothness(options: PtychoOptions, store: FrameStore, shop: Workshop, frames: Frames) -> float:
    """Strength of the smoothness prior: what the user gives, else what the dose on an object pixel asks for.

    The dose is all counts over the area they fall on.
    """
    if options.smooth is not None:
        return options.smooth
    if options.solver in _PROJECTIONS:
        return 0.0
    lit = lit_pixels(shop, frames)
    dose = float(store.total[frames].sum()) / max(1.0, lit)
    return float(min(_MOST_SMOOTH, _SMOOTH_COUNTS / max(dose, 1e-9)))


def lit_pixels(shop: Workshop, frames: Frames) -> float:
    """Object pixels on which counts fall: cells of half a probe's width, as many as are visited."""
    intensity = (np.abs(shop.probe.astype(np.complex128)) ** 2).sum(0)
    area = float(intensity.sum() ** 2 / max(float((intensity**2).sum()), 1e-30))
    cell = max(1, int(np.sqrt(area) / 2))
    visited = np.unique(shop.corners[frames] // cell, axis=0)
    return max(area, float(len(visited) * cell * cell))


def is_unexplained(misfit: float, store: FrameStore, valid: NDArray[np.float32]) -> bool:
    """Whether a frame's misfit says that something other than Poisson noise is at work.

    On simulated scans the ratio to `expected_misfit` is 1.0 to 1.25 after twenty iterations, with recorded positions
    off by a pixel too; on a measured one, with a beam that wandered, 1.65. At low dose the model does not matter.
    """
    mean = store.mean_pattern
    if float(mean.mean()) < _STRONG_COUNTS:
        return False
    return misfit > _UNEXPLAINED * float((expected_misfit(mean) * valid).sum())


def expected_misfit(intensity: NDArray[np.float64], floor: float = 0.0) -> NDArray[np.float64]:
    """E (sqrt n - sqrt(I + floor))^2 of Poisson counts n with mean I; with no floor 2 I for small I, 1/4 for large."""
    grid = np.concatenate([[0.0], np.geomspace(1e-4, _LARGE, 200)])
    counts = np.arange(100)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(counts))))])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(counts * (grid[:, None] > 0) > 0, counts * np.log(grid[:, None]), 0.0)
    p = np.exp(log_p - grid[:, None] - log_factorial) * ((grid[:, None] > 0) | (counts == 0))
    table = (p * (np.sqrt(counts) - np.sqrt(grid[:, None])) ** 2).sum(1)
    exact = np.asarray(np.where(intensity < _LARGE, np.interp(intensity, grid, table), 0.25))
    if not floor:
        return exact
    root = (2 * intensity - exact) / (2 * np.sqrt(np.maximum(intensity, 1e-30)))  # E sqrt n
    return np.asarray(2 * intensity + floor - 2 * np.sqrt(intensity + floor) * root)


@dataclass(frozen=True)
class Fit:
    """Misfits a frame: of counting noise alone, of the mean pattern as a model of every frame, of the run's model."""

    noise: float
    mean_pattern: float
    model: float

    @property
    def unexplained(self) -> float:
        """Share of what differs between frames, counting noise aside, that the model does not know either.

        0 where hardly anything differs.
        """
        differs = self.mean_pattern - self.noise
        return max(0.0, (self.model - self.noise) / differs) if differs > _DIFFERS * self.noise else 0.0


def fit(misfit: float, store: FrameStore, valid: NDArray[np.float32], floor: float) -> Fit:
    """What a misfit a frame, made with a likelihood's floor, compares with. Of what is not counts, noise is unknown."""
    mean = store.mean_pattern
    noise = expected_misfit(mean, floor) if store.integer else np.zeros_like(mean)
    plain = 2 * mean + floor - 2 * np.sqrt(mean + floor) * store.mean_root
    return Fit(float((noise * valid).sum()), float((plain * valid).sum()), misfit)
