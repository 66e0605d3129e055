"""A volume from class averages: a class as one particle, recovery from true classes, and the second search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from beamside.classify import cells, plan, sphere, survey
from beamside.classify.abinitio import Composites, found_volume
from beamside.classify.atlas import Atlas
from beamside.classify.average import component_columns
from beamside.classify.engine import Classifier
from beamside.classify.options import ClassifyOptions
from beamside.classify.schedule import Band, closing_stages, create_stages, slow_stages
from beamside.optics.rotation import euler_matrix
from tests.classify import scene
from tests.classify.test_engine import copied
from tests.classify.test_survey import loud, options

COUNT = 700


def surveying(made: Any, label: str, **changed: Any) -> tuple[Classifier, Atlas]:
    """An engine that has entered its stage of that label."""
    engine = Classifier.fresh(options(start="volume", **changed), scene.HEADER)
    engine.ingest(scene.batch(made, np.arange(COUNT)))
    while not (engine.tasks and engine.tasks[0].kind == "look" and engine.tasks[0].label.startswith(label)):
        engine.step()
    assert engine.survey.atlas is not None
    return engine, engine.survey.atlas


def orientations(made: Any) -> NDArray[np.float64]:
    truth = made.truth
    return np.stack([euler_matrix(*a) for a in zip(truth.rot_deg, truth.tilt_deg, truth.psi_deg, strict=True)])


def test_a_class_is_worth_what_its_members_are_together() -> None:
    """The product of a class with a reference is the sum of its members', each with the reference turned as it is."""
    _, atlas = surveying(loud(), "round 1, volume 1", iterations=2)
    model, rows = atlas.model, torch.tensor([3, 8, 20])
    alpha = torch.zeros(COUNT)
    alpha[rows] = torch.tensor([0.3, -1.2, 2.9])
    label = torch.ones(COUNT, dtype=torch.int64)
    made = Composites.of(atlas, label, alpha, rows, 2)
    assert torch.allclose(made.ctf2[1], model.ctf2[rows].sum(0), rtol=1e-5) and not made.vectors[0].any()
    subspace = model.frame.encoder.subspace
    real, imaginary = component_columns(subspace.sizes)
    generator = torch.Generator().manual_seed(0)
    reference = torch.complex(*torch.randn(2, subspace.dimension, generator=generator))
    orders = subspace.orders
    members = torch.complex(model.vectors[rows][:, real], model.vectors[rows][:, imaginary])
    turned = reference * torch.exp(-1j * orders * alpha[rows][:, None])
    together = torch.complex(made.vectors[1, real], made.vectors[1, imaginary])
    expected = (members.conj() * turned).real.sum()
    assert abs(float((together.conj() * reference).real.sum() - expected)) < 1e-3 * float(expected.abs() + 1)


def test_the_volume_of_true_classes_is_found_from_random_orientations() -> None:
    """Particles in cells of their true directions, in their true poses: the directions come out again."""
    made = loud()
    engine, atlas = surveying(made, "round 1, volume 1", classes=24, iterations=2)
    engine.population.centres_px[:] = -torch.as_tensor(
        np.stack([made.truth.origin_x_px, made.truth.origin_y_px], 1)
    ).float()
    atlas.model.encode(engine.population, engine.population.rows)
    poses = orientations(made)
    made_of = sphere.frames_along(cells.centres(poses[:, 2], 24, np.random.default_rng(0)))
    label, alpha = cells.placed(poses, made_of)
    classes = Composites.of(atlas, label, alpha, engine.population.rows, 24)
    starts = [found_volume(atlas, classes, seed) for seed in range(3)]
    volume, score = max(starts, key=lambda start: start[1])
    assert score > 0.5 * classes.explained(atlas)
    atlas.take(volume)
    known, rows = engine.survey.sightings, engine.population.rows
    atlas.look(rows, known, 1.0, learn=False)
    found = atlas.poses(known, rows)[:, 2] @ atlas.poses(known, rows)[:, 2].T
    true = poses[:, 2] @ poses[:, 2].T
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.8


