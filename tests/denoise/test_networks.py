"""Networks against what defines them: layer counts of the ancestors, and the receptive field measured by gradients."""

from __future__ import annotations

import pytest
import torch

from beamside.denoise.networks import NAMES, Network, build, kmac_per_pixel
from beamside.errors import OptionError


def reach_by_gradient(network: Network) -> int:
    """Farthest input row, over all phases of the stride, that changes an output pixel: by autograd, not by layers."""
    for parameter in network.parameters():
        parameter.data.abs_().add_(1e-3)
    network.double()
    side = (2 * network.halo // network.stride + 4) * network.stride
    x = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    y = network(x)
    farthest = 0
    for phase in range(network.stride):
        at = side // 2 // network.stride * network.stride + phase
        (gradient,) = torch.autograd.grad(y[0, 0, at, at], x, retain_graph=True)
        rows = (gradient[0, 0] != 0).any(1).nonzero()[:, 0]
        farthest = max(farthest, at - int(rows[0]), int(rows[-1]) - at)
    return farthest


@pytest.mark.parametrize("name", ["fast", "seed3", "deep12"])
def test_halo_is_the_receptive_radius(name: str) -> None:
    network = build(name)
    assert network.halo == reach_by_gradient(network)


def test_width_does_not_change_the_halo() -> None:
    assert build("quality").halo == build("fast").halo


@pytest.mark.parametrize(("name", "parameters"), [("seed3", 2_625), ("deep12", 93_089)])
def test_the_ancestors_have_their_published_number_of_parameters(name: str, parameters: int) -> None:
    assert build(name).parameters_count == parameters


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_shape_of_the_input(name: str) -> None:
    network = build(name)
    x = torch.randn(2, 1, 3 * network.stride, 5 * network.stride)
    assert network(x).shape == x.shape


def test_deep12_subtracts_what_it_computes() -> None:
    network = build("deep12")
    for parameter in network.parameters():
        parameter.data.zero_()
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(network(x), x)


def test_quality_costs_a_ninth_of_topaz() -> None:
    assert kmac_per_pixel(build("quality")) == pytest.approx(289 / 9, rel=0.05)
    assert kmac_per_pixel(build("fast")) == pytest.approx(kmac_per_pixel(build("quality")) / 4, rel=0.05)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(OptionError, match="fast, quality, seed3, deep12"):
        build("slow")
