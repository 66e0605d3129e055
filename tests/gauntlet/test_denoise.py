"""Gauntlet rows 33 to 42: every defect put into a real training, and the answer it gets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from beamside.cli import denoise as verb
from beamside.cli.main import main
from beamside.denoise import gate, model_file, witness
from beamside.denoise.engine import Denoiser
from beamside.denoise.gate import Score
from beamside.denoise.loss import Tally
from beamside.denoise.networks import Plain
from beamside.denoise.training import Trainer
from tests.denoise.scene import halves, write_pair, write_session
from tests.gauntlet.denoise_drive import train
from tests.gauntlet.drive import Ran, assert_refused, assert_stopped, verdict

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four healthy pairs; not to be changed."""
    return write_session(tmp_path_factory.mktemp("denoise") / "in", 4)


@pytest.fixture(scope="module")
def model(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a healthy training."""
    from tests.gauntlet.denoise_drive import arguments

    folder = tmp_path_factory.mktemp("healthy") / "run"
    assert main(arguments(pairs, folder)) == 0
    return folder / "result" / "model.safetensors"


def models(folder: Path) -> list[Path]:
    """Every model that a run has published."""
    return list(folder.rglob("model.safetensors"))


def assert_suspect(ran: Ran, guard: str, says: str) -> None:
    """The run went on, said so, and every snapshot from the finding on carries it, the result too."""
    assert ran.status == 0 and verdict(ran.folder) == "suspect", ran.said
    sentences = ran.named(guard)
    assert sentences and all(re.search(says, text) for text in sentences), ran.findings
    assert sentences[0] in ran.said
    for place in ("result/verdict.json", f"snapshots/{newest(ran.folder)}/snapshot.json"):
        judged = json.loads((ran.folder / place).read_text())
        assert judged["verdict"] == "suspect" and guard in {found["guard"] for found in judged["findings"]}


def newest(folder: Path) -> str:
    return sorted(path.name for path in (folder / "snapshots").iterdir())[-1]


# ---- weights


def scrambled(weights: Any) -> Any:
    """Values of (out, in, kH, kW) put where (kH, kW, in, out) wants them, element by element."""
    return {
        name: array.transpose(2, 3, 1, 0).reshape(array.shape).copy() if array.ndim == 4 else array
        for name, array in weights.items()
    }


def test_row_33_weights_in_another_layout(pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    original = model_file.weights_of
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "weights_of", lambda network: scrambled(original(network)))
        ran = train(capsys, pairs, tmp_path / "run")
    says = r"a fresh process could not use the saved model: .*weights\.canary.*do not use the saved model"
    assert_stopped(ran, "weights.roundtrip", says, capsys)
    assert models(ran.folder) == []


def test_row_33_a_stored_answer_that_was_made_from_the_wrong_weights(
    pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    """The canary agrees with the file, so only the fresh process's score tells."""
    original, true_answer = model_file.weights_of, model_file.answer

    def off(network: Any) -> Any:
        weights = original(network)
        weights["layers.2.bias"] = weights["layers.2.bias"] + np.float32(0.01)
        return weights

    def answer(network: Any, patch: Any) -> Any:
        twin = model_file.build(network.name)
        twin.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in off(network).items()})
        return true_answer(twin, patch)

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "weights_of", off)
        patch.setattr(model_file, "answer", answer)
        # A process that is forked from this one would have these patches too.
        patch.setattr(witness, "present", lambda: None)
        ran = train(capsys, pairs, tmp_path / "run")
    assert_stopped(ran, "weights.roundtrip", r"a fresh process .* finds the loss \d\.\d+, this one \d\.\d+", capsys)
    assert models(ran.folder) == []


def transposing(patch: Patch) -> None:
    """Square kernels are exchanged on the way in."""
    original = model_file.load_weights

    def load(network: Any, weights: Any, *, where: str) -> None:
        turned = {
            name: array.swapaxes(0, 1) if array.ndim == 4 and array.shape[0] == array.shape[1] else array
            for name, array in weights.items()
        }
        original(network, turned, where=where)

    patch.setattr(model_file, "load_weights", load)


