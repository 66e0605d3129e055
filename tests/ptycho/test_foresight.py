"""Frames left out: a measure with variance 1 where nothing is known, and what it tells of foci, axes and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho.engine import Ptychography
from beamside.ptycho.foresight import FAINT, FOLDS, KNOWN, Told, agreement_of, better, focus, turns
from beamside.ptycho.options import StartProbe
from beamside.ptycho.orientation import Candidate, oriented
from beamside.ptycho.start import defocused, pupil_probe, sweep
from beamside.run.guard import Finding
from beamside.simulate.scan import Scan, ScanRecipe
from tests.gauntlet.ptycho_drive import Pieces, run_pieces
from tests.ptycho import scene

TRUE_M = 1e-3


def weak(power: float, photons: float, seed: int, frames: int = 200) -> Scan:
    """A scan of a phase object whose range is `power` times 1.2 rad."""
    made = Scan(ScanRecipe(frames=frames, frame_px=64, step_px=3.0, photons=photons, defocus_m=TRUE_M, seed=seed))
    made.object = np.exp(1j * power * np.angle(made.object)).astype(np.complex64)
    return made


def opened(made: Scan, pixels: NDArray[Any] | None = None, **options: Any) -> Ptychography:
    """An engine whose opening is over."""
    engine = Ptychography.fresh(scene.options(check_geometry=True, **options), scene.header(made))
    engine.ingest(scene.batch(made, pixels=pixels))
    engine.close()
    while engine.opening.pending:
        engine.step()
    return engine


def told(made: Scan) -> Told:
    engine = Ptychography.fresh(scene.options(), scene.header(made))
    engine.ingest(scene.batch(made))
    engine.shop.shut()
    return Told(engine.store, engine.positions_px, engine.optics, engine.likelihood, 0, 1)


def finding(engine: Ptychography, name: str) -> Finding | None:
    found = (guard.check(engine) for guard in engine.guards if guard.name == name)
    return next((f for f in found if f is not None), None)


# ---- the measure


def test_where_nothing_is_known_agreement_is_normal_and_where_something_is_it_grows() -> None:
    rng = np.random.default_rng(0)
    pattern = np.exp(-np.hypot(*(np.mgrid[:16, :16] - 8)) / 4) * 20
    chance, known = [], []
    for _ in range(200):
        ripple = 1 + 0.1 * rng.standard_normal((10, 16, 16))
        for out, mean in ((chance, np.broadcast_to(pattern, ripple.shape)), (known, pattern * ripple)):
            agreement, variance = agreement_of(pattern * ripple, rng.poisson(mean), pattern)
            out.append(agreement / np.sqrt(variance))
    assert abs(np.mean(chance)) < 0.25 and 0.85 < np.std(chance) < 1.15
    # A matched filter's: the root of the sum of (0.1 pattern)^2 / pattern over the frames.
    assert np.mean(known) == pytest.approx(0.1 * np.sqrt(10 * pattern.sum()), rel=0.1)


@pytest.mark.parametrize("counted", [True, False])
def test_agreement_is_a_matched_filter(counted: bool) -> None:
    rng = np.random.default_rng(2)
    pattern = np.exp(-np.hypot(*(np.mgrid[:12, :12] - 6)) / 0.8) * 20
    foreseen = pattern * (1 + 0.2 * rng.standard_normal((7, 12, 12)))
    counts = rng.poisson(foreseen * rng.uniform(0.5, 2, (7, 1, 1))).astype(np.uint16)
    total = counts.sum((1, 2), keepdims=True).astype(float)
    expected = total * pattern / pattern.sum()
    shares = foreseen / foreseen.sum((1, 2), keepdims=True)
    heard = pattern > (0.02 if counted else 1e-3 * pattern.max())
    assert 0.5 < heard.mean() < 1
    weight = heard * total * (shares - shares.mean(0)) / pattern
    differs = counts - expected
    spread = (weight**2 * (expected if counted else differs**2)).sum()
    found = agreement_of(foreseen, counts, pattern, counted=counted)
    np.testing.assert_allclose(found, ((weight * differs).sum(), spread), rtol=1e-10)


def test_a_beam_that_flickers_proves_nothing() -> None:
    rng = np.random.default_rng(1)
    pattern = rng.uniform(1, 20, (16, 16))
    flicker = rng.uniform(0.5, 1.5, (40, 1, 1))
    found = [agreement_of(pattern * flicker, rng.poisson(pattern * flicker), pattern) for _ in range(50)]
    assert max(abs(a) for a, _ in found) < 1e-6 * pattern.sum() * 40
    assert max(v for _, v in found) < 1e-6


def test_what_is_not_counts_is_foreseen_at_any_scale() -> None:
    made = scene.scan(150)
    found = []
    for scale in (1.0, 1e-6):
        pixels = (scale * (scene.counts(made) + 0.5)).astype(np.float32)
        engine = scene.run(made, scene.options(made), pixels=pixels)
        assert finding(engine, "object.foreseen") is None
        found.append(engine.ending.foreseen)
    assert found[0] is not None and found[0] > 2 * FAINT and found[1] == pytest.approx(found[0], rel=0.05)


def test_positions_of_other_frames_foresee_nothing() -> None:
    right = told(scene.scan(150))
    probe = pupil_probe(right.store.mean_pattern, right.optics, TRUE_M)
    order = np.random.default_rng(0).permutation(150)
    wrong = Told(
        right.store, right.positions_px[order], *(getattr(right, n) for n in ("optics", "noise", "seed", "lanes"))
    )
    assert right.sigma(probe, 1) > 20 * KNOWN
    assert abs(wrong.sigma(probe, 1)) < 3 * KNOWN < right.sigma(probe, 1) / 5


# ---- foci


def test_the_focus_of_a_weak_object_is_what_frames_left_out_prefer() -> None:
    """The sweep's misfits, which noise lowers too, lie 1.7 times too far; the phase has a range of .024 rad."""
    scan = told(weak(0.02, 3e5, seed=1, frames=300))
    misled = sweep(scan.store, scan.positions_px, scan.optics, scan.noise, seed=0, lanes=1)[0].defocus_m
    assert abs(misled - TRUE_M) > 0.5 * TRUE_M
    found = focus(scan, misled)
    assert found.sigma > KNOWN and abs(found.defocus_m - TRUE_M) < 0.15 * TRUE_M
    assert found.rival_m is not None and not found.open


