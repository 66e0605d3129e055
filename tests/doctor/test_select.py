"""Particles of chosen classes of a real run, read back by starfile and by a next run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile

from beamside.cli.main import main
from beamside.sources.particles import ParticleFile
from tests.classify.test_guards import drive


def numbers(run_dir: Path) -> np.ndarray:
    newest = sorted((run_dir / "snapshots").iterdir())[-1]
    return np.array(json.loads((newest / "tables.json").read_text())["particles"]["class_number"])


@pytest.mark.parametrize("reject", [False, True])
def test_chosen_classes(classified: Path, tmp_path: Path, reject: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assigned, out = numbers(classified), tmp_path / "out.star"
    assert main(["select", str(classified), "--classes", "1,3-4", str(out), *(["--reject"] if reject else [])]) == 0
    wanted = np.isin(assigned, [2] if reject else [1, 3, 4])
    oracle = starfile.read(out)["particles"]
    assert oracle["rlnClassNumber"].tolist() == assigned[wanted].tolist()
    rows = [int(name.partition("@")[0]) - 1 for name in oracle["rlnImageName"]]
    assert rows == np.flatnonzero(wanted).tolist()
    home = classified / "../session"
    assert f"classify it with --trust {home.resolve()}" in capsys.readouterr().out
    source = ParticleFile(out, trusted=[home])
    records = source.poll()
    assert len(records) == wanted.sum() and np.isfinite(source.batch(records).load(np.arange(5))).all()


def test_the_next_run_takes_it(classified: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.star"
    main(["select", str(classified), "--classes", "1,2,3,4", str(out)])
    outcome, found = drive(out, tmp_path / "next")
    assert outcome.exit_code == 0 and found == ["input.outside"]


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["--classes", "9"], 2, r"table.ranges: classes [9] are asked for; the run has 1 to 4"),
        (["--classes", "1,2,3,4", "--reject"], 2, "no particle is in the chosen classes"),
    ],
)
def test_choices_that_cannot_be(
    classified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], status: int, says: str
) -> None:
    assert main(["select", str(classified), str(tmp_path / "out.star"), *args]) == status
    assert says in capsys.readouterr().err and not (tmp_path / "out.star").exists()


@pytest.mark.parametrize("text", ["0", "a", "1,,2", "5-3", "1-", "-1", "1-99999999999"])
def test_lists_that_make_no_sense(classified: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["select", str(classified), "out.star", f"--classes={text}"])
    assert "class" in capsys.readouterr().err


def test_the_input_of_the_run_is_never_written(
    classified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (given,) = json.loads((classified / "run.json").read_text())["inputs"]
    assert main(["select", str(classified), "--classes", "1", given["path"]]) == 2
    assert "files.distinct" in capsys.readouterr().err


def test_a_run_without_snapshots(classified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = tmp_path / "early"
    shutil.copytree(classified, early)
    shutil.rmtree(early / "snapshots")
    assert main(["select", str(early), "--classes", "1", str(tmp_path / "out.star")]) == 2
    assert "no snapshot yet" in capsys.readouterr().err
