"""Ptychography against a simulated scan of a known object: does a cold start find it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.doctor.selfcheck import Check
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import PtychoOptions
from beamside.run.engine import Batch, Header
from beamside.simulate.scan import Scan, ScanRecipe

FRAMES, FRAME_PX = 200, 64
LEAST = 0.75
"""Over seeds it is 0.9 to 0.99; 0.16 to 0.26 for another object of the kind."""
_LIT = 0.3
_SHIFT_PX, _ROOM_PX = 4, 64

Complex = NDArray[np.complexfloating[Any, Any]]


def check(seed: int = 1) -> Check:
    """Correlation of the reconstructed object with the true one, 0 to 1."""
    made = Scan(ScanRecipe(frames=FRAMES, frame_px=FRAME_PX, step_px=3.0, photons=1e5, defocus_m=1e-3, seed=seed))
    options = PtychoOptions(first_frames=FRAMES, iterations_after_close=10, check_geometry=False, seed=seed)
    engine = Ptychography.fresh(options, header_of(made))
    engine.ingest(batch_of(made))
    engine.close()
    while not engine.step().finished:
        pass
    shown = engine.snapshot()
    engine.shop.shut()
    found, offset_px = shown.arrays, shown.notes["offset_px"]
    measured = likeness(made.object, found["object"], offset_px, lit(found))
    return Check("correlation of the object with the truth", measured, LEAST)


def lit(found: Any) -> NDArray[np.bool_]:
    """(H, W) pixels of a snapshot that got enough light to be known."""
    light = np.asarray(found["coverage"])
    return np.asarray(light > _LIT * np.median(light[light > 1e-3 * light.max()]))


def likeness(truth: Complex, found: Complex, offset_px: Sequence[int], where: NDArray[np.bool_]) -> float:
    """Correlation over `where` (of `found`) after the best shift by a few whole pixels, 0 to 1.

    offset_px: (row, column) of found's first pixel in `truth`, as far as it is known. Compared are the steps from pixel
    to pixel, O(r + 1) conj O(r): a phase ramp, which no data can tell, is but a factor of theirs.
    """
    wide = np.pad(truth, _ROOM_PX)
    best = 0.0
    for dy in range(-_SHIFT_PX, _SHIFT_PX + 1):
        for dx in range(-_SHIFT_PX, _SHIFT_PX + 1):
            row, column = (int(o) + _ROOM_PX + d for o, d in zip(offset_px, (dy, dx), strict=True))
            there = wide[row : row + found.shape[0], column : column + found.shape[1]]
            best = max(best, sum(_correlation(there, found, where, axis) for axis in (0, 1)) / 2)
    return best


def _correlation(one: Complex, other: Complex, where: NDArray[np.bool_], axis: int) -> float:
    known = where[1:] & where[:-1] if axis == 0 else where[:, 1:] & where[:, :-1]
    a, b = (_steps(obj, axis)[known] for obj in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float(abs(np.vdot(a, b)) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))


def _steps(obj: Complex, axis: int) -> Complex:
    """(H - 1, W) or (H, W - 1)."""
    ahead, here = (obj[1:], obj[:-1]) if axis == 0 else (obj[:, 1:], obj[:, :-1])
    return np.asarray(ahead * np.conj(here))


def header_of(made: Scan) -> Header:
    """What a source would declare of the scan."""
    recipe = made.recipe
    return Header(
        "frames",
        {
            "frame_px": recipe.frame_px, "wavelength_m": recipe.wavelength_m, "distance_m": recipe.distance_m,
            "detector_pixel_m": recipe.detector_pixel_m, "detector_mask": None, "saturation": None,
            "count": recipe.frames, "propagation": recipe.propagation, "defocus_m": recipe.source_m, "sample": None,
            "scan_uid": None,
        },
    )  # fmt: skip


def batch_of(made: Scan) -> Batch:
    """All frames as a source would give them: zero frequency at the corner."""
    frames = np.fft.ifftshift(made.frames(np.arange(made.recipe.frames)), axes=(1, 2))
    columns = {"position_m": made.recorded_px * made.recipe.pixel_m, "frame": np.arange(len(frames))}
    return Batch(tuple(f"frame {row}" for row in range(len(frames))), columns, lambda rows: frames[rows])
