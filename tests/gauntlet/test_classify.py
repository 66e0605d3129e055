"""Gauntlet rows 1 to 17: every defect put into a real classification, and the answer it gets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beamside.classify import expectation
from beamside.classify.model import Model
from beamside.cli.main import main
from beamside.formats.mrc import read_map, write_stack
from beamside.formats.star import StarTable, read_star, write_star
from beamside.run.ledger import Ledger
from beamside.run.store import Store
from tests.gauntlet.drive import assert_refused, assert_stopped, result_bytes, run, verdict, write_session

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
WATCH = ("--watch", "--settle", "0.3s", "--idle-close", "2s")


def spoil_references(patch: Patch, rows: Any) -> None:
    """The averages of `rows` are zero whenever they have been made."""
    original = Model.maximise

    def spoiled(self: Model, sums: Any) -> None:
        original(self, sums)
        self.averages.values[rows] = 0

    patch.setattr(Model, "maximise", spoiled)


def change_poses(patch: Patch, change: Any) -> None:
    """Poses that the search finds pass through `change`."""
    original = expectation.search

    def changed(*args: Any, **kwargs: Any) -> Any:
        poses = original(*args, **kwargs)
        score, label = change(poses.score.clone(), poses.label.clone())
        return type(poses)(score, label, poses.alpha, poses.shift)

    patch.setattr(expectation, "search", changed)


def edit(star: Path, **columns: list[str] | None) -> None:
    """Columns of the particle table replaced, or removed."""
    tables = read_star(star)
    for label, values in columns.items():
        if values is None:
            del tables["particles"].columns[label]
        else:
            tables["particles"].columns[label] = values
    write_star(star, tables.values())


def test_row_1_every_reference_is_zero(star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        spoil_references(patch, slice(None))
        ran = run(capsys, star, tmp_path / "run")
    assert_stopped(ran, "refs.nonzero", "all 4 class averages are zero.*Look at the input images", capsys)


def test_row_2_one_reference_is_lost(star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        spoil_references(patch, 1)
        patch.setattr(Model, "reseed_dead", lambda *_: [])
        ran = run(capsys, star, tmp_path / "run")
    assert_stopped(ran, "refs.prepared", r"class averages \[2\] are zero although particles belong", capsys)


STALE = {
    "rlnClassNumber": "4", "rlnAnglePsi": "12.5", "rlnOriginXAngst": "30", "rlnOriginYAngst": "-30",
    "rlnMaxValueProbDistribution": "0.1", "rlnLogLikeliContribution": "3", "rlnNrOfSignificantSamples": "9",
}  # fmt: skip


def test_rows_3_4_9_what_an_earlier_run_left_changes_nothing(
    pristine: Path, star: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Results in the table, an earlier class table with empty classes beside it, and an earlier reference file."""
    count = len(read_star(star)["particles"])
    edit(star, **{label: [value] * count for label, value in STALE.items()})
    classes = {"rlnReferenceImage": ["1@run_it025_classes.mrcs", "2@run_it025_classes.mrcs"]}
    shares = {"rlnClassDistribution": ["1.0", "0.0"]}
    write_star(star.with_name("run_it025_model.star"), [StarTable(classes | shares, name="model_classes")])
    write_stack(star.with_name("run_it025_classes.mrcs"), np.zeros((2, 32, 32), dtype=np.float32), 8.0)
    clean = run(capsys, pristine / "particles.star", tmp_path / "clean")
    tainted = run(capsys, star, tmp_path / "tainted")
    assert clean.status == tainted.status == 0 and clean.findings == tainted.findings == []
    assert result_bytes(tmp_path / "clean") == result_bytes(tmp_path / "tainted")


