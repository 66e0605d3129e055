"""A scan in a file, by its layout and what the user says: geometry, header, positions, and frames by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.npz import NpzView
from beamside.formats.scan_layout import DatasetInfo, ScanLayout, View, wavelength_of_energy_m
from beamside.formats.scans import find_layout
from beamside.optics.frames import (
    DcPlace,
    DetectorGeometry,
    ScanGeometry,
    magnified_pixel_m,
    object_pixel_m,
    pack_mask,
)
from beamside.run.engine import Header
from beamside.sources.hdf5_reader import Hdf5Reader
from beamside.sources.scan_options import ScanOptions

_PIECE_BYTES = 1 << 25
"""Stored frames that are read at a time."""
_NOMINAL_WAVELENGTH_M, _NOMINAL_DISTANCE_M, _NOMINAL_PIXEL_M = 1e-10, 1.0, 1e-9
"""What stands in for an instrument that the file does not describe, so that the object's pixel is 1 nm."""
_FLAG_UINT32 = np.iinfo(np.uint32).max
_LARGEST_UINT16 = np.iinfo(np.uint16).max


def open_view(path: Path, *, live: bool) -> Hdf5Reader | NpzView:
    """The file as formats see it: .npz in memory, anything else as HDF5 in a process of its own."""
    return NpzView(path) if ".npz" in path.suffixes else Hdf5Reader(path, live=live)


@dataclass(frozen=True)
class Instrument:
    """What a scan's numbers mean: wavelength, distance and detector pixel in metres; nominal: they are made up."""

    wavelength_m: float
    distance_m: float
    detector_pixel_m: float
    nominal: bool

    @property
    def energy_keV(self) -> float | None:
        """Of the photons; None where nothing is known."""
        return None if self.nominal else wavelength_of_energy_m(1.0) / self.wavelength_m


def instrument(layout: ScanLayout, options: ScanOptions, frame_px: int, where: str) -> Instrument:
    """The instrument, options first; a nominal one where positions are in pixels and nothing is known.

    Raises:
        InputError: something is unknown although positions are in metres.
    """
    wavelength = wavelength_of_energy_m(options.energy_keV) if options.energy_keV else layout.wavelength_m
    distance_m = options.distance_m or layout.distance_m
    pixel_m = options.detector_pixel_m or layout.detector_pixel_m
    if wavelength and distance_m and pixel_m:
        return Instrument(wavelength, distance_m, pixel_m, nominal=False)
    in_pixels = layout.unit_m is None and options.position_unit_m is None
    if in_pixels and options.propagation == "far" and not (wavelength or distance_m or pixel_m):
        pixel_m = _NOMINAL_WAVELENGTH_M * _NOMINAL_DISTANCE_M / (frame_px * _NOMINAL_PIXEL_M)
        return Instrument(_NOMINAL_WAVELENGTH_M, _NOMINAL_DISTANCE_M, pixel_m, nominal=True)
    missing = [
        name
        for name, value in (("energy", wavelength), ("distance", distance_m), ("detector pixel", pixel_m))
        if not value
    ]
    raise InputError(
        f"does not say the {' and the '.join(missing)}.",
        where=where,
        remedy=f"Give {' and '.join('--' + name.replace(' ', '-') for name in missing)}.",
    )


