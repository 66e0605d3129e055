"""Gauntlet rows 18 to 32: every defect put into a real reconstruction, and the answer it gets."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from beamside.cli.main import main
from beamside.ptycho.canvas import Canvas
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.probe import centre_offset_px
from beamside.ptycho.safety import Safety
from beamside.ptycho.solvers.accelerated import Accelerated
from beamside.ptycho.solvers.dual import Dual
from beamside.ptycho.workshop import Likelihood
from beamside.run.ledger import Ledger
from beamside.simulate.scan_files import write_scan
from tests.gauntlet.drive import assert_refused, verdict
from tests.gauntlet.ptycho_drive import QUICK, Pieces, caught, result, run, run_pieces
from tests.ptycho import scene

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
FRAMES = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan on disk, and a guess of its probe; not to be changed."""
    made = scene.scan(FRAMES)
    out = tmp_path_factory.mktemp("ptycho")
    write_scan(out / "scan.cxi", made)
    np.save(out / "probe.npy", scene.start_probe(made, off=1.0).modes)
    return out


@pytest.fixture
def warm(folder: Path) -> tuple[str, Path]:
    """The arguments of a warm start."""
    return "--probe", folder / "probe.npy"


def test_the_healthy_scan_trips_nothing(folder: Path, warm: Any, tmp_path: Path, capsys: Capture) -> None:
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", *warm)
    assert (ran.status, ran.findings) == (0, []), ran.said
    assert verdict(ran.folder) == "trusted"


def verdictless(folder: Path) -> bool:
    """Whether a stopped run has left its dump and no result."""
    return len(list((folder / "dumps").iterdir())) == 1 and not (folder / "result").exists()


@pytest.mark.parametrize("place", ["corner", "32,0", "0,32"])
def test_row_18_zero_frequency_in_the_centre(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture, place: str
) -> None:
    """Frames are stored with DC in the centre and taken as if it were elsewhere, on both axes or on one."""
    if place == "corner":
        scan = folder / "scan.cxi"
    else:
        scan = tmp_path / "shifted.cxi"
        shutil.copy(folder / "scan.cxi", scan)
        shift = tuple(32 - int(v) for v in place.split(","))
        with h5py.File(scan, "r+") as file:
            frames = file["entry_1/data_1/data"]
            frames[...] = np.roll(frames[...], shift, axis=(1, 2))
    more = ("--dc", "corner") if place == "corner" else ()
    ran = run(capsys, scan, tmp_path / "run", *warm, *more)
    assert ran.status == 3 and verdictless(ran.folder)
    assert re.search(r"frames\.dc stopped the run at step 0: the mean pattern's weight lies [+-]\d+ rows and", ran.said)
    assert "The engine's inputs and state are in" in ran.said
    assert "--dc centre" in ran.said


def test_row_19_an_absurd_position_is_set_aside_and_named(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture
) -> None:
    scan = tmp_path / "scan.cxi"
    shutil.copy(folder / "scan.cxi", scan)
    with h5py.File(scan, "r+") as file:
        file["entry_1/sample_1/geometry_1/translation"][17] = [0.5, -0.25, 0]
    ran = run(capsys, scan, tmp_path / "run", *warm)
    (sentence,) = ran.named("positions.inside")
    assert ran.status == 0 and "frame 17 at (-2.5e+05, 5e+05) um" in sentence and "encoder" in sentence
    with np.load(tmp_path / "run" / "result" / "object.npz", allow_pickle=False) as found:
        assert found["object"].size < 400**2 and len(found["positions_px"]) == FRAMES - 1


def test_row_19_no_window_is_ever_negative(tmp_path: Path, monkeypatch: Patch) -> None:
    """The scan leaves its first canvas on all sides while it runs."""
    seen = []
    original = Canvas.corners

    def corners(self: Canvas, positions_px: Any, bins: int) -> Any:
        found = original(self, positions_px, bins)
        seen.append((found[0].min(), (np.array(self.shape) - found[0].max(0) - scene.N).min(), self.shape))
        return found

    monkeypatch.setattr(Canvas, "corners", corners)
    made = scene.scan(200, step_px=6.0)
    middle = made.positions_px.mean(0)
    order = np.argsort(np.hypot(*(made.positions_px - middle).T))
    outcome, found = run_pieces(tmp_path / "run", Pieces(made, np.array_split(order, 4)), scene.options(made))
    assert outcome.exit_code == 0 and found == []
    assert min(low for low, _, _ in seen) >= 1 and min(high for _, high, _ in seen) >= 1
    assert seen[-1][2] > seen[0][2], "the canvas did grow"


