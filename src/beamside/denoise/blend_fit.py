"""Which weights a blend should have: least squares against the partners of training micrographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from scipy.fft import dctn

from beamside.denoise.blend import KNOTS_PER_PX, LOWEST_PER_PX, Blend, Image, Weights, grain_of
from beamside.denoise.held_out import grid, spread
from beamside.denoise.micrograph import Micrograph, Pixels
from beamside.denoise.networks import Network

_RINGS = 200
_HIGHEST_PER_PX = 0.71
_RIDGE = 1e-6
MICROGRAPHS = 8
"""At most as many are looked at."""


class Fit:
    """Sums over examples of one kind, from which its weights follow."""

    def __init__(self) -> None:
        self.sums = np.zeros((3, 3, _RINGS))
        self.grains: list[float] = []

    def add(self, output: Image, image: Image, partner: Image) -> None:
        """Count an example: what the network made of an image, the image, and its partner, (H, W) on one scale."""
        self.grains.append(grain_of(image))
        y, x = (np.arange(size) / (2 * size) for size in image.shape)
        octaves = np.log(np.maximum(np.hypot(y[:, None], x), LOWEST_PER_PX) / LOWEST_PER_PX)
        ring = (octaves / np.log(_HIGHEST_PER_PX / LOWEST_PER_PX) * _RINGS).astype(np.int64)
        rings = np.minimum(ring, _RINGS - 1).ravel()
        spectra = [np.asarray(dctn(part.astype(np.float64), norm="ortho")).ravel() for part in (output, image, partner)]
        for i, one in enumerate(spectra):
            for j, other in enumerate(spectra):
                self.sums[i, j] += np.bincount(rings, one * other, _RINGS)

    def weights(self) -> Weights:
        """The least squares. Where no example says anything, the network counts alone."""
        knots = np.log(KNOTS_PER_PX)
        across = np.log(_HIGHEST_PER_PX / LOWEST_PER_PX)
        centres = np.log(LOWEST_PER_PX) + (np.arange(_RINGS) + 0.5) / _RINGS * across
        hats = np.stack([np.interp(centres, knots, row) for row in np.eye(knots.size)])
        left = np.block([[(hats * self.sums[i, j]) @ hats.T for j in (0, 1)] for i in (0, 1)])
        right = np.concatenate([hats @ self.sums[i, 2] for i in (0, 1)])
        power = np.diag(left).reshape(2, -1).mean(1)
        ridge = _RIDGE * np.repeat(np.maximum(power, 1e-30), knots.size)
        alone = np.repeat([1.0, 0.0], knots.size)
        network, image = np.linalg.solve(left + np.diag(ridge), right + ridge * alone).reshape(2, -1)
        return Weights(float(np.median(self.grains)), tuple(map(float, network)), tuple(map(float, image)))


def fitted(examples: Iterable[tuple[bool, Image, Image, Image]]) -> Blend | None:
    """From examples: whether the image is the less noisy one of its pair, and what `Fit.add` takes."""
    fits: dict[bool, Fit] = {}
    for quieter, output, image, partner in examples:
        fits.setdefault(quieter, Fit()).add(output, image, partner)
    found = sorted((fit.weights() for fit in fits.values()), key=lambda weights: weights.grain)
    return Blend(tuple(found)) if found else None


@torch.inference_mode()
def examples_of(
    network: Network, micrographs: Sequence[Micrograph], pixels: Pixels, crops_each: int
) -> Iterator[tuple[bool, Image, Image, Image]]:
    """What `fitted` takes, from crops of unequal pairs in both directions, on the scale that the network sees."""
    device = next(network.parameters()).device
    chosen = [found for found in micrographs if found.unequal]
    for member in chosen[:: -(-len(chosen) // MICROGRAPHS) or 1]:
        images = pixels.read(member.key)
        for box in spread(list(grid(member, network.stride)), crops_each):
            pair = member.crop(images, *box)
            for own, level in enumerate(member.levels):
                shown = pair[own] / np.float32(level)
                output = network(torch.from_numpy(shown)[None, None].to(device))[0, 0].cpu().numpy()
                yield level < 1, output, shown, pair[1 - own] / np.float32(level)
