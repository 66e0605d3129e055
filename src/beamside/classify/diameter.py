"""How large the particle is, measured on its images, so that the mask leaves out neighbours and empty background.

Two radial profiles say where the particle ends. The mean image, restored as sum(CTF X) / sum(CTF^2), shows it where
views are alike; the power of phase-flipped, band-passed images shows it where they differ. Each profile ends where it
has come down to a share of its height over its first minimum, behind which there may be neighbours. The ends of a long
particle are a small part of a wide ring and seen in few views: where much of the power lies behind that end, the
particle is as large as the radius that holds nearly all of it. Particles that lie off centre blur both; by how much is
measured as the covariance of two shift estimates from disjoint Fourier coefficients, whose noise is independent.
docs/decisions/0021-diameter.md has the errors on data of known size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import frequency_grid, to_fourier, to_real
from beamside.optics.frc import ring_index, ring_sums
from beamside.optics.masks import radius_grid_px

_GROUPS = 4
"""The particles are summed in this many groups, whose differences tell the error."""
_BLOCK = 256
_COARSEST_RING, _FINEST_A = 1.6, 30.0
_FINEST_NYQUISTS = 0.6
"""The band: from that ring to that resolution, or to that share of the Nyquist frequency if it is coarser."""
_REACH_BOXES = 0.15
"""How far off centre a particle is looked for."""
_FALLEN = 0.08
"""Share of its height at which a profile has ended."""
_VALLEY = 0.5
"""Share of a profile's height below which a minimum is one between neighbours and not inside the particle."""
_BLUR, _SMALL = 2.4, 5.0
"""By how many standard deviations of the shift along an axis the diameter at `_FALLEN` of a large particle grows. That
of a small one grows less, as the widths of two bells add in squares: at so many standard deviations nothing is taken
off. A mask that is too large costs little there, one that is too small a great deal."""
_TAIL = 1.08
"""What lies outside of the radius at `_FALLEN` of the power, which goes with the square of the density."""
_LONG = 0.08
"""Share of the power behind the end of its profile from which on a particle is long: compact ones have .01 to .07."""
_HELD = 0.98
"""Share of the power that the radius of a long particle holds. Nothing is taken off for its shifts, which are seen too
large: along itself it matches its mean nearly as well."""
_GROUND_RINGS = 4
_LEAST_CONTRAST = 12.0
"""A profile that does not rise over its background by so many standard errors shows nothing."""
_ERROR_SHARE = 0.05
"""An error of the diameter of this share makes the confidence one half."""


@dataclass(frozen=True)
class Diameter:
    """The particle's diameter with a confidence of 0 to 1, or None with the reason.

    shift_A: standard deviation, along an axis, of where the particles lie off centre.
    """

    diameter_A: float | None
    confidence: float
    reason: str = ""
    shift_A: float = 0.0


@dataclass(frozen=True)
class _Profiles:
    """Per group (G, n//2 + 1), by radius in pixels."""

    mean: NDArray[np.float64]
    power: NDArray[np.float64]


def from_images(images: Tensor, params: CtfParams | None, pixel_size_A: float) -> Diameter:
    """From raw particles (b, n, n), white on black, a few hundred or more, centred within 0.15 boxes.

    params: their CTF, None for images without one.
    """
    box_px = images.shape[-1]
    if len(images) < 2 * _GROUPS:
        return Diameter(None, 0.0, f"{len(images)} particles are too few")
    sums = _Sums(box_px, pixel_size_A)
    for start in range(0, len(images), _BLOCK):
        sums.add(images[start : start + _BLOCK], _taken(params, start, len(images)), start)
    template = sums.template()
    shift_px = _shift_px(images, params, template, sums)
    return _measure(sums.profiles(), shift_px * pixel_size_A, pixel_size_A)


def _taken(params: CtfParams | None, start: int, count: int) -> CtfParams | None:
    return None if params is None else params.take(np.arange(start, min(start + _BLOCK, count)))


class _RadialBins:
    """Means of images over rings of whole pixels."""

    def __init__(self, box_px: int) -> None:
        self.rings = box_px // 2 + 1
        self.index = torch.round(radius_grid_px(box_px)).to(torch.int64).clamp(max=self.rings).flatten()
        self.counts = torch.bincount(self.index, minlength=self.rings + 1).double()

    def __call__(self, image: Tensor) -> NDArray[np.float64]:
        """(n, n) -> (n//2 + 1,)."""
        sums = torch.zeros(self.rings + 1, dtype=torch.float64).index_add_(0, self.index, image.double().flatten())
        return np.asarray((sums / self.counts)[:-1].numpy())


