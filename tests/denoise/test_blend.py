"""The blend of result and image: what it was made of is found again, and it is worse than neither."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from beamside.denoise import blend_fit
from beamside.denoise.blend import KNOTS_PER_PX, Blend, Weights, grain_of
from beamside.denoise.model_file import UNEQUAL_PAIRS, Card, pack_model, unpack_model
from beamside.denoise.networks import Network, build
from beamside.denoise.normalise import Scale, robust_scale
from beamside.denoise.tiling import denoise
from beamside.errors import FormatError

Image = NDArray[np.float32]
COUNT = len(KNOTS_PER_PX)
EVEN = Blend((Weights(0.2, (0.5,) * COUNT, (0.25,) * COUNT),))
TWO = Blend((Weights(0.2, (0.9,) * COUNT, (0.1,) * COUNT), Weights(0.4, (0.5,) * COUNT, (0.3,) * COUNT)))


def noise(seed: int, side: int = 128) -> Image:
    return np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)


def signal(seed: int, side: int = 128) -> Image:
    coarse = gaussian_filter(noise(seed, side), 5)
    return np.asarray(0.5 * coarse / coarse.std(), dtype=np.float32)


def examples(noisier: float, count: int = 6) -> list[tuple[bool, Image, Image, Image]]:
    """A network that is a blur too wide, twice too loud."""
    made = []
    for seed in range(count):
        true = signal(seed)
        image, partner = true + noisier * noise(100 + seed), true + noise(200 + seed)
        made.append((False, 2 * gaussian_filter(image, 9), image, partner))
    return made


def error(weights: Blend | None, parts: list[tuple[bool, Image, Image, Image]]) -> float:
    total = 0.0
    for _, output, image, partner in parts:
        result = output.copy()
        if weights is not None:
            weights.add_to(result, image)
        total += float(np.square(result.astype(np.float64) - partner).mean())
    return total / len(parts)


def test_the_weights_that_made_a_partner_are_found() -> None:
    parts = []
    for seed in range(4):
        image, output = signal(seed) + noise(100 + seed), noise(300 + seed)
        parts.append(
            (False, output, image, (0.5 * output + 0.25 * image + 0.01 * noise(200 + seed)).astype(np.float32))
        )
    found = blend_fit.fitted(parts)
    assert found is not None and len(found.kinds) == 1
    # The coarsest of the frequencies are not in an image of 128 px, and so they keep to the network.
    np.testing.assert_allclose(found.kinds[0].network[3:], 0.5, atol=0.02)
    np.testing.assert_allclose(found.kinds[0].image[3:], 0.25, atol=0.02)


@pytest.mark.parametrize("noisier", [1.0, 3.0])
def test_the_sum_is_nearer_to_unseen_partners_than_the_result_and_every_blur(noisier: float) -> None:
    parts = examples(noisier, 12)
    found = blend_fit.fitted(parts[:8])
    assert found is not None
    unseen = parts[8:]
    blurs = []
    for sigma in (2, 3, 4, 6, 8, 12):
        blurred = [(kind, gaussian_filter(image, sigma), image, partner) for kind, _, image, partner in unseen]
        x, y = (np.concatenate([part[at].ravel() for part in blurred]) for at in (1, 3))
        gain = float(x @ y / (x @ x))
        blurs.append(float(np.square(gain * x - y).mean()))
    assert error(found, unseen) < min(error(None, unseen), *blurs)


def test_where_no_example_says_anything_the_network_counts_alone() -> None:
    weights = blend_fit.Fit().weights
    silent = blend_fit.Fit()
    silent.grains.append(0.2)
    assert silent.weights().network == pytest.approx((1.0,) * COUNT) and silent.weights().image == (0.0,) * COUNT
    assert blend_fit.fitted([]) is None and weights is not None


def test_the_two_images_of_a_pair_have_weights_of_their_own() -> None:
    quiet = [(True, output, image, partner) for _, output, image, partner in examples(0.2)]
    found = blend_fit.fitted(examples(3.0) + quiet)
    assert found is not None and len(found.kinds) == 2
    noisy, clear = found.kinds
    assert noisy.grain < clear.grain and noisy.image[6] < clear.image[6]
    assert found.at(noisy.grain / 2).image == noisy.image and found.at(2 * clear.grain).image == clear.image
    between = found.at((noisy.grain * clear.grain) ** 0.5)
    np.testing.assert_allclose(between.image, (np.array(noisy.image) + clear.image) / 2)


def test_grain_tells_coarse_contrast_from_noise_and_not_from_a_few_objects() -> None:
    white, seen = noise(0, 512), noise(0, 512) + signal(1, 512)
    spoiled = white.copy()
    spoiled[100:160, 200:260] = -8
    assert grain_of(white) == pytest.approx(0.177, abs=0.01)
    assert grain_of(seen) > 1.5 * grain_of(white)
    assert grain_of(spoiled) == pytest.approx(grain_of(white), rel=0.03)


def test_weights_that_are_even_are_a_plain_sum_and_small_images_are_left_alone() -> None:
    output, image = signal(3) + 1, noise(4)
    expected = 0.5 * output + 0.25 * image
    EVEN.add_to(output, image)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    small = noise(5, 48)
    kept = small.copy()
    EVEN.add_to(small, small.copy())
    np.testing.assert_array_equal(small, kept)


def test_a_model_file_keeps_the_blend_and_refuses_another_form_of_it() -> None:
    torch.manual_seed(0)
    network = build("seed3")
    card = Card("seed3", 1.5, UNEQUAL_PAIRS)
    plain, _ = unpack_model(pack_model(network, card), where="here")
    assert plain.blend is None and plain.by_own_spread
    network.blend = TWO
    back, told = unpack_model(pack_model(network, card), where="here")
    assert back.blend == TWO and told.blend == json.loads(json.dumps(TWO.to_json()))
    for broken in ({}, {**TWO.to_json(), "knots_per_px": [0.1]}, {**TWO.to_json(), "kinds": []}, {"kinds": 3}):
        assert told.blend is not None
        network.blend = Spoiled(broken)  # type: ignore[assignment]
        with pytest.raises(FormatError, match="blend is not understood"):
            unpack_model(pack_model(network, card), where="here")


class Spoiled:
    def __init__(self, values: dict[str, object]) -> None:
        self.values = values

    def to_json(self) -> dict[str, object]:
        return self.values


def test_a_micrograph_is_blended_as_a_whole_whatever_its_tiles_and_scale() -> None:
    """The scale given is that of a pair, as `evaluate` gives it; the network was shown images at their own spread."""
    torch.manual_seed(0)
    network = build("seed3")
    image = 70 + 9 * (noise(0, 160) + signal(1, 160))
    pair = Scale(70.0, 30.0)
    network.by_own_spread = True
    alone = denoise(network, image, scale=pair, tile_px=64)
    own = Scale(70.0, robust_scale(image).spread)
    np.testing.assert_array_equal(alone, denoise(build_like(network), image, scale=own, tile_px=64))
    network.blend = TWO
    result = denoise(network, image, scale=pair, tile_px=64)
    np.testing.assert_allclose(result, denoise(network, image, scale=pair, tile_px=160), atol=0.05)
    expected = own.normalise(alone)
    TWO.add_to(expected, own.normalise(image))
    np.testing.assert_allclose(result, own.restore(expected), atol=1e-3)
    assert float(np.abs(result - alone).std()) > 0.1


def build_like(network: Network) -> Network:
    other = build("seed3")
    other.load_state_dict(network.state_dict())
    return other
