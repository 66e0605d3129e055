"""Moves of positions from their normal equations, and what residuals cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamside.ptycho.refine import LIMIT_PX, moves_px, without_affine
from tests.ptycho import scene


def equations(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """(n, 5) normal equations whose exact solution is the second array."""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((n, 2, 6))
    h = half @ half.transpose(0, 2, 1)
    moves = 0.1 * rng.standard_normal((n, 2))
    g = (h @ moves[:, :, None])[:, :, 0]
    return np.concatenate([g, h[:, 0, :1], h[:, 1, 1:], h[:, 0, 1:]], 1), moves


@given(st.integers(0, 500))
def test_moves_solve_the_normal_equations_but_for_the_damping(seed: int) -> None:
    normal, truth = equations(seed)
    found = moves_px(normal)
    assert np.linalg.norm(found - truth) < 0.35 * np.linalg.norm(truth)
    assert ((found * truth).sum(1) > 0).mean() > 0.9, "nearly every move goes the right way"


@given(st.integers(0, 500), st.floats(1e-3, 1e3))
def test_no_move_is_long_and_units_of_the_misfit_do_not_matter(seed: int, unit: float) -> None:
    normal, _ = equations(seed)
    wild = normal * np.array([50, 50, 1, 1, 1])
    assert np.hypot(*moves_px(wild).T).max() <= LIMIT_PX * (1 + 1e-9)
    np.testing.assert_allclose(moves_px(unit * normal), moves_px(normal), rtol=1e-6, atol=1e-9)


def test_a_frame_without_structure_hardly_moves() -> None:
    normal, _ = equations(1)
    normal[3] *= 1e-6
    assert np.hypot(*moves_px(normal)[3]) < 1e-4
    assert np.isfinite(moves_px(np.zeros((5, 5)))).all()


@given(st.integers(0, 500), st.integers(12, 60))
def test_what_is_affine_is_taken_out_and_the_rest_stays(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    recorded = rng.uniform(0, 60, (n, 2))
    matrix, shift = rng.standard_normal((2, 2)) * 0.05, rng.standard_normal(2)
    np.testing.assert_allclose(without_affine(recorded + recorded @ matrix + shift, recorded), recorded, atol=1e-9)
    wander = without_affine(recorded + rng.standard_normal((n, 2)), recorded)
    np.testing.assert_allclose(without_affine(wander, recorded), wander, atol=1e-9)
    again = without_affine(wander + recorded @ matrix + shift, recorded)
    np.testing.assert_allclose(again, wander, atol=1e-8)


def test_a_handful_of_frames_loses_its_common_shift_only() -> None:
    recorded = np.random.default_rng(0).uniform(0, 20, (5, 2))
    np.testing.assert_allclose(without_affine(1.1 * recorded + 3, recorded).mean(0), recorded.mean(0))


BOUNDS = {"auto": 0.5, "rpie": 0.5, "ml": 0.5, "epie": 0.5, "lsqml": 0.7}
"""Share of the positions' error that may be left after 50 iterations; LSQ-ML's damped steps are slower."""


@pytest.mark.parametrize(
    "solver", [name if name == "auto" else pytest.param(name, marks=pytest.mark.slow) for name in BOUNDS]
)
def test_refinement_brings_positions_nearer_to_the_truth(solver: str) -> None:
    made = scene.scan(position_error_px=1.0, seed=5)
    engine = scene.run(
        made, scene.options(made, solver=solver, noise="poisson", refine_positions=True, iterations_after_close=40)
    )
    still = scene.run(made, scene.options(made, solver=solver, noise="poisson", iterations_after_close=40))
    np.testing.assert_allclose(still.positions_px, made.recorded_px, atol=1e-9)
    before, after = rms(made.recorded_px, made), rms(engine.positions_px, made)
    assert before > 1.2 and after < BOUNDS[solver] * before
    assert scene.run_error(made, engine) < scene.run_error(made, still)


def rms(positions_px: np.ndarray, made: scene.Scan) -> float:
    """Root mean square distance to the truth; a shift, scale or shear of the whole scan is no error of a frame."""
    d = positions_px - made.positions_px
    terms = np.concatenate([np.ones((len(d), 1)), made.positions_px], 1)
    d = d - terms @ np.linalg.lstsq(terms, d, rcond=None)[0]
    return float(np.sqrt((d**2).sum(1).mean()))
