"""Movies cut into two half sums with independent noise: frames 0, 2, 4, ... and frames 1, 3, 5, ...

MRC, TIFF, and EER (Electron Event Representation: a TIFF whose pages list the pixels that electrons hit), which takes
the package imagecodecs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.mrc import read_info

_EER = ".eer"
_TIFF = (".tif", ".tiff", _EER)
_EER_COMPRESSIONS = (65000, 65001, 65002)
_Bands = Iterator[tuple[int, NDArray[Any]]]
"""(first row, rows) of one frame, as stored, so that a frame need not be in memory twice."""
_CENTIMETRE_A, _INCH_A = 1e8, 2.54e8
_BAND_BYTES = 1 << 22
_LARGEST_PIXEL_A = 100.0
"""A resolution tag that gives more is one for printers."""


@dataclass(frozen=True)
class ImageInfo:
    """frames images of height_px x width_px; pixel_size_A is 0 where the file does not say."""

    frames: int
    height_px: int
    width_px: int
    pixel_size_A: float


def image_info(path: Path) -> ImageInfo:
    """What an MRC, TIFF or EER file holds, from its header.

    Raises:
        FormatError: it is damaged or of a kind that cannot be read here.
    """
    if path.suffix not in _TIFF:
        info = read_info(path)
        return ImageInfo(info.images, info.shape[-2], info.shape[-1], info.voxel_size_A[0])
    if path.suffix == _EER and importlib.util.find_spec("imagecodecs") is None:
        raise FormatError(
            "is an EER movie; the package that decodes those is not installed.",
            where=str(path),
            remedy="Install it (pip install imagecodecs), convert the movie to TIFF, or give half sums.",
        )
    with _opened_tiff(path) as tiff:
        first = _first_frame(tiff)
        page = tiff.pages[first]
        shape = tuple(page.shape)
        if len(shape) != 2:
            raise FormatError(f"holds images of shape {shape}.", where=str(path), remedy="Give greyscale frames.")
        pixel_A = _eer_pixel_A(tiff) if path.suffix == _EER else _tiff_pixel_A(page)
        return ImageInfo(len(tiff.pages) - first, shape[0], shape[1], pixel_A)


@contextmanager
def _opened_tiff(path: Path) -> Iterator[Any]:
    """The open file; what goes wrong inside is a damaged file."""
    from tifffile import TiffFile, TiffFileError

    try:
        with TiffFile(path) as tiff:
            yield tiff
    except (TiffFileError, OSError, ValueError, IndexError, RuntimeError) as error:
        # The decoder of EER raises a RuntimeError of its own.
        raise _no_tiff(path, error) from error


def _first_frame(tiff: Any) -> int:
    """An EER file may begin with the sum of all its frames, which is not compressed as they are."""
    compressions = [int(page.compression) for page in (tiff.pages[n] for n in range(min(2, len(tiff.pages))))]
    return int(len(compressions) == 2 and compressions[0] == 1 and compressions[1] in _EER_COMPRESSIONS)


def _eer_pixel_A(tiff: Any) -> float:
    """From the metadata of the acquisition, where they give it in metres; the keys are those of EPU."""
    found = getattr(tiff, "eer_metadata", None) or {}
    width, unit = found.get("sensorPixelSize.width"), found.get("sensorPixelSize.width.unit")
    pixel_A = float(width) * 1e10 if isinstance(width, (int, float)) and unit == "m" else 0.0
    return pixel_A if 0 < pixel_A < _LARGEST_PIXEL_A else 0.0


def _tiff_pixel_A(page: Any) -> float:
    """From the resolution tags, where they mean a microscope's pixel."""
    tags = {name: page.tags.get(name) for name in ("XResolution", "ResolutionUnit")}
    if tags["XResolution"] is None:
        return 0.0
    up, down = tags["XResolution"].value
    unit_A = {2: _INCH_A, 3: _CENTIMETRE_A}.get(int(tags["ResolutionUnit"].value) if tags["ResolutionUnit"] else 1)
    if unit_A is None or not up:
        return 0.0
    pixel_A = unit_A * down / up
    return float(pixel_A) if pixel_A < _LARGEST_PIXEL_A else 0.0


