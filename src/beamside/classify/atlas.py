"""One volume that all particles are views of: found from nothing, and where on the sphere each particle looks from.

Class averages of a few hundred noisy particles are poor references; one volume is made from all particles. Its slices
along an even grid of directions take the place of class averages in the search, and the sums over the particles of each
direction are backprojected: expectation maximisation for orientations (S. Scheres, J. Mol. Biol. 415 (2012) 406-418),
begun with random orientations and stochastic batches that grow (A. Punjani et al., Nat. Methods 14 (2017) 290-296). The
mirrored volume has the same slices, so the hand does not matter here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.classify import model as models
from beamside.classify import sphere
from beamside.classify.average import Averages, Sums
from beamside.classify.expectation import Assignment, Expectation, accumulate, responsibilities
from beamside.classify.groups import Near
from beamside.classify.leaveout import OfVolume, Traces
from beamside.classify.masking import Mask
from beamside.classify.model import Model, Scene
from beamside.classify.population import Population
from beamside.classify.schedule import Stage
from beamside.classify.search import Poses
from beamside.classify.slices import Latitudes, Slices
from beamside.classify.volume import Volume, carried, degrees_of, solve
from beamside.compute.lanes import blocks

CANDIDATES = 16
_STEP = 0.5
"""Of the stochastic passes: the sums remember about two batches."""
_VIEWS = 64
_NEAR_DEG = 35.0
_BLUR = 2.0
"""Temperature of the mean pose: neighbouring directions share a particle that lies between them."""


@dataclass
class Atlas:
    """A volume in the frame of one stage; its model's classes are directions."""

    model: Model
    frames: sphere.Array
    """(V, 3, 3): the image axes and the direction of each view."""
    slices: Slices
    degrees: Tensor
    traces: Traces
    """What every particle has put into the volume."""
    volume: Volume | None = None
    sums: Sums | None = None
    alone: bool = True
    """Whether scores are without what each particle itself has put into the volume."""

    def guess(self, known: Assignment, rows: Tensor, generator: torch.Generator) -> None:
        """A first volume from random orientations of `rows`."""
        known.label[rows, 0] = torch.randint(0, len(self.frames), (len(rows),), generator=generator)
        known.alpha[rows, 0] = torch.rand(len(rows), generator=generator) * 2 * math.pi
        known.weight.zero_()
        known.weight[rows, 0] = 1.0
        model = self.model
        sums = accumulate(model.frame, len(self.frames), model.vectors, model.ctf2, known, model.scene.threads)
        known.weight.zero_()
        self._learn(sums)

    def adopt(self, volume: Volume) -> None:
        """Go on from a volume of another stage."""
        self.take(carried(volume, self.slices, self.model.frame.encoder.ring_weight))

    def look(
        self, rows: Tensor, known: Assignment, temperature: float, *, learn: bool = True, near: bool = False
    ) -> None:
        """Find the orientations of `rows`; with `learn` a step of the volume towards what they show.

        near: only around the views where this atlas has seen them.
        """
        model = self.model
        search = Expectation.of(
            model.frame, model.averages, temperature, known.label.shape[1], model.scene.threads, model.scene.seed,
            self._leave() if self.alone else None, model.scene.device,
        )  # fmt: skip
        among = Near(known.label[:, 0], self.frames[:, 2]) if near else None
        sums = search.run(model.vectors, model.ctf2, rows, known, model.scene.threads, sums=learn, among=among)
        if sums is None:
            return
        keep, take = (0.0, 1.0) if self.sums is None else (1.0 - _STEP, _STEP)
        self.sums = sums if self.sums is None else self.sums.mixed(sums, keep, take)
        self.traces.record(rows, self._toward[known.label[rows]], known.weight[rows], keep, take)
        self._learn(self.sums)

    def look_everywhere(self, rows: Tensor, known: Assignment) -> None:
        """Find the orientations of `rows` in a frame with many shifts, a few views at a time; the volume stays."""
        model, views = self.model, self.model.averages.values
        best, leave = known.label.shape[1], self._leave()
        found = []
        for part in blocks(len(views), _VIEWS):
            search = Expectation.of(
                model.frame, Averages(views[part]), 1.0, best, model.scene.threads, model.scene.seed, leave.only(part),
                model.scene.device,
            )  # fmt: skip
            seen = Assignment.empty(len(known.presence), best)
            search.run(model.vectors, model.ctf2, rows, seen, model.scene.threads, sums=False)
            poses = seen.rows(rows)
            found.append(replace(poses, label=poses.label + part.start))
        known.store(rows, *_best_of(found, best))

    @cached_property
    def _toward(self) -> Tensor:
        """(V, 3) float32: the direction of each view."""
        return torch.as_tensor(self.frames[:, 2]).float()

    def _leave(self) -> OfVolume:
        assert self.volume is not None
        of_order = self.slices.variance(self.volume.variance)
        vectors = self.model.frame.encoder.subspace.vectors
        each = torch.cat([of_order[m] @ v.abs() ** 2 for m, v in enumerate(vectors)])
        return OfVolume.of(each, self.traces, self._toward, math.pi / (int(self.degrees.max()) + 1))

    def forget(self) -> None:
        """Let the next look's sums replace all earlier ones."""
        self.sums = None

    def _learn(self, sums: Sums) -> None:
        weight = self.model.frame.encoder.ring_weight
        self.take(solve(self.slices, sums.coefficients, sums.ctf2, self.degrees, weight, self.volume))

    def take(self, volume: Volume) -> None:
        """Match particles to this volume's slices from now on."""
        self.volume = volume
        self.model.averages = Averages(self.slices.project(volume.harmonics))

    def poses(self, known: Assignment, rows: Tensor) -> NDArray[np.float64]:
        """(n, 3, 3): mean orientation of each of `rows` over its candidates near the best one."""
        label, alpha = known.label[rows].numpy(), known.alpha[rows].double().numpy()
        score = known.score[rows].double().numpy()
        count = label.shape[1]
        each = np.stack([sphere.turned_frames(self.frames[label[:, t]], alpha[:, t]) for t in range(count)], 1)
        trace = np.einsum("ntij,nij->nt", each, each[:, 0])
        near = trace > 1 + 2 * math.cos(math.radians(_NEAR_DEG))
        return sphere.mean_rotation(each, np.exp((score - score[:, :1]) / _BLUR) * near)


