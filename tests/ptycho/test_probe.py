"""The probe's sub-pixel bank, its modes and its centre."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from beamside.ptycho import probe as probes
from beamside.ptycho.torch_workshop import bank as shifted
from beamside.ptycho.torch_workshop import unshifted
from tests.ptycho import scene

SIZE = 24


def phases_of(size: int) -> torch.Tensor:
    return torch.from_numpy(probes.shift_phases(size))


def waves(seed: int, *shape: int) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def smooth_blob(row: float, col: float, size: int = 48) -> NDArray[np.complex128]:
    y, x = np.mgrid[:size, :size]
    return np.exp(-((y - row) ** 2 + (x - col) ** 2) / 18) * np.exp(0.2j * (x - col))


def test_the_bank_moves_a_probe_by_quarters_of_a_pixel() -> None:
    """A Gaussian with a phase ramp, moved in its own formula rather than by Fourier transforms."""
    phases = phases_of(48)
    still = smooth_blob(23.0, 24.0).astype(np.complex64)
    bank = shifted(torch.from_numpy(still[None]), phases).numpy()
    for index in range(probes.BINS**2):
        dy, dx = np.array(divmod(index, probes.BINS)) / probes.BINS
        assert np.abs(bank[index, 0] - smooth_blob(23.0 + dy, 24.0 + dx)).max() < 2e-5


def test_the_first_of_the_bank_is_the_probe() -> None:
    modes = waves(1, 2, SIZE, SIZE)
    bank = shifted(torch.from_numpy(modes), phases_of(SIZE)).numpy()
    assert np.abs(bank[0] - modes).max() < 1e-5
    np.testing.assert_allclose(
        (np.abs(bank) ** 2).sum((2, 3)), np.broadcast_to((np.abs(modes) ** 2).sum((1, 2)), (16, 2)), rtol=1e-4
    )


@given(st.integers(0, 1000), st.integers(1, 3))
def test_unshifted_is_the_adjoint_of_the_bank(seed: int, modes: int) -> None:
    phases = phases_of(12)
    x, y = waves(seed, modes, 12, 12), waves(seed + 5000, 16, modes, 12, 12)
    forward = shifted(torch.from_numpy(x), phases).numpy()
    back = unshifted(torch.from_numpy(y), phases).numpy()
    one, two = np.vdot(y, forward), np.vdot(back, x)
    assert abs(one - two) < 1e-4 * np.linalg.norm(y) * np.linalg.norm(forward)


@given(st.integers(0, 1000), st.integers(2, 5))
def test_orthogonal_modes_give_the_same_intensity_at_every_pixel(seed: int, count: int) -> None:
    modes = waves(seed, count, 10, 10) * np.linspace(1, 3, count, dtype=np.float32)[:, None, None]
    found = probes.orthogonal(modes)
    np.testing.assert_allclose((np.abs(found) ** 2).sum(0), (np.abs(modes) ** 2).sum(0), rtol=1e-3, atol=1e-4)
    flat = found.reshape(count, -1)
    gram = flat.conj() @ flat.T
    power = np.real(np.diag(gram))
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-4 * power.max()
    assert (np.diff(power) <= 1e-3 * power.max()).all(), "the strongest first"


def test_one_mode_is_left_alone() -> None:
    mode = waves(1, 1, SIZE, SIZE)
    assert probes.orthogonal(mode) is mode


def test_what_the_detector_sees_of_modes_does_not_change() -> None:
    """The frames of a mixed state do not depend on which orthogonal basis its modes are written in."""
    made = scene.scan(60, modes=2)
    mixed = np.stack([made.probe[0] + 0.5 * made.probe[1], 0.7j * made.probe[1] - 0.2 * made.probe[0]])
    one, two = (scene.expected_counts(made.object, p, made.positions_px[7]) for p in (mixed, probes.orthogonal(mixed)))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3 * one.max())


def test_centre_against_the_centre_of_mass() -> None:
    for row, col in ((24, 24), (27, 22), (20, 29)):
        blob = smooth_blob(row, col)[None].astype(np.complex64)
        mass = np.array(ndimage.center_of_mass(np.abs(blob[0]) ** 2)) - 24
        np.testing.assert_allclose(probes.centre_offset_px(blob), mass, atol=0.02)


@given(st.integers(-23, 23), st.integers(-23, 23))
def test_centre_knows_no_edge(dy: int, dx: int) -> None:
    """A probe that wraps round the corner is where its circular shift put it."""
    blob = np.roll(smooth_blob(24, 24), (dy, dx), axis=(0, 1))[None].astype(np.complex64)
    away = probes.centre_offset_px(blob) - np.array([dy, dx])
    assert np.abs((away + 24) % 48 - 24).max() < 0.02


def test_scaling_gives_the_counts_that_were_asked_for() -> None:
    modes = probes.scaled_to(waves(1, 2, SIZE, SIZE), 1234.0)
    assert float((np.abs(modes) ** 2).sum()) == pytest.approx(1234.0, rel=1e-5)


def test_further_modes_begin_weak_and_unlike_the_first() -> None:
    modes = probes.with_modes(smooth_blob(24, 24)[None].astype(np.complex64), 4)
    power = (np.abs(modes) ** 2).sum((1, 2))
    np.testing.assert_allclose(power[1:] / power[0], 0.1, rtol=1e-3)
    likeness = np.abs([np.vdot(modes[0], m) for m in modes[1:]]) / np.sqrt(power[0] * power[1:])
    assert (likeness[:2] < 0.1).all()
    assert np.linalg.matrix_rank(modes.reshape(4, -1)) == 4
    assert probes.with_modes(modes, 2).shape == (2, 48, 48)
