"""Even fine detail goes, what stands out stays, and nothing depends on units, tiles or turns."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from beamside.denoise.ice import LEAST_GAIN, fine_bands, local_gain, mean_squares, remove_ice

PIXEL_A = 1.5
SIDE = 320


def without_ice(image: NDArray[np.float32], pixel_size_A: float) -> NDArray[np.float32]:
    got = np.array(image, dtype=np.float32)
    remove_ice(got, pixel_size_A)
    return got


def fine(seed: int, side: int = SIDE) -> NDArray[np.float32]:
    """Structure of periods of 6 to 12 px, the same strength everywhere."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((side, side)))
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    image = np.fft.irfft2(spectrum * ((k > 1 / 12) & (k < 1 / 6)), s=(side, side))
    return np.asarray(image / image.std(), dtype=np.float32)


def coarse(side: int = SIDE) -> NDArray[np.float32]:
    """Waves of 160 px."""
    y, x = np.mgrid[0:side, 0:side] * (2 * np.pi / 160)
    return np.asarray(5 * np.sin(y) * np.cos(x), dtype=np.float32)


def island(side: int = SIDE) -> NDArray[np.bool_]:
    """Where the molecules are: a disc over a tenth of the image."""
    y, x = np.mgrid[0:side, 0:side]
    return np.asarray(np.hypot(y - side / 2, x - side / 2) < 0.18 * side)


def inner(side: int = SIDE) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:side, 0:side]
    return np.asarray(np.hypot(y - side / 2, x - side / 2) < 0.12 * side)


def test_what_stands_out_is_kept_and_what_is_everywhere_is_reduced() -> None:
    ice, molecules = fine(1), 4 * fine(2) * island()
    got = without_ice(coarse() + ice + molecules, PIXEL_A) - coarse()
    away = np.hypot(*(np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2)) > 0.3 * SIDE
    assert got[away].std() < 0.4 * ice[away].std()
    whole = (ice + molecules)[inner()]
    assert np.corrcoef(got[inner()], whole)[0, 1] > 0.99 and got[inner()].std() > 0.85 * whole.std()


def test_detail_that_stands_out_correlates_better_with_the_molecules() -> None:
    ice, molecules = fine(3), 2 * fine(4) * island()
    before = np.corrcoef((ice + molecules).ravel(), molecules.ravel())[0, 1]
    after = np.corrcoef(without_ice(ice + molecules, PIXEL_A).ravel(), molecules.ravel())[0, 1]
    assert after > before + 0.1


def test_coarse_structure_and_the_mean_stay() -> None:
    image = 70 + coarse() + fine(5)
    got = without_ice(image, PIXEL_A)
    assert float(got.mean()) == pytest.approx(float(image.mean()), abs=1e-2)
    smooth = np.fft.rfft2(got)[:3, :3] / np.fft.rfft2(image)[:3, :3]
    assert abs(smooth[2, 2] - 1) < 0.02


def test_units_offsets_and_turns_change_nothing() -> None:
    image = coarse() + fine(6) + 3 * fine(7) * island()
    got = without_ice(image, PIXEL_A)
    np.testing.assert_allclose((without_ice(8 * image + 256, PIXEL_A) - 256) / 8, got, atol=2e-4)
    np.testing.assert_allclose(without_ice(np.rot90(image).copy(), PIXEL_A), np.rot90(got), atol=2e-4)


def test_the_gain_is_that_of_the_blocks_and_never_nothing() -> None:
    pattern = np.where(np.indices((128, 128)).sum(0) % 2, 1.0, -1.0).astype(np.float32)
    pattern[:, 64:] *= 10
    gain = local_gain(mean_squares(pattern, 8))
    assert gain.shape == (16, 16) and (gain[:, 0] == LEAST_GAIN).all()
    assert gain[:, -1] == pytest.approx(0.99, abs=2e-3) and (np.diff(gain, axis=1) >= 0).all()


def test_an_image_without_quiet_places_or_fine_pixels_is_left_alone() -> None:
    image = coarse() + fine(8)
    np.testing.assert_array_equal(without_ice(image, 12.0), image)
    small = image[:48, :48]
    np.testing.assert_array_equal(without_ice(small, PIXEL_A), small)
    half = image.copy()
    half[:, : SIDE // 2] = 0
    np.testing.assert_array_equal(without_ice(half, PIXEL_A)[:, SIDE // 2 + 32 :], half[:, SIDE // 2 + 32 :])


def test_an_unknown_pixel_size_is_taken_for_a_common_one() -> None:
    image = fine(9) + 3 * fine(10) * island()
    np.testing.assert_array_equal(without_ice(image, 0.0), without_ice(image, 24.0 / 18.0))


@pytest.mark.parametrize("rows", [16, 64, 100, 400])
def test_bands_are_the_whole_also_when_they_are_changed_on_the_way(rows: int) -> None:
    image = coarse() + fine(11)
    expected = image - gaussian_filter(image, 3.0, mode="reflect", truncate=3.0)
    changed, found = image.copy(), np.zeros_like(image)
    for band, part in fine_bands(changed, 3.0, rows):
        found[band] = part
        changed[band] = 1e3
    np.testing.assert_allclose(found, expected, atol=1e-5)
