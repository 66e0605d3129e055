"""A wider network that begins as a narrower one: what it gives is the same, and it has more to learn with.

Every channel is there several times, and what the next layer takes of it is split between the copies (Net2WiderNet: T.
Chen, I. Goodfellow and J. Shlens, ICLR 2016, arXiv:1511.05641). The split is a random one for every output, so the
copies get different gradients and part in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beamside.denoise.networks import Network, UNet, build


def can_begin(given: Network, name: str) -> bool:
    """Whether the network `name` can begin as the given one."""
    with torch.device("meta"):
        return factor(given, build(name)) > 0


def factor(narrow: Network, wide: Network) -> int:
    """How many times as wide, 1 for the same network; 0 where one cannot begin as the other."""
    if narrow.name == wide.name:
        return 1
    if not (isinstance(narrow, UNet) and isinstance(wide, UNet)) or len(narrow.widths) != len(wide.widths):
        return 0
    times = wide.widths[0] // narrow.widths[0]
    alike = all(times * small == large for small, large in zip(narrow.widths, wide.widths, strict=True))
    return times if alike else 0


@torch.no_grad()
def begin_as(wide: Network, narrow: Network, generator: torch.Generator) -> None:
    """Give `wide` weights with which it computes what `narrow` does; `factor` of the two must not be 0."""
    times = factor(narrow, wide)
    if times == 1:
        wide.load_state_dict(narrow.state_dict())
        return
    pairs = zip(_convolutions(wide), _convolutions(narrow), strict=True)
    for into, of in pairs:
        _spread(into, of, times, generator)


def _convolutions(network: Network) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def _spread(into: nn.Conv2d, of: nn.Conv2d, times: int, generator: torch.Generator) -> None:
    """Copies of a channel lie side by side, so that those of two joined inputs stay in their order."""
    assert into.bias is not None and of.bias is not None
    outputs = torch.arange(into.out_channels) // (into.out_channels // of.out_channels)
    weight, bias = of.weight[outputs], of.bias[outputs]
    if into.in_channels != of.in_channels:
        weight = weight.repeat_interleave(times, 1) * _shares(into, times, generator)
    into.weight.copy_(weight)
    into.bias.copy_(bias)


def _shares(layer: nn.Conv2d, times: int, generator: torch.Generator) -> Tensor:
    """(out, in, 1, 1): of the copies of each input, a random part each for every output; together 1."""
    parts = 0.5 + torch.rand(layer.out_channels, layer.in_channels // times, times, generator=generator)
    return (parts / parts.sum(2, keepdim=True)).flatten(1)[..., None, None]
