"""Every guard of the engine trips on the defect it exists for, in a real run of the real loop, and on nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from beamside.denoise import gate, model_file
from beamside.denoise.engine import Denoiser
from beamside.denoise.gate import Score
from beamside.denoise.loss import Tally
from beamside.denoise.networks import Plain
from beamside.errors import GuardStop, InputError
from beamside.run.guard import Severity
from tests.denoise.conftest import Ran, drive
from tests.denoise.scene import halves, write_pair, write_session

SEED_POSITIVE = 2
"""A seed whose untrained network does not invert its input, which is a finding of its own."""


def test_a_healthy_run_trips_nothing_and_publishes(healthy: Ran) -> None:
    assert healthy.outcome is not None and healthy.outcome.exit_code == 0
    assert healthy.findings == [] and healthy.latest()["verdict"] == "trusted"
    assert (healthy.folder / "result" / "model.safetensors").is_file()


def scrambled(weights: Any) -> Any:
    """Values of (out, in, kH, kW) put where (kH, kW, in, out) wants them, element by element."""
    return {
        name: array.transpose(2, 3, 1, 0).reshape(array.shape).copy() if array.ndim == 4 else array
        for name, array in weights.items()
    }


def test_scrambled_weights_stop(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 33: weights are saved in another layout than they are read in."""
    original = model_file.weights_of
    monkeypatch.setattr(model_file, "weights_of", lambda network: scrambled(original(network)))
    with pytest.raises(GuardStop, match=r"weights\.roundtrip.*weights\.canary"):
        drive(pairs, tmp_path / "run")
    assert any((tmp_path / "run" / "dumps").iterdir())
    assert not list((tmp_path / "run").rglob("model.safetensors"))


def test_another_score_in_a_fresh_process_stops(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 33, where the stored answer was made from the wrong weights too."""
    original = model_file.weights_of

    def off(network: Any) -> Any:
        weights = original(network)
        weights["layers.2.bias"] = weights["layers.2.bias"] + np.float32(0.01)
        return weights

    monkeypatch.setattr(model_file, "weights_of", off)
    monkeypatch.setattr(model_file, "answer", answer_of(off))
    with pytest.raises(GuardStop, match=r"weights\.roundtrip.*fresh process"):
        drive(pairs, tmp_path / "run")


def answer_of(weights_of: Any) -> Any:
    """The probe's answer from what is stored instead of what was trained."""
    original = model_file.answer

    def answer(network: Any, patch: Any) -> Any:
        twin = model_file.build(network.name)
        twin.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in weights_of(network).items()})
        return original(twin, patch)

    return answer


def test_a_loss_that_is_a_mean_of_batch_means_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 35: each batch counts alike, whatever it holds; those of border crops are smaller."""

    def add(self: Tally, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        self.squared += float((output.detach().double() - target.double()).square().mean())
        self.pixels += 1.0

    monkeypatch.setattr(Tally, "add", add)
    write_session(tmp_path / "in", 3, side=320)
    with pytest.raises(GuardStop, match=r"loss\.independent"):
        drive(tmp_path / "in", tmp_path / "run")


def test_a_false_loss_chooses_no_model(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 36: the loss looks best before training; no model is published by it."""
    original = gate.evaluate

    def false(network: Any, examples: Any) -> Score:
        true = original(network, examples)
        return Score(true.loss * 0.01, true.correlation, true.brightness, true.pixels)

    monkeypatch.setattr(gate, "evaluate", false)
    with pytest.raises(GuardStop, match=r"loss\.independent"):
        drive(pairs, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("model.safetensors"))


def test_a_model_that_never_learns_is_suspect(pairs: Path, tmp_path: Path) -> None:
    """Gauntlet row 36: the untrained weights are all there is."""
    ran = drive(pairs, tmp_path / "run", learning_rate=1e-9, seed=SEED_POSITIVE)
    assert "model.learned" in ran.names and ran.latest()["verdict"] == "suspect"
    assert not list((tmp_path / "run").rglob("model.safetensors"))


