"""The geometry is found: frames turned wrongly on purpose, all eight ways, with DC at either place; and what to say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from beamside.optics.frames import ORIENTATIONS, DetectorGeometry, ScanGeometry
from beamside.ptycho import advice
from beamside.ptycho.advice import Given
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.orientation import NAMES, Candidate, compare, dc_offset_px, is_its_twin, oriented
from beamside.ptycho.probe import Modes
from tests.ptycho import scene

TWINS = {0: 3, 1: 2, 2: 1, 3: 0, 4: 7, 7: 4, 5: 6, 6: 5}
"""What differs by 180 degrees: the data alone see the conjugate of a turned object, and cannot tell."""


def table(
    pixels: np.ndarray, probe: Modes | None, *, with_dc: bool, hurried: bool = False, defocus_m: float | None = None
) -> list[Candidate]:
    made = scene.scan()
    engine = Ptychography.fresh(scene.options(), scene.header(made))
    engine.ingest(scene.batch(made, pixels=pixels))
    return compare(
        engine.store, engine.positions_px, engine.optics, engine.likelihood, probe, defocus_m=defocus_m,
        signed=probe is not None or defocus_m is not None, with_dc=with_dc, seed=0, lanes=1, hurried=hurried,
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
        assert cold[1].misfit == cold[0].misfit and all(cold[0].clearly_beats(c) for c in cold[2:])
        right = next(c for c in cold if c.orientation == cure(wrong))
        assert right.defocus_m == pytest.approx(1e-3, rel=0.2) and right.twin in cold


@pytest.mark.parametrize("defocus_m", [1e-3, -1e-3])
def test_a_defocus_of_known_sign_tells_the_twins_apart(defocus_m: float) -> None:
    """The true sign leaves the geometry as it is; the other one fits as the conjugate of a turned detector."""
    found = table(scene.counts(scene.scan()), None, with_dc=False, hurried=True, defocus_m=defocus_m)
    assert found[0].orientation == (0 if defocus_m > 0 else 3) and len(found) == 8
    assert all(found[0].clearly_beats(c) for c in found[1:])
    assert {c.defocus_m for c in found} == {defocus_m}


@pytest.mark.parametrize("wrong", [0, 3])
def test_in_a_hurry_the_answer_is_the_same(wrong: int) -> None:
    """What is in the running is looked at in full: same misfits at the top; the others stay behind those."""
    made = scene.scan()
    pixels = turned(scene.counts(made), wrong)
    probe = scene.start_probe(made).modes
    full, fast = (table(pixels, probe, with_dc=False, hurried=hurried) for hurried in (False, True))
    assert fast[0] == full[0] and len(fast) == len(full)
    given = [next(c for c in found if c.orientation == 0) for found in (full, fast)]
    assert given[0] == given[1], "the geometry as given is always looked at in full"
    glanced = [c.glanced for c in fast]
    assert glanced == sorted(glanced) and any(glanced), "those that were only glanced at come last"
    assert all(c in full for c in fast if not c.glanced) and not any(c.glanced for c in full)
    assert glanced.count(False) == 1 or wrong != 0, "nothing fits better than the geometry as given"


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


# ---- what to say


def matrix_of_frames(orientation: int) -> np.ndarray:
    """(2, 2) what the boundary does to a frequency (row, column), seen by the pixel it moves."""
    columns = []
    for frequency in ((0, 1), (1, 0)):
        image = np.zeros((1, 8, 8), np.uint16)
        image[0][frequency] = 1
        found = DetectorGeometry((8, 8), orientation=orientation, dc="corner").frames(image).counts[0]
        row, column = np.argwhere(found)[0]
        columns.append([(row + 4) % 8 - 4, (column + 4) % 8 - 4])
    return np.array(columns[::-1]).T


def matrix_of_axes(flags: str) -> np.ndarray:
    """(2, 2) what the source does to a position (y, x) when these options are given, by moving two unit vectors."""
    swap = "--swap-axes" in flags
    scan = ScanGeometry(
        *((1, 0) if swap else (0, 1)), -1 if "--reverse-y" in flags else 1, -1 if "--reverse-x" in flags else 1
    )
    return scan.positions_m(np.eye(2)).T


@pytest.mark.parametrize(("given", "better"), [(g, b) for g in range(8) for b in range(8)])
def test_what_is_advised_is_absolute(given: int, better: int) -> None:
    """Given one way and better another way relative to it: the options named do both, by pixels and by positions."""
    wanted = matrix_of_frames(better) @ matrix_of_frames(given)
    frames = Candidate(better, False, None, 1.0)
    named = advice.orientation_option(frames, Given(given, 5, "centre"))
    np.testing.assert_array_equal(matrix_of_frames(named), wanted)
    said = advice.sentence(frames, Given(given, 5, "centre"), signed=True)
    assert said == "" if better == 0 else said.startswith(f"give --orientation {named}")

    flags = ["--swap-axes", "--reverse-y", "--reverse-x"]
    now = " ".join(flag for flag, on in zip(flags, ORIENTATIONS[given], strict=True) if on)
    # Frames and probe turned: the same experiment as the positions turned back.
    wanted = np.linalg.inv(matrix_of_frames(better)) @ matrix_of_axes(now)
    axes = Candidate(better, False, None, 1.0, with_probe=True)
    text = advice.axes_option(axes, Given(2, given, "centre"))
    np.testing.assert_array_equal(matrix_of_axes("" if text.startswith("none") else text), wanted)
    assert better == 0 or text in advice.sentence(axes, Given(2, given, "centre"), signed=True)


def test_where_dc_lies_is_said_by_name() -> None:
    moved = Candidate(0, True, None, 1.0)
    assert advice.sentence(moved, Given(0, 0, "corner"), signed=True) == "give --dc centre"
    assert advice.sentence(moved, Given(3, 0, "centre"), signed=True) == "give --dc corner"
    assert "half a frame from --dc 3,40" in advice.sentence(moved, Given(0, 0, (3, 40)), signed=True)


def test_the_twin_is_named_where_no_sign_was_given() -> None:
    best = Candidate(2, False, 1e-3, 1.0)
    cold = advice.sentence(best, Given(0, 0, "centre"), signed=False)
    assert "--orientation 2" in cold and "--orientation 1 with a defocus of -1.000 mm" in cold
    assert "twin" not in advice.sentence(best, Given(0, 0, "centre"), signed=True)


def test_what_noise_explains_is_no_difference() -> None:
    """At low dose nearly all of the misfit is the counts' own: a small difference is all there is to go by."""
    right, wrong = (Candidate(k, False, None, misfit, explained=135.0) for k, misfit in ((0, 154.0), (1, 170.0)))
    assert right.clearly_beats(wrong) and not wrong.clearly_beats(right)
    bare = [Candidate(k, False, None, misfit) for k, misfit in ((0, 154.0), (1, 170.0))]
    assert not bare[0].clearly_beats(bare[1])


