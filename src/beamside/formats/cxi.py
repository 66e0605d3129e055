"""CXI, the NXcxi_ptycho layout of HDF5: where a scan lies in it, and how a reconstruction is written.

SI units throughout: metres and joules. Translations are (x, y, z), x along columns and y along rows; DC is at pixel
(N//2, N//2) of a frame unless an option says otherwise. A mask is 0 where a pixel is good; bit 0x1000 only says that
it has signal. See https://www.cxidb.org/cxi.html and the layout of NXcxi_ptycho.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.formats.atomic import replacing
from beamside.formats.scan_layout import (
    HC_J_M,
    ScanLayout,
    View,
    energy_keV,
    first_of,
    length_m,
    square_pixel_m,
    wavelength_of_energy_m,
)

ENTRY = "/entry_1"
DETECTOR = f"{ENTRY}/instrument_1/detector_1"
SOURCE = f"{ENTRY}/instrument_1/source_1"
FRAMES = (f"{ENTRY}/data_1/data", f"{DETECTOR}/data")
POSITIONS = (
    f"{ENTRY}/sample_1/geometry_1/translation",
    f"{ENTRY}/data_1/translation",
    f"{DETECTOR}/translation",
)
_HAS_SIGNAL = 0x1000


def layout(view: View) -> ScanLayout | None:
    """Where a CXI scan lies; None where the file is no CXI scan.

    Raises:
        FormatError: a value is not what its name says.
    """
    frames = first_of(view, *FRAMES)
    if frames is None:
        return None
    positions = first_of(view, *POSITIONS)
    wavelength_m = length_m(view, f"{SOURCE}/wavelength", f"{ENTRY}/instrument_1/beam_1/incident_wavelength")
    energy = energy_keV(view, f"{SOURCE}/energy", f"{ENTRY}/instrument_1/beam_1/incident_energy", default_unit="J")
    pixel_m = square_pixel_m(
        view, length_m(view, f"{DETECTOR}/x_pixel_size"), length_m(view, f"{DETECTOR}/y_pixel_size")
    )
    mask = first_of(view, f"{DETECTOR}/mask", f"{ENTRY}/data_1/mask")
    return ScanLayout(
        format="cxi",
        frames=(frames.path,),
        positions=(positions.path,) if positions is not None else (POSITIONS[0],),
        y_column=1,
        x_column=0,
        unit_m=1.0,
        dc="centre",
        valid=None if mask is None else np.asarray((view.array(mask.path).astype(np.int64) & ~_HAS_SIGNAL) == 0),
        wavelength_m=wavelength_of_energy_m(energy) if energy is not None else wavelength_m,
        distance_m=length_m(view, f"{DETECTOR}/distance"),
        detector_pixel_m=pixel_m,
        sample=view.text(f"{ENTRY}/sample_1/name"),
    )


@dataclass(frozen=True)
class Reconstruction:
    """A ptychographic reconstruction as it is written.

    object: (H, W) complex64. probe: (modes, N, N) complex64, centred. coverage: (H, W) float32, 0 where nothing was
    seen. positions_px: (n, 2), corner of each frame's window, (y, x), in the input's own pixel frame; numbers: (n,) of
    the frames. offset_px: (row, column) of the object's first pixel in that frame. pixel_m: (y, x).
    error: (iterations,). provenance: plain text or numbers by name.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    coverage: NDArray[np.float32]
    positions_px: NDArray[np.float64]
    numbers: NDArray[np.int64]
    offset_px: tuple[float, float]
    pixel_m: tuple[float, float]
    wavelength_m: float
    distance_m: float
    detector_pixel_m: float
    error: NDArray[np.float64]
    provenance: Mapping[str, str | float | int]


