"""Guards that the gauntlet does not list trip in a real run of the real loop, and nothing does in a healthy one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from beamside.denoise.apart import lost
from beamside.denoise.engine import Denoiser, Published
from beamside.denoise.micrograph import is_held_out
from beamside.errors import GuardStop
from beamside.run.guard import Finding, Severity
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


def test_a_micrograph_on_which_the_model_is_worse_than_a_blur_is_named(tmp_path: Path) -> None:
    """Both of its images carry the detector's own grain: less than `pairs.independent` sees, and hidden in the mean."""
    names = [f"mic{number:03d}" for number in range(60)]
    held_out = [number for number, name in enumerate(names) if is_held_out(f"{name}_EVN.mrc")][:4]
    training = [number for number, name in enumerate(names) if not is_held_out(f"{name}_EVN.mrc")][:4]
    for number in held_out + training:
        write_pair(tmp_path / "in", names[number], halves(number, 320, 0.5))
    rng = np.random.default_rng(1)
    grain, noise = 1.75 * rng.standard_normal((320, 320)), 2.5 * rng.standard_normal((2, 320, 320))
    write_pair(tmp_path / "in", names[held_out[1]], (100 + grain + noise).astype(np.float32))
    ran = drive(tmp_path / "in", tmp_path / "run", steps=90)
    (found,) = ran.findings
    assert found.guard == "score.each" and list(found.values["items"]) == [f"{names[held_out[1]]}_EVN.mrc"]
    assert "1 of 4 micrographs held out" in found.saw and ran.latest()["verdict"] == "trusted"


def test_few_lost_micrographs_are_noted_once_the_run_has_finished() -> None:
    guards = {guard.name: guard for guard in Denoiser.guards}
    published = Published(b"", 10, 0.5, 1, ("a",), 4)

    def said(**state: object) -> list[Finding]:
        engine = SimpleNamespace(**{"published": published, "finished": True, **state})
        found = [guards[name].check(engine) for name in ("score.each", "score.most")]
        return [each for each in found if each is not None]

    (note,) = said()
    assert note.severity == Severity.NOTE and "1 of 4 micrographs held out (a)" in note.saw
    assert not said(finished=False) and not said(published=None) and not said(published=replace(published, lost=()))
    (much,) = said(published=replace(published, lost=("a", "b")))
    assert much.severity == Severity.SUSPECT and much.values["items"] == ["a", "b"]


def test_a_micrograph_is_lost_when_its_crops_agree_that_it_is() -> None:
    rng = np.random.default_rng(0)
    keys = [key for key in "abcd" for _ in range(8 if key != "d" else 3)]
    blur = rng.uniform(0.5, 0.9, len(keys))
    by = {"a": -0.01, "b": 0.01, "c": 0.0, "d": 0.1}
    model = [b + by[key] + 0.005 * rng.standard_normal() for key, b in zip(keys, blur, strict=True)]
    assert lost(keys, model, list(blur)) == ["b"]


def test_guards_say_what_a_person_needs() -> None:
    for guard in Denoiser.guards:
        assert guard.remedy.endswith(".") and guard.bound and guard.bound_origin and guard.statistic
        assert guard.severity in set(Severity)
    assert len({guard.name for guard in Denoiser.guards}) == len(Denoiser.guards)
