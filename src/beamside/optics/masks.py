"""Masks in real space, centred at index n//2 as all images are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from beamside.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def radius_grid_px(
    box_px: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Distance of every pixel from the centre n//2, (box, box)."""
    import torch

    axis = torch.arange(box_px, dtype=dtype or torch.float32, device=device) - box_px // 2
    return torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)


def soft_circle(
    box_px: int,
    radius_px: float,
    edge_px: float,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A circle with a raised-cosine rim, (box, box): 1 up to `radius_px`, 0 from `radius_px + edge_px`, half between.

    OptionError for a negative radius or edge. `edge_px` of 0 is a hard circle that includes its radius.
    """
    import torch

    if radius_px < 0 or edge_px < 0:
        raise OptionError(f"a mask of radius {radius_px} px and edge {edge_px} px is impossible.")
    radius = radius_grid_px(box_px, dtype=dtype, device=device)
    if edge_px == 0:
        return (radius <= radius_px).to(radius.dtype)
    outward = ((radius - radius_px) / edge_px).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * outward))


def moved(mask: Tensor, centres_px: Tensor) -> Tensor:
    """`mask` (n, n) round each of `centres_px` (b, 2: x, y from n//2) in whole pixels: (b, n, n).

    What comes in from outside is 0. Where all centres are in the middle it is (n, n), `mask` itself.
    """
    from torch.nn import functional

    at = centres_px.round().long()
    reach = int(at.abs().max()) if len(at) else 0
    if not reach:
        return mask
    size = mask.shape[-1]
    windows = functional.pad(mask, (reach, reach, reach, reach)).unfold(0, size, 1).unfold(1, size, 1)
    return windows[reach - at[:, 1], reach - at[:, 0]]


def gaussian(
    box_px: int, sigma_px: float, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """exp(-r^2 / 2 sigma^2), 1 at the centre, (box, box). OptionError unless sigma is positive."""
    import torch

    if sigma_px <= 0:
        raise OptionError(f"a Gaussian mask of sigma {sigma_px} px is impossible.", remedy="Give a positive one.")
    return torch.exp(-0.5 * (radius_grid_px(box_px, dtype=dtype, device=device) / sigma_px) ** 2)
