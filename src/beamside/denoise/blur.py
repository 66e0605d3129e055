"""The Gaussian blur: the control that every model has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_blur(image: Tensor, sigma_px: float) -> Tensor:
    """(H, W) float32, reflected at its borders; the kernel reaches 4 sigma or the image's side."""
    reach = min(math.ceil(4 * sigma_px), *(side - 1 for side in image.shape))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-at.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(image[None, None], (reach,) * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0]
