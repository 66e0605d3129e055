"""A probe to start from: a `.npy` file, a CXI file, or an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.npy import read_npy
from beamside.formats.npz import NpzView
from beamside.formats.scan_layout import View, energy_keV, first_of, length_m, wavelength_of_energy_m
from beamside.sources.hdf5_reader import Hdf5Reader

_IN_HDF5 = (
    "/entry_1/image_1/data",
    "/entry_1/probe/data",
    "/entry_1/instrument_1/source_1/illumination",
    "/entry_1/instrument_1/source_1/probe",
    "/probe",
)


@dataclass(frozen=True)
class LoadedProbe:
    """modes: (modes, N, N) complex64, centred. pixel_m, wavelength_m: None where the file does not say."""

    path: Path
    modes: NDArray[np.complex64]
    pixel_m: float | None = None
    wavelength_m: float | None = None


def load_probe(path: Path) -> LoadedProbe:
    """Read a probe of any of the forms.

    Raises:
        InputError: there is no such file, or the run has no result yet.
        FormatError: the file holds no probe (modes, N, N) or (N, N) of finite numbers that are not all zero.
    """
    if path.is_dir():
        found = path / "result" / "ptycho.cxi"
        if not found.is_file():
            raise InputError("holds no result/ptycho.cxi.", where=str(path), remedy="Let that run finish first.")
        return _of_hdf5(found)
    if not path.is_file():
        raise InputError("there is no such probe.", where=str(path), remedy="Check the spelling.")
    if path.suffix == ".npy":
        return LoadedProbe(path, _modes(read_npy(path), path))
    if path.suffix == ".npz":
        return _of_npz(path)
    return _of_hdf5(path)


def _of_npz(path: Path) -> LoadedProbe:
    view = NpzView(path)
    sizes = view.array("pixel_size_m").reshape(-1) if view.info("pixel_size_m") is not None else np.empty(0)
    pixel_m = float(sizes[0]) if sizes.size else None
    return LoadedProbe(path, _modes(view.array("probe"), path), pixel_m, length_m(view, "wavelength_m"))


def _of_hdf5(path: Path) -> LoadedProbe:
    reader = Hdf5Reader(path)
    try:
        found = first_of(reader, *_IN_HDF5)
        if found is None:
            raise FormatError("holds no probe.", where=str(path), remedy="Give a CXI file of a reconstruction.")
        return LoadedProbe(path, _modes(reader.array(found.path), path), _pixel_m(reader), _wavelength_m(reader))
    finally:
        reader.close()


def _pixel_m(view: View) -> float | None:
    return length_m(
        view, "/entry_1/image_1/y_pixel_size", "/entry_1/ptychodus/probe_pixel_height_m", "/entry_1/probe/y_pixel_size"
    )


def _wavelength_m(view: View) -> float | None:
    source = "/entry_1/instrument_1/source_1"
    energy = energy_keV(view, f"{source}/energy", default_unit="J")
    return length_m(view, f"{source}/wavelength") if energy is None else wavelength_of_energy_m(energy)


def _modes(array: NDArray[Any], path: Path) -> NDArray[np.complex64]:
    """(modes, N, N); axes of 1 before them, as Ptychodus and Pty-Chi write them, are dropped."""
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1] != array.shape[2] or array.dtype.kind not in "fc" or not array.size:
        raise FormatError(
            f"holds an array of shape {array.shape} and type {array.dtype}, which is no probe.",
            where=str(path),
            remedy="Give complex numbers of shape (modes, N, N), centred.",
        )
    modes = np.ascontiguousarray(array, dtype=np.complex64)
    if not np.isfinite(modes).all() or not modes.any():
        raise FormatError("the probe is not finite, or zero.", where=str(path), remedy="Give another one.")
    return modes