def test_a_strong_object_costs_one_look_and_foci_that_are_alike_are_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = told(scene.scan(150))
    looks: list[int] = []
    original = Told.sigma

    def counted(self: Told, *args: Any, **more: Any) -> float:
        looks.append(1)
        return original(self, *args, **more)

    monkeypatch.setattr(Told, "sigma", counted)
    found = focus(scan, TRUE_M)
    assert found.defocus_m == TRUE_M and found.rival_m is None and len(looks) == 1
    # As certain here as there: the data do not say.
    monkeypatch.setattr(Told, "sigma", lambda self, probe, *parts, **more: 8.0)
    tied = focus(scan, TRUE_M)
    assert tied.open
    engine = opened(scene.scan(60))
    engine.opening.focus = tied
    seen = finding(engine, "start.focus")
    assert seen is not None and "do not say which" in seen.saw
    assert [g.severity for g in engine.guards if g.name == "start.focus"] == ["suspect"]


# ---- axes


@pytest.mark.parametrize("turn", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_wrong_axis_at_a_thousand_counts_is_named_from_a_cold_start(turn: int) -> None:
    made = scene.scan(120, photons=1e3, seed=2)
    assert finding(opened(made), "geometry.parity") is None
    engine = opened(made, oriented(scene.counts(made), turn))
    seen = finding(engine, "geometry.parity")
    assert seen is not None and seen.values["best"] == turn and "foreseen" in seen.saw
    again = Ptychography.resume(engine.options, engine.header, engine.state(), [scene.batch(made)])
    assert again.opening.foreseen == engine.opening.foreseen and again.opening.focus == engine.opening.focus


def test_what_is_beyond_doubt_costs_one_look_each(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = told(scene.scan(150))
    probe = pupil_probe(scan.store.mean_pattern, scan.optics, TRUE_M)
    looks: list[int] = []

    def foreseen(others: float) -> list[float]:
        def sigma(self: Told, start: Any, parts: int = FOLDS, **more: Any) -> float:
            looks.append(parts)
            return (100.0 if len(looks) == 1 else others) * np.sqrt(parts)

        looks.clear()
        monkeypatch.setattr(Told, "sigma", sigma)
        return sorted(c.sigma for c in turns(scan, probe, defocus_m=None, signed=True))

    assert foreseen(40.0)[-1] == 100 and set(looks) == {1}
    assert foreseen(60.0)[-1] == 120 and looks[-2:] == [FOLDS, FOLDS], "both that may be it, with all parts"


@pytest.mark.parametrize("turn", [0, 1])
def test_misfits_that_are_not_noise_settle_the_axes(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a start half a millimetre out of focus, which explains neither the right frames nor the turned ones."""
    made = scene.scan(150, photons=1e6)
    engine = Ptychography.fresh(scene.options(), scene.header(made))
    start = StartProbe(defocused(made.probe, engine.optics, 0.5 * TRUE_M), "start", None, None)
    monkeypatch.setattr("beamside.ptycho.opening.turns", lambda *_, **__: pytest.fail("frames left out were asked"))
    opening = opened(made, oriented(scene.counts(made), turn), probe=start).opening
    given = opening.assumed
    assert given is not None and not given.learns and not given.noisy
    assert (opening.better.orientation if opening.better else 0) == turn


def test_another_orientation_must_be_clearly_ahead() -> None:
    def table(*sigmas: float) -> list[Candidate]:
        found = [Candidate(k, False, None, 0.0, sigma=s) for k, s in enumerate(sigmas)]
        return sorted(found, key=lambda c: -c.sigma)

    assert better([]) is None
    assert better(table(2.0, 4.0)) is None, "nothing is foreseen"
    assert better(table(20.0, 22.0)) is None and better(table(30.0, 20.0)) is None
    best = better(table(20.0, 40.0))
    assert best is not None and best.orientation == 1


# ---- results


@pytest.mark.parametrize(("power", "photons", "wanted"), [(0.02, 1e5, "suspect"), (0.1, 1e6, "trusted")])
def test_a_picture_of_noise_is_suspect_in_a_real_run(power: float, photons: float, wanted: str, tmp_path: Path) -> None:
    made = weak(power, photons, seed=1, frames=120)
    source = Pieces(made, [np.arange(made.recipe.frames)])
    outcome, found = run_pieces(tmp_path / "run", source, scene.options(check_geometry=True))
    assert outcome.verdict == wanted
    assert ("object.foreseen" in {name for name, _, _ in found}) == (wanted == "suspect")


def ringed(made: Scan) -> Scan:
    """With the beam of a zone plate: a ring, with coma, which no defocus imitates."""
    size = made.recipe.frame_px
    y, x = (np.mgrid[:size, :size] - size // 2) / (0.18 * size)
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    at_m = 1.0 * made.recipe.detector_pixel_m / made.recipe.distance_m * 0.18 * size
    phase = np.pi / made.recipe.wavelength_m * (radius * at_m) ** 2 * TRUE_M + 0.6 * radius**2 * np.cos(2 * angle)
    wave = (radius < 1) * (radius > 0.35) * np.exp(1j * (phase + 0.4 * (3 * radius**3 - 2 * radius) * np.cos(angle)))
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave)))
    made.probe = (probe * np.sqrt(made.recipe.photons / (np.abs(probe) ** 2).sum())).astype(np.complex64)[None]
    return made


def test_a_distance_that_is_too_long_is_suspect() -> None:
    made = ringed(Scan(ScanRecipe(frames=150, frame_px=64, step_px=3.0, defocus_m=TRUE_M, seed=3)))
    for times, wanted in ((1.0, False), (1.3, True)):
        head = scene.header(made, distance_m=times * made.recipe.distance_m)
        engine = scene.run(made, scene.options(iterations_after_close=20), head=head)
        assert (finding(engine, "geometry.scale") is not None) == wanted, times
        assert engine.ending.foreseen is not None and engine.ending.foreseen > FAINT
