"""Micrographs of molecules in ice whose truth is known, as two halves with independent noise.

Weak phase object: contrast = -2 x phase x CTF (`optics.ctf`), phase = interaction constant x projected potential
(Kirkland, Advanced Computing in Electron Microscopy, 2010, eq. 5.6). Ice is a random phase that both halves share: no
denoiser that learns from pairs can take it away. A detector's DQE is DQE(0) x MTF^2 (counting detectors; McMullan et
al., Ultramicroscopy 147 (2014) 156): the expected counts are blurred by its MTF and thinned by DQE(0), then drawn from
a Poisson law for each half or frame, then blurred a little as interpolation leaves them, so noise is not quite white.

Every random number belongs to the seed and the micrograph's number: a micrograph does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import OptionError
from beamside.optics.ctf import ELECTRON_C, ELECTRON_KG, LIGHT_M_S, PLANCK_J_S, CtfParams, ctf, electron_wavelength_A
from beamside.simulate.structures import BUILT_IN, Structure, add_projection, random_rotation

Plane = NDArray[np.float64]
_MARGIN_A = 150.0
_MARGIN_PX = 32
_ICE_KNEE_A, _ICE_RING_A, _ICE_RING_WIDTH_PER_A, _ICE_RING_HEIGHT = 15.0, 3.7, 0.04, 0.35
_ICE_NYQUIST_A = 2.6
_CARBON_PHASE_RAD, _CARBON_GRAIN_A, _CARBON_TRANSMISSION = 0.12, 4.0, 0.85
_GOLD_DIAMETER_A, _GOLD_TRANSMISSION = 100.0, 0.3
_PLACE_TRIES = 4000


@dataclass(frozen=True)
class Detector:
    """mtf_nyquist: MTF at the Nyquist frequency, of the form mtf^(u^1.5) at the share u of it; dqe0: DQE(0)."""

    mtf_nyquist: float
    dqe0: float


DETECTORS = {
    "ideal": Detector(1.0, 1.0),
    "counting": Detector(0.62, 0.85),
    "integrating": Detector(0.35, 0.55),
}
"""What direct detectors of the two kinds have, roughly; no maker's curve."""


@dataclass(frozen=True)
class Recipe:
    """What to simulate. Ranges are drawn from uniformly, a micrograph at a time.

    coverage: share of the area that discs of the molecules' diameters take.
    contrast: factor on the molecules' potential; ice_rad: rms of the ice's phase up to 1/2.6 A.
    blur_px: sigma of the blur after counting. illumination: largest relative slope of the beam over the image.
    gold, contamination: objects a micrograph; carbon: the edge of a hole crosses the image.
    shift_px: (dy, dx) by which the content of the odd half is moved.
    frames: a movie of so many frames is made too, and the halves are the sums of its even and odd frames (from 0).
    """

    size_px: int = 1024
    pixel_size_A: float = 1.3
    count: int = 8
    structures: tuple[str, ...] = ("walk", "shell")
    coverage: float = 0.35
    defocus_um: tuple[float, float] = (0.8, 2.2)
    astigmatism_A: float = 300.0
    dose_per_A2: float = 40.0
    detector: str = "counting"
    contrast: float = 0.6
    ice_rad: float = 0.02
    blur_px: float = 0.35
    illumination: float = 0.03
    gold: int = 0
    contamination: int = 0
    carbon: bool = False
    shift_px: tuple[float, float] = (0.0, 0.0)
    frames: int = 0
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    bfactor_A2: float = 60.0
    seed: int = 1

    def __post_init__(self) -> None:
        unknown = sorted(set(self.structures) - set(BUILT_IN))
        possible = {
            "--size must be at least 64": self.size_px >= 64,
            "--pixel-size and --dose must be positive": min(self.pixel_size_A, self.dose_per_A2) > 0,
            "--count must be at least 1": self.count >= 1,
            f"--structures must be among {', '.join(BUILT_IN)}": bool(self.structures) and not unknown,
            "--coverage must be between 0 and 0.6": 0 <= self.coverage <= 0.6,
            "--defocus must be two rising numbers": self.defocus_um[0] <= self.defocus_um[1],
            f"--detector must be one of {', '.join(DETECTORS)}": self.detector in DETECTORS,
            "--contrast, --ice, --blur, --bfactor and --astigmatism must not be negative": min(
                self.contrast, self.ice_rad, self.blur_px, self.bfactor_A2, self.astigmatism_A
            )
            >= 0,
            "--illumination must be between 0 and 0.5": 0 <= self.illumination <= 0.5,
            "--gold, --contamination and --seed must not be negative": min(self.gold, self.contamination, self.seed)
            >= 0,
            "--frames must be 0 or an even number": self.frames >= 0 and self.frames % 2 == 0,
        }
        for rule, holds in possible.items():
            if not holds:
                raise OptionError(f"{rule}.", where="simulate micrographs")


