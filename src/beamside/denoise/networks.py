"""The networks: what a pixel of the output depends on is finite and known, so tiles can equal the whole.

No layer normalises over space. Every network takes and gives (B, 1, H, W), normalised by the mean and standard
deviation of the whole micrograph (`normalise`); H and W are multiples of its `stride`.

`seed3` and `deep12` are the layers of the Fortran ancestor. `fast` and `quality` are U-Nets (Ronneberger et al. 2015)
on pixels unshuffled by 2 (Shi et al. 2016).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from beamside.errors import OptionError

if TYPE_CHECKING:
    from beamside.denoise.blend import Blend

Span = tuple[int, int]
"""First and last index along one axis, both included."""

UNSHUFFLE = 2
_SLOPE = 0.1


class Network(nn.Module, ABC):
    """A denoiser of normalised micrographs."""

    name: str
    by_own_spread = False
    """It learned from pairs of unequal noise, each image at its own spread, and so it is used."""
    blend: Blend | None = None
    """What is made of its result and the image, once it has been over all of the micrograph."""
    stride: int
    """Tiles begin on multiples of this many pixels; sizes are multiples of it."""

    @abstractmethod
    def needs(self, span: Span) -> Span:
        """The input pixels along one axis on which the output pixels of `span` depend, from the layers."""

    @property
    def halo(self) -> int:
        """Pixels on each side beyond which no input changes an output: the receptive radius at its widest phase."""
        reaches = [(at, self.needs((at, at))) for at in range(self.stride)]
        return max(max(at - low, high - at) for at, (low, high) in reaches)

    @property
    def parameters_count(self) -> int:
        """Numbers that training sets."""
        return sum(p.numel() for p in self.parameters())


def _through_conv(layer: nn.Conv2d, span: Span) -> Span:
    before = int(layer.padding[0])
    after = layer.dilation[0] * (layer.kernel_size[0] - 1) - before
    return span[0] - before, span[1] + after


def _through(layers: Sequence[nn.Conv2d], span: Span) -> Span:
    for layer in reversed(layers):
        span = _through_conv(layer, span)
    return span


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Plain(Network):
    """Convolutions of 3 x 3 with ReLU between them; `residual` takes the result from the input."""

    stride = 1

    def __init__(self, name: str, width: int, depth: int, *, residual: bool) -> None:
        super().__init__()
        self.name, self.residual = name, residual
        widths = [1, *[width] * (depth - 1), 1]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The layers from input to output."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 1, H, W)."""
        *inner, last = self.convolutions
        h = x
        for layer in inner:
            h = functional.relu(layer(h), inplace=True)
        output: Tensor = x - last(h) if self.residual else last(h)
        return output

    def needs(self, span: Span) -> Span:
        """Through all layers; the skip of a residual network lies inside."""
        return _through(self.convolutions, span)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs), _conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.leaky_relu(self.first(x), _SLOPE, inplace=True)
        return functional.leaky_relu(self.second(h), _SLOPE, inplace=True)

    def needs(self, span: Span) -> Span:
        return _through([self.first, self.second], span)


class UNet(Network):
    """A U-Net without normalisation: two convolutions a level, averages down, nearest neighbours up."""

    def __init__(self, name: str, widths: Sequence[int]) -> None:
        super().__init__()
        self.name, self.widths = name, tuple(widths)
        self.stride = UNSHUFFLE * 2 ** (len(widths) - 1)
        inputs = [UNSHUFFLE**2, *self.widths[:-1]]
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(inputs, self.widths, strict=True))
        pairs = list(pairwise(self.widths))
        self.up = nn.ModuleList(_Block(low + high, low) for low, high in reversed(pairs))
        self.last = nn.Conv2d(self.widths[0], UNSHUFFLE**2, 3, padding=1)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 1, H, W)."""
        h = functional.pixel_unshuffle(x, UNSHUFFLE)
        skips = []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else functional.avg_pool2d(h, 2))
            skips.append(h)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            h = block(torch.cat([functional.interpolate(h, scale_factor=2, mode="nearest"), skip], 1))
        return functional.pixel_shuffle(self.last(h), UNSHUFFLE)

    def needs(self, span: Span) -> Span:
        """Down the decoder and up the encoder, the widest of all ways."""
        span = _through_conv(self.last, (span[0] // UNSHUFFLE, span[1] // UNSHUFFLE))
        wanted = []
        for block in self.up:
            assert isinstance(block, _Block)
            span = block.needs(span)
            wanted.append(span)
            span = span[0] // 2, span[1] // 2
        for skip, block in zip([*wanted, span][::-1], list(self.down)[::-1], strict=True):
            assert isinstance(block, _Block)
            span = block.needs((min(span[0], skip[0]), max(span[1], skip[1])))
            if block is not self.down[0]:
                span = 2 * span[0], 2 * span[1] + 1
        return UNSHUFFLE * span[0], UNSHUFFLE * span[1] + UNSHUFFLE - 1


_BUILDERS: dict[str, Callable[[], Network]] = {
    "fast": lambda: UNet("fast", (16, 32, 48, 64)),
    "quality": lambda: UNet("quality", (32, 64, 96, 128)),
    "seed3": lambda: Plain("seed3", 16, 3, residual=False),
    "deep12": lambda: Plain("deep12", 32, 12, residual=True),
}
NAMES = tuple(_BUILDERS)


def build(name: str) -> Network:
    """A network with fresh weights, drawn from torch's generator.

    Raises:
        OptionError: there is no network of that name.
    """
    if name not in _BUILDERS:
        raise OptionError(f"there is no network '{name}'.", remedy=f"Give one of {', '.join(NAMES)}.")
    return _BUILDERS[name]()


@torch.inference_mode()
def shown(network: Network, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `network` makes of an image (h, w) at spread 1, without its blend."""
    x = torch.from_numpy(image)[None, None].to(next(network.parameters()).device)
    output: NDArray[np.float32] = network(x)[0, 0].cpu().numpy()
    return output


def at_level(network: Network, x: Tensor, level: Tensor) -> Tensor:
    """What `network` makes of images (B, 1, H, W) whose spreads are `level`, (B, 1, 1, 1): it sees them at spread 1."""
    seen = x / level
    output: Tensor = network(seen)
    if network.blend is not None:
        results = output.cpu().numpy()
        for result, image in zip(results, seen.cpu().numpy(), strict=True):
            network.blend.add_to(result[0], image[0])
        output = torch.from_numpy(results).to(x.device)
    return output * level


def kmac_per_pixel(network: Network) -> float:
    """Thousands of multiply-accumulates a pixel, counted on a patch."""
    total = [0]

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        total[0] += output.shape[2] * output.shape[3] * layer.weight.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    side = math.lcm(network.stride, 64)
    with torch.inference_mode():
        network(torch.zeros(1, 1, side, side))
    for hook in hooks:
        hook.remove()
    return total[0] / side**2 / 1000
