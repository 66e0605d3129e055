"""Scans in files as a source: every layout gives the same items; damage is named; a growing file is followed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from beamside.errors import BeamsideError, FormatError, InputError, OptionError
from beamside.optics.frames import unpack_mask
from beamside.run.engine import Batch
from beamside.run.guard import Severity
from beamside.run.source import Record, Source
from beamside.sources.scan_options import ScanOptions
from beamside.sources.scans import ScanFile
from tests.formats import scan_files as made
from tests.run.toy import FakeClock


@pytest.fixture(name="opened")
def _opened() -> Iterator[Any]:
    """Opens scans and closes their readers afterwards."""
    sources: list[ScanFile] = []

    def open_scan(path: Path, *args: Any, **kwargs: Any) -> ScanFile:
        sources.append(ScanFile(path, *args, **kwargs))
        return sources[-1]

    yield open_scan
    for source in sources:
        source.close()


def all_of(source: ScanFile) -> tuple[Batch, np.ndarray]:
    batch = source.batch(source.poll())
    return batch, batch.load(np.arange(len(batch)))


@pytest.mark.parametrize("kind", list(made.WRITERS))
def test_every_layout_gives_the_same_scan(kind: str, tmp_path: Path, opened: Any) -> None:
    write, name = made.WRITERS[kind]
    options = ScanOptions(mapping=made.OTHER_MAPPING) if kind == "mapping" else ScanOptions()
    source = opened(write(tmp_path / name), options)
    assert isinstance(source, Source)
    fields = source.header().fields
    batch, counts = all_of(source)
    expected = np.fft.ifftshift(made.frames(), axes=(1, 2))
    assert counts.dtype == np.uint16
    assert np.array_equal(counts, expected)
    assert np.allclose(batch.columns["position_m"], made.positions_m(), atol=1e-15)
    assert batch.columns["frame"].tolist() == list(range(made.COUNT))
    assert batch.keys[17] == "frame 17"
    assert fields["wavelength_m"] == pytest.approx(made.WAVELENGTH_M, rel=1e-9)
    assert (fields["distance_m"], fields["frame_px"]) == (pytest.approx(made.DISTANCE_M), made.SIZE)
    assert fields["detector_pixel_m"] == pytest.approx(made.PIXEL_M)
    assert (fields["count"], fields["detector_mask"], fields["propagation"]) == (made.COUNT, None, "far")
    assert source.exhausted() and source.poll() == [] and source.findings() == []
    json.dumps(dict(fields))


def test_the_reference_simulator_is_read_without_its_truth(shared: Path, tmp_path: Path, opened: Any) -> None:
    """A case as the benchmark's generator writes one; its group /bench is never looked into."""
    import subprocess
    import sys

    case = tmp_path / "case.cxi"
    program = shared / "bench" / "ptycho" / "generate.py"
    subprocess.run([sys.executable, str(program), str(case), "--n", "20", "--N", "64"], check=True, capture_output=True)
    with h5py.File(case, "a") as file:
        raw, attrs = file["entry_1/data_1/data"][:], dict(file["bench"].attrs)
        recorded = file["bench/positions_rec_px"][:]
        del file["bench"]
    batch, counts = all_of(opened(case))
    assert np.array_equal(counts, np.fft.ifftshift(raw, axes=(1, 2)))
    assert counts.dtype == np.uint16
    assert np.allclose(batch.columns["position_m"] / attrs["pixel_m"], recorded, atol=1e-6)


def test_the_siemens_star_is_read_in_pixels(shared: Path, opened: Any) -> None:
    source = opened(shared / "data" / "ptycho" / "siemens-star-small.npz.bz2")
    fields = source.header().fields
    batch, counts = all_of(source)
    assert counts.shape == (516, 128, 128) and counts.dtype == np.uint16
    pixel_m = fields["wavelength_m"] * fields["distance_m"] / (128 * fields["detector_pixel_m"])
    assert pixel_m == pytest.approx(1e-9)
    assert np.allclose(batch.columns["position_m"][0] / pixel_m, [167.57964, -159.73396], atol=1e-4)
    assert counts[:, :64, :64].sum() > 0 and counts.mean(0)[48:80, 48:80].sum() < 0.05 * counts.mean(0).sum()
    assert [f.guard for f in source.findings()] == ["geometry.nominal"]


