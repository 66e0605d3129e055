"""Items in another order than they were taken in, across the borders of batches, and some of them twice.

Who is in which batch decides bits, so the result cannot be the same (docs/decisions/0072); it is as good. Scans have
the same test in `test_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.classify.engine import Classifier
from beamside.denoise import gate
from beamside.denoise.engine import Denoiser
from beamside.denoise.held_out import Example, measure_controls
from beamside.denoise.model_file import unpack_model
from beamside.denoise.normalise import robust_scale
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding
from beamside.run.loop import run as run_loop
from beamside.run.session import new_run
from beamside.run.source import Record
from beamside.run.start import Fresh
from beamside.run.store import manifest
from beamside.simulate.particles import Session
from tests.classify import scene as particles
from tests.classify.test_streaming import purity
from tests.denoise import scene as micrographs
from tests.denoise.test_engine import batch as micrograph_batch
from tests.denoise.test_engine import header as micrograph_header
from tests.gauntlet.test_order import verified_here
from tests.run.toy import Listener

SEED = 4


@dataclass
class Arrivals:
    """Items by number, a piece each time the loop asks."""

    head: Header
    parts: Sequence[NDArray[np.int64]]
    make: Callable[[NDArray[np.int64]], Batch]
    given: int = 0

    def header(self) -> Header | None:
        return self.head

    def poll(self) -> Sequence[Record]:
        self.given += 1
        return [Record(f"item {row:04d}", str(row)) for row in self.parts[self.given - 1].tolist()]

    def exhausted(self) -> bool:
        return self.given == len(self.parts)

    def findings(self) -> Sequence[Finding]:
        return []

    def batch(self, records: Sequence[Record]) -> Batch:
        return self.make(np.array([int(record.payload) for record in records]))


def in_pieces(order: NDArray[np.int64], piece: int) -> list[NDArray[np.int64]]:
    return [order[at : at + piece] for at in range(0, len(order), piece)]


def disturbed(count: int, within: int) -> NDArray[np.int64]:
    """Every number at most so many places from where it belongs, one in twenty twice."""
    chance = np.random.default_rng(SEED)
    twice = chance.choice(count, count // 20, replace=False)
    numbers = np.concatenate([np.arange(count), twice])
    return numbers[np.argsort(numbers + chance.uniform(0, within, len(numbers)))]


def go(folder: Path, kind: type[Any], chosen: Any, source: Arrivals, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine at the end of a run of the real loop, which took every item once."""
    engines: list[Any] = []
    close = kind.close
    with monkeypatch.context() as patch:

        def caught(self: Any) -> None:
            engines.append(self)
            close(self)

        patch.setattr(kind, "close", caught)
        with new_run(folder, manifest("a run", {}, seed=0, inputs=[])) as session:
            outcome = run_loop(
                Fresh(kind, chosen), source, session.ledger, session.store, exporter=lambda *_: None,
                reporter=Listener(), poll_s=0.0,
            )  # fmt: skip
            assert outcome.items == len(set(np.concatenate(source.parts).tolist())) == session.ledger.in_batches()
            assert [f.guard for _, f in session.ledger.findings() if str(f.severity) in ("stop", "suspect")] == []
    return engines[-1]


def among_their_like(engine: Classifier, made: Session, order: Sequence[int]) -> float:
    """`purity` where the engine's particles are the session's in another order."""
    views = Views(*(angles[list(order)] for angles in (made.truth.rot_deg, made.truth.tilt_deg, made.truth.psi_deg)))
    return purity(engine, Seen(views))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Views:
    """Euler angles of particles."""

    rot_deg: NDArray[np.float64]
    tilt_deg: NDArray[np.float64]
    psi_deg: NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """As much of a session as `purity` asks for."""

    truth: Views


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_particles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, list[float]] = {"ordered": [], "disturbed": []}
    for seed in (1, 2):
        made = particles.session(1500, snr=0.3, seed=seed)
        chosen = particles.options(
            classes=12, first_batch=500, batch_size=200, iterations=None, seed=seed, training_particles=500
        )
        for name, order in (("ordered", np.arange(1500)), ("disturbed", disturbed(1500, within=1000))):
            source = Arrivals(particles.HEADER, in_pieces(order, 100), partial(particles.batch, made))
            engine = go(tmp_path / f"{name}{seed}", Classifier, chosen, source, monkeypatch)
            keys = [key for batch in engine.population._batches for key in batch.keys]
            found[name].append(among_their_like(engine, made, [int(key.partition("@")[0]) - 1 for key in keys]))
    ordered, mixed = (float(np.mean(found[name])) for name in ("ordered", "disturbed"))
    assert ordered > 0.3 and mixed > 0.97 * ordered, found


@pytest.mark.slow
def test_micrographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By micrographs that neither training has seen."""
    monkeypatch.setattr(gate, "in_fresh_process", verified_here)
    examples = []
    for number in range(50, 54):
        one, other = micrographs.halves(number)
        scale = robust_scale(one, other, where="unseen")
        examples.append(Example(scale.normalise(one), scale.normalise(other)))
    blur, gained = measure_controls(examples).blur, {}
    for name, order in (("ordered", np.arange(8)), ("disturbed", np.array([3, 0, 5, 2, 0, 6, 1, 7, 4]))):
        source = Arrivals(micrograph_header(), in_pieces(order, 1), lambda rows: micrograph_batch(rows.tolist()))
        engine = go(tmp_path / name, Denoiser, micrographs.options(steps=150), source, monkeypatch)
        assert engine.published is not None and len({m.key for m in engine.micrographs}) == 8
        network, _ = unpack_model(engine.published.model, where=name)
        gained[name] = blur - gate.independent(network, examples).loss
    assert 0 < gained["ordered"] < 1.25 * gained["disturbed"], gained
