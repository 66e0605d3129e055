"""A simulated session as files: at once, or piece by piece as a facility writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.formats.mrc import write_map, write_stack, write_stack_parts
from beamside.formats.star import Columns, StarTable, column, write_star
from beamside.simulate.particles import Recipe, Session

_PART = 1024


def write_once(out: Path, session: Session, volume: NDArray[np.float32]) -> None:
    """`out`/particles.star and .mrcs, and the truth beside `out`."""
    rows = np.arange(session.recipe.count)
    names = [f"{row + 1:06d}@particles.mrcs" for row in rows]
    _begin(out, session, volume, names)
    parts = (session.images(rows[start : start + _PART]) for start in range(0, rows.size, _PART))
    write_stack_parts(out / "particles.mrcs", parts, session.recipe.pixel_size_A)
    _write_table(out / "particles.star", session, rows, names, truth=False)


def write_live(
    out: Path,
    session: Session,
    volume: NDArray[np.float32],
    rate: float,
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """One stack and one STAR file a micrograph into `out`, each whole when it appears; the truth is there first.

    rate: particles a second (0: as fast as they are made). What is written does not depend on it.
    """
    batches = list(_micrographs(session))
    names = [f"{i + 1:06d}@{stem}.mrcs" for stem, rows in batches for i in range(rows.size)]
    _begin(out, session, volume, names)
    session.noise_variance  # noqa: B018  the calibration is no part of the session's clock
    begun, written = clock(), 0
    for stem, rows in batches:
        images = session.images(rows)
        written += rows.size
        if rate > 0:
            sleep(max(0.0, begun + written / rate - clock()))
        write_stack(out / f"{stem}.mrcs", images, session.recipe.pixel_size_A)
        _write_table(out / f"{stem}.star", session, rows, [names[row] for row in rows], truth=False)
        say(f"{stem}: {rows.size} particles, {written} of {session.recipe.count}")


def _micrographs(session: Session) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Name and particles of each micrograph that has any."""
    for number in range(session.recipe.micrographs):
        rows = np.flatnonzero(session.truth.micrograph == number)
        if rows.size:
            yield f"mic{number:04d}", rows


def _begin(out: Path, session: Session, volume: NDArray[np.float32], names: list[str]) -> None:
    """The folder, and beside it the truth: `out`_truth.star, `out`_map.mrc, `out`.json."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("exists and is not empty.", where=str(out), remedy="Give a folder that is not there yet.")
    out.mkdir(parents=True, exist_ok=True)
    recipe = session.recipe
    write_map(out.with_name(f"{out.name}_map.mrc"), volume, recipe.pixel_size_A)
    _write_table(out.with_name(f"{out.name}_truth.star"), session, np.arange(recipe.count), names, truth=True)
    facts = {**asdict(recipe), "noise_variance": session.noise_variance}
    out.with_name(f"{out.name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def _write_table(path: Path, session: Session, rows: NDArray[np.int64], names: list[str], *, truth: bool) -> None:
    known = session.truth
    optics = known.optics
    columns: Columns = {
        "rlnImageName": names,
        "rlnMicrographName": [f"mic{number:04d}.mrc" for number in known.micrograph[rows]],
        "rlnDefocusU": column(optics.defocus_u_A[rows]),
        "rlnDefocusV": column(optics.defocus_v_A[rows]),
        "rlnDefocusAngle": column(optics.defocus_angle_deg[rows]),
        "rlnOpticsGroup": ["1"] * rows.size,
    }
    recipe = session.recipe
    if recipe.bfactor_A2:
        columns["rlnCtfBfactor"] = column(optics.bfactor_A2[rows])
    if truth:
        columns |= {
            "rlnAngleRot": column(known.rot_deg[rows]),
            "rlnAngleTilt": column(known.tilt_deg[rows]),
            "rlnAnglePsi": column(known.psi_deg[rows]),
            "rlnOriginXAngst": column(known.origin_x_px[rows] * recipe.pixel_size_A),
            "rlnOriginYAngst": column(known.origin_y_px[rows] * recipe.pixel_size_A),
            "rlnClassNumber": column(known.junk[rows].astype(np.int64) + 1),
        }
    write_star(path, [StarTable(_optics(recipe), name="optics"), StarTable(columns, name="particles")])


def _optics(recipe: Recipe) -> Columns:
    pixel = f"{recipe.pixel_size_A:.6f}"
    return {
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnOpticsGroup": ["1"],
        "rlnMicrographOriginalPixelSize": [pixel],
        "rlnVoltage": [f"{recipe.voltage_kV:.6f}"],
        "rlnSphericalAberration": [f"{recipe.cs_mm:.6f}"],
        "rlnAmplitudeContrast": [f"{recipe.amplitude_contrast:.6f}"],
        "rlnImagePixelSize": [pixel],
        "rlnImageSize": [str(recipe.box_px)],
        "rlnImageDimensionality": ["2"],
    }