def test_options_override_what_the_file_says(tmp_path: Path, opened: Any) -> None:
    path = made.write_cxi(tmp_path / "a.cxi")
    np.save(tmp_path / "mask.npy", np.tri(8, 8, dtype=np.uint8))
    options = ScanOptions(
        orientation=1, dc="corner", crop_px=4, y_sign=-1, swap_axes=True, position_unit_m=1e-3, energy_keV=16.0,
        distance_m=3.0, detector_pixel_m=1e-4, saturation=70.0, mask=str(tmp_path / "mask.npy"),
    )  # fmt: skip
    assert ScanOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    source = opened(path, options)
    fields = source.header().fields
    batch, counts = all_of(source)
    assert (fields["energy_keV"], fields["distance_m"], fields["detector_pixel_m"]) == (pytest.approx(16), 3.0, 1e-4)
    assert fields["saturation"] == 70.0
    assert np.allclose(batch.columns["position_m"], made.positions_m()[:, ::-1] * [-1e-3, 1e-3])
    # DC at the corner: frequencies 0, 1, -2, -1 of the stored frame, rows negated.
    rows, columns = np.ix_([0, 7, 6, 1], [0, 1, 6, 7])
    valid = np.tri(8, 8, dtype=bool)[rows, columns]
    assert np.array_equal(unpack_mask(fields["detector_mask"], 4), valid)
    assert np.array_equal(counts, made.frames()[:, rows, columns] * valid)


def test_what_a_crop_leaves_out_is_said(tmp_path: Path, opened: Any) -> None:
    """Frames that are not square: the largest square around DC is used, with a note; not when a crop was asked for."""
    oblong = {"entry_1/data_1/data": made.frames()[:, :6]}
    source = opened(made.write_cxi(tmp_path / "a.cxi", **oblong))
    _, counts = all_of(source)
    (found,) = source.findings()
    assert (found.guard, str(found.severity), counts.shape[1:]) == ("frames.cropped", "note", (6, 6))
    assert "6 x 8 px the square of 6 px" in found.saw and "--crop 8 uses all" in found.saw
    whole = opened(made.write_cxi(tmp_path / "b.cxi", **oblong), ScanOptions(crop_px=8))
    _, counts = all_of(whole)
    assert whole.findings() == [] and counts.shape[1:] == (8, 8)
    valid = unpack_mask(whole.header().fields["detector_mask"], 8)
    assert valid.sum() == 48 and not counts[:, ~valid].any()
    assert counts.sum() == made.frames()[:, :6].sum()


def test_the_header_says_how_the_scan_was_turned(tmp_path: Path, opened: Any) -> None:
    options = ScanOptions(orientation=5, dc=(3, 4), swap_axes=True, x_sign=-1, crop_px=4)
    fields = opened(made.write_cxi(tmp_path / "a.cxi"), options).header().fields
    assert (fields["orientation"], fields["axes"], fields["dc"]) == (5, 6, [3, 4])


@pytest.mark.parametrize(
    "wrong",
    [
        {"energy_keV": 0.0},
        {"propagation": "middle"},
        {"defocus_m": 1.0},
        {"propagation": "near", "dc": "corner"},
        {"propagation": "near", "defocus_m": -1.0},
        {"crop_px": -4},
    ],
)
def test_options_that_are_wrong_or_change_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ScanOptions(**wrong)


def test_near_field_frames_stay_images(tmp_path: Path, opened: Any) -> None:
    source = opened(made.write_cxi(tmp_path / "a.cxi"), ScanOptions(propagation="near", defocus_m=0.5))
    fields = source.header().fields
    assert (fields["propagation"], fields["defocus_m"]) == ("near", 0.5)
    assert np.array_equal(all_of(source)[1], made.frames())


def test_flags_of_uint32_detectors_are_masked(tmp_path: Path, opened: Any) -> None:
    counts = made.frames().astype(np.uint32)
    counts[:, 1, 2] = 2**32 - 1
    source = opened(made.write_cxi(tmp_path / "a.cxi", **{"entry_1/data_1/data": counts}))
    valid = unpack_mask(source.header().fields["detector_mask"], 8)
    assert np.argwhere(~np.fft.fftshift(valid)).tolist() == [[1, 2]]
    loaded = all_of(source)[1]
    assert loaded.dtype == np.uint16 and np.fft.fftshift(loaded, axes=(1, 2))[:, 1, 2].max() == 0


