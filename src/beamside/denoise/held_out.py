"""What training never sees: crops of the micrographs held out, and what doing nothing or blurring scores on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.denoise.blur import gaussian_blur
from beamside.denoise.micrograph import Micrograph

CROP_PX = 256
LEAST_PX = 64
CROPS_EACH, CROPS_ALL = 6, 24
SIGMAS_PX = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0)

Image = NDArray[np.float32]
Mask = Callable[[Image, int], tuple[Image, Image]]
"""(image, number) -> (image without the pixels to be predicted, 1 where one is to be predicted)."""


@dataclass(frozen=True)
class Example:
    """An input and what it is compared with, (h, w) each; weight is 1 where a pixel counts, None: everywhere."""

    input: Image
    target: Image
    weight: Image | None = None


@dataclass(frozen=True)
class Controls:
    """Mean squared errors that a model has to beat: of the input as it is, and of the best Gaussian blur of it.

    The blur may also choose its gain and offset (least squares), so that a mere change of scale beats nobody.
    """

    nothing: float
    blur: float
    blur_sigma_px: float


@dataclass
class HeldOut:
    """The examples, growing up to a limit. version counts the changes: scores of two versions do not compare."""

    examples: list[Example] = field(default_factory=list)
    version: int = 0
    _controls: Controls | None = None

    def add(self, micrograph: Micrograph, pixels: NDArray[np.float32], stride: int, mask: Mask | None) -> None:
        """Examples of a micrograph (2, H, W): halves in both directions; with `mask`, single images."""
        room = CROPS_ALL - len(self.examples) // (1 if mask else 2)
        boxes = spread(list(grid(micrograph, stride)), min(CROPS_EACH, room))
        for y, x, height, width in boxes:
            first, second = micrograph.crop(pixels, y, x, height, width)
            if mask is None:
                self.examples += [Example(first, second), Example(second, first)]
            else:
                hidden, weight = mask(first, len(self.examples))
                self.examples.append(Example(hidden, first, weight))
        if boxes:
            self.version += 1
            self._controls = None

    @property
    def controls(self) -> Controls:
        """Measured once for each version."""
        if self._controls is None:
            self._controls = measure_controls(self.examples)
        return self._controls


def grid(micrograph: Micrograph, stride: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (y, x, height, width) that tile the micrograph; the last of a row or column may be smaller."""
    (top, bottom), (left, right) = micrograph.rows, micrograph.columns
    side, least = (micrograph.tile_px, micrograph.tile_px) if micrograph.tile_px else (CROP_PX, LEAST_PX)
    for y in range(-(-top // side) * side if micrograph.tile_px else top, bottom, side):
        for x in range(left, right, side):
            height, width = (min(side, end - at) // stride * stride for at, end in ((y, bottom), (x, right)))
            if height >= least and width >= least:
                yield y, x, height, width


def spread(boxes: list[tuple[int, int, int, int]], count: int) -> list[tuple[int, int, int, int]]:
    """At most `count` of them, evenly over the list."""
    if count <= 0 or not boxes:
        return []
    chosen = np.unique(np.linspace(0, len(boxes) - 1, min(count, len(boxes))).round().astype(int))
    return [boxes[i] for i in chosen]


def measure_controls(examples: Sequence[Example]) -> Controls:
    """Doing nothing, and the best blur."""
    nothing = _error(examples, [torch.from_numpy(e.input) for e in examples])
    found = []
    for sigma in SIGMAS_PX:
        blurred = [gaussian_blur(torch.from_numpy(e.input), sigma) for e in examples]
        gain, offset = _affine(examples, blurred)
        found.append((_error(examples, [gain * b + offset for b in blurred]), sigma))
    best, sigma = min(found)
    return Controls(nothing, best, sigma)


def _weighted(examples: Sequence[Example], images: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(image, target, weight) in float64."""
    for example, image in zip(examples, images, strict=True):
        target = torch.from_numpy(example.target).double()
        weight = torch.ones_like(target) if example.weight is None else torch.from_numpy(example.weight).double()
        yield image.double(), target, weight


def _error(examples: Sequence[Example], images: Sequence[Tensor]) -> float:
    squared = pixels = 0.0
    for image, target, weight in _weighted(examples, images):
        squared += float(((image - target).square() * weight).sum())
        pixels += float(weight.sum())
    return squared / max(pixels, 1.0)


def _affine(examples: Sequence[Example], images: Sequence[Tensor]) -> tuple[float, float]:
    """Gain and offset that bring the images nearest to the targets."""
    n = sx = sy = sxx = sxy = 0.0
    for x, y, w in _weighted(examples, images):
        n += float(w.sum())
        sx, sy = sx + float((w * x).sum()), sy + float((w * y).sum())
        sxx, sxy = sxx + float((w * x * x).sum()), sxy + float((w * x * y).sum())
    spread_x = sxx - sx * sx / max(n, 1.0)
    gain = (sxy - sx * sy / max(n, 1.0)) / spread_x if spread_x > 0 else 0.0
    return gain, (sy - gain * sx) / max(n, 1.0)
