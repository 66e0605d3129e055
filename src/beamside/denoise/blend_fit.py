"""Which weights a blend should have: least squares against the partners of training micrographs.

The weights are drawn towards the mean of the two things that a few micrographs tell well, the network at its best gain
and the best linear filter of the image, as strongly as predicts best the micrographs that were left out of the fit, one
after the other. Drawn towards the network alone, what it adds of its own to the finest detail of a frame would stay.

Where an image itself says next to nothing, the network does not count at all: what it gives there it has inferred from
coarser frequencies as they were in the training micrographs, and others have another defocus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from beamside.denoise.blend import KNOTS_PER_PX, LOWEST_PER_PX, Blend, Image, Weights, grain_of
from beamside.denoise.held_out import LEAST_PX, Example, grid, spread
from beamside.denoise.micrograph import Micrograph, Pixels
from beamside.denoise.networks import Network, shown

_RINGS = 200
_HIGHEST_PER_PX = 0.71
_RIDGES = (1e-4, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_RIDGE_OF_FEW, _LEAST_MICROGRAPHS = 0.1, 3
"""Where there are too few micrographs to choose by."""
_RIDGE_OF_ONE = 0.01
"""For the gain of the network, and for the filter, each alone."""
_LEAST_CORRELATION = 0.25
"""Of an image with the truth, at a frequency, for the network to count there."""
PIECE_PX = 512
"""About the side of what is looked at at once. From crops half as wide the strong coarse contrast, cut at their
borders, leaks into the fine frequencies, and there the weights are those of the leak."""
MICROGRAPHS = 8
"""At most as many are looked at."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What the network made of an image, the image, and its partner, (H, W) on the scale that the network saw.

    quieter: whether it is the less noisy image of its pair.
    """

    key: str
    quieter: bool
    output: Image
    image: Image
    partner: Image


class Fit:
    """Sums over looks of one kind by micrograph, from which its weights follow."""

    def __init__(self) -> None:
        self.sums: dict[str, Matrix] = {}
        self.grains: list[float] = []

    def add(self, look: Look) -> None:
        """Count one."""
        self.grains.append(grain_of(look.image))
        y, x = (np.arange(size) / (2 * size) for size in look.image.shape)
        octaves = np.log(np.maximum(np.hypot(y[:, None], x), LOWEST_PER_PX) / LOWEST_PER_PX)
        ring = (octaves / np.log(_HIGHEST_PER_PX / LOWEST_PER_PX) * _RINGS).astype(np.int64)
        rings = np.minimum(ring, _RINGS - 1).ravel()
        parts = (look.output, look.image, look.partner)
        spectra = [np.asarray(dctn(part.astype(np.float64), norm="ortho")).ravel() for part in parts]
        sums = self.sums.setdefault(look.key, np.zeros((3, 3, _RINGS)))
        for i, one in enumerate(spectra):
            for j, other in enumerate(spectra):
                sums[i, j] += np.bincount(rings, one * other, _RINGS)

    def weights(self) -> Weights:
        """The best that are known."""
        equations = [_equations(sums) for sums in self.sums.values()]
        silent = _says_nothing(np.sum(list(self.sums.values()), axis=0))
        ridge = _RIDGE_OF_FEW
        if len(equations) >= _LEAST_MICROGRAPHS:
            ridge = max(_RIDGES, key=lambda each: _explained_unseen(equations, silent, each))
        network, image = _solved(equations, silent, ridge).reshape(2, -1)
        return Weights(float(np.median(self.grains)), tuple(map(float, network)), tuple(map(float, image)))


Flags = NDArray[np.bool_]
Vector = NDArray[np.float64]
Equations = tuple[Matrix, Vector]


def _hats() -> Matrix:
    """(knots, rings): what a weight at each knot counts in each ring."""
    knots, across = np.log(KNOTS_PER_PX), np.log(_HIGHEST_PER_PX / LOWEST_PER_PX)
    centres = np.log(LOWEST_PER_PX) + (np.arange(_RINGS) + 0.5) / _RINGS * across
    return np.stack([np.interp(centres, knots, row) for row in np.eye(knots.size)])


def _equations(sums: Matrix) -> Equations:
    """Left and right side of the normal equations: weights of the network at all knots, then of the image."""
    hats = _hats()
    left = np.block([[(hats * sums[i, j]) @ hats.T for j in (0, 1)] for i in (0, 1)])
    return left, np.concatenate([hats @ sums[i, 2] for i in (0, 1)])


def _says_nothing(sums: Matrix) -> Flags:
    """At which knots the image correlates too little with the truth.

    Its correlation with the partner is the product of both's with the truth, and the partner has `times` the image's
    ratio of signal to noise, for nearly all of the power of either is noise.
    """
    hats = _hats()
    both, own, partner = (hats @ sums[i, j] for i, j in ((1, 2), (1, 1), (2, 2)))
    times = max(float(sums[1, 1].sum()), 1e-30) / max(float(sums[2, 2].sum()), 1e-30)
    square = np.minimum(np.maximum(both, 0) ** 2 / np.maximum(own * partner, 1e-30), 0.999)
    half = square * (1 + times) / 2
    ratio = (half + np.sqrt(half**2 + times * (1 - square) * square)) / (times * (1 - square))
    return np.asarray(ratio < _LEAST_CORRELATION**2 * (1 + ratio))


def _solved(equations: Sequence[Equations], silent: Flags, ridge: float) -> Vector:
    """Least squares, drawn towards the mean of the network at its best gain and the best linear filter by `ridge` times
    what each weight is held by; where the image is silent that filter, and where nothing is known the network alone."""
    left, right = (np.sum([part[side] for part in equations], axis=0) for side in (0, 1))
    count = silent.size
    if not left.any():
        return np.repeat([1.0, 0.0], count)
    gain, linear = np.zeros(2 * count), np.zeros(2 * count)
    for alone, part, without in ((gain, slice(0, count), 1.0), (linear, slice(count, None), 0.0)):
        own = left[part, part]
        pull = _pull(own, _RIDGE_OF_ONE)
        alone[part] = np.linalg.solve(own + np.diag(pull), right[part] + pull * without)
    pull = _pull(left, ridge)
    found = np.linalg.solve(left + np.diag(pull), right + pull * (gain + linear) / 2)
    return np.where(np.tile(silent, 2), linear, found)


def _pull(left: Matrix, ridge: float) -> Vector:
    held = np.diag(left)
    return np.asarray(ridge * held + 1e-9 * max(float(held.max()), 1e-30))


def _explained_unseen(equations: Sequence[Equations], silent: Flags, ridge: float) -> float:
    """By how much the squared error of micrographs falls, each with weights from all others."""
    total = 0.0
    for number, (left, right) in enumerate(equations):
        found = _solved([*equations[:number], *equations[number + 1 :]], silent, ridge)
        total += float(2 * found @ right - found @ left @ found)
    return total


def fitted(looks: Iterable[Look]) -> dict[bool, Weights]:
    """For the quieter image of a pair (True) and for the other, where there are looks."""
    fits: dict[bool, Fit] = {}
    for look in looks:
        fits.setdefault(look.quieter, Fit()).add(look)
    return {quieter: fit.weights() for quieter, fit in fits.items()}


def joined(kinds: Iterable[Weights]) -> Blend:
    """In the order of their grain."""
    return Blend(tuple(sorted(kinds, key=lambda weights: weights.grain)))


def without_image(like: Weights) -> Weights:
    """The network and nothing else, for images of the same grain; where they are silent it still does not count."""
    silent = [share == 0 for share in like.network]
    network = tuple(0.0 if quiet else 1.0 for quiet in silent)
    return Weights(like.grain, network, tuple(w if quiet else 0.0 for w, quiet in zip(like.image, silent, strict=True)))


def pieces(member: Micrograph, stride: int) -> list[tuple[int, int, int, int]]:
    """Boxes (y, x, height, width) of one size that cover it but for less than a stride each; patches are not joined."""
    if member.tile_px:
        return list(grid(member, stride))
    spans = []
    for low, high in (member.rows, member.columns):
        count = max(1, round((high - low) / PIECE_PX))
        side = (high - low) // count // stride * stride
        spans.append([(low + number * side, side) for number in range(count)])
    return [(y, x, height, width) for y, height in spans[0] for x, width in spans[1] if min(height, width) >= LEAST_PX]


def helps(network: Network, weights: Weights, examples: Sequence[Example]) -> bool:
    """Whether the network's squared error over held-out pairs is lower with them than without."""
    blend, errors = joined([weights]), np.zeros(2)
    for example in examples:
        level = np.float32(example.level)
        image = example.input / level
        output = shown(network, image)
        for number in (0, 1):
            errors[number] += float(np.square(output * level - example.target, dtype=np.float64).sum())
            blend.add_to(output, image)
    return bool(errors[1] < errors[0])


def looks_at(network: Network, micrographs: Sequence[Micrograph], pixels: Pixels, pieces_each: int) -> Iterator[Look]:
    """Pieces of unequal pairs, in both directions."""
    chosen = [found for found in micrographs if found.unequal]
    for member in chosen[:: max(1, -(-len(chosen) // MICROGRAPHS))]:
        images = pixels.read(member.key)
        for box in spread(pieces(member, network.stride), pieces_each):
            pair = member.crop(images, *box)
            for own, level in enumerate(member.levels):
                image = pair[own] / np.float32(level)
                yield Look(member.key, level < 1, shown(network, image), image, pair[1 - own] / np.float32(level))
