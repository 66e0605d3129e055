"""A network over a whole micrograph in tiles, with the result that one pass over all of it would give.

Tiles begin on multiples of the network's stride, see the micrograph around them as far as the network does (its halo),
and are normalised by the micrograph's one scale, never by their own. Beyond the true borders the image is reflected.
So an output pixel meets the same numbers whatever the tiles are; what is left is the rounding of sums.

Each level of a U-Net is computed in strips of rows, so that only what other levels need of it is kept, and the last,
dearest one only where the tile is and not in its halo.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module, functional

from beamside.compute.heap import give_back
from beamside.denoise.blend import Blend
from beamside.denoise.depth import Depth, depth_of
from beamside.denoise.networks import UNSHUFFLE, Network, Plain, UNet
from beamside.denoise.normalise import CLIP, Scale, robust_scale
from beamside.denoise.precision import fast_bf16
from beamside.errors import OptionError

TILE_BYTES = 150_000_000
"""What the activations of a tile may take; beside it are the program, the image and the result."""
_STRIP_VALUES = 1024
"""Rows of a strip times the width of the network's first level: what a strip takes beside the tile."""
_MEDIAN_PX = 5
_STRIP_HALO = 4
"""Rows beyond a strip that the two or three convolutions of a level see, made even for the level below."""


def sum_scale(image: NDArray[Any], pairs: str, *, where: str = "") -> Scale:
    """The scale of a sum whose halves are not at hand, for a network trained on `pairs` (`Card.pairs`).

    A network that learned from halves knows how strong a half's signal is over a half's noise, which is sqrt(2) of what
    it is over the sum's. Divided by that much more, the sum has the signal that the network knows, and less noise:
    0.1 dB better than by its own spread, and 0.06 dB better than the mean of both halves denoised.

    Raises:
        InputError: no pixel is finite, or all are equal.
    """
    own = robust_scale(image, where=where)
    return own if pairs == "single" else replace(own, spread=own.spread * 2**0.5)


def halves_scale(even: NDArray[Any], odd: NDArray[Any], *, where: str = "") -> Scale:
    """The scale for even + odd, from the halves' own."""
    return robust_scale(even, odd, where=where).times(2)


