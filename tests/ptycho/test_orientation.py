"""The geometry is found: frames turned wrongly on purpose, all eight ways, with DC at either place."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.optics.frames import ORIENTATIONS, DetectorGeometry
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.orientation import NAMES, Candidate, compare, dc_offset_px, oriented
from beamside.ptycho.probe import Modes
from tests.ptycho import scene

TWINS = {0: 3, 1: 2, 2: 1, 3: 0, 4: 7, 7: 4, 5: 6, 6: 5}
"""What differs by 180 degrees: the data alone see the conjugate of a turned object, and cannot tell."""


def table(pixels: np.ndarray, probe: Modes | None, *, with_dc: bool, hurried: bool = False) -> list[Candidate]:
    made = scene.scan()
    engine = Ptychography.fresh(scene.options(), scene.header(made))
    engine.ingest(scene.batch(made, pixels=pixels))
    return compare(
        engine.store, engine.positions_px, engine.optics, engine.likelihood, probe, defocus_m=(1e-3, -1e-3),
        with_dc=with_dc, seed=0, lanes=1, hurried=hurried,
    )  # fmt: skip


def turned(pixels: np.ndarray, wrong: int) -> np.ndarray:
    """Frames as a detector mounted in way `wrong` gives them; the boundary's own code, not the engine's."""
    return DetectorGeometry((64, 64), orientation=wrong, dc="corner").frames(pixels).counts


def cure(wrong: int) -> int:
    """The orientation that undoes `wrong`, by trying all on an image without symmetry."""
    image = np.random.default_rng(0).integers(0, 99, (1, 64, 64)).astype(np.uint16)
    return next(k for k in range(8) if np.array_equal(turned(turned(image, wrong), k), image))


@pytest.mark.parametrize("wrong", range(8))
def test_the_engine_turns_frames_as_the_boundary_does(wrong: int) -> None:
    """The number that the table names is the one that --orientation takes."""
    image = np.random.default_rng(1).integers(0, 99, (3, 64, 64)).astype(np.uint16)
    np.testing.assert_array_equal(oriented(image, wrong), turned(image, wrong))


@pytest.mark.parametrize("wrong", range(8))
def test_a_wrong_orientation_is_named(wrong: int) -> None:
    """Gauntlet rows 26 and 27. With a probe of known sign the answer is one; without, it is one of the two twins."""
    made = scene.scan()
    pixels = turned(scene.counts(made), wrong)
    warm = table(pixels, scene.start_probe(made).modes, with_dc=False)
    assert warm[0].orientation == cure(wrong) and warm[0].misfit < 0.8 * warm[1].misfit
    if wrong in (0, 3, 5):
        cold = table(pixels, None, with_dc=False)
        assert {cold[0].orientation, cold[1].orientation} == {cure(wrong), TWINS[cure(wrong)]}
        assert cold[1].misfit < 1.05 * cold[0].misfit < 0.8 * cold[2].misfit
        assert cold[0].defocus_m is not None and cold[0].defocus_m == -(cold[1].defocus_m or 0)


@pytest.mark.parametrize("wrong", [0, 3])
def test_in_a_hurry_the_answer_is_the_same(wrong: int) -> None:
    """What is in the running is looked at in full: same misfits at the top, larger ones behind."""
    made = scene.scan()
    pixels = turned(scene.counts(made), wrong)
    probe = scene.start_probe(made).modes
    full, fast = (table(pixels, probe, with_dc=False, hurried=hurried) for hurried in (False, True))
    assert fast[0] == full[0] and len(fast) == len(full)
    given = [next(c for c in found if c.orientation == 0) for found in (full, fast)]
    assert given[0] == given[1], "the geometry as given is always looked at in full"
    assert fast[-1].misfit > full[-1].misfit, "the last is behind after two iterations already"


@pytest.mark.parametrize(
    "wrong", [0, 6, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_moved_zero_frequency_is_named_with_the_orientation(wrong: int) -> None:
    """Gauntlet row 18 together with rows 26 and 27: 16 candidates, one of which is right."""
    made = scene.scan()
    pixels = np.fft.fftshift(turned(scene.counts(made), wrong), axes=(1, 2))
    found = table(pixels, scene.start_probe(made).modes, with_dc=True)
    assert len(found) == 16
    assert (found[0].orientation, found[0].dc_moved) == (cure(wrong), True)
    assert found[0].misfit < 0.8 * found[1].misfit


def test_where_the_weight_of_the_pattern_lies() -> None:
    pattern = scene.counts(scene.scan()).mean(0)
    assert np.abs(dc_offset_px(pattern)).max() < 2
    moved = dc_offset_px(np.roll(pattern, (20, -11), axis=(0, 1)))
    np.testing.assert_allclose(moved - dc_offset_px(pattern), [20, -11], atol=1e-6)
    assert np.abs(dc_offset_px(np.fft.fftshift(pattern))).min() > 29


def test_every_candidate_has_a_name_of_its_own() -> None:
    names = {Candidate(k, moved, None, 0.0).name for k in range(8) for moved in (False, True)}
    assert len(NAMES) == len(ORIENTATIONS) == 8 and len(names) == 16
