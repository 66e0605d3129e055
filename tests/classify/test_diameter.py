"""The measured diameter of particles whose size is known, crowded, noisy and off centre, and of nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beamside.classify.diameter import from_images
from beamside.formats.mrc import read_images
from beamside.formats.star import read_star
from beamside.optics.ctf import CtfParams
from beamside.optics.fourier import shift_images
from beamside.optics.masks import radius_grid_px
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.volumes import density, load_volume

BOX = 64
SIZES_A = {"walk": 180.0, "ring": 137.0}
"""Twice the radius within which 99.6 % of the power of all projections lies."""


def session(name: str, share: float, **changed: Any) -> Session:
    """Particles as large as `share` of the box."""
    pixel_A = SIZES_A[name] / share / BOX
    volume, _ = load_volume(name, BOX, pixel_A)
    return Session(
        volume, Recipe(**({"box_px": BOX, "pixel_size_A": pixel_A, "count": 600, "shift_px": 3.0} | changed))
    )


@pytest.mark.parametrize("noise", ["white", "pink"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.85])
@pytest.mark.parametrize("name", SIZES_A)
def test_known_particles(name: str, share: float, noise: str) -> None:
    made = session(name, share, noise=noise)
    found = from_images(torch.as_tensor(made.images(np.arange(600))), made.truth.optics, made.recipe.pixel_size_A)
    assert found.diameter_A is not None and found.confidence > 0.5
    assert 0.9 * SIZES_A[name] < found.diameter_A < 1.2 * SIZES_A[name]


@pytest.mark.parametrize("noise", ["white", "pink"])
@pytest.mark.parametrize("width_A", [12.0, 20.0, 30.0])
def test_long_particles(width_A: float, noise: str) -> None:
    """260 A long rods of globules: most of a wide ring is empty, and few views show the ends."""
    rng, pixel_A = np.random.default_rng(3), 5.0
    centres = rng.normal(size=(60, 3)) * np.array([0.0, width_A, width_A])
    centres[:, 0] = rng.uniform(-130.0, 130.0, 60)
    atoms = (centres[:, None] + 6.0 * rng.normal(size=(60, 20, 3))).reshape(-1, 3)
    volume = density(atoms, np.ones(len(atoms)), BOX, pixel_A)
    made = Session(volume, Recipe(box_px=BOX, pixel_size_A=pixel_A, count=600, shift_px=4.0, noise=noise))
    found = from_images(torch.as_tensor(made.images(np.arange(600))), made.truth.optics, pixel_A)
    assert found.diameter_A is None or found.confidence < 0.5 or 200 < found.diameter_A < 290
    # Not sure, the widest mask is taken; that must be for noise, and not for all.
    assert noise == "pink" or (found.diameter_A is not None and found.confidence > 0.5)


def test_neighbours_are_left_out() -> None:
    """Each box holds two more particles, which touch the one in its middle or lie a little off it."""
    made = session("ring", 0.6, snr=0.1)
    rows, rng = np.arange(600), np.random.default_rng(0)
    signal = made.signal(rows)
    pixel_A, scene = made.recipe.pixel_size_A, signal.clone()
    for _ in range(2):
        wide = torch.zeros(600, 2 * BOX, 2 * BOX)
        inside = slice(BOX // 2, BOX // 2 + BOX)
        wide[:, inside, inside] = signal[torch.as_tensor(rng.permutation(600))]
        far_px, angle = rng.uniform(1.0, 1.4, 600) * SIZES_A["ring"] / pixel_A, rng.uniform(0, 2 * np.pi, 600)
        dy, dx = (torch.as_tensor(far_px * turn(angle)).float() for turn in (np.sin, np.cos))
        scene += shift_images(wide, dy, dx)[:, inside, inside]
    noise = torch.randn(scene.shape, generator=torch.Generator().manual_seed(1)) * made.noise_variance**0.5
    images = scene + noise
    outside = radius_grid_px(BOX) > 0.45 * BOX
    images -= images[:, outside].mean(1)[:, None, None]
    found = from_images(images, made.truth.optics, pixel_A)
    assert found.diameter_A is not None and found.confidence > 0.5
    assert 0.95 * SIZES_A["ring"] < found.diameter_A < 1.2 * SIZES_A["ring"]


def test_shifts_do_not_make_the_particle_larger() -> None:
    made = session("ring", 0.45, shift_px=6.0, snr=0.1)
    rows = np.arange(600)
    images = torch.as_tensor(made.images(rows))
    found = from_images(images, made.truth.optics, made.recipe.pixel_size_A)
    assert found.diameter_A is not None and found.diameter_A < 1.25 * SIZES_A["ring"]
    assert found.shift_A == pytest.approx(6.0 / 3**0.5 * made.recipe.pixel_size_A, rel=0.35)


def test_without_contrast_transfer() -> None:
    no_ctf = {"defocus_um": (0.0, 0.0), "astigmatism_A": 0.0, "cs_mm": 0.0, "amplitude_contrast": 1.0}
    made = session("walk", 0.6, **no_ctf)
    found = from_images(torch.as_tensor(made.images(np.arange(600))), None, made.recipe.pixel_size_A)
    assert found.diameter_A is not None
    assert 0.85 * SIZES_A["walk"] < found.diameter_A < 1.25 * SIZES_A["walk"]


def test_noise_alone_has_no_diameter() -> None:
    noise = torch.randn(600, BOX, BOX, generator=torch.Generator().manual_seed(0))
    params = session("ring", 0.6).truth.optics
    assert from_images(noise, params, 4.0).diameter_A is None
    assert "nothing" in from_images(noise, params, 4.0).reason
    assert "few" in from_images(noise[:5], None, 4.0).reason


def test_real_crowded_apoferritin(shared: Path) -> None:
    """120 to 130 A across, neighbours at 120 A in boxes of 192 A."""
    star = shared / "data" / "empiar10146" / "particles.star"
    tables = read_star(star)
    rows, optics = tables["particles"], tables["optics"]
    names = [text.partition("@") for text in rows.columns["rlnImageName"]][::4]
    images = np.stack([read_images(star.parent / stack, [int(number) - 1])[0] for number, _, stack in names])
    numbers = [rows.floats(label)[::4] for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")]
    params = CtfParams.of(*numbers, cs_mm=optics.floats("rlnSphericalAberration")[0], amplitude_contrast=0.07)
    found = from_images(torch.as_tensor(images), params, 3.0)
    assert found.diameter_A is not None and found.confidence > 0.5
    assert 122 < found.diameter_A < 140