@pytest.fixture
def refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first volume is refused whatever it is worth; one start from the averages."""
    needed = survey.Survey._needed

    def _needed(self: survey.Survey, atlas: Atlas) -> float:
        return math.inf if self.refused == 0 else needed(self, atlas)

    monkeypatch.setattr(survey.Survey, "_needed", _needed)
    monkeypatch.setattr(plan, "STARTS", 1)


@pytest.mark.usefixtures("refused_once")
def test_where_no_volume_is_found_one_is_sought_from_the_averages() -> None:
    made = loud()
    engine = scene.run(made, options(start="auto"))
    assert engine.survey.cells is not None and engine.survey.refused == 1 and not engine.survey.note


def test_a_volume_refused_twice_leaves_free_classes_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey.Survey, "_needed", lambda self, atlas: math.inf)
    monkeypatch.setattr(plan, "STARTS", 1)
    made = loud()
    engine = Classifier.fresh(options(start="auto", iterations=3), scene.HEADER)
    engine.ingest(scene.batch(made, np.arange(COUNT)))
    while not (engine.tasks and engine.tasks[0].kind == "averages"):
        engine.step()
    engine.step()
    before, label = engine.population.centres_px.clone(), engine.known.label.clone()
    while engine.survey.refused < 2:
        engine.step()
    assert torch.equal(engine.population.centres_px, before) and torch.equal(engine.known.label, label)
    scene.settle(engine)
    assert engine.survey.cells is None and "no better than free classes" in engine.survey.note
    assert engine.snapshot().coverage == 1.0


def test_refused_classes_are_cooled_down_slowly_unless_passes_are_counted_or_particles_many() -> None:
    band = Band(64, 40.0, 20)
    slow, quick = slow_stages(band, COUNT), create_stages(band, None)
    assert [stage.name for stage in slow] == [stage.name for stage in quick]
    assert sum(stage.passes for stage in slow) > 5 * sum(stage.passes for stage in quick)
    assert slow_stages(band, 100_000) == quick

    def entered(passes: int | None, *, again: bool, refused: bool) -> list[Any]:
        chosen = ClassifyOptions(iterations=passes)
        return stages_of(plan.free_round(chosen, band, "round 1", COUNT, again=again, refused=refused))

    def stages_of(tasks: list[plan.Task]) -> list[Any]:
        return [task.stage for task in tasks if task.kind == "stage"]

    assert entered(None, again=False, refused=False) == quick
    assert entered(None, again=False, refused=True) == slow
    assert entered(None, again=True, refused=True) == [*quick[:2], *slow]
    assert entered(9, again=True, refused=True) == entered(9, again=False, refused=True) == create_stages(band, 9)
    closing = plan.closing_round(ClassifyOptions(), band, COUNT, held=False, refused=True)
    assert stages_of(closing) == slow[1:]


def test_an_engine_whose_volumes_were_refused_closes_slowly() -> None:
    stages = {}
    for refused in (0, 1):
        engine = Classifier.fresh(options(start="classes", iterations=None), scene.HEADER)
        engine.ingest(scene.batch(loud(), np.arange(COUNT)))
        engine.step()
        engine.survey.refused = refused
        engine.close()
        stages[refused] = [task.stage for task in engine.tasks if task.kind == "stage"]
    assert stages[1] == slow_stages(engine.band, COUNT)[1:]
    assert stages[0] == closing_stages(engine.band, None, anneal=True)


@pytest.mark.slow
@pytest.mark.usefixtures("refused_once")
def test_a_second_search_is_resumed_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_HOPELESS", -math.inf)
    made = loud()
    chosen = options(start="auto", iterations=3, classes=8)
    whole, broken = (Classifier.fresh(chosen, scene.HEADER) for _ in range(2))
    given = [scene.batch(made, np.arange(COUNT))]
    for engine in (whole, broken):
        engine.ingest(given[0])
    kinds, idle, told, provisos = set(), False, 0.0, set[str]()
    while not idle:
        task = broken.tasks[0]
        if broken.survey.refused and (task.kind, task.label) not in kinds:
            kinds.add((task.kind, task.label))
            broken = Classifier.resume(chosen, scene.HEADER, copied(broken.state()), given)
        one, other = whole.step(), broken.step()
        assert (one.label, one.fraction, one.proviso) == (other.label, other.fraction, other.proviso)
        assert one.fraction >= told or "fit" in one.label, "a plan that grows says so"
        assert one.proviso or whole.survey.refused, "a volume may be refused"
        provisos.add(one.proviso)
        idle, told = one.idle, one.fraction
    assert {"averages", "start", "weigh", "look", "divide"} <= {kind for kind, _ in kinds}
    assert provisos == {"longer if no volume fits", "longer if a volume fits the averages", ""}
    assert scene.same_bits(whole, broken)
