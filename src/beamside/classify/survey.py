"""The search for one volume behind all particles, and the classes that its directions make.

The volume is a start, not a result: it is taken when it explains the particles better than the same number of free
classes made from it does, by more than its many views and parameters gain from noise. Else classes start without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beamside.classify import abinitio, cells, sphere
from beamside.classify import atlas as atlases
from beamside.classify import model as models
from beamside.classify.atlas import Atlas
from beamside.classify.average import Sums
from beamside.classify.expectation import Assignment
from beamside.classify.finish import null_scores
from beamside.classify.leaveout import Traces
from beamside.classify.masking import Mask
from beamside.classify.model import Model, Scene
from beamside.classify.population import Population
from beamside.classify.schedule import Band, Stage
from beamside.classify.volume import Volume

LEAST_PARTICLES = 500
"""Fewer cannot show a volume; their classes start without one."""
_FREE_PASSES = 2
_JUDGED = 2000
"""Particles whose last search of free classes is enough to know their mean gain to some tenths."""
_LEFT = 0.3
"""Share of what a parameter gains from noise that is left in scores without the particle's own part."""
_LEAST_STRANGE = 0.05
"""Share of particles like noise from which on they get classes of their own."""
_MUCH_NOISE = 0.15
"""Share of particles like noise from which on a volume is begun anew without them. Measured: .03, and .4 where a fifth
are noise."""
_HOPELESS = 0.5
_RISE, _MOST_LOOKS = 0.02, 12
STRANGE = 1.5
"""Spreads above the mean score of noise up to which a particle counts as strange, if strange ones have classes."""

_ARRAYS = ("rows", "looked", "training", "encoded_px", "held", "sureness", "noisy")
_VALUES = ("note", "gains", "null", "refused", "start_score", "attempt", "rival_score")
_VOLUME = ("harmonics", "variance", "prior", "ring_weight")
_KNOWN = ("score", "label", "alpha", "shift", "weight", "presence")


