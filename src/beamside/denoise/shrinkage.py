"""What a network gives of fine detail is shrunk, in training, where there is least of it.

Noise2noise converges to all that both halves share, and between 20 and 10 A most of that is ice: several times the
power of the molecules, spread evenly, where they are bright in places. So the amplitude of the output's fine part in
each small block is made to cost something (a group lasso; Yuan and Lin, J. R. Statist. Soc. B 68 (2006) 49): its
minimiser takes the same amount from every block, which leaves little of what is everywhere and most of what stands
out. That amount follows the quieter blocks, so it needs no unit. It moves no phase, and only what is finer than 24 A.

It acts in the cool-down alone: fine detail must have been learned before it can be told from ice, and a network that
pays for it from the beginning learns less of it. Only what is minimised has this term: every loss that is counted,
reported or compared is the plain mean square.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FINER_THAN_A = 24.0
_FINER_THAN_PX = 18.0
"""Where the size of a pixel is not known: as at 1.3 A."""
_EDGE = 10.0
"""Steepness of the band's edge in the logarithm of the frequency."""
BLOCK_PX = 32
_QUIET = 0.3
"""The quantile of the blocks' amplitudes that stands for what is everywhere."""
_KEEP = 0.95


class Shrinkage:
    """The term, and the amplitude that it compares with, which follows the training.

    strength: how many times the quiet blocks' amplitude is taken from every block. pixel_size_A: 0 if not known.
    """

    def __init__(self, strength: float, pixel_size_A: float) -> None:
        self.strength = strength
        self.finer_than_px = FINER_THAN_A / pixel_size_A if pixel_size_A > 0 else _FINER_THAN_PX
        self.quiet = 0.0
        self.latest = 0.0

    def __call__(self, output: Tensor) -> Tensor:
        """The term for an output (B, 1, h, w) of at least a block on each side; 0 for a smaller one."""
        if not self.strength or min(output.shape[-2:]) < BLOCK_PX:
            return output.new_zeros(())
        fine = fine_part(output, self.finer_than_px)
        amplitude = (functional.avg_pool2d(fine.square(), BLOCK_PX) + 1e-12).sqrt()
        now = float(amplitude.detach().flatten().quantile(_QUIET))
        self.quiet = now if self.quiet == 0 else _KEEP * self.quiet + (1 - _KEEP) * now
        term = 2 * self.strength * self.quiet * amplitude.mean()
        self.latest = float(term.detach())
        return term


def fine_part(image: Tensor, finer_than_px: float) -> Tensor:
    """What an image (..., h, w) has at periods below `finer_than_px`; the edge of the band is soft."""
    height, width = image.shape[-2:]
    ky = torch.fft.fftfreq(height, device=image.device)[:, None]
    kx = torch.fft.rfftfreq(width, device=image.device)[None, :]
    k = torch.hypot(ky, kx).clamp(min=1e-9)
    band = torch.sigmoid(_EDGE * torch.log(k * finer_than_px))
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * band, s=(height, width))
    return found
