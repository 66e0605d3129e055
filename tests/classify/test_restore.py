"""Restored averages against projections, against a direct sum, and in their bookkeeping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from beamside.classify.restore import ClassAverages, Restoration
from beamside.errors import OptionError
from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import frequency_grid, to_fourier, to_real
from beamside.optics.frc import ring_correlation, ring_sums
from beamside.optics.masks import soft_circle
from beamside.optics.rotation import euler_matrix
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.projector import Projector
from beamside.simulate.volumes import load_volume

BOX, PIXEL_A = 48, 5.0
MASK = soft_circle(BOX, 20.0, 3.0).numpy()


@pytest.fixture(scope="module")
def volume() -> np.ndarray[Any, Any]:
    return load_volume("walk", BOX, PIXEL_A)[0]


def views(volume: np.ndarray[Any, Any], psi_deg: np.ndarray[Any, Any]) -> torch.Tensor:
    """Projections in fixed directions, turned by psi."""
    rot, tilt = np.linspace(0, 300, len(psi_deg)), np.linspace(20, 160, len(psi_deg))
    return to_real(Projector(volume).sections(euler_matrix(rot, tilt, psi_deg)), BOX)


def test_a_turned_and_moved_projection_comes_back(volume: np.ndarray[Any, Any]) -> None:
    """FRC with the projection at psi = 0 above 0.99 up to 80 % of Nyquist, for any psi and shift."""
    rng = np.random.default_rng(0)
    count = 24
    psi, origin_x, origin_y = rng.uniform(-180, 180, count), rng.uniform(-3, 3, count), rng.uniform(-3, 3, count)
    ky, kx = frequency_grid(BOX)
    moved = to_fourier(views(volume, psi))
    # The particle lies the other way from the shift that centres it.
    angle = ky * torch.as_tensor(-origin_y)[:, None, None] + kx * torch.as_tensor(-origin_x)[:, None, None]
    images = to_real(moved * torch.exp(-2j * np.pi * angle).to(moved.dtype), BOX)
    sums = Restoration(count, BOX, PIXEL_A)
    order = np.arange(count)
    flat = np.full((count, BOX // 2 + 1), 1e-9)
    for half in (0, 1):
        sums.add(images, None, order, psi, origin_x, origin_y, np.ones(count), np.full(count, half), flat)
    found = torch.as_tensor(sums.averages(MASK).images)
    expected = views(volume, np.zeros(count)) * torch.as_tensor(MASK)
    curve = ring_correlation(found - found.mean((1, 2), keepdim=True), expected - expected.mean((1, 2), keepdim=True))
    assert float(curve[:, 2 : int(0.8 * BOX / 2) + 1].min()) > 0.99


def noisy(count: int, volume: np.ndarray[Any, Any], snr: float = 0.1) -> Session:
    return Session(volume, Recipe(BOX, PIXEL_A, count, snr=snr, shift_px=2.0, astigmatism_A=3000.0, seed=4))


def restored(made: Session, rows: np.ndarray[Any, Any], classes: np.ndarray[Any, Any], count: int) -> Restoration:
    truth = made.truth
    sums = Restoration(count, BOX, PIXEL_A)
    pose = (truth.psi_deg[rows], truth.origin_x_px[rows], truth.origin_y_px[rows])
    flat = np.ones((rows.size, BOX // 2 + 1))
    sums.add(made.images(rows), truth.optics.take(rows), classes, *pose, np.ones(rows.size), rows % 2, flat)
    return sums


def one_view(count: int, volume: np.ndarray[Any, Any], snr: float = 0.1) -> Session:
    """All particles seen from one direction, at any psi."""
    made = noisy(count, volume, snr)
    made.truth.rot_deg[:] = 40.0
    made.truth.tilt_deg[:] = 70.0
    return made


def test_contrast_transfer_is_undone(volume: np.ndarray[Any, Any]) -> None:
    made = one_view(600, volume)
    found = restored(made, np.arange(600), np.zeros(600, dtype=np.int64), 1).averages(MASK)
    truth = to_real(Projector(volume).sections(euler_matrix(40.0, 70.0, 0.0)[None]), BOX) * torch.as_tensor(MASK)
    curve = ring_correlation(torch.as_tensor(found.images), truth)[0]
    assert float(curve[2:12].mean()) > 0.95
    # White on black: more inside the particle than at the mask's rim.
    assert found.images[0, BOX // 2 - 4 : BOX // 2 + 4, BOX // 2 - 4 : BOX // 2 + 4].mean() > 0
    assert 10.0 <= found.resolution_A[0] < 40.0


def test_denominator_is_the_turned_ctf_squared(volume: np.ndarray[Any, Any]) -> None:
    """A particle's CTF^2 after turning is that of its phases on the turned frequencies, astigmatism included."""
    params = CtfParams.of(np.array([15000.0]), np.array([9000.0]), np.array([25.0]))
    sums = Restoration(1, BOX, PIXEL_A)
    zero, one = np.zeros(1), np.ones(1)
    blank = np.zeros((1, BOX, BOX), dtype=np.float32)
    sums.add(blank, params, np.zeros(1, dtype=np.int64), np.array([37.0]), zero, zero, one, zero, np.ones((1, 25)))
    ky, kx = frequency_grid(BOX, PIXEL_A)
    cosine, sine = np.cos(np.deg2rad(37.0)), np.sin(np.deg2rad(37.0))
    turned = ctf(params, -sine * kx + cosine * ky, cosine * kx + sine * ky)[0].double() ** 2
    found = ring_sums(sums._denominator[0], BOX)
    assert torch.allclose(found, ring_sums(turned, BOX), rtol=1e-4)
    assert torch.allclose(sums._denominator[0], turned, atol=1e-4)