def beam_centre(frame: NDArray[Any]) -> str:
    """ "centre" or "corner": where most of a frame's counts lie; "centre" for an empty one."""
    rows, columns = frame.shape
    whole = np.nan_to_num(np.asarray(frame, dtype=np.float64), posinf=0, neginf=0)
    middle = whole[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4].sum()
    edge = np.concatenate([np.arange(rows // 4), np.arange(rows - rows // 4, rows)])
    sides = np.concatenate([np.arange(columns // 4), np.arange(columns - columns // 4, columns)])
    return "corner" if whole[np.ix_(edge, sides)].sum() > middle else "centre"


def flagged(frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of a uint32 frame that hold its largest value, by which detectors mark what they cannot measure."""
    return np.asarray(frame == _FLAG_UINT32)


@dataclass(frozen=True)
class Contents:
    """A scan whose layout is known. nominal: the instrument is made up."""

    view: View
    layout: ScanLayout
    geometry: DetectorGeometry
    scan: ScanGeometry
    header: Header
    nominal: bool

    def frame_rows(self, since: int = 0) -> tuple[int, list[int], int]:
        """Frames up to the last written one; those before it that were never written; rows stored together."""
        total, first, deep = 0, 0, 1
        holes: list[int] = []
        for info in self._infos(since):
            if info.written:
                holes += [*range(total, first), *(first + row for row in info.holes)]
                total = first + info.written
            first += info.shape[0]
            deep = info.rows_per_chunk
        return total, holes, deep

    def _infos(self, since: int = 0) -> list[DatasetInfo]:
        first, found = 0, []
        for path in self.layout.frames:
            info = self.view.info(path, max(0, since - first))
            if info is None:
                raise FormatError(f"dataset '{path}' is gone.", where=self.view.where, remedy="Restore the file.")
            found.append(info)
            first += info.shape[0]
        return found

    def declared(self) -> int:
        """Rows that the datasets of frames have room for, written or not."""
        return sum(info.shape[0] for info in self._infos())

    def positions_m(self) -> NDArray[np.float64]:
        """(n, 2), (y, x): the positions that are there so far; NaN for those that would only read as zeros.

        Raises:
            FormatError: a dataset has another shape.
        """
        names = [name for name in self.layout.positions if self.view.info(name) is not None]
        if not names or (self.layout.split and len(names) < 2):
            return np.empty((0, 2))
        parts = [self._written_values(name) for name in names]
        if self.layout.split:
            shortest = min(len(part.reshape(-1)) for part in parts)
            values = np.stack([part.reshape(-1)[:shortest] for part in parts], axis=1)
        else:
            parts = [part.T if self.layout.axes_first else part for part in parts]
            for name, part in zip(names, parts, strict=True):
                if part.ndim != 2 or part.shape[1] < 2:
                    raise FormatError(
                        f"dataset '{name}' of shape {part.shape} holds no positions (n, 2).",
                        where=self.view.where,
                        remedy="Name the right dataset in a mapping.",
                    )
            values = np.concatenate(parts)
        return self.scan.positions_m(values)

    def position_holes(self) -> list[int]:
        """Rows whose position was never written although a later one was."""
        if self.layout.axes_first:
            return []
        holes: set[int] = set()
        first = 0
        for name in self.layout.positions:
            info = self.view.info(name)
            if info is not None:
                holes.update(first + row for row in info.holes)
                first += 0 if self.layout.split else info.shape[0]
        return sorted(holes)

    def _written_values(self, name: str) -> NDArray[np.float64]:
        """A dataset with NaN in rows whose chunk was never written, which HDF5 reads as zeros."""
        values, info = np.array(self.view.array(name), dtype=np.float64), self.view.info(name)
        if info is not None and values.ndim:
            values[list(info.holes)] = np.nan
            values[info.written :] = np.nan
        return values

    def numbers(self, rows: int) -> NDArray[np.int64]:
        """Frame numbers of the first `rows` rows."""
        if not self.layout.numbers:
            return np.arange(rows)
        parts = [self.view.array(name).reshape(-1) for name in self.layout.numbers]
        given = np.concatenate(parts).astype(np.int64)[:rows]
        if len(given) < rows:
            raise FormatError(
                f"numbers {len(given)} frames of {rows}.", where=self.view.where, remedy="Number each frame, or none."
            )
        return given

    def stored(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Frames `rows` as stored, (k, rows, columns); runs of consecutive rows cost one read each."""
        firsts = np.cumsum([0] + [info.shape[0] for info in self._infos()]) if len(self.layout.frames) > 1 else [0]
        parts = []
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            start, stop = int(run[0]), int(run[-1]) + 1
            while start < stop:
                which = int(np.searchsorted(firsts, start, side="right")) - 1
                end = stop if which + 1 >= len(firsts) else min(stop, int(firsts[which + 1]))
                first = int(firsts[which])
                part = self.view.array(self.layout.frames[which], start - first, end - first)
                if len(part) != end - start or part.ndim != 3:
                    raise FormatError(
                        f"dataset '{self.layout.frames[which]}' gave {len(part)} frames for rows {start} to {end - 1}.",
                        where=self.view.where,
                        remedy="The file was cut or replaced during the run; restore it.",
                    )
                parts.append(part)
                start = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def frames(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Frames `rows` (k, N, N) with DC at the corner, uint16 where all counts are whole and small, else float32."""
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        n = self.geometry.frame_px
        if not rows.size:
            return np.empty((0, n, n), dtype=np.uint16)
        each = 8 * self.geometry.shape_px[0] * self.geometry.shape_px[1]
        piece = max(1, _PIECE_BYTES // each)
        parts = [
            self.geometry.frames(self.stored(rows[start : start + piece])).counts
            for start in range(0, rows.size, piece)
        ]
        if len(parts) == 1:
            return parts[0]
        same = {part.dtype for part in parts}
        return np.concatenate(parts, dtype=parts[0].dtype if len(same) == 1 else np.dtype(np.float32))


def read_contents(view: View, options: ScanOptions) -> Contents | None:
    """The scan in a file; None where there is no scan that is known, or no frame of it yet.

    Raises:
        FormatError, InputError, OptionError: the scan cannot be used as it stands.
    """
    layout = find_layout(view, options.mapping)
    if layout is None:
        return None
    info = view.info(layout.frames[0])
    if info is None:
        return None
    if len(info.shape) != 3 or info.dtype == "text" or min(info.shape[1:]) < 2:
        raise FormatError(
            f"dataset '{info.path}' of shape {info.shape} holds no frames (n, rows, columns).",
            where=view.where,
            remedy="Name the right dataset in a mapping.",
        )
    if not info.written:
        return None
    first = view.array(info.path, 0, 1)[0]
    geometry = _geometry(layout, options, first, info)
    made = instrument(layout, options, geometry.frame_px, view.where)
    pixel_m = pixel_of(made, options, geometry.frame_px)
    unit_m = options.position_unit_m or (pixel_m if layout.unit_m is None else layout.unit_m)
    return Contents(view, layout, geometry, _scan(layout, options, unit_m), _header(layout, options, geometry, made),
                    made.nominal)  # fmt: skip


def cropped(geometry: DetectorGeometry) -> str:
    """What is left out of frames that are not square, or not centred, when nobody asked for a crop; "" for nothing."""
    rows, columns = geometry.shape_px
    if geometry.crop_px is not None or geometry.frame_px == max(rows, columns):
        return ""
    return (
        f"of frames of {rows} x {columns} px the square of {geometry.frame_px} px around the zero frequency is used; "
        f"--crop {max(rows, columns)} uses all of it."
    )


def pixel_of(made: Instrument, options: ScanOptions, frame_px: int) -> float:
    """The side of the object's pixel in metres."""
    if options.propagation == "near":
        return magnified_pixel_m(made.detector_pixel_m, options.defocus_m, made.distance_m)
    return object_pixel_m(made.wavelength_m, made.distance_m, frame_px, made.detector_pixel_m)


def _geometry(layout: ScanLayout, options: ScanOptions, first: NDArray[Any], info: DatasetInfo) -> DetectorGeometry:
    maps: dict[str, Any] = {name: getattr(layout, name) for name in ("valid", "dark", "flat", "background")}
    maps |= options.maps()
    kind = np.dtype(info.dtype)
    saturation = options.saturation
    if kind == np.uint32 and (flags := flagged(first)).any():
        maps["valid"] = ~flags if maps["valid"] is None else maps["valid"] & ~flags
    if saturation is None and kind.kind == "u" and kind.itemsize in (2, 4):
        saturation = float(_LARGEST_UINT16 if kind.itemsize == 2 else _FLAG_UINT32)
    dc: DcPlace = options.dc or layout.dc
    return DetectorGeometry(
        shape_px=(info.shape[1], info.shape[2]),
        orientation=options.orientation,
        dc=beam_centre(first) if dc == "auto" else dc,
        crop_px=options.crop_px,
        saturation=saturation,
        amplitudes=layout.amplitudes,
        near_field=options.propagation == "near",
        **maps,
    )


def _scan(layout: ScanLayout, options: ScanOptions, unit_m: float) -> ScanGeometry:
    columns: Sequence[int] = (layout.y_column, layout.x_column)
    y, x = reversed(columns) if options.swap_axes else columns
    return ScanGeometry(y, x, options.y_sign, options.x_sign, unit_m)


def _header(layout: ScanLayout, options: ScanOptions, geometry: DetectorGeometry, made: Instrument) -> Header:
    return frames_header(geometry, made, options, sample=layout.sample or None, scan_uid=layout.scan_uid or None)


def frames_header(
    geometry: DetectorGeometry,
    made: Instrument,
    options: ScanOptions,
    *,
    sample: str | None = None,
    scan_uid: str | None = None,
    count: int | None = None,
) -> Header:
    """What an engine is told before the first frame."""
    return Header(
        "frames",
        {
            "frame_px": geometry.frame_px,
            "wavelength_m": made.wavelength_m,
            "distance_m": made.distance_m,
            "detector_pixel_m": made.detector_pixel_m,
            "propagation": options.propagation,
            "defocus_m": options.defocus_m,
            "count": count,
            "saturation": geometry.saturation,
            "detector_mask": pack_mask(geometry.detector_mask),
            "orientation": geometry.orientation,
            "axes": options.axes,
            "dc": geometry.dc if isinstance(geometry.dc, str) else list(geometry.dc),
            "energy_keV": made.energy_keV,
            "sample": sample,
            "scan_uid": scan_uid,
        },
    )
