"""Files of patch pairs, as the Fortran denoiser reads them.

Two layouts, both little endian: `NAME_input.bin` and `NAME_target.bin`, headerless float32 patches of size x size; or
one file with a head of four int32 (n, size, size, 1), followed by input and target patch by patch in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError

_HEAD_BYTES = 16
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class PatchFiles:
    """n pairs of size_px x size_px; target is None for the interleaved layout."""

    first: Path
    target: Path | None
    n: int
    size_px: int


def open_split(first: Path, target: Path, size_px: int) -> PatchFiles:
    """The headerless layout.

    Raises:
        InputError: pairs.match, the two files are of different length.
        FormatError: the length is no multiple of a patch.
    """
    one = size_px**2 * _FLOAT.itemsize
    lengths = [path.stat().st_size for path in (first, target)]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"pairs.match: holds {lengths[0]:,} bytes ({lengths[0] / one:,.6g} patches of {size_px} px), its partner "
            f"{target.name} {lengths[1]:,} ({lengths[1] / one:,.6g}).",
            where=str(first),
            remedy="Export both files again; patches of a pair must correspond one to one.",
        )
    if lengths[0] % one or not lengths[0]:
        raise FormatError(
            f"holds {lengths[0]:,} bytes, no multiple of a patch of {size_px} x {size_px} float32.",
            where=str(first),
            remedy="Give the size of the patches by --patch-size.",
        )
    return PatchFiles(first, target, lengths[0] // one, size_px)


def open_interleaved(path: Path) -> PatchFiles:
    """The layout with a head.

    Raises:
        FormatError: the head makes no sense.
        InputError: pairs.match, the file does not hold the number of pairs that its head says.
    """
    with path.open("rb") as file:
        head = np.frombuffer(file.read(_HEAD_BYTES), dtype="<i4")
    if head.size != 4 or head[0] < 1 or head[1] < 1 or head[1] != head[2] or head[3] != 1:
        raise FormatError(
            f"begins with {head.tolist()} instead of (n, size, size, 1).",
            where=str(path),
            remedy="Name headerless files NAME_input.bin and NAME_target.bin.",
        )
    n, size_px = int(head[0]), int(head[1])
    wanted, found = _HEAD_BYTES + 2 * n * size_px**2 * _FLOAT.itemsize, path.stat().st_size
    if wanted != found:
        raise InputError(
            f"pairs.match: its head says {n:,} pairs of {size_px} px, {wanted:,} bytes, but it holds {found:,}.",
            where=str(path),
            remedy="Export the file again.",
        )
    return PatchFiles(path, None, n, size_px)


def read_patches(files: PatchFiles, start: int, count: int, out: NDArray[np.float32]) -> None:
    """Pairs start .. start + count - 1 into `out` (2, count * size, size), one patch below the other."""
    size = files.size_px
    shape = (count, size, size)
    if files.target is None:
        raw = _read(files.first, _HEAD_BYTES + 2 * start * size**2 * _FLOAT.itemsize, 2 * count * size**2)
        both = raw.reshape(count, 2, size, size)
        out.reshape(2, *shape)[...] = both.transpose(1, 0, 2, 3)
        return
    for half, path in enumerate((files.first, files.target)):
        out[half] = _read(path, start * size**2 * _FLOAT.itemsize, count * size**2).reshape(count * size, size)


def _read(path: Path, offset: int, values: int) -> NDArray[np.float32]:
    found = np.fromfile(path, dtype=_FLOAT, count=values, offset=offset)
    if found.size != values:
        raise InputError("has become shorter.", where=str(path), remedy="Restore the file with which the run began.")
    return found
