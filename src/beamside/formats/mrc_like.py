"""One image as an MRC file that keeps the header of another: cell, origin, labels."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.atomic import replacing
from beamside.formats.mrc import HEADER_BYTES, read_info

_LABELS, _LABEL_BYTES, _MOST_LABELS = 224, 80, 10
_TEXT = ((104, 108), (208, 216), (_LABELS, HEADER_BYTES))
"""Bytes of the header that are no 4-byte words."""


def write_like(path: Path, image: NDArray[Any], source: str | os.PathLike[str], label: str) -> None:
    """Write `image` (H, W) as float32 with the header of the MRC file `source`, beside `path` and renamed into place.

    Sizes, mode, statistics and byte order are the new file's own; the extended header is left out. `label` is added.

    Raises:
        FormatError: `source` is no MRC file, or of another size.
    """
    info = read_info(source)
    if info.shape[-2:] != image.shape:
        raise FormatError(f"holds images of {info.shape[-2:]}, not of {image.shape}.", where=str(info.path))
    with info.path.open("rb") as file:
        head = _little_endian(file.read(HEADER_BYTES), swapped=info.dtype.byteorder == ">")
    pixels = np.ascontiguousarray(image, dtype="<f4")
    low, high, mean, rms = _statistics(pixels)
    struct.pack_into("<4i", head, 0, image.shape[1], image.shape[0], 1, 2)
    struct.pack_into("<3f", head, 76, low, high, mean)
    # A stack of images: one section whatever the source's number of volumes.
    if struct.unpack_from("<i", head, 88)[0] > 1:
        struct.pack_into("<i", head, 88, 0)
    struct.pack_into("<i", head, 92, 0)
    head[104:108] = bytes(4)
    struct.pack_into("<i", head, 108, 20140)
    head[208:216] = b"MAP \x44\x44\x00\x00"
    struct.pack_into("<f", head, 216, rms)
    _add_label(head, label)
    with replacing(path) as out:
        out.write(bytes(head))
        out.write(pixels.data)


def _statistics(pixels: NDArray[Any]) -> tuple[float, float, float, float]:
    """Minimum, maximum, mean, rms, row by row in float64 so that no second image is in memory."""
    total = squares = 0.0
    for row in pixels:
        wide = row.astype(np.float64)
        total += float(wide.sum())
        squares += float(np.square(wide).sum())
    mean = total / pixels.size
    return float(pixels.min()), float(pixels.max()), mean, max(squares / pixels.size - mean * mean, 0.0) ** 0.5


def _little_endian(head: bytes, *, swapped: bool) -> bytearray:
    if not swapped:
        return bytearray(head)
    out = bytearray(np.frombuffer(head, dtype=">u4").astype("<u4").tobytes())
    for start, stop in _TEXT:
        out[start:stop] = head[start:stop]
    return out


def _add_label(head: bytearray, label: str) -> None:
    """At the first free place; a file that has all ten keeps its own."""
    count = struct.unpack_from("<i", head, 220)[0]
    if not 0 <= count < _MOST_LABELS:
        return
    at = _LABELS + _LABEL_BYTES * count
    head[at : at + _LABEL_BYTES] = label.encode("ascii", "replace")[:_LABEL_BYTES].ljust(_LABEL_BYTES)
    struct.pack_into("<i", head, 220, count + 1)
