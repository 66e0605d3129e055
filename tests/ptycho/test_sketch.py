"""The first look: soon there, worth looking at, said to be provisional, and of no consequence for the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.cli.ptycho import export
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import PtychoOptions
from beamside.ptycho.rehearsal import rehearse
from beamside.ptycho.solvers.accelerated import Accelerated
from beamside.ptycho.torch_workshop import TorchWorkshop
from beamside.run.loop import run as run_loop
from beamside.run.session import new_run
from beamside.run.start import Fresh
from beamside.run.store import manifest
from beamside.simulate.scan import Scan
from tests.gauntlet.ptycho_drive import Pieces
from tests.ptycho import scene
from tests.ptycho.test_engine import copied
from tests.ptycho.test_orientation import cure, turned
from tests.run.toy import Listener


def first_look(made: Scan, chosen: PtychoOptions, frames: int) -> Ptychography:
    """An engine after its first step on its first frames, which lie together."""
    engine = Ptychography.fresh(chosen, scene.header(made))
    engine.ingest(scene.batch(made, np.arange(frames)))
    engine.step()
    return engine


@pytest.mark.parametrize("cold", [False, True])
def test_the_first_step_gives_an_object_of_the_first_frames(cold: bool) -> None:
    made = scene.scan()
    engine = first_look(made, scene.options(None if cold else made, check_geometry=True), 100)
    shown = engine.snapshot()
    assert engine.iteration == 0 and shown.notes["frames"] == 100 and shown.notes["iterations"] > 0
    assert "a first look at 100 frames" in shown.provisional and shown.coverage == pytest.approx(0.5)
    light = scene.lit(Scan(replace(made.recipe, frames=100)))
    seen = np.zeros(made.object.shape, bool)
    seen[: light.shape[0], : light.shape[1]] = light[: seen.shape[0], : seen.shape[1]]
    empty = scene.error(made, np.ones_like(engine.canvas.object), engine.canvas.origin, seen)
    assert scene.error(made, shown.arrays["object"], shown.notes["offset_px"], seen) < 0.5 * empty


@pytest.mark.parametrize(
    ("changed", "on_tensors"), [({}, False), ({}, True), ({"solver": "raar"}, False), ({"modes": 2}, False)], ids=str
)
def test_it_is_forgotten_to_the_bit(changed: dict[str, Any], on_tensors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has shown one ends as one that has not, and resumed from it shows it again; on a GPU's sums too."""
    if on_tensors:
        monkeypatch.setattr(
            "beamside.ptycho.engine._workshop",
            lambda _, store, canvas, detector, lanes: TorchWorkshop(store, canvas, detector, "cpu"),
        )
    made = scene.scan(100)
    chosen = scene.options(made, **changed)
    parts = [scene.batch(made, part) for part in np.array_split(np.arange(100), 2)]

    def go(sketch: bool) -> Ptychography:
        engine = Ptychography.fresh(chosen, scene.header(made))
        engine.ingest(parts[0])
        if sketch:
            engine.step()
            again = Ptychography.resume(chosen, scene.header(made), copied(engine.state()), parts[:1])
            assert engine.opening.sketch is not None and scene.same_bits(engine, again)
            engine = again
        else:
            engine.opening.pending.remove("sketch")
        while engine.iteration < 3:
            engine.step()
        engine.ingest(parts[1])
        for _ in range(3):
            engine.step()
        return engine

    assert scene.same_bits(go(sketch=True), go(sketch=False))


def test_a_wrong_geometry_that_was_shown_is_found_all_the_same() -> None:
    """The probe that a sketch has learnt on wrong axes is not the one that they are then compared with."""
    made = scene.scan()
    engine = Ptychography.fresh(scene.options(made, check_geometry=True), scene.header(made))
    engine.ingest(scene.batch(made, np.arange(100), turned(scene.counts(made), 1)))
    engine.step()
    assert engine.opening.sketch is not None
    while engine.opening.pending:
        engine.step()
    (said,) = [found for guard in engine.guards if guard.name == "geometry.parity" and (found := guard.check(engine))]
    assert said.values["best"] == cure(1)


@pytest.mark.parametrize("frames", [100, 10])
def test_none_is_drawn_of_all_frames_or_of_a_handful(frames: int) -> None:
    engine = first_look(scene.scan(100), scene.options(scene.scan(100)), frames)
    assert engine.opening.sketch is None and "probe" not in engine.opening.pending


def test_one_that_comes_to_nothing_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: Accelerated, shop: Any, task: Any) -> float:
        shop.canvas.object[3, 3] = np.nan
        return 0.0

    monkeypatch.setattr(Accelerated, "iterate", spoil)
    engine = first_look(scene.scan(), scene.options(scene.scan()), 60)
    assert engine.opening.sketch is None and (engine.canvas.object == 1).all()


def test_what_a_live_run_publishes_first(tmp_path: Path) -> None:
    """The first look at once, then nothing before the run's own third iteration: never an empty object."""
    made = scene.scan(160)
    parts = np.array_split(np.arange(160), 2)
    source = Pieces(made, parts, gate=lambda k: k == 0 or len(list(tmp_path.glob("run/snapshots/0*"))) > 1)
    with new_run(tmp_path / "run", manifest("ptycho", {}, seed=0, inputs=[])) as session:
        run_loop(
            Fresh(Ptychography, scene.options(made, max_iterations=8)), source, session.ledger, session.store,
            exporter=export, reporter=Listener(), poll_s=0.0, publish_every_s=1e-3,
        )  # fmt: skip
    notes = [json.loads(path.read_text())["notes"] for path in sorted(tmp_path.glob("run/snapshots/*/snapshot.json"))]
    assert (notes[0]["frames"], notes[1]["iterations"]) == (80, 3) and notes[0]["iterations"] > 3
    assert notes[-1]["frames"] == 160


def test_a_rehearsal_draws_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the run is asked for, so that nothing is loaded when its frames come; a start probe is not touched."""
    seen: list[int] = []
    original = Accelerated.iterate

    def iterate(self: Accelerated, shop: Any, task: Any) -> float:
        seen.append(len(task.frames))
        return original(self, shop, task)

    monkeypatch.setattr(Accelerated, "iterate", iterate)
    rehearse(scene.options(scene.scan(), modes=2, first_frames=1))
    assert set(seen) == {24}
