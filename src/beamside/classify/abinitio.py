"""A volume from class averages, when the particles alone do not show it.

The members of a class are matched together, as one very clear particle: their likelihood under a view is the sum of
theirs. Expectation maximisation from random orientations is annealed (K. Rose, Proc. IEEE 86 (1998) 2210-2239): at
a high temperature the volume is smooth and has few minima, and views part as it cools. Classes that are mixtures
disagree with any volume and lose their say. Several starts cost little; the one that explains most goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from beamside.classify.atlas import CANDIDATES, Atlas
from beamside.classify.average import component_columns
from beamside.classify.expectation import Assignment, accumulate
from beamside.classify.leaveout import Traces
from beamside.classify.volume import Volume

STARTS = 4
LEAST_CLASSES = 8
"""With fewer averages a volume is not determined."""
PASSES = 60
_HOT, _COLD = 0.7, 0.03
"""Temperatures, in units of what the averages themselves explain."""


@dataclass(frozen=True)
class Composites:
    """Classes as particles: vectors (K, 2D) and C^2 (K, R), as an encoder makes them of particles."""

    vectors: Tensor
    ctf2: Tensor

    @classmethod
    def of(cls, atlas: Atlas, label: Tensor, alpha: Tensor, rows: Tensor, classes: int) -> Composites:
        """Particles `rows` of the atlas, laid on each other by class `label` (N,) and rotation `alpha` (N,)."""
        model = atlas.model
        known = Assignment.empty(len(label), 1)
        known.label[:, 0], known.alpha[:, 0] = label, alpha
        known.shift[:] = model.frame.shifts.centre
        known.weight[rows, 0] = 1.0
        sums = accumulate(model.frame, classes, model.vectors, model.ctf2, known, model.scene.threads)
        parts = []
        for m, v in enumerate(model.frame.encoder.subspace.vectors):
            along = sums.coefficients[:, m] @ v.conj()
            parts += [along.real, along.imag]
        return cls(torch.cat(parts, 1).contiguous(), sums.ctf2.contiguous())

    def explained(self, atlas: Atlas) -> float:
        """Mean log-likelihood of the classes under averages of their own, y^H C^-1 y / 2 without its noise."""
        subspace = atlas.model.frame.encoder.subspace
        seen = torch.cat([self.ctf2 @ v.abs() ** 2 for v in subspace.vectors], 1)
        real, imaginary = component_columns(subspace.sizes)
        power = self.vectors[:, real] ** 2 + self.vectors[:, imaginary] ** 2
        excess = 0.5 * (power - seen).clamp(min=0) / seen.clamp(min=1e-3)
        return float(excess.sum(1).double().mean())


def found_volume(atlas: Atlas, classes: Composites, seed: int) -> tuple[Volume, float]:
    """A volume from random orientations of the classes, and how well it explains them (mean log-likelihood)."""
    count = len(classes.vectors)
    model = replace(atlas.model, vectors=classes.vectors, ctf2=classes.ctf2)
    # What a class has put into the volume is not taken out of its score: so few of them would have nothing left.
    mine = replace(atlas, model=model, traces=Traces.empty(count), volume=None, sums=None, alone=False)
    known, rows = Assignment.empty(count, CANDIDATES), torch.arange(count)
    known.shift[:] = model.frame.shifts.centre
    mine.guess(known, rows, torch.Generator().manual_seed(seed))
    unit = classes.explained(atlas)
    for done in range(PASSES):
        mine.forget()
        mine.look(rows, known, unit * _HOT * (_COLD / _HOT) ** (done / (PASSES - 1)))
    assert mine.volume is not None
    return mine.volume, float(known.score[:, 0].double().mean())
