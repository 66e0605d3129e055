"""`beamside denoise import-weights` and `export` as commands."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from beamside.cli.main import main
from beamside.denoise.ancestor import flattened
from beamside.denoise.export import read_model, write_model
from beamside.denoise.model_file import Card
from beamside.denoise.networks import build
from beamside.formats.layer_files import Layer, write_layers


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    write_model(tmp_path / "seed3.safetensors", build("seed3"), Card("seed3", 1.3, "halves"))
    return tmp_path / "seed3.safetensors"


@pytest.mark.slow
def test_the_real_weights_come_in_and_go_out_bit_for_bit(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data" / "denoise" / "fortran_weights" / "n2n_real_epoch_0009"
    out = tmp_path / "deep12.safetensors"
    assert main(["denoise", "import-weights", str(folder), str(out)]) == 0
    assert "out,in,kh,kw" in capsys.readouterr().out.splitlines()[1]
    assert main(["denoise", "export", str(out), "--to", "fortran", "--out", str(tmp_path / "back")]) == 0
    for path in folder.glob("*.bin"):
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_untrained_weights_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    write_layers(tmp_path / "raw", [Layer(w.inputs, w.outputs, w.flat, w.bias) for w in flattened(build("seed3"))])
    out = tmp_path / "m.safetensors"
    assert main(["denoise", "import-weights", str(tmp_path / "raw"), str(out)]) == 2
    assert "weights.canary" in capsys.readouterr().err and not out.exists()


def test_export_to_fortran_and_safetensors(model: Path, tmp_path: Path) -> None:
    assert main(["denoise", "export", str(model), "--to", "fortran"]) == 0
    first = np.fromfile(tmp_path / "seed3_fortran" / "conv01_weights.bin", "<f4")
    np.testing.assert_array_equal(first, flattened(read_model(model)[0])[0].flat)
    assert main(["denoise", "export", str(model), "--to", "safetensors", "--out", str(tmp_path / "c.safetensors")]) == 0
    assert (tmp_path / "c.safetensors").read_bytes() == model.read_bytes()
    assert main(["denoise", "export", str(model), "--to", "safetensors", "--out", str(model)]) == 2


def test_a_unet_does_not_fit_the_fortran_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "fast.safetensors", build("fast"), Card("fast", None, "halves"))
    assert main(["denoise", "export", str(tmp_path / "fast.safetensors"), "--to", "fortran"]) == 2
    assert "onnx" in capsys.readouterr().err


def test_onnx_answers_as_the_network(model: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnx, onnxscript and onnxruntime are not installed")
    import onnxruntime

    out = tmp_path / "m.onnx"
    assert main(["denoise", "export", str(model), "--to", "onnx", "--out", str(out)]) == 0
    image = np.random.default_rng(0).standard_normal((1, 1, 48, 32)).astype(np.float32)
    (got,) = onnxruntime.InferenceSession(out).run(None, {"normalised": image})
    with torch.inference_mode():
        expected = read_model(model)[0](torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import-weights", "nowhere", "m.safetensors"], "convNN_bias"),
        (["import-weights", "nowhere", "m.pt"], ".safetensors"),
        (["import-weights", "nowhere", "m.safetensors", "--layout", "a,b"], "--layout"),
        (["export", "nowhere", "--to", "onnx"], "no such model"),
    ],
)
def test_what_cannot_be(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoise", *arguments]) == 2
    assert words in capsys.readouterr().err
