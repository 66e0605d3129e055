"""The self-check passes on a sound installation, fails on a wrong one, and an engine that fails ends no other check."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from beamside.cli.main import main
from beamside.doctor import check_classify, check_denoise, check_ptycho, machine, selfcheck
from beamside.doctor.selfcheck import Check
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.scan import Scan, ScanRecipe
from beamside.simulate.volumes import load_volume


@pytest.mark.slow
def test_every_engine_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "ptycho       passed: correlation of the object with the truth is 0.9" in said
    assert "denoise      passed: the smaller gain" in said


def test_one_engine_passes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "CHECKS", {"classify": selfcheck.CHECKS["classify"]})
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "classify     passed: agreement of views within a class is 0." in said
    assert "torch" in said and "free disk" in said and "CPU" in said
    assert said.endswith("Sound: every engine finds the truth that it was given.\n")


def test_a_damaged_installation_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One bit of the shipped model: what a broken disk or download leaves."""
    damaged = bytearray(check_denoise.PRIOR.read_bytes())
    damaged[-100] ^= 1
    (tmp_path / "prior.safetensors").write_bytes(damaged)
    monkeypatch.setattr(check_denoise, "PRIOR", tmp_path / "prior.safetensors")
    monkeypatch.setattr(selfcheck, "CHECKS", {"denoise": selfcheck.CHECKS["denoise"]})
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "denoise      FAILED: failed with FormatError" in said and "the model is damaged" in said
    assert "NOT SOUND: do not use denoise here." in said


def test_an_engine_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scan runs the other way on one axis."""
    original = check_ptycho.batch_of

    def reversed_axis(made: Scan) -> Any:
        found = original(made)
        y, x = np.asarray(found.columns["position_m"]).T
        return replace(found, columns={**found.columns, "position_m": np.stack([y, x.min() + x.max() - x], 1)})

    monkeypatch.setattr(check_ptycho, "batch_of", reversed_axis)
    found = check_ptycho.check()
    assert not found.passed, found


def test_a_wrong_engine_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, broken = ModuleType("wrong"), ModuleType("broken")
    wrong.check = lambda: Check("a share", 0.5, 0.62)  # type: ignore[attr-defined]
    broken.check = lambda: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wrong", wrong)
    monkeypatch.setitem(sys.modules, "broken", broken)
    monkeypatch.setattr(selfcheck, "CHECKS", {"one": "wrong", "two": "broken", "three": "wrong"})
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert said.count("FAILED") == 3 and "failed with ZeroDivisionError" in said
    assert "NOT SOUND: do not use one or two or three here." in said and "Sound:" not in said
    assert not Check("", float("nan"), 0.0).passed


def test_agreement_tells_views_apart() -> None:
    volume, _ = load_volume("walk", 16, 8.0, 0.0)
    made = Session(volume, Recipe(16, 8.0, 2000, seed=2))
    chance = np.random.default_rng(0).integers(1, 13, 2000)
    assert check_classify.view_agreement(made, chance) == pytest.approx(0.5, abs=0.02)
    by_tilt = (np.abs(np.cos(np.deg2rad(made.truth.tilt_deg))) > 0.9).astype(np.int64)
    assert check_classify.view_agreement(made, by_tilt) > 0.85
    assert np.isnan(check_classify.view_agreement(made, np.zeros(2000, dtype=np.int64)))


def test_likeness_forgives_a_ramp_and_a_shift_and_nothing_else() -> None:
    recipe = ScanRecipe(frames=9, frame_px=64, step_px=8.0)
    truth = Scan(recipe).object
    other = Scan(replace(recipe, seed=2)).object[10:60, 12:62]
    ramp = np.exp(1j * (0.05 * np.arange(50)[:, None] - 0.02 * np.arange(50)[None] + 0.4))
    where = np.ones((50, 50), dtype=bool)
    assert check_ptycho.likeness(truth, 2 * ramp * truth[12:62, 11:61], (10, 12), where) == pytest.approx(1, abs=1e-5)
    assert check_ptycho.likeness(truth, other, (10, 12), where) < 0.5
    where[20:] = False
    spoilt = np.array(truth[10:60, 12:62])
    spoilt[21:] = 0
    assert check_ptycho.likeness(truth, spoilt, (10, 12), where) == pytest.approx(1, abs=1e-5)


def test_a_full_disk_and_an_absent_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 2**20)
    assert main(["doctor", "--no-check"]) == 1
    assert "too little" in capsys.readouterr().out
    assert main(["doctor", "--no-check", "--folder", "/no/such"]) == 2
    assert "no such folder" in capsys.readouterr().err
