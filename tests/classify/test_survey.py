"""Classes that start from a volume: found, refused where there is none, streamed, resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from beamside.classify import plan
from beamside.classify.engine import Classifier
from beamside.classify.options import ClassifyOptions
from beamside.classify.schedule import view_stages
from beamside.classify.slices import Latitudes, Slices
from beamside.errors import OptionError
from beamside.simulate.particles import Session
from tests.classify import scene
from tests.classify.test_engine import copied
from tests.classify.test_streaming import purity

COUNT, CLASSES = 700, 10


def options(**changed: Any) -> ClassifyOptions:
    standard: dict[str, Any] = {
        "classes": CLASSES, "first_batch": COUNT, "iterations": 12, "start": "volume", "training_particles": 300,
    }  # fmt: skip
    return scene.options(**(standard | changed))


def loud(seed: int = 1) -> Session:
    return scene.session(COUNT, snr=0.4, seed=seed)


@pytest.mark.slow
def test_a_volume_tells_views_apart_better_than_free_classes_do() -> None:
    found = {
        start: np.mean([purity(scene.run(loud(seed), options(start=start, seed=seed)), loud(seed)) for seed in (1, 2)])
        for start in ("classes", "volume", "auto")
    }
    assert found["volume"] > found["classes"] + 0.05, found
    assert found["auto"] > found["classes"] + 0.05, f"auto takes the volume where it is better: {found}"


def test_noise_has_no_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of noise alone: `auto` says that the volume explains nothing, and classes begin without it."""
    monkeypatch.setattr(plan, "STARTS", 1)
    made = loud()
    images = np.random.default_rng(0).normal(size=(COUNT, scene.BOX, scene.BOX)).astype(np.float32)
    engine = Classifier.fresh(options(start="auto", iterations=3), scene.HEADER)
    engine.ingest(scene.batch(made, np.arange(COUNT), images))
    scene.settle(engine)
    assert engine.survey.cells is None and "no better than free classes" in engine.survey.note
    assert engine.model is not None and engine.snapshot().coverage == 1.0


def test_strange_particles_get_classes_of_their_own() -> None:
    made = loud()
    images = made.images(np.arange(COUNT)).copy()
    junk = np.arange(0, COUNT, 4)
    images[junk] = np.random.default_rng(0).normal(size=(len(junk), scene.BOX, scene.BOX))
    engine = Classifier.fresh(options(), scene.HEADER)
    engine.ingest(scene.batch(made, np.arange(COUNT), images))
    scene.settle(engine)
    spare = engine.classes - engine.survey.regular
    assert 1 <= spare <= CLASSES // 2
    label = engine.snapshot().tables["particles"]["class_number"] - 1
    is_junk = np.isin(np.arange(COUNT), junk)
    strange = label >= engine.survey.regular
    assert strange[is_junk].mean() > 0.85 and strange[~is_junk].mean() < 0.1


@pytest.mark.slow
def test_new_particles_join_the_classes_of_their_directions() -> None:
    """In two batches as good as at once; classes keep their directions from round to round, but for the last one."""
    made = loud()
    whole = scene.run(made, options())
    engine = Classifier.fresh(options(first_batch=400), scene.HEADER)
    engine.ingest(scene.batch(made, np.arange(400)))
    scene.settle(engine)
    first = np.array(engine.survey.cells)
    early = engine.snapshot().tables["particles"]["class_number"].copy()
    engine.ingest(scene.batch(made, np.arange(400, COUNT)))
    scene.settle(engine)
    assert engine.snapshot().coverage == 1.0, "new particles have classes before the source closes"
    assert np.array_equal(first, np.array(engine.survey.cells))
    engine.close()
    scene.settle(engine)
    last = np.array(engine.survey.cells)
    assert np.array_equal((first[:, 2] @ last[:, 2].T).argmax(1), np.arange(CLASSES)), "each stays the class it was"
    assert np.degrees(np.arccos(np.clip((first * last).sum(2), -1, 1))).max() < 45
    late = engine.snapshot().tables["particles"]["class_number"][:400]
    assert (late == early).mean() > 0.6, "labels of earlier particles mostly stay"
    assert purity(engine, made) > purity(whole, made) - 0.05


