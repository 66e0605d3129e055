"""Molecules made by code, as pseudo-atoms, and their projections in volt Angstrom.

Each pseudo-atom is a Gaussian with an integrated potential in V A^3, what the displaced ice would have had taken off,
so a molecule stands 2.5 V above ice as a protein does. A projection of Gaussians is a sum of plane Gaussians, which is
exact at any pixel size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from beamside.simulate.volumes import ring_atoms, walk_atoms

ATOM_SIGMA_A = 3.0
LEAST_SIGMA_PX = 0.6
"""A narrower Gaussian would alias on the grid."""
ABOVE_ICE_V = 2.5
_VOLUME_A3_PER_KDA = 1210.0
_RESIDUE_A3 = 135.0
_MOST_ATOMS = 6000
_REACH_SIGMAS = 4.0


@dataclass(frozen=True)
class Structure:
    """positions_A: (n, 3) as x, y, z about the centre of mass; potential_VA3: (n,)."""

    name: str
    positions_A: NDArray[np.float64]
    potential_VA3: NDArray[np.float64]

    @cached_property
    def diameter_A(self) -> float:
        """Of the sphere about the centre of mass that holds all atoms but the outermost 2 %."""
        return 2 * float(np.percentile(np.linalg.norm(self.positions_A, axis=1), 98)) + 2 * ATOM_SIGMA_A


def _weighted(name: str, positions: NDArray[np.float64], weights: NDArray[np.float64], mass_kDa: float) -> Structure:
    centred = positions - np.average(positions, axis=0, weights=weights)
    total = mass_kDa * _VOLUME_A3_PER_KDA * ABOVE_ICE_V
    return Structure(name, centred, weights * (total / weights.sum()))


def _shell() -> Structure:
    """A hollow shell of 24 equal parts in octahedral order, 124 Angstrom across, as ferritin's."""
    rng = np.random.default_rng(3)
    along = rng.uniform(-22, 22, 200)
    part = np.stack([along, 9 * rng.normal(size=200), 47 + 6 * rng.normal(size=200)], axis=1)
    part += np.array([11.0, 17.0, 0.0])
    parts = [part @ turn for turn in _cube_turns()]
    return _weighted("shell", np.concatenate(parts), np.ones(24 * 200), 480.0)


def _cube_turns() -> list[NDArray[np.float64]]:
    """The 24 rotations of a cube."""
    turns = []
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)):
        for signs in np.ndindex(2, 2, 2):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = 1 - 2 * np.array(signs)
            if np.linalg.det(matrix) > 0:
                turns.append(matrix)
    return turns


def _barrel() -> Structure:
    """Four stacked rings of seven globules, 150 x 110 Angstrom, as a proteasome's core."""
    rng = np.random.default_rng(5)
    globule = rng.normal(size=(110, 3)) * np.array([10.0, 11.0, 12.0])
    rings = []
    for layer, height in enumerate((-57.0, -19.0, 19.0, 57.0)):
        for turn in (np.arange(7) + 0.5 * (layer % 2)) * 2 * np.pi / 7:
            place = [42 * np.cos(turn), 42 * np.sin(turn), height]
            rings.append(globule @ _about_z(turn) + place)
    return _weighted("barrel", np.concatenate(rings), np.ones(28 * 110), 700.0)


def _about_z(turn: float) -> NDArray[np.float64]:
    return np.array([[np.cos(turn), np.sin(turn), 0.0], [-np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]])


def _small() -> Structure:
    """Two lobes and a neck, 85 Angstrom long and 110 kDa."""
    rng = np.random.default_rng(9)
    lobes = [rng.normal(size=(n, 3)) * s + [0.0, 0.0, z] for n, s, z in ((450, 11, 20), (300, 9, -20), (80, 5, 2))]
    atoms = np.concatenate(lobes)
    return _weighted("small", atoms, np.ones(len(atoms)), 110.0)


def _rod() -> Structure:
    """A piece of a helical filament, 300 Angstrom long and 90 wide."""
    rng = np.random.default_rng(13)
    subunit = rng.normal(size=(60, 3)) * np.array([11.0, 9.0, 9.0])
    parts = []
    for number in range(52):
        turn = np.deg2rad(166.7 * number)
        place = [26 * np.cos(turn), 26 * np.sin(turn), 5.6 * (number - 25.5)]
        parts.append(subunit @ _about_z(turn) + place)
    return _weighted("rod", np.concatenate(parts), np.ones(52 * 60), 900.0)


