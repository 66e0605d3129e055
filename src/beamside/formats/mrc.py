"""MRC2014 images, stacks and maps, read and written with nothing but numpy.

Implements the layout of Cheng et al., J. Struct. Biol. 192 (2015) 146-150, in both byte orders. Unsigned 16-bit data
(mode 6) stay unsigned. A file is measured against its header before a byte of it is read or allocated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.atomic import replacing
from beamside.formats.opening import opened

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
IMOD_SIGNED_BYTES = 1
MODES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.int8),
    1: np.dtype(np.int16),
    2: np.dtype(np.float32),
    4: np.dtype(np.complex64),
    6: np.dtype(np.uint16),
    12: np.dtype(np.float16),
}
_ONE_READ_BYTES = 1 << 30
_VOLUME_STACK_GROUPS = range(401, 631)


@dataclass(frozen=True)
class MrcInfo:
    """What the header of an MRC file declares, checked against the size of the file.

    shape: (nz, ny, nx), or (volumes, nz, ny, nx) for a stack of volumes.
    voxel_size_A: (x, y, z) in Angstrom, 0 where the header does not say.
    origin_A: (x, y, z) of the header's origin words.
    dtype: of the pixels as stored, byte order included.
    offset: where the pixels begin, in bytes.
    spare_bytes: how far the file goes on beyond its pixels.
    """

    path: Path
    shape: tuple[int, ...]
    mode: int
    dtype: np.dtype[Any]
    voxel_size_A: tuple[float, float, float]
    origin_A: tuple[float, float, float]
    space_group: int
    offset: int
    spare_bytes: int

    @property
    def is_stack(self) -> bool:
        """True for a stack of images: space group 0, or the suffix that RELION gives a stack."""
        return self.space_group == 0 or self.path.suffix == ".mrcs"

    @property
    def images(self) -> int:
        """How many two-dimensional sections the file holds."""
        return int(np.prod(self.shape[:-2], dtype=np.int64))


def read_info(path: str | os.PathLike[str]) -> MrcInfo:
    """The header of `path`, without its pixels.

    Raises FormatError when it is no MRC file, its mode is not one of `MODES`, its sizes are impossible, or the file
    is shorter than its header says.
    """
    path = Path(path)
    with opened(path) as file:
        head = file.read(HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size
    return _parse(path, head, size)


def _parse(path: Path, head: bytes, size: int) -> MrcInfo:
    if len(head) < HEADER_BYTES:
        raise FormatError(
            f"holds {len(head)} bytes, less than the {HEADER_BYTES} of an MRC header.",
            where=str(path),
            remedy="The file is cut or still being written; copy it again.",
        )
    order = _byte_order(path, head)
    nx, ny, nz, mode = struct.unpack_from(order + "4i", head, 0)
    mx, my, mz = struct.unpack_from(order + "3i", head, 28)
    cell = struct.unpack_from(order + "3f", head, 40)
    group, extended = struct.unpack_from(order + "2i", head, 88)
    if mode not in MODES:
        raise FormatError(
            f"has MRC mode {mode}, which is not supported.",
            where=str(path),
            remedy=f"Convert it to one of the modes {', '.join(map(str, MODES))} (2 is float32).",
        )
    if min(nx, ny, nz) < 1 or extended < 0:
        raise FormatError(
            f"declares {nx} x {ny} x {nz} pixels behind an extended header of {extended} bytes, which is impossible.",
            where=str(path),
            remedy="The header is damaged; write the file again.",
        )
    dtype = _stored_type(mode, head, order)
    offset, pixels = HEADER_BYTES + extended, nx * ny * nz * dtype.itemsize
    if size < offset + pixels:
        raise FormatError(
            f"declares {nx} x {ny} x {nz} pixels of mode {mode}, {offset + pixels:,} bytes in all, but holds {size:,}.",
            where=str(path),
            remedy="The file is cut or still being written; copy it again.",
        )
    if head[208:211] != b"MAP" and size != offset + pixels:
        raise FormatError(
            "carries no MAP mark, and its size does not fit its header.", where=str(path), remedy="It is no MRC file."
        )
    return MrcInfo(
        path=path,
        shape=_shape(path, (nz, ny, nx), group, mz),
        mode=mode,
        dtype=dtype,
        voxel_size_A=_voxel_size(cell, (mx, my, mz)),
        origin_A=struct.unpack_from(order + "3f", head, 196),
        space_group=group,
        offset=offset,
        spare_bytes=size - offset - pixels,
    )


def _byte_order(path: Path, head: bytes) -> str:
    """'<' or '>' from the machine stamp; where there is none, the order in which the mode makes sense."""
    stamped = {0x44: "<", 0x11: ">"}.get(head[212])
    if stamped:
        return stamped
    sensible = [o for o in "<>" if 0 <= struct.unpack_from(o + "i", head, 12)[0] < 256]
    sensible = [o for o in sensible if min(struct.unpack_from(o + "3i", head, 0)) > 0]
    if len(sensible) != 1:
        raise FormatError(
            "has neither a machine stamp nor sizes that make sense in one byte order.",
            where=str(path),
            remedy="It is no MRC file, or its header is damaged.",
        )
    return sensible[0]


def _stored_type(mode: int, head: bytes, order: str) -> np.dtype[Any]:
    """Of one pixel. Files that carry IMOD's stamp say in a flag whether bytes are signed."""
    stamp, flags = struct.unpack_from(order + "2i", head, 152)
    if mode == 0 and stamp == IMOD_STAMP and not flags & IMOD_SIGNED_BYTES:
        return np.dtype(np.uint8)
    return MODES[mode].newbyteorder("<" if order == "<" else ">")


