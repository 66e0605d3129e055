"""`beamside ptycho`: a file becomes an object, a killed run resumes, nonsense is refused in a paragraph."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from beamside.cli.main import main
from beamside.simulate.scan_files import write_scan
from tests.ptycho import scene

FAST = ("--threads", "1", "--iterations-after-close", "10", "--no-geometry-check")


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "beamside", *map(str, args)]


def beamside(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=240, check=False)


def here(*args: object) -> int:
    """In this process, which has loaded everything already."""
    return main([str(word) for word in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan on disk, a guess of its probe, and the run from it that nothing interrupted."""
    out = tmp_path_factory.mktemp("ptycho")
    write_scan(out / "scan.cxi", scene.scan())
    np.save(out / "probe.npy", scene.start_probe(scene.scan()).modes)
    done = beamside("ptycho", out / "scan.cxi", out / "whole", "--probe", out / "probe.npy", *FAST)
    assert done.returncode == 0, done.stderr
    return out


def score(npz: Path) -> float:
    with np.load(npz, allow_pickle=False) as found:
        return scene.error(scene.scan(), found["object"], found["offset"])


def test_a_file_becomes_an_object(folder: Path, tmp_path: Path) -> None:
    status = beamside("status", folder / "whole", "--json")
    assert status.returncode == 0 and '"trusted"' in status.stdout
    done = beamside("export", folder / "whole", "--to", "npz", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert score(tmp_path / "out.npz") < 0.05
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert found["probe"].shape == (1, 64, 64) and found["positions_px"].shape == (200, 2)
        np.testing.assert_allclose(found["positions_px"], scene.scan().recorded_px, atol=1e-6)
    result = folder / "whole" / "result"
    assert {"ptycho.cxi", "object.npz", "probe.npy", "ptycho.png", "phase.tiff"} <= {p.name for p in result.iterdir()}


def test_its_own_probe_starts_the_next_run_better(folder: Path, tmp_path: Path) -> None:
    more = ("--max-iterations", 4)
    for name, probe in (("guess", folder / "probe.npy"), ("run", folder / "whole")):
        assert here("ptycho", folder / "scan.cxi", tmp_path / name, *FAST, *more, "--probe", probe) == 0
    assert score(tmp_path / "run/result/object.npz") < score(tmp_path / "guess/result/object.npz")


def test_a_cold_start_needs_no_probe(folder: Path, tmp_path: Path) -> None:
    assert here("ptycho", folder / "scan.cxi", tmp_path / "run", "--threads", 1, "--iterations-after-close", 20) == 0
    assert score(tmp_path / "run/result/object.npz") < 0.06


def killed_and_resumed(folder: Path, run: Path, wait_s: float) -> None:
    """Killed `wait_s` after the run has begun to write, and gone on with until it has finished."""
    args = ("ptycho", folder / "scan.cxi", run, "--probe", folder / "probe.npy", *FAST)
    process = subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "run.json").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert here("resume", run) == 0


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 24))])
def test_killed_and_resumed_gives_the_same_bytes(folder: Path, tmp_path: Path, seed: int) -> None:
    wait_s = float(np.random.default_rng(seed).uniform(0.0, 2.0))
    killed_and_resumed(folder, tmp_path / "cut", wait_s)
    whole, cut = ((run / "result" / "object.npz").read_bytes() for run in (folder / "whole", tmp_path / "cut"))
    assert cut == whole


def test_check_geometry_says_whether_the_geometry_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = ("ptycho", "check-geometry", folder / "scan.cxi", "--threads", 1)
    assert here(*check, "--probe", folder / "probe.npy") == 0
    right = capsys.readouterr().out
    lines = [line for line in right.splitlines() if "as is" in line or "moved" in line]
    assert "fits as well as any" in right and len(lines) == 16
    assert lines[0].endswith("as given") and float(lines[0].split()[1]) == 1.0
    assert here(*check, "--orientation", 5) == 1
    wrong = capsys.readouterr().out
    assert "fit clearly better" in wrong and "--orientation 0" in wrong and "conjugate twin" in wrong
    assert here(*check, "--defocus", "-1e-3") == 1, "a known sign tells the twins apart"
    signed = capsys.readouterr().out
    assert "give --orientation 3" in signed and "opposite defocus" in signed


def test_check_geometry_asks_frames_left_out_where_misfits_are_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scene.scan(150, photons=1e3, seed=2)
    write_scan(tmp_path / "scan.cxi", made)
    np.save(tmp_path / "probe.npy", scene.start_probe(made, off=1.1).modes)
    check = ("ptycho", "check-geometry", tmp_path / "scan.cxi", "--threads", 1, "--probe", tmp_path / "probe.npy")
    assert here(*check) == 0
    said = capsys.readouterr().out
    assert "counting noise" in said and "The geometry as given is the best" in said
    assert here(*check, "--orientation", 1) == 1
    assert "foreseen clearly better with y reversed: give --orientation 0" in capsys.readouterr().out


