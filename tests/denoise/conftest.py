"""Real runs of the real loop on small sessions."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from beamside.cli.progress import TerminalProgress
from beamside.denoise.engine import Denoiser
from beamside.denoise.export import write_models
from beamside.run import loop, session, store
from beamside.run.engine import Snapshot
from beamside.run.guard import Finding
from beamside.run.report import Outcome
from beamside.run.start import Fresh
from beamside.sources.micrographs import MicrographSource
from tests.denoise.scene import options, write_session


@dataclass
class Ran:
    """What a run left, also when a guard stopped it."""

    folder: Path
    outcome: Outcome | None
    findings: list[Finding]

    @property
    def names(self) -> set[str]:
        return {finding.guard for finding in self.findings}

    def latest(self) -> dict[str, Any]:
        found = store.Store(self.folder).latest_snapshot()
        assert found is not None
        return dict(found)


Drive = Callable[..., Ran]


def export(snapshot: Snapshot, records: Any, folder: Path) -> None:
    write_models(snapshot, folder)


def drive(inputs: Path, folder: Path, ran: Ran | None = None, pairs: str = "auto", **changed: Any) -> Ran:
    """Train on what lies in `inputs`; GuardStop passes through, and `ran` is filled before it does."""
    ran = ran or Ran(folder, None, [])
    chosen = options(**changed)
    manifest = store.manifest("denoise", chosen.to_json(), seed=0, inputs=[inputs])
    with session.new_run(folder, manifest) as held:
        try:
            ran.outcome = loop.run(
                Fresh(Denoiser, chosen),
                MicrographSource([inputs], pairs=pairs),
                held.ledger,
                held.store,
                exporter=export,
                pictures=write_models,
                reporter=TerminalProgress(quiet=True, stream=io.StringIO()),
            )
        finally:
            ran.findings = [finding for _, finding in held.ledger.findings()]
    return ran


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six healthy pairs."""
    return write_session(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def healthy(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A healthy run on them."""
    return drive(pairs, tmp_path_factory.mktemp("healthy") / "run")
