"""The loop: batches by count, replay, requests, findings, endings."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.errors import GuardStop, InputError, RunDirectoryError
from beamside.run.encode import unpack
from beamside.run.engine import BatchPolicy, Header, Progress
from beamside.run.guard import Finding, Severity, Verdict
from beamside.run.ledger import BatchRow, Ledger, Request
from beamside.run.report import Activity, Ending
from tests.run.toy import LAST_STEPS, FakeClock, Listener, ToyEngine, ToyOptions, ToySource, files, records, toy_run

STEPS_OF_22 = 5 * 5 + LAST_STEPS
"""22 items: batches of 7, 4, 4, 4 and 3."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the undisturbed run of 22 items."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy_run(folder, ToySource([records(22)]))
    return files(folder)


def batches(folder: Path) -> list[BatchRow]:
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        return ledger.batches()


def test_all_items_are_used_in_exact_batches(tmp_path: Path) -> None:
    outcome = toy_run(tmp_path / "run", ToySource([records(22)]))
    assert (outcome.ending, outcome.verdict, outcome.exit_code) == (Ending.FINISHED, Verdict.TRUSTED, 0)
    assert (outcome.items, outcome.steps) == (22, STEPS_OF_22)
    assert [(row.n, row.at_step) for row in batches(tmp_path / "run")] == [(7, 0), (4, 5), (4, 10), (4, 15), (3, 20)]
    assert outcome.result is not None
    assert json.loads((outcome.result / "items.json").read_text()) == [record.key for record in records(22)]
    assert json.loads((outcome.result / "verdict.json").read_text())["verdict"] == "trusted"
    assert outcome.snapshot is not None and outcome.snapshot.name == f"{STEPS_OF_22:06d}"


@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(0, 22), max_size=6).map(sorted), again=st.lists(st.integers(0, 21), max_size=6))
def test_streamed_and_all_at_once_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes], cuts: list[int], again: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    items = records(22)
    edges = [0, *cuts, 22]
    pieces = [items[a:b] for a, b in pairwise(edges)]
    for i in again:  # an item comes again, after it came first
        pieces.append([items[i]])
    toy_run(folder / "streamed", ToySource(pieces))
    assert files(folder / "streamed") == whole


@given(st.integers(0, 50), st.booleans(), st.booleans())
def test_policy_that_takes_what_is_there(waiting: int, begun: bool, closed: bool) -> None:
    size = BatchPolicy(5, 2, at_most=10).size(waiting, begun=begun, closed=closed)
    enough = waiting >= (2 if begun else 5) or closed
    assert size == (min(waiting, 10) if enough else 0)
    assert BatchPolicy(5, 2).size(100, begun=begun, closed=closed) == (2 if begun else 5)


def test_polling_goes_on_between_steps(tmp_path: Path) -> None:
    listener = Listener()
    toy_run(tmp_path / "run", ToySource([records(7), *([r] for r in records(15, 7))]), reporter=listener)
    working = [report for report in listener.reports if report.activity is Activity.WORKING]
    assert [report.arrived for report in working[:4]] == [8, 9, 10, 11]
    assert [report.used for report in working[:6]] == [7, 7, 7, 7, 7, 11]


def test_idle_close(tmp_path: Path) -> None:
    clock = FakeClock()
    outcome = toy_run(
        tmp_path / "run",
        ToySource([records(5), [], [], records(2, 5), records(1, 7)], open_end=True),
        clock=clock,
        sleep=clock.sleep,
        poll_s=1.0,
        idle_close_s=10.0,
    )
    assert outcome.items == 8 and outcome.ending is Ending.FINISHED
    assert clock.now == pytest.approx(14.0)
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.fact("source_closed") == "no new item for 10 s"


def ask(folder: Path, request: Request) -> None:
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.ask(request)


def test_stop_request_uses_what_has_arrived(tmp_path: Path) -> None:
    clock = FakeClock()
    clock.at = [(5.0, lambda: ask(tmp_path / "run", Request.STOP))]
    outcome = toy_run(
        tmp_path / "run", ToySource([records(9)], open_end=True), clock=clock, sleep=clock.sleep, poll_s=1.0
    )
    assert (outcome.ending, outcome.items) == (Ending.FINISHED, 9)
    assert [row.n for row in batches(tmp_path / "run")] == [7, 2]


