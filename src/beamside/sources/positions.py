"""Which positions of a scan can be used: those that are finite and not absurdly far from all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beamside.run.guard import Finding, Severity

LEAST_FOR_STATISTICS = 16
_REACH = 3.0
"""Spreads (5th to 95th percentile) beyond those percentiles; a uniform scan ends 0.06 spreads beyond them."""
_REMEDY = "These frames are left out; check the encoder or the trigger that gave them."


def absurd(positions_m: NDArray[np.float64], all_m: NDArray[np.float64], window_m: float) -> NDArray[np.bool_]:
    """(n,): positions far outside of what `all_m` (m, 2) says a scan covers; none while m is below 16.

    The spread is that of the longer axis, and a window at least, so that a single line of a raster is no narrow scan.
    """
    known = all_m[np.isfinite(all_m).all(1)]
    if len(known) < LEAST_FOR_STATISTICS:
        return np.zeros(len(positions_m), dtype=np.bool_)
    # Of few positions not between two of them: the 95th percentile of 16 would be a quarter of the absurd one itself.
    low, high = np.percentile(known, 5, axis=0, method="higher"), np.percentile(known, 95, axis=0, method="lower")
    reach = _REACH * max(float((high - low).max()), window_m)
    with np.errstate(invalid="ignore"):
        return np.asarray(((positions_m < low - reach) | (positions_m > high + reach)).any(1))


def outside_finding(numbers: Sequence[int], positions_m: NDArray[np.float64]) -> Finding:
    """Frames that are set aside since their positions are absurd."""
    shown = ", ".join(
        f"frame {number} at ({y * 1e6:.4g}, {x * 1e6:.4g}) um"
        for number, (y, x) in list(zip(numbers, positions_m.tolist(), strict=True))[:5]
    )
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return Finding(
        "positions.inside", Severity.NOTE, f"positions far outside of the scan: {shown}{more}.", _REMEDY,
        {"frames": [int(number) for number in numbers[:100]], "count": len(numbers)},
    )  # fmt: skip


def lost_finding(guard: str, severity: Severity, numbers: Sequence[int], what: str, remedy: str) -> Finding:
    """Frames that are set aside for `what` ("have no position")."""
    shown = ", ".join(str(number) for number in list(numbers)[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    noun = "frame" if len(numbers) == 1 else "frames"
    saw = f"{len(numbers)} {noun} {what}: {shown}{more}."
    values = {"frames": [int(n) for n in numbers[:100]], "count": len(numbers)}
    return Finding(guard, severity, saw, remedy, values)
