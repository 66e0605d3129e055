"""What a solver is: one iteration over the active frames at a time, on a workshop that holds object and probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np

from beamside.ptycho.workshop import Frames, Likelihood, Workshop
from beamside.run.engine import Array

_FEW = 10
"""Minibatches of an iteration of a scan that is not large."""
_LEAST = 32
"""Frames of a minibatch."""


@dataclass(frozen=True)
class Pass:
    """One iteration to do.

    frames: the active ones. number: counts from 0, and seeds the order of the frames. gain: 1 while frames arrive,
    falling in the closing iterations and after a rollback. smooth: the smoothness prior relative to the best-lit pixel.
    displacement: whether the normal equations of positions are wanted.
    """

    frames: Frames
    number: int
    seed: int
    noise: Likelihood
    gain: float = 1.0
    caution: float = 1.0
    probe: bool = True
    displacement: bool = False
    smooth: float = 0.0

    def shuffled(self) -> Frames:
        """The frames in this iteration's random order."""
        return self.frames[np.random.default_rng([self.seed, self.number]).permutation(len(self.frames))]


class Solver(ABC):
    """A method of phase retrieval. What it remembers between iterations is in `state`."""

    rise = 1.5
    """Misfit a frame, relative to the last good iteration's, beyond which an iteration is taken back."""

    @abstractmethod
    def iterate(self, shop: Workshop, task: Pass) -> float:
        """One iteration; the misfit summed over the frames, as it was when each of them was visited."""

    def calm(self, shop: Workshop, frames: Frames) -> float:
        """Gain at which an iteration over the frames is no noisier than one over a small scan is at 1."""
        return 1.0

    def state(self) -> Mapping[str, Array]:
        """Arrays to go on from, bit for bit; none for a method without memory."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:  # noqa: B027 - a method without memory has nothing to take
        """Take what `state` gave."""

    def reset(self) -> None:  # noqa: B027 - as above
        """Forget momentum and directions, because object and probe were put back."""


def minibatches(shop: Workshop, frames: Frames) -> int:
    """How many minibatches an iteration over so many frames has, of at least 32 frames: ten up to 1,000 frames.

    Beyond, as many more as the scan is broader: with ten, what is as long as a large scan would be found late; with
    batches as few frames as a small scan's, little of a pass would overlap, and what they leave would be noise.

    An update costs time with the canvas; on a large one batches grow so that it stays a tenth of the frames' own. What
    counts is the area that the frames reach, not the canvas: that grows in strides, by an order of arrival.
    """
    n = len(frames)
    if not n:
        return 1
    height, width = (int(v) for v in np.ptp(shop.corners[frames], axis=0) + shop.size)
    wanted = max(min(n // _FEW, isqrt(_FEW * n)), _LEAST, int(height * width / 3000 * (128 / shop.size) ** 2))
    return max(1, round(n / wanted))


def batches(task: Pass, shop: Workshop) -> list[Frames]:
    """The shuffled frames in minibatches."""
    parts = minibatches(shop, task.frames)
    order = task.shuffled()
    return [order[k::parts] for k in range(parts)]


def calm_gain(parts: int) -> float:
    """Gain at which `parts` minibatches are no noisier than a few are at 1.

    The noise that minibatches leave is that of about as many of the last ones as the gain goes into 1. This makes it
    that of as large a share of the scan, however large the scan.
    """
    return min(1.0, _FEW / parts)