def test_a_scan_that_lost_frames_still_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = scene.Scan(scene.scan(150, lost=0.1).recipe)
    write_scan(tmp_path / "scan.cxi", made)
    np.save(tmp_path / "probe.npy", scene.start_probe(made).modes)
    words = ("ptycho", tmp_path / "scan.cxi", tmp_path / "run", "--probe", tmp_path / "probe.npy", *FAST)
    assert here(*words, "--lost-frames", "leave-out") == 0
    assert "were never written" in capsys.readouterr().err
    lost = int(made.lost.sum())
    with np.load(tmp_path / "run/result/object.npz", allow_pickle=False) as found:
        assert lost > 5 and len(found["positions_px"]) == 150 - lost


def test_bad_frames_are_named_and_left_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gauntlet row 43, for frames."""
    scan = tmp_path / "scan.cxi"
    with h5py.File(folder / "scan.cxi") as old, h5py.File(scan, "w") as new:
        for name in ("entry_1/instrument_1", "entry_1/sample_1"):
            old.copy(name, new.require_group("entry_1"))
        frames = old["entry_1/data_1/data"][()].astype(np.float32)
        frames[7, 3, 3], frames[20] = np.nan, 0
        new["entry_1/data_1/data"] = frames
        new["entry_1/data_1/translation"] = old["entry_1/data_1/translation"][()]
    assert here("ptycho", scan, tmp_path / "run", "--probe", folder / "probe.npy", *FAST) == 0
    said = capsys.readouterr().err
    assert "2 frames are not finite, negative or empty and were set aside: frame 7, frame 20." in said
    assert score(tmp_path / "run/result/object.npz") < 0.06


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["absent.cxi", "RUN"], ["absent.cxi", "Check the spelling"]),
        (["SCAN", "RUN", "--probe", "absent.npy"], ["absent.npy", "Check the spelling"]),
        (["SCAN", "RUN", "--modes", "0"], ["--modes is 0", "Give 1 to 10"]),
        (["SCAN", "RUN", "--solver", "dm", "--noise", "poisson"], ["--solver dm", "Use --solver auto"]),
        (["SCAN", "RUN", "--probe", "PROBE", "--defocus", "1e-3"], ["--defocus is for a cold start"]),
        (["SCAN", "RUN", "--positions", "tcp://localhost:1"], ["tcp:// detector", "Drop them"]),
        (["tcp://localhost:1", "RUN"], ["carries no positions", "--positions tcp://HOST:PORT"]),
        (["SCAN", "RUN", "--idle-close", "3s"], ["--idle-close", "Add --watch"]),
        (["SCAN", "RUN", "--max-iterations", "0"], ["--max-iterations is 0", "at least 1"]),
        (["SCAN", "RUN", "--distance", "-1"], ["-1", "distance"]),
        (["PROBE", "RUN"], ["probe.npy"]),
        (["check-geometry", "absent.cxi"], ["absent.cxi", "Check the spelling"]),
    ],
    ids=lambda value: " ".join(value) if len(value) != 1 else None,
)
def test_what_cannot_be_is_refused_in_a_paragraph(
    folder: Path, tmp_path: Path, capsys: Any, args: list[str], words: list[str]
) -> None:
    known = {"SCAN": folder / "scan.cxi", "RUN": tmp_path / "run", "PROBE": folder / "probe.npy"}
    status = main(["ptycho", *(str(known.get(word, word)) for word in args)])
    said = capsys.readouterr().err
    assert status == 2 and all(word in said for word in words), said
    assert "Traceback" not in said and said.strip().count("\n") == 0 and not (tmp_path / "run").exists()


def test_the_benchmarks_own_case_and_score(shared: Path, tmp_path: Path) -> None:
    """A scan that somebody else simulated, begun as that benchmark says, scored by its own script."""
    bench = shared / "bench" / "ptycho"
    case = tmp_path / "case.cxi"
    made = [sys.executable, "-B", str(bench / "generate.py"), str(case), "--N", "64", "--n", "300", "--step", "3"]
    subprocess.run([*made, "--seed", "3"], check=True, capture_output=True, timeout=120)
    start = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); import common; "
        "np.save(sys.argv[3], common.load(sys.argv[2])['probe_init'])"
    )
    probe = tmp_path / "probe.npy"
    subprocess.run(
        [sys.executable, "-B", "-c", start, str(bench), str(case), str(probe)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    done = beamside("ptycho", case, tmp_path / "run", "--probe", probe, "--threads", 1)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out.npz"
    assert beamside("export", tmp_path / "run", "--to", "npz", out).returncode == 0
    scored = subprocess.run(
        [sys.executable, "-B", str(bench / "evaluate.py"), str(case), str(out)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = json.loads(scored.stdout)
    assert found["nrmse"] < 0.06 and found["R"] < 1.1 * found["R_truth"]
    assert np.abs(found["shift"]).max() < 3, "positions and offset are in the benchmark's own pixel frame"
