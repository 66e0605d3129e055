"""The tensor form of the search and of the sums against the compiled loops, and on a GPU where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from beamside.classify import engine, tensors
from beamside.classify import model as models
from beamside.classify.average import Accumulator
from beamside.classify.expectation import Assignment, responsibilities
from beamside.classify.groups import Grouping, Held, Near
from beamside.classify.leaveout import OfClasses, OfVolume, Traces
from beamside.classify.masking import Mask, circle
from beamside.classify.model import Model
from beamside.classify.population import Population
from beamside.classify.reference import bank
from beamside.classify.schedule import Stage
from beamside.classify.search import Poses, Workspace, rotations, search
from beamside.errors import OptionError
from tests.classify.scene import BOX, PIXEL_A, batch, options, run, session

PARTICLES, CLASSES = 150, 7


def devices() -> list[object]:
    return ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def model() -> Model:
    population = Population(use_ctf=True)
    population.append(batch(session(), np.arange(PARTICLES)), np.ones(PARTICLES, dtype=bool))
    scene = models.Scene(BOX, PIXEL_A, CLASSES, 1.0, 100, 0, 1, False, 1)
    mask, rows = circle(BOX, 27.0), torch.arange(PARTICLES)
    noise = models.measure_noise(population, mask, rows, None)
    built = models.begin(
        scene, Stage("t", 7, 1.0, 2.0, 1, 1.0, 1.0), population, Mask(mask, mask, 27.0 * PIXEL_A), noise, 2.0, rows
    )
    built.encode(population, rows)
    known = Assignment.empty(PARTICLES, models.CANDIDATES)
    known.shift[:] = built.frame.shifts.centre
    known.label[:, 0] = rows % CLASSES
    known.weight[:, 0] = 1.0
    built.resum(known)
    return built


def the_same(found: Poses, expected: Poses) -> None:
    torch.testing.assert_close(found.score, expected.score, rtol=1e-4, atol=1e-3)
    assert torch.equal(found.label, expected.label) and torch.equal(found.shift, expected.shift)
    turn = (found.alpha - expected.alpha + math.pi) % (2 * math.pi) - math.pi
    assert float(turn.abs().max()) < 1e-3


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("tile_bytes", [1 << 29, 100_000])
def test_the_search_is_that_of_the_loops(
    model: Model, device: str, tile_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_TILE_BYTES", tile_bytes)
    here = torch.device(device)
    made, turns = bank(model.averages.values, model.frame), rotations(model.frame.orders)
    bonus = torch.randn(PARTICLES, CLASSES, generator=torch.Generator().manual_seed(1))
    found = tensors.search_tensors(
        model.vectors.to(here), model.ctf2.to(here), made.to(here), turns.to(here), best=3, bonus=bonus.to(here)
    )
    space = Workspace(made, turns, PARTICLES)
    the_same(found.cpu(), search(model.vectors, model.ctf2, made, turns, space, best=3, bonus=bonus))


def test_nothing_of_the_search_stays_on_the_processor(model: Model) -> None:
    """Tensors of two devices in one operation are an error; the device `meta` has shapes alone, and this rule."""
    nowhere = torch.device("meta")
    made = bank(model.averages.values, model.frame).to(nowhere)
    leave = OfClasses(torch.rand(CLASSES, 40), torch.zeros(9, 4, dtype=torch.int64), torch.zeros(9, 4)).to(nowhere)
    rows = torch.arange(9, device=nowhere)
    found = tensors.search_tensors(
        model.vectors[:9].to(nowhere), model.ctf2[:9].to(nowhere), made.only(torch.arange(4, device=nowhere)),
        rotations(model.frame.orders).to(nowhere), best=2, first=rows % 4,
        bonus=leave.own(torch.rand(9, 40, device=nowhere), rows)[:, :4],
    )  # fmt: skip
    places = {t.device for t in (found.score, found.label, found.alpha, found.shift)}
    assert places == {nowhere} and responsibilities(found.score, 2.0).device == nowhere
    traces = Traces(torch.zeros(9, 4, 3), torch.zeros(9, 4))
    volume = OfVolume.of(torch.rand(40), traces, torch.rand(6, 3), 0.1).to(nowhere)
    assert volume.own(torch.rand(9, 40, device=nowhere), rows).shape == (9, 6)


@pytest.mark.parametrize("device", devices())
def test_equal_scores_go_to_the_class_that_comes_first(model: Model, device: str) -> None:
    here = torch.device(device)
    made = bank(model.averages.values[:1].repeat(4, 1, 1), model.frame).to(here)
    first = torch.tensor([0, 1, 2, 3, 1])
    found = tensors.search_tensors(
        model.vectors[:5].to(here), model.ctf2[:5].to(here), made, rotations(model.frame.orders).to(here),
        best=2, first=first.to(here),
    )  # fmt: skip
    # A product may sum equal columns in another order; what is equal to the last bit goes by `first`.
    equal = (found.score[:, 0] == found.score[:, 1]).cpu()
    assert device != "cpu" or equal.all()
    assert torch.equal(found.label[:, 0].cpu()[equal], first[equal])


@pytest.mark.parametrize("device", devices())
def test_the_sums_are_those_of_the_loops(model: Model, device: str) -> None:
    random = torch.Generator().manual_seed(2)
    shape = (PARTICLES, 4)
    poses = Poses(
        torch.zeros(shape),
        torch.randint(0, CLASSES, shape, generator=random),
        torch.rand(shape, generator=random) * 6,
        torch.randint(0, len(model.frame.shifts.shifts_px), shape, generator=random),
    )
    weight = torch.rand(shape, generator=random) * (torch.rand(shape, generator=random) < 0.5)
    here = torch.device(device)
    there = tensors.TensorAccumulator(CLASSES, model.frame, here)
    moved = Poses(*(getattr(poses, name).to(here) for name in ("score", "label", "alpha", "shift")))
    there.add(model.vectors.to(here), model.ctf2.to(here), moved, weight.to(here))
    loops = Accumulator(CLASSES, model.frame)
    loops.add(model.vectors, model.ctf2, poses, weight)
    found, expected = Accumulator.total([there.collected()]), Accumulator.total([loops])
    scale = float(expected.coefficients.abs().max())
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(found.ctf2, expected.ctf2)
    torch.testing.assert_close(found.weight, expected.weight)


def groupings() -> Iterator[object]:
    yield pytest.param(None, id="all")
    yield pytest.param(Held(torch.arange(PARTICLES) % 6 - 1, 5), id="held")
    views = np.random.default_rng(0).normal(size=(CLASSES, 3))
    yield pytest.param(
        Near(torch.arange(PARTICLES) % CLASSES, views / np.linalg.norm(views, axis=1)[:, None]), id="near"
    )


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("among", list(groupings()))
def test_an_expectation_is_that_of_the_loops(model: Model, device: str, among: Grouping | None) -> None:
    """With what particles have put into the averages taken out, as in every pass."""
    before = Assignment.empty(PARTICLES, models.CANDIDATES)
    before.label[:, 0] = torch.arange(PARTICLES) % CLASSES
    before.weight[:, 0] = before.presence[:] = 1.0
    results = []
    for here in (None, torch.device(device)):
        known = Assignment(
            *(getattr(before, n).clone() for n in ("score", "label", "alpha", "shift", "weight", "presence"))
        )
        scene = models.Scene(BOX, PIXEL_A, CLASSES, 1.0, 100, 0, 1, False, 1, here)
        one = replace(model, scene=scene)
        search = one.expectation(2.0, known)
        assert search.device == here
        sums = search.run(one.vectors, one.ctf2, torch.arange(PARTICLES), known, 1, among=among)
        assert sums is not None
        results.append((known, sums))
    (loops, expected), (found, there) = results
    torch.testing.assert_close(found.score[:, 0], loops.score[:, 0], rtol=1e-4, atol=1e-3)
    assert torch.equal(found.label[:, 0], loops.label[:, 0])
    torch.testing.assert_close(found.weight, loops.weight, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(there.weight, expected.weight, rtol=1e-3, atol=1e-2)
    scale = float(expected.coefficients.abs().max())
    torch.testing.assert_close(there.coefficients, expected.coefficients, rtol=1e-2, atol=1e-2 * scale)


def test_a_device_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors.require_same_search(torch.device("cpu"))
    right = tensors._tile
    monkeypatch.setattr(tensors, "_tile", lambda *operands: right(*operands) * 1.01)
    with pytest.raises(OptionError, match=r"apart from the processor"):
        tensors.require_same_search(torch.device("cpu"))

    def fails(*operands: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(tensors, "_tile", fails)
    with pytest.raises(OptionError, match="no kernel image"):
        tensors.require_same_search(torch.device("cpu"))


def test_the_device_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tensors.chosen_device("auto") is None and tensors.chosen_device("cpu") is None
    with pytest.raises(OptionError, match="no CUDA device"):
        tensors.chosen_device("cuda")
    with pytest.raises(OptionError, match="not known"):
        tensors.chosen_device("abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    checked: list[torch.device] = []
    monkeypatch.setattr(tensors, "require_same_search", checked.append)
    assert tensors.chosen_device("auto") == torch.device("cuda") == checked[0]
    assert tensors.chosen_device("cpu") is None


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("start", ["classes", pytest.param("volume", marks=pytest.mark.slow)])
def test_a_run_on_a_device_ends_as_one_on_the_processor(
    device: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding lets a few particles go another way; what the averages explain stays."""
    made, chosen = session(), options(start=start)
    loops = run(made, chosen).snapshot().tables["particles"]
    monkeypatch.setattr(engine, "chosen_device", lambda asked: torch.device(device))
    there = run(made, chosen).snapshot().tables["particles"]
    assert np.isfinite(there["log_likelihood"]).all()
    assert there["log_likelihood"].mean() == pytest.approx(loops["log_likelihood"].mean(), rel=0.05)
    same = there["class_number"] == loops["class_number"]
    assert start == "volume" or same.mean() > 0.6, "directions of views are cut anew where a volume turns a little"
