"""The mixture model in one frame: encoded particles, sums, averages, and the moves that change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify.average import Averages, Sums, solve
from beamside.classify.encode import BLOCK, Encoder, Particles, Spectra, build, masked_power, weighted_crops
from beamside.classify.expectation import Assignment, Expectation, accumulate
from beamside.classify.groups import Grouping
from beamside.classify.leaveout import OfClasses
from beamside.classify.masking import Mask
from beamside.classify.mirror import folded, with_mirrors
from beamside.classify.polar import Rings, bessel_table, largest_argument, shift_grid, transform_matrix
from beamside.classify.population import Population
from beamside.classify.reference import Frame
from beamside.classify.schedule import Stage
from beamside.compute.lanes import blocks, over_lanes
from beamside.optics.fourier import resample

CANDIDATES = 4
_STEP = 0.5
"""Step size of stepwise EM: the sums remember about two passes."""
_GROUP_MINIMUM = 100
_DEAD_SHARE = 0.02
_REFERENCE_WEIGHT = 20.0
"""A given class average counts as this many particles in the sums of its class."""


@dataclass(frozen=True)
class Scene:
    """What does not change from stage to stage."""

    box_px: int
    pixel_size_A: float
    classes: int
    variance: float
    training: int
    seed: int
    threads: int
    mirror: bool
    first_ring: int
    device: torch.device | None = None
    """Of the search; None: the processor's compiled loops."""


