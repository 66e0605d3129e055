"""The pixel encodings of DECTRIS streams: raw, LZ4, LZ4 as HDF5 frames it, and LZ4 of bit-shuffled blocks.

`<` is raw little-endian, `lz4<` one LZ4 block; `h5lz4<` the number of bytes (uint64, big-endian), the bytes in a block
(uint32), and for each block its compressed size (uint32) and an LZ4 block, or the bytes themselves where that would not
be shorter; `bs8-lz4<`, `bs16-lz4<` and `bs32-lz4<` the bitshuffle container: the
number of bytes (uint64, big-endian), the bytes in a block (uint32), and for each block its compressed size (uint32)
and an LZ4 block; elements beyond a multiple of eight follow as they are. Bits are transposed here with numpy, so that
only LZ4 itself is foreign code, and that one checks its bounds.
"""

from __future__ import annotations

import importlib
import math
import struct
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError

TYPES: dict[str, np.dtype[Any]] = {"uint8": np.dtype("<u1"), "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
ENCODINGS = ("<", "lz4<", "h5lz4<", "bs8-lz4<", "bs16-lz4<", "bs32-lz4<")
_MOST_BYTES = 1 << 28
_BLOCK_BYTES = 8192
_HEADER = struct.Struct(">QI")
_SIZE = struct.Struct(">I")
_SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
"""Transposing 8 x 8 bits in a 64-bit word: Warren, Hacker's Delight, section 7-3."""


def decode_image(blob: bytes | memoryview, encoding: str, shape: tuple[int, int], type_name: str) -> NDArray[Any]:
    """The image (rows, columns) of a message.

    Raises:
        FormatError: an unknown type or encoding, an absurd shape, or a blob that does not decode to just that image.
    """
    dtype = TYPES.get(type_name)
    if dtype is None or encoding not in ENCODINGS:
        raise FormatError(f"pixels of type {type_name!r} in encoding {encoding!r} are not known.")
    size = math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or size > _MOST_BYTES:
        raise FormatError(f"an image of {shape[0]} x {shape[1]} px is impossible.")
    if encoding == "<":
        raw: bytes | memoryview = blob
    elif encoding == "lz4<":
        raw = _inflate(blob, size)
    elif encoding == "h5lz4<":
        raw = _blocks(memoryview(blob), size)
    elif encoding == f"bs{8 * dtype.itemsize}-lz4<":
        raw = _unshuffled(memoryview(blob), size, dtype.itemsize)
    else:
        raise FormatError(f"the encoding {encoding!r} does not fit pixels of type {type_name!r}.")
    if len(raw) != size:
        raise FormatError(f"an image of {size:,} bytes was announced, {len(raw):,} came.")
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def encode_image(image: NDArray[Any], encoding: str) -> bytes:
    """An image of unsigned integers as the blob of a message; the inverse of `decode_image`."""
    plain = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    if plain.dtype.name not in TYPES or encoding not in ENCODINGS:
        raise FormatError(f"pixels of type {plain.dtype.name!r} in encoding {encoding!r} are not known.")
    if encoding == "<":
        return plain.tobytes()
    if encoding == "lz4<":
        return bytes(_lz4().compress(plain.tobytes(), store_size=False))
    if encoding == "h5lz4<":
        return _framed(plain.tobytes())
    if encoding != f"bs{8 * plain.dtype.itemsize}-lz4<":
        raise FormatError(f"the encoding {encoding!r} does not fit pixels of type {plain.dtype.name!r}.")
    return _shuffled(plain.tobytes(), plain.dtype.itemsize)


def _lz4() -> ModuleType:
    try:
        return importlib.import_module("lz4.block")
    except ImportError:
        raise FormatError(
            "frames are packed by LZ4, and the package 'lz4' is not installed.", remedy="pip install 'beamside[live]'"
        ) from None


def _inflate(blob: bytes | memoryview, size: int) -> bytes:
    block = _lz4()
    try:
        raw = bytes(block.decompress(blob, uncompressed_size=size))
    except (block.LZ4BlockError, ValueError, MemoryError, OverflowError) as error:
        raise FormatError(f"the pixels do not decode ({error}).") from None
    if len(raw) != size:
        raise FormatError(f"a block of {size:,} bytes was announced, {len(raw):,} came.")
    return raw


def _blocks(blob: memoryview, size: int) -> bytes:
    if len(blob) < _HEADER.size:
        raise FormatError("the pixels are cut.")
    declared, block = _HEADER.unpack_from(blob)
    if declared != size or not 0 < block <= _MOST_BYTES:
        raise FormatError(f"{declared:,} bytes in blocks of {block:,} do not make an image of {size:,} bytes.")
    at, out = _HEADER.size, []
    for start in range(0, size, block):
        length = min(block, size - start)
        piece, at = _piece(blob, at)
        out.append(bytes(piece) if len(piece) == length else _inflate(piece, length))
    return b"".join(out)


def _piece(blob: memoryview, at: int) -> tuple[memoryview, int]:
    """The packed bytes whose size stands at `at`, and where the next ones begin."""
    if at + _SIZE.size > len(blob):
        raise FormatError("the pixels are cut.")
    (packed,) = _SIZE.unpack_from(blob, at)
    at += _SIZE.size
    if at + packed > len(blob):
        raise FormatError("the pixels are cut.")
    return blob[at : at + packed], at + packed


def _framed(raw: bytes) -> bytes:
    out = [_HEADER.pack(len(raw), _BLOCK_BYTES)]
    for start in range(0, len(raw), _BLOCK_BYTES):
        piece = raw[start : start + _BLOCK_BYTES]
        packed = bytes(_lz4().compress(piece, store_size=False))
        packed = packed if len(packed) < len(piece) else piece
        out += [_SIZE.pack(len(packed)), packed]
    return b"".join(out)


def _unshuffled(blob: memoryview, size: int, itemsize: int) -> bytes:
    if len(blob) < _HEADER.size:
        raise FormatError("the pixels are cut.")
    declared, block = _HEADER.unpack_from(blob)
    if declared != size or block % (8 * itemsize) or not 0 < block <= _MOST_BYTES:
        raise FormatError(f"{declared:,} bytes in blocks of {block:,} do not make an image of {size:,} bytes.")
    at, left = _HEADER.size, size
    whole: list[bytes] = []
    tail = b""
    while left >= 8 * itemsize:
        length = min(block, left - left % (8 * itemsize))
        piece, at = _piece(blob, at)
        raw, left = _inflate(piece, length), left - length
        if length == block:
            whole.append(raw)
        else:
            tail = _transposed(raw, 1, length, itemsize)
    body = _transposed(b"".join(whole), len(whole), block, itemsize) if whole else b""
    return body + tail + bytes(blob[at : at + left])


def _transposed(raw: bytes, blocks: int, block: int, itemsize: int) -> bytes:
    """Blocks of bit planes as elements: plane 8 b + i of a block holds bit i of byte b of all its elements."""
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(blocks, itemsize, 8, block // (8 * itemsize))
    words = np.ascontiguousarray(planes.transpose(0, 1, 3, 2)).view("<u8")[..., 0]
    return np.ascontiguousarray(
        _turned(words).view(np.uint8).reshape(blocks, itemsize, -1).transpose(0, 2, 1)
    ).tobytes()


def _turned(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word's 8 x 8 bits transposed."""
    for distance, mask in _SWAPS:
        step = np.uint64(distance)
        moved = (words ^ (words >> step)) & np.uint64(mask)
        words = words ^ moved ^ (moved << step)
    return words


def _shuffled(raw: bytes, itemsize: int) -> bytes:
    out = [_HEADER.pack(len(raw), _BLOCK_BYTES)]
    body = len(raw) - len(raw) % (8 * itemsize)
    for start in range(0, body, _BLOCK_BYTES):
        piece = np.frombuffer(raw[start : min(start + _BLOCK_BYTES, body)], dtype=np.uint8)
        by_byte = np.ascontiguousarray(piece.reshape(-1, itemsize).T).view("<u8")
        planes = _turned(by_byte).view(np.uint8).reshape(itemsize, -1, 8).transpose(0, 2, 1)
        packed = bytes(_lz4().compress(np.ascontiguousarray(planes).tobytes(), store_size=False))
        out += [_SIZE.pack(len(packed)), packed]
    return b"".join([*out, raw[body:]])
