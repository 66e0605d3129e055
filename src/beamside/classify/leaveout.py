"""What a particle itself has put into the references that it is matched to, so that it can be taken out of its score.

A particle would else hold on to the pose where its own noise lies. To first order its contribution to the score of a
reference is y^H V y, with its vector y and the posterior variance V of the reference (leave one out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

_TRACES = 4
_STEPS = 2048


class LeaveOut(Protocol):
    """Own contributions to the scores of a block."""

    def own(self, power: Tensor, rows: Tensor) -> Tensor:
        """(b, K), to be taken from the scores of `rows` (b,); power: (b, D) of the particles' components."""

    def to(self, device: torch.device) -> LeaveOut:
        """The same on a device."""


@dataclass(frozen=True)
class OfClasses:
    """Class averages: a particle is in those that it was assigned to.

    variance: (K, D) posterior variance of the averages; label, share: (N, T) classes and the weights in their sums.
    """

    variance: Tensor
    label: Tensor
    share: Tensor

    def own(self, power: Tensor, rows: Tensor) -> Tensor:
        """(b, K)."""
        whole = power @ self.variance.T
        return torch.zeros_like(whole).scatter_add_(1, self.label[rows], self.share[rows]) * whole

    def to(self, device: torch.device) -> OfClasses:
        """The same on a device."""
        return OfClasses(self.variance.to(device), self.label.to(device), self.share.to(device))


@dataclass
class Traces:
    """From where on the sphere each particle was put into a volume, and with what weight it still stands in it.

    toward: (N, 4, 3) directions; share: (N, 4).
    """

    toward: Tensor
    share: Tensor

    @classmethod
    def empty(cls, count: int) -> Traces:
        """Nobody is in the volume."""
        return cls(torch.zeros(count, _TRACES, 3), torch.zeros(count, _TRACES))

    def extended(self, count: int) -> Traces:
        """The same for `count` particles."""
        more = Traces.empty(count - len(self.share))
        return Traces(torch.cat([self.toward, more.toward]), torch.cat([self.share, more.share]))

    def record(self, rows: Tensor, toward: Tensor, weight: Tensor, keep: float, take: float) -> None:
        """`rows` are put in from directions (n, T, 3), weights (n, T) times `take`; of what was there `keep` stays."""
        self.share *= keep
        best, place = weight.topk(min(_TRACES, weight.shape[1]), 1)
        self.share[rows] = 0.0
        self.share[rows, : best.shape[1]] = take * best
        self.toward[rows, : best.shape[1]] = torch.gather(toward, 1, place[..., None].expand(-1, -1, 3)).float()


def overlap(cosine: Tensor, width: float) -> Tensor:
    """Share of a great circle within width / 2 (radians) of another one: what two slices at an angle have in common."""
    sine = torch.sqrt((1 - cosine**2).clamp(min=1e-12))
    return 2 / math.pi * torch.asin((math.sin(0.5 * width) / sine).clamp(max=1.0))


@dataclass(frozen=True)
class OfVolume:
    """Slices of a volume: a particle is in all that cross the one where it was put, as far as they overlap.

    variance: (D,) mean posterior variance of a slice's components; views: (V, 3); table: `overlap` over |cosine|.
    """

    variance: Tensor
    traces: Traces
    views: Tensor
    table: Tensor

    @classmethod
    def of(cls, variance: Tensor, traces: Traces, views: Tensor, width: float) -> OfVolume:
        """width: the finest angle that the volume resolves, radians."""
        return cls(variance, traces, views, overlap(torch.linspace(0, 1, _STEPS), width))

    def only(self, part: slice) -> OfVolume:
        """For some of the views."""
        return replace(self, views=self.views[part])

    def to(self, device: torch.device) -> OfVolume:
        """The same on a device."""
        traces = Traces(self.traces.toward.to(device), self.traces.share.to(device))
        return OfVolume(self.variance.to(device), traces, self.views.to(device), self.table.to(device))

    def own(self, power: Tensor, rows: Tensor) -> Tensor:
        """(b, V)."""
        cosine = (self.traces.toward[rows] @ self.views.T).abs()
        common = self.table[(cosine * (_STEPS - 1)).long().clamp(max=_STEPS - 1)]
        return torch.einsum("bt,btv->bv", self.traces.share[rows], common) * (power @ self.variance)[:, None]