@dataclass
class Model:
    """Particles in the present frame and what is inferred from them."""

    scene: Scene
    stage: Stage
    mask: Tensor
    noise: Tensor
    frame: Frame
    wide: Frame
    """The same encoder with the shift grid for particles whose centre is not known yet."""
    vectors: Tensor
    ctf2: Tensor
    sums: Sums
    base: Sums | None
    """Pseudo-sums of given class averages, kept beneath all others."""
    averages: Averages

    def expectation(
        self, temperature: float, known: Assignment | None = None, frame: Frame | None = None
    ) -> Expectation:
        """The E-step against the present averages; particles that are in them as `known` says are taken out."""
        averages = with_mirrors(self.averages) if self.scene.mirror else self.averages
        leave = None
        if known is not None and averages.precision is not None:
            leave = OfClasses(1.0 / averages.precision, known.label, known.weight * known.presence[:, None])
        scene = self.scene
        return Expectation.of(
            frame or self.frame, averages, temperature, CANDIDATES, scene.threads, scene.seed, leave, scene.device
        )

    def maximise(self, sums: Sums) -> None:
        """New averages from these sums and the base."""
        self.sums = sums
        whole = sums if self.base is None else sums.mixed(self.base, 1.0, 1.0)
        self.averages = solve(whole, self.frame)

    def full_pass(self, rows: Tensor, known: Assignment, temperature: float, among: Grouping | None = None) -> None:
        """One EM iteration over `rows`, whose sums replace all earlier ones."""
        search = self.expectation(temperature, known)
        sums = search.run(self.vectors, self.ctf2, rows, known, self.scene.threads, among=among)
        assert sums is not None
        known.presence[rows] = 1.0
        self.maximise(folded(sums) if self.scene.mirror else sums)

    def score_pass(self, rows: Tensor, known: Assignment) -> None:
        """The search of an EM iteration alone: assignments of `rows` and their scores, no new averages."""
        self.expectation(1.0, known).run(self.vectors, self.ctf2, rows, known, self.scene.threads, sums=False)

    def share_pass(self, rows: Tensor, known: Assignment, temperature: float, share: float) -> None:
        """One step of stepwise EM: `rows` are a random `share` of all particles, and their sums stand for all."""
        sums = self.expectation(temperature, known).run(self.vectors, self.ctf2, rows, known, self.scene.threads)
        assert sums is not None
        keep, take = 1.0 - _STEP, _STEP / share
        known.presence *= keep
        known.presence[rows] = take
        self.maximise(self.sums.mixed(folded(sums) if self.scene.mirror else sums, keep, take))

    def partial_pass(self, rows: Tensor, known: Assignment, others: Sums, among: Grouping | None = None) -> None:
        """One EM iteration over new particles, on top of the sums of the `others`."""
        sums = self.expectation(1.0, known).run(self.vectors, self.ctf2, rows, known, self.scene.threads, among=among)
        assert sums is not None
        known.presence[rows] = 1.0
        self.maximise((folded(sums) if self.scene.mirror else sums).mixed(others, 1.0, 1.0))

    def resum(self, known: Assignment) -> None:
        """Averages from the assignments as they are."""
        count = self.scene.classes * (2 if self.scene.mirror else 1)
        sums = accumulate(self.frame, count, self.vectors, self.ctf2, known, self.scene.threads)
        known.presence[:] = 1.0
        self.maximise(folded(sums) if self.scene.mirror else sums)

    def reseed_dead(self, known: Assignment, generator: torch.Generator) -> list[int]:
        """Classes that lost their particles take the worst-fitting half of the most crowded class. Their numbers."""
        weight = self.sums.weight
        dead = (weight < _DEAD_SHARE * weight.mean()).nonzero()[:, 0].tolist()
        label = known.label[:, 0] % self.scene.classes
        for k in dead:
            crowd = torch.bincount(label[known.weight[:, 0] > 0], minlength=self.scene.classes)
            members = ((label == int(crowd.argmax())) & (known.weight[:, 0] > 0)).nonzero()[:, 0]
            members = members[torch.randperm(len(members), generator=generator)]
            worst = members[known.score[members, 0].argsort(stable=True)][: len(members) // 2]
            known.label[worst, 0] = label[worst] = k
            known.weight[worst] = 0.0
            known.weight[worst, 0] = 1.0
        if dead:
            self.resum(known)
        return dead

    def encode(self, population: Population, rows: Tensor) -> None:
        """Vectors of `rows` at the centres that the population has for them now."""
        self.vectors = _grown(self.vectors, len(population))
        self.ctf2 = _grown(self.ctf2, len(population))
        encode_rows(self.frame.encoder, population, rows, self.vectors, self.ctf2, self.scene.threads)

    def settle(self, population: Population, known: Assignment, rows: Tensor, frame: Frame | None = None) -> None:
        """Move the found shifts of `rows` into the population's centres."""
        population.centres_px[rows] += found_shifts(frame or self.frame, known, rows)
        known.shift[rows] = self.frame.shifts.centre

    def find_centres(self, population: Population, known: Assignment, rows: Tensor) -> None:
        """Centres of new particles, against the class averages on the wide grid of shifts."""
        self.encode(population, rows)
        search = self.expectation(1.0, frame=self.wide)
        search.run(self.vectors, self.ctf2, rows, known, self.scene.threads, sums=False)
        self.settle(population, known, rows, self.wide)

    def images(self) -> Tensor:
        """(K, n, n): the averages as images, in the particles' grey scale."""
        return render(self.averages.values, self.frame)

    def signal_power(self) -> Tensor:
        """(n//2+1): what CTF x averages explain of a particle's power in each shell."""
        encoder = self.frame.encoder
        share = self.sums.weight / self.sums.weight.sum().clamp(min=1e-6)
        by_ring = ((self.averages.values.abs() ** 2).sum(1) * share[:, None]).sum(0) / encoder.ring_weight
        power = torch.zeros(self.scene.box_px // 2 + 1)
        power[encoder.rings.first : encoder.rings.last + 1] = by_ring * encoder.mean_ctf2
        return power


def _grown(old: Tensor, count: int) -> Tensor:
    return old if len(old) == count else torch.cat([old, torch.zeros(count - len(old), *old.shape[1:])])


def found_shifts(frame: Frame, known: Assignment, rows: Tensor, candidate: int = 0) -> Tensor:
    """(k, 2) as (x, y): displacement of particles from their centres, the reference's shift turned with it."""
    shift, alpha = frame.shifts.shifts_px[known.shift[rows, candidate]], known.alpha[rows, candidate]
    cosine, sine = torch.cos(alpha), torch.sin(alpha)
    x, y = shift[:, 0], shift[:, 1]
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], 1)


def encode_rows(
    encoder: Encoder, population: Population, rows: Tensor, vectors: Tensor, ctf2: Tensor, threads: int
) -> None:
    """Encode `rows` of the population into the rows of `vectors` and `ctf2`, reading the pixels block by block."""

    def lane(pieces: Sequence[slice]) -> None:
        for piece in pieces:
            index = rows[piece]
            vectors[index], ctf2[index] = encoder.encode(particles(population, index))

    over_lanes(lane, blocks(len(rows), BLOCK), threads)


def particles(population: Population, rows: Tensor) -> Particles:
    """Pixels and optics of some particles, at their present centres."""
    return Particles(
        population.images(rows), population.params(rows), population.group[rows], population.centres_px[rows]
    )


