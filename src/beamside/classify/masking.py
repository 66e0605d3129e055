"""Which mask the particles get: what the user asked for, or what their measured size calls for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from beamside.classify.diameter import from_images
from beamside.classify.options import ClassifyOptions
from beamside.classify.population import Population
from beamside.classify.schedule import Stage
from beamside.optics.masks import gaussian, soft_circle

_EDGE_SHARE = 0.05
_WIDEST_SHARE = 0.9
_SURE = 0.5
_FARTHEST = 1.75
"""Standard deviations along an axis within which particles lie off the middle: sqrt(3) where they do so evenly."""


@dataclass(frozen=True)
class Mask:
    """Masks (n, n), the particle diameter they stand for, and a note when the size had to be guessed.

    tight: moved to a particle's centre. wide: for particles whose centre is not known yet, so that none is cut that
    lies off the middle of its image.
    """

    tight: Tensor
    wide: Tensor
    diameter_A: float
    note: str = ""

    def of(self, stage: Stage, reach_px: float) -> Tensor:
        """That of a stage; one that looks as far as `reach_px`, as for new particles, does not know their centres."""
        return self.wide if stage.reach_px >= reach_px else self.tight


def choose_mask(
    options: ClassifyOptions, population: Population, sample: Tensor, box_px: int, pixel_size_A: float
) -> Mask:
    """A soft circle of the given or measured diameter, or a Gaussian of the given sigma."""
    widest_px = _WIDEST_SHARE * box_px
    if options.mask_sigma_px is not None:
        sigma_px = box_px / 3 if options.mask_sigma_px == "auto" else float(options.mask_sigma_px)
        fading = gaussian(box_px, sigma_px) * circle(box_px, widest_px)
        return Mask(fading, fading, min(widest_px, 2.5 * sigma_px) * pixel_size_A)
    found = from_images(population.images(sample), population.params(sample), pixel_size_A)
    note, diameter_A = "", options.mask_diameter_A or found.diameter_A or 0.0
    if options.mask_diameter_A is None and (found.diameter_A is None or found.confidence < _SURE):
        diameter_A = widest_px * pixel_size_A
        note = f"the particle's diameter could not be measured ({found.reason}); a mask of {diameter_A:.0f} A is used."
    diameter_px, off_px = diameter_A / pixel_size_A, _FARTHEST * found.shift_A / pixel_size_A
    wide_px = max(diameter_px, min(widest_px, diameter_px + 2 * off_px))
    return Mask(circle(box_px, diameter_px), circle(box_px, wide_px), diameter_A, note)


def circle(box_px: int, diameter_px: float) -> Tensor:
    """A soft circle whose half height lies at the diameter, rim of 5 % of the box."""
    edge = max(2.0, _EDGE_SHARE * box_px)
    radius = min(diameter_px / 2, box_px / 2 - edge / 2)
    return soft_circle(box_px, max(1.0, radius - edge / 2), edge)
