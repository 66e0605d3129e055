"""What passes the gate, and what does not; three ways to one score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from beamside.denoise import gate
from beamside.denoise.gate import Score, agree, evaluate, in_fresh_process, independent, objections
from beamside.denoise.held_out import Controls, Example
from beamside.denoise.model_file import Card, pack_model
from beamside.denoise.networks import Network, build

GOOD, CONTROLS = Score(0.9, 0.3, 0.001, 1000), Controls(1.9, 0.95, 4.0)


def examples() -> list[Example]:
    """Of unequal sizes, one of them with a mask."""
    rng = np.random.default_rng(0)
    made = []
    for side in (64, 64, 64, 48, 32):
        x, y = rng.standard_normal((2, side, 64)).astype(np.float32)
        made.append(Example(x, y, (rng.random((side, 64)) < 0.1).astype(np.float32) if side == 32 else None))
    return made


def network() -> Network:
    torch.manual_seed(3)
    return build("seed3").eval()


def test_batches_single_examples_and_a_fresh_process_agree() -> None:
    model = network()
    one, two = evaluate(model, examples()), independent(model, examples())
    fresh = in_fresh_process(pack_model(model, Card("seed3", 1.0, "halves")), examples(), 1)
    assert fresh.fault == "" and fresh.score is not None
    for other in (two, fresh.score):
        assert agree(one.loss, other.loss) and one.pixels == other.pixels
        assert other.correlation == pytest.approx(one.correlation, abs=1e-6)
        assert other.brightness == pytest.approx(one.brightness, abs=1e-6)
    losses: dict[int, float] = {}
    assert evaluate(model, examples(), losses) == one
    for number, example in enumerate(examples()):
        assert losses[number] == pytest.approx(independent(model, [example]).loss, rel=1e-5)
    kept = sum(64 * e.input.shape[0] if e.weight is None else int(e.weight.sum()) for e in examples())
    assert one.pixels == kept


def test_a_damaged_model_is_a_fault_and_no_score() -> None:
    data = bytearray(pack_model(network(), Card("seed3", 1.0, "halves")))
    data[-5] ^= 1
    found = in_fresh_process(bytes(data), examples()[:1], 1)
    assert found.score is None and "files.checksum" in found.fault


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"correlation": 0.0}, "correlates"),
        ({"correlation": -0.3}, "correlates"),
        ({"brightness": 0.05}, "brightness"),
        ({"brightness": -0.32}, "brightness"),
        ({"loss": 0.95}, "Gaussian blur"),
        ({"loss": 1.9}, "doing nothing"),
        ({"loss": float("nan")}, "Gaussian blur"),
        ({"correlation": float("nan")}, "correlates"),
    ],
)
def test_what_is_not_published(changed: dict[str, float], why: str) -> None:
    assert objections(GOOD, CONTROLS) == []
    assert why in "; ".join(objections(replace(GOOD, **changed), CONTROLS))  # type: ignore[arg-type]


def test_agreement_is_relative_and_never_with_nan() -> None:
    assert agree(1e6, 1e6 + 0.9) and not agree(1.0, 1.0 + 2e-6) and not agree(float("nan"), float("nan"))
    assert gate.AGREEMENT == 1e-6
