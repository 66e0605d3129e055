"""What a finished run says of itself: defects put into scans, each named by its guard; healthy ones name none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamside.ptycho.ending import beam_area_px, extent_px
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.noise import Fit, expected_misfit
from beamside.run.engine import Batch
from beamside.run.guard import Severity
from beamside.simulate.scan import Scan
from tests.ptycho import scene

ENDINGS = {"frames.explained", "scan.overlap", "scan.line", "probe.window", "object.dose"}


def named(engine: Ptychography, severity: Severity = Severity.SUSPECT) -> set[str]:
    asked = [guard for guard in engine.guards if guard.name in ENDINGS and guard.severity is severity]
    return {guard.name for guard in asked if guard.check(engine) is not None}


def misplaced(made: Scan, order: np.ndarray) -> Ptychography:
    """Each frame with the position of another one."""
    right = scene.batch(made)
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(Batch(right.keys, {"position_m": right.columns["position_m"][order]}, right.load))
    engine.close()
    scene.settle(engine)
    return engine


def test_a_healthy_scan_names_nothing_and_the_defects_their_guards() -> None:
    made = scene.scan(150)
    healthy = scene.run(made, scene.options(made))
    assert named(healthy) == set()
    end = healthy.ending
    assert end.fit is not None and end.fit.unexplained < 0.1
    assert end.overlap > 5 and end.contrast > 4 * end.noise and end.beam_share < 0.3
    assert named(misplaced(made, np.random.default_rng(0).permutation(150))) == {"frames.explained"}
    assert "frames.explained" in named(misplaced(made, np.roll(np.arange(150), 1))), "late by a frame"
    assert named(healthy, Severity.NOTE) == set()
    off = scene.scan(150, position_error_px=2.0)
    ended = scene.run(off, scene.options(off))
    assert named(ended) == set() and named(ended, Severity.NOTE) == {"frames.explained"}


@pytest.mark.parametrize(
    ("name", "frames", "recipe"),
    [("scan.overlap", 60, {"step_px": 26.0}), ("object.dose", 150, {"photons": 20.0})],
)
def test_what_the_frames_cannot_determine_is_named(name: str, frames: int, recipe: dict[str, Any]) -> None:
    made = scene.scan(frames, **recipe)
    assert name in named(scene.run(made, scene.options(made)))


def test_a_scan_along_a_line_is_named() -> None:
    made = scene.scan(150)
    at = made.positions_px
    row = np.flatnonzero(np.abs(at[:, 0] - np.median(at[:, 0])) < 2)
    engine = Ptychography.fresh(scene.options(made, first_frames=1), scene.header(made))
    engine.ingest(scene.batch(made, row))
    engine.close()
    scene.settle(engine)
    assert "scan.line" in named(engine)
    (across, along), (whole, _) = extent_px(at[row]), extent_px(at)
    assert across < 2 < whole and across < 0.2 * along
    few = scene.run(scene.scan(12), scene.options(scene.scan(12), first_frames=1))
    assert "scan.line" not in named(few), "a scan that is small is no line"


def test_a_probe_as_large_as_its_window_is_named() -> None:
    made = scene.scan(60)
    engine = scene.run(made, scene.options(made, iterations_after_close=20))
    assert "probe.window" not in named(engine)
    engine.shop.set_probe(np.ones_like(engine.shop.probe))
    engine.iteration += 1
    assert "probe.window" in named(engine)
    assert beam_area_px(np.ones((4, 4))) == pytest.approx(16)


def test_too_short_a_run_says_nothing_of_itself() -> None:
    made = scene.scan(60)
    engine = misplaced(made, np.roll(np.arange(60), 1))
    engine.iteration = 5
    assert named(engine) == set()


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_expected_misfit_against_drawn_counts(floor: float) -> None:
    rng = np.random.default_rng(3)
    for mean in (0.01, 0.7, 12.0):
        drawn = rng.poisson(mean, 400_000)
        wanted = ((np.sqrt(drawn) - np.sqrt(mean + floor)) ** 2).mean()
        assert float(expected_misfit(np.array([mean]), floor)[0]) == pytest.approx(wanted, rel=0.02)


def test_where_frames_hardly_differ_nothing_is_unexplained() -> None:
    assert Fit(100.0, 110.0, 109.0).unexplained == 0
    assert Fit(100.0, 200.0, 190.0).unexplained == pytest.approx(0.9)
    assert Fit(100.0, 200.0, 80.0).unexplained == 0


def test_clipped_counts_and_stuck_pixels_are_named_unless_the_limit_is_known() -> None:
    made = scene.scan(60)
    pixels = scene.counts(made)
    stuck = pixels.copy()
    stuck[:, 5, 9] = 60_000
    level = int(np.quantile(pixels[pixels > 0], 0.95))
    for given, limit, wanted in (
        (pixels, None, False),
        (np.minimum(pixels, np.uint16(level)), None, True),
        (np.minimum(pixels, np.uint16(level)), float(level), False),
        (np.minimum(pixels, np.uint16(1)), None, False),
        (stuck, None, True),
    ):
        engine = Ptychography.fresh(scene.options(made), scene.header(made, saturation=limit))
        engine.ingest(scene.batch(made, np.arange(30), pixels=given))
        engine.ingest(scene.batch(made, np.arange(30, 60), pixels=given))
        guard = next(g for g in engine.guards if g.name == "frames.clipped")
        assert (guard.check(engine) is not None) == wanted
        engine.shop.shut()
