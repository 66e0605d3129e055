"""Where the parts of a ptychographic scan lie in a file, and in which units: one description for every format.

The modules `cxi`, `ptyd`, `hxn` and `nexus` each look at a file and answer with a `ScanLayout`, or None where the file
is not theirs. They see the file through a `View`, so they open nothing themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, OptionError

HC_J_M = 6.62607015e-34 * 299792458.0
"""Planck's constant times the speed of light (exact in SI), so wavelength = HC / energy."""
KEV_J = 1.602176634e-16

_LENGTHS_M = {
    "m": 1.0,
    "meter": 1.0,
    "metre": 1.0,
    "meters": 1.0,
    "metres": 1.0,
    "mm": 1e-3,
    "um": 1e-6,
    "µm": 1e-6,
    "μm": 1e-6,
    "micron": 1e-6,
    "microns": 1e-6,
    "micrometer": 1e-6,
    "nm": 1e-9,
    "angstrom": 1e-10,
    "a": 1e-10,
    "pm": 1e-12,
}
_ENERGIES_KEV = {"j": 1 / KEV_J, "joule": 1 / KEV_J, "ev": 1e-3, "kev": 1.0}


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset as its file declares it.

    dtype: numpy's name of the type, or "text". unit: the attribute `units`, "" where there is none.
    written: rows up to the last one that was written. holes: rows before it that never were.
    rows_per_chunk: rows that are stored together, so that a written one may have unwritten neighbours; 0: all of them.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    unit: str = ""
    written: int = 0
    holes: tuple[int, ...] = ()
    rows_per_chunk: int = 0


class View(Protocol):
    """A file as a format sees it."""

    @property
    def where(self) -> str:
        """The file, for messages."""
        ...

    def info(self, name: str, since: int = 0) -> DatasetInfo | None:
        """A dataset, or None where there is none of this name."""
        ...

    def children(self, name: str) -> list[str]:
        """Names below a group."""
        ...

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of a dataset."""
        ...

    def text(self, name: str) -> str:
        """A dataset of one text, "" where there is none."""
        ...


@dataclass(frozen=True)
class ScanLayout:
    """A scan in a file.

    frames: datasets (n, rows, columns), one after the other; the frame number is the row, counted through, or what
    `numbers` (one dataset for each of `frames`) says.
    positions: datasets of the same division with a row for each frame (or, `axes_first`, a column), or, where
    `split` is true, exactly two of shape (n,): y, then x. Empty: none yet.
    y_column, x_column: where y and x stand in a row. unit_m: metres in a unit of position; None: the unit is a pixel
    of the object.
    dc: "centre", "corner" or "auto" (looked up in the frames themselves).
    valid: (rows, columns) True where a pixel measures.
    wavelength_m, distance_m, detector_pixel_m: None where the file does not say.
    """

    format: str
    frames: tuple[str, ...]
    positions: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    axes_first: bool = False
    split: bool = False
    y_column: int = 0
    x_column: int = 1
    unit_m: float | None = 1.0
    dc: str = "centre"
    amplitudes: bool = False
    valid: NDArray[np.bool_] | None = field(default=None, repr=False)
    dark: NDArray[Any] | None = field(default=None, repr=False)
    flat: NDArray[Any] | None = field(default=None, repr=False)
    background: NDArray[Any] | None = field(default=None, repr=False)
    wavelength_m: float | None = None
    distance_m: float | None = None
    detector_pixel_m: float | None = None
    sample: str = ""
    scan_uid: str = ""


def first_of(view: View, *names: str) -> DatasetInfo | None:
    """The first dataset of `names` that exists."""
    return next((found for name in names if (found := view.info(name)) is not None), None)


def number(view: View, *names: str) -> float | None:
    """The value of the first scalar of `names` that exists and is a positive, finite number; None without one.

    Raises:
        FormatError: it exists and is none.
    """
    found = first_of(view, *names)
    if found is None:
        return None
    values = (
        view.array(found.path).reshape(-1) if found.dtype != "text" and math.prod(found.shape) >= 1 else np.empty(0)
    )
    value = abs(float(values[0].real)) if values.size else math.nan
    if not (math.isfinite(value) and value > 0):
        raise FormatError(
            f"dataset '{found.path}' should hold a positive number.",
            where=view.where,
            remedy="Correct it, or give the value as an option.",
        )
    return value


def length_m(view: View, *names: str, default_m: float = 1.0) -> float | None:
    """A length in metres, by the dataset's own unit, or in units of `default_m` where it has none."""
    found, value = first_of(view, *names), number(view, *names)
    return None if found is None or value is None else value * unit_of(found, default_m)


