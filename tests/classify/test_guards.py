"""Every guard of the engine trips on the defect it exists for, in a real run of the real loop, and on nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from beamside.classify.engine import Classifier
from beamside.classify.model import Model
from beamside.cli.progress import TerminalProgress
from beamside.errors import GuardStop, RunDirectoryError
from beamside.run import loop, session, store
from beamside.run.engine import Snapshot
from beamside.run.guard import Severity
from beamside.run.report import Outcome
from beamside.run.start import Fresh
from beamside.simulate.session_files import write_once
from beamside.simulate.volumes import load_volume
from beamside.sources.particles import ParticleFile
from tests.classify.scene import BOX, PIXEL_A, options
from tests.classify.scene import session as simulated


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small session on disk."""
    out = tmp_path_factory.mktemp("data") / "session"
    made = simulated()
    volume, _ = load_volume("walk", BOX, PIXEL_A, 0.0)
    write_once(out, made, volume)
    return next(out.rglob("*.star"))


def export(snapshot: Snapshot, records: Any, folder: Path) -> None:
    """Nothing to write for these tests but a mark."""
    (folder / "done").write_text(str(len(records)))


def drive(star: Path, run_dir: Path, **changed: Any) -> tuple[Outcome, list[str]]:
    """The outcome of a real run and the names of what its guards found."""
    chosen = options(first_batch=240, **changed)
    manifest = store.manifest("classify", chosen.to_json(), seed=0, inputs=[star])
    with session.new_run(run_dir, manifest) as held:
        try:
            outcome = loop.run(
                Fresh(Classifier, chosen),
                ParticleFile(star),
                held.ledger,
                held.store,
                exporter=export,
                reporter=TerminalProgress(quiet=True, stream=io.StringIO()),
            )
        finally:
            found = [finding.guard for _, finding in held.ledger.findings()]
    return outcome, found


def test_a_healthy_run_trips_nothing(particles: Path, tmp_path: Path) -> None:
    outcome, found = drive(particles, tmp_path / "run")
    assert outcome.exit_code == 0 and found == []


def test_zero_references_stop(particles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 1: every reference is zero right after initialisation."""

    def zeroed(self: Model, sums: Any) -> None:
        original(self, sums)
        self.averages.values.zero_()

    original = Model.maximise
    monkeypatch.setattr(Model, "maximise", zeroed)
    with pytest.raises(GuardStop, match=r"refs\.nonzero"):
        drive(particles, tmp_path / "run")
    assert any((tmp_path / "run" / "dumps").iterdir())


def test_a_lost_reference_stops(particles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 2: one reference is zero after preparation although particles belong to its class."""

    def lossy(self: Model, sums: Any) -> None:
        original(self, sums)
        self.averages.values[1].zero_()

    original = Model.maximise
    monkeypatch.setattr(Model, "maximise", lossy)
    monkeypatch.setattr(Model, "reseed_dead", lambda *_: [])
    with pytest.raises(GuardStop, match=r"refs\.prepared"):
        drive(particles, tmp_path / "run")


def test_flat_scores_stop(particles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 5: every class scores exp(-1)."""
    from beamside.classify import expectation

    original = expectation.search

    def flat(*args: Any, **kwargs: Any) -> Any:
        poses = original(*args, **kwargs)
        return type(poses)(torch.full_like(poses.score, 0.367879), poses.label, poses.alpha, poses.shift)

    monkeypatch.setattr(expectation, "search", flat)
    with pytest.raises(GuardStop, match=r"scores\.spread"):
        drive(particles, tmp_path / "run")


def test_collapse_is_suspect(particles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauntlet row 7: one class takes more than half of the particles."""
    from beamside.classify import expectation

    original = expectation.search

    def greedy(*args: Any, **kwargs: Any) -> Any:
        poses = original(*args, **kwargs)
        label = poses.label.clone()
        most = slice(0, int(0.8 * len(label)) + 1)
        label[most, 0] = 2
        return type(poses)(poses.score, label, poses.alpha, poses.shift)

    monkeypatch.setattr(expectation, "search", greedy)
    outcome, found = drive(particles, tmp_path / "run")
    assert outcome.exit_code == 0 and "classes.collapse" in found
    assert store.Store(tmp_path / "run").latest_snapshot()["verdict"] == "suspect"  # type: ignore[index]


def test_an_earlier_runs_results_change_nothing(particles: Path, tmp_path: Path) -> None:
    """Gauntlet rows 3 and 4: class, score, angle and shift of an earlier run in the input table."""
    from beamside.formats.star import read_star, write_star

    tables = read_star(particles)
    name = next(key for key in tables if "rlnImageName" in tables[key].columns)
    count = len(tables[name].columns["rlnImageName"])
    stale = {
        "rlnClassNumber": ["999"] * count,
        "rlnAnglePsi": ["12.5"] * count,
        "rlnOriginXAngst": ["30"] * count,
        "rlnOriginYAngst": ["-30"] * count,
        "rlnMaxValueProbDistribution": ["0.1"] * count,
        "rlnLogLikeliContribution": ["0"] * count,
    }
    tables[name].columns.update(stale)
    dirty = particles.with_name("dirty.star")
    write_star(dirty, list(tables.values()))
    drive(particles, tmp_path / "clean")
    drive(dirty, tmp_path / "dirty")
    one, two = (sorted((tmp_path / n / "snapshots").iterdir())[-1] / "arrays.safetensors" for n in ("clean", "dirty"))
    assert one.read_bytes() == two.read_bytes()


def test_clamped_resolution_is_a_note(particles: Path, tmp_path: Path) -> None:
    """Gauntlet row 16."""
    outcome, found = drive(particles, tmp_path / "run", max_resolution_A=2.0)
    assert outcome.exit_code == 0 and found == ["options.resolution"]


def test_a_used_run_directory_is_refused(particles: Path, tmp_path: Path) -> None:
    drive(particles, tmp_path / "run")
    with pytest.raises(RunDirectoryError):
        drive(particles, tmp_path / "run")


def test_guards_say_what_a_person_needs() -> None:
    for guard in Classifier.guards:
        assert guard.remedy.endswith(".") and guard.bound and guard.bound_origin and guard.statistic
        assert guard.severity in set(Severity)
    assert len({guard.name for guard in Classifier.guards}) == len(Classifier.guards)
