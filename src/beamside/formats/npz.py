"""Scans in NumPy's own container, `.npz` (also packed once more, `.npz.bz2`), without pickle.

There is no standard of names; those that peers write are known (`data`, `diffraction`, `scan`, `positions`, ...). Plain
`scan` and `positions_px` are in pixels of the object, (row, column), as Tike writes them. The same names at the root of
an HDF5 file, or below a node of Tiled, mean the same.
"""

from __future__ import annotations

import bz2
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.atomic import replacing
from beamside.formats.scan_layout import (
    DatasetInfo,
    ScanLayout,
    View,
    first_of,
    is_axes_first,
    length_m,
    number,
    wavelength_of_energy_m,
)

_MOST_BYTES = 8 << 30
"""Unpacked; a small file can declare any size."""
FRAMES = ("data", "frames", "diffraction", "intensity", "intensities", "counts")
AMPLITUDES = ("diffamp", "amplitudes")
IN_METRES = ("positions_m", "translation", "positions")
IN_PIXELS = ("scan", "positions_px")


class NpzView:
    """The arrays of one file, all in memory; fulfils `View`."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._arrays = _read(path)

    def info(self, name: str, since: int = 0) -> DatasetInfo | None:
        """An array, or None; arrays are whole, so `since` plays no part."""
        found = self._arrays.get(name)
        if found is None:
            return None
        kind = found.dtype.str if found.dtype.kind in "biufc" else "text"
        return DatasetInfo(name, found.shape, kind, written=found.shape[0] if found.ndim else 1)

    def children(self, name: str) -> list[str]:
        """Names of all arrays."""
        return list(self._arrays)

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of an array.

        Raises:
            FormatError: there is none of this name.
        """
        found = self._arrays.get(name)
        if found is None:
            raise FormatError(f"holds no array '{name}'.", where=self.where, remedy="Check its names.")
        return found[start:stop] if found.ndim else found

    def text(self, name: str) -> str:
        """An array of one text, "" where there is none."""
        found = self._arrays.get(name)
        return str(found.ravel()[0]) if found is not None and found.dtype.kind in "US" and found.size else ""


def layout(view: View) -> ScanLayout | None:
    """Where a scan lies in an .npz file; None where no array has a name that is known."""
    frames = first_of(view, *FRAMES, *AMPLITUDES)
    places = first_of(view, *IN_METRES, *IN_PIXELS)
    if frames is None:
        return None
    energy = number(view, "energy_keV", "energy_kev")
    return ScanLayout(
        format="npz",
        frames=(frames.path,),
        positions=() if places is None else (places.path,),
        axes_first=places is not None and is_axes_first(places.shape),
        unit_m=None if places is not None and places.path in IN_PIXELS else 1.0,
        dc="auto",
        amplitudes=frames.path in AMPLITUDES,
        valid=None if view.info("mask") is None else view.array("mask") != 0,
        wavelength_m=wavelength_of_energy_m(energy) if energy else length_m(view, "wavelength_m"),
        distance_m=length_m(view, "distance_m"),
        detector_pixel_m=length_m(view, "detector_pixel_m"),
        scan_uid=view.text("scan_uid"),
    )


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as `numpy.savez` does, but without the time of day: the same arrays give the same bytes."""
    with replacing(path) as file, zipfile.ZipFile(file, "w") as out:
        for name, array in arrays.items():
            with out.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    def bad(why: str) -> FormatError:
        return FormatError(f"is no readable .npz file ({why}).", where=str(path), remedy="Write it by numpy.savez.")

    try:
        file: Any = _unpacked(path) if path.suffix == ".bz2" else path
        with zipfile.ZipFile(file) as listed:
            if (size := sum(entry.file_size for entry in listed.infolist())) > _MOST_BYTES:
                raise bad(f"it unpacks to {size:,} bytes")
        with np.load(file, allow_pickle=False) as found:
            return {name: _plain(found[name]) for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise bad(str(error)) from None


def _unpacked(path: Path) -> io.BytesIO:
    unpacker, out = bz2.BZ2Decompressor(), io.BytesIO()
    with path.open("rb") as file:
        while not unpacker.eof:
            piece = unpacker.decompress(file.read(1 << 20) if unpacker.needs_input else b"", 1 << 24)
            if not piece and unpacker.needs_input and file.tell() >= path.stat().st_size:
                raise EOFError("the bz2 stream is cut")
            out.write(piece)
            if out.tell() > _MOST_BYTES:
                raise ValueError(f"it unpacks to over {_MOST_BYTES:,} bytes")
    return out


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Without leading axes of 1, which some writers add; complex numbers, text and scalars as they are."""
    while array.ndim > 3 or (array.ndim == 3 and array.shape[-1] in (2, 3)):
        if array.shape[0] != 1:
            break
        array = array[0]
    return array