def test_pause_continue_publish_dump(tmp_path: Path) -> None:
    folder, clock, listener = tmp_path / "run", FakeClock(), Listener()
    clock.at = [
        (2.0, lambda: ask(folder, Request.DUMP)),
        (4.0, lambda: ask(folder, Request.PUBLISH)),
        (6.0, lambda: ask(folder, Request.PAUSE)),
        (9.0, lambda: ask(folder, Request.CONTINUE)),
        (12.0, lambda: ask(folder, Request.STOP)),
    ]
    source = ToySource([records(9)], open_end=True)
    toy_run(folder, source, clock=clock, sleep=clock.sleep, poll_s=1.0, reporter=listener)
    activities = [report.activity for report in listener.reports]
    assert activities.count(Activity.PAUSED) == 3
    dump = folder / "dumps" / "000005-asked"
    pixels = unpack((dump / "last_batch.safetensors").read_bytes())
    seeds = [1000 + i for i in range(7)]
    assert np.array_equal(pixels["pixels"], [np.random.default_rng(s).standard_normal(3).astype("f4") for s in seeds])
    assert pixels["column.seed"].tolist() == seeds
    assert json.loads((dump / "batches.json").read_text()) == [[record.key for record in records(7)]]
    assert json.loads((dump / "dump.json").read_text())["last_batch_items_dumped"] == 7
    assert any("Published" in text and "000005" in text for text in listener.said)


