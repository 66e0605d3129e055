"""Scans in the forms that other programs write, made with h5py alone, each with the same frames and positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

ENERGY_KEV, DISTANCE_M, PIXEL_M = 8.0, 1.5, 50e-6
WAVELENGTH_M = 12.398419843320026e-10 / ENERGY_KEV
COUNT, SIZE = 30, 8


def frames(count: int = COUNT, size: int = SIZE) -> np.ndarray:
    """Counts, DC in the centre and brightest there."""
    counts = np.random.default_rng(5).integers(0, 50, (count, size, size)).astype(np.uint16)
    counts[:, size // 2, size // 2] = 900
    return counts


def positions_m(count: int = COUNT) -> np.ndarray:
    """(n, 2), (y, x)."""
    return np.random.default_rng(6).uniform(-2e-6, 2e-6, (count, 2))


def write_cxi(path: Path, *, libver: str = "earliest", **changes: Any) -> Path:
    """A CXI scan; changes: dataset path -> value, None removes it."""
    translation = np.zeros((COUNT, 3))
    translation[:, :2] = positions_m()[:, ::-1]
    values: dict[str, Any] = {
        "entry_1/data_1/data": frames(),
        "entry_1/sample_1/geometry_1/translation": translation,
        "entry_1/sample_1/name": "grains",
        "entry_1/instrument_1/source_1/energy": ENERGY_KEV * 1.602176634e-16,
        "entry_1/instrument_1/detector_1/distance": DISTANCE_M,
        "entry_1/instrument_1/detector_1/x_pixel_size": PIXEL_M,
        "entry_1/instrument_1/detector_1/y_pixel_size": PIXEL_M,
    } | changes
    return write_h5(path, values, libver)


def write_h5(path: Path, values: dict[str, Any], libver: str = "earliest") -> Path:
    """Datasets by path; (value, unit) gives the dataset a unit."""
    with h5py.File(path, "w", libver=libver) as file:
        for name, value in values.items():
            if value is None:
                continue
            value, unit = value if isinstance(value, tuple) else (value, None)
            if isinstance(value, np.ndarray) and value.ndim == 3:
                file.create_dataset(name, data=value, chunks=(1, *value.shape[1:]), compression="gzip")
            else:
                file[name] = value
            if unit is not None:
                file[name].attrs["units"] = unit
    return path


def write_ptyd(path: Path) -> Path:
    """Two chunks, the second one a file of its own that is linked, as PtyPy does with save="link"."""
    counts, places = frames(), positions_m()
    part = path.with_name("part.h5")
    write_h5(part, {"data": counts[20:], "positions": places[20:], "indices": np.arange(20, 30)})
    values = {
        "chunks/0/data": counts[:20],
        "chunks/0/positions": places[:20],
        "chunks/0/indices": np.arange(20),
        "meta/energy": ENERGY_KEV,
        "meta/distance": DISTANCE_M,
        "meta/psize": np.array([PIXEL_M, PIXEL_M]),
        "info/weight2d": np.ones((SIZE, SIZE)),
    }
    write_h5(path, values)
    with h5py.File(path, "a") as file:
        file["chunks/1"] = h5py.ExternalLink("part.h5", "/")
    return path


def write_hxn(path: Path) -> Path:
    """Square roots of counts with DC already in the corner, positions (2, n) in micrometres."""
    values = {
        "diffamp": np.sqrt(np.fft.ifftshift(frames(), axes=(1, 2)).astype(np.float64)),
        "points": positions_m().T * 1e6,
        "lambda_nm": WAVELENGTH_M * 1e9,
        "z_m": DISTANCE_M,
        "ccd_pixel_um": PIXEL_M * 1e6,
    }
    return write_h5(path, values)


def write_nexus(path: Path) -> Path:
    """A master file that links to two data files; stage positions y and x apart, in millimetres."""
    counts, places = frames(), positions_m()
    for number, part in enumerate((counts[:10], counts[10:]), start=1):
        write_h5(path.with_name(f"data_{number:06d}.h5"), {"entry/data/data": part})
    write_h5(
        path,
        {
            "entry/instrument/beam/incident_wavelength": (WAVELENGTH_M * 1e10, "angstrom"),
            "entry/instrument/detector/detector_distance": (DISTANCE_M * 1e3, "mm"),
            "entry/instrument/detector/x_pixel_size": (PIXEL_M, "m"),
            "entry/instrument/detector/y_pixel_size": (PIXEL_M, "m"),
            "entry/instrument/detector/pixel_mask": np.zeros((SIZE, SIZE), np.uint32),
            "entry/data/sample_y": (places[:, 0] * 1e3, "mm"),
            "entry/data/sample_x": (places[:, 1] * 1e3, "mm"),
        },
    )
    with h5py.File(path, "a") as file:
        for number in (1, 2):
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(f"data_{number:06d}.h5", "/entry/data/data")
    return path


def write_npz(path: Path) -> Path:
    """Names in the form (n, rows, columns), lengths in metres."""
    np.savez(
        path,
        diffraction=frames(),
        positions_m=positions_m(),
        energy_keV=ENERGY_KEV,
        distance_m=DISTANCE_M,
        detector_pixel_m=PIXEL_M,
    )
    return path


def write_other(path: Path) -> Path:
    """A layout that nobody knows."""
    values = {"a/img": frames(), "b/pos": (positions_m() * 1e9, "nm"), "c/lam": (WAVELENGTH_M * 1e9, "nm")}
    return write_h5(path, {**values, "c/z": DISTANCE_M, "c/px": (PIXEL_M * 1e6, "um")})


OTHER_MAPPING = {
    "frames": "/a/img",
    "positions": "/b/pos",
    "wavelength_m": "/c/lam",
    "distance_m": "/c/z",
    "detector_pixel_m": "/c/px",
}
WRITERS = {
    "cxi": (write_cxi, "scan.cxi"),
    "ptyd": (write_ptyd, "scan.ptyd"),
    "hxn": (write_hxn, "scan_1.h5"),
    "nexus": (write_nexus, "master.h5"),
    "npz": (write_npz, "scan.npz"),
    "mapping": (write_other, "other.h5"),
}
