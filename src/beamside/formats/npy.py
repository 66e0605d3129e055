"""NumPy's .npy files, read without pickle and measured against their header before anything is allocated.

Implements format versions 1.0 to 3.0 of `numpy.lib.format`; only numbers and fixed-length text are taken.
"""

from __future__ import annotations

import ast
import math
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.opening import opened

MAGIC = b"\x93NUMPY"
_LARGEST_HEADER_BYTES = 1 << 16
"""Of a table of 100 columns: 5 kB."""
_MOST_AXES = 32


@dataclass(frozen=True)
class NpyInfo:
    """What the header of a .npy file declares, checked against the size of the file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int


def read_npy_info(path: str | os.PathLike[str]) -> NpyInfo:
    """The header of `path`, without its values.

    Raises FormatError when it is no .npy file, holds Python objects, or its size is not what its header says.
    """
    path = Path(path)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset, header = _header(path, file)
    shape, dtype, fortran_order = _declared(path, header)
    needed = math.prod(shape) * dtype.itemsize
    if size != offset + needed:
        raise FormatError(
            f"declares {' x '.join(map(str, shape)) or 'one'} values of {dtype.itemsize} bytes, {offset + needed:,} "
            f"bytes in all, but holds {size:,}.",
            where=str(path),
            remedy="The file is cut, still being written, or damaged; copy it again.",
        )
    return NpyInfo(path, shape, dtype, fortran_order, offset)


def read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The values of a .npy file in its own type and shape; errors as `read_npy_info`."""
    info = read_npy_info(path)
    flat = np.empty(math.prod(info.shape), dtype=info.dtype)
    with info.path.open("rb", buffering=0) as file:
        file.seek(info.offset)
        view, done = flat.view(np.uint8).data if flat.size else memoryview(b""), 0
        while done < len(view):
            got = file.readinto(view[done : done + (1 << 30)])
            if not got:
                raise FormatError(
                    f"ends at byte {info.offset + done:,}, though it was longer when its header was read.",
                    where=str(info.path),
                    remedy="Something is rewriting the file; wait until it is complete.",
                )
            done += got
    return flat.reshape(info.shape, order="F" if info.fortran_order else "C")


def _header(path: Path, file: IO[bytes]) -> tuple[int, str]:
    """Where the values begin, and the header's text."""
    lead = file.read(8)
    if lead[:6] != MAGIC or len(lead) < 8 or lead[6] not in (1, 2, 3):
        raise FormatError("does not begin as a .npy file does.", where=f"{path}, byte 0", remedy="It is no .npy file.")
    width = 2 if lead[6] == 1 else 4
    raw = file.read(width)
    length = struct.unpack("<H" if width == 2 else "<I", raw)[0] if len(raw) == width else -1
    if not 0 < length <= _LARGEST_HEADER_BYTES:
        raise FormatError(
            f"declares a header of {length:,} bytes; at most {_LARGEST_HEADER_BYTES:,} are read.",
            where=f"{path}, byte 8",
            remedy="The file is cut or damaged; copy it again.",
        )
    text = file.read(length)
    if len(text) < length:
        raise FormatError(
            f"ends after {8 + width + len(text)} bytes, inside its header.",
            where=f"{path}, byte {8 + width + len(text)}",
            remedy="The file is cut or still being written; copy it again.",
        )
    return 8 + width + length, text.decode("utf-8" if lead[6] == 3 else "latin-1", errors="replace")


def _declared(path: Path, header: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    def damaged(why: str) -> FormatError:
        return FormatError(
            f"its header cannot be used: {why}.", where=f"{path}, header", remedy="The file is damaged; copy it again."
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = ast.literal_eval(header.strip())
            if not isinstance(values, dict) or set(values) != {"descr", "fortran_order", "shape"}:
                raise damaged("it does not name descr, fortran_order and shape")
            dtype = np.lib.format.descr_to_dtype(values["descr"])
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, MemoryError, RecursionError) as error:
        raise damaged(f"{type(error).__name__}: {str(error)[:80]}") from error
    if dtype.hasobject:
        raise FormatError(
            "holds Python objects, which only a pickle could bring back.",
            where=f"{path}, header",
            remedy="Pickles can run programs and are never opened; save plain numbers.",
        )
    shape = values["shape"]
    sound = isinstance(shape, tuple) and len(shape) <= _MOST_AXES and isinstance(values["fortran_order"], bool)
    if not sound or not all(type(n) is int and 0 <= n < 2**62 for n in shape) or dtype.itemsize == 0:
        raise damaged(f"the shape {str(shape)[:80]} of {str(dtype)[:80]} is impossible")
    return shape, dtype, values["fortran_order"]
