"""47 of 47: every row of the gauntlet has tests that run by default, and they name its guard."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from beamside.doctor.catalogue import groups
from tests.gauntlet.record import ANSWERS, ROWS, Row, numbers_of, page, proofs

PAGE = Path(__file__).parents[2] / "docs" / "gauntlet.md"
PROOFS = proofs()


def marks(test: Callable[..., object]) -> set[str]:
    return {mark.name for mark in getattr(test, "pytestmark", ())}


def test_the_page_is_what_the_tests_are() -> None:
    assert page() == PAGE.read_text(), "run: python -m tests.gauntlet.record > docs/gauntlet.md"


def test_all_rows_are_there() -> None:
    assert [row.number for row in ROWS] == list(range(1, 48))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.number}")
def test_each_row_is_proved_by_a_test_that_runs(row: Row) -> None:
    tests = [test for test in PROOFS[row.number] if not marks(test) & {"skip", "skipif", "xfail", "slow"}]
    assert tests, f"row {row.number} has no test that runs by default"
    assert row.answer in ANSWERS
    named = " ".join(inspect.getsource(test).replace("\\", "") for test in tests)
    for guard in row.guards:
        assert guard in named or row.answer == "impossible", f"no test of row {row.number} names {guard}"
    if row.answer in ("stop", "suspect", "refuse"):
        wanted = {"stop": r"assert_stopped|status == 3", "suspect": "suspect", "refuse": "refused?|== 2"}[row.answer]
        assert re.search(wanted, named), f"no test of row {row.number} asserts the answer {row.answer}"


def test_every_guard_of_the_record_is_in_the_catalogue() -> None:
    """Where the answer is `impossible`, the design is the guard, and its name may have no code."""
    listed = {guard.name for _, guards in groups() for guard in guards}
    assert {guard for row in ROWS for guard in row.guards if row.answer != "impossible"} <= listed


def test_the_record_agrees_with_the_list_of_defects(shared: Path) -> None:
    """Row by row: the guards, and the answer where it is one word."""
    text = (shared / "gauntlet.md").read_text()
    lines = [line.split("|")[1:-1] for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(lines) == len(ROWS)
    for row, cells in zip(ROWS, lines, strict=True):
        assert int(cells[0]) == row.number
        named, answer = set(re.findall(r"[a-z]+\.[a-z-]+|^formats$", cells[-2].replace("`", "").strip())), cells[-1]
        assert named <= set(row.guards), row
        if row.answer in ("stop", "suspect", "refuse", "impossible") and "same" not in answer and len(answer) < 50:
            assert re.search({"refuse": "refuse|exits"}.get(row.answer, row.answer), answer), (row, answer)


def test_names_of_tests_say_their_rows() -> None:
    assert numbers_of("test_rows_3_4_9_what") == {3, 4, 9} and numbers_of("test_row_20_and_23_slots") == {20, 23}
    assert numbers_of("test_the_healthy_scan") == set()