def test_halves_that_share_nothing_have_no_resolution() -> None:
    rng = np.random.default_rng(1)
    count = 400
    images = rng.normal(size=(count, BOX, BOX)).astype(np.float32)
    sums = Restoration(4, BOX, PIXEL_A)
    zero = np.zeros(count)
    number = np.arange(count)
    flat = np.ones((count, BOX // 2 + 1))
    sums.add(images, None, number % 4, rng.uniform(0, 360, count), zero, zero, np.ones(count), number // 4 % 2, flat)
    found = sums.averages(MASK)
    assert abs(found.frc[:, 2:].mean()) < 0.1
    assert np.median(found.resolution_A) > 60
    assert np.abs(found.images).max() < 0.1


def equal(first: ClassAverages, second: ClassAverages) -> bool:
    fields = ("images", "frc", "ssnr", "resolution_A", "occupancy")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)


def test_same_calls_same_bits_and_sums_add_up(volume: np.ndarray[Any, Any]) -> None:
    made = noisy(90, volume)
    rows, classes = np.arange(90), np.arange(90) % 3
    whole = restored(made, rows, classes, 3).averages(MASK)
    assert equal(whole, restored(made, rows, classes, 3).averages(MASK))
    total = restored(made, rows[:37], classes[:37], 3)
    total += restored(made, rows[37:], classes[37:], 3)
    assert np.allclose(total.averages(MASK).images, whole.images, atol=1e-5)
    assert np.allclose(total.averages(MASK).occupancy, 30)


def test_a_class_without_particles_is_black_and_has_no_resolution(volume: np.ndarray[Any, Any]) -> None:
    made = noisy(40, volume)
    found = restored(made, np.arange(40), np.zeros(40, dtype=np.int64), 3).averages(MASK)
    assert not found.images[1:].any() and found.images[0].any()
    assert np.isinf(found.resolution_A[1:]).all()
    assert all(np.isfinite(v).all() for v in (found.images, found.frc, found.ssnr, found.occupancy))
    assert found.occupancy.tolist() == [40, 0, 0]


def test_a_weight_counts_as_so_many_particles(volume: np.ndarray[Any, Any]) -> None:
    made = noisy(8, volume)
    rows = np.arange(8)
    truth, flat = made.truth, np.ones((8, BOX // 2 + 1))
    pose = (truth.psi_deg[rows], truth.origin_x_px[rows], truth.origin_y_px[rows])
    double, twice = Restoration(1, BOX, PIXEL_A), Restoration(1, BOX, PIXEL_A)
    one = (made.images(rows), truth.optics.take(rows), np.zeros(8, dtype=np.int64), *pose)
    double.add(*one, np.full(8, 2.0), rows % 2, flat)
    for _ in range(2):
        twice.add(*one, np.ones(8), rows % 2, flat)
    assert np.allclose(double.averages(MASK).images, twice.averages(MASK).images, atol=1e-5)


@pytest.mark.parametrize("wrong", [(0, BOX, PIXEL_A), (1, BOX + 1, PIXEL_A), (1, BOX, 0.0)])
def test_what_cannot_be_restored_is_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(OptionError):
        Restoration(*wrong)
    with pytest.raises(OptionError):
        sums = Restoration(1, BOX, PIXEL_A)
        sums += Restoration(2, BOX, PIXEL_A)
