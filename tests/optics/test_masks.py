from __future__ import annotations

import math

import pytest
import torch

from beamside.errors import OptionError
from beamside.optics.masks import gaussian, moved, radius_grid_px, soft_circle


@pytest.mark.parametrize("box_px", [16, 17])
def test_the_centre_is_at_half_the_box(box_px: int) -> None:
    radius = radius_grid_px(box_px, dtype=torch.float64)
    assert radius[box_px // 2, box_px // 2] == 0 and (radius == 0).sum() == 1
    assert radius[box_px // 2 + 3, box_px // 2 + 4].item() == 5.0


def test_the_rim_falls_as_a_cosine() -> None:
    mask = soft_circle(32, 8, 4, dtype=torch.float64)
    along = mask[16, 16:]
    assert along[:9].tolist() == [1.0] * 9 and along[12:].abs().max() == 0
    assert along[9:12].tolist() == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 4)) for i in (1, 2, 3)])
    hard = soft_circle(32, 8, 0)
    assert set(hard.unique().tolist()) == {0.0, 1.0} and hard[16, 24] == 1 and hard[16, 25] == 0


def test_a_gaussian_falls_to_its_inflection_at_sigma() -> None:
    mask = gaussian(32, 5.0, dtype=torch.float64)
    assert mask[16, 16] == 1 and mask[16, 21].item() == pytest.approx(math.exp(-0.5))
    assert mask.dtype == torch.float64 and gaussian(8, 1.0).dtype == torch.float32


def test_impossible_masks() -> None:
    for build in (lambda: soft_circle(8, -1, 2), lambda: soft_circle(8, 1, -2), lambda: gaussian(8, 0.0)):
        with pytest.raises(OptionError):
            build()


def test_a_moved_mask_is_round_each_centre() -> None:
    mask = soft_circle(16, 3, 2)
    assert moved(mask, torch.tensor([[0.4, -0.4]])) is mask
    there = moved(mask, torch.tensor([[0.0, 0.0], [2.6, -1.2], [-9.0, 0.0]]))
    assert torch.equal(there[0], mask)
    # x is along the columns, y along the rows.
    assert torch.equal(there[1][:-1, 3:], mask[1:, :-3]) and not there[1][:, :3].any()
    assert torch.equal(there[2][:, :-9], mask[:, 9:]) and not there[2][:, -9:].any()
