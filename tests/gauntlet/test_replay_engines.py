"""What a guard stops in a real ptychographic or denoising run comes again from the dump that the run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from beamside.cli.main import main
from beamside.denoise import gate
from beamside.denoise.gate import Score
from beamside.denoise.networks import Plain
from beamside.run import store
from beamside.simulate.scan_files import write_scan
from tests.denoise.scene import write_session
from tests.gauntlet import ptycho_drive
from tests.gauntlet.denoise_drive import train
from tests.gauntlet.drive import assert_stopped
from tests.ptycho import scene

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan whose zero frequency lies in the centre."""
    path = tmp_path_factory.mktemp("scan") / "scan.cxi"
    write_scan(path, scene.scan(120))
    return path


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four healthy pairs."""
    return write_session(tmp_path_factory.mktemp("halves"), 4)


def inverted(patch: pytest.MonkeyPatch) -> None:
    """Networks give the negative of what they learned while they are used."""
    original = Plain.forward

    def forward(self: Plain, x: Tensor) -> Tensor:
        y: Tensor = original(self, x)
        return y if self.training else -y

    patch.setattr(Plain, "forward", forward)


def flattered(patch: pytest.MonkeyPatch) -> None:
    """The run reports a hundredth of its loss."""
    original = gate.evaluate

    def false(network: Any, examples: Any, losses: Any = None) -> Score:
        true = original(network, examples, losses)
        return Score(true.loss * 0.01, true.correlation, true.brightness, true.pixels)

    patch.setattr(gate, "evaluate", false)


def test_a_zero_frequency_elsewhere_from_the_dump_alone(scan: Path, tmp_path: Path, capsys: Capture) -> None:
    """Row 18. The scan's file is away by the time of the replay."""
    shutil.copy(scan, tmp_path / "scan.cxi")
    ran = ptycho_drive.run(capsys, tmp_path / "scan.cxi", tmp_path / "run", "--dc", "corner")
    (tmp_path / "scan.cxi").unlink()
    assert_stopped(ran, "frames.dc", r"the mean pattern's weight lies", capsys)


def test_frames_that_the_dump_has_no_room_for_come_from_the_scan(
    scan: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(scan, tmp_path / "scan.cxi")
    monkeypatch.setattr(store, "DUMP_LIMIT_BYTES", 10 * 64 * 64 * 2)
    ran = ptycho_drive.run(capsys, tmp_path / "scan.cxi", tmp_path / "run", "--dc", "corner")
    assert_stopped(ran, "frames.dc", r"the mean pattern's weight lies", capsys)
    (tmp_path / "scan.cxi").unlink()
    (dump,) = (ran.folder / "dumps").iterdir()
    assert main(["replay", str(dump)]) == 2
    assert "scan.cxi: there is no such file." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("guard", "spoil", "says"),
    [
        ("output.correlation", inverted, r"output and partner correlate by -0\."),
        ("loss.independent", flattered, r"the held-out loss is reported as"),
    ],
)
def test_a_training_that_was_stopped(
    guard: str, spoil: Any, says: str, halves: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Rows 37 and 35: the scores that the guard saw are part of the state."""
    shutil.copytree(halves, tmp_path / "in")
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch)
        ran = train(capsys, tmp_path / "in", tmp_path / "run")
    shutil.rmtree(tmp_path / "in")
    assert_stopped(ran, guard, says, capsys)
