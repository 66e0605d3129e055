"""A microscope session whose truth is known: poses, defocus, noise, junk.

The signal-to-noise ratio is the variance of CTF x projection inside the inscribed circle, averaged over particles,
over the variance of the noise in a pixel. Images are then normalised as `relion_preprocess` does: mean 0 and standard
deviation 1 outside a circle of 0.45 boxes. Every random number belongs to the seed and to a particle, so an image
does not depend on how, or in which pieces, the session is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beamside.errors import OptionError
from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import frequency_grid, shift_phases, to_real
from beamside.optics.masks import radius_grid_px
from beamside.optics.rotation import euler_matrix
from beamside.simulate.projector import Projector

if TYPE_CHECKING:
    from torch import Tensor

_TRUTH, _NOISE = 0, 1
_LOBES = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.5, 0.8, -0.33]])
_LOBE_SHARES = (0.40, 0.20, 0.10, 0.30)
_LOBE_CONCENTRATION = 30.0
_PINK_KNEE_PER_A = 0.02
_BACKGROUND_BOXES = 0.45
_CALIBRATION = 2000
_BLOCK = 256


@dataclass(frozen=True)
class Recipe:
    """What to simulate. `defocus_um` is the range of the mean defocus, `astigmatism_A` the most that U exceeds V by."""

    box_px: int
    pixel_size_A: float
    count: int
    snr: float = 0.05
    shift_px: float = 5.0
    views: str = "uniform"
    noise: str = "white"
    junk: float = 0.0
    defocus_um: tuple[float, float] = (0.8, 2.5)
    astigmatism_A: float = 300.0
    bfactor_A2: float = 0.0
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    micrographs: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        possible = {
            "--box must be even and at least 8": self.box_px >= 8 and self.box_px % 2 == 0,
            "--pixel-size must be positive": self.pixel_size_A > 0,
            "--n and --micrographs must be at least 1": min(self.count, self.micrographs) >= 1,
            "--snr must be positive": self.snr > 0,
            "--shift must be between 0 and half the box": 0 <= self.shift_px <= self.box_px / 2,
            "--views must be uniform or preferred": self.views in ("uniform", "preferred"),
            "--noise must be white or pink": self.noise in ("white", "pink"),
            "--junk must be between 0 and 1": 0 <= self.junk <= 1,
            "--defocus must be two rising numbers": self.defocus_um[0] <= self.defocus_um[1],
            "--astigmatism and --bfactor must not be negative": min(self.astigmatism_A, self.bfactor_A2) >= 0,
            "--seed must not be negative": self.seed >= 0,
        }
        for rule, holds in possible.items():
            if not holds:
                raise OptionError(f"{rule}.", where="simulate particles")


@dataclass(frozen=True)
class Truth:
    """What is true of each particle, (n,) each; micrographs are numbered from 0 and particles sorted by them."""

    rot_deg: NDArray[np.float64]
    tilt_deg: NDArray[np.float64]
    psi_deg: NDArray[np.float64]
    origin_x_px: NDArray[np.float64]
    origin_y_px: NDArray[np.float64]
    micrograph: NDArray[np.int64]
    junk: NDArray[np.bool_]
    optics: CtfParams


def draw_truth(recipe: Recipe) -> Truth:
    """The truth of a session; it depends on the recipe alone."""
    rng = np.random.default_rng([recipe.seed, _TRUTH])
    views = view_directions(recipe.count, recipe.views, rng)
    micrograph = np.sort(rng.integers(0, recipe.micrographs, recipe.count))
    low, high = recipe.defocus_um
    mean_A = rng.uniform(low * 1e4, high * 1e4, recipe.micrographs)[micrograph]
    half_A = 0.5 * rng.uniform(0, recipe.astigmatism_A, recipe.micrographs)[micrograph]
    angle_deg = rng.uniform(0, 180, recipe.micrographs)[micrograph]
    return Truth(
        rot_deg=np.rad2deg(np.arctan2(views[:, 1], views[:, 0])),
        tilt_deg=np.rad2deg(np.arccos(np.clip(views[:, 2], -1, 1))),
        psi_deg=rng.uniform(-180, 180, recipe.count),
        origin_x_px=rng.uniform(-recipe.shift_px, recipe.shift_px, recipe.count),
        origin_y_px=rng.uniform(-recipe.shift_px, recipe.shift_px, recipe.count),
        micrograph=micrograph,
        junk=rng.uniform(size=recipe.count) < recipe.junk,
        optics=CtfParams.of(
            mean_A + half_A,
            mean_A - half_A,
            angle_deg,
            voltage_kV=recipe.voltage_kV,
            cs_mm=recipe.cs_mm,
            amplitude_contrast=recipe.amplitude_contrast,
            bfactor_A2=recipe.bfactor_A2,
        ),
    )


def view_directions(count: int, views: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Unit vectors (n, 3): uniform, or "preferred": 70 % in three lobes (von Mises-Fisher, kappa 30), 30 % uniform."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    if views == "uniform":
        return directions
    lobe = rng.choice(len(_LOBE_SHARES), count, p=_LOBE_SHARES)
    kappa = _LOBE_CONCENTRATION
    cosine = 1 + np.log1p((1 - rng.uniform(size=count)) * np.expm1(-2 * kappa)) / kappa
    turn = rng.uniform(0, 2 * np.pi, count)
    for number, centre in enumerate(_LOBES):
        members = lobe == number
        axis = centre / np.linalg.norm(centre)
        first = np.cross(axis, [0.3, 0.5, 0.81])
        first /= np.linalg.norm(first)
        second = np.cross(axis, first)
        sine = np.sqrt(1 - cosine[members] ** 2)[:, None]
        around = np.cos(turn[members])[:, None] * first + np.sin(turn[members])[:, None] * second
        directions[members] = cosine[members][:, None] * axis + sine * around
    return directions


class Session:
    """The images of a recipe, for any particles, in any order, as often as wanted."""

    def __init__(self, volume: NDArray[np.float32], recipe: Recipe) -> None:
        self.recipe = recipe
        self.truth = draw_truth(recipe)
        self._projector = Projector(volume)
        self._ky, self._kx = frequency_grid(recipe.box_px)
        self._radius = radius_grid_px(recipe.box_px)

    def signal(self, rows: NDArray[np.int64]) -> Tensor:
        """CTF x projection of particles `rows`, off centre by their origins, without noise: (k, n, n)."""
        import torch

        truth, box_px = self.truth, self.recipe.box_px
        matrices = euler_matrix(truth.rot_deg[rows], truth.tilt_deg[rows], truth.psi_deg[rows])
        sections = self._projector.sections(matrices)
        ky, kx = frequency_grid(box_px, self.recipe.pixel_size_A)
        sections *= ctf(truth.optics.take(rows), ky, kx)
        # The origin is the shift that would centre the particle, so the particle lies the other way.
        dy, dx = (torch.as_tensor(-o[rows], dtype=torch.float32) for o in (truth.origin_y_px, truth.origin_x_px))
        return to_real(sections * shift_phases(self._ky, self._kx, dy, dx), box_px)

    @cached_property
    def noise_variance(self) -> float:
        """Of one pixel, from the signal of the first 2,000 particles."""
        circle = self._radius <= self.recipe.box_px // 2
        rows = np.arange(min(_CALIBRATION, self.recipe.count))
        blocks = (self.signal(rows[start : start + _BLOCK]) for start in range(0, rows.size, _BLOCK))
        return sum(float(block[:, circle].var(dim=1).double().sum()) for block in blocks) / rows.size / self.recipe.snr

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Particles `rows` as the detector gives them, normalised: float32 (k, n, n)."""
        scale = self.noise_variance**0.5
        images = np.empty((rows.size, self.recipe.box_px, self.recipe.box_px), dtype=np.float32)
        background = (self._radius > _BACKGROUND_BOXES * self.recipe.box_px).numpy()
        for start in range(0, rows.size, _BLOCK):
            members = rows[start : start + _BLOCK]
            block = self.signal(members).numpy()
            block[self.truth.junk[members]] = 0
            block += scale * self._noise(members)
            outside = block[:, background]
            block -= outside.mean(1)[:, None, None]
            images[start : start + _BLOCK] = block / outside.std(1)[:, None, None]
        return images

    def _noise(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of unit variance, (k, n, n)."""
        shape = (self.recipe.box_px, self.recipe.box_px)
        seed = [self.recipe.seed, _NOISE]
        white = np.stack(
            [np.random.default_rng([*seed, int(row)]).standard_normal(shape, dtype=np.float32) for row in rows]
        )
        return white if self.recipe.noise == "white" else self._coloured(white)

    def _coloured(self, white: NDArray[np.float32]) -> NDArray[np.float32]:
        """Power 1 / (1 + k / 0.02 per Angstrom), scaled back to unit variance."""
        frequency = np.fft.fftfreq(self.recipe.box_px, d=self.recipe.pixel_size_A)
        power = 1 / (1 + np.hypot(frequency[:, None], frequency[None, :]) / _PINK_KNEE_PER_A)
        amplitude = np.sqrt(power / power.mean())
        coloured = np.fft.ifft2(np.fft.fft2(white) * amplitude).real
        return coloured.astype(np.float32)
