"""Tiles: whatever their size, the result is that of the network over all of the reflected image at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from beamside.denoise.networks import NAMES, Network, UNet, build
from beamside.denoise.normalise import Scale
from beamside.denoise.tiling import (
    TILE_BYTES,
    bytes_per_pixel,
    default_tile_px,
    denoise,
    fastest_precision,
    halves_scale,
    reflected,
    sum_scale,
    tiles,
)
from beamside.errors import InputError, OptionError

SCALE = Scale(70.0, 12.0)


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """Random weights, with biases, so that the borders of zeros inside a layer would show."""
    torch.manual_seed(5)
    made = {name: build(name) for name in NAMES} | {"small": UNet("small", (4, 6, 8))}
    for network in made.values():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return made


def picture(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(70, 12, shape).astype(np.float32)


@torch.inference_mode()
def at_once(network: Network, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """numpy's reflection and one call of the network; knows nothing of tiles and strips."""
    stride, margin = network.stride, -(-network.halo // network.stride) * network.stride
    pads = [(margin, margin - size % -stride) for size in image.shape]
    padded = np.pad(SCALE.normalise(image), pads, mode="reflect")
    out = network.eval()(torch.from_numpy(padded)[None, None])[0, 0].numpy()
    return SCALE.restore(out[margin : margin + image.shape[0], margin : margin + image.shape[1]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tile_px", [64, 176, 4096])
def test_tiled_is_whole(networks: dict[str, Network], name: str, tile_px: int) -> None:
    image, network = picture((210, 333)), networks[name]
    expected = at_once(network, image)
    got = denoise(network, image, scale=SCALE, tile_px=tile_px, precision=torch.float32)
    assert np.abs(got - expected).max() < 1e-4 * expected.std()


@given(st.integers(3, 130), st.integers(3, 130), st.integers(8, 140), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_size_and_any_tile(networks: dict[str, Network], height: int, width: int, tile_px: int, seed: int) -> None:
    image, network = picture((height, width), seed), networks["small"]
    expected = at_once(network, image)
    got = denoise(network, image, scale=SCALE, tile_px=tile_px, precision=torch.float32)
    assert np.abs(got - expected).max() < 1e-4 * max(float(expected.std()), 1.0)


def test_bfloat16_is_near_and_has_no_seams(networks: dict[str, Network]) -> None:
    image, network = picture((160, 240)), networks["fast"]
    exact = denoise(network, image, scale=SCALE, precision=torch.float32)
    whole = denoise(network, image, scale=SCALE, precision=torch.bfloat16)
    tiled = denoise(network, image, scale=SCALE, precision=torch.bfloat16, tile_px=80)
    assert (whole - exact).std() < 0.03 * exact.std()
    assert (whole - tiled).std() < 0.005 * exact.std()


def test_the_network_is_left_as_it_was(networks: dict[str, Network]) -> None:
    network = networks["fast"].train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    denoise(network, picture((64, 64)), precision=torch.bfloat16)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_threads_change_nothing(networks: dict[str, Network]) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(denoise(networks["fast"], picture((150, 170)), scale=SCALE))
        np.testing.assert_array_equal(*found)
    finally:
        torch.set_num_threads(threads)


def test_one_scale_for_all_tiles(networks: dict[str, Network]) -> None:
    """A bright half would change the scale of its own tiles; a peer's tiles differ by a tenth for that."""
    image = picture((128, 256))
    image[:, 128:] += 40
    whole = denoise(networks["deep12"], image, precision=torch.float32)
    tiled = denoise(networks["deep12"], image, tile_px=64, precision=torch.float32)
    assert np.abs(whole - tiled).max() < 1e-4 * whole.std()


def test_pixels_that_are_not_finite_stay_local(networks: dict[str, Network]) -> None:
    image, network = picture((96, 96)), networks["seed3"]
    broken = image.copy()
    broken[40, 50], broken[41, 50] = np.nan, np.inf
    got = denoise(network, broken, scale=SCALE, precision=torch.float32)
    expected = denoise(network, image, scale=SCALE, precision=torch.float32)
    assert np.isfinite(got).all()
    away = np.ones_like(image, dtype=bool)
    away[40 - network.halo : 42 + network.halo, 50 - network.halo : 51 + network.halo] = False
    np.testing.assert_allclose(got[away], expected[away], rtol=1e-5)


def test_what_is_far_too_dark_keeps_its_depth(networks: dict[str, Network]) -> None:
    """A crystal is as deep in the result as it was, a single hot pixel is cut off; and tiles stay invisible."""
    network = networks["seed3"]
    plain = picture((130, 150))
    found = []
    for spreads in (20, 50):
        image = plain.copy()
        image[40:80, 50:100] -= spreads * 12
        image[100, 30] += 1000
        whole = denoise(network, image, scale=SCALE, precision=torch.float32)
        tiled = denoise(network, image, scale=SCALE, precision=torch.float32, tile_px=37)
        assert np.abs(whole - tiled).max() < 1e-4 * whole.std()
        found.append(whole)
    inside = (found[0] - found[1])[55:65, 70:80]
    np.testing.assert_allclose(inside, 30 * 12, rtol=0.05)
    hot = plain.copy()
    hot[100, 30] += 1000
    shown = denoise(network, SCALE.restore(SCALE.normalise(hot)), scale=SCALE, precision=torch.float32)
    np.testing.assert_allclose(found[0][95:105, 25:35], shown[95:105, 25:35], rtol=1e-5)


@given(st.integers(1, 60), st.integers(-80, 80), st.integers(1, 150))
def test_reflection_is_numpys(size: int, start: int, length: int) -> None:
    axis = np.arange(size)
    if size == 1:
        assert not reflected(start, start + length, size).any()
        return
    padded = np.pad(axis, (80, 300), mode="reflect")
    np.testing.assert_array_equal(reflected(start, start + length, size), padded[start + 80 : start + length + 80])


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 4, 16]), st.integers(16, 200))
def test_tiles_cover_every_pixel_once_on_the_grid(height: int, width: int, stride: int, tile_px: int) -> None:
    seen = np.zeros((height, width), dtype=int)
    for tile in tiles((height, width), tile_px, stride):
        seen[slice(*tile.rows), slice(*tile.columns)] += 1
        for first, last in (tile.rows, tile.columns):
            assert first % stride == 0 and 0 < last - first <= tile_px
    assert (seen == 1).all()


def test_the_default_tile_fits_its_memory(networks: dict[str, Network]) -> None:
    for name in NAMES:
        for precision in (torch.float32, torch.bfloat16):
            network = networks[name]
            tile = default_tile_px(network, precision)
            wide = tile + 2 * (-(-network.halo // network.stride) * network.stride)
            assert tile % network.stride == 0 and tile >= 512
            assert wide**2 * bytes_per_pixel(network, precision) <= TILE_BYTES
    assert fastest_precision("cpu") in (torch.float32, torch.bfloat16)


def test_scales() -> None:
    """White noise: a half of spread 5 about 100, and its sum."""
    rng = np.random.default_rng(1)
    even, odd = (rng.normal(100, 5, (400, 400)) for _ in range(2))
    by_halves, by_sum = halves_scale(even, odd), sum_scale(even + odd, "halves")
    for scale in (by_halves, by_sum):
        assert scale.mean == pytest.approx(200, abs=0.2) and scale.spread == pytest.approx(10, rel=0.02)
    assert sum_scale(even + odd, "single").spread == pytest.approx(50**0.5, rel=0.02)


def test_what_cannot_be(networks: dict[str, Network]) -> None:
    with pytest.raises(OptionError, match="too small"):
        denoise(networks["fast"], picture((64, 64)), tile_px=8)
    with pytest.raises(InputError, match="one value"):
        denoise(networks["fast"], np.ones((64, 64), np.float32))
    with pytest.raises(InputError, match="no pixel is finite"):
        denoise(networks["fast"], np.full((64, 64), np.nan, np.float32))
