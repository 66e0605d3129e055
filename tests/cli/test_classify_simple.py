"""A SIMPLE project as the input of a classification gives what the same particles give as a STAR file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from beamside.formats.mrc import read_map
from beamside.formats.star import read_star
from tests.formats.simple_files import write_project
from tests.gauntlet.drive import run, write_session


def test_a_project_is_classified_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = write_session(tmp_path / "session")
    table = read_star(star)["particles"]
    stack = {
        "stk": "particles.mrcs", "fromp": 1, "top": 240, "nptcls": 240, "smpd": "8.0", "kv": "300", "cs": "2.7",
        "fraca": "0.1", "ctf": "yes", "state": 1,
    }  # fmt: skip
    u, v, angle = (table.floats(label) for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"))
    particles = [
        {"dfx": u[i] / 1e4, "dfy": v[i] / 1e4, "angast": angle[i], "state": 1, "stkind": 1, "indstk": i + 1, "class": 3}
        for i in range(240)
    ]
    project = write_project(star.with_name("project.simple"), {2: [stack], 3: particles})
    one, other = run(capsys, star, tmp_path / "star"), run(capsys, project, tmp_path / "simple")
    assert one.status == other.status == 0 and other.findings == []
    averages = [read_map(next((r.folder / "result").glob("*classes.mrcs")))[0] for r in (one, other)]
    # the project holds its defocus as float32
    assert np.corrcoef(averages[0].ravel(), averages[1].ravel())[0, 1] > 0.999
    data = read_star(next((other.folder / "result").glob("*data.star")))
    assert len(data["particles"]) == 240 and data["optics"].columns["rlnVoltage"] == ["300"]
    shutil.rmtree(other.folder / "result")
    from beamside.cli.main import main

    assert main(["resume", str(other.folder)]) == 0