def test_a_record_makes_its_item_again_in_another_process(tmp_path: Path, opened: Any) -> None:
    path = made.write_cxi(tmp_path / "a.cxi")
    first = opened(path)
    records = [Record(r.key, r.payload) for r in first.poll()][::-3]
    again, before = opened(path).batch(records), first.batch(records)
    rows = np.array([4, 0, 1])
    assert np.array_equal(again.load(rows), before.load(rows))
    assert np.array_equal(again.columns["position_m"], before.columns["position_m"])
    assert np.array_equal(again.load(rows), np.fft.ifftshift(made.frames(), axes=(1, 2))[::-3][rows])
    assert again.load(np.array([], dtype=np.int64)).shape == (0, 8, 8)


# what is wrong with single frames


def test_bad_positions_are_set_aside_and_named(tmp_path: Path, opened: Any) -> None:
    translation = np.zeros((30, 3))
    translation[:, :2] = made.positions_m()[:, ::-1]
    translation[3] = np.nan
    translation[4, 1] = np.inf
    translation[11, 0] = 0.4
    source = opened(made.write_cxi(tmp_path / "a.cxi", **{"entry_1/sample_1/geometry_1/translation": translation}))
    keys = {record.key for record in source.poll()}
    assert keys == {f"frame {n}" for n in range(30)} - {"frame 3", "frame 4", "frame 11"}
    found = {f.guard: f for f in source.findings()}
    assert found["positions.finite"].values["frames"] == [3, 4]
    assert found["positions.inside"].values["frames"] == [11]
    assert found["positions.inside"].severity is Severity.NOTE and "frame 11" in found["positions.inside"].saw


@pytest.mark.parametrize("pattern", ["raster", "fermat", "spiral"])
@pytest.mark.parametrize("count", [16, 60, 400])
def test_no_position_of_a_real_pattern_is_absurd(pattern: str, count: int) -> None:
    from beamside.simulate.scan import pattern_px
    from beamside.sources.positions import absurd

    places = pattern_px(pattern, count, 5.0)
    assert not absurd(places, places, 128.0).any()
    # Nor is the next row of a raster, of which only the first has come.
    row = np.stack([np.zeros(30), np.arange(30) * 5.0], axis=1)
    second = row + np.array([5.0, 0])
    assert not absurd(second, np.concatenate([row, second]), 128.0).any()


@pytest.mark.parametrize("count", [16, 17, 20, 21, 60])
def test_one_absurd_position_among_few_is_told(count: int) -> None:
    """However far away: of the first frames of a live scan it is one in sixteen."""
    from beamside.sources.positions import absurd

    places = np.random.default_rng(count).uniform(0, 50, (count, 2))
    places[7] = (1e6, 20)
    assert np.flatnonzero(absurd(places, places, 128.0)).tolist() == [7]


def test_missing_positions_and_missing_frames_are_told(tmp_path: Path, opened: Any) -> None:
    short = opened(
        made.write_cxi(tmp_path / "a.cxi", **{"entry_1/sample_1/geometry_1/translation": np.eye(25, 3) * 1e-6})
    )
    assert len(short.poll()) == 25
    (found,) = short.findings()
    assert found.guard == "positions.complete" and found.values["frames"] == [25, 26, 27, 28, 29]
    long = opened(
        made.write_cxi(tmp_path / "b.cxi", **{"entry_1/sample_1/geometry_1/translation": np.eye(33, 3) * 1e-6})
    )
    assert len(long.poll()) == 30
    assert [f.saw for f in long.findings()] == ["3 positions have no frame."]


def test_frame_numbers_of_the_file_are_used_once(tmp_path: Path, opened: Any) -> None:
    path = made.write_ptyd(tmp_path / "scan.ptyd")
    with h5py.File(path, "a") as file:
        file["chunks/0/indices"][:] = [*range(100, 119), 105]
    source = opened(path)
    batch, counts = all_of(source)
    assert batch.columns["frame"].tolist() == [*range(100, 119), *range(20, 30)]
    (found,) = source.findings()
    assert (found.guard, found.values["frames"]) == ("input.repeated", [105])
    assert np.array_equal(counts[5], np.fft.ifftshift(made.frames()[5]))


