"""A start from the data alone: the sweep finds the defocus, and a run from there ends where a warm one does."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.ptycho.engine import Ptychography
from beamside.ptycho.optics import optics_of
from beamside.ptycho.probe import centre_offset_px
from beamside.ptycho.start import (
    LOOK_FRAMES,
    LOOK_ITERATIONS,
    cold_trial,
    defocused,
    flat_probe,
    largest_defocus_m,
    pupil_probe,
    refocus,
    short_run,
    sweep,
    trial_frames,
)
from tests.ptycho import scene


def ready(made: scene.Scan) -> Ptychography:
    """An engine that has the frames and has done nothing."""
    engine = Ptychography.fresh(scene.options(), scene.header(made))
    engine.ingest(scene.batch(made))
    return engine


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_sweep_finds_the_defocus_and_its_sign(seed: int) -> None:
    """Within 10 % of the truth, which is 1.5 mm or -1.8 mm, and nobody says which."""
    truth = (1.5e-3, -1.8e-3)[seed % 2]
    engine = ready(scene.scan(defocus_m=truth, seed=seed))
    trials = sweep(engine.store, engine.positions_px, engine.optics, engine.likelihood, seed=0, lanes=1)
    assert abs(trials[0].defocus_m - truth) < 0.1 * abs(truth)
    assert [t.misfit for t in trials] == sorted(t.misfit for t in trials)
    assert {np.sign(t.defocus_m) for t in trials} == {-1, 1}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_cold_run_ends_near_a_warm_one(seed: int) -> None:
    made = scene.scan(seed=seed)
    cold = scene.run(made, scene.options(iterations_after_close=30))
    warm = scene.run(made, scene.options(made, iterations_after_close=30))
    assert cold.opening.defocus_m == pytest.approx(1e-3, rel=0.1)
    assert scene.run_error(made, cold) < max(0.03, 1.3 * scene.run_error(made, warm))


def test_the_pupil_probe_is_the_defocused_lens() -> None:
    """With the true pupil and defocus, what is left to the true probe is the coma that no one told it."""
    made = scene.scan()
    optics = optics_of(scene.header(made).fields)
    pattern = np.abs(np.fft.fft2(made.probe[0].astype(np.complex128))) ** 2
    likeness = {}
    for z in (1e-3, -1e-3, 0.3e-3):
        found = pupil_probe(pattern, optics, z)[0]
        both = np.linalg.norm(found) * np.linalg.norm(made.probe[0])
        # A coma's tilt moves the beam a little, so the likeness is the highest over shifts.
        product = np.fft.ifft2(np.fft.fft2(found).conj() * np.fft.fft2(made.probe[0]))
        likeness[z] = float(np.abs(product).max()) / both
    assert likeness[1e-3] > 0.95 and likeness[-1e-3] < 0.8 and likeness[0.3e-3] < 0.8
    assert np.abs(centre_offset_px(pupil_probe(pattern, optics, 1e-3))).max() < 1


def test_the_sweep_reaches_as_far_as_the_beam_fits_the_window() -> None:
    """At the largest defocus a beam from the mean pattern's aperture is three quarters of the window wide."""
    made = scene.scan()
    optics = optics_of(scene.header(made).fields)
    pattern = np.abs(np.fft.fft2(made.probe[0].astype(np.complex128))) ** 2
    reach = largest_defocus_m(pattern, optics)
    widths = []
    for z in (reach, reach / 2):
        line = (np.abs(pupil_probe(pattern, optics, z)[0]) ** 2).sum(0)
        inside = np.cumsum(line) / line.sum()
        widths.append(int((inside < 0.98).sum() - (inside < 0.02).sum()))
    assert 0.4 * 64 < widths[0] < 0.95 * 64 and widths[1] < 0.65 * widths[0]


def test_the_flat_probe_has_the_mean_frames_amplitude() -> None:
    pattern = np.random.default_rng(0).random((8, 8))
    np.testing.assert_allclose(np.abs(flat_probe(pattern)[0]) ** 2, pattern, rtol=1e-5)
    assert np.angle(flat_probe(pattern)).max() == 0


def test_trial_frames_lie_together_and_are_usable() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1000, (500, 2))
    usable = rng.random(500) > 0.2
    frames = trial_frames(places, usable, 50)
    assert usable[frames].all() and len(frames) == 50 and (np.diff(frames) > 0).all()
    middle = np.median(places[usable], axis=0)
    left = np.setdiff1d(np.flatnonzero(usable), frames)
    assert np.hypot(*(places[frames] - middle).T).max() <= np.hypot(*(places[left] - middle).T).min()


