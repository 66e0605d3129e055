"""The smooth brightness of a whole micrograph goes round the network, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from beamside.denoise.depth import depth_of
from beamside.denoise.ground import LEAST_PX, LEAST_SHARE
from beamside.denoise.micrograph import TRAIN, Micrograph
from beamside.denoise.networks import build
from beamside.denoise.normalise import Scale, robust_scale
from beamside.denoise.tiling import denoise, halves_scale, sum_scale

SHAPE = (300, 340)
SPREAD = 4.0
Image = NDArray[np.float32]


def noise(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Image:
    return np.random.default_rng(seed).normal(100, SPREAD, shape).astype(np.float32)


def places(shape: tuple[int, int] = SHAPE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(down, across), each from -1/2 to 1/2."""
    y, x = (np.linspace(-0.5, 0.5, size) for size in shape)
    return y[:, None], x[None, :]


def slope(amount: float = 16.0, shape: tuple[int, int] = SHAPE) -> Image:
    y, x = places(shape)
    return np.asarray(amount * (0.6 * y + 0.8 * x), dtype=np.float32)


def vignette(amount: float = 16.0) -> Image:
    y, x = places()
    return np.asarray(-amount * ((y - 0.1) ** 2 + (x + 0.05) ** 2), dtype=np.float32)


def everywhere(scale: Scale, shape: tuple[int, int] = SHAPE) -> Image:
    assert scale.ground is not None
    return scale.ground.at(*(np.arange(size) for size in shape))


def test_an_even_micrograph_keeps_its_scale_bit_for_bit() -> None:
    image = noise()
    assert robust_scale(image) == robust_scale(image, sloping=False)
    faint = image + slope(0.8 * LEAST_SHARE * SPREAD * 12**0.5)
    assert robust_scale(faint).ground is None
    assert robust_scale(image + slope(1.3 * LEAST_SHARE * SPREAD * 12**0.5)).ground is not None


@pytest.mark.parametrize("surface", [slope(), vignette()], ids=["slope", "vignette"])
def test_the_surface_and_what_lies_round_it_are_found(surface: Image) -> None:
    scale = robust_scale(noise() + surface)
    assert scale.spread == pytest.approx(SPREAD, rel=0.01)
    assert scale.mean == pytest.approx(100 + surface.mean(), abs=0.1)
    np.testing.assert_allclose(everywhere(scale), surface - surface.mean(), atol=0.25)


def test_gold_crystals_and_broken_pixels_do_not_bend_it() -> None:
    image = noise() + slope()
    image[20:60, 30:80] -= 20 * SPREAD
    image[200:212, 300:312] -= 10 * SPREAD
    image[:, 77] = 1e6
    image[150:160, 100:200] = np.nan
    np.testing.assert_allclose(everywhere(robust_scale(image)), slope() - slope().mean(), atol=0.5)
    flat = noise()
    flat[20:60, 30:80] -= 20 * SPREAD
    assert robust_scale(flat).ground is None


def test_a_rim_that_no_smooth_surface_explains_is_left_alone() -> None:
    """Carbon round a hole: a surface would bend round the rim, which is there for the network either way."""
    y, x = places()
    rim = np.asarray(-8.0 * (np.hypot(y - 0.1, x) > 0.5), dtype=np.float32)
    assert robust_scale(noise() + rim).ground is None
    edge = np.asarray(-8.0 * (y + 0.4 * x > 0.05), dtype=np.float32)
    assert np.abs(edge - edge.mean() - everywhere(robust_scale(noise() + edge))).mean() < 2.0


def test_a_part_of_it_is_the_same_part() -> None:
    ground = robust_scale(noise() + slope()).ground
    assert ground is not None
    rows, columns = np.array([0, 5, 299, 298, 44]), np.arange(60, 151)
    whole = ground.at(*(np.arange(size) for size in SHAPE))
    np.testing.assert_array_equal(ground.at(rows, columns), whole[np.ix_(rows, columns)])
    np.testing.assert_allclose(ground.at_points(rows, rows), whole[rows, rows], rtol=1e-5)
    assert float(whole.mean()) == pytest.approx(0, abs=0.01)