@pytest.mark.parametrize("first_is_better", [True, False])
def test_the_likelier_of_two_volumes_goes_on(first_is_better: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "starts_twice", lambda options, particles: True)
    engine = Classifier.fresh(options(iterations=3), scene.HEADER)
    engine.ingest(scene.batch(loud(), np.arange(COUNT)))
    while engine.tasks[0].kind != "better":
        engine.step()
    survey = engine.survey
    assert survey.atlas is not None and survey.atlas.volume is not None and survey.rival is not None
    mine, rival, scores = survey.atlas.volume.harmonics, survey.rival.harmonics, survey.sightings.score[:, 0].clone()
    assert not torch.allclose(mine, rival), "another start is another start"
    survey.rival_score = float(scores.double().mean()) + (1.0 if first_is_better else -1.0)
    engine.step()
    assert survey.rival is None
    torch.testing.assert_close(survey.atlas.volume.harmonics, rival if first_is_better else mine)
    assert torch.equal(survey.sightings.score[:, 0], scores) != first_is_better, "its own orientations go with it"


def test_resumed_at_every_stage_is_uninterrupted_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine goes through; the other is taken up from its state again and again, in every kind of step."""
    monkeypatch.setattr(plan, "starts_twice", lambda options, particles: True)
    made = loud()
    chosen = options(first_batch=500, iterations=4, classes=5)
    whole, broken = (Classifier.fresh(chosen, scene.HEADER) for _ in range(2))
    given = [scene.batch(made, rows) for rows in (np.arange(0, 500), np.arange(500, COUNT))]
    steps, kinds = 0, set()
    for index in range(3):
        for engine in (whole, broken):
            if index < 2:
                engine.ingest(given[index])
            else:
                engine.close()
        idle = False
        while not idle:
            kind = (index, broken.tasks[0].kind, broken.tasks[0].label[:16])
            if kind not in kinds or steps % 5 == 0:
                kinds.add(kind)
                broken = Classifier.resume(chosen, scene.HEADER, copied(broken.state()), given[: index + 1])
            progress, other = whole.step(), broken.step()
            assert progress.label == other.label
            steps += 1
            idle = progress.idle
    assert {"views", "look", "keep", "better", "divide", "stage", "pass", "meet", "finish"} <= {
        kind for _, kind, _ in kinds
    }
    assert scene.same_bits(whole, broken)


def test_a_volume_that_cannot_be_is_refused() -> None:
    with pytest.raises(OptionError, match="--start volume does not go with --mirror"):
        options(mirror=True)


def test_the_hand_of_the_volume_does_not_matter() -> None:
    """The mirrored volume has the same slices: what it shows across the pole, turned half round, is what it showed."""
    azimuth, degree, orders = 0.4, 5, 6
    views = Latitudes(np.array([0.7]), (np.array([azimuth, azimuth + np.pi]),))
    slices = Slices.along(views, orders, degree)
    # Y_lm(x, y, -z) = (-1)^(l+m) Y_lm: the harmonics of the mirrored volume.
    sign = np.concatenate([[(-1.0) ** (l + m) for m in range(-l, l + 1)] for l in range(degree + 1)])  # noqa: E741
    of = np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)
    ordered = torch.as_tensor(np.concatenate([sign[of % 2 == 0], sign[of % 2 == 1]])).float()[:, None]
    harmonics = torch.randn(len(ordered), 1)
    turned = (-1.0) ** torch.arange(orders)[:, None]
    here, there = slices.project(harmonics)[0], slices.project(harmonics * ordered)[1]
    assert torch.allclose(here, there * turned, atol=1e-5)


def test_many_particles_like_noise_are_left_out_of_other_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter are noise: two more volumes are begun, without nearly all of these and with most of the others."""
    monkeypatch.setattr(plan, "view_stages", lambda band, iterations: view_stages(band, 6))
    made, noise = loud(), np.arange(COUNT) % 4 == 0
    clear = made.images(np.arange(COUNT))
    spoiled = clear.copy()
    spoiled[noise] = clear.std() * np.random.default_rng(3).standard_normal(spoiled[noise].shape)
    healthy, noisy = (sifted(made, images) for images in (clear, spoiled))
    assert not len(healthy.survey.noisy) and sum(task.kind == "better" for task in healthy.tasks) == 1
    assert sum(task.kind == "better" and not task.maybe for task in noisy.tasks) == 2
    found = noisy.survey.noisy.numpy()
    assert found[noise].mean() > 0.9 and found[~noise].mean() < 0.4


def sifted(made: Session, images: NDArray[np.float32]) -> Classifier:
    """An engine that has looked for noise after its first volume."""
    engine = Classifier.fresh(options(start="auto", iterations=None), scene.HEADER)
    engine.ingest(scene.batch(made, np.arange(COUNT), images))
    while not (engine.tasks and engine.tasks[0].kind == "sift"):
        engine.step()
    engine.step()
    return engine