def uses(model: Path, pairs: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Every verb that reads a model."""
    begin = ["denoise", "train", str(pairs), str(tmp_path / "run"), "--network", "seed3", "--steps", "20", "--quiet"]
    return {
        "apply": ["denoise", "apply", "--model", str(model), str(pairs), str(tmp_path / "out")],
        "evaluate": ["denoise", "evaluate", "--model", str(model), str(pairs)],
        "train": [*begin, "--threads", "1", "--init", str(model)],
    }


def assert_all_refuse(model: Path, pairs: Path, tmp_path: Path, capsys: Capture, says: str) -> None:
    """Status 2, the guard, the file and the remedy; nothing is written."""
    for name, argv in uses(model, pairs, tmp_path).items():
        capsys.readouterr()
        assert main(argv) == 2, name
        said = capsys.readouterr().err
        assert re.search(says, said) and "Use another copy of this file" in said, said
        assert str(model) in said or (name == "train" and "--init" in said), said
        assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


def test_row_34_a_loader_that_transposes(
    model: Path, pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    says = r"weights\.canary: the weights answer the stored probe \S+ standard deviations off .*another order"
    with monkeypatch.context() as patch:
        transposing(patch)
        assert_all_refuse(model, pairs, tmp_path, capsys, says)
    assert main(uses(model, pairs, tmp_path)["apply"]) == 0, "the file is right"


@pytest.mark.parametrize("how", ["a bit in the weights", "a bit in the header", "a bit in the card", "cut", "empty"])
def test_row_41_a_damaged_model(model: Path, pairs: Path, tmp_path: Path, capsys: Capture, how: str) -> None:
    raw = bytearray(model.read_bytes())
    places = {
        "a bit in the weights": len(raw) - 400,
        "a bit in the header": raw.index(b'"shape"') + 9,
        "a bit in the card": 300,
    }
    if how in places:
        raw[places[how]] ^= 0x04
    else:
        del raw[0 if how == "empty" else len(raw) // 2 :]
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bytes(raw))
    assert_all_refuse(damaged, pairs, tmp_path, capsys, r"files\.checksum: the model is damaged: ")


# ---- losses and scores


def test_row_35_a_mean_of_batch_means(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """Each batch counts alike, whatever it holds; the last one, and those of border crops, are smaller."""

    def add(self: Tally, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        self.squared += float((output.detach().double() - target.double()).square().mean())
        self.pixels += 1.0

    write_session(tmp_path / "in", 3, side=320)
    with monkeypatch.context() as patch:
        patch.setattr(Tally, "add", add)
        ran = train(capsys, tmp_path / "in", tmp_path / "run")
    says = r"the held-out loss is reported as (\S+), an independent pass finds (?!\1)\S+\..*the accounting is wrong"
    assert_stopped(ran, "loss.independent", says, capsys)


def test_row_36_a_false_loss_chooses_no_model(pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    original = gate.evaluate

    def false(network: Any, examples: Any, losses: Any = None) -> Score:
        true = original(network, examples, losses)
        return Score(true.loss * 0.01, true.correlation, true.brightness, true.pixels)

    with monkeypatch.context() as patch:
        patch.setattr(gate, "evaluate", false)
        ran = train(capsys, pairs, tmp_path / "run")
    assert_stopped(ran, "loss.independent", r"an independent pass finds", capsys)
    assert models(ran.folder) == []


def test_row_36_untrained_weights_are_not_kept_as_best(
    pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    """The optimiser's steps do nothing, and nothing that was learned is pretended."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Optimizer, "step", lambda *_, **__: None)
        for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
            patch.setattr(kind, "step", lambda *_, **__: None)
        ran = train(capsys, pairs, tmp_path / "run", "--seed", "2")
    assert_suspect(
        ran, "model.learned", r"no model has passed the gate after 150 optimiser steps: its .*Look at the pair"
    )
    assert models(ran.folder) == []


def used(patch: Patch, change: Change) -> None:
    """Networks whose output is changed while they are used, not while they learn."""
    original = Plain.forward

    def forward(self: Plain, x: Tensor) -> Tensor:
        y = original(self, x)
        return y if self.training else change(y)

    patch.setattr(Plain, "forward", forward)


def test_row_37_output_and_target_are_anticorrelated(
    pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        used(patch, lambda y: -y)
        ran = train(capsys, pairs, tmp_path / "run")
    says = r"output and partner correlate by -0\.\d+.*Check the contrast of the input"
    assert_stopped(ran, "output.correlation", says, capsys)
    assert models(ran.folder) == []


def test_row_38_a_brightness_offset(pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        used(patch, lambda y: y - 0.32)
        ran = train(capsys, pairs, tmp_path / "run")
    assert_suspect(ran, "output.brightness", r"the output's mean is -0\.3\d\d standard deviations off.*Train longer")
    assert models(ran.folder) == []


def test_row_40_the_score_gets_worse(pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """From some step on, training walks away from what it had learned; rounds are short, so that there are several."""
    begin, follow, last = Denoiser._train, Trainer._follow, 40

    def worsening(self: Denoiser) -> None:
        begin(self)
        if self.trainer.steps > last:
            for parameter in self.trainer.average.parameters():
                parameter.data.mul_(1.06)

    def following(self: Trainer) -> None:
        if self.steps <= last:
            follow(self)

    chosen = verb._options
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_options", lambda *a: replace(chosen(*a), first_round_steps=20, round_growth=1.0))
        patch.setattr(Denoiser, "_train", worsening)
        patch.setattr(Trainer, "_follow", following)
        ran = train(capsys, pairs, tmp_path / "run", "--steps", "160")
    says = r"has risen 3 times in a row, from \d\.\d+ to \d\.\d+; the best was 0\.\d+.*Give more micrographs"
    assert_suspect(ran, "score.trend", says)


# ---- pairs


def test_row_39_files_of_different_length(tmp_path: Path, capsys: Capture) -> None:
    """29,913 input patches and 7,355 target patches, a hundredth of them."""
    (tmp_path / "in").mkdir()
    for name, count in (("input", 299), ("target", 73)):
        np.zeros((count, 64, 64), np.float32).tofile(tmp_path / "in" / f"p_{name}.bin")
    ran = train(capsys, tmp_path / "in", tmp_path / "run", "--patch-size", "64")
    assert_refused(ran, r"pairs\.match.*299.*73")
    assert "p_input.bin" in ran.said and "Export both files again" in ran.said


def test_row_39_halves_of_different_size(tmp_path: Path, capsys: Capture) -> None:
    folder = write_session(tmp_path / "in", 3)
    (folder / "mic001_ODD.mrc").unlink()
    write_pair(tmp_path / "other", "mic001", halves(1, 128))
    (tmp_path / "other" / "mic001_ODD.mrc").rename(folder / "mic001_ODD.mrc")
    ran = train(capsys, folder, tmp_path / "run")
    assert_refused(ran, r"mic001_EVN\.mrc.*pairs\.match: .*192.*128")


def test_row_42_displaced_halves(tmp_path: Path, capsys: Capture) -> None:
    """3 px in one micrograph, 10 px in another, which is set aside."""
    for number in range(4):
        pair = halves(number, 256)
        moved = {1: 3, 2: 10}.get(number, 0)
        # A displacement, not a wrapped one: both are cut from the middle.
        pair = np.stack([pair[0, 16:-16, 16:-16], pair[1, 16 - moved : 240 - moved, 16:-16]])
        write_pair(tmp_path / "in", f"mic{number}", pair)
    ran = train(capsys, tmp_path / "in", tmp_path / "run")
    says = (
        r"displaced \(dy, dx\): 1 micrograph \(mic1_EVN\.mrc by \(\+[23]\.\d, [+-]0\.\d\) px\).*"
        r"drifted: 1 micrograph \(mic2_EVN\.mrc by (9|10)\.\d px\) was set aside.*Align the frames before summing"
    )
    assert_suspect(ran, "pairs.aligned", says)