def test_frames_that_were_never_written_are_no_zeros(tmp_path: Path, opened: Any) -> None:
    path = made.write_cxi(tmp_path / "a.cxi", **{"entry_1/data_1/data": None})
    with h5py.File(path, "a") as file:
        data = file.create_dataset("entry_1/data_1/data", (30, 8, 8), np.uint16, chunks=(1, 8, 8))
        for row in set(range(26)) - {7, 9}:
            data[row] = made.frames()[row]
    with pytest.raises(InputError, match=r"files.checksum: 2 frames were never written .*: 7, 9\..*--lost-frames"):
        opened(path).poll()
    source = opened(path, ScanOptions(lost_frames="leave-out"))
    assert {r.key for r in source.poll()} == {f"frame {n}" for n in range(26)} - {"frame 7", "frame 9"}
    guards = {f.guard: f for f in source.findings()}
    assert guards["files.checksum"].severity is Severity.SUSPECT
    assert guards["files.checksum"].values["frames"] == [7, 9]
    assert "4 more frames" in guards["input.settled"].saw


# damaged files


def test_a_truncated_file_is_a_typed_error(tmp_path: Path, opened: Any) -> None:
    whole = made.write_cxi(tmp_path / "a.cxi").read_bytes()
    for share in (0.0, 0.05, 0.5, 0.9, 0.999):
        path = tmp_path / f"cut{share}.cxi"
        path.write_bytes(whole[: int(len(whole) * share)])
        source = opened(path)
        with pytest.raises(BeamsideError, match=path.name):
            all_of(source)


def test_any_damaged_byte_ends_in_a_typed_error_or_a_scan(tmp_path: Path, opened: Any) -> None:
    whole = bytearray(made.write_cxi(tmp_path / "a.cxi").read_bytes())
    rng = np.random.default_rng(2)
    ended = {"error": 0, "scan": 0}
    for number, place in enumerate(rng.integers(0, len(whole), 8).tolist()):
        damaged = bytearray(whole)
        damaged[place : place + 8] = rng.bytes(8)
        path = tmp_path / f"b{number}.cxi"
        path.write_bytes(damaged[: len(whole)])
        try:
            assert all_of(opened(path))[1].shape[1:] == (8, 8)
            ended["scan"] += 1
        except BeamsideError as error:
            assert path.name in str(error)
            ended["error"] += 1
    assert sum(ended.values()) == 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entry_1/data_1/data": None}, "holds no frame"),
        ({"entry_1/data_1/data": np.zeros((30, 8))}, "holds no frames"),
        ({"entry_1/sample_1/geometry_1/translation": np.zeros(30)}, "holds no positions"),
        ({"entry_1/sample_1/geometry_1/translation": None}, "no frame with a position"),
        ({"entry_1/instrument_1/source_1/energy": None}, r"does not say the energy\. Give --energy\."),
        ({"entry_1/instrument_1/source_1/energy": np.nan}, "positive number"),
        ({"entry_1/instrument_1/source_1/energy": "hard"}, "positive number"),
        ({"entry_1/instrument_1/detector_1/distance": 0.0}, "positive number"),
        ({"entry_1/instrument_1/detector_1/y_pixel_size": 2 * made.PIXEL_M}, "only square pixels|Only square pixels"),
        ({"entry_1/instrument_1/detector_1/mask": np.zeros((3, 3), np.uint32)}, "the mask has 3 x 3"),
    ],
)
def test_a_file_with_wrong_parts_is_refused(changes: dict[str, Any], says: str, tmp_path: Path, opened: Any) -> None:
    source = opened(made.write_cxi(tmp_path / "a.cxi", **changes))
    with pytest.raises(BeamsideError, match=says):
        source.header()
        all_of(source)


