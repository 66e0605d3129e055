"""Crystals and carbon are deep; noise, molecules, hot pixels and bad columns are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.denoise.depth import LIMIT, depth_of
from beamside.denoise.normalise import Scale

SCALE = Scale(100.0, 5.0)


def ground(shape: tuple[int, int] = (130, 151), seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32)


def everywhere(image: NDArray[np.float32]) -> NDArray[np.float32] | None:
    depth = depth_of(image, SCALE)
    return None if depth is None else depth.at(*(np.arange(size) for size in image.shape))


def test_nothing_is_deep_in_healthy_micrographs() -> None:
    image = ground()
    image[40:60, 40:60] -= 5
    assert depth_of(image, SCALE) is None
    assert depth_of(ground((7, 300)), SCALE) is None


def test_single_pixels_lines_and_what_is_not_finite_are_not_deep() -> None:
    image = ground()
    image[20, 30] = 1e9
    image[:, 77] = -1e9
    image[90, :] = np.nan
    image[3, 3] = -np.inf
    assert depth_of(image, SCALE) is None


@pytest.mark.parametrize("spreads", [-10.0, 30.0])
def test_a_crystal_is_as_deep_as_it_is_beyond_the_limit(spreads: float) -> None:
    image = ground()
    image[30:90, 40:100] += spreads * 5
    found = everywhere(image)
    assert found is not None
    np.testing.assert_allclose(found[52:68, 62:78], spreads - np.sign(spreads) * LIMIT, atol=1.0)
    away = np.ones(image.shape, bool)
    away[8:112, 18:122] = False
    assert not found[away].any()


def test_a_part_of_it_is_the_same_part() -> None:
    image = ground()
    image[30:90, 40:100] -= 60
    depth, whole = depth_of(image, SCALE), everywhere(image)
    assert depth is not None and whole is not None
    rows, columns = np.array([-0, 5, 44, 45, 129, 128]), np.arange(60, 151)
    part = depth.at(rows, columns)
    assert part is not None
    np.testing.assert_array_equal(part, whole[np.ix_(rows, columns)])
    assert depth.at(np.arange(3), np.arange(4)) is None
