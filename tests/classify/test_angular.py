"""Damping by angular order: what it takes away, and what it must leave."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from beamside.classify.angular import damped
from beamside.optics.masks import radius_grid_px

BOX_PX, RADIUS_PX, LEAST = 48, 16.0, 0.03
CLASSES = 6


def pattern(orders: list[int], seed: int) -> Tensor:
    """Images (K, n, n) of these angular orders inside the radius, each class with its own phases."""
    axis = torch.arange(BOX_PX, dtype=torch.float64) - BOX_PX // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, radius = torch.atan2(y, x), radius_grid_px(BOX_PX).double()
    phases = 2 * math.pi * torch.rand(CLASSES, len(orders), generator=torch.Generator().manual_seed(seed))
    waves = sum(torch.cos(m * angle - phases[:, i, None, None]) for i, m in enumerate(orders))
    envelope = torch.exp(-(((radius - 9) / 4) ** 2)) * (radius < RADIUS_PX)
    return torch.as_tensor(waves) * envelope


def restored(orders: list[int], noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Truth, the averages filtered by ring, and the same damped."""
    chance = torch.Generator().manual_seed(7)
    truth = pattern(orders, 1)
    inside = (radius_grid_px(BOX_PX) < RADIUS_PX).double()
    halves = torch.stack(
        [truth + noise * inside * torch.randn(truth.shape, generator=chance, dtype=torch.float64) for _ in range(2)]
    )
    share = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64)
    ratio = float(truth.square().mean() / (0.5 * noise**2 * inside.mean()))
    ssnr = torch.full((CLASSES, BOX_PX // 2 + 1), ratio, dtype=torch.float64)
    found = halves.mean(0) * ratio / (1 + ratio)
    return truth, found, damped(found, halves, ssnr, share, RADIUS_PX, LEAST)


def correlation(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


@pytest.mark.parametrize("noise", [0.7, 1.5])
def test_a_view_of_few_orders_loses_the_noise_of_all_others(noise: float) -> None:
    truth, found, better = restored([4, 8], noise)
    before, after = 1 - correlation(truth, found) ** 2, 1 - correlation(truth, better) ** 2
    assert after < 0.6 * before


def test_views_of_all_orders_are_left_nearly_as_they_are() -> None:
    truth, found, better = restored(list(range(1, 14)), 1.0)
    assert correlation(found, better) > 0.97
    assert correlation(truth, better) > correlation(truth, found) - 0.002


def test_the_radial_part_stays() -> None:
    _, found, better = restored([0, 4], 1.0)
    ring = radius_grid_px(BOX_PX).round().long().flatten()
    change, count = (better - found).flatten(1), torch.bincount(ring)
    sums = torch.zeros(CLASSES, len(count), dtype=torch.float64).index_add_(1, ring, change)
    # Pixels of a ring are few and lie unevenly, so that a little of the other orders is left in its mean.
    assert float((sums.square() / count).sum()) < 0.03 * float(change.square().sum())


def test_nothing_is_done_where_nothing_is_seen_and_empty_classes_stay_empty() -> None:
    halves, share = torch.zeros(2, CLASSES, BOX_PX, BOX_PX, dtype=torch.float64), torch.full((CLASSES,), 1 / CLASSES)
    ssnr = torch.full((CLASSES, BOX_PX // 2 + 1), LEAST, dtype=torch.float64)
    found = torch.ones(CLASSES, BOX_PX, BOX_PX, dtype=torch.float64)
    assert damped(found, halves, ssnr, share, RADIUS_PX, LEAST) is found
    empty = damped(0 * found, halves, 10 * ssnr, share, RADIUS_PX, LEAST)
    assert empty.isfinite().all() and not empty.any()
