"""Every solver on scans with a known truth; the aligner and the model of the tests are checked first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import StartProbe
from beamside.ptycho.solvers.base import Pass, batches, minibatches
from beamside.ptycho.workshop import Likelihood
from tests.ptycho import scene

slow = pytest.mark.slow


def test_the_aligner_removes_the_ambiguities_and_nothing_else() -> None:
    made = scene.scan()
    y, x = np.mgrid[: made.object.shape[0], : made.object.shape[1]]
    ramped = 1.7 * np.exp(1j * (0.4 + 0.05 * y - 0.03 * x)) * made.object
    assert scene.error(made, ramped, (0, 0)) < 1e-5
    moved = np.pad(ramped, 10)[7:-12, 12:-7]
    assert scene.error(made, moved, (0, 0)) < 1e-4, "a shift of (-3, 2)"
    assert scene.error(made, moved, (-3, 2)) < 1e-4, "the same, told beforehand"
    noise = np.random.default_rng(0).standard_normal(made.object.shape)
    assert scene.error(made, ramped * (1 + 0.05 * noise), (0, 0)) == pytest.approx(0.05, rel=0.1)
    assert scene.error(made, made.object.conj(), (0, 0)) > 0.2, "a conjugate is no alignment"
    assert scene.error(made, np.ones_like(made.object), (0, 0)) > 0.15, "nothing recovered"


@pytest.mark.parametrize("recipe", [{"modes": 2}, {"propagation": "near", "defocus_m": None, "source_m": 1.0}])
def test_the_simulation_agrees_with_the_tests_own_model(recipe: dict[str, Any]) -> None:
    made = scene.scan(20, **recipe)
    kernel = None if made.recipe.propagation == "far" else made._kernel
    mean = made.mean_counts(np.arange(20))
    for j in (0, 7, 19):
        mine = scene.expected_counts(made.object, made.probe, made.positions_px[j], kernel)
        np.testing.assert_allclose(mean[j], mine, rtol=1e-4, atol=1e-5 * mine.max())


BOUNDS = {"auto": 0.045, "rpie": 0.035, "lsqml": 0.05, "ml": 0.045, "epie": 0.07, "raar": 0.07}
"""Relative error after 10 + 10 iterations on 200 frames of 1e5 photons; an empty object has 0.2."""


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=slow), pytest.param(3, marks=slow)])
@pytest.mark.parametrize("solver", BOUNDS)
def test_every_solver_reaches_the_truth(solver: str, seed: int) -> None:
    made = scene.scan(seed=seed)
    engine = scene.run(made, scene.options(made, solver=solver))
    assert engine.iteration == 20
    assert len(engine.safety.rollbacks) <= (1 if solver == "ml" else 0), "an exact first step may overshoot"
    assert scene.run_error(made, engine) < BOUNDS[solver]
    likeness = np.abs(np.fft.ifft2(np.fft.fft2(engine.shop.probe[0]).conj() * np.fft.fft2(made.probe[0]))).max()
    assert likeness / np.linalg.norm(engine.shop.probe) / np.linalg.norm(made.probe) > 0.95


def test_raar_settles_and_plain_dm_does_not() -> None:
    """On Poisson counts the error of RAAR falls further; that of the difference map rises again."""
    made = scene.scan()
    errors: dict[str, list[float]] = {}
    for solver in ("raar", "dm"):
        for closing in (10, 50):
            engine = scene.run(made, scene.options(made, solver=solver, iterations_after_close=closing))
            assert np.isfinite(engine.canvas.object).all()
            errors.setdefault(solver, []).append(scene.run_error(made, engine))
    assert errors["raar"][1] < 0.8 * errors["raar"][0]
    assert errors["dm"][1] > errors["dm"][0] and errors["dm"][1] > 2 * errors["raar"][1]


@pytest.mark.parametrize("seed", [1, 2])
def test_at_low_dose_poisson_beats_gaussian(seed: int) -> None:
    made = scene.scan(photons=1e3, step_px=2.0, seed=seed)
    found = {
        noise: scene.run_error(
            made, scene.run(made, scene.options(made, noise=noise, smooth=0.0, iterations_after_close=20))
        )
        for noise in ("poisson", "gaussian")
    }
    assert found["poisson"] < 0.93 * found["gaussian"]


def test_the_default_takes_the_right_noise_and_smoothness_at_low_dose() -> None:
    made = scene.scan(photons=300.0, step_px=2.0, seed=2)
    error = {}
    for name, changed in {"auto": {}, "rough": {"smooth": 0.0}}.items():
        engine = scene.run(made, scene.options(made, iterations_after_close=20, **changed))
        assert engine.likelihood.poisson
        error[name] = scene.run_error(made, engine)
    assert error["auto"] < error["rough"]


NEAR = {"propagation": "near", "defocus_m": None, "distance_m": 0.2, "detector_pixel_m": 1e-6, "photons": 1e6}


@pytest.mark.parametrize(
    "recipe",
    [{}, {"modes": 2}, NEAR, {**NEAR, "source_m": 0.3, "detector_pixel_m": 2e-6}],
    ids=["far", "far, 2 modes", "near", "near, diverging"],
)
def test_the_truth_explains_the_frames(recipe: dict[str, Any]) -> None:
    """With the true object and probe the misfit is that of the noise alone: conventions, scale, signs, pixel size.

    Positions lie on the quarters of a pixel that the bank has, so that nothing is left to rounding.
    """
    made = scene.Scan(scene.scan(60, step_px=4.0, **recipe).recipe)
    made.positions_px = made.recorded_px = np.round(made.positions_px * 4) / 4
    engine = Ptychography.fresh(scene.options(made, noise="poisson"), scene.header(made))
    engine.ingest(scene.batch(made))
    engine.step()
    engine.shop.set_probe(made.probe)
    row, col = (int(v) for v in -engine.canvas.origin)
    height, width = engine.canvas.shape
    engine.canvas.object[:] = np.pad(made.object, ((row, height), (col, width)))[:height, :width]
    floor = engine.likelihood.floor
    mean, counts = made.mean_counts(np.arange(60)), scene.counts(made).astype(float)
    noise = float(((np.sqrt(mean + floor) - np.sqrt(counts)) ** 2).sum())
    assert engine.shop.gradient(engine.active, engine.likelihood, probe=False) == pytest.approx(noise, rel=2e-3)


@pytest.mark.parametrize("solver", ["auto", pytest.param("lsqml", marks=slow), pytest.param("ml", marks=slow)])
def test_near_field(solver: str) -> None:
    """An image of the object, 0.2 m behind it: fringes carry the phase. Begun from the beam's amplitude alone, with
    positions between pixels: the beam stands still on the detector, which an image shows."""
    made = scene.scan(step_px=5.0, **NEAR)
    engine = scene.run(made, scene.options(made, solver=solver, iterations_after_close=20))
    empty = scene.error(made, np.ones_like(made.object), (0, 0))
    assert scene.run_error(made, engine) < 0.4 * empty
    assert engine.errors[-1] < 0.03 * engine.errors[0]


def test_masked_and_saturated_pixels_cost_little() -> None:
    """A tenth of the detector is dead and reads nonsense, and the brightest pixels are cut off."""
    from beamside.optics.frames import pack_mask

    made = scene.scan()
    pixels = scene.counts(made).copy()
    valid = np.random.default_rng(3).random((scene.N, scene.N)) > 0.1
    pixels[:, ~valid] = 5000
    cut = int(np.percentile(scene.counts(made)[0], 99.5))
    pixels = np.where(valid, np.minimum(pixels, cut), pixels)
    head = scene.header(made, detector_mask=pack_mask(valid), saturation=float(cut))
    good = scene.run(made, scene.options(made), pixels=pixels, head=head)
    fooled = scene.run(made, scene.options(made), pixels=pixels)
    assert scene.run_error(made, good) < 0.06 < 0.12 < scene.run_error(made, fooled)


def test_minibatches_hold_every_frame_once() -> None:
    made = scene.scan()
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made))
    frames = np.arange(200)[::2]
    task = Pass(frames, 4, 9, Likelihood(True, 0.1))
    parts = batches(task, engine.shop)
    assert sorted(np.concatenate(parts).tolist()) == frames.tolist() and len(parts) == 3
    again, later = task.shuffled(), Pass(frames, 5, 9, Likelihood(True, 0.1)).shuffled()
    assert np.array_equal(again, task.shuffled()) and not np.array_equal(again, later)


def test_room_to_spare_on_the_canvas_changes_nothing() -> None:
    """A canvas that has grown is larger than one of frames that were all there; the minibatches are the same."""
    made = scene.scan(120, step_px=12)
    tight, roomy = (Ptychography.fresh(scene.options(made), scene.header(made)) for _ in range(2))
    place = made.recorded_px
    roomy.canvas.cover(np.stack([place.min(0) - 70, place.max(0) + 90]), scene.N)
    for engine in (tight, roomy):
        engine.ingest(scene.batch(made))
        for _ in range(6):
            engine.step()
    assert tight.iteration == roomy.iteration > 3 and tight.canvas.shape < roomy.canvas.shape
    row, col = tight.canvas.origin - roomy.canvas.origin
    height, width = tight.canvas.shape
    assert np.array_equal(roomy.canvas.object[row : row + height, col : col + width], tight.canvas.object)
    assert np.array_equal(roomy.shop.probe, tight.shop.probe)


@pytest.mark.parametrize("name", ["auto", "lsqml"])
def test_the_closing_gain_falls_the_lower_the_more_minibatches(name: str) -> None:
    """What they leave of their noise is that of the same share of a scan, be it small or large."""
    made = scene.scan(60)
    engine = Ptychography.fresh(scene.options(made, solver=name), scene.header(made))
    engine.ingest(scene.batch(made))
    shop, solver = engine.shop, engine.solver
    assert solver.calm(shop, np.arange(60)) == 1.0
    for frames, parts in ((1000, 10), (4000, 20), (16000, 40)):
        shop.corners = np.random.default_rng(0).integers(0, int(2.5 * frames**0.5), (frames, 2)).astype(np.int32)
        every = np.arange(frames)
        assert minibatches(shop, every) == parts
        assert solver.calm(shop, every) == 10 / parts


def blurred(photons: float = 1e5) -> scene.Scan:
    """A beam that spends 40 % of its time eight pixels away: two modes, written as such."""
    from beamside.ptycho.probe import orthogonal

    made = scene.Scan(scene.scan(300, step_px=2.5, photons=photons).recipe)
    first = made.probe[0]
    both = np.stack([first * np.sqrt(0.6), np.roll(first, 8, axis=0) * np.sqrt(0.4)])
    made.probe = orthogonal(both.astype(np.complex64))
    return made


def guess(modes: int) -> StartProbe:
    """Two beams of equal strength, apart as they are, each as a cold start would give it; or one."""
    first = scene.start_probe(scene.scan()).modes[0]
    return StartProbe(np.stack([first, np.roll(first, 8, axis=0)])[:modes], "guess")


def test_two_modes_explain_a_blurred_beam_and_one_does_not() -> None:
    made = blurred()
    one, two = (
        scene.run(made, scene.options(probe=guess(k), noise="poisson", iterations_after_close=20)) for k in (1, 2)
    )
    assert two.errors[-1] < one.errors[-1]
    assert scene.run_error(made, two) < 0.75 * scene.run_error(made, one)
    power = (np.abs(two.shop.probe) ** 2).sum((1, 2))
    assert 0.2 < power[1] / power.sum() < 0.5
    gram = np.vdot(two.shop.probe[0], two.shop.probe[1]) / np.sqrt(power.prod())
    assert abs(gram) < 0.05, "modes come out orthogonal, the strongest first"
