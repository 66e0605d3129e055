"""A ptychographic scan whose truth is known: object, probe modes, positions, photons.

The object is a heap of spheres and fibres: of projected thickness t transmit exp(-(absorption + i phase) t).
The far-field probe is the defocused focus of a rectangular lens (crossed mirrors); the near-field one a soft disc with
a smooth random phase. Forward model, exact for a band-limited probe P and positions p = i + f (whole part, rest):

    psi(r) = P(r - f) O(i + r),   far:  I = sum over modes |fft2(psi)|^2 / N^2
                                  near: I(r) = sum over modes |ifft2(fft2(psi) H)|^2 (r + f)

since beam and detector stand still and it is the sample that moves, which only images can tell; with numpy's sign of
fft2 and H(q) = exp(2 pi i z / wavelength * sqrt(1 - (wavelength q)^2)): the wave exp(+ikz) going forward by z, the
effective distance of a diverging beam (Fresnel scaling theorem). Counts are Poisson.
Every random number belongs to the seed and to a frame, so a frame does not depend on how the scan is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import OptionError
from beamside.formats.scan_layout import wavelength_of_energy_m
from beamside.optics.frames import magnified_pixel_m, object_pixel_m

PATTERNS = ("raster", "fermat", "spiral")
_OBJECT, _POSITIONS, _ERROR, _LOST, _PHASE, _COUNTS = range(6)
_MARGIN_PX = 8
_DEFOCUS_M = 0.6e-3
_MODE_SHARE = 0.3
"""Of each further probe mode, relative to the one before it."""
_LARGEST_PHASE_RAD, _LARGEST_ABSORPTION = 1.2, 0.25


@dataclass(frozen=True)
class ScanRecipe:
    """What to simulate. step_px: distance of neighbouring positions, pixels of the object; jitter_px: known deviations
    from the pattern; position_error_px: unknown ones (rms an axis). lost: share of frames that never arrive.
    propagation: "far", or "near" with source_m from the source to the sample (None: a parallel beam). defocus_m: of the
    far-field probe (None: 0.6 mm). photons: mean counts of a frame without the object's absorption.
    """

    frames: int = 1000
    frame_px: int = 128
    pattern: str = "fermat"
    step_px: float = 6.0
    jitter_px: float = 0.5
    position_error_px: float = 0.0
    photons: float = 1e5
    modes: int = 1
    lost: float = 0.0
    propagation: str = "far"
    energy_keV: float = 9.0
    distance_m: float = 2.0
    detector_pixel_m: float = 75e-6
    source_m: float | None = None
    defocus_m: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        lengths = (self.energy_keV, self.distance_m, self.detector_pixel_m, self.step_px, self.photons)
        possible = {
            "--n must be at least 1": self.frames >= 1,
            "--frame must be even and at least 16": self.frame_px >= 16 and self.frame_px % 2 == 0,
            f"--pattern must be one of {', '.join(PATTERNS)}": self.pattern in PATTERNS,
            "--energy, --distance, --detector-pixel, --step and --photons must be positive": min(lengths) > 0,
            "--jitter and --position-error must not be negative": min(self.jitter_px, self.position_error_px) >= 0,
            "--modes must be 1 to 10": 1 <= self.modes <= 10,
            "--lost must be between 0 and 0.9": 0 <= self.lost <= 0.9,
            "--source changes nothing in the far field": self.propagation == "near" or self.source_m is None,
            "--defocus changes nothing in the near field": self.propagation == "far" or self.defocus_m is None,
            "--source must be positive": self.source_m is None or self.source_m > 0,
            "--seed must not be negative": self.seed >= 0,
        }
        for rule, holds in possible.items():
            if not holds:
                raise OptionError(f"{rule}.", where="simulate scan")

    @property
    def wavelength_m(self) -> float:
        """Of the photons."""
        return wavelength_of_energy_m(self.energy_keV)

    @property
    def pixel_m(self) -> float:
        """Side of the object's pixel."""
        if self.propagation == "near":
            return magnified_pixel_m(self.detector_pixel_m, self.source_m, self.distance_m)
        return object_pixel_m(self.wavelength_m, self.distance_m, self.frame_px, self.detector_pixel_m)