def _best_of(found: Sequence[Poses], best: int) -> tuple[Poses, Tensor]:
    """The best of candidates from different views, and their responsibilities."""
    score, order = torch.cat([p.score for p in found], 1).sort(dim=1, descending=True, stable=True)
    label, alpha, shift = (
        torch.cat([getattr(p, name) for p in found], 1).gather(1, order)[:, :best]
        for name in ("label", "alpha", "shift")
    )
    poses = Poses(score[:, :best], label, alpha, shift)
    return poses, responsibilities(poses.score, 1.0)


def enter(
    scene: Scene, stage: Stage, population: Population, masks: Mask, noise: Tensor, reach_px: float, sample: Tensor,
    diameter_px: float, traces: Traces,
) -> Atlas:  # fmt: skip
    """The frame and the views of a stage, without particles or a volume."""
    views = Latitudes.even(stage.views, np.random.default_rng([scene.seed, stage.views]))
    model = models.begin(replace(scene, classes=len(views)), stage, population, masks, noise, reach_px, sample)
    rings, orders = model.frame.encoder.rings, model.frame.orders
    degrees = degrees_of(rings.radii, diameter_px / 2, scene.box_px, orders + 4)
    return Atlas(model, views.frames, Slices.along(views, orders, int(degrees.max())), degrees, traces)


def batch_of(rows: Tensor, sizes: Sequence[int], index: int, seed: int) -> Tensor:
    """The rows of stochastic batch `index`: every particle comes once before any comes again."""
    start, size = sum(sizes[:index]), sizes[index]
    picked = []
    while size > 0:
        sweep, at = divmod(start, len(rows))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + 7919 * (sweep + 1)))
        part = order[at : at + size]
        picked.append(part)
        start, size = start + len(part), size - len(part)
    return rows[torch.as_tensor(np.unique(torch.cat(picked).numpy()))]
