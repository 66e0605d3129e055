"""Which mask the particles get: what the user asked for, or what their measured size calls for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from beamside.classify.diameter import from_images
from beamside.classify.options import ClassifyOptions
from beamside.classify.population import Population
from beamside.optics.masks import gaussian, soft_circle

_EDGE_SHARE = 0.05
_WIDEST_SHARE = 0.9
_SURE = 0.5


@dataclass(frozen=True)
class Mask:
    """The mask (n, n), the particle diameter it stands for, and a note when the size had to be guessed."""

    mask: Tensor
    diameter_A: float
    note: str = ""


def choose_mask(
    options: ClassifyOptions, population: Population, sample: Tensor, box_px: int, pixel_size_A: float
) -> Mask:
    """A soft circle of the given or measured diameter, or a Gaussian of the given sigma."""
    if options.mask_sigma_px is not None:
        sigma_px = box_px / 3 if options.mask_sigma_px == "auto" else float(options.mask_sigma_px)
        rim = circle(box_px, _WIDEST_SHARE * box_px)
        return Mask(gaussian(box_px, sigma_px) * rim, min(_WIDEST_SHARE * box_px, 2.5 * sigma_px) * pixel_size_A)
    if options.mask_diameter_A is not None:
        return Mask(circle(box_px, options.mask_diameter_A / pixel_size_A), options.mask_diameter_A)
    found = from_images(population.images(sample), population.params(sample), pixel_size_A)
    if found.diameter_A is None or found.confidence < _SURE:
        widest_A = _WIDEST_SHARE * box_px * pixel_size_A
        note = f"the particle's diameter could not be measured ({found.reason}); a mask of {widest_A:.0f} A is used."
        return Mask(circle(box_px, _WIDEST_SHARE * box_px), widest_A, note)
    return Mask(circle(box_px, found.diameter_A / pixel_size_A), found.diameter_A)


def circle(box_px: int, diameter_px: float) -> Tensor:
    """A soft circle whose half height lies at the diameter, rim of 5 % of the box."""
    edge = max(2.0, _EDGE_SHARE * box_px)
    radius = min(diameter_px / 2, box_px / 2 - edge / 2)
    return soft_circle(box_px, max(1.0, radius - edge / 2), edge)