def write_reconstruction(path: Path, result: Reconstruction) -> None:
    """Write a CXI file whose image_1 is the probe and image_2 the object, in the places where Ptychodus looks for them.

    Positions are in metres where the input had them, so the file also opens as the geometry of a scan. What CXI has no
    name for (coverage, error, pixel sizes) lies under /entry_1/ptychodus and /entry_1/process_1. There is no time of
    day in it: the same reconstruction gives the same bytes.
    """
    import h5py

    pixel = np.asarray(result.pixel_m)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as out:
        out["cxi_version"] = 160
        out["number_of_entries"] = 1
        out.attrs["default"] = "entry_1"
        entry = _group(out, "entry_1", "NXentry", default="image_2")
        entry["title"] = "ptychographic reconstruction"
        _instrument(entry, result)
        translation = np.zeros((len(result.positions_px), 3))
        translation[:, :2] = (result.positions_px * pixel)[:, ::-1]
        entry["sample_1/geometry_1/translation"] = translation
        entry["sample_1/geometry_1/translation"].attrs["units"] = "m"
        entry["data_1/translation"] = h5py.SoftLink(f"{ENTRY}/sample_1/geometry_1/translation")
        _image(entry, "image_1", result.probe, result.pixel_m, (0.0, 0.0))
        image = _image(entry, "image_2", result.object, result.pixel_m, result.offset_px)
        image["mask"] = np.where(result.coverage > 0, 0, 1).astype(np.uint32)
        image["coverage"] = result.coverage
        entry["object"], entry["probe"] = h5py.SoftLink(f"{ENTRY}/image_2"), h5py.SoftLink(f"{ENTRY}/image_1")
        process = _group(entry, "process_1", "NXprocess")
        process["program"] = "beamside"
        for name, value in result.provenance.items():
            process[f"configuration/{name}"] = value
        process["positions_px"], process["offset_px"] = result.positions_px, np.asarray(result.offset_px)
        _extras(entry, result, pixel)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def _group(parent: Any, name: str, kind: str, **attributes: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    for key, value in attributes.items():
        group.attrs[key] = value
    return group


def _instrument(entry: Any, result: Reconstruction) -> None:
    instrument = _group(entry, "instrument_1", "NXinstrument")
    source, detector = _group(instrument, "source_1", "NXsource"), _group(instrument, "detector_1", "NXdetector")
    energy_J = HC_J_M / result.wavelength_m
    for group, name, value, unit in (
        (source, "energy", energy_J, "J"),
        (source, "wavelength", result.wavelength_m, "m"),
        (detector, "distance", result.distance_m, "m"),
        (detector, "x_pixel_size", result.detector_pixel_m, "m"),
        (detector, "y_pixel_size", result.detector_pixel_m, "m"),
    ):
        group[name] = value
        group[name].attrs["units"] = unit


def _image(
    entry: Any, name: str, data: NDArray[Any], pixel_m: tuple[float, float], first_px: tuple[float, float]
) -> Any:
    """One image with its axes in metres; a stack of modes has their numbers as its first axis."""
    import h5py

    image = _group(entry, name, "NXdata", signal="data")
    image["data"] = data
    image["data"].attrs["interpretation"] = "image"
    names = ("mode", "y", "x")[3 - data.ndim :]
    image.attrs["axes"] = list(names)
    image["data"].attrs["axes"] = ":".join(names)
    if "mode" in names:
        image["mode"] = np.arange(len(data))
    for axis, size, pixel, first in zip("yx", data.shape[-2:], pixel_m, first_px, strict=True):
        image[axis] = (first + np.arange(size)) * pixel
        image[axis].attrs["units"] = "m"
    image["data_space"], image["data_type"] = "real", "amplitude"
    height, width = data.shape[-2:]
    image["image_size"] = np.array([width * pixel_m[1], height * pixel_m[0], 0.0])
    image["x_pixel_size"], image["y_pixel_size"] = pixel_m[1], pixel_m[0]
    for part in ("source_1", "detector_1"):
        image[part] = h5py.SoftLink(f"{ENTRY}/instrument_1/{part}")
    return image


def _extras(entry: Any, result: Reconstruction, pixel_m: NDArray[np.float64]) -> None:
    """What Ptychodus reads beside the arrays; positions there are those of the probe's centre."""
    extras = entry.create_group("ptychodus")
    extras["probe_position_indexes"] = result.numbers
    for kind in ("probe", "object"):
        extras[f"{kind}_pixel_height_m"], extras[f"{kind}_pixel_width_m"] = pixel_m
    half = (np.array(result.object.shape) - result.probe.shape[-1]) / 2
    extras["object_center_y_m"], extras["object_center_x_m"] = (np.asarray(result.offset_px) + half) * pixel_m
    extras["loss_epochs"], extras["loss_values"] = np.arange(len(result.error)), result.error
