"""The search against brute force, and sums as the exact adjoint of the bank."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from beamside.classify import model as models
from beamside.classify.average import Accumulator, component_columns
from beamside.classify.encode import Particles
from beamside.classify.expectation import Assignment, responsibilities
from beamside.classify.masking import Mask, circle
from beamside.classify.mirror import reflected
from beamside.classify.population import Population
from beamside.classify.reference import Frame, bank, shifted, unshifted
from beamside.classify.schedule import Stage
from beamside.classify.search import Poses, Workspace, rotations, search
from tests.classify.scene import BOX, PIXEL_A, batch, session


@pytest.fixture(scope="module")
def model() -> models.Model:
    made = session()
    population = Population(use_ctf=True)
    population.append(batch(made, np.arange(100)), np.ones(100, dtype=bool))
    scene = models.Scene(BOX, PIXEL_A, 3, 1.0, 100, 0, 1, False, 1)
    stage = Stage("t", 7, 1.0, 2.0, 1, 1.0, 1.0)
    mask = circle(BOX, 27.0)
    masks = Mask(mask, mask, 27.0 * PIXEL_A)
    rows = torch.arange(100)
    noise = models.measure_noise(population, mask, rows, None)
    built = models.begin(scene, stage, population, masks, noise, 2.0, rows)
    built.encode(population, rows)
    return built


def test_a_particle_off_the_middle_is_encoded_as_one_in_it(model: models.Model) -> None:
    """Its mask goes with it: nothing is cut, and nothing of what lies beside it comes in."""
    encoder = model.frame.encoder
    encoder = replace(encoder, mask=circle(BOX, 14.0))
    alone, pixels = torch.zeros(3, BOX, BOX), torch.randn(3, 18, 18, generator=torch.Generator().manual_seed(0))
    alone[:, 7:25, 7:25] = pixels
    beside, off = torch.randn(3, BOX, BOX, generator=torch.Generator().manual_seed(1)), (5, -4)
    beside[:, 7 + off[1] : 25 + off[1], 7 + off[0] : 25 + off[0]] = pixels
    group = torch.zeros(3, dtype=torch.int64)
    there = encoder.encode(Particles(beside, None, group, torch.tensor([off]).float().expand(3, 2)))[0]
    middle = encoder.encode(Particles(alone, None, group, torch.zeros(3, 2)))[0]
    torch.testing.assert_close(there, middle, rtol=1e-4, atol=1e-4 * float(middle.abs().max()))


def compressed(averages: torch.Tensor, frame: Frame) -> torch.Tensor:
    """(K, S, D): shifted averages in the subspace."""
    copies, vectors = shifted(averages, frame), frame.encoder.subspace.vectors
    rows = [(v.mH @ copies[m].flatten(1)).view(-1, *copies.shape[2:]) for m, v in enumerate(vectors)]
    return torch.cat(rows).permute(2, 1, 0)


def test_unshifted_is_the_adjoint_of_shifted(model: models.Model) -> None:
    frame = model.frame
    rings, dimension = frame.encoder.rings, frame.encoder.subspace.dimension
    a = torch.randn(2, frame.orders, rings.last - rings.first + 1, dtype=torch.complex64)
    a[:, 0].imag.zero_()
    b = torch.randn(2, len(frame.shifts.shifts_px), frame.orders, rings.last - rings.first + 1, dtype=torch.complex64)
    b[:, :, 0].imag.zero_()
    u = torch.cat([b[:, :, m] @ v.conj() for m, v in enumerate(frame.encoder.subspace.vectors)], -1)
    assert u.shape[-1] == dimension
    left = (compressed(a, frame).conj() * u).sum().real
    back = unshifted(u, frame)
    right = (a.conj() * back).sum().real
    assert abs(float(left - right)) < 2e-3 * float(a.abs().square().sum().sqrt() * u.abs().square().sum().sqrt())


def test_search_is_brute_force(model: models.Model) -> None:
    """Every class, shift and rotation one by one in float64, against the block search."""
    frame, vectors, ctf2 = model.frame, model.vectors[:5], model.ctf2[:5]
    averages = torch.randn(3, frame.orders, len(frame.encoder.rings.radii), dtype=torch.complex64)
    averages[:, 0].imag.zero_()
    made, turns = bank(averages, frame), rotations(frame.orders)
    poses = search(vectors, ctf2, made, turns, Workspace(made, turns), best=3)
    copies = compressed(averages, frame).to(torch.complex128)
    real, imaginary = component_columns(frame.encoder.subspace.sizes)
    y = torch.complex(vectors[:, real].double(), vectors[:, imaginary].double())
    alpha = torch.arange(turns.count, dtype=torch.float64) * 2 * math.pi / turns.count
    phase = torch.exp(-1j * alpha[:, None] * frame.encoder.subspace.orders.double())
    scores = torch.einsum("bd,ad,ksd->bksa", y.conj(), phase, copies).real
    norm = 0.5 * ctf2.double() @ (averages.abs() ** 2).sum(1).double().T
    best = scores.amax((2, 3)) - norm
    assert torch.allclose(poses.score.double(), best.sort(1, descending=True).values, rtol=1e-3, atol=1e-2)
    for b in range(5):
        k = int(poses.label[b, 0])
        shift, turn = divmod(int(scores[b, k].argmax()), turns.count)
        assert int(poses.shift[b, 0]) == shift
        difference = (float(poses.alpha[b, 0]) - float(alpha[turn]) + math.pi) % (2 * math.pi) - math.pi
        assert abs(difference) <= math.pi / turns.count + 1e-4


def test_a_short_block_scores_as_a_full_one(model: models.Model) -> None:
    averages = torch.randn(3, model.frame.orders, len(model.frame.encoder.rings.radii), dtype=torch.complex64)
    made, turns = bank(averages, model.frame), rotations(model.frame.orders)
    space = Workspace(made, turns)
    full = search(model.vectors[:8], model.ctf2[:8], made, turns, space, best=2)
    short = search(model.vectors[:3], model.ctf2[:3], made, turns, space, best=2)
    assert torch.allclose(full.score[:3], short.score, rtol=1e-5) and torch.equal(full.label[:3], short.label)


def test_a_particle_laid_back_scores_its_own_norm(model: models.Model) -> None:
    """What the accumulator turns and unshifts is the particle in the frame of its average."""
    vectors, ctf2 = model.vectors[:1], model.ctf2[:1]
    alpha = torch.tensor([[0.9]])
    total = Accumulator(1, model.frame)
    shift = torch.tensor([[3]])
    total.add(
        vectors, ctf2, Poses(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), alpha, shift), torch.ones(1, 1)
    )
    sums = Accumulator.total([total])
    averages = torch.randn_like(sums.coefficients)
    averages[:, 0].imag.zero_()
    inner = (sums.coefficients.conj() * averages).sum().real
    real, imaginary = component_columns(model.frame.encoder.subspace.sizes)
    y = torch.complex(vectors[0, real], vectors[0, imaginary])
    turned = compressed(averages, model.frame)[0, 3] * torch.exp(
        -1j * alpha[0, 0] * model.frame.encoder.subspace.orders
    )
    assert abs(float(inner - (y.conj() * turned).sum().real)) < 1e-2 * (1 + abs(float(inner)))
    assert float(sums.weight[0]) == 1.0


def test_compression_keeps_what_it_says(model: models.Model) -> None:
    subspace = model.frame.encoder.subspace
    assert subspace.kept > 0.999
    for vectors in subspace.vectors:
        assert torch.allclose(vectors.mH @ vectors, torch.eye(vectors.shape[1], dtype=vectors.dtype), atol=1e-4)


def test_noise_is_white_in_the_vectors(model: models.Model) -> None:
    """The power that the subspace reports for noise is that of encoded noise images."""
    population = Population(use_ctf=False)
    images = np.random.default_rng(5).normal(size=(400, BOX, BOX)).astype(np.float32)
    made = session()
    noisy = batch(made, np.arange(100).repeat(4)[:400] % 100)
    population.append(type(noisy)(tuple(map(str, range(400))), noisy.columns, lambda i: images[i]), np.ones(400, bool))
    mask = circle(BOX, 27.0)
    masks = Mask(mask, mask, 27.0 * PIXEL_A)
    rows = torch.arange(400)
    noise = models.measure_noise(population, mask, rows, None)
    assert torch.allclose(noise[0, 2:-2], torch.ones(BOX // 2 - 3), atol=0.15), "white noise of variance 1 a pixel"
    scene = models.Scene(BOX, PIXEL_A, 3, 1.0, 100, 0, 1, False, 1)
    built = models.begin(scene, Stage("t", 7, 1.0, 2.0, 1, 1.0, 1.0), population, masks, noise, 2.0, rows)
    built.encode(population, rows)
    real, imaginary = component_columns(built.frame.encoder.subspace.sizes)
    power = (built.vectors[:, real] ** 2 + built.vectors[:, imaginary] ** 2).mean(0)
    assert 0.85 < float(power.sum() / built.frame.encoder.subspace.noise.sum()) < 1.15


def test_reflection_twice_is_nothing() -> None:
    a = torch.randn(2, 6, 4, dtype=torch.complex64)
    assert torch.allclose(reflected(reflected(a)), a)


def test_responsibilities_sum_to_one_and_flatten_with_temperature() -> None:
    score = torch.tensor([[3.0, 2.0, 0.0, -5.0]])
    cold, hot = responsibilities(score, 1.0), responsibilities(score, 10.0)
    assert torch.allclose(cold.sum(1), torch.ones(1)) and torch.allclose(hot.sum(1), torch.ones(1))
    assert cold[0, 0] > hot[0, 0] and cold[0, 3] == 0
    known = Assignment.empty(2, 4).extended(5)
    assert known.label.shape == (5, 4)


def test_equal_scores_go_to_the_class_that_comes_first(model: models.Model) -> None:
    averages = torch.randn(1, model.frame.orders, len(model.frame.encoder.rings.radii), dtype=torch.complex64)
    made, turns = bank(averages.repeat(4, 1, 1), model.frame), rotations(model.frame.orders)
    first = torch.tensor([0, 1, 2, 3, 1])
    poses = search(model.vectors[:5], model.ctf2[:5], made, turns, Workspace(made, turns), best=2, first=first)
    assert torch.equal(poses.score[:, 0], poses.score[:, 1]) and torch.equal(poses.label[:, 0], first)


def test_many_columns_in_tiles_score_as_few(model: models.Model) -> None:
    """More columns than a tile holds: every class is found where it is alone, too."""
    averages = torch.randn(90, model.frame.orders, len(model.frame.encoder.rings.radii), dtype=torch.complex64)
    averages[:, 0].imag.zero_()
    turns = rotations(model.frame.orders)
    made = bank(averages, model.frame)
    space = Workspace(made, turns)
    assert space.tile < made.shifts * made.classes
    together = search(model.vectors[:7], model.ctf2[:7], made, turns, space, best=1)
    for i, k in enumerate(together.label[:, 0].tolist()):
        alone = bank(averages[k : k + 1], model.frame)
        one = search(model.vectors[i : i + 1], model.ctf2[i : i + 1], alone, turns, Workspace(alone, turns), best=1)
        assert torch.allclose(one.score, together.score[i], rtol=1e-4)
        assert torch.allclose(one.alpha, together.alpha[i], atol=1e-3) and int(one.shift) == int(together.shift[i])


def test_a_bank_of_some_classes_scores_them_as_the_whole_does(model: models.Model) -> None:
    averages = torch.randn(4, model.frame.orders, len(model.frame.encoder.rings.radii), dtype=torch.complex64)
    averages[:, 0].imag.zero_()
    turns = rotations(model.frame.orders)
    some = bank(averages, model.frame).only(torch.tensor([3, 1]))
    alone = bank(averages[[3, 1]], model.frame)
    for part in (some, alone):
        assert part.classes == 2
    found, expected = (
        search(model.vectors[:6], model.ctf2[:6], b, turns, Workspace(b, turns), best=2) for b in (some, alone)
    )
    assert torch.allclose(found.score, expected.score) and torch.equal(found.label, expected.label)
    assert torch.allclose(found.alpha, expected.alpha) and torch.equal(found.shift, expected.shift)