@pytest.mark.parametrize("solver", ["auto", "raar"])
def test_row_20_and_23_slots_that_hold_garbage_change_nothing(tmp_path: Path, monkeypatch: Patch, solver: str) -> None:
    """Memory that no frame and no dual wave has been written to is poisoned; the result is the same to the bit."""
    made = scene.scan(FRAMES)
    parts = np.array_split(np.arange(FRAMES), 3)
    chosen = scene.options(made, solver=solver, first_frames=40, iterations_after_close=3)

    def gate(k: int) -> bool:
        return not engines or engines[-1].iteration >= 4 * k

    engines: list[Ptychography] = []
    made_by = Ptychography.__init__

    def init(self: Ptychography, *args: Any) -> None:
        made_by(self, *args)
        engines.append(self)

    monkeypatch.setattr(Ptychography, "__init__", init)
    run_pieces(tmp_path / "clean", Pieces(made, parts, gate), chosen)
    engines.clear()
    room, waves = FrameStore._make_room, Dual._waves
    poisoned = []

    def make_room(self: FrameStore, frames: int) -> None:
        room(self, frames)
        self.counts[self.held :] = 60000
        poisoned.append(len(self.counts) - self.held)

    def begin(self: Dual, shop: Any, frames: Any) -> Any:
        psi = waves(self, shop, frames)
        psi[~self.begun] = np.nan
        return psi

    monkeypatch.setattr(FrameStore, "_make_room", make_room)
    monkeypatch.setattr(Dual, "_waves", begin)
    outcome, found = run_pieces(tmp_path / "poisoned", Pieces(made, parts, gate), chosen)
    assert outcome.exit_code == 0 and found == [] and max(poisoned) > 100
    assert result(tmp_path / "poisoned") == result(tmp_path / "clean")


def test_row_21_more_frames_than_the_capacity(folder: Path, warm: Any, tmp_path: Path, capsys: Capture) -> None:
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", *warm, "--capacity", 50)
    (sentence,) = ran.named("capacity.declared")
    assert ran.status == 0 and "150 of 200 frames are beyond the capacity of 50 (8192 bytes each)" in sentence
    assert "Raise --capacity" in sentence and verdict(ran.folder) == "trusted"
    whole = run(capsys, folder / "scan.cxi", tmp_path / "whole", *warm)
    assert whole.named("capacity.declared") == [] and result(whole.folder) == result(ran.folder)


def test_row_22_batches_read_their_own_points(tmp_path: Path, monkeypatch: Patch) -> None:
    """accumulate.oracle: in an engine that a real run has filled, sums over its batches are the sum in one batch."""
    engines = caught(monkeypatch)
    made = scene.scan(FRAMES)
    parts = np.split(np.random.default_rng(2).permutation(FRAMES), [50, 51, 90])
    run_pieces(tmp_path / "run", Pieces(made, parts), scene.options(made, iterations_after_close=1))
    shop, noise = engines[0].shop, Likelihood(True, 0.05)

    def sums(pieces: list[np.ndarray]) -> list[np.ndarray]:
        shop.clear()
        misfits = [shop.gradient(piece, noise, probe=True) for piece in pieces]
        return [np.array(sum(misfits)), *shop.object_sums(), shop.probe_sums()[0]]

    edges = np.cumsum([len(part) for part in parts])[:-1]
    whole, batches = sums([np.arange(FRAMES)]), sums(np.split(np.arange(FRAMES), edges))
    for one, two in zip(whole, batches, strict=True):
        assert np.abs(one - two).max() < 1e-4 * np.abs(one).max()


