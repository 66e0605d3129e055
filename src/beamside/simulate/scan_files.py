"""A simulated scan as a CXI file, and its truth beside it, which no reader of the scan can meet."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from beamside.errors import InputError
from beamside.formats.cxi import DETECTOR, ENTRY, SOURCE
from beamside.formats.npz import write_npz
from beamside.formats.scan_layout import KEV_J
from beamside.simulate.scan import Scan

_BLOCK = 64


def truth_path(out: Path) -> Path:
    """Where the truth of a scan lies: OUT_truth.npz."""
    return out.with_name(f"{out.stem}_truth.npz")


def write_scan(out: Path, scan: Scan) -> None:
    """Write `out` (CXI) and its truth: object, probe, positions_px, recorded_px, lost, pixel_m, recipe (JSON).

    A lost frame keeps its place and its position, and its chunk is never written.

    Raises:
        InputError: one of the files exists.
    """
    import h5py

    for path in (out, truth_path(out)):
        if path.exists():
            raise InputError("exists already.", where=str(path), remedy="Give a name that is not taken.")
    recipe = scan.recipe
    # Not libver="latest": its groups know the time of day, and the same recipe gives the same bytes.
    with h5py.File(out, "w") as file:
        file["cxi_version"], file["number_of_entries"] = 160, 1
        file.create_group(ENTRY).attrs["NX_class"] = "NXentry"
        file[f"{ENTRY}/sample_1/name"] = "simulated"
        translation = np.zeros((recipe.frames, 3))
        translation[:, :2] = scan.recorded_px[:, ::-1] * recipe.pixel_m
        file[f"{ENTRY}/sample_1/geometry_1/translation"] = translation
        file[f"{ENTRY}/data_1/translation"] = h5py.SoftLink(f"{ENTRY}/sample_1/geometry_1/translation")
        file[f"{SOURCE}/energy"], file[f"{SOURCE}/wavelength"] = recipe.energy_keV * KEV_J, recipe.wavelength_m
        file[f"{DETECTOR}/distance"] = recipe.distance_m
        for axis in "xy":
            file[f"{DETECTOR}/{axis}_pixel_size"] = recipe.detector_pixel_m
        shape, chunk = (recipe.frames, recipe.frame_px, recipe.frame_px), (1, recipe.frame_px, recipe.frame_px)
        file.create_dataset(
            f"{ENTRY}/data_1/data", shape, np.uint16, chunks=chunk, compression="gzip", compression_opts=1, shuffle=True
        )
        file[f"{DETECTOR}/data"] = h5py.SoftLink(f"{ENTRY}/data_1/data")
        for start in range(0, recipe.frames, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, recipe.frames))
            for row, frame in zip(rows.tolist(), scan.frames(rows), strict=True):
                if not scan.lost[row]:
                    file[f"{ENTRY}/data_1/data"][row] = frame
    write_npz(
        truth_path(out),
        {
            "object": scan.object,
            "probe": scan.probe,
            "positions_px": scan.positions_px,
            "recorded_px": scan.recorded_px,
            "lost": scan.lost,
            "pixel_m": np.array(recipe.pixel_m),
            "recipe": np.array(json.dumps(asdict(recipe))),
        },
    )
