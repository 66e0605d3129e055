"""A wider network that begins as a narrower one."""

from __future__ import annotations

import pytest
import torch

from beamside.denoise.export import read_model
from beamside.denoise.networks import UNet, build
from beamside.denoise.prior import PRIOR
from beamside.denoise.widen import begin_as, can_begin, factor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_wider_network_begins_as_the_narrower(times: int) -> None:
    torch.manual_seed(0)
    narrow, wide = UNet("narrow", (4, 6, 8)), UNet("wide", (4 * times, 6 * times, 8 * times))
    for layer in narrow.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.bias)
    begin_as(wide, narrow, generator())
    x = torch.randn(2, 1, 32, 48)
    with torch.inference_mode():
        assert torch.allclose(wide(x), narrow(x), atol=1e-5)


def test_quality_begins_as_the_shipped_prior() -> None:
    prior, wide = read_model(PRIOR)[0], build("quality")
    assert factor(prior, wide) == 2
    begin_as(wide, prior, generator())
    x = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(wide(x), prior(x), atol=1e-5)


def test_the_copies_of_a_channel_part_in_training() -> None:
    torch.manual_seed(0)
    narrow, wide = UNet("narrow", (4, 6)), UNet("wide", (8, 12))
    begin_as(wide, narrow, generator())
    first = wide.down[0].first
    assert isinstance(first, torch.nn.Conv2d)
    assert torch.equal(first.weight[0], first.weight[1])
    wide(torch.randn(2, 1, 16, 16)).square().mean().backward()
    assert first.weight.grad is not None
    one, other = first.weight.grad[:2]
    assert float((one - other).norm()) > 0.05 * float(one.norm()) > 0


@pytest.mark.parametrize(("given", "name", "fits"), [
    ("fast", "fast", True), ("fast", "quality", True), ("quality", "fast", False), ("fast", "seed3", False),
    ("seed3", "deep12", False), ("seed3", "seed3", True),
])  # fmt: skip
def test_which_networks_can_begin_as_which(given: str, name: str, fits: bool) -> None:
    assert can_begin(build(given), name) is fits
