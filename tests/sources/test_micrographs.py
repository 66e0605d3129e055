"""Pairs of micrographs by their names, lists, movies and patch files, from files and from folders that grow."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.run.guard import Severity
from beamside.sources.micrographs import MicrographSource

SHAPE = (48, 40)


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write(path: Path, pixels: NDArray[np.generic], pixel_A: float = 1.5) -> Path:
    """By another writer than ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(pixels)
        file.voxel_size = pixel_A
    return path


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def load_all(source: MicrographSource) -> dict[str, NDArray[np.float32]]:
    """key -> (2, H, W) of all there is."""
    records = source.poll()
    batch = source.batch(records)
    assert batch.keys == tuple(record.key for record in records)
    return {key: batch.load(np.array([row]))[0] for row, key in enumerate(batch.keys)}


@pytest.mark.parametrize(
    ("even", "odd"),
    [
        ("m_EVN.mrc", "m_ODD.mrc"),
        ("m_even.mrc", "m_odd.mrc"),
        ("m_EVN_DW.mrc", "m_ODD_DW.mrc"),
        ("m.even.mrc", "m.odd.mrc"),
    ],
)
def test_halves_are_paired_by_their_names(tmp_path: Path, even: str, odd: str) -> None:
    write(tmp_path / "a" / odd, image(2))
    write(tmp_path / "a" / even, image(1))
    write(tmp_path / "a" / "m.mrc", image(3))
    source = MicrographSource([tmp_path])
    found = load_all(source)
    assert list(found) == [f"a/{even}"] and np.array_equal(found[f"a/{even}"], np.stack([image(1), image(2)]))
    header = source.header()
    assert header is not None and header.kind == "micrographs"
    assert header.fields["pairs"] == "halves" and header.fields["pixel_size_A"] == pytest.approx(1.5)
    assert source.exhausted() and source.poll() == []


def test_records_alone_bring_the_pixels_back(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"m{n}_EVN.mrc", image(n))
        write(tmp_path / f"m{n}_ODD.mrc", image(n + 10))
    first = MicrographSource([tmp_path])
    records = first.poll()
    again = MicrographSource([tmp_path], header=first.header()).batch(records[1:])
    assert np.array_equal(again.load(np.array([1]))[0, 1], image(12))


def test_halves_of_different_size_are_refused(tmp_path: Path) -> None:
    """Gauntlet row 39, for halves."""
    write(tmp_path / "m_EVN.mrc", image(1))
    write(tmp_path / "m_ODD.mrc", image(2, (48, 41)))
    with pytest.raises(InputError, match=r"pairs\.match.*40 x 48.*41 x 48"):
        MicrographSource([tmp_path]).poll()


def test_a_half_alone_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a_EVN.mrc", image(1))
    write(tmp_path / "a_ODD.mrc", image(2))
    write(tmp_path / "b_EVN.mrc", image(3))
    source = MicrographSource([tmp_path])
    assert len(source.poll()) == 1
    (found,) = source.findings()
    assert found.guard == "pairs.match" and "odd half of b_EVN.mrc is missing" in found.saw


def frames(n: int) -> NDArray[np.int16]:
    return np.random.default_rng(n).poisson(3.0, (n, *SHAPE)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".mrcs", ".mrc", ".tif", ".tiff"])
@pytest.mark.parametrize("n", [4, 7])
def test_movies_are_cut_into_even_and_odd_frames(tmp_path: Path, suffix: str, n: int) -> None:
    movie = frames(n)
    path = tmp_path / f"movie{suffix}"
    if suffix.startswith(".tif"):
        tifffile.imwrite(path, movie, photometric="minisblack")
    else:
        write(path, movie)
    gain = 1 + 0.1 * image(9)
    source = MicrographSource([tmp_path], gain=write(tmp_path / "gain.mrc", np.abs(gain)))
    (found,) = load_all(source).values()
    used = n // 2 * 2
    expected = np.stack([movie[0:used:2].sum(0), movie[1:used:2].sum(0)]) * np.abs(gain)
    assert np.allclose(found, expected, rtol=1e-6)
    header = source.header()
    assert header is not None and header.fields["pairs"] == "frames"