def test_row_24_nothing_divides_by_a_probe_that_was_not_there(tmp_path: Path) -> None:
    """Two islands with darkness between them: finite everywhere, and coverage says where nothing is known."""
    made = scene.scan(289, pattern="raster", step_px=8.0)
    column = np.arange(289) % 17
    islands = np.flatnonzero((column < 4) | (column > 12))
    outcome, found = run_pieces(tmp_path / "run", Pieces(made, [islands]), scene.options(made))
    assert outcome.exit_code == 0 and found == []
    from beamside.run.encode import unpack

    newest = sorted((tmp_path / "run" / "snapshots").iterdir())[-1]
    arrays = unpack((newest / "arrays.safetensors").read_bytes())
    assert all(np.isfinite(value).all() for value in arrays.values())
    dark = arrays["coverage"] <= 1e-3 * arrays["coverage"].max()
    assert dark.any() and (np.abs(arrays["object"][dark]) < 2).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_row_24_what_is_not_finite_stops_the_run(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    original = Accelerated.iterate

    def iterate(self: Accelerated, shop: Any, task: Any) -> float:
        misfit = original(self, shop, task)
        if task.number == 4:
            shop.canvas.object[30, 30] = np.nan
        return misfit

    with monkeypatch.context() as patch:
        patch.setattr(Accelerated, "iterate", iterate)
        ran = run(capsys, folder / "scan.cxi", tmp_path / "taken back", *warm)
        assert (ran.status, ran.findings) == (0, []), "an iteration that leaves NaN is taken back"
        patch.setattr(Safety, "judge", lambda *_: True)
        ran = run(capsys, folder / "scan.cxi", tmp_path / "run", *warm)
    assert ran.status == 3 and re.search(r"object\.finite stopped the run at step \d+: .*not finite", ran.said)
    assert "The engine's inputs and state are in" in ran.said and not (ran.folder / "result").exists()


def test_row_25_publishing_caps_no_iteration_and_every_frame_counts(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture
) -> None:
    """ledger.complete: hundreds of snapshots or few, the same iterations and the same bytes, over all frames."""
    often = run(capsys, folder / "scan.cxi", tmp_path / "often", *warm, "--publish-every", "0.001s")
    seldom = run(capsys, folder / "scan.cxi", tmp_path / "seldom", *warm, "--publish-every", "1h")
    assert often.status == seldom.status == 0
    many, few = (len(list((ran.folder / "snapshots").iterdir())) for ran in (often, seldom))
    assert many >= 10 > few and result(often.folder) == result(seldom.folder)
    with Ledger(often.folder / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.items() == ledger.in_batches() == FRAMES
    with np.load(often.folder / "result" / "object.npz", allow_pickle=False) as found:
        assert len(found["positions_px"]) == FRAMES


WRONG = {
    ("--reverse-x",): "x reversed",
    ("--reverse-y",): "y reversed",
    ("--swap-axes",): "x and y exchanged",
    ("--swap-axes", "--reverse-x"): "x and y exchanged, then ",
}
FEW = (("--reverse-x",), ("--swap-axes",))
"""Those that every test run looks at."""


@pytest.mark.parametrize(
    "flags",
    [pytest.param(f, marks=() if f in FEW else pytest.mark.slow, id=" ".join(f)) for f in WRONG],
)
def test_row_26_a_wrong_scan_axis_is_suspect_and_named(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture, flags: tuple[str, ...]
) -> None:
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", *warm, *flags)
    (sentence,) = ran.named("geometry.parity")
    assert ran.status == 0 and verdict(ran.folder) == "suspect"
    assert f"the frames fit better with {WRONG[flags]}" in sentence and "check-geometry" in sentence
    command = ["ptycho", "check-geometry", str(folder / "scan.cxi"), *flags, *map(str, warm), "--threads", "1"]
    assert main(command) == 1
    assert f"fit clearly better with {WRONG[flags]}" in capsys.readouterr().out
    cured = run(capsys, folder / "scan.cxi", tmp_path / "cured", *warm, *cure(flags, sentence))
    assert (cured.status, cured.findings) == (0, []), "what it names is the cure"


def cure(given: tuple[str, ...], sentence: str) -> list[str]:
    """The options of the next run, as a person would read them out of the sentence."""
    said = re.search(r"as given\): give ([^.(;]*)", sentence)
    assert said is not None, sentence
    if "none of" in said[1]:
        return []
    named = re.findall(r"--orientation \d|--[a-z-]+", said[1].split(" or, ")[0])
    kept = [] if "axes" in said[1] else list(given)
    return kept + " ".join(named).split()


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True], ids=["x", "x reversed"])
@pytest.mark.parametrize("dc", ["centre", "corner"])
@pytest.mark.parametrize("wrong", range(8))
def test_rows_26_27_check_geometry_finds_all_cases(
    folder: Path, warm: Any, capsys: Capture, wrong: int, dc: str, reverse: bool
) -> None:
    """Eight orientations, two places of DC, two directions of a scan axis: the best of the table is the cure.

    Whatever was given, the frames need no turn, or the one that a reversed axis asks for.
    """
    right = 2 if reverse else 0
    flags = ["--orientation", str(wrong), "--dc", dc, *(["--reverse-x"] if reverse else [])]
    command = ["ptycho", "check-geometry", str(folder / "scan.cxi"), *flags, *map(str, warm), "--threads", "1"]
    status = main(command)
    said = capsys.readouterr().out
    best = re.search(r"\n +\S+ +1\.00 +(as is|moved) +given +--orientation (\d) ", said)
    assert best is not None and (int(best[2]), best[1] == "moved") == (right, dc == "corner"), said
    assert status == (0 if wrong == right and dc == "centre" else 1)
    assert ("fit clearly better with" in said) == bool(status)
    assert (f"give --orientation {right}" in said) == (wrong != right) and ("give --dc centre" in said) == (
        dc != "centre"
    )


