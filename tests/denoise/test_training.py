"""What is minimised, against its definition."""

from __future__ import annotations

import pytest
import torch

from beamside.denoise.training import objective


def test_detail_weighs_what_block_means_do_not_hold() -> None:
    coarse = torch.randn(2, 1, 3, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert float(objective(coarse, None, 4.0)) == pytest.approx(float(coarse.square().mean()) / 5, rel=1e-5)
    fine = torch.ones(1, 1, 32, 32)
    fine[..., ::2] = -1
    assert float(objective(fine, None, 4.0)) == pytest.approx(1.0)


def test_without_detail_it_is_the_mean_square_over_the_pixels_that_count() -> None:
    error, weight = torch.randn(2, 1, 40, 24), (torch.rand(2, 1, 40, 24) < 0.2).float()
    assert float(objective(error, None, 0.0)) == pytest.approx(float(error.square().mean()))
    expected = float(error[weight > 0].square().mean())
    assert float(objective(error, weight, 4.0)) == pytest.approx(expected, rel=1e-5)


def test_sizes_that_are_no_multiple_of_a_block_are_taken() -> None:
    assert torch.isfinite(objective(torch.randn(1, 1, 40, 10), None, 4.0))
    assert torch.isfinite(objective(torch.randn(1, 1, 40, 50), None, 4.0))