def _shape(path: Path, sizes: tuple[int, int, int], group: int, mz: int) -> tuple[int, ...]:
    if group not in _VOLUME_STACK_GROUPS:
        return sizes
    if mz < 1 or sizes[0] % mz:
        raise FormatError(
            f"is a stack of volumes (space group {group}), but its {sizes[0]} sections are no multiple of mz = {mz}.",
            where=str(path),
            remedy="The header is damaged; write the file again.",
        )
    return (sizes[0] // mz, mz, *sizes[1:])


def _voxel_size(cell: Sequence[float], grid: Sequence[int]) -> tuple[float, float, float]:
    x, y, z = (float(c) / m if m > 0 and np.isfinite(c) and c > 0 else 0.0 for c, m in zip(cell, grid, strict=True))
    return x, y, z


def open_mrc(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The pixels of a finished file as a read-only memory map of `MrcInfo.shape` and `MrcInfo.dtype`.

    A file that shrinks while mapped kills the process; use `read_images` or `read_map` on files of a running session.
    """
    info = read_info(path)
    return np.memmap(info.path, dtype=info.dtype, mode="r", offset=info.offset, shape=info.shape)


def read_map(path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], MrcInfo]:
    """All pixels as native float32 of `MrcInfo.shape`, and the header; complex files are refused."""
    info = read_info(path)
    flat = _read_sections(info, np.arange(info.images))
    return flat.reshape(info.shape), info


def read_images(path: str | os.PathLike[str], indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Sections `indices` (from 0) of a stack as float32 (k, ny, nx); nothing else of the file is read.

    Runs of consecutive indices cost one read each. Raises FormatError for an index outside the stack, and for a file
    that is cut, also when it is cut after its header was read.
    """
    return _read_sections(read_info(path), np.asarray(indices, dtype=np.int64).reshape(-1))


def _read_sections(info: MrcInfo, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
    if info.dtype.kind == "c":
        raise FormatError(
            f"holds complex numbers (mode {info.mode}), not images.", where=str(info.path), remedy="Give it real ones."
        )
    outside = wanted[(wanted < 0) | (wanted >= info.images)]
    if outside.size:
        raise FormatError(
            f"image {int(outside[0]) + 1} was asked for, but the stack holds {info.images}.",
            where=str(info.path),
            remedy="The table and the stack do not belong together, or the stack is still being written.",
        )
    out = np.empty((wanted.size, *info.shape[-2:]), dtype=np.float32)
    if not wanted.size:
        return out
    order = np.argsort(wanted, kind="stable")
    breaks = np.flatnonzero(np.diff(wanted[order]) != 1) + 1
    with info.path.open("rb", buffering=0) as file:
        for run in np.split(order, breaks):
            _read_run(file, info, wanted, run, out)
    return out


def _read_run(
    file: IO[bytes], info: MrcInfo, wanted: NDArray[np.int64], run: NDArray[np.int64], out: NDArray[np.float32]
) -> None:
    """Consecutive sections wanted[run] into out[run]; straight into place where the bytes are right already."""
    section = int(np.prod(info.shape[-2:], dtype=np.int64)) * info.dtype.itemsize
    start = info.offset + int(wanted[run[0]]) * section
    if info.dtype == out.dtype and bool(np.all(np.diff(run) == 1)):
        _read_exactly(file, info, start, out[run[0] : run[-1] + 1].reshape(-1).view(np.uint8))
        return
    raw = np.empty(run.size * section, dtype=np.uint8)
    _read_exactly(file, info, start, raw)
    out[run] = raw.view(info.dtype).reshape(run.size, *info.shape[-2:])


def _read_exactly(file: IO[bytes], info: MrcInfo, start: int, target: NDArray[np.uint8]) -> None:
    """Fill `target` from byte `start`. Positional reads, so a file that shrinks is an error and not a bus error."""
    view, done = target.data, 0
    while done < len(view):
        got = os.preadv(file.fileno(), [view[done : done + _ONE_READ_BYTES]], start + done)
        if got == 0:
            raise FormatError(
                f"ends at byte {start + done:,}, though it was longer when its header was read.",
                where=str(info.path),
                remedy="Something is rewriting the file; wait until it is complete.",
            )
        done += got


def write_stack(path: str | os.PathLike[str], images: NDArray[Any], pixel_size_A: float) -> None:
    """Write (n, ny, nx) as an image stack (space group 0), beside `path` first and then renamed into place.

    float32, float16, int8, int16, uint16 and complex64 keep their type; float64 becomes float32. Raises FormatError
    for another type or shape.
    """
    write_stack_parts(path, [images], pixel_size_A)


def write_stack_parts(path: str | os.PathLike[str], parts: Iterable[NDArray[Any]], pixel_size_A: float) -> None:
    """As `write_stack`, from pieces (k, ny, nx) that follow each other, so that they need not be in memory at once."""
    _write(Path(path), parts, pixel_size_A, space_group=0)


def write_map(path: str | os.PathLike[str], volume: NDArray[Any], voxel_size_A: float) -> None:
    """Write (nz, ny, nx) as a volume (space group 1); otherwise as `write_stack`."""
    _write(Path(path), [volume], voxel_size_A, space_group=1)


def _write(path: Path, parts: Iterable[NDArray[Any]], voxel_A: float, space_group: int) -> None:
    """Pixels first and the header, which has their number and statistics, last; nobody sees the file before."""
    tally: _Tally | None = None
    with replacing(path) as file:
        file.write(bytes(HEADER_BYTES))
        for part in parts:
            tally = tally or _Tally(path, part)
            for section in part:
                file.write(tally.add(section).tobytes())
        if tally is None or not tally.sections:
            raise FormatError("a stack of no images cannot be written.", where=str(path))
        file.seek(0)
        file.write(tally.header(voxel_A, space_group))


class _Tally:
    """What the header of a file being written must say; every section has the shape and type of the first."""

    def __init__(self, path: Path, part: NDArray[Any]) -> None:
        stored = np.dtype(np.float32) if part.dtype == np.float64 else part.dtype.newbyteorder("=")
        mode = next((m for m, t in MODES.items() if t == stored), None)
        if part.ndim != 3 or 0 in part.shape[1:]:
            raise FormatError(f"an array of shape {part.shape} is no stack of images.", where=str(path))
        if mode is None:
            raise FormatError(f"MRC has no mode for {part.dtype}.", where=str(path), remedy="Convert it to float32.")
        self.path, self.mode, self.dtype, self.shape = path, mode, stored.newbyteorder("<"), part.shape[1:]
        self.sections, self.low, self.high, self.total, self.squares = 0, np.inf, -np.inf, 0.0, 0.0

    def add(self, section: NDArray[Any]) -> NDArray[Any]:
        """Count a section; returns it as it is stored."""
        if section.shape != self.shape:
            raise FormatError(f"an image of shape {section.shape} among {self.shape}.", where=str(self.path))
        self.sections += 1
        if self.dtype.kind != "c":
            wide = section.astype(np.float64)
            self.low, self.high = min(self.low, float(wide.min())), max(self.high, float(wide.max()))
            self.total += float(wide.sum())
            self.squares += float(np.square(wide).sum())
        return np.ascontiguousarray(section, dtype=self.dtype)

    def statistics(self) -> tuple[float, float, float, float]:
        """Minimum, maximum, mean, rms; for complex data the standard's "not computed": max < min, mean < both."""
        if self.dtype.kind == "c":
            return 0.0, -1.0, -2.0, -1.0
        pixels = self.sections * self.shape[0] * self.shape[1]
        mean = self.total / pixels
        return self.low, self.high, mean, max(self.squares / pixels - mean * mean, 0.0) ** 0.5

    def header(self, voxel_A: float, space_group: int) -> bytes:
        """The 1,024 bytes of the header."""
        ny, nx = self.shape
        grid = (nx, ny, 1 if space_group == 0 else self.sections)
        low, high, mean, rms = self.statistics()
        head = bytearray(HEADER_BYTES)
        struct.pack_into("<10i", head, 0, nx, ny, self.sections, self.mode, 0, 0, 0, *grid)
        struct.pack_into("<6f", head, 40, *(voxel_A * m for m in grid), 90.0, 90.0, 90.0)
        struct.pack_into("<3i3f2i", head, 64, 1, 2, 3, low, high, mean, space_group, 0)
        struct.pack_into("<i", head, 108, 20140)
        head[208:216] = b"MAP \x44\x44\x00\x00"
        struct.pack_into("<f", head, 216, rms)
        struct.pack_into("<i", head, 220, 1)
        head[224 : 224 + 80] = b"beamside".ljust(80)
        return bytes(head)