def fastest_precision(device: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it (1.9 times faster on such a CPU), else float32."""
    return torch.bfloat16 if fast_bf16(device) else torch.float32


def bytes_per_pixel(network: Network, precision: torch.dtype) -> int:
    """Upper estimate of a tile's memory, from the widths of the layers that are alive together."""
    size = int(torch.finfo(precision).bits) // 8
    if isinstance(network, UNet):
        kept = sum((1 if level == 0 else 2) * width / 4.0 ** (level + 1) for level, width in enumerate(network.widths))
        return 12 + round(size * (1 + kept))
    assert isinstance(network, Plain)
    return 8 + 2 * size * max(int(layer.out_channels) for layer in network.convolutions)


def default_tile_px(network: Network, precision: torch.dtype = torch.float32) -> int:
    """The largest tile whose memory stays below TILE_BYTES."""
    wide = math.isqrt(TILE_BYTES // bytes_per_pixel(network, precision))
    tile = wide - 2 * _aligned(network.halo, network.stride)
    return max(network.stride, tile // network.stride * network.stride)


@dataclass(frozen=True)
class Tile:
    """Pixels rows x columns of the output; `rows` and `columns` are (first, behind the last)."""

    rows: tuple[int, int]
    columns: tuple[int, int]


def tiles(shape: tuple[int, int], tile_px: int, stride: int) -> list[Tile]:
    """Cover an image (H, W) by tiles of at most `tile_px`, as equal as the stride allows, row by row.

    Raises:
        OptionError: a tile smaller than the stride.
    """
    if tile_px < stride:
        raise OptionError(f"a tile of {tile_px} px is too small.", remedy=f"Give at least {stride} px.")
    spans = [_spans(size, tile_px // stride * stride, stride) for size in shape]
    return [Tile(rows, columns) for rows in spans[0] for columns in spans[1]]


def _spans(size: int, most: int, stride: int) -> list[tuple[int, int]]:
    count = -(-size // most)
    each = _aligned(-(-size // count), stride)
    return [(at, min(size, at + each)) for at in range(0, size, each)]


def _aligned(length: int, stride: int) -> int:
    return -(-length // stride) * stride


def reflected(start: int, stop: int, size: int) -> NDArray[np.int64]:
    """Indices start..stop of an axis of `size` pixels, mirrored at its ends as often as needed (edges not doubled)."""
    if size == 1:
        return np.zeros(stop - start, dtype=np.int64)
    period = 2 * (size - 1)
    along = np.arange(start, stop) % period
    return np.where(along < size, along, period - along)


def denoise(
    network: Network,
    image: NDArray[Any],
    *,
    scale: Scale | None = None,
    tile_px: int | None = None,
    device: str = "cpu",
    precision: torch.dtype | None = None,
    on_tile: Callable[[int, int], None] = lambda done, count: None,
) -> NDArray[np.float32]:
    """The denoised micrograph (H, W), float32, in the units of `image` (H, W).

    scale: of the whole micrograph; that of a sum for a network trained on halves by default. A network that learned
    from pairs of unequal noise takes the image's own spread instead of it. Pixels that are not finite count as its
    mean. precision: of the activations; the fastest of the device by default. on_tile: told after each tile.

    Raises:
        OptionError: a tile smaller than the network's stride.
        InputError: no pixel is finite, or all are equal.
    """
    scale = scale or sum_scale(image, "halves")
    if network.by_own_spread:
        scale = replace(scale, spread=robust_scale(image, like=scale).spread)
    precision = precision or fastest_precision(device)
    if tile_px is None:
        tile_px = default_tile_px(network, precision)
    plan = tiles((image.shape[0], image.shape[1]), tile_px, network.stride)
    # Autocast would upsample in float32 on a CPU; a copy of the network in the wanted type does not.
    own = copy.deepcopy(network).to(device, precision).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    out = np.empty(image.shape, dtype=np.float32)
    depth = depth_of(image, scale)
    with torch.inference_mode():
        for number, tile in enumerate(plan):
            out[slice(*tile.rows), slice(*tile.columns)] = _one_tile(own, image, scale, tile, depth)
            on_tile(number + 1, len(plan))
    if network.blend is not None:
        _blended(network.blend, out, image, scale)
    return out


def _blended(blend: Blend, out: NDArray[np.float32], image: NDArray[Any], scale: Scale) -> None:
    """In place, on the scale that the network saw; what lies beyond its limits stays as it is."""
    give_back()
    change = blend.change(_on_scale(out, scale), _on_scale(image, scale))
    change *= np.float32(scale.spread)
    out += change


def _on_scale(image: NDArray[Any], scale: Scale) -> NDArray[np.float32]:
    """`scale.normalise(image)`, some rows at a time: only one image is made."""
    made = np.empty(image.shape, dtype=np.float32)
    for at in range(0, image.shape[0], _STRIP_VALUES):
        rows = np.arange(at, min(at + _STRIP_VALUES, len(image)))
        made[rows[0] : rows[-1] + 1] = scale.normalise(image[rows[0] : rows[-1] + 1], rows)
    return made


def _one_tile(
    network: Network, image: NDArray[Any], scale: Scale, tile: Tile, depth: Depth | None
) -> NDArray[np.float32]:
    halo = _aligned(network.halo, network.stride)
    axes = []
    for (low, high), size in zip((tile.rows, tile.columns), image.shape, strict=True):
        axes.append(reflected(low - halo, low + _aligned(high - low, network.stride) + halo, size))
    like = next(network.parameters())
    pixels = scale.levelled(image[np.ix_(*axes)], *axes)
    flat = replace(scale, ground=None)
    deep = None if depth is None else depth.at(*axes)
    if deep is not None:
        deep *= np.float32(scale.spread)
        pixels = pixels - deep
    seen = torch.from_numpy(flat.normalise(pixels)).to(like)[None, None]
    inner = slice(halo, seen.shape[2] - halo), slice(halo, seen.shape[3] - halo)
    height, width = tile.rows[1] - tile.rows[0], tile.columns[1] - tile.columns[0]
    if isinstance(network, UNet):
        result = _unet(network, seen, *inner)
    else:
        result = network(seen.contiguous(memory_format=torch.channels_last))[0, 0, inner[0], inner[1]].float()
    found = scale.restore(result[:height, :width].cpu().numpy(), np.arange(*tile.rows), np.arange(*tile.columns))
    beyond = beyond_clip(pixels, flat)
    if beyond is not None:
        found += beyond[inner][:height, :width]
    if deep is not None:
        found += deep[inner][:height, :width]
    return found


def beyond_clip(pixels: NDArray[Any], scale: Scale) -> NDArray[np.float32] | None:
    """By how much `pixels` exceed what the network is shown (`normalise.CLIP`), as 5 x 5 medians; None: nowhere.

    Crystals and gold keep their depth by it, which is far above their noise; single hot pixels vanish.
    """
    from scipy.ndimage import median_filter

    reach = CLIP * scale.spread
    away = np.abs(pixels - np.float32(scale.mean)) > reach
    if not away.any():
        return None
    box = tuple(slice(max(0, int(at.min()) - _MEDIAN_PX), int(at.max()) + _MEDIAN_PX + 1) for at in np.nonzero(away))
    out = np.zeros(pixels.shape, dtype=np.float32)
    part = np.nan_to_num(pixels[box].astype(np.float32) - np.float32(scale.mean), nan=0.0, posinf=0.0, neginf=0.0)
    out[box] = median_filter(part - np.clip(part, -reach, reach), size=_MEDIAN_PX, mode="nearest")
    return out


def _unet(network: UNet, seen: Tensor, rows: slice, columns: slice) -> Tensor:
    """The network's output (rows, columns) for the input (1, 1, H, W), float32; `network(seen)` cut, in less memory."""
    strip = _strip_rows(network)
    skips = _encoded(network, seen)
    h = skips.pop()
    for block in list(network.up)[:-1]:
        h = _by_strips(block, partial(_joined, h, skips.pop()), 2 * h.shape[2], strip)
    (top,) = skips
    out = torch.empty((rows.stop - rows.start, columns.stop - columns.start), device=seen.device)
    across = slice(columns.start // UNSHUFFLE - _STRIP_HALO, columns.stop // UNSHUFFLE + _STRIP_HALO)
    half = slice(across.start // 2, across.stop // 2)
    cut = UNSHUFFLE * _STRIP_HALO
    for first, last in _strips(rows.start // UNSHUFFLE, rows.stop // UNSHUFFLE, strip):
        joined = _joined(h[..., half], top[..., across], first - _STRIP_HALO, last + _STRIP_HALO)
        part = functional.pixel_shuffle(network.last(network.up[-1](joined)), UNSHUFFLE)[0, 0]
        at = UNSHUFFLE * first - rows.start
        out[at : at + UNSHUFFLE * (last - first)] = part[cut:-cut, cut:-cut].float()
    return out


def _encoded(network: UNet, seen: Tensor) -> list[Tensor]:
    """What each block of the encoder gives, from the top level down."""
    skips: list[Tensor] = []
    for block in network.down:
        take = partial(_pooled, skips[-1]) if skips else partial(_unshuffled, seen)
        size = skips[-1].shape[2] // 2 if skips else seen.shape[2] // UNSHUFFLE
        skips.append(_by_strips(block, take, size, _strip_rows(network)))
    return skips


def _unshuffled(seen: Tensor, low: int, high: int) -> Tensor:
    rows = seen[:, :, UNSHUFFLE * low : UNSHUFFLE * high]
    return functional.pixel_unshuffle(rows, UNSHUFFLE).contiguous(memory_format=torch.channels_last)


def _pooled(above: Tensor, low: int, high: int) -> Tensor:
    return functional.avg_pool2d(above[:, :, 2 * low : 2 * high], 2)


def _joined(below: Tensor, skip: Tensor, low: int, high: int) -> Tensor:
    """Rows low..high (even) of a decoder block's input."""
    wide = functional.interpolate(below[:, :, low // 2 : high // 2], scale_factor=2, mode="nearest")
    return torch.cat([wide, skip[:, :, low:high]], 1)


def _by_strips(block: Module, take: Callable[[int, int], Tensor], size: int, strip: int) -> Tensor:
    """`block` over all `size` rows of its input, of which take(low, high) gives a part: (1, channels, size, W)."""
    out: Tensor | None = None
    for first, last in _strips(0, size, strip):
        low, high = max(0, first - _STRIP_HALO), min(size, last + _STRIP_HALO)
        h = block(take(low, high))
        if out is None:
            shape = (1, h.shape[1], size, h.shape[3])
            out = torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
        out[:, :, first:last] = h[:, :, first - low : last - low]
    assert out is not None
    return out


def _strip_rows(network: UNet) -> int:
    return max(2 * _STRIP_HALO, _STRIP_VALUES // network.widths[0])


def _strips(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, rows):
        yield first, min(stop, first + rows)