def test_a_gain_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "movie.mrcs", frames(4))
    source = MicrographSource([tmp_path / "in"], gain=write(tmp_path / "gain.mrc", image(1, (40, 48)) ** 2))
    with pytest.raises(InputError, match=r"(40 x 48|48 x 40)"):
        load_all(source)


def electrons(frame: NDArray[np.bool_]) -> bytes:
    """A frame as EER has it: 7 bits of pixels to skip to the next electron, and 4 bits for where in its pixel it is."""
    bits: list[int] = []
    longest, at = 127, 0
    for position in np.flatnonzero(frame):
        gap, at = int(position) - at, int(position) + 1
        for value in [longest] * (gap // longest) + [gap % longest]:
            bits += [value >> bit & 1 for bit in range(7)]
        bits += [1, 0, 1, 0]
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def big_tiff(pages: Sequence[tuple[int, int, bytes]], shape: tuple[int, int]) -> bytes:
    """(compression, bits a pixel, coded pixels) of each page of `shape`, with the metadata of an EER acquisition."""
    about = b'<metadata><item name="sensorPixelSize.width" unit="m">1.3e-10</item></metadata>'
    out = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0)) + about
    link = 8
    for compression, bits, coded in pages:
        at, page_at = len(out), len(out) + len(coded)
        numbers = {256: shape[1], 257: shape[0], 258: bits, 259: compression, 262: 1, 273: at, 277: 1, 278: shape[0]}
        entries = [struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in (numbers | {279: len(coded)}).items()]
        entries.append(struct.pack("<HHQQ", 65001, 7, len(about), 16))
        out += coded + struct.pack("<Q", len(entries)) + b"".join(entries)
        out[link : link + 8] = struct.pack("<Q", page_at)
        link = len(out)
        out += bytes(8)
    return bytes(out)


def write_eer(path: Path, movie: NDArray[np.bool_], *, with_sum: bool) -> None:
    pages = [(65001, 8, electrons(frame)) for frame in movie]
    if with_sum:
        pages.insert(0, (1, 16, movie.sum(0).astype("<u2").tobytes()))
    path.write_bytes(big_tiff(pages, (movie.shape[1], movie.shape[2])))


@pytest.mark.oracle
@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is None, reason="imagecodecs is not installed")
@pytest.mark.parametrize("with_sum", [False, True])
def test_eer_movies_are_cut_into_even_and_odd_frames(tmp_path: Path, with_sum: bool) -> None:
    movie = np.random.default_rng(1).random((5, 64, 48)) < 0.02
    write_eer(tmp_path / "movie.eer", movie, with_sum=with_sum)
    source = MicrographSource([tmp_path])
    (found,) = load_all(source).values()
    assert np.array_equal(found, np.stack([movie[0:4:2].sum(0), movie[1:4:2].sum(0)]))
    header = source.header()
    assert header is not None and header.fields["pixel_size_A"] == pytest.approx(1.3)
    (tmp_path / "cut.eer").write_bytes((tmp_path / "movie.eer").read_bytes()[:200])
    with pytest.raises(FormatError, match="cut"):
        load_all(MicrographSource([tmp_path / "cut.eer"]))


def test_an_eer_movie_without_a_decoder_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "movie.eer").write_bytes(b"II+\0")
    with pytest.raises(FormatError, match="imagecodecs"):
        MicrographSource([tmp_path], pairs="single").poll()


