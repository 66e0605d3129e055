"""What training never sees: crops of the micrographs held out, and what doing nothing or blurring scores on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.denoise.blur import gaussian_blur
from beamside.denoise.micrograph import Micrograph

CROP_PX = 256
LEAST_PX = 64
CROPS_EACH, CROPS_LEAST, CROPS_ALL = 6, 4, 24
_MEMORY_SHARE = 0.06
SIGMAS_PX = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0)

Image = NDArray[np.float32]
Mask = Callable[[Image, int], tuple[Image, Image]]
"""(image, number) -> (image without the pixels to be predicted, 1 where one is to be predicted)."""


@dataclass(frozen=True)
class Example:
    """An input and what it is compared with, (h, w) each; weight is 1 where a pixel counts, None: everywhere.

    level: the input's spread, in the target's where a pair is of unequal noise; see `networks.at_level`. key: of the
    micrograph.
    """

    input: Image
    target: Image
    weight: Image | None = None
    level: float = 1.0
    key: str = ""


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
    """The examples, growing up to `most` crops. version counts the changes: scores of two versions do not compare."""

    most: int = CROPS_ALL
    examples: list[Example] = field(default_factory=list)
    version: int = 0
    _controls: Controls | None = None
    _blur_each: list[float] = field(default_factory=list)

    def add(self, micrograph: Micrograph, pixels: NDArray[np.float32], stride: int, mask: Mask | None) -> None:
        """Examples of a micrograph (2, H, W): halves in both directions; with `mask`, single images."""
        room = self.most - len(self.examples) // (1 if mask else 2)
        boxes = spread(list(grid(micrograph, stride)), min(CROPS_EACH, room))
        for y, x, height, width in boxes:
            first, second = micrograph.crop(pixels, y, x, height, width)
            if mask is None:
                levels, key = micrograph.levels, micrograph.key
                made = against(first, second, *levels), against(second, first, *levels[::-1])
                self.examples += [replace(example, key=key) for example in made]
            else:
                hidden, weight = mask(first, len(self.examples))
                self.examples.append(Example(hidden, first, weight, key=micrograph.key))
        if boxes:
            self.version += 1
            self._controls = None

    @property
    def controls(self) -> Controls:
        """Measured once for each version."""
        if self._controls is None:
            self._controls, self._blur_each = measured_controls(self.examples)
        return self._controls

    @property
    def blur_each(self) -> list[float]:
        """The loss of the best blur, example by example."""
        return self._blur_each if self.controls else []


def against(image: Image, partner: Image, level: float, partner_level: float) -> Example:
    """Both directions count alike, whatever their noise: everything is in units of the partner's spread."""
    if partner_level == 1:
        return Example(image, partner, None, level)
    unit = np.float32(partner_level)
    return Example(image / unit, partner / unit, None, level / partner_level)


def crops_within(memory_bytes: int, *, single: bool) -> tuple[int, int]:
    """How many crops may be held out of a budget, and the bytes they take of it."""
    one = (3 if single else 2) * 4 * CROP_PX**2
    share = round(memory_bytes * _MEMORY_SHARE)
    count = min(CROPS_ALL, max(CROPS_LEAST, share // one))
    return count, max(share, count * one)


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
    return measured_controls(examples)[0]


def measured_controls(examples: Sequence[Example]) -> tuple[Controls, list[float]]:
    """Doing nothing, and the best blur; and that blur's loss on each of the examples."""
    nothing = _Line(1.0, 0.0)
    for example in examples:
        nothing.add(example, torch.from_numpy(example.input))
    found = []
    for sigma in SIGMAS_PX:
        fitted = _Line()
        for example in examples:
            fitted.add(example, gaussian_blur(torch.from_numpy(example.input), sigma))
        found.append((fitted.error, sigma, fitted))
    best, sigma, line = min(found, key=lambda each: each[:2])
    return Controls(nothing.error, best, sigma), line.errors_each()


@dataclass
class _Line:
    """The mean squared error of gain x image + offset, least squares where they are not given; an image at a time.

    sums: of weight, image, target, image^2, image target, target^2. each: the same, an image at a time.
    """

    gain: float | None = None
    offset: float | None = None
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))
    each: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, example: Example, image: Tensor) -> None:
        """Count an image (h, w) that stands for the example's input."""
        x, y = image.double(), torch.from_numpy(example.target).double()
        w = torch.ones_like(y) if example.weight is None else torch.from_numpy(example.weight).double()
        self.each.append(
            np.array([float((w * term).sum()) for term in (torch.ones_like(y), x, y, x * x, x * y, y * y)])
        )
        self.sums += self.each[-1]

    def line(self) -> tuple[float, float]:
        """Gain and offset, those that were found where none were given."""
        x, y, xx, xy, _ = _means(self.sums)
        spread = xx - x * x
        gain = self.gain if self.gain is not None else (xy - x * y) / spread if spread > 0 else 0.0
        return gain, self.offset if self.offset is not None else y - gain * x

    @property
    def error(self) -> float:
        """Over all that was counted."""
        return _error(self.sums, *self.line())

    def errors_each(self) -> list[float]:
        """Of each image, by the line of all."""
        return [_error(sums, *self.line()) for sums in self.each]


def _means(sums: NDArray[np.float64]) -> list[float]:
    n = max(float(sums[0]), 1.0)
    return [float(value) / n for value in sums[1:]]


def _error(sums: NDArray[np.float64], gain: float, offset: float) -> float:
    x, y, xx, xy, yy = _means(sums)
    return yy - 2 * gain * xy + gain * gain * xx + 2 * offset * (gain * x - y) + offset * offset
