"""Particles in groups that are searched among the same classes: their own class alone, or views near their own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from beamside.classify.slices import Latitudes
from beamside.classify.sphere import Array

_REGIONS, _MARGIN_DEG = 48, 30.0
_LEAST_PER_REGION = 32
"""With fewer the operands of a region cost more than its search saves."""


@dataclass(frozen=True)
class Group:
    """Particles that may have the same classes: their rows, and class numbers or None for all."""

    rows: Tensor
    classes: Tensor | None


class Grouping(Protocol):
    """Which classes a particle may have."""

    def groups(self, rows: Tensor, classes: int) -> list[Group]:
        """`rows` by the classes that they may have, of so many."""


@dataclass(frozen=True)
class Held:
    """Classes that particles are held to: label (N,), or -1 for any class from `regular` on."""

    label: Tensor
    regular: int

    def groups(self, rows: Tensor, classes: int) -> list[Group]:
        """One group a class, and one for the rest."""
        label = self.label[rows]
        groups = [Group(rows[label == k], torch.tensor([k])) for k in range(self.regular)]
        groups.append(Group(rows[label < 0], torch.arange(self.regular, classes)))
        return [g for g in groups if len(g.rows)]


@dataclass(frozen=True)
class Near:
    """Views around the one that a particle has: label (N,), and the directions (V, 3) of all views."""

    label: Tensor
    views: Array

    def groups(self, rows: Tensor, classes: int) -> list[Group]:
        """Particles by regions of the sphere, each with the views of its region and a margin around it."""
        if len(rows) < _LEAST_PER_REGION * _REGIONS:
            return [Group(rows, None)]
        regions = Latitudes.even(_REGIONS, np.random.default_rng(_REGIONS)).frames[:, 2]
        # The farthest that a direction is from the nearest of an even grid: half a diagonal of its square cells.
        reach = math.radians(_MARGIN_DEG) + math.sqrt(0.5) * math.sqrt(4 * math.pi / len(regions))
        mine = torch.as_tensor((self.views[self.label[rows].numpy()] @ regions.T).argmax(1))
        groups = []
        for number, region in enumerate(regions):
            there = torch.as_tensor(np.flatnonzero(self.views @ region >= math.cos(reach)))
            groups.append(Group(rows[mine == number], there))
        return [g for g in groups if len(g.rows)]