@pytest.mark.parametrize("wrong", [1, 5])
def test_row_27_an_orientation_that_is_applied_twice(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture, wrong: int
) -> None:
    """The frames lie as they should already; turning them again is suspect."""
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", *warm, "--orientation", wrong)
    (sentence,) = ran.named("geometry.parity")
    assert ran.status == 0 and verdict(ran.folder) == "suspect" and "the frames fit better with" in sentence
    assert "give --orientation 0" in sentence, "what is named does not depend on what was given"


def test_a_defocused_start_probe_is_moved_and_named(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """A note, and no more than that: the run begins from the better place and is as good as any."""
    np.save(tmp_path / "probe.npy", scene.start_probe(scene.scan(FRAMES), off=1.3).modes)
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", "--probe", tmp_path / "probe.npy")
    (sentence,) = ran.named("warmstart.defocus")
    moved = re.search(r"better ([-+]\S+) mm along the beam", sentence)
    assert moved is not None and float(moved[1]) == pytest.approx(-0.3, abs=0.1)
    assert ran.status == 0 and len(ran.findings) == 1 and verdict(ran.folder) == "trusted"
    kept = run(capsys, folder / "scan.cxi", tmp_path / "kept", "--probe", tmp_path / "probe.npy", "--no-geometry-check")
    assert kept.findings == [] and result(kept.folder) != result(ran.folder)


def test_a_probe_of_another_instrument_is_named(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    small = np.zeros((1, 64, 64), np.complex64)
    small[:, 28:36, 28:36] = 1
    np.save(tmp_path / "probe.npy", small)
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", "--probe", tmp_path / "probe.npy")
    (sentence,) = ran.named("warmstart.better")
    assert "defocus of about +" in sentence and "Leave --probe out" in sentence
    assert ran.status == 0 and [severity for _, severity, _ in ran.findings if severity != "note"] == []


def slowly(monkeypatch: Patch, apart: int) -> Any:
    """A gate that lets piece k in after k * apart iterations."""
    engines: list[Ptychography] = []
    original = Ptychography.__init__

    def init(self: Ptychography, *args: Any) -> None:
        original(self, *args)
        engines.append(self)

    monkeypatch.setattr(Ptychography, "__init__", init)
    return lambda k: not engines or engines[-1].iteration >= k * apart


@pytest.mark.parametrize("wiped", [True, False], ids=["wiped", "healthy"])
def test_row_28_arrivals_that_wipe_the_object(tmp_path: Path, monkeypatch: Patch, wiped: bool) -> None:
    made = scene.scan()
    gate = slowly(monkeypatch, 30)
    original = Ptychography.ingest

    def ingest(self: Ptychography, batch: Any) -> None:
        first = len(self.store)
        original(self, batch)
        if wiped and first:
            for row, col in self.shop.corners[first:]:
                self.canvas.object[row : row + scene.N, col : col + scene.N] = 1

    monkeypatch.setattr(Ptychography, "ingest", ingest)
    parts = np.array_split(np.arange(200), 2)
    outcome, found = run_pieces(tmp_path / "run", Pieces(made, parts, gate), scene.options(made))
    assert outcome.exit_code == 0
    if not wiped:
        assert found == []
        return
    assert [(guard, severity) for guard, severity, _ in found] == [("object.regress", "suspect")]
    assert re.search(r"arrived at iteration 3\d changed \d+% of the contrast of what was known", found[0][2])
    assert "positions of the new frames" in found[0][2] and verdict(tmp_path / "run") == "suspect"


def test_row_29_a_snapshot_covers_the_whole_canvas(tmp_path: Path) -> None:
    """Windows reach half a frame beyond the commanded range, and more where positions have moved."""
    made = scene.scan(FRAMES)
    run_pieces(tmp_path / "run", Pieces(made, [np.arange(FRAMES)]), scene.options(made, iterations_after_close=1))
    from beamside.run.encode import unpack

    newest = sorted((tmp_path / "run" / "snapshots").iterdir())[-1]
    arrays = unpack((newest / "arrays.safetensors").read_bytes())
    covered = np.argwhere(arrays["coverage"] > 0)
    reach = np.ptp(made.recorded_px, axis=0) + scene.N
    assert (np.abs(np.ptp(covered, axis=0) + 1 - reach) <= 2).all()
    assert (np.array(arrays["object"].shape) >= reach).all() and arrays["object"].shape == arrays["coverage"].shape


@pytest.mark.parametrize(("drifts", "answer"), [(1, "recentred"), (6, "suspect")])
def test_row_30_a_probe_that_drifts(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch, drifts: int, answer: str
) -> None:
    """Probe and object move together by five pixels, which no frame can see, once or again and again."""
    original = Accelerated.iterate
    engines = caught(monkeypatch)

    def iterate(self: Accelerated, shop: Any, task: Any) -> float:
        misfit = original(self, shop, task)
        if len(task.frames) == FRAMES and 2 <= task.number < 2 + drifts:
            shop.set_probe(np.roll(shop.probe, (5, -4), axis=(1, 2)))
            shop.canvas.roll(np.array([5, -4]))
        return misfit

    with monkeypatch.context() as patch:
        patch.setattr(Accelerated, "iterate", iterate)
        options = ("--defocus", "1e-3", "--no-geometry-check")
        ran = run(capsys, folder / "scan.cxi", tmp_path / "run", *options)
    assert ran.status == 0 and np.abs(centre_offset_px(engines[0].shop.probe)).max() < 3
    sentences = ran.named("probe.centred")
    if answer == "recentred":
        assert sentences == [] and len(engines[0].recentred) >= 1 and verdict(ran.folder) == "trusted"
    else:
        assert sentences and "left the window's centre 4 times and was brought back" in sentences[0]
        assert "--probe" in sentences[0] and verdict(ran.folder) == "suspect"


def test_row_31_a_run_that_finishes_first_ends_no_other(
    folder: Path, warm: Any, tmp_path: Path, capsys: Capture
) -> None:
    """Two runs share one scan; the short one ends while the other works, and changes nothing of it."""
    alone = run(capsys, folder / "scan.cxi", tmp_path / "alone", *warm)
    short = [*QUICK, *map(str, warm), "--max-iterations", "1"]
    command = [sys.executable, "-m", "beamside", "ptycho", str(folder / "scan.cxi"), str(tmp_path / "short"), *short]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as other:
        ran = run(capsys, folder / "scan.cxi", tmp_path / "long", *warm)
        assert other.wait(timeout=60) == 0
    assert ran.status == 0 and result(ran.folder) == result(alone.folder)
    assert result(tmp_path / "short") != result(alone.folder)


def test_row_32_a_probe_of_another_scan_is_refused(folder: Path, warm: Any, tmp_path: Path, capsys: Capture) -> None:
    small = tmp_path / "small.npy"
    np.save(small, np.ones((1, 32, 32), np.complex64))
    ran = run(capsys, folder / "scan.cxi", tmp_path / "run", "--probe", small)
    assert_refused(ran, r"warmstart\.fits: the start probe's shape is \(1, 32, 32\); this scan's is \(modes, 64, 64\)")
    assert "leave --probe out" in ran.said and "small.npy" in ran.said
    zero = tmp_path / "zero.npy"
    np.save(zero, np.zeros((1, 64, 64), np.complex64))
    assert_refused(
        run(capsys, folder / "scan.cxi", tmp_path / "run", "--probe", zero),
        r"zero\.npy: the probe is not finite, or zero",
    )
    earlier = run(capsys, folder / "scan.cxi", tmp_path / "earlier", *warm)
    assert earlier.status == 0
    again = run(capsys, folder / "scan.cxi", tmp_path / "again", "--probe", earlier.folder)
    assert again.status == 0, "the same scan's own probe fits"
    other = run(capsys, folder / "scan.cxi", tmp_path / "run", "--probe", earlier.folder, "--distance", 2.5)
    assert_refused(other, r"warmstart\.fits: the start probe's pixel size is \S+ m; this scan's is \S+ m")
    both = ("--energy", 9 * 1.2, "--distance", 2.0 * 1.2)
    other = run(capsys, folder / "scan.cxi", tmp_path / "run", "--probe", earlier.folder, *both)
    assert_refused(other, r"warmstart\.fits: the start probe's wavelength is 1\.37\S+ m; this scan's is 1\.14\S+ m")
