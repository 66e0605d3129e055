"""Guards that the gauntlet does not list trip in a real run of the real loop, and nothing does in a healthy one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from beamside.denoise.engine import Denoiser
from beamside.errors import GuardStop
from beamside.run.guard import Severity
from tests.denoise.conftest import Ran, drive
from tests.denoise.scene import halves, write_pair


def test_a_healthy_run_trips_nothing_and_publishes(healthy: Ran) -> None:
    assert healthy.outcome is not None and healthy.outcome.exit_code == 0
    assert healthy.findings == [] and healthy.latest()["verdict"] == "trusted"
    assert (healthy.folder / "result" / "model.safetensors").is_file()


def test_a_copy_as_partner_is_suspect(pairs: Path, tmp_path: Path) -> None:
    """A loader of the field returned the input as target; the network then learns to do nothing."""
    shutil.copytree(pairs, tmp_path / "in")
    shutil.copy(tmp_path / "in" / "mic000_EVN.mrc", tmp_path / "in" / "mic000_ODD.mrc")
    ran = drive(tmp_path / "in", tmp_path / "run", steps=20)
    assert "pairs.independent" in ran.names and ran.latest()["verdict"] == "suspect"


def test_a_micrograph_with_nan_is_set_aside_and_named(pairs: Path, tmp_path: Path) -> None:
    """Gauntlet row 43, for a half of a pair."""
    shutil.copytree(pairs, tmp_path / "in")
    pair = halves(99)
    pair[1, 5, 7] = np.nan
    write_pair(tmp_path / "in", "bad", pair)
    ran = drive(tmp_path / "in", tmp_path / "run")
    (found,) = ran.findings
    assert found.guard == "input.finite" and "bad_EVN.mrc" in found.saw
    assert ran.outcome is not None and ran.outcome.exit_code == 0 and ran.latest()["verdict"] == "trusted"


def test_a_run_that_blows_up_stops(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(GuardStop, match=r"loss\.diverged"):
        drive(pairs, tmp_path / "run", learning_rate=30.0)


def test_guards_say_what_a_person_needs() -> None:
    for guard in Denoiser.guards:
        assert guard.remedy.endswith(".") and guard.bound and guard.bound_origin and guard.statistic
        assert guard.severity in set(Severity)
    assert len({guard.name for guard in Denoiser.guards}) == len(Denoiser.guards)
