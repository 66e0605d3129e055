"""The same particles give classes of the same quality however they are split in time."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.classify.engine import Classifier
from beamside.optics.rotation import euler_matrix
from beamside.simulate.particles import Session
from tests.classify import scene

COUNT, CLASSES, WITHIN_DEG = 1500, 12, 30.0


def purity(engine: Classifier, made: Session) -> float:
    """Share of the particles whose true viewing direction is within 30 degrees of their class's mean direction."""
    labels = engine.snapshot().tables["particles"]["class_number"]
    truth = made.truth
    views = np.stack(
        [euler_matrix(*angles)[2] for angles in zip(truth.rot_deg, truth.tilt_deg, truth.psi_deg, strict=True)]
    )
    near = 0
    for k in np.unique(labels):
        mine = views[labels == k]
        middle = mine.mean(0)
        cosine = mine @ middle / max(float(np.linalg.norm(middle)), 1e-9)
        near += int((cosine > np.cos(np.radians(WITHIN_DEG))).sum())
    return near / len(labels)


@pytest.mark.slow
def test_batches_give_the_quality_of_all_at_once() -> None:
    """Three seeds, and two ways to split; the means differ by less than 2 %."""
    found: dict[str, list[float]] = {}
    splits = {"all at once": (COUNT, None), "halves": (COUNT // 2, None), "a start and small batches": (500, 200)}
    for seed in (1, 2, 3):
        made = scene.session(COUNT, snr=0.3, seed=seed)
        for name, (first, later) in splits.items():
            chosen = scene.options(
                classes=CLASSES, first_batch=first, batch_size=later, iterations=None, seed=seed, training_particles=500
            )
            found.setdefault(name, []).append(purity(scene.run(made, chosen), made))
    whole = np.mean(found.pop("all at once"))
    assert whole > 0.3, "the views are told apart at all: chance is 0.07"
    for name, split in found.items():
        assert np.mean(split) > whole - 0.02, f"{name}: {np.mean(split):.3f}, all at once {whole:.3f}"