def test_a_list_names_pairs_of_any_names(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / "rest" / f"x{n}.mrc", image(n))
        write(tmp_path / "frame" / f"x{n}.mrc", image(n + 5))
    lines = [f"rest/x{n}.mrc,frame/x{n}.mrc" for n in range(2)]
    (tmp_path / "pairs.csv").write_text("\n".join(["first,second", *lines]) + "\n")
    star = "data_\n\nloop_\n_rlnMicrographNameEven #1\n_rlnMicrographNameOdd #2\n"
    (tmp_path / "pairs.star").write_text(star + "\n".join(line.replace(",", " ") for line in lines) + "\n")
    for name in ("pairs.csv", "pairs.star"):
        found = load_all(MicrographSource([tmp_path / name]))
        assert sorted(found) == ["rest/x0.mrc", "rest/x1.mrc"]
        assert np.array_equal(found["rest/x1.mrc"], np.stack([image(1), image(6)]))
    (tmp_path / "pairs.csv").write_text("first,second\nrest/x0.mrc,frame/gone.mrc\n")
    with pytest.raises(InputError, match=r"gone\.mrc"):
        MicrographSource([tmp_path / "pairs.csv"]).poll()


def patches(n: int, size: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(n).standard_normal((2, n, size, size)).astype("<f4")


def test_both_layouts_of_patch_files_are_read(tmp_path: Path) -> None:
    both = patches(5)
    (tmp_path / "split").mkdir()
    both[0].tofile(tmp_path / "split" / "p_input.bin")
    both[1].tofile(tmp_path / "split" / "p_target.bin")
    (tmp_path / "one").mkdir()
    head = np.array([5, 8, 8, 1], dtype="<i4").tobytes()
    (tmp_path / "one" / "p.bin").write_bytes(head + both.transpose(1, 0, 2, 3).tobytes())
    for folder in ("split", "one"):
        source = MicrographSource([tmp_path / folder], patch_px=8)
        (found,) = load_all(source).values()
        assert np.array_equal(found.reshape(2, 5, 8, 8), both)
        header = source.header()
        assert header is not None and header.fields["tile_px"] == 8


def test_a_patch_file_shorter_than_its_head_says_is_refused(tmp_path: Path) -> None:
    head = np.array([6, 8, 8, 1], dtype="<i4").tobytes()
    (tmp_path / "p.bin").write_bytes(head + patches(5).tobytes())
    with pytest.raises(InputError, match=r"pairs\.match.*6 pairs"):
        MicrographSource([tmp_path]).poll()


def test_sums_alone_give_the_same_image_twice(tmp_path: Path) -> None:
    write(tmp_path / "m.mrc", image(1))
    source = MicrographSource([tmp_path])
    (found,) = load_all(source).values()
    assert np.array_equal(found[0], found[1])
    header = source.header()
    assert header is not None and header.fields["pairs"] == "single"


def test_a_watched_folder_gives_what_has_settled(tmp_path: Path) -> None:
    clock = Clock()
    source = MicrographSource([tmp_path], watch=True, settle_s=5, patience_s=60, clock=clock)
    write(tmp_path / "a_EVN.mrc", image(1))
    assert source.poll() == [] and source.header() is None
    clock.now = 6
    write(tmp_path / "a_ODD.mrc", image(2))
    assert source.poll() == []
    clock.now = 12
    assert [record.key for record in source.poll()] == ["a_EVN.mrc"]
    assert source.poll() == [] and not source.exhausted()
    write(tmp_path / "b_EVN.mrc", image(3))
    source.poll()
    clock.now = 75
    source.poll()
    (found,) = source.findings()
    assert found.severity is Severity.SUSPECT and "odd half of b_EVN.mrc" in found.saw
    write(tmp_path / "b_ODD.mrc", image(4, (48, 44)))
    source.poll()
    clock.now = 90
    assert source.poll() == []
    (found,) = source.findings()
    assert found.guard == "pairs.match" and "set aside" in found.saw


def test_another_magnification_is_refused(tmp_path: Path) -> None:
    for name, pixel_A in (("a", 1.5), ("b", 1.0)):
        write(tmp_path / f"{name}_EVN.mrc", image(1), pixel_A)
        write(tmp_path / f"{name}_ODD.mrc", image(2), pixel_A)
    with pytest.raises(InputError, match=r"1 A; this run began with 1\.5 A"):
        MicrographSource([tmp_path]).poll()


def test_nothing_of_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no micrographs"):
        MicrographSource([tmp_path]).poll()
    with pytest.raises(InputError, match="no such file"):
        MicrographSource([tmp_path / "gone"])
