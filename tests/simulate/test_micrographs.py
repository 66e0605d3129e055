"""Simulated micrographs: physics by closed forms, halves with independent noise, and their files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from beamside.cli import simulate_micrographs
from beamside.cli.main import main
from beamside.errors import InputError, OptionError
from beamside.optics.fourier import to_real
from beamside.simulate.micrograph_files import write_micrographs
from beamside.simulate.micrographs import DETECTORS, Recipe, Session, ice_amplitude, interaction_per_VA
from beamside.simulate.projector import Projector
from beamside.simulate.structures import (
    ABOVE_ICE_V,
    BUILT_IN,
    Structure,
    add_projection,
    random_rotation,
    random_structure,
)
from beamside.simulate.volumes import density

RECIPE = Recipe(size_px=256, pixel_size_A=2.6, count=2, seed=4)
QUIET = dataclasses.replace(RECIPE, structures=("small",), coverage=0.0, illumination=0.0, ice_rad=0.0)


def test_interaction_constant() -> None:
    """Kirkland 2010, table 5.1 and eq. 5.6: 6.526e-4 rad/(V A) at 300 kV, 7.288e-4 at 200 kV."""
    assert interaction_per_VA(300.0) == pytest.approx(6.526e-4, rel=1e-3)
    assert interaction_per_VA(200.0) == pytest.approx(7.288e-4, rel=1e-3)


def test_a_projection_is_that_of_the_map() -> None:
    """Against central sections of the same atoms as a map, which know nothing of plane Gaussians."""
    box, px = 96, 3.0
    atoms, weights = BUILT_IN["walk"]().positions_A, np.ones(2490)
    rotation = random_rotation(np.random.default_rng(2))
    section = Projector(density(atoms, weights, box, px)).sections(rotation[None])
    expected = to_real(section, box)[0].numpy()
    plane = np.zeros((box, box))
    centre = (box // 2 * px, box // 2 * px)
    add_projection(plane, Structure("walk", atoms, weights), rotation, centre, px)
    assert np.corrcoef(plane.ravel(), expected.ravel())[0, 1] > 0.9995


def test_a_projection_keeps_the_potential_at_any_pixel_size() -> None:
    structure = BUILT_IN["small"]()
    for px in (0.9, 2.0, 6.0):
        plane = np.zeros((160, 160)) if px > 0.9 else np.zeros((320, 320))
        add_projection(plane, structure, np.eye(3), (plane.shape[0] // 2 * px,) * 2, px)
        assert plane.sum() * px**2 == pytest.approx(structure.potential_VA3.sum(), rel=1e-3)
    assert structure.potential_VA3.sum() == pytest.approx(110 * 1210 * ABOVE_ICE_V)


def test_what_lies_outside_is_left_out() -> None:
    structure, inside, outside = BUILT_IN["small"](), np.zeros((64, 64)), np.zeros((64, 64))
    add_projection(outside, structure, np.eye(3), (-500.0, 0.0), 2.0)
    assert not outside.any()
    wide = np.zeros((128, 128))
    add_projection(inside, structure, np.eye(3), (0.0, 64.0), 2.0)
    add_projection(wide, structure, np.eye(3), (64.0, 128.0), 2.0)
    np.testing.assert_allclose(inside, wide[32:96, 32:96], atol=1e-6 * wide.max())


def test_structures_are_centred_and_differ() -> None:
    drawn = [random_structure(np.random.default_rng(seed)) for seed in range(20)]
    for structure in [make() for make in BUILT_IN.values()] + drawn:
        centre = np.average(structure.positions_A, axis=0, weights=structure.potential_VA3)
        assert np.abs(centre).max() < 1e-6 and structure.potential_VA3.min() > 0
        assert 20 < structure.diameter_A < 500
    assert len({round(structure.diameter_A, 3) for structure in drawn}) == 20


def test_rotations_are_rotations() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([random_rotation(rng) for _ in range(2000)])
    np.testing.assert_allclose(drawn @ drawn.transpose(0, 2, 1), np.broadcast_to(np.eye(3), drawn.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(drawn), 1)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.05)


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_counts_follow_dose_dqe_and_poisson(detector: str) -> None:
    made = Session(dataclasses.replace(QUIET, detector=detector, blur_px=0.0)).micrograph(0)
    expected = 40.0 * 2.6**2 * DETECTORS[detector].dqe0
    assert made.full.mean() == pytest.approx(expected, rel=2e-3)
    assert made.even.var() == pytest.approx(expected / 2, rel=0.03)
    np.testing.assert_allclose(made.clean, expected, rtol=1e-5)


def test_halves_share_the_signal_and_no_noise() -> None:
    made = Session(RECIPE).micrograph(0)
    even, odd = (half - made.signal / 2 for half in (made.even, made.odd))
    assert abs(np.corrcoef(even.ravel(), odd.ravel())[0, 1]) < 4 / 256
    shared = made.signal - made.signal.mean()
    assert (made.full * shared).mean() == pytest.approx(shared.var(), rel=0.1)


def test_interpolation_leaves_noise_that_is_not_white() -> None:
    sharp, soft = (Session(dataclasses.replace(QUIET, blur_px=b)).micrograph(0).even for b in (0.0, 0.5))
    neighbours = [np.corrcoef(i[:, 1:].ravel(), i[:, :-1].ravel())[0, 1] for i in (sharp, soft)]
    assert abs(neighbours[0]) < 0.02
    # White noise under a Gaussian of sigma s: exp(-1/(4 s^2)) between neighbours, a little more for the sampled one.
    assert neighbours[1] == pytest.approx(np.exp(-1), abs=0.04)


def test_molecules_are_dark_at_underfocus_and_bright_over() -> None:
    for defocus_um, sign in ((1.5, -1), (-1.5, 1)):
        recipe = dataclasses.replace(
            RECIPE, defocus_um=(defocus_um, defocus_um), cs_mm=0.0, amplitude_contrast=0.0, illumination=0.0
        )
        made = Session(recipe).micrograph(0)
        contrast = made.clean[made.mask].mean() - made.clean[~made.mask].mean()
        assert sign * contrast > 0


def test_contrast_is_the_weak_phase_formula() -> None:
    """One atom in the middle: its spectrum is -2 sigma V(k) sin(chi) by the formula written out."""
    recipe = dataclasses.replace(
        QUIET, coverage=0.0, blur_px=0.0, detector="ideal", defocus_um=(1.0, 1.0), astigmatism_A=0.0, contrast=1.0
    )
    session = Session(recipe, [])
    rng = np.random.default_rng(0)
    optics = session._draw_optics(rng)
    ky, kx = session._k_per_A
    k2 = ky**2 + kx**2
    wavelength = 0.0196875
    chi = np.pi * wavelength * 1e4 * k2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * k2**2
    expected = -2 * (np.sqrt(1 - 0.07**2) * np.sin(chi) + 0.07 * np.cos(chi)) * np.exp(-60 * k2 / 4)
    np.testing.assert_allclose(session._transfer(optics), expected, atol=2e-3)


def test_ice_does_not_depend_on_the_pixel_size() -> None:
    """Its rms below 1/10 A is the same at 1 and at 3 A a pixel."""
    found = []
    for px in (1.0, 3.0):
        session = Session(dataclasses.replace(QUIET, pixel_size_A=px, ice_rad=0.02, size_px=512))
        ice = session._ice(np.random.default_rng(1))
        ky, kx = session._k_per_A
        found.append(session._filtered(ice, (np.hypot(ky, kx) < 0.1).astype(float)).std())
    assert found[0] == pytest.approx(found[1], rel=0.1)
    assert ice_amplitude(np.array([0.0, 1 / 3.7]))[0] > ice_amplitude(np.array([1 / 3.7]))[0] > 0.3


def test_gold_carbon_and_contamination() -> None:
    plain = Session(QUIET).micrograph(0)
    gold = Session(dataclasses.replace(QUIET, gold=6)).micrograph(0)
    film = Session(dataclasses.replace(QUIET, carbon=True)).micrograph(0)
    dirt = Session(dataclasses.replace(QUIET, contamination=3)).micrograph(0)
    assert gold.clean.min() < 0.4 * plain.clean.mean() < film.clean.min()
    assert film.clean.min() < 0.9 * plain.clean.mean() and dirt.clean.min() < 0.9 * plain.clean.mean()
    assert film.signal.std() > film.clean.std()


def test_a_displacement_moves_the_odd_half() -> None:
    moved = Session(dataclasses.replace(RECIPE, shift_px=(3.0, -2.0), contrast=3.0)).micrograph(0)
    spectra = [np.fft.rfft2(half - half.mean()) for half in (moved.even, moved.odd)]
    k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(129 * 2 - 2)[None])
    peak = np.fft.irfft2(np.conj(spectra[0]) * spectra[1] * (k < 0.1))
    assert np.unravel_index(peak.argmax(), peak.shape) == (3, 254)


def test_a_movie_is_what_the_halves_are_made_of() -> None:
    made = Session(dataclasses.replace(RECIPE, frames=6, blur_px=0.0)).micrograph(0)
    assert made.movie.shape == (6, 256, 256) and made.movie.dtype == np.uint16
    np.testing.assert_allclose(made.movie[0::2].sum(0), made.even, atol=1e-3)
    np.testing.assert_allclose(made.movie[1::2].sum(0), made.odd, atol=1e-3)


def test_a_micrograph_depends_on_the_seed_and_its_number_alone() -> None:
    session = Session(QUIET)
    second = session.micrograph(1).even
    np.testing.assert_array_equal(Session(QUIET).micrograph(1).even, second)
    assert not np.array_equal(session.micrograph(0).even, second)
    torch.manual_seed(3)
    np.testing.assert_array_equal(session.micrograph(1).even, second)


def test_files(tmp_path: Path) -> None:
    slept: list[float] = []
    write_micrographs(tmp_path / "s", Session(QUIET), every_s=5.0, sleep=slept.append, clock=lambda: 0.0)
    assert slept == [5.0]
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == [f"mic000{n}_{kind}.mrc" for n in (0, 1) for kind in ("even", "full", "odd")]
    with mrcfile.open(tmp_path / "s" / "mic0001_full.mrc") as file:
        full, pixel = file.data.copy(), float(file.voxel_size.x)
    assert pixel == pytest.approx(2.6) and full.shape[-2:] == (256, 256)
    np.testing.assert_array_equal(full.reshape(256, 256), Session(QUIET).micrograph(1).full)
    truth = json.loads((tmp_path / "s_truth" / "mic0000.json").read_text())
    assert truth["particles"] == [] and 8000 <= truth["defocus_v_A"] <= 22000
    with pytest.raises(InputError, match="not empty"):
        write_micrographs(tmp_path / "s", Session(QUIET))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["simulate", "micrographs", str(tmp_path / "s"), "--count", "1", "--size", "64", "--frames", "4", "--live"]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "1 micrographs of 64 px" in said.out and "1 of 1" in said.err
    with mrcfile.open(tmp_path / "s_movies" / "mic0000.mrcs") as movie:
        assert movie.data.shape == (4, 64, 64)
    assert json.loads((tmp_path / "s.json").read_text())["frames"] == 4
    assert main([*given[:2], str(tmp_path / "t"), "--every", "3"]) == 2
    assert "without --live" in capsys.readouterr().err
    assert set(simulate_micrographs.DETECTORS) == set(DETECTORS)


@pytest.mark.parametrize(
    "wrong",
    [{"size_px": 10}, {"pixel_size_A": 0}, {"count": 0}, {"structures": ("house",)}, {"coverage": 0.9},
     {"defocus_um": (2, 1)}, {"detector": "film"}, {"ice_rad": -1}, {"illumination": 2}, {"seed": -1}, {"frames": 3}],
)  # fmt: skip
def test_impossible_recipes(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="must"):
        dataclasses.replace(RECIPE, **wrong)  # type: ignore[arg-type]
