"""What happens to a micrograph when it becomes active: looked at once, scaled, aligned, and given its role."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.alignment import displacement
from beamside.denoise.guards import CERTAIN_PX, DEPENDENT, DISPLACED_PX, DRIFTED_PX, SIGNIFICANT
from beamside.denoise.micrograph import HELD_OUT, TRAIN, Micrograph, earliest_by_hash, is_held_out
from beamside.denoise.normalise import robust_scale
from beamside.errors import InputError
from beamside.run.engine import Batch

_SPLIT_SHARE = 0.75
"""Of the rows of a lone micrograph that train; the rest is held out."""
_DETAIL_PX = 512


@dataclass(frozen=True)
class Displaced:
    """A pair whose second image lies elsewhere."""

    key: str
    dy_px: float
    dx_px: float
    length_px: float
    set_aside: bool


@dataclass
class Intake:
    """Looks at micrographs; what it noticed waits in its lists for the guards."""

    single: bool
    least_px: int
    unusable: list[str] = field(default_factory=list)
    dependent: list[str] = field(default_factory=list)
    displaced: list[Displaced] = field(default_factory=list)

    def look(self, batch: Batch, row: int, pixels: NDArray[Any]) -> Micrograph | None:
        """A usable micrograph, not yet given a role beyond its hash's; None when it is set aside.

        pixels: (2, H, W).
        """
        key, tile = batch.keys[row], int(batch.columns["tile_px"][row])
        height, width = pixels.shape[1:]
        if min(height, width) < self.least_px or not all(np.isfinite(row).all() for row in pixels.reshape(-1, width)):
            self.unusable.append(key)
            return None
        try:
            # Patches come from anywhere: together they are no field that could slope.
            scale = robust_scale(pixels[0], pixels[1], where=key, sloping=not tile)
        except InputError:
            self.unusable.append(key)
            return None
        role = HELD_OUT if is_held_out(key) else TRAIN
        cost = int(batch.columns["load_bytes"][row])
        found = Micrograph(key, height, width, tile, scale, 0, 0, cost, role, 0, height)
        if self.single:
            return found
        spreads = [robust_scale(image, where=key, like=scale).spread for image in pixels]
        found = found.at_levels(*(spread / scale.spread for spread in spreads))
        if shared_noise(pixels[0], pixels[1]) > DEPENDENT:
            self.dependent.append(key)
            return None
        return found if tile else self._aligned(found, pixels)

    def _aligned(self, found: Micrograph, pixels: NDArray[Any]) -> Micrograph | None:
        moved = displacement(pixels[0], pixels[1], found.scale)
        if moved.length_px < max(DISPLACED_PX, CERTAIN_PX / moved.significance) or moved.significance < SIGNIFICANT:
            return found
        drifted = moved.length_px > DRIFTED_PX
        self.displaced.append(Displaced(found.key, moved.dy_px, moved.dx_px, moved.length_px, drifted))
        return None if drifted else replace(found, dy_px=round(moved.dy_px), dx_px=round(moved.dx_px))


def shared_noise(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Correlation of the finest detail of two images (H, W): differences of diagonal neighbours in the centre."""
    details = []
    for image in (first, second):
        y, x = (max(0, (side - _DETAIL_PX) // 2) for side in image.shape)
        z = image[y : y + _DETAIL_PX, x : x + _DETAIL_PX].astype(np.float64)
        fine = z[:-1, :-1] - z[1:, :-1] - z[:-1, 1:] + z[1:, 1:]
        # Ranks would cost more; cutting outliers does the same for hot pixels.
        limit = 5 * np.median(np.abs(fine)) + 1e-30
        details.append(np.clip(fine, -limit, limit).ravel())
    if min(d.std() for d in details) == 0:
        return 0.0
    return float(np.corrcoef(details[0], details[1])[0, 1])


def with_roles(new: list[Micrograph], *, some_held_out: bool) -> list[Micrograph]:
    """Roles for the first usable micrographs, so that there is something to train on and something to score by.

    Chance (the hash) may hold out none or all: then the one whose hash is smallest changes sides. A lone micrograph is
    cut: its upper rows train, its lower ones are held out.
    """
    if some_held_out or not new:
        return new
    if len(new) == 1:
        only = new[0]
        edge = round(only.height_px * _SPLIT_SHARE)
        edge -= edge % only.tile_px if only.tile_px else 0
        return [replace(only, role=TRAIN, bottom=edge), replace(only, role=HELD_OUT, top=edge)]
    wanted = HELD_OUT if all(m.role == TRAIN for m in new) else TRAIN
    if all(m.role == HELD_OUT for m in new) or wanted == HELD_OUT:
        chosen = earliest_by_hash([m.key for m in new])
        return [replace(m, role=wanted) if m.key == chosen else m for m in new]
    return new
