"""`beamside denoise train` from the command line: a model at the end, resumed after a kill to the same bytes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from beamside.cli import denoise
from beamside.cli.main import main
from beamside.denoise.export import read_model, write_model
from beamside.denoise.model_file import Card, pack_model
from beamside.denoise.networks import build
from beamside.errors import FormatError, InputError, OptionError
from tests.denoise.scene import PIXEL_A, halves, write_pair, write_session

QUICK = ["--network", "seed3", "--crop", "64", "--batch", "4", "--learning-rate", "0.01", "--init", "none"]


def train(inputs: Path, run_dir: Path, *more: str) -> list[str]:
    return ["denoise", "train", str(inputs), str(run_dir), *QUICK, "--threads", "1", "--quiet", *more]


def test_a_run_leaves_a_model_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = write_session(tmp_path / "in")
    assert main(train(inputs, tmp_path / "run", "--steps", "150")) == 0
    said = capsys.readouterr().out
    assert "verdict trusted" in said and "model.safetensors" in said
    network, card = read_model(tmp_path / "run")
    assert network.name == card.network == "seed3"
    assert card.pixel_size_A == pytest.approx(PIXEL_A) and card.score["loss"] < card.score["blur"]
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["verb"] == "denoise" and manifest["options"]["steps"] == 150
    again = tmp_path / "warm"
    model = tmp_path / "run" / "result" / "model.safetensors"
    arguments = train(inputs, again, "--steps", "20")
    arguments[arguments.index("none")] = str(model)
    assert main(arguments) == 0
    assert any(str(model) == entry["path"] for entry in json.loads((again / "run.json").read_text())["inputs"])


def test_minutes_end_a_run(tmp_path: Path) -> None:
    inputs = write_session(tmp_path / "in", 4)
    assert main(train(inputs, tmp_path / "run", "--max-minutes", "0.02")) == 0
    assert (tmp_path / "run" / "result" / "last.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    inputs = write_session(tmp_path / "in")
    arguments = train(inputs, tmp_path / "whole", "--steps", "600")
    assert main(arguments) == 0
    command = [sys.executable, "-m", "beamside", *train(inputs, tmp_path / "cut", "--steps", "600")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not list((tmp_path / "cut" / "checkpoints").glob("0*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "result").exists()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    whole, cut = (tmp_path / name / "result" for name in ("whole", "cut"))
    for name in ("model.safetensors", "last.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


@pytest.mark.slow
def test_micrographs_that_arrive_during_training_join_it(tmp_path: Path) -> None:
    inputs = write_session(tmp_path / "in", 4)
    more = ["--watch", "--settle", "0.2s", "--idle-close", "20s"]
    process = subprocess.Popen([sys.executable, "-m", "beamside", *train(inputs, tmp_path / "run", *more)])
    while not list((tmp_path / "run" / "snapshots").glob("0*")) and process.poll() is None:
        time.sleep(0.05)
    for number in (10, 11):
        write_pair(inputs, f"late{number}", halves(number))
    assert process.wait() == 0
    last = sorted((tmp_path / "run" / "snapshots").iterdir())[-1]
    table = json.loads((last / "tables.json").read_text())["micrographs"]
    assert {"late10_EVN.mrc", "late11_EVN.mrc"} <= set(table["key"])


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--settle", "3s"], OptionError),
        (["--steps", "50", "--max-minutes", "1"], OptionError),
        (["--gain", "gone.mrc"], InputError),
        (["--memory", "1MB"], OptionError),
        (["--detail", "-1"], OptionError),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, more: list[str], error: type[Exception]) -> None:
    inputs = write_session(tmp_path / "in", 1)
    parser = argparse.ArgumentParser()
    denoise.configure(parser)
    with pytest.raises(error):
        denoise.run(parser.parse_args(train(inputs, tmp_path / "run", *more)[1:]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bit", [8 * 12 + 1, -9])
def test_a_damaged_first_model_is_refused_by_its_path(tmp_path: Path, bit: int) -> None:
    torch.manual_seed(0)
    data = bytearray(pack_model(build("seed3"), Card("seed3", None, "given")))
    data[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "first.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=rf"{path}.*files\.checksum"):
        denoise.first_model(str(path), "seed3")


def test_a_first_model_of_another_network_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    write_model(path, build("seed3"), Card("seed3", None, "given"))
    with pytest.raises(OptionError, match=rf"{path}.*--network seed3"):
        denoise.first_model(str(path), "fast")


@pytest.mark.parametrize(("text", "value"), [("256MB", 256 * 2**20), ("1.5GB", 3 * 2**29), ("64kb", 2**16)])
def test_amounts_of_memory(text: str, value: int) -> None:
    assert denoise.memory_bytes(text) == value


@pytest.mark.parametrize("text", ["256", "MB", "-", "lots"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        denoise.memory_bytes(text)
