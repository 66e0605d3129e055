"""Maps to simulate from: made by code, or read and resampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import OptionError
from beamside.formats.mrc import read_map

_ATOM_SIGMA_A = 3.0
_LEAST_SIGMA_PX = 0.6
"""Narrower Gaussians than this would alias on the grid."""
_RIM_PX = 3.0


def walk_atoms(seed: int = 7) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pseudo-atoms of "walk": positions (n, 3) as x, y, z in Angstrom, and weights (n,).

    Twenty-four chains, each a random walk that is drawn back to its own centre, of unequal lengths and weights, in two
    unequal lobes with a stalk: some 250 Angstrom across, without any symmetry, as a ribosome has none.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(24, 3)) * np.array([38.0, 30.0, 24.0])
    centres[:9] = rng.normal(size=(9, 3)) * np.array([26.0, 20.0, 18.0]) + np.array([22.0, 58.0, 14.0])
    centres[-2:] = np.array([[-78.0, 22.0, -30.0], [-96.0, 34.0, -44.0]])
    positions, weights = [], []
    for number, centre in enumerate(centres):
        length = int(rng.integers(60, 140))
        steps = rng.normal(size=(length, 3)) * 6.5
        place = np.zeros(3)
        chain = np.empty((length, 3))
        for i, step in enumerate(steps):
            place = 0.93 * place + step
            chain[i] = centre + place
        positions.append(chain)
        weights.append(np.full(length, 1.8 if number % 5 == 0 else 1.0))
    atoms = np.concatenate(positions)
    return atoms - np.average(atoms, axis=0), np.concatenate(weights)


def ring_atoms(seed: int = 11) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pseudo-atoms of "ring": seven equal globules on a ring, and one cap; 140 Angstrom across."""
    rng = np.random.default_rng(seed)
    globule = rng.normal(size=(90, 3)) * np.array([10.0, 10.0, 22.0])
    turns = np.arange(7) * 2 * np.pi / 7
    parts = [globule @ _about_z(turn) + 45.0 * np.array([np.cos(turn), np.sin(turn), 0.0]) for turn in turns]
    parts.append(rng.normal(size=(120, 3)) * 11.0 + np.array([18.0, 0.0, 48.0]))
    atoms = np.concatenate(parts)
    return atoms - np.average(atoms, axis=0), np.ones(len(atoms))


def _about_z(turn: float) -> NDArray[np.float64]:
    return np.array([[np.cos(turn), np.sin(turn), 0.0], [-np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]])


BUILT_IN: dict[str, Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]]] = {
    "walk": walk_atoms,
    "ring": ring_atoms,
}


def density(
    atoms_A: NDArray[np.float64], weights: NDArray[np.float64], box_px: int, pixel_size_A: float
) -> NDArray[np.float32]:
    """Gaussians of 3 Angstrom (or 0.6 px, if that is more) at `atoms_A` (n, 3: x, y, z), as a map [z, y, x]."""
    sigma_px = max(_ATOM_SIGMA_A / pixel_size_A, _LEAST_SIGMA_PX)
    axis = np.arange(box_px) - box_px // 2
    along = [np.exp(-0.5 * ((axis - column[:, None] / pixel_size_A) / sigma_px) ** 2) for column in atoms_A.T]
    x, y, z = (a.astype(np.float32) for a in along)
    planes = (z * weights[:, None].astype(np.float32)).T[:, None, :] * y.T[None, :, :]
    return np.asarray(planes.reshape(-1, len(atoms_A)) @ x, dtype=np.float32).reshape((box_px,) * 3)


def load_volume(
    name: str, box_px: int, pixel_size_A: float, map_pixel_size_A: float = 0.0
) -> tuple[NDArray[np.float32], float]:
    """A built-in map, or the MRC map at path `name`, ready to project: (box, box, box) of unit variance, softly round.

    map_pixel_size_A: of a map whose header does not say, or is wrong. Returns the volume and its pixel size, which
    for a file can differ a little from the one asked for, since the field of view must be a whole number of its pixels.
    """
    if name in BUILT_IN:
        if map_pixel_size_A:
            raise OptionError(f"the built-in map {name} has no pixel size of its own.", remedy="Leave --apix-in out.")
        volume, actual_A = density(*BUILT_IN[name](), box_px, pixel_size_A), pixel_size_A
    else:
        volume, actual_A = _from_file(Path(name), box_px, pixel_size_A, map_pixel_size_A)
    volume = volume * _soft_sphere(box_px)
    spread = float(volume.std())
    if not spread > 0:
        raise OptionError(f"the map {name} is empty inside a box of {box_px} px.", remedy="Check its pixel size.")
    return (volume / spread).astype(np.float32), actual_A


def _from_file(path: Path, box_px: int, pixel_size_A: float, given_A: float) -> tuple[NDArray[np.float32], float]:
    volume, info = read_map(path)
    voxel_A = given_A or info.voxel_size_A[0]
    if voxel_A <= 0:
        raise OptionError(
            "gives no pixel size in its header.", where=str(path), remedy="Say it with --apix-in, in Angstrom."
        )
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise OptionError(f"has shape {volume.shape}, not a cube.", where=str(path), remedy="Give a cubic map.")
    return resample_volume(volume, voxel_A, box_px, pixel_size_A)


def resample_volume(
    volume: NDArray[np.float32], voxel_A: float, box_px: int, pixel_size_A: float
) -> tuple[NDArray[np.float32], float]:
    """A cube on other voxels: cut or filled with zeros to the field of view, then cropped or padded in Fourier space.

    Returns it with the voxel size that it has, the field of view being an even number of old voxels. The origin n//2
    and the values of the density stay.
    """
    wide = round(box_px * pixel_size_A / voxel_A)
    wide += wide % 2
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(_centred(volume, wide))))
    resized = np.fft.ifftn(np.fft.ifftshift(_centred(spectrum, box_px)))
    scaled = np.fft.fftshift(resized.real) * (box_px / wide) ** 3
    return scaled.astype(np.float32), wide * voxel_A / box_px


def _centred(cube: NDArray[Any], size: int) -> NDArray[Any]:
    """Cut or zero-filled to `size`, with index n//2 staying at n//2."""
    out = np.zeros((size,) * 3, dtype=cube.dtype)
    old = cube.shape[0]
    to, start = max(0, size // 2 - old // 2), max(0, old // 2 - size // 2)
    count = min(old - start, size - to)
    target, source = slice(to, to + count), slice(start, start + count)
    out[target, target, target] = cube[source, source, source]
    return out


def _soft_sphere(box_px: int) -> NDArray[np.float32]:
    """1 inside, falling to 0 over 3 px at radius n/2 - 1."""
    square = (np.arange(box_px, dtype=np.float32) - box_px // 2) ** 2
    radius = np.sqrt(square[:, None, None] + square[None, :, None] + square[None, None, :])
    return np.asarray(np.clip((box_px / 2 - 1 - radius) / _RIM_PX, 0, 1), dtype=np.float32)
