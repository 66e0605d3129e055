"""Held-out micrographs on which a model is worse than the best Gaussian blur, though over all of them it is better.

The gate asks for the mean. A micrograph whose two images do not belong together, or that is unlike all others, hides in
it. One counts when its crops say so by more than they differ among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_ERRORS = 4.0
"""Standard errors of a micrograph's mean difference. With the eight or twelve errors that most have (four or six crops,
in both directions), one in 400 or 1,000 exceeds them by chance where model and blur are as good as each other."""
_LEAST_CROPS = 4
"""Fewer say nothing of how much they differ."""


def lost(keys: Sequence[str], model: Sequence[float], blur: Sequence[float]) -> list[str]:
    """Those of `keys` on which the model loses; keys, losses of the model and of the blur are given crop by crop."""
    found = []
    for key in dict.fromkeys(keys):
        apart = np.array([m - b for name, m, b in zip(keys, model, blur, strict=True) if name == key])
        if len(apart) < _LEAST_CROPS:
            continue
        error = float(apart.std(ddof=1)) / len(apart) ** 0.5
        if float(apart.mean()) > LEAST_ERRORS * error:
            found.append(key)
    return found