def unit_of(found: DatasetInfo, default_m: float) -> float:
    """Metres in the unit of a dataset."""
    return _LENGTHS_M.get(found.unit.strip().lower(), default_m)


def length_unit_m(name: str) -> float | None:
    """Metres in a unit of length of this name; None where it is none."""
    return _LENGTHS_M.get(name.strip().lower())


def wavelength_of_energy_m(energy_keV: float) -> float:
    """The wavelength of photons of this energy."""
    return HC_J_M / (energy_keV * KEV_J)


def energy_keV(view: View, *names: str, default_unit: str) -> float | None:
    """A photon energy, by the dataset's own unit, or in `default_unit` ("J", "eV", "keV") where it has none."""
    found, value = first_of(view, *names), number(view, *names)
    if found is None or value is None:
        return None
    return value * _ENERGIES_KEV.get(found.unit.strip().lower(), _ENERGIES_KEV[default_unit.lower()])


def square_pixel_m(view: View, x_m: float | None, y_m: float | None) -> float | None:
    """The side of the detector's pixels, which must be squares."""
    if x_m is not None and y_m is not None and abs(x_m - y_m) > 1e-3 * x_m:
        raise FormatError(
            f"the detector's pixels are {x_m:g} m wide and {y_m:g} m high.",
            where=view.where,
            remedy="Only square pixels can be used; rebin the frames.",
        )
    return x_m if x_m is not None else y_m


MAPPED = (
    "frames", "positions", "y", "x", "numbers", "mask", "dark", "flat", "background",
    "energy_keV", "wavelength_m", "distance_m", "detector_pixel_m",
)  # fmt: skip
"""What a mapping may name; the numbers with their units, the rest as datasets."""


def mapped(view: View, mapping: Mapping[str, str]) -> ScanLayout:
    """The layout of any other HDF5 file, from names that the user gives: {"frames": "/a/b", "positions": "/c", ...}.

    Raises:
        OptionError: an unknown name, or no frames.
        FormatError: a dataset that was named is not there.
    """
    if unknown := sorted(set(mapping) - set(MAPPED)):
        raise OptionError(f"{unknown[0]!r} is no part of a scan.", remedy=f"Map only {', '.join(MAPPED)}.")
    if "frames" not in mapping:
        raise OptionError("the mapping names no frames.", remedy="Add frames=/path/of/the/dataset.")
    if ("y" in mapping) != ("x" in mapping) or ("y" in mapping and "positions" in mapping):
        raise OptionError("the mapping needs either positions, or both y and x.")
    for name, path in mapping.items():
        if name not in ("positions", "y", "x") and view.info(path) is None:
            raise FormatError(f"there is no dataset '{path}'.", where=view.where, remedy=f"Correct the path of {name}.")
    split = "y" in mapping
    paths = (mapping["y"], mapping["x"]) if split else ((mapping["positions"],) if "positions" in mapping else ())
    places = first_of(view, *paths)
    energy = energy_keV(view, mapping["energy_keV"], default_unit="keV") if "energy_keV" in mapping else None
    wavelength_m = length_m(view, mapping["wavelength_m"]) if "wavelength_m" in mapping else None
    maps = {name: view.array(mapping[name]) for name in ("mask", "dark", "flat", "background") if name in mapping}
    return ScanLayout(
        format="mapping",
        frames=(mapping["frames"],),
        positions=paths,
        numbers=(mapping["numbers"],) if "numbers" in mapping else (),
        axes_first=not split and places is not None and is_axes_first(places.shape),
        split=split,
        unit_m=unit_of(places, 1.0) if places is not None else 1.0,
        dc="auto",
        valid=maps["mask"] != 0 if "mask" in maps else None,
        dark=maps.get("dark"),
        flat=maps.get("flat"),
        background=maps.get("background"),
        wavelength_m=wavelength_m or (wavelength_of_energy_m(energy) if energy else None),
        distance_m=length_m(view, mapping["distance_m"]) if "distance_m" in mapping else None,
        detector_pixel_m=length_m(view, mapping["detector_pixel_m"]) if "detector_pixel_m" in mapping else None,
    )


def is_axes_first(shape: tuple[int, ...]) -> bool:
    """Whether positions of this shape hold one axis after the other, (2, n), instead of (n, 2)."""
    return len(shape) == 2 and shape[0] in (2, 3) and shape[1] > 3