def test_only_a_probe_near_focus_is_its_own_twin() -> None:
    focus = scene.start_probe(scene.scan(), off=0.0).modes
    assert is_its_twin(focus) and is_its_twin(focus * np.complex64(1j))
    assert not is_its_twin(scene.start_probe(scene.scan()).modes)


def test_alternatives_are_left_out_where_the_given_geometry_clearly_fits() -> None:
    made = scene.scan()
    looked = {}
    for wrong in (0, 1, 3):
        engine = Ptychography.fresh(scene.options(made, check_geometry=True), scene.header(made))
        engine.ingest(scene.batch(made, pixels=turned(scene.counts(made), wrong)))
        while engine.opening.pending:
            engine.step()
        looked[wrong] = engine.opening
    assert [c.orientation for c in looked[0].geometry] == [0] and looked[0].geometry[0].learns
    for wrong in (1, 3):
        best = looked[wrong].better
        assert best is not None and best.orientation == cure(wrong)


def test_at_low_dose_what_learns_nothing_is_told_by_all_frames_together() -> None:
    """A thousand counts a frame: misfits differ by a hundredth, and by thousands in likelihood."""
    right = Candidate(3, False, None, 605.0, explained=531.0, learnt=0.2, frames=120)
    wrong = Candidate(0, False, None, 613.0, explained=531.0, learnt=-0.1, frames=120)
    assert right.clearly_beats(wrong) and not wrong.clearly_beats(right)
    assert not right.clearly_beats(dataclasses.replace(wrong, learnt=0.1)), "both agree with the frames"
    assert not dataclasses.replace(right, misfit=612.5).clearly_beats(wrong), "a difference of noise"
    bare = [dataclasses.replace(c, explained=0.0) for c in (right, wrong)]
    assert not bare[0].clearly_beats(bare[1]), "not counts: no likelihood"
