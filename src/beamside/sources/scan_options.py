"""What a user may say about a scan that its file or stream does not say, or says wrongly."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, OptionError
from beamside.formats.npy import read_npy
from beamside.optics.frames import ORIENTATIONS, DcPlace

_MAPS = ("mask", "dark", "flat", "background")


@dataclass(frozen=True)
class ScanOptions:
    """None leaves the matter to the input. Lengths in metres, places in pixels of the stored frame.

    orientation: 0 to 7, see `optics.frames.ORIENTATIONS`. dc: "corner", "centre", "auto" or (row, column).
    crop_px: side of the square around DC that is used. y_sign, x_sign: -1 turns a scan axis round; swap_axes: the
    stored y is x. position_unit_m: metres in a stored unit of position.
    saturation: counts from which a pixel is unknown. mask, dark, flat, background: .npy files of the detector's shape
    (a mask is non-zero where a pixel measures).
    propagation: "far" or "near"; defocus_m: from the source to the sample, for the near field of a diverging beam.
    lost_frames: what becomes of a finished file whose middle has frames, or positions, that were never written:
    "refuse" it, or "leave-out" those frames.
    mapping: where the parts of the scan lie in an HDF5 or .npz file of unknown layout.
    """

    orientation: int = 0
    dc: DcPlace | None = None
    crop_px: int | None = None
    y_sign: int = 1
    x_sign: int = 1
    swap_axes: bool = False
    position_unit_m: float | None = None
    energy_keV: float | None = None
    distance_m: float | None = None
    detector_pixel_m: float | None = None
    saturation: float | None = None
    mask: str | None = None
    dark: str | None = None
    flat: str | None = None
    background: str | None = None
    propagation: str = "far"
    defocus_m: float | None = None
    lost_frames: str = "refuse"
    mapping: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = ("position_unit_m", "energy_keV", "distance_m", "detector_pixel_m", "saturation", "crop_px")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise OptionError(f"{name} = {value} must be positive.")
        if self.propagation not in ("far", "near"):
            raise OptionError(f"the propagation {self.propagation!r} is neither far nor near.")
        if self.lost_frames not in ("refuse", "leave-out"):
            raise OptionError(f"lost frames are refused or left out, not {self.lost_frames!r}.")
        if self.propagation == "far" and self.defocus_m is not None:
            raise OptionError("a distance from source to sample changes nothing in the far field.")
        if self.propagation == "near" and self.dc is not None:
            raise OptionError("a place of DC changes nothing in the near field, whose frames are images.")
        if self.defocus_m is not None and not (np.isfinite(self.defocus_m) and self.defocus_m > 0):
            raise OptionError("the source lies before the sample: its distance is positive.")

    @property
    def axes(self) -> int:
        """What happens to (y, x) of the positions, as a number in `ORIENTATIONS`: exchanged, then signs."""
        return ORIENTATIONS.index((self.swap_axes, self.y_sign < 0, self.x_sign < 0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values for run.json; files by their absolute paths, so that a run resumes from anywhere."""
        values = dataclasses.asdict(self)
        for name in _MAPS:
            values[name] = None if values[name] is None else os.path.abspath(values[name])
        values["dc"] = list(self.dc) if isinstance(self.dc, tuple) else self.dc
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The options that `to_json` gave; other names are ignored. A run of before `lost_frames` leaves them out."""
        known = {name.name: values[name.name] for name in dataclasses.fields(cls) if name.name in values}
        known.setdefault("lost_frames", "leave-out")
        if isinstance(known.get("dc"), list):
            known["dc"] = (int(known["dc"][0]), int(known["dc"][1]))
        return cls(**known)

    def maps(self) -> dict[str, NDArray[Any]]:
        """The detector's maps that were named, read: `valid` (bool), `dark`, `flat`, `background`.

        Raises:
            FormatError: a file is no .npy of numbers.
        """
        found = {name: _read_map(path) for name in ("dark", "flat", "background") if (path := getattr(self, name))}
        if self.mask:
            found["valid"] = _read_map(self.mask) != 0
        return found


def _read_map(path: str) -> NDArray[Any]:
    array = read_npy(path)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise FormatError("holds no map (rows, columns) of numbers.", where=path, remedy="Give one of two axes.")
    return array
