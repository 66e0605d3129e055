"""`simulate scan`, `publish` and `export` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from beamside.cli.main import main
from beamside.run.engine import Snapshot
from beamside.run.guard import Verdict
from beamside.run.ledger import Ledger
from beamside.run.source import Record
from beamside.run.store import Store, manifest


@pytest.fixture(name="scan")
def _scan(tmp_path: Path) -> Path:
    out = tmp_path / "scan.cxi"
    assert main(["simulate", "scan", str(out), "--n", "40", "--frame", "32", "--lost", "0.05", "--seed", "3"]) == 0
    return out


def test_a_simulated_scan_is_published_and_received(scan: Path, tmp_path: Path) -> None:
    zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
    pytest.importorskip("lz4.block", reason="the extra 'live' is not installed")
    from beamside.sources.live_scan import LiveScan
    from beamside.sources.scan_options import ScanOptions
    from beamside.sources.scans import ScanFile

    context = zmq.Context()
    ports = []
    for _ in range(2):
        socket = context.socket(zmq.PULL)
        ports.append(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        socket.close(linger=0)
    context.destroy(linger=0)
    command = [
        sys.executable,
        "-m",
        "beamside",
        "publish",
        str(scan),
        ports[0],
        "--positions",
        ports[1],
        "--rate",
        "500",
    ]
    publisher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    live = LiveScan(*ports, tmp_path / "spool", patience_s=1.0)
    records: list[Record] = []
    until = time.monotonic() + 30
    while not live.exhausted() and time.monotonic() < until:
        records += live.poll()
        time.sleep(0.02)
    told, _ = publisher.communicate(timeout=30)
    assert publisher.returncode == 0 and f"{len(records)} frames" in told
    file = ScanFile(scan, ScanOptions(lost_frames="leave-out"))
    offline, streamed = file.batch(file.poll()), live.batch(records)
    assert set(streamed.keys) == set(offline.keys)
    order = [offline.keys.index(key) for key in streamed.keys]
    rows = np.arange(len(records))
    assert np.array_equal(streamed.load(rows), offline.load(rows)[order])
    assert np.allclose(streamed.columns["position_m"], offline.columns["position_m"][order], atol=1e-15)
    same = {name: live.header().fields[name] for name in ("frame_px", "detector_mask", "propagation")}
    assert same == {name: file.header().fields[name] for name in same}
    assert live.header().fields["wavelength_m"] == pytest.approx(file.header().fields["wavelength_m"], rel=1e-12)
    live.close()
    file.close()


def test_options_that_are_wrong_are_refused(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(scan), "tcp://127.0.0.1:1", "--positions", "tcp://127.0.0.1:2", "--drop", "3"]) == 2
    assert main(["publish", str(scan) + "x", "tcp://127.0.0.1:1", "--positions", "tcp://127.0.0.1:2"]) == 2
    assert main(["simulate", "scan", str(scan)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["simulate", "scan", str(scan) + ".new", "--source", "1"]) == 2


def snapshot() -> Snapshot:
    rng = np.random.default_rng(1)
    return Snapshot(
        {"object": rng.normal(size=(20, 20)).astype(np.complex64), "probe": np.ones((1, 8, 8), np.complex64),
         "coverage": np.ones((20, 20), np.float32), "positions_px": rng.uniform(0, 12, (2, 2)), "error": np.ones(3)},
        {"frames": {}}, 0.5, "so far",
        {"pixel_size_m": [1e-8, 1e-8], "offset_px": [0, 0], "wavelength_m": 1e-10, "distance_m": 1.0,
         "detector_pixel_m": 1e-4},
    )  # fmt: skip


@pytest.fixture(name="run_dir")
def _run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "RUN"
    folder.mkdir()
    store = Store.create(folder, manifest("ptycho", {}, seed=0, inputs=[]))
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.add([Record("frame 4", "a"), Record("frame 9", "b"), Record("frame 11", "c")])
    ledger.close()
    store.write_snapshot(7, snapshot(), [], Verdict.PROVISIONAL)
    return folder


@pytest.mark.parametrize("form", ["npz", "cxi", "npy"])
def test_export_before_the_end_takes_the_last_snapshot(
    form: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out.{form}"
    assert main(["export", str(run_dir), "--to", form, str(out)]) == 0
    assert "snapshot 000007 (provisional)" in capsys.readouterr().out
    before = out.read_bytes()
    assert main(["export", str(run_dir), "--to", form, str(out)]) == 2
    assert "exists already" in capsys.readouterr().err and out.read_bytes() == before, "it may be the scan itself"
    if form == "npz":
        assert np.array_equal(np.load(out)["object"], snapshot().arrays["object"])
    elif form == "npy":
        assert np.load(out).shape == (1, 8, 8)
    else:
        with h5py.File(out) as file:
            assert file["entry_1/ptychodus/probe_position_indexes"][()].tolist() == [4, 9]


def test_export_after_the_end_copies_the_result(run_dir: Path, tmp_path: Path) -> None:
    from beamside.ptycho.export import write_result

    def exporter(last: Snapshot, records: list[Record], folder: Path) -> None:
        write_result(folder, last, [record.key for record in records])

    records = [Record("frame 4", "a"), Record("frame 9", "b")]
    result = Store(run_dir).write_result(exporter, snapshot(), records, [], Verdict.TRUSTED)
    assert json.loads((result / "verdict.json").read_bytes())["verdict"] == "trusted"
    assert main(["export", str(run_dir), "--to", "cxi", str(tmp_path / "out.cxi")]) == 0
    assert (tmp_path / "out.cxi").read_bytes() == (result / "ptycho.cxi").read_bytes()


def test_export_of_another_kind_of_run_or_of_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "RUN"
    folder.mkdir()
    Store.create(folder, manifest("classify", {}, seed=0, inputs=[]))
    assert main(["export", str(folder), "--to", "npz", str(tmp_path / "o.npz")]) == 2
    assert "is a run of 'classify'" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.mkdir()
    Store.create(bare, manifest("ptycho", {}, seed=0, inputs=[]))
    assert main(["export", str(bare), "--to", "npz", str(tmp_path / "o.npz")]) == 2
    assert "has no snapshot yet" in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()
