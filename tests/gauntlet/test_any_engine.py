"""Gauntlet rows 43 to 47, which no engine may get wrong; shown on the classification."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from beamside.formats.mrc import read_map, write_stack
from beamside.run import atomic
from beamside.run.ledger import Ledger
from beamside.run.store import Store
from beamside.simulate.scan_files import write_scan
from beamside.sources.particles import ParticleFolder
from tests.gauntlet import ptycho_drive
from tests.gauntlet.drive import ALWAYS, FAST, assert_refused, result_bytes, run, verdict, write_session
from tests.ptycho import scene

Capture = pytest.CaptureFixture[str]


def test_row_43_nan_in_an_image_sets_it_aside(star: Path, tmp_path: Path, capsys: Capture) -> None:
    pixels, _ = read_map(star.with_suffix(".mrcs"))
    pixels[7, 3, 3], pixels[11, 0, 0], pixels[20] = np.nan, np.inf, 1.5
    write_stack(star.with_suffix(".mrcs"), pixels, 8.0)
    ran = run(capsys, star, tmp_path / "run")
    assert ran.status == 0
    (sentence,) = ran.named("input.finite")
    names = ", ".join(f"{i + 1:06d}@particles.mrcs" for i in (7, 11, 20))
    assert f"3 images are not finite or all one value and were set aside: {names}." in sentence
    assert "Extract these particles again" in ran.said
    averages = [path for path in (ran.folder / "result").glob("*classes.mrcs")]
    assert np.isfinite(read_map(averages[0])[0]).all()


def test_row_44_a_file_that_is_still_being_written_is_waited_for(star: Path, tmp_path: Path, capsys: Capture) -> None:
    """The stack grows in pieces while the run watches, and the table appears before it is whole."""
    folder = tmp_path / "watched"
    folder.mkdir()
    whole, table = star.with_suffix(".mrcs").read_bytes(), star.read_bytes()

    def microscope() -> None:
        for share in (0.3, 0.6, 1.0):
            (folder / "particles.mrcs").write_bytes(whole[: int(share * len(whole))])
            (folder / "particles.star").write_bytes(table[: int((0.4 + 0.6 * share) * len(table))])
            time.sleep(0.7)

    writer = threading.Thread(target=microscope)
    writer.start()
    ran = run(capsys, folder, tmp_path / "run", "--watch", "--idle-close", "3s", "--settle", "0.5s")
    writer.join()
    assert ran.status == 0 and ran.findings == []
    with Ledger(ran.folder / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.items() == ledger.in_batches() == 240, "never a partial item"
    whole_run = run(capsys, star, tmp_path / "whole")
    assert whole_run.status == 0 and result_bytes(ran.folder) == result_bytes(whole_run.folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_row_44_pauses_of_ninety_seconds(star: Path, tmp_path: Path, capsys: Capture) -> None:
    """In real time: the stack stops within an image, and the table within a row."""
    folder = tmp_path / "watched"
    folder.mkdir()
    whole, table = star.with_suffix(".mrcs").read_bytes(), star.read_bytes()

    def microscope() -> None:
        (folder / "particles.mrcs").write_bytes(whole[: len(whole) // 2 + 5])
        (folder / "particles.star").write_bytes(table[:-40])
        time.sleep(90)
        (folder / "particles.mrcs").write_bytes(whole)
        (folder / "particles.star").write_bytes(table)

    writer = threading.Thread(target=microscope)
    writer.start()
    ran = run(capsys, folder, tmp_path / "run", "--watch", "--idle-close", "120s")
    writer.join()
    assert ran.status == 0 and {name for name, _, _ in ran.findings} == {"input.settled"}, ran.said
    assert verdict(ran.folder) == "suspect", "it lacked something for more than a minute, and that is said"
    with Ledger(ran.folder / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.items() == ledger.in_batches() == 240, "never a partial item"
    assert run(capsys, star, tmp_path / "whole").status == 0
    assert result_bytes(ran.folder) == result_bytes(tmp_path / "whole")


def test_row_44_a_file_that_never_becomes_whole_is_named(
    star: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minute of patience is cut short. What the file lacks is said, and nothing of it is in the result."""
    write_session(tmp_path / "other", seed=4, count=60)
    whole = (tmp_path / "other" / "particles.mrcs").read_bytes()
    (star.parent / "later.mrcs").write_bytes(whole[: len(whole) // 2])
    text = (tmp_path / "other" / "particles.star").read_text().replace("particles.mrcs", "later.mrcs")
    (star.parent / "zz.star").write_text(text)
    defaults = ParticleFolder.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience_s", 1.0)
    ran = run(capsys, star.parent, tmp_path / "run", "--watch", "--idle-close", "3s", "--settle", "0.3s")
    assert ran.status == 0 and verdict(ran.folder) == "suspect"
    (sentence,) = ran.named("input.settled")
    assert "later.mrcs" in sentence and "Its particles are waited for" in sentence and sentence in ran.said
    with Ledger(ran.folder / "ledger.sqlite", read_only=True) as ledger:
        assert {record.key.partition("@")[2] for record in ledger.records()} == {"particles.mrcs"}


def test_row_45_a_chunk_that_reads_as_zeros_is_refused(star: Path, tmp_path: Path, capsys: Capture) -> None:
    """files.checksum: a checkpoint with a hole is not taken; the one before it is, and the result is the same."""
    assert run(capsys, star, tmp_path / "run", "--first-batch", "120").status == 0
    before = result_bytes(tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "state.safetensors"
    raw = bytearray(newest.read_bytes())
    middle = len(raw) // 2
    assert any(raw[middle : middle + 4096])
    raw[middle : middle + 4096] = bytes(4096)
    newest.write_bytes(bytes(raw))
    found, damaged = Store(tmp_path / "run").newest_valid_checkpoint()
    assert found is not None and found.step < int(newest.parent.name)
    assert "does not agree with its checksum" in damaged[0] and "An older one is used." in damaged[0]
    atomic.remove(tmp_path / "run" / "result")
    from beamside.cli.main import main

    assert main(["resume", str(tmp_path / "run")]) == 0
    assert result_bytes(tmp_path / "run") == before


def write_with_holes(path: Path, name: str, never: tuple[int, ...], deep: int) -> None:
    """The dataset again in chunks of `deep` rows, of which those that begin at `never` are not written."""
    with h5py.File(path, "r+") as file:
        values = file[name][...]
        del file[name]
        made = file.create_dataset(name, values.shape, values.dtype, chunks=(deep, *values.shape[1:]))
        for first in range(0, len(values), deep):
            if first not in never:
                made[first : first + deep] = values[first : first + deep]


@pytest.mark.parametrize(
    ("dataset", "never", "deep", "lost", "what"),
    [
        ("entry_1/data_1/data", (40, 41, 90), 1, [40, 41, 90], "were never written"),
        (
            "entry_1/sample_1/geometry_1/translation",
            (40,),
            4,
            [40, 41, 42, 43],
            "have a position that was never written",
        ),
    ],
    ids=["frames", "positions"],
)
def test_row_45_chunks_of_a_scan_that_were_never_written(
    tmp_path: Path, capsys: Capture, dataset: str, never: tuple[int, ...], deep: int, lost: list[int], what: str
) -> None:
    """docs/decisions/0070: the file is refused; who knows of the loss leaves those frames out, and it stays suspect."""
    write_scan(tmp_path / "scan.cxi", scene.scan(120))
    write_with_holes(tmp_path / "scan.cxi", dataset, never, deep)
    refused = ptycho_drive.run(capsys, tmp_path / "scan.cxi", tmp_path / "run")
    assert_refused(refused, f"files.checksum: {len(lost)} frames {what} and would read as zeros: {lost[0]}, ")
    assert "scan.cxi" in refused.said and "--lost-frames leave-out" in refused.said
    going_on = ("--first-frames", 60, "--lost-frames", "leave-out")
    ran = ptycho_drive.run(capsys, tmp_path / "scan.cxi", tmp_path / "run", *going_on)
    assert ran.status == 0 and verdict(ran.folder) == "suspect"
    (sentence,) = ran.named("files.checksum")
    assert f"{len(lost)} frames {what} and would read as zeros: {', '.join(map(str, lost))}." in sentence
    assert "left out of the reconstruction" in sentence and sentence in ran.said
    with Ledger(ran.folder / "ledger.sqlite", read_only=True) as ledger:
        came = {record.key for record in ledger.records()}
    assert came == {f"frame {n}" for n in range(120)} - {f"frame {n}" for n in lost}


def test_row_46_two_processes_in_one_directory(star: Path, tmp_path: Path, capsys: Capture) -> None:
    """run.lock, through the command line: the second exits within a second of its start and names the holder."""
    folder = tmp_path / "run"
    args = ["classify", str(star.parent), str(folder), "--classes", "4", *FAST, *ALWAYS]
    command = [sys.executable, "-m", "beamside", *args, "--watch", "--idle-close", "1h", "--settle", "0.2s"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        try:
            deadline = time.monotonic() + 60
            while not (folder / "ledger.sqlite").exists():
                assert time.monotonic() < deadline and first.poll() is None
                time.sleep(0.05)
            from beamside.cli.main import main

            assert main(["resume", str(folder)]) == 2
            assert f"the run is held by process {first.pid} on " in (said := capsys.readouterr().err)
            assert "end it with 'beamside stop'" in said
            second = subprocess.run([*command[:3], "resume", str(folder)], capture_output=True, text=True, timeout=60)
            assert second.returncode == 2 and f"held by process {first.pid}" in second.stderr
            loaded = "import sys; from beamside.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
            again = subprocess.run([sys.executable, "-c", loaded, *args], capture_output=True, text=True, timeout=60)
            assert again.stdout == "2 False\n", "a second beginning ends before anything heavy is loaded"
            assert f"held by process {first.pid}" in again.stderr
        finally:
            first.kill()
    assert main(["status", str(folder)]) == 0
    assert "killed; 'beamside resume' goes on with it" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["<", ">"])
def test_row_47_unsigned_16_bit_stays_unsigned(star: Path, tmp_path: Path, capsys: Capture, order: str) -> None:
    """The same counts as mode 6 and as float32 give the same run, bit for bit; wrapped ones would not."""
    pixels, _ = read_map(star.with_suffix(".mrcs"))
    low, high = float(pixels.min()), float(pixels.max())
    counts = np.rint((pixels - low) / (high - low) * 65535).astype(np.uint16)
    assert (counts > 32767).any()
    results = []
    for name, stored in (("float", counts.astype(np.float32)), ("unsigned", counts)):
        write_stack(star.with_suffix(".mrcs"), stored, 8.0)
        if name == "unsigned" and order == ">":
            big_endian(star.with_suffix(".mrcs"), counts)
        assert run(capsys, star, tmp_path / name).status == 0
        results.append(result_bytes(tmp_path / name))
    assert results[0] == results[1]


def big_endian(path: Path, counts: np.ndarray) -> None:
    """The file again with every word turned."""
    raw = bytearray(path.read_bytes()[:1024])
    words = np.frombuffer(bytes(raw), dtype="<u4").astype(">u4").tobytes()
    head = bytearray(words)
    head[104:108], head[208:212] = raw[104:108], raw[208:212]
    head[212:216] = b"\x11\x11\0\0"
    head[224:1024] = raw[224:1024]
    path.write_bytes(bytes(head) + counts.astype(">u2").tobytes())
    assert os.path.getsize(path) == 1024 + counts.nbytes
