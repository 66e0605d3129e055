from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from beamside.errors import OptionError
from beamside.optics.fourier import frequency_grid, shift_phases, to_fourier, to_real
from beamside.simulate.particles import Recipe, Session, draw_truth, view_directions
from beamside.simulate.volumes import load_volume

RECIPE = Recipe(box_px=32, pixel_size_A=10.0, count=400, micrographs=7, snr=0.1, seed=5)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return load_volume("walk", 32, 10.0)[0]


def session(volume: np.ndarray, **changes: object) -> Session:
    return Session(volume, dataclasses.replace(RECIPE, **changes))  # type: ignore[arg-type]


def test_images_do_not_depend_on_the_pieces(volume: np.ndarray) -> None:
    one, other = session(volume), session(volume)
    rows = np.array([3, 300, 17])
    np.testing.assert_allclose(one.images(np.arange(400))[rows], other.images(rows), atol=1e-4)
    assert not np.array_equal(session(volume, seed=6).images(rows), other.images(rows))


def test_images_are_normalised_by_their_background(volume: np.ndarray) -> None:
    images = session(volume).images(np.arange(50))
    y, x = np.mgrid[:32, :32] - 16
    outside = images[:, np.hypot(x, y) > 0.45 * 32]
    np.testing.assert_allclose(outside.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(outside.std(1), 1, atol=1e-4)
    assert images.dtype == np.float32


@pytest.mark.parametrize("noise", ["white", "pink"])
def test_the_signal_to_noise_ratio_is_the_one_asked_for(volume: np.ndarray, noise: str) -> None:
    """Variance of the signal in the inscribed circle over that of the noise that is added."""
    made = session(volume, noise=noise)
    rows = np.arange(400)
    y, x = np.mgrid[:32, :32] - 16
    signal = made.signal(rows)[:, torch.as_tensor(np.hypot(x, y) <= 16)].var(dim=1).mean().item()
    drawn = made.noise_variance * np.var(made._noise(rows))
    assert signal / drawn == pytest.approx(0.1, rel=0.05)


def test_pink_noise_has_its_power_at_low_frequencies(volume: np.ndarray) -> None:
    made = session(volume, noise="pink")
    power = (to_fourier(torch.as_tensor(made._noise(np.arange(400)))).abs() ** 2).mean(0)
    ky, kx = frequency_grid(32, 10.0)
    expected = 1 / (1 + torch.hypot(ky, kx) / 0.02)
    ratio = power / expected
    assert (ratio / ratio.mean()).std() < 0.1


def test_the_origin_centres_a_particle(volume: np.ndarray) -> None:
    made, still = session(volume), session(volume, shift_px=0.0)
    rows = np.arange(20)
    moved = to_fourier(made.signal(rows))
    dy, dx = (torch.as_tensor(o[rows]) for o in (made.truth.origin_y_px, made.truth.origin_x_px))
    centred = to_real(moved * shift_phases(*frequency_grid(32, dtype=torch.float64), dy, dx), 32)
    assert np.abs(made.truth.origin_x_px).max() > 4
    # The draws that follow the origins are the same numbers, so that only the shift differs.
    expected = still.signal(rows).double()
    error = (centred - expected).norm() / expected.norm()
    assert error < 0.05


def test_junk_is_noise_alone(volume: np.ndarray) -> None:
    made = session(volume, junk=0.3, snr=1e6)
    rows = np.arange(400)
    assert 0.2 < made.truth.junk.mean() < 0.4
    images = made.images(rows)
    signal = made.signal(rows).numpy()
    for row in range(40):
        likeness = np.corrcoef(images[row].ravel(), signal[row].ravel())[0, 1]
        assert (likeness < 0.3) if made.truth.junk[row] else (likeness > 0.99)


def test_the_truth_is_what_the_recipe_says() -> None:
    truth = draw_truth(dataclasses.replace(RECIPE, count=5000))
    assert np.all(np.diff(truth.micrograph) >= 0) and set(truth.micrograph.tolist()) == set(range(7))
    mean = 0.5 * (truth.optics.defocus_u_A + truth.optics.defocus_v_A)
    assert mean.min() >= 8000 and mean.max() <= 25000
    astigmatism = truth.optics.defocus_u_A - truth.optics.defocus_v_A
    assert astigmatism.min() >= 0 and astigmatism.max() <= 300
    assert np.abs(truth.origin_x_px).max() <= 5 and np.abs(truth.psi_deg).max() <= 180
    assert len(np.unique(mean)) == 7


def test_views() -> None:
    rng = np.random.default_rng(0)
    uniform = view_directions(20000, "uniform", rng)
    np.testing.assert_allclose(np.linalg.norm(uniform, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(uniform.T @ uniform / 20000, np.eye(3) / 3, atol=0.01)
    preferred = view_directions(20000, "preferred", rng)
    np.testing.assert_allclose(np.linalg.norm(preferred, axis=1), 1, atol=1e-9)
    near = preferred[:, 2] > np.cos(np.deg2rad(30))
    # 40 % in a lobe of concentration 30, of which 98 % lie within 30 degrees, and what the others put there
    assert near.mean() == pytest.approx(0.40 * 0.982 + 0.3 * 0.067, abs=0.02)
    lobe = preferred[near][:, 2]
    assert (1 - lobe).mean() == pytest.approx(1 / 30, abs=0.01)


@pytest.mark.parametrize(
    "wrong",
    [{"box_px": 7}, {"pixel_size_A": 0}, {"count": 0}, {"snr": 0}, {"shift_px": -1}, {"views": "some"},
     {"noise": "loud"}, {"junk": 2}, {"defocus_um": (2, 1)}, {"astigmatism_A": -1}, {"seed": -1}],
)  # fmt: skip
def test_impossible_recipes(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="must"):
        dataclasses.replace(RECIPE, **wrong)  # type: ignore[arg-type]
