"""Guards in real runs that are healthy; every defect they exist for is injected in tests/gauntlet/test_classify.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from beamside.classify.engine import Classifier
from beamside.cli.progress import TerminalProgress
from beamside.errors import RunDirectoryError
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
                ParticleFile(star, trusted=[Path("/")]),
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


def test_a_used_run_directory_is_refused(particles: Path, tmp_path: Path) -> None:
    drive(particles, tmp_path / "run")
    with pytest.raises(RunDirectoryError):
        drive(particles, tmp_path / "run")


def test_guards_say_what_a_person_needs() -> None:
    for guard in Classifier.guards:
        assert guard.remedy.endswith(".") and guard.bound and guard.bound_origin and guard.statistic
        assert guard.severity in set(Severity)
    assert len({(guard.name, guard.severity) for guard in Classifier.guards}) == len(Classifier.guards)
