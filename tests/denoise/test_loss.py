"""The loss of unequal batches is the loss of all their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.denoise.loss import Comparison, Tally


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_it_is_the_mean_over_all_pixels_of_unequal_batches(shapes: list[tuple[int, int, int]]) -> None:
    rng = np.random.default_rng(0)
    tally, ranks, other = Tally(), [Tally(), Tally()], Comparison()
    pixels = []
    for number, (count, height, width) in enumerate(shapes):
        o, t = rng.standard_normal((2, count, 1, height, width)).astype(np.float32)
        for counted in (tally, ranks[number % 2]):
            counted.add(torch.from_numpy(o), torch.from_numpy(t))
        for single in zip(o[:, 0], t[:, 0], strict=True):
            other.add(*single, None)
        pixels.append(np.stack([o, t]).astype(np.float64).reshape(2, -1))
    o, t = np.concatenate(pixels, axis=1)
    expected = np.mean((o - t) ** 2)
    assert tally.mean == pytest.approx(expected, rel=1e-12)
    ranks[0].merge(ranks[1])
    assert ranks[0].mean == pytest.approx(expected, rel=1e-12)
    assert other.mean == pytest.approx(expected, rel=1e-12) and other.pixels == o.size
    assert other.offset == pytest.approx(o.mean() - t.mean(), abs=1e-12)
    if o.size > 1:
        assert other.correlation == pytest.approx(np.corrcoef(o, t)[0, 1], abs=1e-12)


def test_only_weighted_pixels_count_in_both_ways() -> None:
    o, t = np.array([[3.0, 7.0]], np.float32), np.array([[1.0, 0.0]], np.float32)
    w = np.array([[1.0, 0.0]], np.float32)
    tally = Tally()
    tally.add(*(torch.from_numpy(a)[None, None] for a in (o, t, w)))
    other = Comparison()
    other.add(o, t, w)
    other.add(o, t, np.zeros_like(w))
    assert tally.mean == other.mean == 4.0 and other.pixels == 1 and other.correlation == 0.0


def test_float64_holds_where_float32_sums_drift() -> None:
    tally, tiny = Tally(), torch.full((1, 1, 64, 64), 1e-3)
    tally.add(torch.full((1, 1, 1, 1), 1e4), torch.zeros(1, 1, 1, 1))
    for _ in range(50):
        tally.add(tiny, torch.zeros_like(tiny))
    assert tally.squared - 1e8 == pytest.approx(50 * 4096 * float(tiny[0, 0, 0, 0]) ** 2, rel=1e-6)
