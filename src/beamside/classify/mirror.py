"""Mirror images of class averages, so that views from opposite sides share a class.

Reflecting an image at the x axis turns its coefficient of order m into that of order -m: (-1)^m conj(a_m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from beamside.classify.average import Averages, Sums


def reflected(values: Tensor) -> Tensor:
    """(K, M, R) coefficients of the reflected images."""
    sign = 1.0 - 2.0 * (torch.arange(values.shape[1]) % 2)
    return values.conj() * sign[:, None]


def with_mirrors(averages: Averages) -> Averages:
    """K averages followed by their K reflections."""
    values = torch.cat([averages.values, reflected(averages.values)])
    precision = averages.precision
    return Averages(values, None if precision is None else torch.cat([precision, precision]), averages.prior)


def folded(sums: Sums) -> Sums:
    """Sums over 2K classes as those over K: the reflected half is reflected back."""
    half = len(sums.weight) // 2
    return Sums(
        sums.coefficients[:half] + reflected(sums.coefficients[half:]),
        sums.ctf2[:half] + sums.ctf2[half:],
        sums.weight[:half] + sums.weight[half:],
    )
