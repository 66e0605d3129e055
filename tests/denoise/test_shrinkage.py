"""The term takes the same amplitude from every block's fine part, and nothing from what is coarse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from beamside.denoise.shrinkage import BLOCK_PX, Shrinkage, fine_part


def wave(period_px: float, side: int = 128) -> Tensor:
    """A wave along y of unit root mean square, (1, 1, side, side)."""
    phase = 2 * math.pi * torch.arange(side) / period_px
    return (2**0.5 * torch.sin(phase))[:, None].expand(side, side)[None, None].contiguous()


@pytest.mark.parametrize(("period_px", "kept"), [(64, 0.0), (32, 0.0), (8, 1.0), (4, 1.0)])
def test_the_band(period_px: float, kept: float) -> None:
    found = fine_part(wave(period_px), 18.0)
    assert float(found.square().mean().sqrt()) == pytest.approx(kept, abs=0.01)


def test_the_band_follows_the_size_of_a_pixel() -> None:
    assert Shrinkage(1.0, 2.0).finer_than_px == 12.0
    assert Shrinkage(1.0, 0.0).finer_than_px == 18.0


def test_every_block_loses_the_same_amplitude() -> None:
    """Minimised over the output itself: quiet blocks keep 1 of 1 + strength, the loud one loses no more than they."""
    amplitude = torch.full((1, 1, 4, 4), 0.2)
    amplitude[..., 1, 2] = 1.0
    target = wave(8) * amplitude.repeat_interleave(BLOCK_PX, 2).repeat_interleave(BLOCK_PX, 3) + wave(128)
    output = target.clone().requires_grad_()
    shrinkage = Shrinkage(3.0, 0.0)
    optimiser = torch.optim.Adam([output], 3e-3)
    for _ in range(400):
        optimiser.zero_grad()
        ((output - target).square().mean() + shrinkage(output)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    blocks = torch.nn.functional.avg_pool2d(fine_part(output.detach(), 18.0).square(), BLOCK_PX).sqrt()
    quiet, loud = float(blocks.flatten().median()), float(blocks[0, 0, 1, 2])
    assert quiet == pytest.approx(0.2 / 4, abs=0.02)
    assert loud == pytest.approx(1.0 - 0.15, abs=0.04)
    coarse = [float((image - fine_part(image, 18.0)).square().mean()) for image in (output.detach(), target)]
    assert coarse[0] == pytest.approx(coarse[1], rel=0.01)


def test_without_strength_or_without_a_block_it_is_nothing() -> None:
    assert float(Shrinkage(0.0, 1.0)(wave(8))) == 0.0
    assert float(Shrinkage(3.0, 1.0)(wave(8, BLOCK_PX - 2))) == 0.0
    assert float(Shrinkage(3.0, 1.0)(wave(8))) > 0.0
