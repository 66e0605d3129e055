"""Encodings of DECTRIS streams, against the bitshuffle package, and against bytes that are no image."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.errors import FormatError
from beamside.formats.dectris_codec import TYPES, decode_image, encode_image

pytest.importorskip("lz4.block", reason="the extra 'live' is not installed")
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def image(shape: tuple[int, int], kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.minimum(rng.geometric(0.05, shape) * rng.integers(0, 300, shape), np.iinfo(kind).max).astype(kind)


def encodings(kind: str) -> list[str]:
    return ["<", "lz4<", f"bs{8 * np.dtype(kind).itemsize}-lz4<", "h5lz4<"]


@settings(deadline=None)
@given(SHAPES, st.sampled_from(sorted(TYPES)), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_every_image_comes_back(shape: tuple[int, int], kind: str, which: int, seed: int) -> None:
    encoding = encodings(kind)[which]
    pixels = image(shape, kind, seed)
    assert np.array_equal(decode_image(encode_image(pixels, encoding), encoding, shape, kind), pixels)


@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize("shape", [(3, 5), (33, 17), (128, 128), (61, 200)])
def test_bitshuffle_agrees_both_ways(kind: str, shape: tuple[int, int]) -> None:
    bitshuffle = pytest.importorskip("bitshuffle", reason="the oracle 'bitshuffle' is not installed")
    pixels = image(shape, kind, 1)
    encoding, block = encodings(kind)[2], 8192 // pixels.itemsize
    theirs = struct.pack(">QI", pixels.nbytes, 8192) + bitshuffle.compress_lz4(pixels, block).tobytes()
    assert np.array_equal(decode_image(theirs, encoding, shape, kind), pixels)
    ours = np.frombuffer(encode_image(pixels, encoding)[12:], np.uint8)
    assert np.array_equal(bitshuffle.decompress_lz4(ours, shape, pixels.dtype, block), pixels)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_hdf5_frames_lz4_likewise(kind: str, tmp_path: Path) -> None:
    """Against the HDF5 filter itself: noise, which is stored as it is, and an image of zeros."""
    plugin = pytest.importorskip("hdf5plugin", reason="the oracle 'hdf5plugin' is not installed")
    rng = np.random.default_rng(2)
    high = np.iinfo(kind).max
    for pixels in (rng.integers(0, high, (61, 200), kind), np.zeros((61, 200), kind), image((61, 200), kind, 4)):
        with h5py.File(tmp_path / "theirs.h5", "w") as file:
            data = file.create_dataset("d", data=pixels, chunks=pixels.shape, **plugin.LZ4(nbytes=4096))
            _, blob = data.id.read_direct_chunk((0, 0))
            assert np.array_equal(decode_image(blob, "h5lz4<", pixels.shape, kind), pixels)
            data.id.write_direct_chunk((0, 0), encode_image(pixels, "h5lz4<"))
        with h5py.File(tmp_path / "theirs.h5") as file:
            assert np.array_equal(file["d"][:], pixels)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["<", "lz4<", "h5lz4<", "bs16-lz4<", "bs32-lz4<", "zip", ""]), SHAPES)
def test_bytes_that_are_no_image_are_a_typed_error(blob: bytes, encoding: str, shape: tuple[int, int]) -> None:
    if encoding == "<" and len(blob) == 2 * shape[0] * shape[1]:
        return
    with pytest.raises(FormatError):
        decode_image(blob, encoding, shape, "uint16")


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "h5lz4<"])
@pytest.mark.parametrize("place", range(0, 60, 3))
def test_a_damaged_container_is_a_typed_error_or_an_image_of_that_shape(place: int, encoding: str) -> None:
    blob = bytearray(encode_image(image((40, 40), "uint16", 3), encoding))
    blob[place] ^= 0xFF
    with suppress(FormatError):
        assert decode_image(bytes(blob), encoding, (40, 40), "uint16").shape == (40, 40)
    with pytest.raises(FormatError):
        decode_image(bytes(blob[:place]), encoding, (40, 40), "uint16")


@pytest.mark.parametrize("shape", [(1 << 19, 1 << 19), (0, 5)])
def test_an_absurd_shape_is_refused_before_it_is_allocated(shape: tuple[int, int]) -> None:
    with pytest.raises(FormatError, match="impossible"):
        decode_image(b"1234", "lz4<", shape, "uint32")