def test_a_huge_dataset_in_a_small_file_is_refused_before_it_is_allocated(tmp_path: Path, opened: Any) -> None:
    path = made.write_cxi(tmp_path / "a.cxi", **{"entry_1/data_1/data": None})
    with h5py.File(path, "a") as file:
        data = file.create_dataset("entry_1/data_1/data", (3, 40000, 54000), np.uint16, chunks=True, compression="gzip")
        data[0, 0, 0] = 1
    assert path.stat().st_size < 100_000
    with pytest.raises(BeamsideError, match=r"a\.cxi"):
        all_of(opened(path))
    bomb = made.write_cxi(tmp_path / "b.cxi", **{"entry_1/data_1/data": None})
    with h5py.File(bomb, "a") as file:
        file.create_dataset("entry_1/data_1/data", (6_500, 1024, 1024), np.uint16)
    with pytest.raises(BeamsideError, match=r"b\.cxi"):
        all_of(opened(bomb))


def test_what_is_no_file_or_no_scan_is_refused(tmp_path: Path, opened: Any) -> None:
    with pytest.raises(InputError, match="no such file"):
        opened(tmp_path / "none.cxi").header()
    (tmp_path / "text.cxi").write_text("not HDF5 at all" * 100)
    with pytest.raises(FormatError, match="no readable HDF5"):
        opened(tmp_path / "text.cxi").header()
    (tmp_path / "text.npz").write_text("not a zip" * 100)
    with pytest.raises(FormatError, match=r"no readable \.npz"):
        opened(tmp_path / "text.npz").header()
    np.savez(tmp_path / "objects.npz", data=np.array([{}], dtype=object))
    with pytest.raises(FormatError, match=r"no readable \.npz"):
        opened(tmp_path / "objects.npz").header()
    with pytest.raises(OptionError, match="no part of a scan"):
        opened(made.write_other(tmp_path / "o.h5"), ScanOptions(mapping={"frame": "/a/img"})).header()
    with pytest.raises(FormatError, match="no dataset '/nowhere'"):
        opened(tmp_path / "o.h5", ScanOptions(mapping={"frames": "/nowhere"})).header()


# a file that grows


def grow(file: Any, start: int, stop: int) -> None:
    for row in range(start, stop):
        file["entry_1/data_1/data"].resize(row + 1, axis=0)
        file["entry_1/data_1/data"][row] = made.frames(60)[row]
    file["entry_1/data_1/data"].flush()


def place(file: Any, start: int, stop: int) -> None:
    data = file["entry_1/sample_1/geometry_1/translation"]
    data.resize(max(stop, data.shape[0]), axis=0)
    data[start:stop, :2] = made.positions_m(60)[start:stop, ::-1]
    data.flush()


