"""Lengths that people read easily."""

from __future__ import annotations

import math


def round_length(most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is no more than `most` (> 0), in its unit."""
    unit = 10.0 ** math.floor(math.log10(most))
    return max(step * unit for step in (1.0, 2.0, 5.0) if step * unit <= most * (1 + 1e-9))
