"""The result of a ptychographic run in the forms that other programs open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.formats.cxi import Reconstruction, write_reconstruction
from beamside.formats.npz import write_npz
from beamside.ptycho.picture import write_picture
from beamside.run.engine import Snapshot

_REQUIRED = ("object", "probe", "coverage", "positions_px")


def write_result(folder: Path, snapshot: Snapshot, keys: Sequence[str]) -> list[Path]:
    """Write a finished reconstruction into `folder`; the paths.

    ptycho.cxi (all of it), object.npz, probe.npy (the next run's --probe), {amplitude,phase,coverage}.tiff (32 bit),
    and ptycho.png under the verdict that lies in the folder as verdict.json. keys: of the frames, in order.
    """
    paths = [folder / name for name in ("ptycho.cxi", "object.npz", "probe.npy")]
    write_cxi(paths[0], snapshot, keys)
    write_object_npz(paths[1], snapshot)
    write_probe_npy(paths[2], snapshot)
    paths += _write_tiffs(folder, snapshot)
    judged = folder / "verdict.json"
    picture = folder / "ptycho.png"
    write_picture(picture, snapshot, json.loads(judged.read_bytes()) if judged.exists() else {})
    return [*paths, picture]


def write_cxi(path: Path, snapshot: Snapshot, keys: Sequence[str]) -> None:
    """Object, probe, positions, coverage, error curve and provenance as one CXI file.

    Raises:
        InputError: the snapshot is no reconstruction yet, or its positions are not those of `keys`.
    """
    arrays, notes = _arrays(snapshot), snapshot.notes
    if len(arrays["positions_px"]) != len(keys):
        raise InputError(f"{len(arrays['positions_px'])} positions belong to {len(keys)} frames.", where=str(path))
    pixel_y_m, pixel_x_m = notes["pixel_size_m"]
    row, column = notes["offset_px"]
    write_reconstruction(
        path,
        Reconstruction(
            object=arrays["object"].astype(np.complex64),
            probe=arrays["probe"].astype(np.complex64),
            coverage=arrays["coverage"].astype(np.float32),
            positions_px=arrays["positions_px"].astype(np.float64),
            numbers=frame_numbers(keys),
            offset_px=(float(row), float(column)),
            pixel_m=(float(pixel_y_m), float(pixel_x_m)),
            wavelength_m=float(notes["wavelength_m"]),
            distance_m=float(notes["distance_m"]),
            detector_pixel_m=float(notes["detector_pixel_m"]),
            error=np.asarray(snapshot.arrays.get("error", np.empty(0)), dtype=np.float64),
            provenance=_provenance(snapshot),
        ),
    )


def write_object_npz(path: Path, snapshot: Snapshot) -> None:
    """`object`, `offset` (row, column of its first pixel in the input's pixel frame), `probe`, `positions_px`."""
    arrays = _arrays(snapshot)
    write_npz(
        path,
        {
            "object": arrays["object"],
            "offset": np.asarray(snapshot.notes["offset_px"], dtype=np.float64),
            "probe": arrays["probe"],
            "positions_px": arrays["positions_px"],
            "coverage": arrays["coverage"],
            "pixel_size_m": np.asarray(snapshot.notes["pixel_size_m"], dtype=np.float64),
        },
    )


def write_probe_npy(path: Path, snapshot: Snapshot) -> None:
    """The probe (modes, N, N), centred, for the next warm start."""
    with path.open("wb") as file:
        np.save(file, _arrays(snapshot)["probe"].astype(np.complex64), allow_pickle=False)


def frame_numbers(keys: Sequence[str]) -> NDArray[np.int64]:
    """The numbers in keys like "frame 17"; their places where a key has none."""
    last = [key.rpartition(" ")[2] for key in keys]
    return np.array([int(n) if n.isdigit() else place for place, n in enumerate(last)], dtype=np.int64)


def _arrays(snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    missing = [name for name in _REQUIRED if name not in snapshot.arrays]
    if missing:
        raise InputError(f"the snapshot has no {missing[0]} yet.", remedy="Let the run go on for a while.")
    return {name: np.asarray(snapshot.arrays[name]) for name in _REQUIRED}


def _provenance(snapshot: Snapshot) -> dict[str, str | float | int]:
    plain = {name: value for name, value in snapshot.notes.items() if isinstance(value, str | float | int)}
    rest = {
        name: json.dumps(value) for name, value in snapshot.notes.items() if name not in plain and value is not None
    }
    return {**plain, **rest, "provisional": snapshot.provisional}


def _write_tiffs(folder: Path, snapshot: Snapshot) -> list[Path]:
    """Amplitude, phase (radians) and coverage (photons) as 32-bit floats; 0 where no photon fell."""
    from tifffile import imwrite

    arrays, (pixel_y_m, pixel_x_m) = _arrays(snapshot), snapshot.notes["pixel_size_m"]
    seen = arrays["coverage"] > 0
    images = {
        "amplitude": np.where(seen, np.abs(arrays["object"]), 0),
        "phase": np.where(seen, np.angle(arrays["object"]), 0),
        "coverage": arrays["coverage"],
    }
    paths = []
    for name, image in images.items():
        paths.append(folder / f"{name}.tiff")
        dots = (0.01 / float(pixel_x_m), 0.01 / float(pixel_y_m))
        imwrite(paths[-1], image.astype(np.float32), resolution=dots, resolutionunit="CENTIMETER")
    return paths