BUILT_IN: dict[str, Callable[[], Structure]] = {
    "walk": lambda: _weighted("walk", *walk_atoms(), 900.0),
    "ring": lambda: _weighted("ring", *ring_atoms(), 420.0),
    "shell": _shell,
    "barrel": _barrel,
    "small": _small,
    "rod": _rod,
}


def random_structure(rng: np.random.Generator) -> Structure:
    """A molecule that nobody has seen: 1 to 12 ellipsoids of residues, full or hollow, some in Cn order."""
    length_A = float(np.exp(rng.uniform(np.log(30.0), np.log(110.0))))
    domains = int(rng.integers(1, 13))
    hollow = rng.uniform() < 0.25
    parts, weights = [], []
    for _ in range(domains):
        axes = length_A * rng.uniform(0.25, 0.75, 3) / domains**0.25
        count = max(20, int(4.19 * float(np.prod(axes)) / _RESIDUE_A3))
        ball = rng.normal(size=(count, 3))
        ball /= np.linalg.norm(ball, axis=1, keepdims=True)
        radius = rng.uniform(0.6, 1.0, count) if hollow else rng.uniform(size=count) ** (1 / 3)
        parts.append((ball * radius[:, None] * axes) @ random_rotation(rng) + rng.normal(size=3) * length_A * 0.45)
        weights.append(np.full(count, rng.choice([1.0, 1.0, 1.7])))
    atoms, weight = np.concatenate(parts), np.concatenate(weights)
    order = int(rng.choice([1, 1, 1, 2, 3, 4, 6, 7]))
    if order > 1:
        out = np.array([length_A * rng.uniform(0.3, 0.9), 0.0, 0.0])
        atoms = np.concatenate([(atoms * 0.6 + out) @ _about_z(2 * np.pi * k / order) for k in range(order)])
        weight = np.tile(weight * 0.6**3, order)
    if len(atoms) > _MOST_ATOMS:
        kept = rng.choice(len(atoms), _MOST_ATOMS, replace=False)
        atoms, weight = atoms[kept], weight[kept] * (len(atoms) / _MOST_ATOMS)
    centred = atoms - np.average(atoms, axis=0, weights=weight)
    return Structure("random", centred, weight * _RESIDUE_A3 * ABOVE_ICE_V)


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """A uniform rotation (3, 3), from a unit quaternion (Shoemake 1992)."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def add_projection(
    plane_VA: NDArray[np.float64],
    structure: Structure,
    rotation: NDArray[np.float64],
    centre_yx_A: tuple[float, float],
    pixel_size_A: float,
) -> None:
    """Add the projection along z of `structure`, turned by `rotation`, to `plane_VA` (H, W), in place.

    A point at y, x Angstrom lies at row y / pixel size. What lies outside of the plane is left out.
    """
    turned = structure.positions_A @ rotation.T
    sigma_A = max(ATOM_SIGMA_A, LEAST_SIGMA_PX * pixel_size_A)
    reach = float(np.linalg.norm(turned[:, :2], axis=1).max()) + _REACH_SIGMAS * sigma_A
    spans = []
    for centre, size in zip(centre_yx_A, plane_VA.shape, strict=True):
        low = max(0, int(np.floor((centre - reach) / pixel_size_A)))
        high = min(size, int(np.ceil((centre + reach) / pixel_size_A)) + 1)
        if low >= high:
            return
        spans.append((low, high))
    profiles = []
    for (low, high), centre, column in zip(spans, centre_yx_A, (1, 0), strict=True):
        away = np.arange(low, high) * pixel_size_A - (turned[:, column, None] + centre)
        profiles.append(np.exp(-0.5 * (away / sigma_A) ** 2).astype(np.float32))
    rows, columns = profiles
    weight = (structure.potential_VA3 / (2 * np.pi * sigma_A**2)).astype(np.float32)
    plane_VA[slice(*spans[0]), slice(*spans[1])] += (rows * weight[:, None]).T @ columns
