"""The tables of a 2D classification as RELION 3.1 and later write them, and class averages as they are read back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.mrc import read_images, read_info
from beamside.formats.star import Columns, StarTable, column, pairs, read_star, write_star

Values = NDArray[Any] | Sequence[str] | Sequence[float]

_OPTICS_OF_ROWS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnMtfFileName",
)
"""Columns of STAR 3.0 that move to data_optics in 3.1."""
_PIXEL_LABELS = ("rlnImagePixelSize", "rlnDetectorPixelSize", "rlnMagnification")
_NO_RESOLUTION_A = 999.0
"""What RELION writes for the resolution of frequency 0."""


def add_optics(particles: Columns, *, box_px: int, pixel_size_A: float) -> tuple[Columns, Columns]:
    """The rows of STAR 3.0 as (data_optics, data_particles) of 3.1: one group for each set of optics values.

    The pixel size of a group is 1e4 rlnDetectorPixelSize / rlnMagnification where the rows have them, else
    `pixel_size_A`. Columns that describe the optics move, all others stay as they are.
    """
    count = len(next(iter(particles.values()), ()))
    labels = [label for label in (*_OPTICS_OF_ROWS, *_PIXEL_LABELS) if label in particles]
    rows = list(zip(*(particles[label] for label in labels), strict=True)) if labels else [()] * count
    numbers: dict[tuple[str, ...], int] = {}
    group = [str(numbers.setdefault(row, len(numbers) + 1)) for row in rows]
    texts = [dict(zip(labels, row, strict=True)) for row in numbers]
    optics: Columns = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers.values()],
        "rlnOpticsGroup": [str(number) for number in numbers.values()],
    }
    optics.update({label: [text[label] for text in texts] for label in _OPTICS_OF_ROWS if label in labels})
    optics["rlnImagePixelSize"] = [_pixel_size_text(text, pixel_size_A) for text in texts]
    optics["rlnImageSize"] = [str(box_px)] * len(numbers)
    optics["rlnImageDimensionality"] = ["2"] * len(numbers)
    moved = {*_OPTICS_OF_ROWS, "rlnImagePixelSize", "rlnOpticsGroup"}
    kept = {label: values for label, values in particles.items() if label not in moved}
    return optics, {**kept, "rlnOpticsGroup": group}


def _pixel_size_text(row: Mapping[str, str], fallback_A: float) -> str:
    if "rlnImagePixelSize" in row:
        return row["rlnImagePixelSize"]
    if "rlnDetectorPixelSize" in row and "rlnMagnification" in row:
        return f"{1e4 * float(row['rlnDetectorPixelSize']) / float(row['rlnMagnification']):.6f}"
    return f"{fallback_A:.6f}"


def write_data(
    path: str | os.PathLike[str], optics: Columns, particles: Columns, results: Mapping[str, Values]
) -> None:
    """Write `run_itNNN_data.star`: both tables of the input, with `results` in the place of columns of those names.

    results: label -> one value a particle; numbers get six decimals, whole numbers none. Raises FormatError for a
    column of another length.
    """
    rows = {**particles, **{label: column(values) for label, values in results.items()}}
    write_star(path, [StarTable(optics, name="optics"), StarTable(rows, name="particles")])


@dataclass(frozen=True)
class Model:
    """What `run_itNNN_model.star` says of K classes with R = box//2 + 1 rings.

    class_images: the classes' stack as other programs are to find it.
    occupancy: (K,), sums to 1. resolution_A: (K,), infinite where there is none. completeness: (K,) share of the
    Fourier plane within that resolution that the data cover.
    frc: (K, R) between even and odd halves. ssnr: (K, R) spectral signal-to-noise ratio.
    """

    class_images: str
    box_px: int
    pixel_size_A: float
    occupancy: NDArray[np.float64]
    resolution_A: NDArray[np.float64]
    completeness: NDArray[np.float64]
    frc: NDArray[np.float64]
    ssnr: NDArray[np.float64]
    log_likelihood: float
    average_pmax: float
    sigma_offset_A: float


def write_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write `run_itNNN_model.star`: general, classes, and one table of rings for each class."""
    tables = [pairs("model_general", _general(model)), StarTable(_classes(model), name="model_classes")]
    rings = np.arange(model.box_px // 2 + 1)
    frequency = rings / (model.box_px * model.pixel_size_A)
    spacing = np.divide(1.0, frequency, out=np.full(rings.size, _NO_RESOLUTION_A), where=rings > 0)
    for number, (frc, ssnr) in enumerate(zip(model.frc, model.ssnr, strict=True), 1):
        columns = {
            "rlnSpectralIndex": column(rings),
            "rlnResolution": column(frequency),
            "rlnAngstromResolution": column(spacing),
            "rlnSsnrMap": column(ssnr),
            "rlnGoldStandardFsc": column(frc),
        }
        tables.append(StarTable(columns, name=f"model_class_{number}"))
    write_star(path, tables)


def _general(model: Model) -> dict[str, str]:
    best = float(np.min(_finite(model.resolution_A)))
    rings = min(model.box_px // 2, int(np.ceil(model.box_px * model.pixel_size_A / best)))
    return {
        "rlnReferenceDimensionality": "2",
        "rlnDataDimensionality": "2",
        "rlnOriginalImageSize": str(model.box_px),
        "rlnCurrentResolution": f"{best:.6f}",
        "rlnCurrentImageSize": str(2 * rings),
        "rlnPixelSize": f"{model.pixel_size_A:.6f}",
        "rlnNrClasses": str(len(model.occupancy)),
        "rlnNrBodies": "1",
        "rlnSigmaOffsetsAngst": f"{model.sigma_offset_A:.6f}",
        "rlnLogLikelihood": f"{model.log_likelihood:.6e}",
        "rlnAveragePmax": f"{model.average_pmax:.6f}",
    }


def _classes(model: Model) -> Columns:
    numbers = range(1, len(model.occupancy) + 1)
    return {
        "rlnReferenceImage": [f"{number:06d}@{model.class_images}" for number in numbers],
        "rlnClassDistribution": column(model.occupancy),
        "rlnEstimatedResolution": column(_finite(model.resolution_A)),
        "rlnOverallFourierCompleteness": column(model.completeness),
    }


def _finite(resolution_A: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(resolution_A), resolution_A, _NO_RESOLUTION_A)


@dataclass(frozen=True)
class References:
    """Class averages: float32 (K, n, n), in Angstrom per pixel (0 where no file says), numbered as their file does."""

    images: NDArray[np.float32]
    pixel_size_A: float
    numbers: NDArray[np.int64]
    files: tuple[Path, ...]


def read_references(path: str | os.PathLike[str]) -> References:
    """Class averages from a stack (numbered from 1) or from a STAR file with rlnReferenceImage.

    In a STAR file the number of a class is that of its image, as RELION's selections keep it. Raises FormatError,
    naming the file and the row, for a table without references, an absent stack, or images of different sizes.
    """
    path = Path(path)
    if path.suffix != ".star":
        info = read_info(path)
        numbers = np.arange(1, info.images + 1)
        return References(read_images(path, numbers - 1), info.voxel_size_A[0], numbers, (path,))
    return _references_of_model(path)


def _references_of_model(path: Path) -> References:
    tables = read_star(path)
    table = next((t for t in tables.values() if "rlnReferenceImage" in t.columns), None)
    if table is None or not len(table):
        raise FormatError(
            "has no table with rlnReferenceImage.",
            where=str(path),
            remedy="Give the model.star of a 2D classification, or its classes.mrcs.",
        )
    images, files, numbers = [], [], []
    for row, text in enumerate(table.columns["rlnReferenceImage"]):
        number, _, name = text.partition("@")
        stack = _beside(path, name)
        if not number.isdigit() or stack is None:
            raise FormatError(
                f"the class average {text!r} was not found beside the table or in the folders above.",
                where=table.place(row),
                remedy="Bring the stack of classes.",
            )
        images.append(read_images(stack, [int(number) - 1])[0])
        if images[-1].shape != images[0].shape:
            raise FormatError(f"{text} has another size than the first class.", where=table.place(row))
        files.append(stack)
        numbers.append(int(number))
    if len(set(numbers)) != len(numbers):
        raise FormatError("names a class number twice.", where=table.path, remedy="Keep one image for each class.")
    general = tables.get("model_general")
    given = general.floats("rlnPixelSize")[0] if general and "rlnPixelSize" in general.columns else 0.0
    pixel_size_A = float(given) or read_info(files[0]).voxel_size_A[0]
    return References(np.stack(images), pixel_size_A, np.array(numbers, dtype=np.int64), (path, *dict.fromkeys(files)))


def _beside(model: Path, name: str) -> Path | None:
    """The stack of a model: beside it, or under one of the folders above, where RELION's paths begin."""
    folder = Path(os.path.abspath(model)).parent
    candidates = (folder / Path(name).name, *(base / name for base in (folder, *folder.parents)))
    return next((c for c in candidates if name and c.is_file()), None)
