"""What a solver is: one iteration over the active frames at a time, on a workshop that holds object and probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from beamside.ptycho.workshop import Frames, Likelihood, Workshop
from beamside.run.engine import Array

LAST_GAIN = 0.15
"""Gain of the last closing iteration, where a pass has no more than a few minibatches."""
_FEW = 10


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

    def last_gain(self, shop: Workshop, frames: Frames) -> float:
        """Gain of the last closing iteration."""
        return LAST_GAIN

    def state(self) -> Mapping[str, Array]:
        """Arrays to go on from, bit for bit; none for a method without memory."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:  # noqa: B027 - a method without memory has nothing to take
        """Take what `state` gave."""

    def reset(self) -> None:  # noqa: B027 - as above
        """Forget momentum and directions, because object and probe were put back."""


def minibatches(shop: Workshop, frames: Frames, *, most: int = 100, least: int = 32) -> int:
    """How many minibatches an iteration has: of n/10 frames, `least` to `most`.

    An update costs time with the canvas; on a large one batches grow so that it stays a tenth of the frames' own. What
    counts is the area that the frames reach, not the canvas: that grows in strides, by an order of arrival.
    """
    n = len(frames)
    height, width = (int(v) for v in np.ptp(shop.corners[frames], axis=0) + shop.size)
    wanted = max(min(max(n // 10, least), most), int(height * width / 3000 * (128 / shop.size) ** 2))
    return max(1, round(n / wanted))


def batches(task: Pass, shop: Workshop) -> list[Frames]:
    """The shuffled frames in minibatches."""
    parts = minibatches(shop, task.frames)
    order = task.shuffled()
    return [order[k::parts] for k in range(parts)]


def cooled(parts: int) -> float:
    """Gain of the last closing iteration for iterations of `parts` minibatches.

    The noise that minibatches leave is that of as many of the last ones as the gain goes into 1. It is to be that of as
    large a share of the scan, however large the scan.
    """
    return LAST_GAIN * min(1.0, _FEW / parts)