def training_rows(population: Population, count: int, seed: int) -> Tensor:
    """A reproducible sample of the usable particles."""
    rows = population.rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values


def share_of(rows: Tensor, share: float, done: int, seed: int) -> Tensor:
    """The `share` of `rows` that the pass after `done` sees: every one comes once before any comes again."""
    parts = round(1 / share)
    sweep, part = divmod(done, parts)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + 7919 * (sweep + 1)))
    return rows[order[part::parts]].sort().values


def measure_noise(population: Population, mask: Tensor, sample: Tensor, signal: Tensor | None) -> Tensor:
    """(G, n//2+1) noise variance of each noise group; a group with few particles takes the mean of all."""
    power = torch.cat([masked_power(population.images(sample[p]), mask) for p in blocks(len(sample), BLOCK)])
    group = population.group[sample]
    rows = []
    for g in range(int(population.group.max()) + 1):
        own = power[group == g]
        rows.append(own.mean(0) if len(own) >= _GROUP_MINIMUM else power.mean(0))
    return Spectra(torch.stack(rows), float((mask**2).mean())).noise(signal)


def begin(
    scene: Scene, stage: Stage, population: Population, masks: Mask, noise: Tensor, reach_px: float, sample: Tensor
) -> Model:
    """A model in the frame of `stage` without averages; `sample` trains the compression."""
    reach, mask = max(stage.reach_px, reach_px), masks.of(stage, reach_px)
    inside = (masks.tight > 0.5).sum().item()
    radius = math.sqrt(inside / math.pi) + 0.5 * reach
    rings = Rings.for_object(scene.box_px, scene.first_ring, stage.last_ring, radius)
    encoder = build(
        rings,
        mask,
        noise,
        scene.pixel_size_A,
        lambda piece: particles(population, sample[piece]),
        len(sample),
        radius_px=radius,
        variance=scene.variance,
        seed=scene.seed,
        threads=scene.threads,
    )
    orders = len(encoder.subspace.vectors)
    frame = Frame(encoder, shift_grid(rings, stage.step_px, stage.reach_px, orders))
    wide = Frame(encoder, shift_grid(rings, max(stage.step_px, reach / 4), reach, orders))
    empty = Sums.zero(scene.classes, frame)
    nothing = torch.zeros(scene.classes, encoder.subspace.dimension)
    averages = Averages(empty.coefficients, nothing + 1.0, nothing[0] + 1.0)
    size = len(population)
    vectors = torch.zeros(size, 2 * encoder.subspace.dimension)
    return Model(
        scene, stage, mask, noise, frame, wide, vectors, torch.zeros(size, len(rings.radii)), empty, None, averages
    )


def reference_sums(images: Tensor, model: Model) -> Sums:
    """Pseudo-sums of given class averages (K, n, n), scaled to the power that the particles' signal has."""
    encoder, frame = model.frame.encoder, model.frame
    rings, count = encoder.rings, len(images)
    lowpass = encoder.lowpass
    ones, centre = torch.ones(count, rings.box_px // 2 + 1), torch.zeros(count, 2)
    crops = weighted_crops(images * model.mask, lowpass.contrast(None, count), ones, centre, lowpass)
    pixels = crops.flatten(1).to(torch.complex64)
    table = bessel_table(rings.orders, largest_argument(rings))
    orders = [pixels @ transform_matrix(rings, m, table).T for m in range(frame.orders)]
    values = torch.stack(orders, 1) * frame.metric
    power = (values.abs() ** 2).sum((1, 2)).mean().clamp(min=1e-12)
    values = values * torch.sqrt(encoder.subspace.signal.sum() / power)
    weight = torch.full((count,), _REFERENCE_WEIGHT)
    return Sums(values * _REFERENCE_WEIGHT, weight[:, None].expand(-1, len(rings.radii)).clone(), weight)


def render(values: Tensor, frame: Frame) -> Tensor:
    """Averages (K, M, R) as images (K, n, n): the transpose of the encoder, weighted for the integral over k."""
    rings, vectors = frame.encoder.rings, frame.encoder.subspace.vectors
    columns = []
    for m, v in enumerate(vectors):
        part = values[:, m] @ v.conj()
        columns += [part.real, part.imag]
    small = (torch.cat(columns, 1) @ frame.encoder.operator.T).view(-1, rings.cropped_px, rings.cropped_px)
    return resample(small / rings.box_px, rings.box_px)