def _no_tiff(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"cannot be read as TIFF ({error}).",
        where=str(path),
        remedy="The file is cut or still being written; copy it again.",
    )


def load_bytes_a_pixel(path: Path) -> int:
    """Most memory that reading takes beside the result, a pixel: a TIFF page comes whole, an MRC image in bands."""
    return 4 if path.suffix in _TIFF else 1


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[int], _Bands]]:
    """The bands of a frame by its number; the file is opened once, since finding page 700 of a TIFF walks past 699."""
    if path.suffix not in _TIFF:
        yield lambda frame: _mrc_bands(path, frame)
        return
    with _opened_tiff(path) as tiff:
        first = _first_frame(tiff)

        def page(frame: int) -> _Bands:
            yield 0, np.asarray(tiff.pages[first + frame].asarray())

        yield page


def _mrc_bands(path: Path, frame: int) -> _Bands:
    info = read_info(path)
    if info.dtype.kind == "c":
        raise FormatError("holds complex numbers, not images.", where=str(path), remedy="Give real images.")
    height, width = info.shape[-2:]
    rows = max(1, _BAND_BYTES // (width * info.dtype.itemsize))
    with path.open("rb", buffering=0) as file:
        for row in range(0, height, rows):
            count = min(rows, height - row) * width
            at = info.offset + (frame * height + row) * width * info.dtype.itemsize
            band = np.fromfile(file, info.dtype, count, offset=at - file.tell())
            if band.size != count:
                raise FormatError("became shorter while it was read.", where=str(path), remedy="Copy it again.")
            yield row, band.reshape(-1, width)


def add_frame(path: Path, frame: int, out: NDArray[np.float32]) -> None:
    """Add one frame to `out` (H, W).

    Raises:
        InputError: the file holds images of another size.
        FormatError: the file is damaged, or ends early.
    """
    with _opened(path) as bands:
        _add(path, bands(frame), out)


def _add(path: Path, bands: _Bands, out: NDArray[np.float32]) -> None:
    for row, band in bands:
        if band.shape[1] != out.shape[1] or row + len(band) > len(out):
            raise InputError(
                f"holds images {band.shape[1]} px wide, not {out.shape[1]} x {out.shape[0]} px.",
                where=str(path),
                remedy="The file was replaced during the run; restore it.",
            )
        out[row : row + len(band)] += band


def read_frames(path: Path) -> Iterator[NDArray[np.float32]]:
    """The images of a file one by one, (H, W) float32, so that a movie is never whole in memory."""
    info = image_info(path)
    with _opened(path) as bands:
        for frame in range(info.frames):
            image = np.zeros((info.height_px, info.width_px), dtype=np.float32)
            _add(path, bands(frame), image)
            yield image


def read_image(path: Path, out: NDArray[np.float32]) -> None:
    """The first image of a file into `out` (H, W); errors as `add_frame`."""
    out[...] = 0
    add_frame(path, 0, out)


def half_sums(path: Path, out: NDArray[np.float32], gain: NDArray[np.float32] | None = None) -> None:
    """Sums of the even and of the odd frames into `out` (2, H, W); a last frame without partner is left out.

    gain: (H, W), what each frame's pixels are multiplied with, as detectors and RELION define it.
    """
    out[...] = 0
    frames = image_info(path).frames // 2 * 2
    with _opened(path) as bands:
        for frame in range(frames):
            _add(path, bands(frame), out[frame % 2])
    if gain is not None:
        out *= gain


def read_gain(path: Path) -> NDArray[np.float32]:
    """A gain reference (H, W); dead pixels are 0 in it.

    Raises:
        InputError: it holds values that are negative or not finite.
    """
    gain = next(read_frames(path))
    if not np.isfinite(gain).all() or gain.min() < 0:
        raise InputError("is no gain reference: it holds negative values or NaN.", where=str(path))
    return gain
