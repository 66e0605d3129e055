"""The scale of a micrograph is that of its ice, whatever else lies on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.denoise.normalise import CLIP, robust_scale
from beamside.errors import InputError


def noise(seed: int = 0, shape: tuple[int, int] = (300, 257)) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).normal(50.0, 7.0, shape).astype(np.float32)


def test_of_plain_noise_it_is_mean_and_standard_deviation() -> None:
    scale = robust_scale(noise())
    assert scale.mean == pytest.approx(50, abs=0.1)
    assert scale.spread == pytest.approx(7, rel=0.01)


def test_gold_carbon_edges_and_dead_pixels_move_it_little() -> None:
    image = noise(1, (1024, 1024))
    rng = np.random.default_rng(2)
    image[rng.integers(0, 1024, 2000), rng.integers(0, 1024, 2000)] = 1e6
    image[rng.integers(0, 1024, 2000), rng.integers(0, 1024, 2000)] = 0
    image[100:150, 200:260] = -300
    scale = robust_scale(image)
    assert scale.mean == pytest.approx(50, abs=0.3)
    assert scale.spread == pytest.approx(7, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_it_follows_offset_and_gain(offset: float, gain: float) -> None:
    image = noise(3, (64, 64)).astype(np.float64)
    one, other = robust_scale(image), robust_scale(gain * image + offset)
    assert other.spread == pytest.approx(gain * one.spread, rel=1e-6)
    assert other.mean == pytest.approx(gain * one.mean + offset, rel=1e-6, abs=1e-6)


def test_both_halves_share_one_scale() -> None:
    first, second = noise(4), noise(5) + 14
    assert robust_scale(first, second).mean == pytest.approx(57, abs=0.2)


def test_a_regular_sample_sees_all_columns_of_a_power_of_two() -> None:
    image = np.tile(np.arange(2048, dtype=np.float32), (2048, 1))
    scale = robust_scale(image)
    assert scale.mean == pytest.approx(1023.5, rel=0.01)


def test_normalising_and_restoring() -> None:
    image = noise(6)
    scale = robust_scale(image)
    z = scale.normalise(image)
    assert np.allclose(scale.restore(z), image, atol=1e-3)
    image[3, 4], image[5, 6], image[7, 8] = np.nan, 1e9, -np.inf
    z = scale.normalise(image)
    assert (z[3, 4], z[5, 6], z[7, 8]) == (0.0, CLIP, -CLIP)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_to_scale_is_refused(value: float) -> None:
    with pytest.raises(InputError):
        robust_scale(np.full((32, 32), value, dtype=np.float32))
