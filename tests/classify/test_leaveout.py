"""What a particle has put into its references, against counting and against solutions with and without it."""

from __future__ import annotations

import math

import numpy as np
import torch

from beamside.classify import volume
from beamside.classify.leaveout import OfClasses, OfVolume, Traces, overlap
from beamside.classify.slices import Latitudes, Slices


def test_overlap_is_the_share_of_one_great_circle_near_another() -> None:
    angle = np.arange(40000) * 2 * np.pi / 40000
    for between in (0.02, 0.3, 1.0, math.pi / 2):
        height = np.sin(angle) * math.sin(between)
        counted = float((np.abs(np.arcsin(height)) <= 0.1).mean())
        assert abs(float(overlap(torch.tensor(math.cos(between)), 0.2)) - counted) < 2e-4


def test_noise_alone_scores_what_it_has_put_into_the_volume() -> None:
    """Particles of noise, each put in at one view: its product with that slice is its own part of it, on average."""
    generator = torch.Generator().manual_seed(0)
    views = Latitudes.even(60, np.random.default_rng(0))
    slices = Slices.along(views, 9, 6)
    degrees, count = torch.tensor([4, 6]), 3000
    where = torch.randint(0, len(views), (count,), generator=generator)
    noise = torch.complex(*torch.randn(2, count, 9, 2, generator=generator))
    noise[:, 0].imag.zero_()
    sums = torch.zeros(len(views), 9, 2, dtype=torch.complex64).index_add_(0, where, noise)
    seen = torch.bincount(where, minlength=len(views)).float()[:, None].expand(-1, 2)
    found = None
    for _ in range(6):
        found = volume.solve(slices, sums, seen, degrees, torch.ones(2), found)
    assert found is not None
    variance = slices.variance(found.variance)
    score = (noise.conj() * slices.project(found.harmonics)[where]).real.sum((1, 2))
    expected = (noise.abs() ** 2 * variance).sum((1, 2))
    assert abs(float(score.mean() / expected.mean()) - 1) < 0.2
    alone = (noise.conj() * slices.project(found.harmonics)[where.roll(1)]).real.sum((1, 2))
    assert abs(float(alone.mean())) < 0.4 * float(expected.mean()), "where others were put it scores next to nothing"


def test_only_what_stands_in_the_references_is_taken_out() -> None:
    variance = torch.tensor([[0.5, 0.5], [0.1, 0.2]])
    of = OfClasses(variance, torch.tensor([[1, 0], [0, 1]]), torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
    assert torch.allclose(of.own(torch.tensor([[2.0, 1.0]] * 2), torch.arange(2)), torch.tensor([[0, 0.2], [0, 0]]))
    traces = Traces.empty(1).extended(3)
    toward = torch.eye(3)[None].repeat(2, 1, 1)
    traces.record(torch.tensor([0, 1]), toward, torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]), 0.0, 1.0)
    traces.record(torch.tensor([1]), toward[:1], torch.tensor([[1.0, 0.0, 0.0]]), 0.5, 0.5)
    assert torch.allclose(traces.share.sum(1), torch.tensor([0.5, 0.5, 0.0]))
    taken = OfVolume.of(torch.tensor([1.0]), traces, torch.eye(3), 0.1).own(torch.ones(3, 1), torch.arange(3))
    assert taken[0].argmax() == 0 and taken[1, 0] > 5 * taken[1, 2] and not taken[2].any()
