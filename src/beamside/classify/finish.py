"""The end of a run: averages restored at full box from the pixels, and how believable every particle is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.classify.encode import BLOCK, Particles, noise_images
from beamside.classify.expectation import Assignment
from beamside.classify.model import CANDIDATES, Model, found_shifts
from beamside.classify.population import Population
from beamside.classify.restore import ClassAverages, Restoration
from beamside.compute.lanes import blocks, over_lanes
from beamside.optics.ctf import CtfParams

_NULL_IMAGES = 256
_BEYOND = 3.0


@dataclass(frozen=True)
class Final:
    """Restored averages, and for pure noise the mean and spread of the best score."""

    averages: ClassAverages
    null_mean: float
    null_spread: float


def finish(model: Model, population: Population, known: Assignment, *, free: bool) -> Final:
    """Restore the averages of all assigned particles and calibrate their scores on noise."""
    mean, spread = null_scores(model, population)
    return Final(restore(model, population, known, free=free), mean, spread)


def restore(model: Model, population: Population, known: Assignment, *, free: bool) -> ClassAverages:
    """Class averages at the full box, every particle in its classes as far as it belongs to them.

    free: no volume tells the views. Such classes are of particles that are nearly round, or hold several views; their
    averages are damped by angular order.

    One that could be in two classes counts in both by its posterior probabilities, as in the sums of a pass. The shifts
    that were found last must not have moved the centres yet: every candidate has its own.
    """
    rows, scene = population.rows, model.scene

    def lane(pieces: Sequence[slice]) -> Restoration:
        sums = Restoration(scene.classes, scene.box_px, scene.pixel_size_A)
        for piece in pieces:
            _add(sums, model, population, known, rows[piece])
        return sums

    lanes = over_lanes(lane, blocks(len(rows), BLOCK), scene.threads)
    total = lanes[0]
    for more in lanes[1:]:
        total += more
    return total.averages(model.mask.numpy(), by_order=free)


def _add(sums: Restoration, model: Model, population: Population, known: Assignment, rows: Tensor) -> None:
    images, params = population.images(rows), population.params(rows)
    for candidate in range(known.weight.shape[1]):
        weight = known.weight[rows, candidate]
        some = weight.nonzero()[:, 0]
        if len(some):
            chosen = None if params is None else params.take(some.numpy())
            _add_candidate(sums, model, population, known, rows[some], images[some], chosen, candidate)


def _add_candidate(
    sums: Restoration,
    model: Model,
    population: Population,
    known: Assignment,
    rows: Tensor,
    images: Tensor,
    params: CtfParams | None,
    candidate: int,
) -> None:
    label = known.label[rows, candidate]
    psi_deg = -torch.rad2deg(known.alpha[rows, candidate])
    origin = -(population.centres_px[rows] + found_shifts(model.frame, known, rows, candidate))
    flipped = label >= model.scene.classes
    if flipped.any():
        images, params, psi_deg, origin = _reflected(images, params, psi_deg, origin, flipped)
    sums.add(
        images,
        params,
        (label % model.scene.classes).numpy(),
        psi_deg.numpy(),
        origin[:, 0].numpy(),
        origin[:, 1].numpy(),
        known.weight[rows, candidate].numpy(),
        (rows % 2).numpy(),
        model.noise[population.group[rows].clamp(max=len(model.noise) - 1)].numpy(),
    )


def _reflected(
    images: Tensor, params: CtfParams | None, psi_deg: Tensor, origin: Tensor, flipped: Tensor
) -> tuple[Tensor, CtfParams | None, Tensor, Tensor]:
    """Particles of reflected classes, reflected at the x axis, with the poses and CTFs that they then have."""
    turned = images.flip(-2)
    if images.shape[-1] % 2 == 0:
        turned = turned.roll(1, -2)
    images = torch.where(flipped[:, None, None], turned, images)
    sign = torch.where(flipped, -1.0, 1.0)
    origin = torch.stack([origin[:, 0], origin[:, 1] * sign], 1)
    if params is not None:
        values = {name: getattr(params, name) for name in CtfParams.__dataclass_fields__}
        values["defocus_angle_deg"] = values["defocus_angle_deg"] * sign.double().numpy()
        params = CtfParams(**values)
    return images, params, psi_deg * sign, origin


def null_scores(model: Model, population: Population) -> tuple[float, float]:
    """Mean and standard deviation of the best score of images of pure noise."""
    scene, encoder = model.scene, model.frame.encoder
    rows = population.rows[:_NULL_IMAGES]
    group = population.group[rows].clamp(max=len(model.noise) - 1)
    noise = noise_images(model.noise[group], scene.box_px, scene.seed)
    some = Particles(noise, population.params(rows), group, torch.zeros(len(rows), 2))
    vectors, ctf2 = encoder.encode(some)
    known = Assignment.empty(len(rows), CANDIDATES)
    model.expectation(1.0).run(vectors, ctf2, torch.arange(len(rows)), known, scene.threads, sums=False)
    best = known.score[:, 0].double()
    return float(best.mean()), max(float(best.std()) if len(best) > 1 else 1.0, 1e-3)


def junk_score(score: NDArray[np.float64], mean: float, spread: float, beyond: float = _BEYOND) -> NDArray[np.float64]:
    """How well noise alone explains a score, 1 for certain junk: 1/2 at `beyond` spreads above the scores of noise.

    Junk that has found a class of its own fits it better than fresh noise would, so the mean of noise is no bound.
    """
    from scipy.special import ndtr

    share: NDArray[np.float64] = 1.0 - ndtr((score - mean) / spread - beyond)
    return share