def with_output(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Networks whose output is changed while they are used, not while they learn."""
    original = Plain.forward

    def forward(self: Plain, x: Tensor) -> Tensor:
        y = original(self, x)
        return y if self.training else change(y)

    monkeypatch.setattr(Plain, "forward", forward)


def test_an_inverted_output_stops(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 37."""
    with_output(monkeypatch, lambda y: -y)
    with pytest.raises(GuardStop, match=r"output\.correlation"):
        drive(pairs, tmp_path / "run")


def test_a_brightness_offset_is_suspect(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 38: -0.32 standard deviations."""
    with_output(monkeypatch, lambda y: y - 0.32)
    ran = drive(pairs, tmp_path / "run")
    assert "output.brightness" in ran.names and ran.latest()["verdict"] == "suspect"
    assert not list((tmp_path / "run").rglob("model.safetensors"))


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    """Gauntlet row 39: 29,913 input patches and 7,355 target patches."""
    (tmp_path / "in").mkdir()
    for name, count in (("input", 299), ("target", 73)):
        np.zeros((count, 64, 64), np.float32).tofile(tmp_path / "in" / f"p_{name}.bin")
    with pytest.raises(InputError, match=r"pairs\.match.*299.*73"):
        drive(tmp_path / "in", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_score_that_gets_worse_is_suspect(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 40: from some step on, training walks away from what it had learned."""
    original = Denoiser._train

    def worsening(self: Denoiser) -> None:
        original(self)
        if self.trainer.steps > 40:
            for parameter in self.trainer.average.parameters():
                parameter.data.mul_(1.06)

    monkeypatch.setattr(Denoiser, "_train", worsening)
    monkeypatch.setattr("beamside.denoise.training.Trainer._follow", following(40))
    ran = drive(pairs, tmp_path / "run", steps=160, first_round_steps=20)
    assert "score.trend" in ran.names and ran.latest()["verdict"] == "suspect"


def following(last: int) -> Any:
    """The average follows the weights up to a step, and then is left alone."""
    from beamside.denoise.training import Trainer

    original = Trainer._follow

    def follow(self: Trainer) -> None:
        if self.steps <= last:
            original(self)

    return follow


def test_displaced_halves_are_suspect_and_named(tmp_path: Path) -> None:
    """Gauntlet row 42: 3 px in one micrograph, 10 px in another, which is set aside."""
    for number in range(4):
        pair = halves(number, 256)
        moved = {1: 3, 2: 10}.get(number, 0)
        # A displacement, not a wrapped one: both are cut from the middle.
        pair = np.stack([pair[0, 16:-16, 16:-16], pair[1, 16 - moved : 240 - moved, 16:-16]])
        write_pair(tmp_path / "in", f"mic{number}", pair)
    ran = drive(tmp_path / "in", tmp_path / "run", steps=20)
    (found,) = [finding for finding in ran.findings if finding.guard == "pairs.aligned"]
    assert found.severity is Severity.SUSPECT
    measured = found.values["displacements_px"]
    assert set(measured) == {"mic1_EVN.mrc", "mic2_EVN.mrc"}
    assert measured["mic1_EVN.mrc"] == [pytest.approx(3, abs=0.5), pytest.approx(0, abs=0.5), False]
    assert measured["mic2_EVN.mrc"] == [pytest.approx(10, abs=0.5), pytest.approx(0, abs=0.5), True]
    assert "mic1_EVN.mrc by (+" in found.saw and "drifted: 1 micrograph (mic2_EVN.mrc by " in found.saw
    assert ran.latest()["verdict"] == "suspect"


def test_a_copy_as_partner_is_suspect(pairs: Path, tmp_path: Path) -> None:
    """A loader of the field returned the input as target; the network then learns to do nothing."""
    shutil.copytree(pairs, tmp_path / "in")
    shutil.copy(tmp_path / "in" / "mic000_EVN.mrc", tmp_path / "in" / "mic000_ODD.mrc")
    ran = drive(tmp_path / "in", tmp_path / "run", steps=20)
    assert "pairs.independent" in ran.names and ran.latest()["verdict"] == "suspect"


def test_a_micrograph_with_nan_is_set_aside_and_named(pairs: Path, tmp_path: Path) -> None:
    """Gauntlet row 43."""
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
