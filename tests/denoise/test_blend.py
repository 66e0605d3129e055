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
from beamside.denoise.blend_fit import Look
from beamside.denoise.held_out import Example
from beamside.denoise.micrograph import Micrograph
from beamside.denoise.model_file import UNEQUAL_PAIRS, Card, pack_model, unpack_model
from beamside.denoise.networks import Network, build, shown
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


def looks(noisier: float, count: int = 6, *, quieter: bool = False) -> list[Look]:
    """A network that is a blur too wide, twice too loud."""
    made = []
    for seed in range(count):
        true = signal(seed)
        image, partner = true + noisier * noise(100 + seed), true + noise(200 + seed)
        made.append(Look(str(seed), quieter, 2 * gaussian_filter(image, 9), image, partner))
    return made


def error(weights: Blend | None, parts: list[Look]) -> float:
    total = 0.0
    for look in parts:
        result = look.output.copy()
        if weights is not None:
            weights.add_to(result, look.image)
        total += float(np.square(result.astype(np.float64) - look.partner).mean())
    return total / len(parts)


def test_the_weights_that_made_a_partner_are_found() -> None:
    parts = []
    for seed in range(4):
        image, output = signal(seed) + noise(100 + seed), noise(300 + seed)
        partner = (0.5 * output + 0.25 * image + 0.01 * noise(200 + seed)).astype(np.float32)
        parts.append(Look(str(seed), False, output, image, partner))
    found = blend_fit.joined(blend_fit.fitted(parts).values())
    assert len(found.kinds) == 1
    # An image of 128 px says little about the coarsest of the frequencies.
    np.testing.assert_allclose(found.kinds[0].network[7:], 0.5, atol=0.02)
    np.testing.assert_allclose(found.kinds[0].image[7:], 0.25, atol=0.02)


@pytest.mark.parametrize("noisier", [1.0, 3.0])
def test_the_sum_is_nearer_to_unseen_partners_than_the_result_and_every_blur(noisier: float) -> None:
    parts = looks(noisier, 12)
    found = blend_fit.joined(blend_fit.fitted(parts[:8]).values())
    unseen = parts[8:]
    blurs = []
    for sigma in (2, 3, 4, 6, 8, 12):
        x = np.concatenate([gaussian_filter(look.image, sigma).ravel() for look in unseen])
        y = np.concatenate([look.partner.ravel() for look in unseen])
        gain = float(x @ y / (x @ x))
        blurs.append(float(np.square(gain * x - y).mean()))
    assert error(found, unseen) < min(error(None, unseen), *blurs)


def test_where_no_example_says_anything_the_network_counts_alone() -> None:
    silent, zeros = blend_fit.Fit(), np.zeros((64, 64), dtype=np.float32)
    silent.add(Look("a", False, zeros, zeros, zeros))
    assert silent.weights().network == pytest.approx((1.0,) * COUNT)
    assert silent.weights().image == pytest.approx((0.0,) * COUNT)
    assert blend_fit.fitted([]) == {}


def test_weights_that_do_not_hold_for_other_micrographs_are_not_taken() -> None:
    """In each micrograph alone the result has another gain; over all of them the network's own is right."""
    alike, various = [], []
    for seed in range(8):
        true = signal(seed)
        image, partner = true + noise(100 + seed), (true + 0.1 * noise(200 + seed)).astype(np.float32)
        various.append(Look(str(seed), False, (true * (0.4 if seed % 2 else 2.5)).astype(np.float32), image, partner))
        alike.append(Look(str(seed), False, np.asarray(0.4 * true, dtype=np.float32), image, partner))
    one, other = (blend_fit.fitted(parts)[False].network[8] for parts in (alike, various))
    assert abs(one - 2.5) < abs(other - 2.5)