def test_publish_in_the_middle_of_a_round(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Asking(Listener):
        def update(self, report: Any) -> None:
            if report.progress is not None and report.progress.label == "step 2" and not self.reports:
                self.reports.append(report)
                ask(folder, Request.PUBLISH)

    toy_run(folder, ToySource([records(7)]), reporter=Asking())
    assert [path.name for path in sorted((folder / "snapshots").iterdir())][:2] == ["000002", "000005"]


@pytest.mark.parametrize("open_end", [True, False])
def test_while_items_come_snapshots_come_early(open_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first with the first thing to show, the next after 1, 2, 4, 8 seconds, then as often as was asked."""
    folder, clock = tmp_path / "run", FakeClock()
    clock.at = [(70.0, lambda: ask(folder, Request.STOP))]
    step = ToyEngine.step

    def slow(engine: ToyEngine) -> Progress:
        clock.sleep(1.0)
        return replace(step(engine), shows=engine.steps >= 3)

    monkeypatch.setattr(ToyEngine, "step", slow)
    more = {"clock": clock, "sleep": clock.sleep, "publish_every_s": 10.0, "poll_s": 1.0}
    toy_run(folder, ToySource([records(7)], open_end), ToyOptions(round_steps=60), **more)
    found = [int(path.name) for path in sorted((folder / "snapshots").iterdir())]
    assert found[:6] == ([3, 4, 5, 7, 11, 19] if open_end else [10, 20, 30, 40, 50, 60])


def test_a_snapshot_that_was_asked_for_waits_for_something_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, step = tmp_path / "run", ToyEngine.step

    def empty(engine: ToyEngine) -> Progress:
        if engine.steps == 0:
            ask(folder, Request.PUBLISH)
        return replace(step(engine), shows=engine.steps >= 3)

    monkeypatch.setattr(ToyEngine, "step", empty)
    toy_run(folder, ToySource([records(7)]))
    assert [path.name for path in sorted((folder / "snapshots").iterdir())][:2] == ["000003", "000005"]


def test_closed_without_items(tmp_path: Path) -> None:
    for source in (ToySource([[]]), ToySource([[]], head=None)):
        with pytest.raises(InputError, match="closed before any item came"):
            toy_run(tmp_path / "run", source)
        assert not (tmp_path / "run").exists(), "a refused run leaves nothing behind"


def interrupting(step: int) -> Listener:
    """A reporter that sends this process a signal at a step, as Ctrl-C does."""

    class Interrupting(Listener):
        def update(self, report: Any) -> None:
            if report.activity is Activity.WORKING and report.progress.label == f"step {step}":
                os.kill(os.getpid(), signal.SIGINT)

    return Interrupting()


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """As at a terminal: a shell makes commands in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.parametrize("step", [1, 5, 13, STEPS_OF_22 - 1])
def test_ctrl_c_checkpoints_and_resume_gives_the_same(tmp_path: Path, whole: dict[str, bytes], step: int) -> None:
    outcome = toy_run(tmp_path / "run", ToySource([records(22)]), reporter=interrupting(step))
    assert (outcome.ending, outcome.exit_code, outcome.steps) == (Ending.INTERRUPTED, 130, step)
    assert f"beamside resume {tmp_path / 'run'}" in outcome.sentence
    assert (tmp_path / "run" / "checkpoints" / f"{step:06d}").is_dir()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert toy_run(tmp_path / "run", ToySource([records(22)]), resume=True).ending is Ending.FINISHED
    assert files(tmp_path / "run") == whole


def test_ctrl_c_while_waiting_for_the_first_item(tmp_path: Path) -> None:
    clock = FakeClock()
    clock.at = [(3.0, lambda: os.kill(os.getpid(), signal.SIGTERM))]
    source = ToySource([[]], open_end=True, head=None)
    outcome = toy_run(tmp_path / "run", source, clock=clock, sleep=clock.sleep, poll_s=1.0)
    assert outcome.ending is Ending.INTERRUPTED and clock.now == 3.0
    assert toy_run(tmp_path / "run", ToySource([records(8)]), resume=True).items == 8


def test_items_that_had_arrived_are_used_after_a_resume(tmp_path: Path) -> None:
    toy_run(tmp_path / "run", ToySource([records(10)], open_end=True), reporter=interrupting(3))
    source = ToySource([records(4, 10)])
    assert toy_run(tmp_path / "run", source, resume=True).items == 14
    assert [row.n for row in batches(tmp_path / "run")] == [7, 4, 3]


def test_the_end_says_how_long_after_the_last_item_it_came(tmp_path: Path) -> None:
    """Idle for 30 s means closed 30 s after the last item; a resumed run to which nothing comes does not know."""
    clock = FakeClock()
    source = ToySource([records(8)], open_end=True)
    outcome = toy_run(tmp_path / "run", source, idle_close_s=30.0, poll_s=10.0, clock=clock, sleep=clock.sleep)
    assert "Finished: 8 items, 30 s after the last item arrived, verdict" in outcome.sentence
    toy_run(tmp_path / "other", ToySource([records(8)], open_end=True), reporter=interrupting(3))
    assert "Finished: 8 items, verdict" in toy_run(tmp_path / "other", ToySource([]), resume=True).sentence


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    toy_run(tmp_path / "run", ToySource([records(8)]))
    before = files(tmp_path / "run")
    outcome = toy_run(tmp_path / "run", ToySource([]), resume=True)
    assert "finished already" in outcome.sentence and outcome.verdict is Verdict.TRUSTED
    assert files(tmp_path / "run") == before


def test_a_result_lost_at_the_last_instant_is_made_again(tmp_path: Path) -> None:
    toy_run(tmp_path / "whole", ToySource([records(8)]))

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    with pytest.raises(RunDirectoryError, match="disk full"):
        toy_run(tmp_path / "run", ToySource([records(8)]), exporter=fails)
    assert not (tmp_path / "run" / "result").exists()
    toy_run(tmp_path / "run", ToySource([records(8)]), resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_another_input_is_refused_on_resume(tmp_path: Path) -> None:
    toy_run(tmp_path / "run", ToySource([records(22)]), reporter=interrupting(3))
    other = ToySource([records(22)], head=Header("numbers", {"box_px": 4}))
    with pytest.raises(InputError, match=r"'box_px': 4.*'box_px': 3"):
        toy_run(tmp_path / "run", other, resume=True)


def test_an_engine_that_does_not_repeat_itself_is_refused(tmp_path: Path) -> None:
    toy_run(tmp_path / "run", ToySource([records(22)]), reporter=interrupting(13))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / "values.json").unlink()
    with pytest.raises(RunDirectoryError, match="nothing to do at step 4, where the earlier process went on"):
        toy_run(tmp_path / "run", ToySource([records(22)]), ToyOptions(round_steps=4), resume=True)


@pytest.mark.parametrize("boundary", ["ingest", "step", "publish"])
def test_a_guard_stops_the_run(tmp_path: Path, whole: dict[str, bytes], boundary: str) -> None:
    options = ToyOptions(trip=(10, "stop", boundary))
    listener = Listener()
    with pytest.raises(GuardStop, match=r"toy\.trip stopped the run at step 10: step 10 was reached.*Choose") as stop:
        toy_run(tmp_path / "run", ToySource([records(22)]), options, reporter=listener)
    dump = tmp_path / "run" / "dumps" / "000010-toy.trip"
    assert str(dump) in str(stop.value)
    assert set(unpack((dump / "state.safetensors").read_bytes())) == {"value"}
    assert "step 10 was reached" in json.loads((dump / "dump.json").read_text())["finding"]
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == ({"000005", "000010"} if boundary == "ingest" else {"000005"})
    assert not (tmp_path / "run" / "result").exists()
    # once the cause is gone, the last good checkpoint leads to the result of a run that never met it
    toy_run(tmp_path / "run", ToySource([records(22)]), resume=True)
    assert files(tmp_path / "run") == whole


@pytest.mark.parametrize("boundary", ["ingest", "step", "publish"])
def test_suspect_sticks_to_every_later_snapshot(tmp_path: Path, boundary: str) -> None:
    options = ToyOptions(trip=(10, "suspect", boundary))
    outcome = toy_run(tmp_path / "run", ToySource([records(22)]), options)
    assert outcome.verdict is Verdict.SUSPECT
    for path in sorted((tmp_path / "run" / "snapshots").iterdir()):
        about = json.loads((path / "snapshot.json").read_text())
        suspect = int(path.name) >= (11 if boundary == "ingest" else 10)
        assert about["verdict"] == ("suspect" if suspect else "trusted")
        assert bool(about["findings"]) == suspect
        assert len(about["findings"]) <= 5


def test_suspect_sticks_across_a_resume(tmp_path: Path) -> None:
    finding = Finding("toy.file", Severity.SUSPECT, "one file is odd.", "Look at it.")
    source = ToySource([records(22)], found=[finding])
    toy_run(tmp_path / "run", source, reporter=interrupting(13))
    outcome = toy_run(tmp_path / "run", ToySource([records(22)]), resume=True)
    assert outcome.verdict is Verdict.SUSPECT and outcome.result is not None
    assert json.loads((outcome.result / "verdict.json").read_text())["findings"][0]["guard"] == "toy.file"


def test_a_source_can_stop_the_run(tmp_path: Path) -> None:
    finding = Finding("input.gone", Severity.STOP, "the folder is gone.", "Mount it again.")
    with pytest.raises(GuardStop, match=r"input\.gone stopped the run"):
        toy_run(tmp_path / "run", ToySource([records(22)], found=[finding]))


def test_pictures_that_fail_cost_no_run(tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no font")

    listener = Listener()
    outcome = toy_run(tmp_path / "run", ToySource([records(7)]), pictures=fails, reporter=listener)
    assert outcome.ending is Ending.FINISHED
    assert any("no font" in text for text in listener.said)


def test_pictures_lie_in_their_snapshot(tmp_path: Path) -> None:
    outcome = toy_run(
        tmp_path / "run",
        ToySource([records(7)]),
        pictures=lambda snapshot, folder: (folder / "a.txt").write_text(str(snapshot.coverage)),
    )
    assert outcome.snapshot is not None and (outcome.snapshot / "a.txt").read_text() == "1.0"


def test_metrics_of_every_step_are_in_the_ledger(tmp_path: Path) -> None:
    toy_run(tmp_path / "run", ToySource([records(22)]))
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert [step for step, _, _ in ledger.metrics()] == list(range(1, STEPS_OF_22 + 1))


def test_toy_engine_resumes_bit_for_bit() -> None:
    header, options = Header("numbers", {}), ToyOptions()
    batch = ToySource([]).batch(records(7))
    engine = ToyEngine.fresh(options, header)
    engine.ingest(batch)
    engine.step()
    twin = ToyEngine.resume(replace(options), header, engine.state(), [batch])
    engine.step()
    twin.step()
    assert np.array_equal(engine.value, twin.value)
