"""Raw weight files: the order of their axes is decided by evidence, and scrambles are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.cli.denoise_weights import probe
from beamside.denoise import ancestor
from beamside.denoise.ancestor import DISTINCT, LAYOUTS, PLAIN, Trial, Weights, arranged, chosen, flattened, is_mirror
from beamside.denoise.networks import build
from beamside.denoise.normalise import Scale
from beamside.errors import FormatError, InputError
from beamside.formats.layer_files import Layer, read_layers, write_layers


@given(st.sampled_from(LAYOUTS), st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None)
def test_arranging_undoes_how_a_file_was_written(layout: str, inputs: int, outputs: int) -> None:
    kernel = np.random.default_rng(0).normal(size=(outputs, inputs, 3, 3)).astype(np.float32)
    order = [("out", "in", "kh", "kw").index(axis) for axis in layout.split(",")]
    flat = np.ascontiguousarray(kernel.transpose(order)).reshape(-1)
    layer = Weights(inputs, outputs, flat, np.zeros(outputs, np.float32))
    np.testing.assert_array_equal(arranged(layer, layout), kernel)


def test_fortran_order_is_the_reverse() -> None:
    """What Fortran declares as (kW, kH, in, out) is C's (out, in, kH, kW): the oracle is numpy's order="F"."""
    flat = np.arange(2 * 3 * 9, dtype=np.float32)
    layer = Weights(3, 2, flat, np.zeros(2, np.float32))
    by_fortran = flat.reshape((3, 3, 3, 2), order="F").transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(arranged(layer, PLAIN), by_fortran)


def test_layouts() -> None:
    assert len(set(LAYOUTS)) == 24 and len(DISTINCT) == 12
    assert all(sum(is_mirror(layout, d) for d in DISTINCT) == 1 for layout in LAYOUTS)


def test_a_mirror_is_the_same_network_seen_in_a_mirror() -> None:
    """Why kH and kW exchanged count as one: the turned image gives the turned result."""
    torch.manual_seed(1)
    layers = flattened(build("seed3"))
    plain, mirror = (ancestor.assembled("seed3", layers, layout) for layout in (PLAIN, "out,in,kw,kh"))
    image = torch.randn(1, 1, 20, 24)
    with torch.inference_mode():
        torch.testing.assert_close(mirror(image), plain(image.transpose(2, 3)).transpose(2, 3), rtol=1e-4, atol=1e-5)


def test_names_of_networks() -> None:
    for name in ("seed3", "deep12"):
        assert ancestor.network_of(flattened(build(name))) == name
    with pytest.raises(InputError, match="no network"):
        ancestor.network_of(flattened(build("seed3"))[:2])
    with pytest.raises(InputError, match="no chain"):
        flattened(build("fast"))


def trials(**left: float) -> list[Trial]:
    """Evidence: 100 % is left but where said; names with _ for the commas."""
    named = {name.replace("_", ","): value for name, value in left.items()}
    return [Trial(layout, named.get(layout, 1.0), 1.0, 0.0) for layout in DISTINCT]


def test_the_verdict() -> None:
    assert chosen(trials(out_in_kh_kw=0.04), PLAIN).left == 0.04
    assert chosen(trials(out_in_kh_kw=0.04), "out,in,kw,kh").left == 0.04
    with pytest.raises(InputError, match=r"weights.canary.*copied between the two orders.*--layout kh,kw,in,out"):
        chosen(trials(kh_kw_in_out=0.04), PLAIN)
    with pytest.raises(InputError, match="scrambled or were never trained"):
        chosen(trials(), PLAIN)
    with pytest.raises(InputError, match="scrambled or were never trained"):
        chosen(trials(out_in_kh_kw=0.1, kh_kw_in_out=0.11), PLAIN)


def test_units() -> None:
    """The network sees gain x normalised + offset, and what it gives is brought back."""
    scale, units = Scale(70.0, 12.0), (0.03, 0.1)
    own = ancestor.in_own_units(scale, units)
    pixels = np.array([40.0, 70.0, 88.0], np.float32)
    np.testing.assert_allclose(own.normalise(pixels), 0.03 * scale.normalise(pixels) + 0.1, rtol=1e-5)
    np.testing.assert_allclose(own.restore(own.normalise(pixels)), pixels, rtol=1e-5)


@given(seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_files_keep_every_bit(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("layers")
    torch.manual_seed(seed)
    made = [Layer(w.inputs, w.outputs, w.flat, w.bias) for w in flattened(build("seed3"))]
    write_layers(folder, made)
    assert (folder / "conv02_weights.bin").stat().st_size == 16 * 16 * 9 * 4
    for one, other in zip(made, read_layers(folder), strict=True):
        assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
        assert one.weights.tobytes() == other.weights.tobytes() and one.bias.tobytes() == other.bias.tobytes()


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no convNN_bias"):
        read_layers(tmp_path)
    write_layers(tmp_path, [Layer(w.inputs, w.outputs, w.flat, w.bias) for w in flattened(build("seed3"))])
    whole = (tmp_path / "conv02_weights.bin").read_bytes()
    for cut, words in ((whole[:-4], "has 2304"), (whole[:-3], "no whole float32"), (b"", "no whole float32")):
        (tmp_path / "conv02_weights.bin").write_bytes(cut)
        with pytest.raises(FormatError, match=words):
            read_layers(tmp_path)
    (tmp_path / "conv02_weights.bin").write_bytes(b"\x00\x00\xc0\x7f" + whole[4:])
    with pytest.raises(FormatError, match="NaN"):
        read_layers(tmp_path)
    (tmp_path / "conv02_weights.bin").unlink()
    with pytest.raises(FormatError, match="conv02_weights"):
        read_layers(tmp_path)


def real_layers(shared: Path) -> list[Weights]:
    """The ancestor's own files."""
    folder = shared / "data" / "denoise" / "fortran_weights" / "n2n_real_epoch_0009"
    return [Weights(x.inputs, x.outputs, x.weights, x.bias) for x in read_layers(folder)]