def test_detail_that_the_network_made_up_goes_where_its_gain_is_right_on_average() -> None:
    """Each micrograph has another gain, so weights that are drawn strongly towards the network hold best for others."""
    parts = []
    for seed in range(8):
        true, own = signal(seed), noise(300 + seed)
        output = true * (0.5 if seed % 2 else 1.3) + 0.1 * (own - gaussian_filter(own, 3))
        parts.append(Look(str(seed), False, output.astype(np.float32), noise(100 + seed), true + noise(200 + seed)))
    found = blend_fit.fitted(parts)[False]
    assert max(np.abs(found.network[-3:])) < 0.2 and found.network[8] > 0.7


def test_where_an_image_says_nothing_itself_the_network_does_not_count() -> None:
    """It has inferred the fine detail, rightly in all that it was trained on; the image has it only below its noise."""
    parts = []
    for seed in range(4):
        coarse, fine = signal(seed), noise(400 + seed)
        fine = 0.2 * (fine - gaussian_filter(fine, 2))
        image = coarse + 0.3 * fine + 3 * noise(100 + seed)
        partner = (coarse + 2 * fine + 0.3 * noise(200 + seed)).astype(np.float32)
        parts.append(Look(str(seed), False, (coarse + 2 * fine).astype(np.float32), image, partner))
    found = blend_fit.fitted(parts)[False]
    assert max(found.network[-4:]) == 0 and min(found.network[6:12]) > 0.5


def test_a_blend_is_kept_where_held_out_pairs_are_nearer_with_it() -> None:
    torch.manual_seed(0)
    network = build("seed3")
    image = noise(1)
    answer = shown(network, image)
    examples = [Example(image, 0.5 * answer + 0.25 * image, None, 1.0)]
    assert blend_fit.helps(network, EVEN.kinds[0], examples)
    assert not blend_fit.helps(network, EVEN.kinds[0], [Example(2 * image, 2 * answer, None, 2.0)])


def test_pieces_are_of_one_size_and_cover_the_rows_and_columns_that_count() -> None:
    member = Micrograph("a", 1300, 1100, 0, Scale(0.0, 1.0), 3, -5, 0, "train", 0, 1300)
    boxes = blend_fit.pieces(member, 16)
    assert len(boxes) == 6 and len({box[2:] for box in boxes}) == 1
    covered = np.zeros((1300, 1100), dtype=int)
    for y, x, height, width in boxes:
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1 and not covered[-3:].any() and not covered[:, :5].any()
    assert covered[:1248, 5:1093].min() == 1
    patches = Micrograph("b", 256, 64, 64, Scale(0.0, 1.0), 0, 0, 0, "train", 0, 256)
    assert blend_fit.pieces(patches, 16) == [(y, 0, 64, 64) for y in range(0, 256, 64)]


def test_the_two_images_of_a_pair_have_weights_of_their_own() -> None:
    found = blend_fit.joined(blend_fit.fitted(looks(0.2, quieter=True) + looks(3.0)).values())
    assert len(found.kinds) == 2
    noisy, clear = found.kinds
    assert noisy.grain < clear.grain and noisy.image[15] < clear.image[15]
    assert found.at(noisy.grain / 2).image == noisy.image and found.at(2 * clear.grain).image == clear.image
    between = found.at((noisy.grain * clear.grain) ** 0.5)
    np.testing.assert_allclose(between.image, (np.array(noisy.image) + clear.image) / 2)


def test_without_the_image_the_result_stays_as_it_is_but_for_silent_frequencies() -> None:
    output, image = signal(3), noise(4)
    kept = output.copy()
    blend_fit.joined([blend_fit.without_image(TWO.kinds[1])]).add_to(output, image)
    np.testing.assert_allclose(output, kept, atol=1e-6)
    heard, silent = (0.6, 0.2), (0.0, 0.01)
    half = COUNT // 2
    shares = [*[heard] * half, *[silent] * (COUNT - half)]
    weights = Weights(0.2, *(tuple(column) for column in zip(*shares, strict=True)))
    found = blend_fit.without_image(weights)
    assert found.network == (*[1.0] * half, *[0.0] * (COUNT - half))
    assert found.image == (*[0.0] * half, *[0.01] * (COUNT - half))


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
