"""What is counted besides diffraction, and what is not counted: found in frames alone, and named in real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho.background import background_share, dead_share, fading
from tests.gauntlet.ptycho_drive import Pieces, run_pieces
from tests.ptycho import scene


def test_only_a_level_without_speckle_is_a_background() -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:32, :32] - 16
    bright = 400 * np.exp(-(np.hypot(y, x) ** 2) / 20)
    valid = np.ones((32, 32), np.float32)

    def share(mean: NDArray[np.float64], valid: NDArray[np.float32] = valid) -> float:
        return background_share(rng.poisson(np.broadcast_to(mean, (100, 32, 32))).astype(np.uint16), valid)

    level = share(bright + 5)
    assert level == pytest.approx(5 * 1024 / (bright.sum() + 5 * 1024), rel=0.05)
    stop = (np.hypot(y, x) > 3).astype(np.float32)
    assert share((bright + 5) * stop) > 0.1 and share(bright + 5, stop) > 0.1, "with dead pixels, or masked ones"
    assert share(bright) == 0 and share(np.full((32, 32), 50.0)) == 0, "none, or a cone that fills the detector"
    speckle = rng.exponential(5.0, (100, 32, 32)) + bright
    assert background_share(rng.poisson(speckle).astype(np.uint16), valid) == 0


@pytest.mark.parametrize(("level", "wanted"), [(0.0, None), (0.3, "note"), (10.0, "suspect")])
def test_a_background_is_judged_by_what_the_object_scatters(level: float, wanted: str | None, tmp_path: Path) -> None:
    made = scene.scan(120)
    pixels = scene.counts(made) + np.random.default_rng(3).poisson(level, scene.counts(made).shape).astype(np.uint16)
    source = Pieces(made, [np.arange(120)], pixels=pixels)
    outcome, found = run_pieces(tmp_path / "run", source, scene.options(made))
    assert [severity for name, severity, _ in found if name == "frames.background"] == ([wanted] if wanted else [])
    assert outcome.verdict == ("suspect" if wanted == "suspect" else "trusted")


# ---- what is not counted


def test_dead_pixels_are_those_without_a_count_beside_bright_ones() -> None:
    y, x = np.mgrid[:32, :32] - 16
    total = np.round(1e5 * np.exp(-np.hypot(y, x) / 2))
    every = np.ones((32, 32), np.float32)
    assert dead_share(total, every) == (0, 0.0), "darkness that begins softly is no defect"
    stop = np.hypot(y, x) > 1.5
    pixels, share = dead_share(total * stop, every)
    assert pixels == 8 and share > 0.01, "the ring of the nine that the stop covers"
    assert dead_share(total * stop, stop.astype(np.float32)) == (0, 0.0), "masked"
    hot = np.zeros((32, 32))
    hot[5, 5] = 1e6
    assert dead_share(hot, every) == (0, 0.0)


def test_only_a_steady_change_is_fading() -> None:
    rng = np.random.default_rng(4)
    level = np.linspace(1, 0.4, 200) * rng.normal(1, 0.05, 200)
    assert fading(1e4 * level) == pytest.approx(0.97 / 0.43, rel=0.05)
    assert fading(1e4 * rng.permutation(level)) == 1 and fading(np.full(200, 7.0)) == 1 and fading(level[:20]) == 1


def thinned(counts: NDArray[Any], share: Any) -> NDArray[np.uint16]:
    return np.random.default_rng(5).binomial(counts, share).astype(np.uint16)


@pytest.mark.parametrize("defect", ["dead", "fading", "one pixel"])
def test_what_is_not_counted_is_named_in_a_real_run(defect: str, tmp_path: Path) -> None:
    made = scene.scan(120)
    counts = scene.counts(made).copy()
    if defect == "dead":
        counts[:, :20, :20] = 0
    elif defect == "one pixel":
        counts[:, 3, 2] = 0
    else:
        counts = thinned(counts, np.linspace(1, 0.4, 120)[:, None, None])
    outcome, found = run_pieces(tmp_path / "run", Pieces(made, [np.arange(120)], pixels=counts), scene.options(made))
    name = "frames.fading" if defect == "fading" else "frames.dead"
    severity = "note" if defect == "one pixel" else "suspect"
    assert (name, severity) in {(guard, how) for guard, how, _ in found}
    assert outcome.verdict == ("trusted" if defect == "one pixel" else "suspect")


def test_a_handful_of_frames_is_provisional(tmp_path: Path) -> None:
    made = scene.scan(12)
    outcome, _ = run_pieces(tmp_path / "run", Pieces(made, [np.arange(12)]), scene.options(made, first_frames=1))
    assert outcome.verdict == "provisional"
