"""The result as other libraries open it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from beamside.errors import InputError
from beamside.formats.cxi import layout
from beamside.optics.units import round_length
from beamside.ptycho.export import frame_numbers, write_cxi, write_result
from beamside.ptycho.panels import UNSEEN, panels, powers, probe_panel, seen_window, without_ramp
from beamside.ptycho.picture import banner, bar_text, length_text, subline
from beamside.run.engine import Snapshot
from beamside.run.guard import Verdict

H, W, N, COUNT = 60, 70, 16, 9
PIXEL_M = (2e-8, 2e-8)


@pytest.fixture(name="snapshot")
def _snapshot() -> Snapshot:
    rng = np.random.default_rng(1)
    coverage = np.zeros((H, W), np.float32)
    coverage[5:50, 8:64] = 100
    return Snapshot(
        arrays={
            "object": (rng.normal(size=(H, W)) + 1j * rng.normal(size=(H, W))).astype(np.complex64),
            "probe": (rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N))).astype(np.complex64),
            "coverage": coverage,
            "positions_px": rng.uniform(-10, 30, (COUNT, 2)),
            "error": np.array([3.0, 2.0, 1.5]),
        },
        tables={"frames": {}},
        coverage=1.0,
        provisional="",
        notes={"pixel_size_m": list(PIXEL_M), "offset_px": [-12, 5], "wavelength_m": 1.3e-10, "distance_m": 2.0,
               "detector_pixel_m": 75e-6, "solver": "auto", "iterations": 3, "scan_uid": None},
    )  # fmt: skip


@pytest.fixture(name="result")
def _result(snapshot: Snapshot, tmp_path: Path) -> Path:
    finding = {
        "guard": "probe.centred",
        "severity": "suspect",
        "saw": "the probe drifts.",
        "remedy": "Look.",
        "values": {},
    }
    verdict = {"verdict": "suspect", "provisional": "", "findings": [finding]}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    paths = write_result(tmp_path, snapshot, [f"frame {n}" for n in range(10, 10 + COUNT)])
    assert {path.name for path in paths} == {p.name for p in tmp_path.iterdir()} - {"verdict.json"}
    return tmp_path


def test_the_npz_is_what_the_benchmark_reads(result: Path, snapshot: Snapshot) -> None:
    with np.load(result / "object.npz", allow_pickle=False) as found:
        assert np.array_equal(found["object"], snapshot.arrays["object"])
        assert found["offset"].tolist() == [-12, 5]
        assert np.array_equal(found["positions_px"], snapshot.arrays["positions_px"])
        assert found["probe"].shape == (2, N, N)
    assert np.array_equal(np.load(result / "probe.npy", allow_pickle=False), snapshot.arrays["probe"])


def test_the_cxi_file_by_h5py_alone(result: Path, snapshot: Snapshot) -> None:
    with h5py.File(result / "ptycho.cxi") as file:
        entry = file["entry_1"]
        assert np.array_equal(entry["image_2/data"][()], snapshot.arrays["object"])
        assert np.array_equal(entry["object/data"][()], snapshot.arrays["object"])
        assert np.array_equal(entry["image_1/data"][()], snapshot.arrays["probe"])
        assert np.array_equal(entry["image_2/mask"][()] == 0, snapshot.arrays["coverage"] > 0)
        assert np.array_equal(entry["image_2/coverage"][()], snapshot.arrays["coverage"])
        assert entry["ptychodus/loss_values"][()].tolist() == [3.0, 2.0, 1.5]
        assert entry["ptychodus/probe_position_indexes"][()].tolist() == list(range(10, 19))
        configuration = entry["process_1/configuration"]
        assert configuration["solver"][()].decode() == "auto" and configuration["iterations"][()] == 3
        energy_J = 6.62607015e-34 * 299792458.0 / 1.3e-10
        assert entry["instrument_1/source_1/energy"][()] == pytest.approx(energy_J)


def test_centre_and_positions_agree_as_ptychodus_places_them(result: Path, snapshot: Snapshot) -> None:
    """Its rule: pixel i of the object lies at centre + (i - size / 2) pixels; a probe is centred on its position."""
    with h5py.File(result / "ptycho.cxi") as file:
        extras, places = file["entry_1/ptychodus"], file["entry_1/data_1/translation"][:][:, 1::-1]
        centre = np.array([extras["object_center_y_m"][()], extras["object_center_x_m"][()]])
        pixel = np.array([extras["object_pixel_height_m"][()], extras["object_pixel_width_m"][()]])
    first_px = (places - centre) / pixel + np.array([H, W]) / 2 - N / 2
    assert np.allclose(first_px, snapshot.arrays["positions_px"] - snapshot.notes["offset_px"])


def test_silx_opens_it(result: Path, snapshot: Snapshot) -> None:
    pytest.importorskip("silx", reason="silx is not installed")
    from silx.io import get_data
    from silx.io import open as silx_open
    from silx.io.nxdata import get_default

    path = result / "ptycho.cxi"
    assert np.array_equal(get_data(f"silx:{path}?path=/entry_1/image_2/data"), snapshot.arrays["object"])
    with silx_open(str(path)) as file:
        default = get_default(file)
        assert default is not None and default.is_valid
        assert np.array_equal(default.signal[()], snapshot.arrays["object"])


@pytest.mark.slow
def test_cdtools_reads_its_geometry(result: Path, snapshot: Snapshot) -> None:
    data = pytest.importorskip("cdtools.tools.data", reason="cdtools is not installed")
    with h5py.File(result / "ptycho.cxi") as file:
        assert data.get_wavelength(file) == pytest.approx(1.3e-10)
        distance, basis, _ = data.get_detector_geometry(file)
        assert distance == pytest.approx(2.0) and np.abs(basis).max() == pytest.approx(75e-6)
        assert data.get_entry_info(file)["title"] == "ptychographic reconstruction"
        translations = -data.get_ptycho_translations(file)
    assert np.allclose(translations[:, 1::-1] / PIXEL_M, snapshot.arrays["positions_px"])


def test_our_own_reader_finds_the_instrument(result: Path) -> None:
    from beamside.sources.hdf5_reader import Hdf5Reader

    reader = Hdf5Reader(result / "ptycho.cxi")
    assert layout(reader) is None  # a result holds no frames, so it is no scan
    reader.close()


def test_tiffs_are_32_bit_with_the_pixel_size(result: Path, snapshot: Snapshot) -> None:
    import tifffile

    seen = snapshot.arrays["coverage"] > 0
    for name, values in (("amplitude", np.abs), ("phase", np.angle)):
        with tifffile.TiffFile(result / f"{name}.tiff") as file:
            image, tags = file.asarray(), file.pages[0].tags
        assert image.dtype == np.float32
        assert np.allclose(image, np.where(seen, values(snapshot.arrays["object"]), 0), atol=1e-6)
        top, bottom = tags["XResolution"].value
        assert 0.01 / (top / bottom) == pytest.approx(2e-8) and tags["ResolutionUnit"].value == 3


def test_the_picture_is_a_png_that_shows_the_verdict(result: Path, snapshot: Snapshot) -> None:
    from matplotlib.image import imread

    picture = imread(result / "ptycho.png")
    assert picture.shape[1] == 1200
    assert (np.abs(picture[:, :, :3] - np.array([0xF4, 0xCC, 0xCC]) / 255).max(2) < 0.01).any()  # the suspect's red
    assert (np.abs(picture[:, :, :3] - [0.80, 0.84, 0.95]).max(2) < 0.01).sum() > 1000  # what nothing has covered
    verdict, lines = banner(snapshot, json.loads((result / "verdict.json").read_bytes()))
    assert verdict is Verdict.SUSPECT and lines == ["SUSPECT", "- the probe drifts. Look."]


def test_the_same_snapshot_gives_the_same_bytes(result: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / "verdict.json").write_bytes((result / "verdict.json").read_bytes())
    for path in write_result(again, snapshot, [f"frame {n}" for n in range(10, 10 + COUNT)]):
        assert path.read_bytes() == (result / path.name).read_bytes(), path.name


def test_a_ramp_and_a_constant_phase_are_not_shown() -> None:
    y, x = np.mgrid[:H, :W]
    plain = np.exp(0.3j * np.cos(x / 5) * np.sin(y / 4))
    where = np.zeros((H, W), bool)
    where[5:50, 8:60] = True
    given = np.where(where, plain * np.exp(1j * (0.4 + 0.2 * y - 1.1 * x)), 77)
    assert np.abs(np.angle(without_ramp(given, where) * plain.conj()))[where].max() < 0.05


def test_big_objects_are_drawn_small_and_flat_ones_at_all(snapshot: Snapshot) -> None:
    arrays = {
        **snapshot.arrays,
        "object": np.ones((1500, 1300), np.complex64),
        "coverage": np.ones((1500, 1300), np.float32),
    }
    amplitude, phase, step = panels(Snapshot(arrays, {}, 1.0, "", snapshot.notes))
    assert step == 3 and amplitude.image.shape == phase.image.shape == (500, 433, 3)
    arrays["coverage"] = np.zeros((1500, 1300), np.float32)
    nothing = panels(Snapshot(arrays, {}, 1.0, "", snapshot.notes))[0]
    assert (nothing.image == UNSEEN).all() and (nothing.low, nothing.high) == (0, 1)


def test_the_ends_of_the_grey_scales_are_values_of_the_object(snapshot: Snapshot) -> None:
    ramp = np.linspace(0.5, 1.5, H * W).reshape(H, W)
    arrays = {**snapshot.arrays, "object": ramp * np.exp(0.4j * np.sign(ramp - 1)), "coverage": np.ones((H, W))}
    amplitude, phase, _ = panels(Snapshot(arrays, {}, 1.0, "", snapshot.notes))
    assert (amplitude.low, amplitude.high) == pytest.approx((0.505, 1.495), abs=2e-3)
    assert phase.high - phase.low == pytest.approx(0.8, abs=0.05)
    assert amplitude.image[0, 0].tolist() == [0, 0, 0] and amplitude.image[-1, -1].tolist() == [255, 255, 255]


def test_a_probe_is_drawn_in_hue_and_brightness() -> None:
    mode = np.zeros((8, 8), np.complex64)
    mode[2, 2], mode[5, 5], mode[7, 0] = 4, 2 * np.exp(2j * np.pi / 3), 2 * np.exp(-2j * np.pi / 3)
    panel = probe_panel(mode)
    red, green, blue = (panel.image[y, x].astype(int) for y, x in ((2, 2), (5, 5), (7, 0)))
    assert (panel.low, panel.high) == (0, 4) and panel.image[0, 0].tolist() == [0, 0, 0]
    assert red.tolist() == [255, 64, 64], "the mean phase"
    assert green.argmax() == 1 and blue.argmax() == 2 and green.max() == blue.max() == 127, "half as bright"
    assert powers(np.stack([mode, mode / 2])) == pytest.approx([0.8, 0.2])
    assert probe_panel(np.zeros((4, 4))).image.max() == 0


@pytest.mark.parametrize(("field_m", "bar_m"), [(6.8e-6, 1e-6), (8e-6, 2e-6), (2.1e-6, 5e-7), (4e-9, 1e-9)])
def test_the_scale_bar_is_a_round_length(field_m: float, bar_m: float) -> None:
    assert round_length(field_m / 4) == pytest.approx(bar_m)


@pytest.mark.parametrize(
    ("length_m", "text"), [(2e-6, "2 um"), (5e-7, "500 nm"), (1e-6, "1 um"), (2.93e-8, "29.3 nm"), (1e-11, "10 pm")]
)
def test_lengths_are_told_in_their_unit(length_m: float, text: str) -> None:
    assert length_text(length_m) == text


def test_no_length_is_told_where_none_is_known(snapshot: Snapshot) -> None:
    """A file that says neither energy nor distance has nominal lengths, which a scale bar must not pass on."""
    unknown = Snapshot(snapshot.arrays, {}, 1.0, "", {**snapshot.notes, "nominal_lengths": True})
    pixel_m = snapshot.notes["pixel_size_m"][1]
    assert bar_text(unknown, 50 * pixel_m) == "50 px" and bar_text(snapshot, 2e-6) == "2 um"
    assert "pixel of unknown size" in subline(unknown) and "unknown" not in subline(snapshot)


def test_what_is_no_reconstruction_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    arrays = {name: array for name, array in snapshot.arrays.items() if name != "probe"}
    with pytest.raises(InputError, match="no probe yet"):
        write_cxi(tmp_path / "a.cxi", Snapshot(arrays, {}, 0.0, "", snapshot.notes), [])
    with pytest.raises(InputError, match="9 positions belong to 2 frames"):
        write_cxi(tmp_path / "a.cxi", snapshot, ["frame 1", "frame 2"])
    assert frame_numbers(["frame 7", "odd"]).tolist() == [7, 1]


@pytest.fixture(name="evaluate")
def _evaluate(shared: Path) -> ModuleType:
    location = shared / "bench" / "ptycho" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("ptycho_evaluate", location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_scores_an_exported_truth_as_perfect(evaluate: Any, tmp_path: Path) -> None:
    """Truth in, through our own export, into the independent evaluator: offset, axes and positions are right."""
    from beamside.simulate.scan import Scan, ScanRecipe

    scan = Scan(ScanRecipe(frames=60, frame_px=32, photons=1e6))
    cut = scan.object[4:, 6:]
    snapshot = Snapshot(
        {"object": cut, "probe": scan.probe, "coverage": np.ones(cut.shape, np.float32),
         "positions_px": scan.positions_px},
        {}, 1.0, "", {"pixel_size_m": [1e-8, 1e-8], "offset_px": [4, 6], "wavelength_m": 1e-10, "distance_m": 1.0,
                      "detector_pixel_m": 1e-4},
    )  # fmt: skip
    write_result(tmp_path, snapshot, [f"frame {n}" for n in range(60)])
    case = {"object": scan.object, "probe": scan.probe, "pos": scan.positions_px, "pos_rec": scan.recorded_px,
            "data": scan.frames(np.arange(60)), "attrs": {}}  # fmt: skip
    with np.load(tmp_path / "object.npz") as found:
        score = evaluate.score(case, found["object"], found["offset"], found["probe"], found["positions_px"])
    assert score["nrmse"] < 1e-3 and score["pos_rms_px"] < 1e-9
    assert score["R"] == pytest.approx(score["R_truth"], rel=1e-3)


def test_all_that_was_seen_is_drawn(snapshot: Snapshot) -> None:
    coverage = np.zeros((100, 80), np.float32)
    coverage[30:51, 20:70] = 1e-3
    coverage[40, 40] = 5
    rows, columns = seen_window(coverage)
    assert (coverage[rows, columns] > 0).sum() == (coverage > 0).sum()
    assert coverage[rows, columns].shape == (21 + 6, 50 + 6)
    assert seen_window(np.zeros((4, 4))) == (slice(None), slice(None))
