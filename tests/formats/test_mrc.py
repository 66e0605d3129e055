from __future__ import annotations

import struct
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beamside.errors import FormatError
from beamside.formats import mrc

TYPES = {0: np.int8, 1: np.int16, 2: np.float32, 4: np.complex64, 6: np.uint16, 12: np.float16}
EXTREMES = {
    0: [-128, -1, 0, 1, 127, 5],
    1: [-32768, -1, 0, 1, 32767, 5],
    2: [-3.4e38, -1.5, 0, 1e-30, 3.4e38, 5],
    4: [1 + 2j, -1j, 0, 1, -3.5, 5],
    6: [0, 1, 32767, 32768, 40000, 65535],
    12: [-65504, -1.5, 0, 1, 65504, 5],
}


def raw_file(path: Path, mode: int, order: str, values: np.ndarray, extended: bytes = b"", **words: int) -> None:
    """An MRC file packed word by word, with no code of the package in it."""
    nz, ny, nx = values.shape
    head = bytearray(1024)
    struct.pack_into(order + "4i", head, 0, nx, ny, nz, mode)
    struct.pack_into(order + "3i", head, 28, nx, ny, words.get("mz", 1))
    struct.pack_into(order + "3f", head, 40, 1.5 * nx, 1.5 * ny, 1.5)
    struct.pack_into(order + "3i", head, 64, 1, 2, 3)
    struct.pack_into(order + "2i", head, 88, words.get("ispg", 0), len(extended))
    struct.pack_into(order + "2i", head, 152, words.get("stamp", 0), words.get("flags", 0))
    struct.pack_into(order + "3f", head, 196, 1.0, 2.0, 3.0)
    head[208:212] = b"MAP "
    head[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    path.write_bytes(bytes(head) + extended + values.astype(values.dtype.newbyteorder(order)).tobytes())


@pytest.mark.parametrize("extended", [b"", b"x" * 160])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", sorted(TYPES))
def test_every_mode_and_byte_order(tmp_path: Path, mode: int, order: str, extended: bytes) -> None:
    values = np.array(EXTREMES[mode], dtype=TYPES[mode]).reshape(1, 2, 3).repeat(2, axis=0)
    values[1] = values[1, ::-1]
    path = tmp_path / "a.mrcs"
    raw_file(path, mode, order, values, extended)

    info = mrc.read_info(path)
    assert (info.shape, info.mode, info.offset) == ((2, 2, 3), mode, 1024 + len(extended))
    assert info.voxel_size_A == (1.5, 1.5, 1.5) and info.origin_A == (1.0, 2.0, 3.0) and info.is_stack
    np.testing.assert_array_equal(mrc.open_mrc(path), values)
    with mrcfile.open(path) as oracle:
        np.testing.assert_array_equal(mrc.open_mrc(path), oracle.data)
    if mode == 4:
        with pytest.raises(FormatError, match="complex"):
            mrc.read_images(path, [0])
    else:
        np.testing.assert_array_equal(mrc.read_images(path, [1, 0, 1]), values[[1, 0, 1]].astype(np.float32))


@pytest.mark.parametrize("order", ["<", ">"])
def test_unsigned_16_bit_values_do_not_wrap(tmp_path: Path, order: str) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    raw_file(tmp_path / "a.mrc", 6, order, every)
    assert np.array_equal(mrc.read_images(tmp_path / "a.mrc", [0])[0].ravel(), np.arange(65536, dtype=np.float32))


@pytest.mark.parametrize(("flags", "expected"), [(0, 200.0), (1, -56.0)])
def test_bytes_of_imod_are_signed_when_it_says_so(tmp_path: Path, flags: int, expected: float) -> None:
    values = np.full((1, 2, 2), 200, dtype=np.uint8)
    raw_file(tmp_path / "a.mrc", 0, "<", values, stamp=mrc.IMOD_STAMP, flags=flags)
    assert mrc.read_images(tmp_path / "a.mrc", [0])[0, 0, 0] == expected


def test_a_stack_of_volumes_has_four_axes(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    raw_file(tmp_path / "a.mrc", 2, "<", values, ispg=401, mz=3)
    assert mrc.read_info(tmp_path / "a.mrc").shape == (2, 3, 2, 2)
    with mrcfile.open(tmp_path / "a.mrc") as oracle:
        np.testing.assert_array_equal(mrc.open_mrc(tmp_path / "a.mrc"), oracle.data)
    raw_file(tmp_path / "b.mrc", 2, "<", values, ispg=401, mz=4)
    with pytest.raises(FormatError, match="multiple of mz"):
        mrc.read_info(tmp_path / "b.mrc")


def test_a_missing_machine_stamp_is_made_up_for_by_the_sizes(tmp_path: Path) -> None:
    for order in "<>":
        raw_file(tmp_path / "a.mrc", 1, order, np.arange(6, dtype=np.int16).reshape(1, 2, 3))
        data = bytearray((tmp_path / "a.mrc").read_bytes())
        data[212:216] = bytes(4)
        (tmp_path / "a.mrc").write_bytes(data)
        assert mrc.read_images(tmp_path / "a.mrc", [0]).ravel().tolist() == [0, 1, 2, 3, 4, 5]


@settings(max_examples=30)
@given(cut=st.integers(0, 1024 + 2 * 3 * 4 * 2 - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.mrcs"
    raw_file(path, 2, "<", np.ones((2, 2, 3), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match="still being written") as caught:
        mrc.read_info(path)
    assert str(path) in str(caught.value)


def test_sixteen_terabytes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    raw_file(path, 2, "<", np.ones((1, 2, 2), dtype=np.float32))
    data = bytearray(path.read_bytes())
    struct.pack_into("<3i", data, 0, 20000, 20000, 10000)
    path.write_bytes(data)
    for read in (mrc.read_info, mrc.open_mrc, mrc.read_map):
        with pytest.raises(FormatError, match="16,000,000,001,024"):
            read(path)


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [(12, 3, "mode 3"), (12, 101, "mode 101"), (0, -2, "impossible"), (8, 0, "impossible"), (92, -8, "impossible")],
)
def test_headers_that_cannot_be(tmp_path: Path, at: int, value: int, says: str) -> None:
    path = tmp_path / "a.mrc"
    raw_file(path, 2, "<", np.ones((1, 2, 2), dtype=np.float32))
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, at, value)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=says) as caught:
        mrc.read_info(path)
    assert caught.value.where == str(path) and caught.value.remedy


def test_what_is_no_mrc_file(tmp_path: Path) -> None:
    (tmp_path / "a.mrc").write_bytes(b"\x07" * 4096)
    with pytest.raises(FormatError, match="neither a machine stamp nor"):
        mrc.read_info(tmp_path / "a.mrc")
    with pytest.raises(FormatError, match="cannot be read"):
        mrc.read_info(tmp_path / "absent.mrc")


def test_images_outside_the_stack(tmp_path: Path) -> None:
    mrc.write_stack(tmp_path / "a.mrcs", np.zeros((3, 4, 4), dtype=np.float32), 1.0)
    assert mrc.read_images(tmp_path / "a.mrcs", []).shape == (0, 4, 4)
    for wrong in (3, -1):
        with pytest.raises(FormatError, match="holds 3"):
            mrc.read_images(tmp_path / "a.mrcs", [0, wrong])


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    mrc.write_stack(path, np.zeros((3, 4, 4), dtype=np.float32), 1.0)
    info = mrc.read_info(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FormatError, match="though it was longer"):
        mrc._read_sections(info, np.array([2]))


@settings(max_examples=30)
@given(indices=st.lists(st.integers(0, 9), max_size=20), order=st.sampled_from("<>"))
def test_any_order_of_images(tmp_path_factory: pytest.TempPathFactory, indices: list[int], order: str) -> None:
    path = tmp_path_factory.mktemp("order") / "a.mrcs"
    values = np.arange(10 * 6, dtype=np.float32).reshape(10, 2, 3)
    raw_file(path, 2, order, values)
    assert np.array_equal(mrc.read_images(path, indices), values[np.array(indices, dtype=int)])


@settings(max_examples=30)
@given(
    values=st.sampled_from([np.int8, np.int16, np.float32, np.uint16, np.float16, np.float64]).flatmap(
        lambda t: hnp.arrays(
            t,
            hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
            elements=st.integers(0, 100) if t is not np.float64 else st.floats(-100, 100, width=32),
        )
    ),
    pixel=st.floats(0.25, 20),
)
def test_written_stacks_open_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, pixel: float
) -> None:
    path = tmp_path_factory.mktemp("write") / "a.mrcs"
    mrc.write_stack(path, values, pixel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mrcfile.open(path) as oracle:
            assert oracle.is_image_stack() or values.shape[0] == 1
            np.testing.assert_array_equal(oracle.data.reshape(values.shape), values)
            assert oracle.voxel_size.x == pytest.approx(pixel, rel=1e-5)
            assert float(oracle.header.dmin) == pytest.approx(float(values.min()), abs=1e-3)
            assert float(oracle.header.dmean) == pytest.approx(float(values.astype(float).mean()), abs=1e-3)
            assert float(oracle.header.rms) == pytest.approx(float(values.astype(float).std()), abs=1e-3)
    # Its own standard deviation is in single precision: of equal values, rounding, which it holds against our exact 0.
    if np.ptp(values) > 1e-3:
        assert mrcfile.validate(path, print_file=None)
    assert [p.name for p in path.parent.iterdir()] == ["a.mrcs"]


def test_a_map_is_a_volume(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    mrc.write_map(tmp_path / "a.mrc", volume, 2.5)
    with mrcfile.open(tmp_path / "a.mrc") as oracle:
        assert oracle.is_volume() and oracle.voxel_size.z == pytest.approx(2.5)
    again, info = mrc.read_map(tmp_path / "a.mrc")
    assert np.array_equal(again, volume) and not info.is_stack


def test_complex_stacks_say_that_statistics_were_not_computed(tmp_path: Path) -> None:
    mrc.write_stack(tmp_path / "a.mrcs", np.full((1, 2, 2), 1 + 2j, dtype=np.complex64), 1.0)
    with mrcfile.open(tmp_path / "a.mrcs") as oracle:
        assert oracle.header.dmax < oracle.header.dmin and oracle.data[0, 0] == 1 + 2j


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    mrc.write_stack(path, np.ones((1, 2, 2), dtype=np.float32), 1.0)
    before = path.read_bytes()
    parts = [np.ones((1, 2, 2), dtype=np.float32), np.ones((1, 3, 3), dtype=np.float32)]
    with pytest.raises(FormatError, match="among"):
        mrc.write_stack_parts(path, parts, 1.0)
    for wrong in (np.ones((2, 2)), np.ones((0, 2, 2)), np.ones((1, 2, 2), dtype=np.int64)):
        with pytest.raises(FormatError):
            mrc.write_stack(path, wrong, 1.0)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_real_files(shared: Path) -> None:
    for path in [*shared.glob("data/classify/*.mrcs"), shared / "data/models/clean70SRibosome_vol_65p.mrc"]:
        with mrcfile.open(path, permissive=True) as oracle:
            np.testing.assert_array_equal(mrc.open_mrc(path), oracle.data)