def begin_growing(path: Path, chunk: int) -> Any:
    absent = {"entry_1/data_1/data": None, "entry_1/sample_1/geometry_1/translation": None}
    made.write_cxi(path, libver="latest", **absent)
    file = h5py.File(path, "a", libver="latest")
    file.create_dataset("entry_1/data_1/data", (0, 8, 8), np.uint16, chunks=(chunk, 8, 8), maxshape=(None, 8, 8))
    file.create_dataset(
        "entry_1/sample_1/geometry_1/translation", (0, 3), np.float64, chunks=(16, 3), maxshape=(None, 3)
    )
    return file


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_growing_file_is_followed_and_no_item_is_partial(chunk: int, tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "live.cxi"
    source = opened(path, watch=True)
    assert source.header() is None and source.poll() == []
    path.write_bytes(b"")
    assert source.poll() == []
    path.unlink()
    file = begin_growing(path, chunk)
    file.swmr_mode = True
    assert source.poll() == []
    grow(file, 0, 22)
    assert source.poll() == []  # frames before their positions
    place(file, 0, 20)
    got = list(source.poll())
    assert [r.key for r in got] == [f"frame {n}" for n in range(20)]
    place(file, 20, 40)  # positions before their frames
    grow(file, 22, 38)
    got += source.poll()
    assert [r.key for r in got] == [f"frame {n}" for n in range(38)]
    assert source.poll() == [] and not source.exhausted()
    grow(file, 38, 45)
    place(file, 40, 45)
    file.close()
    got += source.poll()
    batch = source.batch(got)
    assert np.array_equal(batch.load(np.arange(45)), np.fft.ifftshift(made.frames(60)[:45], axes=(1, 2)))
    assert np.allclose(batch.columns["position_m"], made.positions_m(60)[:45])
    assert source.header().fields["count"] is None
    assert source.findings() == []


def test_a_growing_file_that_lost_frames_says_which(tmp_path: Path, opened: Any) -> None:
    """Once, after a while; a frame that comes late is used."""
    clock = FakeClock()
    path = tmp_path / "live.cxi"
    source = opened(path, watch=True, clock=clock)
    file = begin_growing(path, 1)
    file.swmr_mode = True
    place(file, 0, 40)
    grow(file, 0, 20)
    file["entry_1/data_1/data"].resize(30, axis=0)
    for row in (20, 21, 23, 24, 26):
        file["entry_1/data_1/data"][row] = made.frames(60)[row]
    file["entry_1/data_1/data"].flush()
    assert [r.key for r in source.poll()] == [f"frame {n}" for n in [*range(22), 23, 24, 26]]
    clock.now = 9.0
    assert source.poll() == [] and source.findings() == []
    clock.now = 10.0
    assert source.poll() == []
    (found,) = source.findings()
    assert (found.guard, found.severity, found.values["frames"]) == ("files.checksum", Severity.SUSPECT, [22, 25])
    file["entry_1/data_1/data"][25] = made.frames(60)[25]
    file["entry_1/data_1/data"].flush()
    clock.now = 30.0
    assert [r.key for r in source.poll()] == ["frame 25"] and source.findings() == []
    file.close()


def test_a_file_that_its_writer_holds_is_waited_for(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "live.cxi"
    file = begin_growing(path, 1)
    source = opened(path, watch=True)
    grow(file, 0, 20)
    place(file, 0, 20)
    assert source.poll() == []  # written without SWMR: nothing can be read before it is closed
    file.close()
    time.sleep(0.01)
    assert len(source.poll()) == 20


def test_a_vanished_reader_is_a_typed_error_and_comes_back(tmp_path: Path, opened: Any) -> None:
    source = opened(made.write_cxi(tmp_path / "a.cxi"))
    batch = source.batch(source.poll())
    source._view._child.kill()
    source._view._child.wait()
    assert batch.load(np.arange(3)).shape == (3, 8, 8)


def test_a_reader_that_dies_while_it_reads_is_a_typed_error(tmp_path: Path, opened: Any, monkeypatch: Any) -> None:
    from beamside.sources import hdf5_reader

    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys\nprint('{\"ok\": false}', flush=True)\nsys.stdin.readline()\nsys.stdin.readline()\nos.abort()\n"
    )
    monkeypatch.setattr(hdf5_reader, "_CHILD", child)
    with pytest.raises(FormatError, match="SIGABRT"):
        opened(made.write_cxi(tmp_path / "a.cxi")).header()
    child.write_text("import time\ntime.sleep(60)\n")
    reader = hdf5_reader.Hdf5Reader(tmp_path / "a.cxi", timeout_s=0.3)
    with pytest.raises(FormatError, match="longer than"):
        reader.children("/")
    reader.close()


def test_a_chunk_file_that_was_not_filled_moves_no_later_frame(tmp_path: Path, opened: Any) -> None:
    """Two datasets of frames, the first with room for frames that never came: rows keep their positions."""
    path = made.write_ptyd(tmp_path / "scan.ptyd")
    with h5py.File(path, "a") as file:
        del file["chunks/0/data"], file["chunks/0/indices"]
        data = file.create_dataset("chunks/0/data", (20, 8, 8), np.uint16, chunks=(1, 8, 8))
        for row in range(15):
            data[row] = made.frames()[row]
    batch, counts = all_of(opened(path, ScanOptions(lost_frames="leave-out")))
    assert batch.columns["frame"].tolist() == [*range(15), *range(20, 30)]
    assert np.array_equal(counts, np.fft.ifftshift(made.frames(), axes=(1, 2))[batch.columns["frame"]])
    assert np.allclose(batch.columns["position_m"], made.positions_m()[batch.columns["frame"]])


def test_a_growing_file_may_get_its_energy_last(tmp_path: Path, opened: Any) -> None:
    path = made.write_cxi(tmp_path / "a.cxi", **{"entry_1/instrument_1/source_1/energy": None})
    source = opened(path, watch=True)
    assert source.poll() == [] and "does not say the energy" in source.findings()[0].saw
    time.sleep(0.01)
    with h5py.File(path, "a") as file:
        file["entry_1/instrument_1/source_1/energy"] = 1e-15
    assert len(source.poll()) == 30