class Survey:
    """The present atlas, what it found of every particle, and the cells that were made of it."""

    def __init__(self, scene: Scene, population: Population) -> None:
        self.scene, self.population = scene, population
        self.atlas: Atlas | None = None
        self.sightings = Assignment.empty(0, atlases.CANDIDATES)
        self.traces = Traces.empty(0)
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.looked = self.rows
        """Those of `rows` that the present stage looks for."""
        self.training, self.encoded_px = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)
        self.volume: Volume | None = None
        self.cells: sphere.Array | None = None
        self.held = torch.zeros(0, dtype=torch.int64)
        """(N,): the class that each particle's direction gives; -1 for particles that look like noise."""
        self.sureness = torch.zeros(0)
        """(N,): posterior probability of the class that a particle is held to."""
        self.noisy = torch.zeros(0, dtype=torch.bool)
        """(N,): particles like noise, of which another volume is not begun; empty where none are left out."""
        self.null = (0.0, 1.0)
        """Mean and spread of the best score of pure noise against the volume."""
        self.note = ""
        self.gains: list[float] = []
        """Mean log-likelihood of each look at all particles in the present stage."""
        self.refused = 0
        """How many volumes explained the particles no better than free classes."""
        self.start_score = 0.0
        """Of the present volume, if it was found from class averages: their mean log-likelihood."""
        self.attempt = 0
        """How many volumes from nothing were begun before the present one."""
        self.rival: Volume | None = None
        self.rival_score = 0.0
        """An earlier attempt's volume, and the mean log-likelihood of all particles with it."""

    @property
    def regular(self) -> int:
        """How many classes are cells of directions; the others are for what is not a view of the volume."""
        return self.scene.classes if self.cells is None else len(self.cells)

    def enter(self, stage: Stage, band: Band, masks: Mask, noise: Tensor, rows: Tensor, training: Tensor) -> None:
        """Go over to the frame of a stage, with the volume so far, and encode `rows` in it."""
        everywhere = stage.reach_px >= band.reach_px
        if not everywhere or stage.doubtful:
            self._settle()
        if not stage.largest:
            self.noisy = self.noisy[:0]
        self.rows = self.looked = rows
        self.training = training
        if stage.doubtful:
            worst = self.sightings.score[rows, 0].argsort(stable=True)[: round(stage.doubtful * len(rows))]
            self.looked = rows[worst].sort().values
        if everywhere:
            # From where they were picked: the centre that a half right volume gave a particle is worse than none.
            self.population.centres_px[self.looked] = 0.0
        self.encoded_px = self.population.centres_px.clone()
        before = self.volume if self.atlas is None else self.atlas.volume
        self._build(stage, band, masks, noise)
        assert self.atlas is not None
        if before is not None:
            self.atlas.adopt(before)

    def _build(self, stage: Stage, band: Band, masks: Mask, noise: Tensor) -> None:
        self.traces = self.traces.extended(len(self.population))
        self.atlas = atlases.enter(
            self.scene,
            stage,
            self.population,
            masks,
            noise,
            band.reach_px,
            self.training,
            band.diameter_px,
            self.traces,
        )
        self.atlas.model.encode(self.population, self.looked)
        self.gains = []
        self.sightings = self.sightings.extended(len(self.population))
        self.sightings.shift[:] = self.atlas.model.frame.shifts.centre

    def look(self, done: int, *, learn: bool) -> int:
        """One batch of the present stage, or all rows; how many particles it saw."""
        atlas = self.atlas
        assert atlas is not None
        stage, rows = atlas.model.stage, self.looked
        if stage.largest and len(self.noisy):
            rows = rows[~self.noisy[rows]]
        if atlas.volume is None:
            atlas.guess(self.sightings, rows, torch.Generator().manual_seed(self._seed))
        if stage.largest:
            rows = atlases.batch_of(rows, stage.sizes(len(rows)), done, self._seed)
        else:
            atlas.forget()
        # Once all particles were looked for everywhere in this frame, they are looked for around where they were found.
        near = not stage.largest and done > 0
        if stage.doubtful:
            atlas.look_everywhere(rows, self.sightings)
        else:
            atlas.look(rows, self.sightings, stage.temperature(done), learn=learn, near=near)
        if not stage.largest:
            self.gains = [*self.gains, float(self.sightings.score[rows, 0].double().mean())]
        if stage.largest and done + 1 == stage.passes:
            # The next stage needs the centre of every particle, not of the last batch alone.
            atlas.look(self.rows, self.sightings, 1.0, learn=False)
        return len(rows)

    @property
    def _seed(self) -> int:
        return self.scene.seed + 104729 * self.attempt

    def sift(self) -> bool:
        """Whether so many particles look like noise that the volume may be half right; they are then left out."""
        assert self.atlas is not None
        mean, spread = null_scores(self.atlas.model, self.population)
        score = self.sightings.score[self.rows, 0]
        noisy = score < mean + STRANGE * spread
        # Half of what is noise lies below the mean of noise. Faint particles lie between it and the others.
        if 2 * float((score < mean).double().mean()) <= max(_MUCH_NOISE, float(noisy.double().mean())):
            return False
        if not noisy.all():
            self.noisy = torch.zeros(len(self.population), dtype=torch.bool)
            self.noisy[self.rows] = noisy
        return True

    def keep(self) -> None:
        """Put the volume aside that all particles were just looked for in, and begin another from nothing."""
        atlas = self.atlas
        assert atlas is not None
        self.rival, self.rival_score = atlas.volume, self._mean_score()
        self.attempt += 1
        atlas.volume = None
        self.traces.share.zero_()

    def better(self) -> None:
        """Go on with the volume that was put aside, if the particles are likelier with it than with the present one."""
        atlas = self.atlas
        assert atlas is not None and self.rival is not None
        if self.rival_score > self._mean_score():
            atlas.adopt(self.rival)
            atlas.look(self.rows, self.sightings, 1.0, learn=False)
        self.rival = None

    def _mean_score(self) -> float:
        return float(self.sightings.score[self.rows, 0].double().mean())

    def start(self, known: Assignment, number: int) -> None:
        """A volume from the classes of `known`, whose members are at their centres; kept if it is the best so far."""
        atlas = self.atlas
        assert atlas is not None
        classes = abinitio.Composites.of(atlas, known.label[:, 0], known.alpha[:, 0], self.rows, self.scene.classes)
        volume, score = abinitio.found_volume(atlas, classes, self.scene.seed + 7919 * number)
        if number == 0:
            self.traces.share.zero_()
        if number == 0 or score > self.start_score:
            self.start_score = score
            atlas.take(volume)

    def rising(self, done: int) -> bool:
        """Whether the last look at all particles explained them clearly better than the one before.

        The first look of a stage does not count: finer rings of the volume are still empty then.
        """
        if len(self.gains) < 3 or done + 1 >= _MOST_LOOKS:
            return False
        return self.gains[-1] > (1 + _RISE) * self.gains[-2]

    def _settle(self) -> None:
        if self.atlas is not None and len(self.rows):
            self.atlas.model.settle(self.population, self.sightings, self.rows)

    def divide(self, known: Assignment, *, forced: bool = False, again: bool = False) -> bool:
        """Make classes of the directions, or put new particles into those there are. False: the volume is no use.

        again: the classes there are may follow the directions of all particles.
        """
        atlas = self.atlas
        assert atlas is not None and atlas.volume is not None
        rows = self.rows
        poses = atlas.poses(self.sightings, rows)
        mean, spread = self.null = null_scores(atlas.model, self.population)
        score = self.sightings.score[rows, 0]
        strange = score < mean + STRANGE * spread
        if self.cells is None:
            # Half of what is noise scores below the mean of noise, and next to nothing else does.
            is_noise = 2 * float((score < mean).double().mean()) > _LEAST_STRANGE
            share = min(0.5, float(strange.double().mean())) if is_noise else 0.0
            spare = round(share * self.scene.classes)
            seeds = np.random.default_rng(self.scene.seed)
            views = poses[:, 2] if not spare or strange.all() else poses[~strange.numpy(), 2]
            made = sphere.frames_along(cells.centres(views, max(1, self.scene.classes - spare), seeds))
            gain, needed = self._gain(poses, made), self._needed(atlas)
            if gain < needed and not forced:
                self._refuse(gain, needed)
                return False
            self.cells = made
        elif again and not strange.all():
            self.cells = cells.moved(poses[~strange.numpy(), 2], self.cells)
        if len(self.cells) == self.scene.classes:
            strange[:] = False
        self._settle()
        self._hold(known, rows, poses, strange)
        self.volume = atlas.volume
        self._leave()
        return True

    def hopeless(self) -> bool:
        """Whether a volume from class averages is far from what it must explain once all particles have seen it.

        It is refused then, before it costs more.
        """
        atlas = self.atlas
        assert atlas is not None
        poses = atlas.poses(self.sightings, self.rows)
        centres = cells.centres(poses[:, 2], self.scene.classes, np.random.default_rng(self.scene.seed))
        gain, needed = self._gain(poses, sphere.frames_along(centres)), self._needed(atlas)
        if gain >= _HOPELESS * needed:
            return False
        self._refuse(gain, needed)
        return True

    def _refuse(self, gain: float, needed: float) -> None:
        self.refused += 1
        self.note = f"one volume explains the particles no better than free classes ({gain:.1f} < {needed:.1f})"
        self._leave()

    def _leave(self) -> None:
        self.atlas = None
        self.rows = self.rows[:0]

    def _hold(self, known: Assignment, rows: Tensor, poses: sphere.Array, strange: Tensor) -> None:
        assert self.cells is not None
        label, alpha = cells.placed(poses, self.cells)
        spare = self.scene.classes - self.regular
        more = len(self.population) - len(self.held)
        self.held = torch.cat([self.held, torch.zeros(more, dtype=torch.int64)])
        self.sureness = torch.cat([self.sureness, torch.zeros(more)])
        self.held[rows] = torch.where(strange, -1, label)
        self.sureness[rows] = self._sureness(rows, label)
        if spare:
            # Any spare class to begin with: they are told apart in the passes to come.
            label = torch.where(strange, self.regular + (rows * 2654435761 + self.scene.seed) % spare, label)
        known.label[rows, 0], known.alpha[rows, 0] = label, alpha
        known.weight[rows] = 0.0
        known.weight[rows, 0] = 1.0

    def _sureness(self, rows: Tensor, label: Tensor) -> Tensor:
        """(n,): share of a particle's posterior over directions that lies in the cell of its label."""
        assert self.atlas is not None and self.cells is not None
        of_view = torch.as_tensor((self.atlas.frames[:, 2] @ self.cells[:, 2].T).argmax(1))
        weight = torch.softmax(self.sightings.score[rows], 1)
        return (weight * (of_view[self.sightings.label[rows]] == label[:, None])).sum(1)

    def _gain(self, poses: sphere.Array, made: sphere.Array) -> float:
        """Mean log-likelihood of the volume over that of free classes that began as its cells, particle by particle."""
        atlas, rows = self.atlas, self.rows
        assert atlas is not None
        of_volume = self.sightings.score[rows, 0]
        free = Assignment.empty(len(self.population), models.CANDIDATES)
        label, alpha = cells.placed(poses, made)
        free.label[rows, 0], free.alpha[rows, 0] = label, alpha
        free.weight[rows, 0] = 1.0
        free.shift[rows, 0] = _nearest_shift(atlas.model, self.sightings, rows, alpha)
        model = free_model(atlas.model, self.scene, len(made))
        model.resum(free)
        for _ in range(_FREE_PASSES - 1):
            model.full_pass(rows, free, 1.0)
        judged = torch.arange(len(rows))
        if len(rows) > _JUDGED:
            chance = torch.Generator().manual_seed(self.scene.seed)
            judged = torch.randperm(len(rows), generator=chance)[:_JUDGED].sort().values
        model.score_pass(rows[judged], free)
        return float((of_volume[judged] - free.score[rows[judged], 0]).double().mean())

    def _needed(self, atlas: Atlas) -> float:
        """What more hypotheses and the volume's parameters gain from noise alone, a particle.

        A parameter gains 1/2, of which little is left once each particle's own part is taken out of its scores.
        """
        parameters = float(((atlas.degrees + 1) ** 2).sum())
        return math.log(len(atlas.frames) / self.scene.classes + 1.0) + _LEFT * 0.5 * parameters / len(self.rows)

    # ---- state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Arrays and plain values that `restore` needs."""
        arrays = {f"survey.known.{n}": getattr(self.sightings, n) for n in _KNOWN}
        arrays |= {f"survey.{n}": getattr(self, n) for n in _ARRAYS}
        arrays |= {"survey.traces.toward": self.traces.toward, "survey.traces.share": self.traces.share}
        values: dict[str, Any] = {f"survey.{n}": getattr(self, n) for n in _VALUES}
        present = None if self.atlas is None else self.atlas.volume
        for name, volume in (("survey.volume", self.volume), ("survey.rival", self.rival), ("survey.present", present)):
            if volume is not None:
                arrays |= {f"{name}.{n}": getattr(volume, n) for n in _VOLUME}
                values[f"{name}.split"] = volume.split
        if self.cells is not None:
            arrays["survey.cells"] = torch.as_tensor(self.cells)
        if self.atlas is not None:
            arrays["survey.noise"] = self.atlas.model.noise
            values["survey.stage"] = asdict(self.atlas.model.stage)
            if self.atlas.sums is not None:
                sums = self.atlas.sums
                arrays |= {
                    "survey.sums.coefficients": torch.view_as_real(sums.coefficients),
                    "survey.sums.ctf2": sums.ctf2,
                    "survey.sums.weight": sums.weight,
                }
        return arrays, values

    def restore(
        self, arrays: dict[str, Tensor], values: Mapping[str, Any], band: Band | None, masks: Mask | None
    ) -> None:
        """As it was when the state was taken; the population is as it was already."""
        self.sightings = Assignment(*(arrays[f"survey.known.{n}"] for n in _KNOWN))
        for name in _ARRAYS:
            setattr(self, name, arrays[f"survey.{name}"])
        self.traces = Traces(arrays["survey.traces.toward"], arrays["survey.traces.share"])
        for name in _VALUES:
            setattr(self, name, values[f"survey.{name}"])
        self.volume, self.rival = (_volume_from(f"survey.{n}", arrays, values) for n in ("volume", "rival"))
        if "survey.cells" in arrays:
            self.cells = arrays["survey.cells"].numpy()
        if "survey.stage" not in values:
            return
        assert masks is not None and band is not None
        now, self.population.centres_px = self.population.centres_px, self.encoded_px
        shift = self.sightings.shift
        self.sightings.shift = shift.clone()
        self._build(Stage(**values["survey.stage"]), band, masks, arrays["survey.noise"])
        self.sightings.shift, self.population.centres_px = shift, now
        assert self.atlas is not None
        self.gains = values["survey.gains"]
        if (volume := _volume_from("survey.present", arrays, values)) is not None:
            self.atlas.take(volume)
        if "survey.sums.weight" in arrays:
            coefficients = torch.view_as_complex(arrays["survey.sums.coefficients"])
            self.atlas.sums = Sums(coefficients, arrays["survey.sums.ctf2"], arrays["survey.sums.weight"])


def free_model(model: Model, scene: Scene, classes: int) -> Model:
    """Free classes in the frame of an atlas, on the same vectors."""
    return replace(model, scene=replace(scene, classes=classes, mirror=False), base=None)


def _nearest_shift(model: Model, known: Assignment, rows: Tensor, alpha: Tensor) -> Tensor:
    """(n,): the grid's shift that moves a reference, turned by `alpha`, to where the particle was found."""
    found = models.found_shifts(model.frame, known, rows)
    cosine, sine = torch.cos(alpha), torch.sin(alpha)
    x, y = cosine * found[:, 0] + sine * found[:, 1], cosine * found[:, 1] - sine * found[:, 0]
    return torch.cdist(torch.stack([x, y], 1), model.frame.shifts.shifts_px).argmin(1)


def _volume_from(name: str, arrays: dict[str, Tensor], values: Mapping[str, Any]) -> Volume | None:
    if f"{name}.split" not in values:
        return None
    fields = {n: arrays[f"{name}.{n}"] for n in _VOLUME}
    return Volume(**fields, split=values[f"{name}.split"])