def rewritten(layers: list[Weights], layout: str) -> list[Weights]:
    """The same weights as a program writes them that believes in another order (gauntlet 33 and 34)."""
    order = [ancestor.AXES.index(axis) for axis in layout.split(",")]
    return [
        Weights(x.inputs, x.outputs, np.ascontiguousarray(arranged(x, PLAIN).transpose(order)).reshape(-1), x.bias)
        for x in layers
    ]


def few_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole search takes ten seconds; these units hold the best."""
    monkeypatch.setattr(ancestor, "UNITS", ((0.03, 0.1), (0.1, 0.5)))


def test_the_real_weights_are_accepted_in_their_order(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_units(monkeypatch)
    found = ancestor.try_all("deep12", real_layers(shared), *probe())
    best = chosen(found, PLAIN)
    assert best.left < 0.06 and min(t.left for t in found if t is not best) > 0.9
    assert PLAIN in ancestor.table(found).splitlines()[1]


@pytest.mark.parametrize("layout", ["kh,kw,in,out", "in,out,kh,kw"])
def test_scrambles_of_the_real_weights_are_refused(shared: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    few_units(monkeypatch)
    scrambled = rewritten(real_layers(shared), layout)
    with pytest.raises(InputError, match="copied between the two orders"):
        chosen(ancestor.try_all("deep12", scrambled, *probe()), PLAIN)


def test_weights_that_are_shuffled_are_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_units(monkeypatch)
    rng = np.random.default_rng(0)
    shuffled = [Weights(x.inputs, x.outputs, rng.permutation(x.flat), x.bias) for x in real_layers(shared)]
    with pytest.raises(InputError, match="scrambled or were never trained"):
        chosen(ancestor.try_all("deep12", shuffled, *probe()), PLAIN)
