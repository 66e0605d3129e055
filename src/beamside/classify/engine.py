"""The classification as the run sees it: particles in, one pass a step, class averages out.

A first round makes classes from the first batch. Every later batch is a round of its own that costs its own particles:
centres are found against the present averages, then two passes add the new particles to the sums. When the source has
closed, the last passes go over all particles, and the averages are restored at full box from the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from beamside.classify import model as models
from beamside.classify import plan, stored
from beamside.classify.agenda import Agenda
from beamside.classify.average import Sums
from beamside.classify.effort import Scale, effort
from beamside.classify.expectation import Assignment
from beamside.classify.finish import Final, finish
from beamside.classify.groups import Held
from beamside.classify.guards import GUARDS
from beamside.classify.masking import Mask, choose_mask
from beamside.classify.model import CANDIDATES, Model, Scene
from beamside.classify.options import ClassifyOptions, resolve_limits
from beamside.classify.plan import Task
from beamside.classify.population import Population, good_pixels
from beamside.classify.schedule import Band, Stage
from beamside.classify.survey import Survey
from beamside.classify.tables import metrics_of, snapshot_of
from beamside.classify.tensors import chosen_device
from beamside.compute.lanes import BLOCK_ITEMS, available_threads, blocks
from beamside.errors import InputError
from beamside.run.engine import Batch, BatchPolicy, Header, Progress, Snapshot, State
from beamside.run.guard import Guard

_LEAST_PER_CLASS = 10
_NOISE_SAMPLE = 1000


class Classifier:
    """2D classification of particles; fulfils `run.engine.Engine`."""

    guards: Sequence[Guard] = GUARDS

    def __init__(self, options: ClassifyOptions, header: Header) -> None:
        # The lanes set this with their first work. What is computed before that would otherwise depend on whether this
        # process began the run or resumed it, and a resumed run would differ in its last bits.
        torch.set_num_threads(1)
        self.options, self.header = options, header
        self.box_px, self.pixel_size_A = int(header.fields["box_px"]), float(header.fields["pixel_size_A"])
        self.policy = BatchPolicy(options.first_batch, options.batch_size or options.first_batch)
        self.limits = resolve_limits(options, self.box_px, self.pixel_size_A)
        self.limit_note, self.mask_note = self.limits.note, ""
        if options.ctf and not header.fields.get("has_ctf", True):
            raise _without_ctf("the particle table", "it has no defocus columns")
        references = options.references
        self.classes = options.classes if references is None else len(references.images)
        self.population = Population(options.ctf)
        self.known = Assignment.empty(0, CANDIDATES)
        self.model: Model | None = None
        self.masks: Mask | None = None
        self.tasks = Agenda()
        self.round, self.passes, self.seen = 0, 0, 0
        threads = available_threads(options.threads)
        self.scene = Scene(
            self.box_px, self.pixel_size_A, self.classes, options.variance, options.training_particles,
            options.seed, threads, options.mirror, self.limits.first_ring, chosen_device(options.device),
        )  # fmt: skip
        self.survey = Survey(self.scene, self.population)
        self.covered = 0
        """Usable particles that the passes over all have seen."""
        self.closed = False
        self.final: Final | None = None
        self.encoded_px, self.encoded_upto = torch.zeros(0, 2), list[int]()
        self.free_px = torch.zeros(0, 2)
        self.training, self.newcomers = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        self.others: Sums | None = None
        self.set_aside: list[str] = []
        self.reseeded: list[int] = []
        self.entropies: list[float] = []
        self.generator = torch.Generator().manual_seed(options.seed)

    @classmethod
    def fresh(cls, options: ClassifyOptions, header: Header) -> Self:
        """A new classification."""
        return cls(options, header)

    @classmethod
    def resume(cls, options: ClassifyOptions, header: Header, state: State, batches: Sequence[Batch]) -> Self:
        """As it was when `state` was taken."""
        engine = cls(options, header)
        stored.restore(engine, state, batches)
        return engine

    def state(self) -> State:
        """Assignments, centres, sums, the frame's ingredients and the tasks ahead."""
        return stored.state_of(self)

    def ingest(self, batch: Batch) -> None:
        """Check the pixels and plan a round; refuses a batch with particles without CTF when CTF is asked for."""
        lacking = np.flatnonzero(~batch.columns["has_ctf"])
        if self.options.ctf and lacking.size:
            raise _without_ctf(f"{lacking.size} particles", f"the first is {batch.keys[int(lacking[0])]}")
        usable = np.concatenate(
            [good_pixels(batch.load(np.arange(p.start, p.stop))) for p in blocks(len(batch), BLOCK_ITEMS)]
        )
        self.set_aside = [batch.keys[i] for i in np.flatnonzero(~usable).tolist()]
        self.population.append(batch, usable)
        self.known = self.known.extended(len(self.population))
        if len(self.population.rows) < 2:
            return
        if self.model is None and self.options.mode == "create":
            self._require_as_many_as_classes()
        self.round += 1
        # The stages of the first round depend on the diameter, so they are planned once it is known.
        first = [Task("mask", f"{self._name}, measuring the particle")]
        later = self.model is not None
        self._begin(plan.later_round(self.band, self._name, held=self._held is not None) if later else first)

    def _require_as_many_as_classes(self) -> None:
        count = len(self.population.rows)
        if count < self.classes:
            raise InputError(
                f"{count} usable particles are there to begin with, and {self.classes} classes are asked for.",
                remedy=f"Give more particles, or --classes {max(1, count // _LEAST_PER_CLASS)}.",
            )

    def close(self) -> None:
        """Plan the last passes, unless the first round has seen everything, and the restoration."""
        self.closed = True
        if len(self.population.rows) < 2:
            raise InputError(
                f"{len(self.population.rows) or 'no'} usable particle has come; classes cannot be made of that.",
                remedy="Give more particles; images that were set aside are named above.",
            )
        count, refused = len(self.population.rows), self.survey.refused > 0
        closing = plan.closing_round(self.options, self.band, count, held=self._held is not None, refused=refused)
        tasks = [] if self.covered == count else closing
        self._begin([*tasks, Task("finish", "restoring the averages at full box")])

    def step(self) -> Progress:
        """The next task."""
        if self.tasks:
            task = self.tasks.take()
            said = {
                "stage": self._enter,
                "pass": self._pass,
                "meet": self._meet,
                "views": self._enter_views,
                "averages": self._enter_averages,
                "start": lambda task: self.survey.start(self.known, task.done),
                "look": self._look,
                "sift": self._sift,
                "keep": lambda task: self.survey.keep(),
                "better": lambda task: self.survey.better(),
                "weigh": self._weigh,
                "divide": self._divide,
                "mask": self._choose_mask,
                "finish": self._finish,
            }[task.kind](task)
            label = said or task.label
        else:
            label = self._name
        ended, finished, metrics = not self.tasks, self.final is not None, metrics_of(self)
        return Progress(label, self.tasks.tell(), ended, ended, finished, metrics, proviso=self._proviso)

    def snapshot(self) -> Snapshot:
        """Class averages with their tables; restored ones once the run has finished."""
        return snapshot_of(self)

    @property
    def diameter_A(self) -> float:
        """The particle's, which the mask stands for; 0 before it is known."""
        return 0.0 if self.masks is None else self.masks.diameter_A

    @property
    def band(self) -> Band:
        """The measures that stages are cut from; the particle's diameter must be known."""
        return Band(self.box_px, self.diameter_A / self.pixel_size_A, self.limits.last_ring)

    # ---- tasks

    def _choose_mask(self, task: Task) -> None:
        sample = models.training_rows(self.population, _NOISE_SAMPLE, self.options.seed)
        self.masks = choose_mask(self.options, self.population, sample, self.box_px, self.pixel_size_A)
        self.mask_note = self.masks.note
        if self._may_survey:
            self._begin(plan.survey_round(self.options, self.band, self._name, len(self.population.rows)))
        else:
            self._begin(self._free_classes)

    @property
    def _may_survey(self) -> bool:
        return plan.may_survey(self.options, self.classes, len(self.population.rows))

    @property
    def _may_search_again(self) -> bool:
        return self._may_survey and plan.may_search_again(self.classes, self.survey.refused)

    @property
    def _free_classes(self) -> list[Task]:
        again, refused = self._may_search_again, self.survey.refused > 0
        count = len(self.population.rows)
        return plan.free_round(self.options, self.band, self._name, count, again=again, refused=refused)

    @property
    def _proviso(self) -> str:
        """What may follow that is not counted yet."""
        if self.survey.refused and any(task.maybe for task in self.tasks):
            return "longer if a volume fits the averages"
        first = self.model is None and self.survey.cells is None and not self.survey.refused
        refusable = first and self.masks is not None and self._may_survey and self.options.start == "auto"
        return "longer if no volume fits" if refusable else ""

    def _begin(self, tasks: list[Task]) -> None:
        count = len(self.population.rows)
        after = sum(effort(Task(kind, ""), self._scale(count)) for kind in ("finish", "show"))
        self.tasks.begin(tasks, self._effort, after)

    def _effort(self, task: Task) -> float:
        if task.maybe:
            return 0.0
        rows = self.population.rows
        fresh = task.new or task.kind == "meet"
        return effort(task, self._scale(int((self.known.weight[rows, 0] == 0).sum()) if fresh else len(rows)))

    def _scale(self, particles: int) -> Scale:
        return Scale(particles, self.classes, self.options.training_particles, self.box_px, self.band.diameter_px)

    def _enter_views(self, task: Task) -> None:
        assert task.stage is not None and self.masks is not None
        rows = self.population.rows
        if task.new:
            rows = self.newcomers = rows[self.known.weight[rows, 0] == 0]
        elif self.model is not None:
            self.model.settle(self.population, self.known, rows)
        sample = models.training_rows(self.population, self.options.training_particles, self.options.seed)
        noise = self._noise(task.stage, sample, None)
        self.survey.enter(task.stage, self.band, self.masks, noise, rows, sample)

    def _noise(self, stage: Stage, sample: Tensor, signal: Tensor | None) -> Tensor:
        assert self.masks is not None
        mask = self.masks.of(stage, self.band.reach_px)
        return models.measure_noise(self.population, mask, sample[:_NOISE_SAMPLE], signal)

    def _enter_averages(self, task: Task) -> None:
        """As for views; the free classes' centres are kept for the case that no volume is found from them either."""
        assert self.model is not None
        self.model.settle(self.population, self.known, self.population.rows)
        self.free_px = self.population.centres_px.clone()
        self._enter_views(task)

    def _look(self, task: Task) -> None:
        assert task.stage is not None
        self.seen += self.survey.look(task.done, learn=not task.new)
        last = not task.new and not task.stage.largest and task.done + 1 == task.stage.passes
        if last and self.options.iterations is None and self.survey.rising(task.done):
            # A volume that still gains is not there yet; views found from it now would be wrong.
            stage = replace(task.stage, passes=task.stage.passes + 1)
            self.tasks.insert(Task("look", f"{task.label}, still gaining", stage, task.done + 1), self._effort)

    def _sift(self, task: Task) -> str | None:
        if self.survey.sift():
            self.tasks.replace([replace(task, maybe=False) for task in self.tasks], self._effort)
            return f"{self._name}, many particles look like noise: other volumes without them"
        while self.tasks[0].maybe:
            self.tasks.skip_past("better")
        return None

    def _weigh(self, task: Task) -> str | None:
        if self.options.start != "volume" and self.survey.hopeless():
            self.tasks.skip_past("divide")
            self.population.centres_px = self.free_px
            return f"{self._name}, no volume fits the averages: free classes go on"
        self.tasks.replace([replace(task, maybe=False) for task in self.tasks if task.maybe], self._effort)
        return f"{self._name}, a volume may fit the averages: it is refined"

    def _divide(self, task: Task) -> str | None:
        first, free = self.survey.cells is None, self.model is not None
        forced = self.options.start == "volume" and (free or not self._may_search_again)
        if self.survey.divide(self.known, forced=forced, again=not task.new):
            if first:
                self.tasks.replace(plan.held_tasks(self.band, self._name), self._effort)
        elif free:
            self.population.centres_px = self.free_px
            count = len(self.population.rows)
            self.tasks.replace(plan.last_resort(self.options, self.band, self._name, count), self._effort)
        else:
            self.tasks.replace(self._free_classes, self._effort)
            if self._may_search_again:
                self.survey.note = ""
                return f"{self._name}, no volume fits: free classes, then a volume of their averages"
            return f"{self._name}, no volume fits: free classes"
        return None

    @property
    def _name(self) -> str:
        return f"round {self.round}"

    @property
    def _held(self) -> Held | None:
        return None if self.survey.cells is None else Held(self.survey.held, self.survey.regular)

    def _enter(self, task: Task) -> None:
        assert task.stage is not None and self.masks is not None
        rows, old = self.population.rows, self.model
        if old is not None:
            old.settle(self.population, self.known, rows)
        sample = models.training_rows(self.population, self.options.training_particles, self.options.seed)
        signal = None if old is None else old.signal_power()
        noise = self._noise(task.stage, sample, signal)
        self.model = self._framed(task.stage, noise, sample)
        self.model.encode(self.population, rows)
        self._start_averages(fresh=old is None, rows=rows)

    def _framed(self, stage: Stage, noise: Tensor, sample: Tensor) -> Model:
        assert self.masks is not None
        self.training = sample
        self.encoded_px = self.population.centres_px.clone()
        self.encoded_upto = [len(self.population)]
        made = models.begin(self.scene, stage, self.population, self.masks, noise, self.band.reach_px, sample)
        if self.options.references is not None:
            images = torch.as_tensor(self.options.references.images)
            made.base = models.reference_sums(images, made)
        return made

    def _start_averages(self, *, fresh: bool, rows: Tensor) -> None:
        model = self.model
        assert model is not None
        self.known.shift[:] = model.frame.shifts.centre
        if fresh and model.base is not None:
            model.maximise(model.sums)
            return
        if fresh and self.survey.cells is None:
            self.known.label[rows, 0] = torch.randint(0, self.classes, (len(rows),), generator=self.generator)
        first = torch.zeros_like(self.known.weight)
        first[rows, 0] = 1.0
        self.known.weight = first
        model.resum(self.known)

    def _pass(self, task: Task) -> None:
        assert task.stage is not None and self.model is not None
        rows = self.population.rows
        temperature = task.stage.temperature(task.done)
        if task.stage.share < 1.0:
            rows = models.share_of(rows, task.stage.share, task.done, self.options.seed)
            self.model.share_pass(rows, self.known, temperature, len(rows) / len(self.population.rows))
        else:
            self.model.full_pass(rows, self.known, temperature, self._held)
        if temperature > 1.0 and self.options.mode == "create":
            self.reseeded += self.model.reseed_dead(self.known, self.generator)
        self.covered = len(self.population.rows)
        self._count(len(rows))

    def _meet(self, task: Task) -> None:
        """New particles: once on the wide grid to find their centres, then into the sums."""
        model = self.model
        assert model is not None
        rows = self.population.rows
        if task.done == 0:
            self.encoded_px = torch.cat([self.encoded_px, torch.zeros(len(self.population) - len(self.encoded_px), 2)])
            if self.survey.cells is None:
                self.newcomers = rows[self.known.weight[rows, 0] == 0]
                model.find_centres(self.population, self.known, self.newcomers)
            rows = self.newcomers
            self.known.shift[rows] = model.frame.shifts.centre
            self.encoded_px[rows] = self.population.centres_px[rows]
            model.encode(self.population, rows)
            self.encoded_upto = [*self.encoded_upto, len(self.population)]
            self.others = model.sums
        else:
            assert self.others is not None
            model.partial_pass(self.newcomers, self.known, self.others, self._held)
        self._count(len(self.newcomers))

    def _finish(self, task: Task) -> None:
        assert self.model is not None
        self.final = finish(self.model, self.population, self.known, free=self._held is None)
        self.model.settle(self.population, self.known, self.population.rows)

    def _count(self, particles: int) -> None:
        self.passes += 1
        self.seen += particles
        share = self.class_weight
        if share is not None:
            p = (share / share.sum().clamp(min=1e-9)).clamp(min=1e-12)
            self.entropies = [*self.entropies[-1:], float(-(p * p.log()).sum())]

    @property
    def class_weight(self) -> Tensor | None:
        """(K,) sums of responsibilities."""
        return None if self.model is None or not self.passes else self.model.sums.weight

    @property
    def provisional(self) -> str:
        """Why the averages are not to be trusted yet."""
        count, least = len(self.population.rows), _LEAST_PER_CLASS * self.classes
        return f"{count} particles for {self.classes} classes; at least {least} are needed." if count < least else ""


def _without_ctf(what: str, where: str) -> InputError:
    return InputError(
        f"ctf.present: CTF correction is asked for, but {what} carry no CTF ({where}).",
        remedy="Estimate the CTF first, or run with --no-ctf.",
    )
