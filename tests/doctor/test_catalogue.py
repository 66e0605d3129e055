"""docs/guards.md is what the code gives, and every guard says what a person needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamside.cli.main import main
from beamside.doctor.catalogue import ENGINES, groups, page
from beamside.run.guard import Guard, Severity

PAGE = Path(__file__).parents[2] / "docs" / "guards.md"
EVERY = [guard for _, guards in groups() for guard in guards]
BOUNDARIES = {"ingest", "step", "publish", "options", "table", "files", "socket"}


def test_the_page_is_what_the_code_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--guards"]) == 0
    assert capsys.readouterr().out == page() == PAGE.read_text(), "run: beamside doctor --guards > docs/guards.md"


@pytest.mark.parametrize("guard", EVERY, ids=lambda guard: guard.name)
def test_every_entry_is_whole(guard: Guard) -> None:
    assert guard.boundary in BOUNDARIES and guard.severity in set(Severity)
    assert guard.statistic and guard.bound and guard.bound_origin
    assert guard.explanation.endswith(".") and guard.remedy.endswith(".")


def test_names_are_unique_within_an_owner_and_engines_that_exist_are_there() -> None:
    source = Path(__file__).parents[2] / "src" / "beamside"
    for title, guards in groups():
        assert len({(guard.name, guard.severity) for guard in guards}) == len(guards), title
    listed = {title for title, _ in groups()}
    assert {f"Engine `{n}`" for n in ENGINES if (source / n / "guards.py").exists()} <= listed


ROWS = (
    "refs.nonzero refs.prepared fresh.clean scores.spread classes.collapse files.distinct warmstart.explicit "
    "merge.data-only table.ranges ctf.present ledger.complete options.resolution capacity.declared input.finite "
    "input.settled files.checksum run.lock"
)


def test_every_guard_that_the_gauntlet_names_is_listed() -> None:
    assert set(ROWS.split()) <= {guard.name for guard in EVERY}