class Scan:
    """The frames of a recipe, in any order, as often as wanted.

    object: (H, W) complex64. probe: (modes, N, N) complex64, centred, sum of |probe|^2 over all = photons.
    positions_px: (n, 2) float64, true first pixel of each window, (y, x), in the object's pixels; recorded_px: what the
    encoders say. lost: (n,) True for frames that never arrive.
    """

    def __init__(self, recipe: ScanRecipe) -> None:
        self.recipe = recipe
        places = pattern_px(recipe.pattern, recipe.frames, recipe.step_px)
        places = places + recipe.jitter_px * self._rng(_POSITIONS).standard_normal(places.shape)
        self.positions_px = places - places.min(0) + _MARGIN_PX
        error = recipe.position_error_px * self._rng(_ERROR).standard_normal(places.shape)
        self.recorded_px = self.positions_px + error
        height, width = (math.ceil(far) + recipe.frame_px + _MARGIN_PX for far in self.positions_px.max(0))
        self.object = heap(height, width, self._rng(_OBJECT))
        self.probe = self._probe()
        self.lost = self._rng(_LOST).uniform(size=recipe.frames) < recipe.lost

    def _rng(self, *which: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, *which])

    def _probe(self) -> NDArray[np.complex64]:
        recipe = self.recipe
        if recipe.propagation == "near":
            first = disc(recipe.frame_px, self._rng(_PHASE))
        else:
            first = focus(recipe)
        modes = orthogonal_modes(first, recipe.modes)
        shares = _MODE_SHARE ** np.arange(recipe.modes)
        return np.asarray(modes * np.sqrt(recipe.photons * shares / shares.sum())[:, None, None], dtype=np.complex64)

    @cached_property
    def _kernel(self) -> NDArray[np.complex128] | None:
        recipe = self.recipe
        if recipe.propagation == "far":
            return None
        z_m = recipe.distance_m
        if recipe.source_m is not None:
            z_m = recipe.distance_m * recipe.source_m / (recipe.distance_m + recipe.source_m)
        return angular_spectrum(recipe.frame_px, recipe.pixel_m, recipe.wavelength_m, z_m)

    def mean_counts(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Expected counts of frames `rows`, (k, N, N): DC at [0, 0] in the far field, an image in the near field."""
        from scipy import fft

        size = self.recipe.frame_px
        whole = np.floor(self.positions_px[rows]).astype(np.int64)
        rest = self.positions_px[rows] - whole
        windows = np.stack([self.object[y : y + size, x : x + size] for y, x in whole.tolist()])
        frequency = fft.fftfreq(size)
        turns = frequency[None, :, None] * rest[:, 0, None, None] + frequency[None, None, :] * rest[:, 1, None, None]
        ramp = np.exp(-2j * np.pi * turns)
        out = np.zeros((rows.size, size, size))
        for mode in self.probe:
            waves = fft.ifft2(fft.fft2(mode)[None] * ramp) * windows
            waves = fft.fft2(waves)
            # Ramp undone: a near-field image stays where the beam is, and the beam does not follow the sample.
            waves = waves / size if self._kernel is None else fft.ifft2(waves * self._kernel * ramp.conj())
            out += np.abs(waves) ** 2
        return out

    def frames(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Counts of frames `rows` as a detector stores them: (k, N, N), DC at pixel N//2 in the far field."""
        mean = self.mean_counts(rows)
        if self._kernel is None:
            mean = np.fft.fftshift(mean, axes=(1, 2))
        counts = np.stack([self._rng(_COUNTS, int(row)).poisson(frame) for row, frame in zip(rows, mean, strict=True)])
        return np.asarray(np.minimum(counts, np.iinfo(np.uint16).max), dtype=np.uint16)


def pattern_px(pattern: str, count: int, step_px: float) -> NDArray[np.float64]:
    """Ideal positions (n, 2), (y, x): a square raster, a Fermat spiral (step^2 a point), or an Archimedean one."""
    number = np.arange(count)
    if pattern == "raster":
        across = math.ceil(math.sqrt(count))
        return np.stack(np.divmod(number, across), axis=1).astype(np.float64) * step_px
    if pattern == "fermat":
        radius = step_px * np.sqrt((number + 0.5) / np.pi)
        angle = number * np.pi * (3 - math.sqrt(5))
    else:
        # Turns `step` apart, and points that far apart along them: the arc to angle a is about step a^2 / 4 pi.
        angle = np.sqrt(4 * np.pi * (number + 0.25))
        radius = step_px * angle / (2 * np.pi)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def heap(height: int, width: int, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Spheres of many sizes and some fibres on a wavy film: (height, width), |T| <= 1, phase 0 to -1.2 rad."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    thickness = np.zeros((height, width))
    for _ in range(max(3, height * width // 500)):
        radius = min(2.0 * rng.pareto(1.6) + 2.0, 24.0)
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        rows = slice(max(0, int(centre_y - radius)), int(centre_y + radius) + 2)
        columns = slice(max(0, int(centre_x - radius)), int(centre_x + radius) + 2)
        inside = radius**2 - (y[rows, columns] - centre_y) ** 2 - (x[rows, columns] - centre_x) ** 2
        thickness[rows, columns] += np.sqrt(np.clip(inside, 0, None)) * rng.uniform(0.5, 1)
    for _ in range(max(2, (height + width) // 80)):
        angle, radius = rng.uniform(0, np.pi), rng.uniform(1.5, 5)
        offset = rng.uniform(0, height) * np.cos(angle) + rng.uniform(0, width) * np.sin(angle)
        off_axis = y * np.cos(angle) + x * np.sin(angle) - offset
        thickness += np.sqrt(np.clip(radius**2 - off_axis**2, 0, None))
    waves = np.cos(2 * np.pi * (y / rng.uniform(60, 140) + x / rng.uniform(60, 140)) + rng.uniform(0, 6))
    thickness += 1 + waves
    thickness = np.minimum(thickness / np.percentile(thickness, 99.5), 1)
    return np.asarray(np.exp(-(_LARGEST_ABSORPTION + 1j * _LARGEST_PHASE_RAD) * thickness), dtype=np.complex64)


def focus(recipe: ScanRecipe) -> NDArray[np.complex128]:
    """The wave at the sample behind a rectangular lens of soft rim, some way past its focus: (N, N), centred."""
    angle = (np.arange(recipe.frame_px) - recipe.frame_px // 2) * recipe.detector_pixel_m / recipe.distance_m
    rim = angle[1] - angle[0]
    opening = 0.16 * recipe.frame_px * rim
    slit = [1 / (1 + np.exp((np.abs(angle) - size) / (0.6 * rim))) for size in (opening, 0.8 * opening)]
    defocus_m = _DEFOCUS_M if recipe.defocus_m is None else recipe.defocus_m
    lens = slit[0][:, None] * slit[1][None, :]
    square = angle[:, None] ** 2 + angle[None, :] ** 2
    coma = 0.3 * (angle[:, None] / opening) ** 3 + 0.2 * (angle[None, :] / opening) ** 3
    wave = lens * np.exp(1j * (np.pi / recipe.wavelength_m * square * defocus_m + coma))
    return np.asarray(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave))))


def disc(frame_px: int, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Near-field illumination: a soft disc of 0.6 frames with a smooth random phase of about 1 rad, (N, N)."""
    axis = np.arange(frame_px) - frame_px // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    amplitude = 1 / (1 + np.exp((radius - 0.3 * frame_px) / (0.02 * frame_px)))
    frequency = np.fft.fftfreq(frame_px)
    blur = np.exp(-2 * (np.pi * 0.03 * frame_px) ** 2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    phase = np.fft.ifft2(np.fft.fft2(rng.standard_normal((frame_px, frame_px))) * blur).real
    return np.asarray(amplitude * np.exp(1j * phase / phase.std()))


def orthogonal_modes(first: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """`count` orthonormal modes: the first, and what it becomes times x, y, x^2, ... (a source of some size)."""
    axis = np.linspace(-1, 1, first.shape[0])
    powers = sorted(((i, j) for i in range(5) for j in range(5)), key=lambda p: (p[0] + p[1], p[0]))[:count]
    # The lens's plane is where a source's size acts, so it is there that the modes are made.
    pupil = np.fft.fftshift(np.fft.fft2(first))
    modes: list[NDArray[Any]] = []
    for i, j in powers:
        mode = np.fft.ifft2(np.fft.ifftshift(pupil * axis[:, None] ** i * axis[None, :] ** j))
        for known in modes:
            mode = mode - known * np.vdot(known, mode)
        modes.append(mode / np.linalg.norm(mode))
    return np.stack(modes)


def angular_spectrum(frame_px: int, pixel_m: float, wavelength_m: float, z_m: float) -> NDArray[np.complex128]:
    """The transfer function (N, N), zero frequency at [0, 0], of free space over z; evanescent waves are dropped."""
    q = np.fft.fftfreq(frame_px, pixel_m)
    cosine = 1 - wavelength_m**2 * (q[:, None] ** 2 + q[None, :] ** 2)
    # The common phase of exp(ikz) is left out: no count shows it, and it would cost digits.
    phase = 2 * np.pi * z_m / wavelength_m * (np.sqrt(np.clip(cosine, 0, None)) - 1)
    return np.where(cosine > 0, np.exp(1j * phase), 0)