@dataclass(frozen=True)
class Micrograph:
    """Counts, float32 (H, W) each; full = even + odd.

    clean: what the full sum would hold with neither noise nor ice; signal: with ice, which is what the halves share.
    mask: True where a molecule lies. movie: raw counts (frames, H, W) uint16, empty unless asked for.
    """

    even: NDArray[np.float32]
    odd: NDArray[np.float32]
    clean: NDArray[np.float32]
    signal: NDArray[np.float32]
    mask: NDArray[np.bool_]
    movie: NDArray[np.uint16]
    facts: dict[str, Any]

    @property
    def full(self) -> NDArray[np.float32]:
        """The sum of the halves."""
        return self.even + self.odd


def interaction_per_VA(voltage_kV: float) -> float:
    """Phase per projected potential, rad/(V A): 2 pi m e lambda / h^2 with the relativistic mass."""
    wavelength_m = float(electron_wavelength_A(voltage_kV)) * 1e-10
    mass = ELECTRON_KG * (1 + voltage_kV * 1e3 * ELECTRON_C / (ELECTRON_KG * LIGHT_M_S**2))
    return 2 * math.pi * mass * ELECTRON_C * wavelength_m / PLANCK_J_S**2 * 1e-10


class Session:
    """The micrographs of a recipe, in any order, as often as wanted.

    structures: molecules to use in place of those that the recipe names.
    """

    def __init__(self, recipe: Recipe, structures: Sequence[Structure] | None = None) -> None:
        self.recipe = recipe
        self.structures = list(structures) if structures is not None else [BUILT_IN[n]() for n in recipe.structures]
        margin = _MARGIN_PX + math.ceil(_MARGIN_A / recipe.pixel_size_A)
        self._wide = _fast_size(recipe.size_px + 2 * margin)
        start = (self._wide - recipe.size_px) // 2
        self._inside = slice(start, start + recipe.size_px)

    @cached_property
    def _k_per_A(self) -> tuple[Plane, Plane]:
        ky = np.fft.fftfreq(self._wide, self.recipe.pixel_size_A)
        kx = np.fft.rfftfreq(self._wide, self.recipe.pixel_size_A)
        return ky[:, None].astype(np.float64), kx[None, :].astype(np.float64)

    def micrograph(self, number: int) -> Micrograph:
        """Micrograph `number`, from 0."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, number])
        optics = self._draw_optics(rng)
        molecules_VA, placed = self._place(rng)
        transfer = self._transfer(optics) * self._mtf
        molecules = self._filtered(interaction_per_VA(recipe.voltage_kV) * recipe.contrast * molecules_VA, transfer)
        shared_phase, transmission = self._surroundings(rng)
        surroundings = self._filtered(shared_phase, transfer)
        beam = self._beam(rng) * self._filtered(transmission, self._mtf)
        counts = recipe.dose_per_A2 * recipe.pixel_size_A**2 * DETECTORS[recipe.detector].dqe0 * beam
        expected = np.clip(counts * (1 + molecules + surroundings), 0, None)
        even, odd, movie = self._expose(expected, rng)
        clean, signal = (self._blurred(counts * (1 + part)) for part in (molecules, molecules + surroundings))
        return Micrograph(
            even=self._cut(even),
            odd=self._cut(odd),
            clean=self._cut(clean),
            signal=self._cut(signal),
            mask=self._mask(placed),
            movie=movie,
            facts=self._facts(optics, placed),
        )

    def _draw_optics(self, rng: np.random.Generator) -> CtfParams:
        recipe = self.recipe
        mean_A = rng.uniform(*recipe.defocus_um) * 1e4
        half_A = 0.5 * rng.uniform(0, recipe.astigmatism_A)
        return CtfParams.of(
            mean_A + half_A,
            mean_A - half_A,
            rng.uniform(0, 180),
            voltage_kV=recipe.voltage_kV,
            cs_mm=recipe.cs_mm,
            amplitude_contrast=recipe.amplitude_contrast,
            bfactor_A2=recipe.bfactor_A2,
        )

    def _transfer(self, optics: CtfParams) -> Plane:
        """Phase to contrast. Molecules are dark in the image, where `optics.ctf` has them white."""
        import torch

        ky, kx = (torch.from_numpy(k) for k in self._k_per_A)
        return -2 * ctf(optics, ky, kx)[0].numpy()

    @cached_property
    def _mtf(self) -> Plane:
        ky, kx = self._k_per_A
        share = np.hypot(ky, kx) * 2 * self.recipe.pixel_size_A
        return np.asarray(DETECTORS[self.recipe.detector].mtf_nyquist ** (share**1.5))

    def _filtered(self, plane: Plane, transfer: Plane) -> Plane:
        from scipy import fft

        return np.asarray(fft.irfft2(fft.rfft2(plane) * transfer, plane.shape))

    def _blurred(self, plane: Plane) -> Plane:
        ky, kx = self._k_per_A
        sigma_A = self.recipe.blur_px * self.recipe.pixel_size_A
        return self._filtered(plane, np.exp(-2 * (math.pi * sigma_A) ** 2 * (ky**2 + kx**2)))

    def _place(self, rng: np.random.Generator) -> tuple[Plane, list[tuple[str, float, float, float]]]:
        """The projected potential, and the name, y, x and diameter (A) of each molecule; none overlap."""
        px, plane = self.recipe.pixel_size_A, np.zeros((self._wide, self._wide))
        side_A = self._wide * px
        placed: list[tuple[str, float, float, float]] = []
        wanted, taken = self.recipe.coverage * side_A**2, np.empty((0, 3))
        for _ in range(_PLACE_TRIES):
            if wanted <= 0:
                break
            structure = self.structures[int(rng.integers(len(self.structures)))]
            wide = structure.diameter_A
            y, x = (float(v) for v in rng.uniform(0, side_A, 2))
            if np.any(np.hypot(taken[:, 0] - y, taken[:, 1] - x) < 0.5 * (wide + taken[:, 2])):
                continue
            placed.append((structure.name, y, x, wide))
            taken = np.vstack([taken, [y, x, wide]])
            wanted -= math.pi / 4 * wide**2
            add_projection(plane, structure, random_rotation(rng), (y, x), px)
        return plane, placed

    def _surroundings(self, rng: np.random.Generator) -> tuple[Plane, Plane]:
        """Phase (rad) and transmission of ice, carbon, gold and contamination."""
        phase = self._ice(rng)
        transmission = np.ones_like(phase)
        y, x = (axis * self.recipe.pixel_size_A for axis in np.ogrid[: self._wide, : self._wide])
        if self.recipe.carbon:
            film = self._carbon_film(rng, y, x)
            phase += film * self._grain(rng)
            transmission *= 1 - (1 - _CARBON_TRANSMISSION) * film
        for radius, floor in self._objects(rng):
            at_y, at_x = rng.uniform(0, self._wide * self.recipe.pixel_size_A, 2)
            turn = np.arctan2(y - at_y, x - at_x)
            waves = 1.0 if floor == _GOLD_TRANSMISSION else 1 + 0.15 * np.cos(3 * turn + rng.uniform(0, 6))
            distance = np.hypot(y - at_y, x - at_x) - radius * waves
            transmission *= 1 - (1 - floor) / (1 + np.exp(np.clip(distance / 4.0, -30, 30)))
        return phase, transmission

    def _objects(self, rng: np.random.Generator) -> list[tuple[float, float]]:
        """(radius in A, transmission) of gold beads and crystals of contamination."""
        beads = [(_GOLD_DIAMETER_A / 2, _GOLD_TRANSMISSION)] * self.recipe.gold
        crystals = [
            (float(rng.uniform(100, 300)), float(rng.uniform(0.65, 0.85))) for _ in range(self.recipe.contamination)
        ]
        return beads + crystals

    def _carbon_film(self, rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
        """1 on the film, 0 in the hole; its edge is an arc of 6,000 A radius through the image."""
        side = self._wide * self.recipe.pixel_size_A
        turn, inwards = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.4)
        away = 6000.0 + side * (inwards - 0.5)
        distance = np.hypot(y - side / 2 + away * math.sin(turn), x - side / 2 + away * math.cos(turn)) - 6000.0
        return np.asarray(1 / (1 + np.exp(np.clip(-distance / 10.0, -30, 30))))

    def _grain(self, rng: np.random.Generator) -> Plane:
        ky, kx = self._k_per_A
        grain = self._filtered(
            rng.standard_normal((self._wide, self._wide)), np.exp(-0.5 * (ky**2 + kx**2) * (_CARBON_GRAIN_A * 2) ** 2)
        )
        return grain * (_CARBON_PHASE_RAD / float(grain.std()))

    def _ice(self, rng: np.random.Generator) -> Plane:
        """Gaussian phase whose spectrum, and so its rms below a frequency, does not depend on the pixel size."""
        ky, kx = self._k_per_A
        amplitude = ice_amplitude(np.hypot(ky, kx))
        k = np.linspace(0, 1 / _ICE_NYQUIST_A, 2000)
        variance_per_A2 = np.trapezoid(2 * math.pi * k * ice_amplitude(k) ** 2, k)
        scale = self.recipe.ice_rad / math.sqrt(variance_per_A2) / self.recipe.pixel_size_A
        return self._filtered(rng.standard_normal((self._wide, self._wide)), amplitude * scale)

    def _beam(self, rng: np.random.Generator) -> Plane:
        most = self.recipe.illumination
        y, x = np.mgrid[: self._wide, : self._wide] / self._wide - 0.5
        slope_y, slope_x = rng.uniform(-most, most, 2)
        return np.asarray(1 + slope_y * y + slope_x * x - 0.67 * most * (x * x + y * y))

    def _expose(self, expected: Plane, rng: np.random.Generator) -> tuple[Plane, Plane, NDArray[np.uint16]]:
        """Counts of the even and the odd half, blurred, and the movie's raw counts inside the image."""
        recipe = self.recipe
        moved = self._moved(expected) if any(recipe.shift_px) else expected
        if not recipe.frames:
            even, odd = (rng.poisson(part / 2).astype(np.float64) for part in (expected, moved))
            return self._blurred(even), self._blurred(odd), np.zeros((0, 0, 0), np.uint16)
        sums, movie = [np.zeros_like(expected), np.zeros_like(expected)], []
        for frame in range(recipe.frames):
            counts = rng.poisson((expected, moved)[frame % 2] / recipe.frames).astype(np.float64)
            sums[frame % 2] += counts
            movie.append(counts[self._inside, self._inside].astype(np.uint16))
        return self._blurred(sums[0]), self._blurred(sums[1]), np.stack(movie)

    def _moved(self, expected: Plane) -> Plane:
        ky, kx = (k * self.recipe.pixel_size_A for k in self._k_per_A)
        dy, dx = self.recipe.shift_px
        return np.clip(self._filtered(expected, np.exp(-2j * math.pi * (ky * dy + kx * dx))), 0, None)

    def _cut(self, plane: Plane) -> NDArray[np.float32]:
        return np.ascontiguousarray(plane[self._inside, self._inside], dtype=np.float32)

    def _mask(self, placed: Sequence[tuple[str, float, float, float]]) -> NDArray[np.bool_]:
        px, start = self.recipe.pixel_size_A, self._inside.start
        size = self.recipe.size_px
        mask = np.zeros((size, size), dtype=bool)
        for _, at_y, at_x, wide in placed:
            centre, radius = (at_y / px - start, at_x / px - start), 0.5 * wide / px
            rows, columns = (np.arange(max(0, int(c - radius)), min(size, int(c + radius) + 2)) for c in centre)
            disc = (rows[:, None] - centre[0]) ** 2 + (columns[None, :] - centre[1]) ** 2 < radius**2
            mask[np.ix_(rows, columns)] |= disc
        return mask

    def _facts(self, optics: CtfParams, placed: Sequence[tuple[str, float, float, float]]) -> dict[str, Any]:
        """Plain JSON; positions in pixels of the image, x and y."""
        px, start = self.recipe.pixel_size_A, self._inside.start
        return {
            "defocus_u_A": float(optics.defocus_u_A[0]),
            "defocus_v_A": float(optics.defocus_v_A[0]),
            "defocus_angle_deg": float(optics.defocus_angle_deg[0]),
            "particles": [
                {"structure": name, "x_px": x / px - start, "y_px": y / px - start, "diameter_A": wide}
                for name, y, x, wide in placed
            ],
        }


def ice_amplitude(k_per_A: NDArray[Any]) -> NDArray[np.float64]:
    """Relative spectrum of vitreous ice: thickness at low frequency, and the ring at 3.7 A."""
    ring = np.exp(-(((k_per_A - 1 / _ICE_RING_A) / _ICE_RING_WIDTH_PER_A) ** 2))
    return np.asarray(1 / (1 + (k_per_A * _ICE_KNEE_A) ** 2) + _ICE_RING_HEIGHT * ring)


def _fast_size(least: int) -> int:
    """The next even size with factors of 2, 3 and 5 alone, for the FFT."""
    from scipy.fft import next_fast_len

    size = int(next_fast_len(least, real=True))
    return size if size % 2 == 0 else _fast_size(size + 1)