def test_a_short_run_from_nonsense_ends_worse_than_one_from_the_truth() -> None:
    made = scene.scan()
    engine = ready(made)
    frames = np.arange(100)

    def misfit(probe: np.ndarray) -> float:
        return short_run(
            engine.store, engine.positions_px, frames, probe, engine.optics.detector, engine.likelihood, 0, 1
        )[1]

    noise = np.random.default_rng(0).standard_normal((1, 64, 64)).astype(np.complex64)
    assert misfit(made.probe) < 0.7 * misfit(noise)


# ---- a probe that was given


def test_moving_along_the_beam_is_the_scan_simulators_defocus() -> None:
    """The simulator makes the lens anew for each defocus; moving its probe must give the same wave."""
    made, far = scene.scan(), scene.scan(defocus_m=1.6e-3)
    moved = defocused(made.probe, optics_of(scene.header(made).fields), 0.6e-3)
    assert np.abs(moved - far.probe).max() < 1e-3 * np.abs(far.probe).max()


@pytest.mark.parametrize(
    ("changed", "off"),
    [({}, 1.3), ({"seed": 13, "defocus_m": -1.5e-3}, 0.5), ({"seed": 14, "pattern": "raster"}, 1.6), ({}, 1.0),
     ({"seed": 16, "photons": 2e3, "step_px": 2.0}, 1.3)],
    ids=["30 % off", "half", "raster, 60 % off", "right", "too few counts"],
)  # fmt: skip
def test_a_start_probe_is_moved_along_the_beam_to_where_it_fits(changed: dict[str, float], off: float) -> None:
    """To within 11 % of the true defocus; a right one stays, and so does one of which the counts say nothing."""
    made = scene.scan(**changed)
    engine = ready(made)
    told = (engine.store, engine.positions_px, engine.optics, engine.likelihood)
    found = refocus(*told, scene.start_probe(made, off=off).modes, seed=0, lanes=1)
    if off == 1.0 or "photons" in changed:
        assert found.moved_m == 0 and found.misfit == found.given_misfit
    else:
        truth = made.recipe.defocus_m or 0.0
        assert off * truth + found.moved_m == pytest.approx(truth, rel=0.11)
        assert found.misfit < found.given_misfit


def test_a_defocused_start_no_longer_ends_worse_than_none() -> None:
    """Taken as it is, a probe 30 % off costs a seventh more in error; looked at, nothing."""
    made = scene.scan(seed=2)
    asked = {"iterations_after_close": 30, "check_geometry": True}
    cold = scene.run_error(made, scene.run(made, scene.options(**asked)))
    kept = scene.run_error(made, scene.run(made, scene.options(made, iterations_after_close=30)))
    moved = scene.run(made, scene.options(made, **asked))
    assert kept > 1.08 * cold and scene.run_error(made, moved) < 1.05 * cold
    assert moved.opening.refocus is not None
    assert moved.opening.refocus.moved_m == pytest.approx(-0.3e-3, rel=0.2)
    assert moved.snapshot().notes["start_moved_m"] == moved.opening.refocus.moved_m
    engine = ready(made)
    own = short_run(
        engine.store, engine.positions_px, trial_frames(engine.positions_px, engine.store.usable, LOOK_FRAMES),
        scene.start_probe(made).modes, engine.optics.detector, engine.likelihood, 0, 1, LOOK_ITERATIONS,
    )[1]  # fmt: skip
    assert moved.opening.refocus.given_misfit == pytest.approx(own, rel=1e-5), (
        "taken over from the look at the geometry"
    )


def test_a_probe_of_another_instrument_is_worse_than_none() -> None:
    made = scene.scan()
    engine = ready(made)
    told = (engine.store, engine.positions_px, engine.optics, engine.likelihood)
    small = np.zeros((1, 64, 64), np.complex64)
    small[:, 28:36, 28:36] = 1
    found, cold = refocus(*told, small, seed=0, lanes=1), cold_trial(*told, seed=0, lanes=1)
    right = refocus(*told, scene.start_probe(made, off=1.0).modes, seed=0, lanes=1)
    assert cold.misfit < 0.1 * found.misfit and right.misfit < cold.misfit < 1.2 * right.misfit
    assert cold.defocus_m == pytest.approx(1e-3, rel=0.2)
