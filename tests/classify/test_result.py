"""Restoration, diameter, export and gallery, against truth and other programs' readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from beamside.classify import restore as restoring
from beamside.classify.diameter import from_images
from beamside.classify.engine import Classifier
from beamside.classify.expectation import Assignment
from beamside.classify.export import write_result
from beamside.classify.finish import restore
from beamside.classify.picture import caption, columns, headline, tile, write_gallery
from beamside.classify.restore import Restoration
from beamside.optics.frc import ring_correlation
from beamside.optics.rotation import align_images
from beamside.run.engine import Snapshot
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.volumes import load_volume
from tests.classify.scene import BOX, HEADER, PIXEL_A, batch, options, run, session, settle


def test_restoration_undoes_poses() -> None:
    """Noise-free particles without contrast transfer, each in a class of its own, restore their projections."""
    volume, _ = load_volume("walk", 48, 5.0, 0.0)
    flat_ctf = {"defocus_um": (0.0, 0.0), "astigmatism_A": 0.0, "cs_mm": 0.0, "amplitude_contrast": 1.0}
    made = Session(volume, Recipe(48, 5.0, 60, snr=1e6, shift_px=3.0, seed=2, **flat_ctf))
    truth, rows = made.truth, np.arange(60)
    sums = Restoration(60, 48, 5.0)
    images = made.images(rows)
    flat = np.ones((60, 25))
    args = (truth.psi_deg, truth.origin_x_px, truth.origin_y_px, np.ones(60), rows % 2, flat)
    sums.add(images, truth.optics, rows, *args)
    found = sums.averages()
    psi, oy, ox = (torch.as_tensor(v).float() for v in (truth.psi_deg, truth.origin_y_px, truth.origin_x_px))
    expected = align_images(torch.as_tensor(images), psi, oy, ox)
    curve = ring_correlation(torch.as_tensor(found.images).double(), expected.double())
    assert float(curve[:, 1:16].mean()) > 0.9
    assert np.isfinite(found.images).all()


def test_a_particle_is_in_every_class_that_it_may_belong_to() -> None:
    """By its posterior probabilities, each candidate with its own pose, whichever of them is called the best."""
    made = session(snr=0.1)
    engine = Classifier.fresh(options(first_batch=240), HEADER)
    engine.ingest(batch(made, np.arange(240)))
    settle(engine)
    assert engine.model is not None
    known = engine.known
    torn = (known.weight[:, 1] > 0.1) & (known.shift[:, 1] != known.shift[:, 0])
    assert torn.sum() > 10
    found = restore(engine.model, engine.population, known, free=True)
    expected = torch.zeros(4).index_add(0, known.label.flatten(), known.weight.flatten())
    assert np.allclose(found.occupancy, expected, atol=1e-3)
    turned = (getattr(known, name).flip(1) for name in ("score", "label", "alpha", "shift", "weight"))
    again = restore(engine.model, engine.population, Assignment(*turned, known.presence), free=True)
    assert np.allclose(found.images, again.images, atol=1e-4 * found.images.std())


@pytest.mark.parametrize("held", [True, False])
def test_averages_are_damped_by_order_where_no_volume_tells_the_views(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Classifier.fresh(options(first_batch=120), HEADER)
    engine.ingest(batch(session(), np.arange(120)))
    settle(engine)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(restoring, "damped", lambda images, *rest: seen.append(images) or images)
    if held:
        engine.survey.cells = np.eye(3)[None]
    engine.close()
    assert [task.kind for task in engine.tasks] == ["finish"]
    engine.step()
    assert engine.final is not None and bool(seen) is not held


def test_restorations_add_up() -> None:
    made = session()
    rows, truth = np.arange(40), made.truth
    images = made.images(rows)

    def part(own: np.ndarray) -> Restoration:
        sums = Restoration(2, BOX, PIXEL_A)
        poses = (truth.psi_deg[own], truth.origin_x_px[own], truth.origin_y_px[own])
        flat = np.ones((len(own), BOX // 2 + 1))
        sums.add(images[own], truth.optics.take(own), own % 2, *poses, np.ones(len(own)), own // 2 % 2, flat)
        return sums

    total = part(rows[:15])
    total += part(rows[15:])
    assert np.allclose(total.averages().images, part(rows).averages().images, atol=1e-4)
    empty = Restoration(3, BOX, PIXEL_A).averages()
    assert not empty.images.any() and np.isinf(empty.resolution_A).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_diameter_of_a_known_particle(seed: int) -> None:
    """The built-in molecule in a wide box: within a quarter of the radius that holds 98 % of it."""
    volume, _ = load_volume("walk", 64, 6.0, 0.0)
    made = Session(volume, Recipe(64, 6.0, 600, snr=0.1, shift_px=3.0, seed=seed))
    found = from_images(torch.as_tensor(made.images(np.arange(600))), made.truth.optics, 6.0)
    radius = np.sqrt(sum((g - 32.0) ** 2 for g in np.meshgrid(*[np.arange(64)] * 3, indexing="ij")))
    inside = volume > 0.05 * volume.max()
    true_A = 2 * 6.0 * float(np.quantile(radius[inside], 0.98))
    assert found.diameter_A is not None
    assert 0.75 * true_A < found.diameter_A < 1.3 * true_A


def test_diameter_of_noise_is_not_found() -> None:
    noise = torch.randn(500, 32, 32, generator=torch.Generator().manual_seed(0))
    found = from_images(noise, None, 8.0)
    assert found.diameter_A is None or found.confidence < 0.5


@pytest.fixture(scope="module")
def finished() -> Snapshot:
    return run(session(), options()).snapshot()


def tables(count: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    optics = {
        "rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["a"], "rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"],
        "rlnAmplitudeContrast": ["0.1"], "rlnImagePixelSize": [str(PIXEL_A)], "rlnImageSize": [str(BOX)],
        "rlnImageDimensionality": ["2"],
    }  # fmt: skip
    names = [f"{i + 1:06d}@s.mrcs" for i in range(count)]
    return optics, {"rlnImageName": names, "rlnOpticsGroup": ["1"] * count, "myColumn": ["kept"] * count}


def test_result_is_read_by_other_programs(finished: Snapshot, tmp_path: Path) -> None:
    import mrcfile
    import starfile

    data, model, classes = write_result(tmp_path, finished, *tables(240))
    table = starfile.read(data)["particles"]
    own = finished.tables["particles"]
    assert list(table["rlnClassNumber"]) == own["class_number"].tolist()
    assert np.allclose(table["rlnAnglePsi"], own["psi_deg"], atol=1e-4) and set(table["myColumn"]) == {"kept"}
    stack = mrcfile.read(classes)
    assert np.array_equal(stack, finished.arrays["class_averages"])
    described = starfile.read(model)["model_classes"]
    assert list(described["rlnReferenceImage"]) == [f"{k:06d}@{classes.name}" for k in range(1, 5)]
    assert abs(sum(described["rlnClassDistribution"]) - 1) < 1e-5


def test_gallery_is_a_picture_with_every_class(finished: Snapshot, tmp_path: Path) -> None:
    write_gallery(tmp_path / "g.png", finished)
    assert (tmp_path / "g.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert columns(50) == 9 and columns(1) == 2 and columns(900) == 20
    assert tile(np.full((4, 4), 2.0, np.float32)).tolist() == np.full((4, 4), 0.5).tolist()
    assert "240 particles" in headline(finished) and "A" in caption(finished, 0)
