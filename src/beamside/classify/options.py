"""What a user can ask of a 2D classification, checked and resolved against what the particles allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamside.errors import CapacityError, OptionError

LARGEST_BOX_PX = 256
_NYQUIST_MARGIN_A = 0.5
_MAX_RESOLUTION_A = 8.0
"""The finest usable resolution is two pixels and this, as Xmipp raises it: the corner rings are not filled."""


@dataclass(frozen=True)
class References:
    """Class averages to start from: images (K, n, n) white on black, with the numbers that their classes keep."""

    images: NDArray[np.float32]
    pixel_size_A: float
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class ClassifyOptions:
    """Options of the classification; the command line's names with units.

    OptionError for a value that is impossible or would be ignored.
    """

    mode: Literal["create", "update"] = "create"
    classes: int = 50
    first_batch: int = 5000
    batch_size: int | None = None
    """Particles a round after the first; None: as many as the first."""
    max_resolution_A: float = _MAX_RESOLUTION_A
    min_resolution_A: float = 0.0
    mask_diameter_A: float | None = None
    mask_sigma_px: float | Literal["auto"] | None = None
    """Gaussian mask; "auto" is box/3. With neither diameter nor sigma the particle's size is measured."""
    ctf: bool = True
    iterations: int | None = None
    """Passes of a first round; None: as the schedule has it."""
    start: Literal["auto", "volume", "classes"] = "auto"
    """From one volume that all particles are views of, from free classes, or from the volume if it explains more."""
    variance: float = 0.85
    training_particles: int = 2000
    mirror: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    references: References | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._at_least("classes", 1)
        self._at_least("first_batch", 1)
        self._at_least("training_particles", 10)
        for name in ("batch_size", "iterations", "threads"):
            if getattr(self, name) is not None:
                self._at_least(name, 1)
        if not 0 < self.variance <= 1:
            raise OptionError(f"--variance is {self.variance:g}.", remedy="Give a share between 0 and 1.")
        if self.max_resolution_A <= 0 or self.min_resolution_A < 0:
            raise OptionError("a resolution limit is not positive.", remedy="Give Angstroms; 0 for no coarse limit.")
        if 0 < self.min_resolution_A <= self.max_resolution_A:
            raise OptionError(
                f"--min-resolution {self.min_resolution_A:g} A is not coarser than --max-resolution "
                f"{self.max_resolution_A:g} A.",
                remedy="Give a larger --min-resolution, or 0.",
            )
        if self.mask_diameter_A is not None and self.mask_sigma_px is not None:
            raise OptionError("--mask-diameter and --mask-sigma exclude each other.", remedy="Give one of them.")
        if (self.mode == "update") != (self.references is not None):
            raise OptionError(
                f"warmstart.explicit: --mode {self.mode} "
                f"{'needs' if self.mode == 'update' else 'takes no'} --references.",
                remedy="Give class averages with --mode update, and only then.",
            )

        if self.start == "volume" and (self.mode == "update" or self.mirror):
            raise OptionError(
                f"--start volume does not go with {'--mirror' if self.mirror else '--mode update'}.",
                remedy="Leave --start at auto, or drop the other.",
            )

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise OptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}.", remedy=f"Give {least} or more.")

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json; references are recorded there by path and checksum."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "references"}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], references: References | None = None) -> ClassifyOptions:
        """The options of an earlier process."""
        known = {f.name for f in fields(cls)} - {"references"}
        return cls(**{k: v for k, v in values.items() if k in known}, references=references)


@dataclass(frozen=True)
class Limits:
    """Resolution limits as rings (Fourier pixels), with a note where the request could not be met."""

    first_ring: int
    last_ring: int
    max_resolution_A: float
    note: str = ""


def resolve_limits(options: ClassifyOptions, box_px: int, pixel_size_A: float) -> Limits:
    """Clamp the finest resolution to what the pixel size allows; CapacityError for a box that is too large."""
    if box_px > LARGEST_BOX_PX:
        factor = -(-box_px // LARGEST_BOX_PX)
        fits = box_px // factor - (box_px // factor) % 2
        raise CapacityError(
            f"capacity.declared: boxes of {box_px} px are over the {LARGEST_BOX_PX} px that 2D classification takes.",
            where="--max-resolution",
            remedy=f"Bin the particles by {factor} to {fits} px ({pixel_size_A * box_px / fits:.3g} A a pixel).",
        )
    finest_A = 2 * pixel_size_A + _NYQUIST_MARGIN_A
    used_A, note = options.max_resolution_A, ""
    if used_A < finest_A:
        used_A = finest_A
        named = "" if options.max_resolution_A != _MAX_RESOLUTION_A else " (the default)"
        note = (
            f"--max-resolution {options.max_resolution_A:g} A{named} is finer than pixels of {pixel_size_A:g} A allow; "
            f"{finest_A:.3g} A is used."
        )
    last = max(3, min(box_px // 2 - 2, int(box_px * pixel_size_A / used_A)))
    first = 1
    if options.min_resolution_A > 0:
        first = max(1, int(np.ceil(box_px * pixel_size_A / options.min_resolution_A)))
    if first > last - 2:
        raise OptionError(
            f"between {options.min_resolution_A:g} and {used_A:g} A lie fewer than 3 rings.",
            remedy="Give a coarser --min-resolution.",
        )
    return Limits(first, last, used_A, note)
