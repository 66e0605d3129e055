"""Long waves of the object's phase: the grid, the normal equations against differences, and a bent object put right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from beamside.ptycho import longwave
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.solvers import accelerated
from beamside.simulate.scan import Scan
from tests.ptycho import scene

WIDE = 1500


def wide() -> Scan:
    """A scan some thirty beams across."""
    return scene.scan(WIDE, step_px=3.5)


def at_truth(made: Scan, bent: Callable[..., NDArray[np.float64]] | None = None) -> Ptychography:
    """An engine that holds the specimen, its phase turned by bent(y, x) of pixels from the canvas's middle."""
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made))
    while engine.opening.pending:
        engine.step()
    engine.shop.set_probe(made.probe)
    shape = engine.canvas.shape
    rows, cols = (np.arange(n) + int(o) for n, o in zip(shape, engine.canvas.origin, strict=True))
    height, width = made.object.shape
    engine.canvas.object[:] = made.object[np.clip(rows, 0, height - 1)][:, np.clip(cols, 0, width - 1)]
    if bent is not None:
        y, x = np.ogrid[: shape[0], : shape[1]]
        engine.shop.turn(bent(y - shape[0] / 2, x - shape[1] / 2).astype(np.float32))
    return engine


def force_of(engine: Ptychography) -> NDArray[np.float64]:
    """Of all frames, on the object as it is."""
    engine.shop.gradient(engine.active, engine.likelihood, probe=False)
    engine.shop.update_object(0.0, 0.1, 0.0, gather=True)
    return engine.shop.take_force()


def test_normal_equations_are_those_of_a_field_looked_up_frame_by_frame() -> None:
    """The same sum by another interpolation and by loops: of a smooth field, and of any."""
    rng = np.random.default_rng(0)
    apart, shape, reach = np.array([20.0, 25.0]), (6, 5), np.array([6.0, 7.0])
    at = rng.uniform(0, 100, (40, 2))  # some of them beyond the last node that their stencil reaches
    root = rng.standard_normal((5, 5))
    metric = root @ root.T
    found = longwave.normal_matrix(at, reach, apart, shape, metric)
    axes = [np.arange(n) * a for n, a in zip(shape, apart, strict=True)]
    for field in (np.add.outer(0.5 * axes[0], -0.25 * axes[1]), rng.standard_normal(shape)):
        looked_up = RegularGridInterpolator(axes, field)
        wanted = 0.0
        for y, x in at:
            v = [
                [
                    float(looked_up((np.clip(y + a * reach[0], 0, 100), np.clip(x + b * reach[1], 0, 100))).item())
                    for b in (-1, 0, 1)
                ]
                for a in (-1, 0, 1)
            ]
            slopes = [(v[2][1] - v[0][1]) / (2 * reach[0]), (v[1][2] - v[1][0]) / (2 * reach[1])]
            bends = [
                (v[2][1] + v[0][1] - 2 * v[1][1]) / reach[0] ** 2,
                (v[1][2] + v[1][0] - 2 * v[1][1]) / reach[1] ** 2,
            ]
            cross = (v[2][2] + v[0][0] - v[0][2] - v[2][0]) / (4 * reach[0] * reach[1])
            told = np.array([*slopes, *bends, cross])
            wanted += float(told @ metric @ told)
        assert float(field.ravel() @ (found @ field.ravel())) == pytest.approx(wanted, rel=1e-9)
    np.testing.assert_allclose(longwave.weights(at[:, 0], 20.0, 6) @ (np.arange(6) * 20.0), at[:, 0])


def test_the_metric_is_that_of_differences() -> None:
    """Each of the five phases, written out and transformed: what |A| changes by."""
    made = wide()
    engine = at_truth(made)
    centre, width = longwave.beam(engine.shop.probe)
    frames = np.array([700])
    found = longwave.mean_metric(engine.shop, frames, centre)
    psi = engine.shop.exit_wave(700).astype(np.complex128)
    y, x = np.mgrid[: scene.N, : scene.N] - centre[:, None, None]
    fields = [y, x, y * y / 2, x * x / 2, y * x]

    def amplitude(phase: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sqrt((np.abs(np.fft.fft2(psi * np.exp(1j * phase), norm="ortho")) ** 2).sum(0)))

    slopes = []
    for field in fields:
        h = 1e-5 / np.abs(field).max()
        slopes.append((amplitude(h * field) - amplitude(-h * field)) / (2 * h))
    bright = amplitude(np.zeros_like(y)) > 0.3
    wanted = np.array([[(a * b)[bright].sum() for a in slopes] for b in slopes])
    np.testing.assert_allclose(np.diag(found), np.diag(wanted), rtol=0.03)
    norm = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    assert np.abs((found - wanted) / norm).max() < 0.03
    assert width.min() > 2


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (1, 1)])
def test_a_long_bend_is_found_in_one_step(direction: tuple[int, int]) -> None:
    """A wave as long as the scan, turned into the true object, comes back as half of its negative (`_SHARE`)."""
    made = wide()
    length = 160.0

    def bent(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(0.1 * np.cos(2 * np.pi * (direction[0] * y + direction[1] * x) / length))

    engine = at_truth(made, bent)
    step = longwave.step_rad(engine.shop, engine.active, force_of(engine))
    assert step is not None
    shape = engine.canvas.shape
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = bent(y - shape[0] / 2, x - shape[1] / 2)
    lit = engine.shop.illumination(engine.active)
    inside = lit > 0.5 * np.median(lit[lit > 0.1 * lit.max()])
    a, b = wave[inside] - wave[inside].mean(), step[inside] - step[inside].mean()
    assert np.corrcoef(a, b)[0, 1] < -0.95
    assert float((a * b).sum() / (a * a).sum()) == pytest.approx(-0.5, abs=0.15)


def test_what_has_no_long_waves_stays() -> None:
    """A scan as narrow as a few beams, few frames, and the near field."""
    for made in (
        scene.scan(60),
        scene.scan(40, step_px=9.0),
        scene.scan(200, propagation="near", photons=1e6, defocus_m=None),
    ):
        engine = Ptychography.fresh(scene.options(made), scene.header(made))
        engine.ingest(scene.batch(made))
        while engine.opening.pending:
            engine.step()
        before = engine.canvas.object.copy()
        longwave.unbend(engine.shop, engine.active, np.ones(engine.canvas.shape))
        assert np.array_equal(engine.canvas.object, before)


def test_a_step_moves_no_pattern_by_more_than_a_pixel() -> None:
    made = wide()
    engine = at_truth(made)
    rng = np.random.default_rng(0)
    step = longwave.step_rad(engine.shop, engine.active, 1e12 * rng.standard_normal(engine.canvas.shape))
    assert step is not None and np.isfinite(step).all()
    steep = max(np.abs(np.diff(step, axis=0)).max(), np.abs(np.diff(step, axis=1)).max()) * scene.N / (2 * np.pi)
    assert 0.2 < steep < 3


def test_a_wide_scan_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan as of a live run, from a start probe to the end, with and without."""
    made = scene.scan(WIDE, step_px=4.5)
    chosen = scene.options(made, iterations_after_close=30)
    error = scene.run_error(made, scene.run(made, chosen))
    monkeypatch.setattr(accelerated, "unbend", lambda *told: None)
    assert error < 0.8 * scene.run_error(made, scene.run(made, chosen))
