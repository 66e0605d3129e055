"""The gate: a model is published when a fresh process that read its bytes finds the same score, and the score is good.

A score comes about twice: by the run itself, added up batch by batch (`evaluate`), and by an independent pass over
single examples with numpy alone (`independent`). A model that may be published has that second pass in a fresh process
that has nothing but the bytes of its file (`in_fresh_process`); any other, or one whose two scores differ, in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.denoise import witness
from beamside.denoise.held_out import Controls, Example
from beamside.denoise.loss import Comparison, Tally
from beamside.denoise.networks import Network, at_level, shown

AGREEMENT = 1e-6
"""Largest relative difference between two passes over the same examples."""
BRIGHTNESS = 0.05
"""Largest offset of the output's mean, in standard deviations of a half."""
_BATCH = 4


@dataclass(frozen=True)
class Score:
    """Held-out figures. loss: mean squared error against the independent partner, in squared spreads of a half.

    correlation: Pearson's, of output and partner. brightness: mean output less mean partner.
    """

    loss: float
    correlation: float
    brightness: float
    pixels: int


@dataclass(frozen=True)
class Verified:
    """What the fresh process found, or why it could not."""

    score: Score | None
    fault: str = ""


@torch.inference_mode()
def evaluate(network: Network, examples: Sequence[Example], losses: dict[int, float] | None = None) -> Score:
    """Batch by batch over examples of one shape at a time, in float32 on the network's device, sums in float64.

    losses: takes the loss of each example by its number.
    """
    device = next(network.parameters()).device
    tally, moments = Tally(), np.zeros(6)
    for numbers, batch in _batches(examples):
        x, y, w, level = (torch.from_numpy(array)[:, None].to(device) for array in batch)
        output = at_level(network, x, level)
        tally.add(output, y, w)
        o, t, w = output.double(), y.double(), w.double()
        terms = (w, w * o, w * t, w * o * o, w * t * t, w * o * t)
        moments += [float(term.sum()) for term in terms]
        if losses is not None:
            errors = ((w * (o - t).square()).sum((1, 2, 3)) / w.sum((1, 2, 3)).clamp(min=1)).tolist()
            losses.update(zip(numbers, errors, strict=True))
    return _score(tally.mean, moments)


def _batches(examples: Sequence[Example]) -> Iterator[tuple[list[int], tuple[NDArray[np.float32], ...]]]:
    """Numbers of examples; and stacks (b, h, w) of inputs, targets and weights, and the levels (b, 1, 1)."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for number, example in enumerate(examples):
        shapes.setdefault(example.input.shape, []).append(number)
    for group in shapes.values():
        for at in range(0, len(group), _BATCH):
            numbers = group[at : at + _BATCH]
            chosen = [examples[number] for number in numbers]
            yield (
                numbers,
                (
                    np.stack([e.input for e in chosen]),
                    np.stack([e.target for e in chosen]),
                    np.stack([np.ones_like(e.input) if e.weight is None else e.weight for e in chosen]),
                    np.array([e.level for e in chosen], dtype=np.float32)[:, None, None],
                ),
            )


def _score(loss: float, moments: NDArray[np.float64]) -> Score:
    _, o, t, oo, tt, ot = moments / max(moments[0], 1.0)
    spread = np.sqrt(max(oo - o * o, 0.0) * max(tt - t * t, 0.0))
    correlation = float((ot - o * t) / spread) if spread > 0 else 0.0
    return Score(loss, correlation, float(o - t), int(moments[0]))


def independent(network: Network, examples: Sequence[Example]) -> Score:
    """The same figures one example at a time, by numpy alone."""
    found = Comparison()
    for example in examples:
        level = np.float32(example.level)
        image = example.input / level
        output = shown(network, image)
        if network.blend is not None:
            network.blend.add_to(output, image)
        found.add(output * level, example.target, example.weight)
    return Score(found.mean, found.correlation, found.offset, found.pixels)


def agree(one: float, other: float) -> bool:
    """Whether two losses are the same to `AGREEMENT`; false for NaN."""
    return abs(one - other) <= AGREEMENT * max(abs(one), abs(other))


def in_fresh_process(model: bytes, examples: Sequence[Example], threads: int) -> Verified:
    """Have a process that knows nothing else read the model's bytes and score it."""
    from beamside.denoise.verify import pieces

    kept = witness.present()
    said = None if kept is None else kept.ask(pieces(model, examples, threads))
    return _in_new_interpreter(pieces(model, examples, threads)) if said is None else _verified(json.loads(said))


def _verified(found: dict[str, Any]) -> Verified:
    return Verified(None, found["fault"]) if "fault" in found else Verified(Score(**found))


def _in_new_interpreter(message: Iterable[bytes]) -> Verified:
    # The child must find this very package, wherever it was imported from.
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        TemporaryFile() as faults,
        subprocess.Popen(
            [sys.executable, "-m", "beamside.denoise.verify"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=faults,
            env={**os.environ, "PYTHONPATH": path},
        ) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        # One example after another, so that they are not in memory twice. It answers when it has all of them, or dies.
        with suppress(BrokenPipeError):
            for piece in message:
                child.stdin.write(piece)
            child.stdin.flush()
        with suppress(BrokenPipeError):
            child.stdin.close()
        said, status = child.stdout.read(), child.wait()
        faults.seek(0)
        lines = faults.read().decode(errors="replace").strip().splitlines()
    if status != 0:
        return Verified(None, f"the fresh process ended with status {status} ({(lines or [''])[-1]})")
    return _verified(json.loads(said))


def objections(score: Score, controls: Controls) -> list[str]:
    """Why a model with this score is not published; empty when it is good."""
    found = []
    if not score.correlation > 0:
        found.append(f"its output correlates by {score.correlation:.3f} with the partner")
    if not abs(score.brightness) < BRIGHTNESS:
        found.append(f"its output is off by {score.brightness:+.3f} standard deviations in brightness")
    if not score.loss < controls.nothing:
        found.append(f"its loss {score.loss:.5f} is no better than doing nothing ({controls.nothing:.5f})")
    if not score.loss < controls.blur:
        found.append(
            f"its loss {score.loss:.5f} is no better than the best Gaussian blur's ({controls.blur:.5f} at "
            f"{controls.blur_sigma_px:g} px)"
        )
    return found


def figures(score: Score, controls: Controls) -> dict[str, float]:
    """What a model's card says about it."""
    return {key: float(value) for key, value in (asdict(score) | asdict(controls)).items()}