def test_small_images_and_stacks_of_patches_have_none() -> None:
    shape = (LEAST_PX - 1, 400)
    assert robust_scale(noise(0, shape) + slope(shape=shape)).ground is None
    assert robust_scale(noise() + slope(), sloping=False).ground is None


def test_halves_share_it_and_their_sum_has_twice_of_it() -> None:
    even, odd = noise(1) + slope(8), noise(2) + slope(8)
    half, both, alone = robust_scale(even, odd), halves_scale(even, odd), sum_scale(even + odd, "halves")
    np.testing.assert_allclose(everywhere(both), 2 * everywhere(half), rtol=1e-5)
    np.testing.assert_allclose(everywhere(alone), everywhere(both), atol=0.1)
    assert alone.spread == pytest.approx(both.spread, rel=0.01)
    assert robust_scale(even, like=half).ground == half.ground


def test_of_unequal_images_the_quieter_one_tells() -> None:
    """A frame beside the sum of many others: its noise would hide a slope that is as large as the sum's."""
    quiet, loud = noise(1) + slope(8), np.asarray(6 * (noise(2) - 100) + 100 + slope(8), dtype=np.float32)
    assert robust_scale(loud).ground is None
    for pair in ((quiet, loud), (loud, quiet)):
        np.testing.assert_allclose(everywhere(robust_scale(*pair)), slope(8) - slope(8).mean(), atol=0.25)


def test_normalised_and_back() -> None:
    image = noise() + slope()
    scale = robust_scale(image)
    z = scale.normalise(image)
    assert z.std() == pytest.approx(1, rel=0.02) and abs(z[:, :50].mean()) < 0.1 and abs(z[:, -50:].mean()) < 0.1
    np.testing.assert_allclose(scale.restore(z), image, atol=1e-3)
    rows, columns = np.arange(40, 90), np.arange(300, 340)
    np.testing.assert_array_equal(scale.normalise(image[40:90, 300:], rows, columns), z[40:90, 300:])


def test_crops_of_a_pair_are_level_wherever_they_lie() -> None:
    """Also where the second image is displaced: the beam stays where it is, whatever moves through it."""
    pixels = np.stack([noise(1) + slope(), noise(2) + slope()])
    scale = robust_scale(*pixels)
    member = Micrograph("m", *SHAPE, 0, scale, 2, -3, 0, TRAIN, 0, SHAPE[0])
    assert Micrograph.from_json(json.loads(json.dumps(member.to_json()))) == member
    assert Scale.from_json({"mean": 1.0, "spread": 2.0}) == Scale(1.0, 2.0)
    for y, x in ((0, 3), (230, 270)):
        first, second = member.crop(pixels, y, x, 64, 64)
        np.testing.assert_array_equal(first, scale.normalise(pixels[0])[y : y + 64, x : x + 64])
        np.testing.assert_array_equal(second, scale.normalise(pixels[1])[y + 2 : y + 66, x - 3 : x + 61])
        assert abs(first.mean()) < 0.1 and abs(second.mean()) < 0.1


def test_a_sloping_micrograph_is_the_level_one_denoised_and_the_slope() -> None:
    torch.manual_seed(0)
    network, level, surface = build("fast").eval(), noise(), slope()
    scale = robust_scale(level + surface)
    found = denoise(network, level + surface, scale=scale, precision=torch.float32)
    ground = everywhere(scale)
    alone = denoise(network, level + surface - ground, scale=Scale(scale.mean, scale.spread), precision=torch.float32)
    np.testing.assert_allclose(found, alone + ground, atol=1e-3)
    tiled = denoise(network, level + surface, scale=scale, precision=torch.float32, tile_px=96)
    np.testing.assert_allclose(tiled, found, atol=2e-3)


def test_what_is_deep_is_deep_against_it() -> None:
    steep = noise() + slope(40)
    assert depth_of(steep, robust_scale(steep)) is None
    steep[100:160, 20:80] -= 10 * SPREAD
    depth = depth_of(steep, robust_scale(steep))
    assert depth is not None and not depth.values[:, 40:].any()


def test_json_of_a_scale_is_what_asdict_gives() -> None:
    scale = robust_scale(noise() + slope())
    assert Scale.from_json(json.loads(json.dumps(asdict(scale)))) == scale