def test_row_5_every_class_scores_the_same(star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        change_poses(patch, lambda score, label: (torch.full_like(score, 0.367879), label))
        ran = run(capsys, star, tmp_path / "run")
    assert_stopped(ran, "scores.spread", "differ by 0 in log-likelihood.*Check that the images carry signal", capsys)


def test_row_6_equal_scores_walk_to_the_last_class(
    star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    """The old loop's ties: flat scores, and the last class wins each of them. The run stops within one pass."""

    def last_wins(score: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = label.argsort(1, descending=True)
        return torch.full_like(score, 0.367879), label.gather(1, order)

    with monkeypatch.context() as patch:
        change_poses(patch, last_wins)
        ran = run(capsys, star, tmp_path / "run")
    assert_stopped(ran, "scores.spread", "the scores are flat", capsys)


def test_row_6_a_full_collapse_stops(star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def all_to_the_last(score: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        label[:, 0] = 3
        score[:, 0] += 1e4
        return score, label

    with monkeypatch.context() as patch:
        patch.setattr(Model, "reseed_dead", lambda *_: [])
        change_poses(patch, all_to_the_last)
        ran = run(capsys, star, tmp_path / "run")
    assert_stopped(ran, "classes.collapse", r"class 4 holds (9\d|100)%", capsys)


def test_row_6_ties_do_not_go_to_one_class() -> None:
    """Equal scores share a particle; the label that comes first owes nothing to its number."""
    weight = expectation.responsibilities(torch.zeros(5, 3), 1.0)
    assert torch.allclose(weight, torch.full((5, 3), 1 / 3))


def test_row_7_one_class_takes_most_particles(star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def greedy(score: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        label[: int(0.8 * len(label)) + 1, 0] = 2
        return score, label

    with monkeypatch.context() as patch:
        change_poses(patch, greedy)
        ran = run(capsys, star, tmp_path / "run")
    assert ran.status == 0 and verdict(ran.folder) == "suspect"
    assert "class 3 holds" in ran.named("classes.collapse")[0] and "tighter mask" in ran.said
    judged = json.loads((ran.folder / "result" / "verdict.json").read_text())
    assert judged["verdict"] == "suspect" and judged["findings"][0]["guard"] == "classes.collapse"


def test_row_7_the_entropy_falls_by_half_in_one_step(
    star: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    """Eight classes become two of equal size, so that none holds more than half."""

    def fold(score: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(label))
        if sum(calls) > 480:  # from the third pass on
            label[:, 0] = torch.arange(len(label)) % 2
            score[:, 0] += 1e4
        return score, label

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Model, "reseed_dead", lambda *_: [])
        change_poses(patch, fold)
        ran = run(capsys, star, tmp_path / "run", classes=8)
    assert verdict(ran.folder) == "suspect"
    assert any("entropy fell from" in text for text in ran.named("classes.collapse")), ran.findings


@pytest.mark.parametrize("how", ["path", "symlink", "hard link"])
def test_row_8_a_copy_onto_itself(star: Path, tmp_path: Path, capsys: Capture, how: str) -> None:
    out = tmp_path / "out.star"
    if how == "path":
        out = star
    elif how == "symlink":
        out.symlink_to(star)
    else:
        os.link(star, out)
    before = star.read_bytes()
    assert run(capsys, star, tmp_path / "run").status == 0
    assert main(["merge", str(out), str(star)]) == 2
    assert "files.distinct" in (said := capsys.readouterr().err) and "Name another file." in said
    assert main(["select", str(tmp_path / "run"), "--classes", "1", str(out)]) == 2
    assert "files.distinct" in capsys.readouterr().err
    assert star.read_bytes() == before


def test_row_10_references_are_named_now_or_not_used(star: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(capsys, star, tmp_path / "first").status == 0
    inherited = run(capsys, star, tmp_path / "second", "--references", tmp_path / "first")
    assert_refused(inherited, "warmstart.explicit: --mode create takes no --references.*only then")
    named = run(capsys, star, tmp_path / "third", "--mode", "update", "--references", tmp_path / "first")
    assert named.status == 0
    inputs = Store(tmp_path / "third").manifest["inputs"]
    assert {Path(given["path"]).name.split("_", 2)[-1] for given in inputs[1:]} == {"model.star", "classes.mrcs"}
    assert all(len(given["sha256"]) == 64 for given in inputs)
    fresh = run(capsys, star, tmp_path / "fourth")
    assert fresh.status == 0 and result_bytes(tmp_path / "fourth") == result_bytes(tmp_path / "first")


def test_row_11_a_merge_leaves_results_behind(star: Path, tmp_path: Path, capsys: Capture) -> None:
    clean, tainted = tmp_path / "clean.star", tmp_path / "tainted.star"
    main(["merge", str(clean), str(star)])
    count = len(read_star(star)["particles"])
    edit(star, **{label: [value] * count for label, value in STALE.items()})
    assert main(["merge", str(tainted), str(star)]) == 0
    assert "merge.data-only: left behind: rlnAnglePsi, rlnClassNumber" in capsys.readouterr().out
    assert tainted.read_bytes() == clean.read_bytes()


def test_row_12_indices_past_their_stack(star: Path, tmp_path: Path, capsys: Capture) -> None:
    names = read_star(star)["particles"].columns["rlnImageName"]
    edit(star, rlnImageName=[*names[:-1], "000999@particles.mrcs"])
    assert_refused(run(capsys, star, tmp_path / "run"), r"row 240 .*table\.ranges: names image 999 of .*holds 240")
    assert main(["merge", str(tmp_path / "out.star"), str(star)]) == 2
    assert "table.ranges: names image 999" in capsys.readouterr().err


def test_row_12_class_numbers_above_the_number_of_classes(star: Path, tmp_path: Path, capsys: Capture) -> None:
    edit(star, rlnClassNumber=["7"] * 240)
    ran = run(capsys, star, tmp_path / "run")
    assert ran.status == 0
    assert main(["select", str(ran.folder), "--classes", "7", str(tmp_path / "o.star")]) == 2
    assert "table.ranges: classes [7] are asked for; the run has 1 to 4" in capsys.readouterr().err


def test_row_13_some_stacks_carry_no_ctf(star: Path, tmp_path: Path, capsys: Capture) -> None:
    edit(star, rlnDefocusV=None)
    says = r"ctf\.present: CTF correction is asked for.*Estimate the CTF first, or run with --no-ctf"
    assert_refused(run(capsys, star, tmp_path / "run"), says)
    assert run(capsys, star, tmp_path / "without", "--no-ctf").status == 0


def test_row_13_one_file_of_a_folder_carries_no_ctf(pristine: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "both"
    write_session(folder)
    write_session(tmp_path / "other", seed=4)
    os.rename(tmp_path / "other" / "particles.mrcs", folder / "later.mrcs")
    table = read_star(tmp_path / "other" / "particles.star")
    names = [name.replace("particles", "later") for name in table["particles"].columns["rlnImageName"]]
    table["particles"].columns |= {"rlnImageName": names}
    del table["particles"].columns["rlnDefocusU"]
    write_star(folder / "zz.star", table.values())
    ran = run(capsys, folder, tmp_path / "run", *WATCH, "--first-batch", "480")
    assert ran.status == 2 and "ctf.present: " in ran.said
    assert "240 particles carry no CTF (the first is 000001@later.mrcs)" in ran.said
    assert not any((ran.folder / name).exists() for name in ("snapshots", "checkpoints", "result"))


def test_row_14_the_last_incomplete_batch_is_classified(star: Path, tmp_path: Path, capsys: Capture) -> None:
    ran = run(capsys, star, tmp_path / "run", "--first-batch", "100", "--batch-size", "60")
    assert ran.status == 0
    with Ledger(ran.folder / "ledger.sqlite", read_only=True) as ledger:
        assert [row.n for row in ledger.batches()] == [100, 60, 60, 20]
    (data,) = (ran.folder / "result").glob("*_data.star")
    table = read_star(data)["particles"]
    assert len(table) == 240 and min(table.ints("rlnClassNumber")) >= 1, "items seen = items in the result"


def test_row_15_clocks_that_step_back_lose_nothing(pristine: Path, tmp_path: Path, capsys: Capture) -> None:
    """Files dated in the past, in the future, and all alike: each particle once."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, seconds in enumerate((10**9, 4 * 10**9, 0, 0)):
        write_session(tmp_path / f"s{number}", count=60, seed=number)
        stack, star = folder / f"p{number}.mrcs", folder / f"p{number}.star"
        os.rename(tmp_path / f"s{number}" / "particles.mrcs", stack)
        text = (tmp_path / f"s{number}" / "particles.star").read_text().replace("particles.mrcs", stack.name)
        star.write_text(text)
        for path in (stack, star):
            os.utime(path, (seconds, seconds))
    ran = run(capsys, folder, tmp_path / "run", *WATCH)
    assert ran.status == 0 and ran.findings == []
    with Ledger(ran.folder / "ledger.sqlite", read_only=True) as ledger:
        keys = [record.key for record in ledger.records()]
    assert sorted(keys) == [f"{i:06d}@p{n}.mrcs" for i in range(1, 61) for n in range(4)]


def test_row_16_a_resolution_beyond_nyquist_is_clamped(star: Path, tmp_path: Path, capsys: Capture) -> None:
    ran = run(capsys, star, tmp_path / "run", "--max-resolution", "3")
    assert ran.status == 0 and verdict(ran.folder) == "trusted"
    (sentence,) = ran.named("options.resolution")
    assert "3 A is finer than pixels of 8 A allow; 16.5 A is used." in sentence and sentence in ran.said


def test_more_classes_than_particles_are_refused(star: Path, tmp_path: Path, capsys: Capture) -> None:
    """Not a guard's row: three particles in fifty classes used to end as flat scores, with advice about the mask."""
    ran = run(capsys, star, tmp_path / "run", classes=241)
    assert ran.status == 2 and "240 usable particles are there to begin with, and 241 classes" in ran.said
    assert "--classes 24." in ran.said


def test_row_17_boxes_too_large_are_refused_before_the_first_item(tmp_path: Path, capsys: Capture) -> None:
    session = tmp_path / "session"
    star = write_session(session, count=2)
    pixels, _ = read_map(session / "particles.mrcs")
    write_stack(session / "particles.mrcs", np.tile(pixels, (1, 16, 16)), 8.0)
    ran = run(capsys, star, tmp_path / "run")
    assert_refused(ran, r"capacity.declared: boxes of 512 px are over the 256 px .*Bin the particles by 2 to 256 px")
