"""Ingestion is exactly-once, in order, and on the disk when it is acknowledged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.errors import RunDirectoryError
from beamside.run.engine import Header
from beamside.run.guard import Finding, Severity
from beamside.run.ledger import BatchRow, Ledger, Request, header_matches
from beamside.run.source import Record
from tests.run.toy import records


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), max_size=8), max_size=8))
def test_duplicates_change_nothing(tmp_path_factory: pytest.TempPathFactory, polls: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    expected: list[int] = []
    with Ledger(path) as ledger:
        for poll in polls:
            fresh = [i for i in dict.fromkeys(poll) if i not in expected]
            assert ledger.add([Record(f"k@{i}", str(i)) for i in poll]) == [Record(f"k@{i}", str(i)) for i in fresh]
            expected += fresh
        assert ledger.items() == len(expected)
        if expected:
            ledger.cut(len(expected), 0)
        assert [record.payload for record in ledger.records()] == [str(i) for i in sorted(expected)]


def test_many_items_at_once_and_again_backwards(ledger: Ledger) -> None:
    many = records(50_000)
    assert len(ledger.add(many)) == 50_000
    assert ledger.add(many[::-1]) == []
    assert ledger.items() == 50_000


def test_acknowledged_items_are_seen_by_others(ledger: Ledger) -> None:
    ledger.add(records(3))
    with sqlite3.connect(ledger.path) as other:
        assert other.execute("SELECT key FROM items ORDER BY seq").fetchall() == [("toy@0",), ("toy@1",), ("toy@2",)]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_an_item_with_other_contents_is_said_and_the_first_kept(ledger: Ledger) -> None:
    ledger.add([Record("a@1", "first")])
    assert ledger.add([Record("a@1", "second"), Record("a@2", "x")]) == [Record("a@2", "x")]
    ledger.cut(2, 0)
    assert ledger.records()[0].payload == "first"
    assert [event.text for event in ledger.events()] == ["a@1 came again with other contents; the first is kept."]


def test_a_failed_transaction_leaves_no_item(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.IntegrityError), ledger._transaction():
        ledger._db.execute("INSERT INTO items (key, payload) VALUES ('a', 'b')")
        ledger._db.execute("INSERT INTO items (key, payload) VALUES ('c', NULL)")
    assert ledger.items() == 0


def test_batches_are_cut_in_order(ledger: Ledger) -> None:
    ledger.add(records(10))
    assert ledger.cut(7, 0) == BatchRow(1, 1, 7, 0)
    assert ledger.cut(3, 5) == BatchRow(2, 8, 3, 5)
    assert ledger.batches() == [BatchRow(1, 1, 7, 0), BatchRow(2, 8, 3, 5)]
    assert [record.key for record in ledger.records(ledger.batches()[1])] == ["toy@7", "toy@8", "toy@9"]
    with pytest.raises(ValueError, match="a batch of 1 items of 0"):
        ledger.cut(1, 6)


def test_a_batch_is_in_the_order_of_names(ledger: Ledger) -> None:
    """Whatever the order of arrival; batches themselves are cut in it, and what is in one stays."""
    ordered = ["frame 9", "frame 10", *(f"{n:02d}@m{m}/s.mrcs" for m in (2, 10) for n in (1, 9, 11)), "x"]
    came = [ordered[i] for i in (8, 3, 6, 0, 5, 7, 2, 1, 4)]
    ledger.add([Record(key, f"of {key}") for key in came])
    ledger.add([Record("late", ""), Record("frame 1", "")])
    ledger.cut(9, 0)
    assert [(r.key, r.payload) for r in ledger.records()] == [(key, f"of {key}") for key in ordered]
    ledger.cut(2, 1)
    assert [r.key for r in ledger.records()] == [*ordered, "frame 1", "late"]
    assert ledger.items() == ledger.in_batches() == 11
    assert ledger.add([Record("frame 1", "")]) == []


def test_metrics_findings_requests_facts(ledger: Ledger) -> None:
    ledger.add_metrics([(1, "a", 1.0), (2, "a", 2.0), (1, "b", float("nan"))])
    ledger.add_metrics([(2, "a", 3.0)])
    assert ledger.latest_metrics() == {"a": 3.0, "b": None}
    assert ledger.metrics() == [(1, "a", 1.0), (1, "b", None), (2, "a", 3.0)]
    finding = Finding("g", Severity.SUSPECT, "saw", "do", {"x": 1.5})
    ledger.add_finding(2, finding)
    ledger.add_finding(2, finding)
    assert ledger.findings() == [(2, finding)]
    ledger.ask(Request.PAUSE)
    ledger.ask(Request.STOP)
    (first, _), (_, second) = ledger.requests()
    ledger.taken(first)
    assert second is Request.STOP
    assert [request for _, request in ledger.requests()] == [Request.STOP]
    ledger.set_fact("x", 1)
    ledger.set_fact("x", 2)
    assert ledger.fact("x") == 1 and ledger.fact("y") is None


def test_header_comes_back(ledger: Ledger) -> None:
    header = Header("particles", {"box_px": 64, "shape": (1, 2)})
    assert ledger.header() is None
    ledger.set_header(header)
    found = ledger.header()
    assert found is not None and header_matches(found, header)
    assert not header_matches(found, Header("particles", {"box_px": 65, "shape": (1, 2)}))


def test_reading_what_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no ledger"):
        Ledger(tmp_path / "absent", read_only=True)
    (tmp_path / "text").write_text("not a database, although it is long enough to be looked at as one" * 20)
    with pytest.raises(RunDirectoryError, match="cannot be opened"):
        Ledger(tmp_path / "text")
