"""The engine: fresh, streamed, resumed; what it finds on data with a known truth; what every option does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamside.classify.engine import Classifier
from beamside.classify.options import ClassifyOptions, References, resolve_limits
from beamside.errors import CapacityError, InputError, OptionError
from beamside.run.engine import Batch, Engine, Header, State
from tests.classify.scene import BOX, HEADER, PIXEL_A, batch, options, run, same_bits, session, settle


def copied(state: State) -> State:
    """What a checkpoint gives back: arrays of their own."""
    return State({k: np.array(v) for k, v in state.arrays.items()}, state.values)


def test_it_is_an_engine() -> None:
    assert isinstance(Classifier.fresh(options(), HEADER), Engine)


def test_every_particle_gets_a_class() -> None:
    engine = run(session(), options())
    snapshot = engine.snapshot()
    table, classes = snapshot.tables["particles"], snapshot.tables["classes"]
    assert len(table["class_number"]) == 240 and table["class_number"].min() >= 1
    assert classes["particles"].sum() == 240 and snapshot.coverage == 1.0
    assert np.isfinite(snapshot.arrays["class_averages"]).all()
    assert (snapshot.arrays["class_averages"].std((1, 2)) > 0).all()
    assert ((table["probability"] > 0) & (table["probability"] <= 1 + 1e-6)).all()


@pytest.mark.parametrize("stop_at", [0, 1, 3, 9, 20])
def test_resumed_is_uninterrupted_bit_for_bit(stop_at: int) -> None:
    """Stop after any step of either round, go on from the state alone."""
    made, chosen = session(), options()
    whole = run(made, chosen)
    engine = Classifier.fresh(chosen, HEADER)
    batches = [batch(made, np.arange(0, 120)), batch(made, np.arange(120, 240))]
    given: list[Batch] = []
    steps = 0

    def hop(engine: Classifier) -> Classifier:
        return Classifier.resume(chosen, HEADER, copied(engine.state()), given) if steps == stop_at else engine

    for one in batches:
        engine.ingest(one)
        given.append(one)
        while True:
            engine = hop(engine)
            steps += 1
            if engine.step().idle:
                break
    engine.close()
    while True:
        engine = hop(engine)
        steps += 1
        if engine.step().finished:
            break
    assert steps > stop_at
    assert same_bits(whole, engine)


def test_threads_do_not_change_a_bit() -> None:
    assert same_bits(run(session(), options(threads=1)), run(session(), options(threads=2)))


def test_views_are_told_apart_and_poses_are_relions() -> None:
    """Given clean projections as references, loud particles find their own one, with psi and origin as simulated."""
    made = session(240, 2.0)
    truth = made.truth
    axis = np.arange(6)
    import torch

    from beamside.optics.rotation import align_images

    clean = made.signal(axis).float()
    psi, oy, ox = (torch.as_tensor(v[axis]).float() for v in (truth.psi_deg, truth.origin_y_px, truth.origin_x_px))
    references = align_images(clean, psi, oy, ox).numpy().astype(np.float32)
    chosen = options(
        mode="update", references=References(references, PIXEL_A, tuple(range(11, 17))), ctf=True, iterations=2,
        first_batch=240, max_resolution_A=17.0,
    )  # fmt: skip
    engine = run(made, chosen)
    table = engine.snapshot().tables["particles"]
    assert (table["class_number"][axis] == axis + 1).all()
    turn = (table["psi_deg"][axis] - truth.psi_deg[axis] + 180) % 360 - 180
    assert np.abs(turn).max() < 6.0
    moved = np.hypot(
        table["origin_x_A"][axis] / PIXEL_A - truth.origin_x_px[axis],
        table["origin_y_A"][axis] / PIXEL_A - truth.origin_y_px[axis],
    )
    assert moved.max() < 0.75
    assert list(engine.snapshot().tables["classes"]["class_number"]) == list(range(11, 17)), "labels are kept"


def test_an_empty_class_of_an_update_keeps_its_average() -> None:
    made = session()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, BOX, BOX)).astype(np.float32) * 0.01
    images[0] += np.asarray(made.signal(np.arange(1))[0])
    chosen = options(mode="update", references=References(images, PIXEL_A, (1, 2)), iterations=2, first_batch=240)
    engine = run(made, chosen)
    assert engine.model is not None
    assert (engine.model.averages.values.abs().square().sum((1, 2)) > 0).all()
    assert len(engine.snapshot().tables["classes"]["class_number"]) == 2


def test_bad_pixels_are_set_aside_and_named() -> None:
    made = session()
    rows = np.arange(120)
    images = made.images(np.arange(240)).copy()
    images[3, 0, 0], images[7] = np.nan, 1.0
    engine = Classifier.fresh(options(), HEADER)
    engine.ingest(batch(made, rows, images))
    found = [g.check(engine) for g in engine.guards if g.name == "input.finite"]
    assert found[0] is not None and "000004@s.mrcs" in found[0].saw and "000008@s.mrcs" in found[0].saw
    settle(engine)
    table = engine.snapshot().tables["particles"]
    assert table["class_number"][3] == 0 and table["class_number"][7] == 0
    assert (np.delete(table["class_number"], [3, 7]) > 0).all()


def test_ctf_that_is_missing_is_refused() -> None:
    with pytest.raises(InputError, match=r"ctf\.present.*no-ctf"):
        Classifier.fresh(options(), Header("particles", {"box_px": 32, "pixel_size_A": 8.0, "has_ctf": False}))
    one = batch(session(), np.arange(120))
    lacking = one.columns["has_ctf"].copy()
    lacking[5] = False
    engine = Classifier.fresh(options(), HEADER)
    with pytest.raises(InputError, match=r"000006@s\.mrcs"):
        engine.ingest(Batch(one.keys, {**one.columns, "has_ctf": lacking}, one.load))


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": 3}, {"seed": 1}, {"max_resolution_A": 30.0}, {"min_resolution_A": 100.0},
        {"mask_diameter_A": 150.0},
        {"mask_diameter_A": None, "mask_sigma_px": 6.0}, {"mask_diameter_A": None, "mask_sigma_px": "auto"},
        {"mask_diameter_A": None}, {"ctf": False}, {"iterations": 5}, {"variance": 0.5}, {"training_particles": 60},
        {"mirror": True}, {"first_batch": 80}, {"batch_size": 40},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)  # fmt: skip
def test_every_option_changes_the_result(changed: dict[str, Any]) -> None:
    standard, other = run(session(), options()).snapshot(), run(session(), options(**changed)).snapshot()
    one, two = standard.arrays["class_averages"], other.arrays["class_averages"]
    assert one.shape != two.shape or not np.array_equal(one, two)
    assert np.isfinite(two).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 0}, {"variance": 0.0}, {"variance": 1.5}, {"max_resolution_A": 0.0}, {"min_resolution_A": 5.0},
        {"mask_diameter_A": 100.0, "mask_sigma_px": 3.0}, {"mode": "update"}, {"first_batch": 0}, {"iterations": 0},
        {"references": References(np.zeros((1, 32, 32), np.float32), 8.0, (1,))}, {"batch_size": 0}, {"threads": 0},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        options(**wrong)


def test_resolution_is_clamped_with_a_note() -> None:
    limits = resolve_limits(options(max_resolution_A=8.0), 64, 5.0)
    assert limits.max_resolution_A == 10.5 and limits.last_ring == 30 and "10.5 A is used" in limits.note
    assert resolve_limits(options(max_resolution_A=20.0), 64, 5.0).note == ""


def test_large_boxes_are_refused_with_the_size_that_fits() -> None:
    with pytest.raises(CapacityError, match="Bin the particles by 2 to 160 px"):
        resolve_limits(options(), 320, 1.3)


def test_options_survive_run_json() -> None:
    chosen = options(mask_diameter_A=None, mask_sigma_px="auto", seed=9)
    assert ClassifyOptions.from_json(chosen.to_json()) == chosen


def test_too_few_particles_are_provisional() -> None:
    assert "at least" in run(session(), options(classes=30)).snapshot().provisional
    assert run(session(), options()).snapshot().provisional == ""
