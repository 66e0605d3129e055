"""A model file proves itself: every flipped bit, every cut and every scrambled layout is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.denoise import model_file
from beamside.denoise.export import find_model, read_model, write_model
from beamside.denoise.model_file import Card, answer, pack_model, require_same_answer, unpack_model
from beamside.denoise.networks import Network, build
from beamside.denoise.prior import PRIOR
from beamside.errors import FormatError, InputError, OptionError

CARD = Card("seed3", 1.3, "halves", {"loss": 0.9}, {"seed": 1})


def fresh(name: str = "seed3", seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build(name)


DATA = pack_model(fresh(), CARD)


def test_a_model_comes_back_bit_for_bit() -> None:
    network, card = unpack_model(DATA, where="here")
    assert card == CARD
    for name, tensor in fresh().state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_weights_laid_out_for_speed_are_stored_in_order() -> None:
    """The writer stores the memory of a strided array as it lies."""
    network = fresh("deep12").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    back, _ = unpack_model(pack_model(network, Card("deep12", None, "given")), where="here")
    for name, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 8 * len(DATA) - 1))
def test_any_flipped_bit_is_found(bit: int) -> None:
    """Gauntlet row 41."""
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError, match=r"files\.checksum"):
        unpack_model(bytes(damaged), where="here")


def test_a_flipped_bit_in_the_names_of_the_header_is_called_damage() -> None:
    """Without its card a file looks like another program's; what else is in it tells."""
    for name in (b"__metadata__", b'"beamside"', b"beamside-denoise-1", b"sha256", b"probe.input", b"probe.output"):
        for at in range(DATA.index(name), DATA.index(name) + len(name)):
            damaged = bytearray(DATA)
            damaged[at] ^= 1
            with pytest.raises(FormatError, match=r"files\.checksum"):
                unpack_model(bytes(damaged), where="here")


def test_a_card_that_is_no_text_is_damage() -> None:
    header = json.dumps({"__metadata__": {"beamside": 7}}).encode()
    with pytest.raises(FormatError, match=r"files\.checksum"):
        unpack_model(len(header).to_bytes(8, "little") + header, where="here")


@pytest.mark.parametrize("length", [0, 7, 8, 300, len(DATA) // 2, len(DATA) - 1])
def test_any_cut_is_found(length: int) -> None:
    """Gauntlet row 41."""
    with pytest.raises(FormatError, match=r"files\.checksum"):
        unpack_model(DATA[:length], where="here")


def test_a_loader_that_transposes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 34: the file is right; square kernels are exchanged on the way in."""
    original = model_file.load_weights

    def transposing(network: Network, weights: dict[str, np.ndarray], *, where: str) -> None:  # type: ignore[type-arg]
        turned = {
            name: array.swapaxes(0, 1) if array.ndim == 4 and array.shape[0] == array.shape[1] else array
            for name, array in weights.items()
        }
        original(network, turned, where=where)

    monkeypatch.setattr(model_file, "load_weights", transposing)
    with pytest.raises(FormatError, match=r"weights\.canary"):
        unpack_model(DATA, where="here")


def test_weights_of_another_network_are_refused() -> None:
    weights = {name: tensor.numpy() for name, tensor in fresh("deep12").state_dict().items()}
    with pytest.raises(FormatError, match="seed3 has"):
        model_file.load_weights(fresh(), weights, where="here")


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = {name: tensor.numpy().copy() for name, tensor in fresh().state_dict().items()}
    weights["layers.0.bias"][0] = np.nan
    with pytest.raises(FormatError, match="NaN"):
        model_file.load_weights(fresh(), weights, where="here")


def test_a_foreign_safetensors_file_is_no_model() -> None:
    from safetensors.numpy import save

    with pytest.raises(FormatError, match="no beamside model"):
        unpack_model(bytes(save({"a": np.zeros(3, np.float32)})), where="here")


def test_the_newest_model_of_a_run_is_found(tmp_path: Path) -> None:
    for folder in ("snapshots/000009", "snapshots/000010", "snapshots/000011"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError, match="no model"):
        find_model(tmp_path)
    write_model(tmp_path / "snapshots/000009/model.safetensors", fresh(), CARD)
    write_model(tmp_path / "snapshots/000010/model.safetensors", fresh(), CARD)
    assert find_model(tmp_path).parent.name == "000010"
    (tmp_path / "result").mkdir()
    write_model(tmp_path / "result/model.safetensors", fresh(), CARD)
    assert read_model(tmp_path)[1] == CARD and find_model(tmp_path).parent.name == "result"


def test_a_device_that_answers_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = read_model(PRIOR)
    require_same_answer(network, "cpu")
    # "cpu:0" goes the way of a GPU here.
    require_same_answer(network, "cpu:0")
    monkeypatch.setattr(model_file, "answer", lambda network, patch: answer(network, patch) * 1.01)
    with pytest.raises(OptionError, match="a test image gives values that are"):
        require_same_answer(network, "cpu:0")


@pytest.mark.gpu
def test_this_gpu_answers_the_same() -> None:
    require_same_answer(read_model(PRIOR)[0], "cuda")