class _Sums:
    """Sums over particles for each group, and the filters that belong to box and pixel size."""

    def __init__(self, box_px: int, pixel_size_A: float) -> None:
        self.box_px, self.bins = box_px, _RadialBins(box_px)
        self.ky, self.kx = frequency_grid(box_px, pixel_size_A)
        radius = torch.sqrt(self.ky**2 + self.kx**2)
        coarsest, finest = _COARSEST_RING / (box_px * pixel_size_A), 1 / _FINEST_A
        finest = min(finest, _FINEST_NYQUISTS * 0.5 / pixel_size_A)
        self.band = (1 - 1 / (1 + (radius / coarsest) ** 4)) / (1 + (radius / finest) ** 8)
        self.rings = ring_index(box_px).clamp(max=box_px // 2)
        shape = (_GROUPS, box_px, box_px // 2 + 1)
        self.signal = torch.zeros(shape, dtype=torch.float64)
        self.squares = torch.zeros(shape, dtype=torch.float64)
        self.spectrum = torch.zeros(shape[1:], dtype=torch.float64)
        self.power = torch.zeros(_GROUPS, box_px, box_px, dtype=torch.float64)
        self.counts = torch.zeros(_GROUPS, dtype=torch.float64)

    def transfer(self, params: CtfParams | None, count: int) -> Tensor:
        """The CTF (count, n, n//2 + 1)."""
        if params is None:
            return torch.ones(count, *self.rings.shape)
        return ctf(params, self.ky, self.kx)

    def add(self, images: Tensor, params: CtfParams | None, first: int) -> None:
        """A block of particles, the first of which has number `first`."""
        half, transfer = to_fourier(images.float()), self.transfer(params, len(images))
        flipped = to_real(half * transfer.sign() * self.band, self.box_px).square_()
        group = (torch.arange(len(images)) + first) % _GROUPS
        # Only the even part of the mean image is radial, and that is the real part of its transform.
        self.signal.index_add_(0, group, (half.real * transfer).double())
        self.squares.index_add_(0, group, (transfer**2).double())
        self.spectrum += half.abs().square_().double().sum(0)
        self.power.index_add_(0, group, flipped.double())
        self.counts += torch.bincount(group, minlength=_GROUPS)

    def mean_rings(self, signal: Tensor, squares: Tensor) -> Tensor:
        """The radial mean image's transform (R,), without its ring 0, which the background's removal took."""
        above, below = ring_sums(signal, self.box_px), ring_sums(squares, self.box_px)
        rings = above / below.clamp(min=1e-12)
        rings[0] = 0
        return rings

    def template(self) -> Tensor:
        """The matched filter of the mean particle for the phases of an image times its CTF: (n, n//2 + 1)."""
        rings = self.mean_rings(self.signal.sum(0), self.squares.sum(0))
        noise = ring_sums(self.spectrum, self.box_px).clamp(min=1e-12)
        return (rings / noise * noise[1:].mean())[self.rings].float() * self.band

    def profiles(self) -> _Profiles:
        """Radial profiles of each group."""
        band = self.band.double()
        mean = []
        for signal, squares in zip(self.signal, self.squares, strict=True):
            rings = self.mean_rings(signal, squares)[self.rings]
            mean.append(self.bins(to_real((rings * torch.sqrt(band)).to(torch.complex128), self.box_px)))
        power = [self.bins(image / count) for image, count in zip(self.power, self.counts, strict=True)]
        return _Profiles(np.stack(mean), np.stack(power))


def _shift_px(images: Tensor, params: CtfParams | None, template: Tensor, sums: _Sums) -> float:
    """Standard deviation along an axis of where the particles lie, from two independent estimates of each shift."""
    box_px = sums.box_px
    near = radius_grid_px(box_px) <= _REACH_BOXES * box_px
    where = torch.nonzero(near) - box_px // 2
    ky, kx = torch.arange(box_px)[:, None], torch.arange(box_px // 2 + 1)[None, :]
    chequers = ((ky + kx) % 2 == 0).to(template)
    total, count = 0.0, 0
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].float()
        half = to_fourier(block) * sums.transfer(_taken(params, start, len(images)), len(block)) * template
        found = [where[to_real(half * part, box_px)[:, near].argmax(1)].double() for part in (chequers, 1 - chequers)]
        total += float((found[0] * found[1]).sum())
        count += 2 * len(block)
    return math.sqrt(max(total / count, 0.0))


def _measure(profiles: _Profiles, shift_A: float, pixel_size_A: float) -> Diameter:
    """The diameter from all groups together, and its error."""
    contrast = max(_contrast(profiles.mean), _contrast(profiles.power))
    if contrast < _LEAST_CONTRAST:
        return Diameter(None, 0.0, "nothing rises over the background", shift_A)
    is_long = _behind_the_end(_smooth(profiles.power.mean(0))) > _LONG
    whole = _ends_A(profiles.mean.mean(0), profiles.power.mean(0), shift_A, pixel_size_A, is_long=is_long)
    widest_A = 2 * pixel_size_A * (profiles.power.shape[1] - 1)
    if whole >= 0.97 * widest_A:
        return Diameter(None, 0.0, "it reaches the edge of the box", shift_A)
    # Jackknife: the end of a profile is no linear function of it, so it is measured without each group in turn.
    left = [[(c.sum(0) - c[g]) / (_GROUPS - 1) for c in (profiles.mean, profiles.power)] for g in range(_GROUPS)]
    parts = [_ends_A(mean, power, shift_A, pixel_size_A, is_long=is_long) for mean, power in left]
    error = float(np.std(parts)) * math.sqrt(_GROUPS - 1)
    return Diameter(whole, 1 / (1 + (error / (_ERROR_SHARE * whole)) ** 2), "", shift_A)


def _contrast(curves: NDArray[np.float64]) -> float:
    """How far a profile rises, in standard errors as the groups (G, R) tell them."""
    mean, error = curves.mean(0), curves.std(0, ddof=1) / math.sqrt(len(curves))
    return float((mean.max() - mean.min()) / max(float(np.median(error)), 1e-12 * abs(mean).max(), 1e-300))


def _ends_A(
    mean: NDArray[np.float64], power: NDArray[np.float64], shift_A: float, pixel_size_A: float, *, is_long: bool
) -> float:
    """The largest of what both profiles say."""
    by_mean = _without_shifts_A(2 * pixel_size_A * _end_px(_smooth(mean)), shift_A)
    by_power = _TAIL * _without_shifts_A(2 * pixel_size_A * _end_px(_smooth(power)), shift_A)
    found = max(by_mean, by_power, 4 * pixel_size_A)
    if is_long:
        found = max(found, 2 * pixel_size_A * _held_px(_share_within(_smooth(power))))
    return found


def _without_shifts_A(seen_A: float, shift_A: float) -> float:
    """The diameter of particles that lie in one place, from what is seen of those that do not."""
    sharp_A = seen_A - _BLUR * shift_A
    return seen_A - _BLUR * shift_A * max(0.0, 1 - _SMALL * shift_A / max(sharp_A, 1e-9))


def _behind_the_end(power: NDArray[np.float64]) -> float:
    """Share of the power behind the end of its profile (R,)."""
    within = _share_within(power)
    return 1 - float(np.interp(_end_px(power), np.arange(len(within)), within))


def _share_within(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) share of the power within each radius: of what rises over the ground at the first minimum, up to there.

    Noise makes it more than 1 here and there; with the minimum itself as the ground it would all count as power.
    """
    lowest, radius = _valley(power), np.arange(len(power))
    first = min(lowest, max(lowest - _GROUND_RINGS, math.ceil(_end_px(power))))
    ground = power[first : lowest + 1].mean()
    rings = radius * (power - ground) * (radius <= lowest)
    return np.asarray(np.cumsum(rings) / max(rings.sum(), 1e-300))


def _held_px(within: NDArray[np.float64]) -> float:
    """The radius that holds `_HELD` of the power."""
    at = max(1, int(np.argmax(within >= _HELD)))
    return at - 1 + float((_HELD - within[at - 1]) / max(within[at] - within[at - 1], 1e-12))


def _smooth(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each ring (R,) with a quarter of each neighbour."""
    padded = np.pad(curve, 1, mode="edge")
    return np.asarray(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:])


def _end_px(curve: NDArray[np.float64]) -> float:
    """The radius at which a profile has come down to `_FALLEN` of its height over its first minimum behind the peak."""
    peak, lowest = _peak(curve), _valley(curve)
    level = curve[lowest] + _FALLEN * (curve[peak] - curve[lowest])
    at = peak + int(np.argmax(curve[peak : lowest + 1] <= level))
    if at == peak:
        return float(peak)
    high, low = curve[at - 1], curve[at]
    return at - 1 + float((high - level) / (high - low))


def _peak(curve: NDArray[np.float64]) -> int:
    return int(np.argmax(curve[: 3 * len(curve) // 4]))


def _valley(curve: NDArray[np.float64]) -> int:
    """The first minimum behind the peak.

    A minimum counts as one when the profile rises again by `_FALLEN` of its height, as it does where neighbours are.
    """
    peak = lowest = _peak(curve)
    height = curve[peak] - curve[peak:].min()
    for at in range(peak, len(curve)):
        if curve[at] < curve[lowest]:
            lowest = at
        elif curve[at] - curve[lowest] > _FALLEN * height and curve[peak] - curve[lowest] > (1 - _VALLEY) * height:
            break
    return lowest
