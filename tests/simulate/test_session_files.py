from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from beamside.cli import simulate
from beamside.errors import BeamsideError, OptionError
from beamside.formats.mrc import read_map
from beamside.formats.star import read_star
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.session_files import write_live
from beamside.simulate.volumes import load_volume
from beamside.sources.particles import ParticleFile, ParticleFolder

SMALL = ["--box", "16", "--pixel-size", "20", "--n", "30", "--micrographs", "4"]


def simulated(*words: str) -> None:
    parser = argparse.ArgumentParser()
    simulate.configure(parser)
    assert simulate.run(parser.parse_args(["particles", *words])) == 0


def test_once_and_live_hold_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated(str(tmp_path / "once"), *SMALL)
    simulated(str(tmp_path / "live"), *SMALL, "--live")
    assert "30 particles of 16 px at 20 A" in capsys.readouterr().out
    once = ParticleFile(tmp_path / "once" / "particles.star")
    live = ParticleFolder(tmp_path / "live", watch=False, settle_s=0)
    first, second = once.batch(once.poll()), live.batch(live.poll())
    assert len(first) == len(second) == 30 and live.findings() == []
    np.testing.assert_allclose(first.load(np.arange(30)), second.load(np.arange(30)), atol=1e-4)
    for name, values in first.columns.items():
        if name != "micrograph":
            np.testing.assert_array_equal(values, second.columns[name])


def test_the_truth_lies_beside_and_not_in_the_folder(tmp_path: Path) -> None:
    simulated(str(tmp_path / "s"), *SMALL, "--junk", "0.2", "--bfactor", "50")
    given = read_star(tmp_path / "s" / "particles.star")["particles"]
    truth = read_star(tmp_path / "s_truth.star")["particles"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["particles.mrcs", "particles.star"]
    assert given.columns["rlnImageName"] == truth.columns["rlnImageName"]
    assert {"rlnAngleRot", "rlnClassNumber"} <= truth.columns.keys() - given.columns.keys()
    assert set(truth.ints("rlnClassNumber").tolist()) == {1, 2} and given.columns["rlnCtfBfactor"][0] == "50.000000"
    assert read_map(tmp_path / "s_map.mrc")[0].shape == (16, 16, 16)
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["count"] == 30 and facts["seed"] == 1 and facts["noise_variance"] > 0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulated(str(tmp_path / name), *SMALL)
    one, other = ((tmp_path / name / "particles.mrcs").read_bytes() for name in ("a", "b"))
    assert one == other
    simulated(str(tmp_path / "c"), *SMALL, "--seed", "2")
    assert (tmp_path / "c" / "particles.mrcs").read_bytes() != one


def test_the_rate_is_kept_and_stacks_come_before_their_tables(tmp_path: Path) -> None:
    volume, _ = load_volume("ring", 16, 20.0)
    recipe = Recipe(box_px=16, pixel_size_A=20.0, count=30, micrographs=3)
    slept: list[float] = []
    seen: list[int] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        seen.append(len(list((tmp_path / "s").glob("*.star"))))

    lines: list[str] = []
    write_live(tmp_path / "s", Session(volume, recipe), volume, 10.0, lines.append, sleep, clock=lambda: 0.0)
    assert seen == [0, 1, 2] and slept[-1] == 3.0 and len(lines) == 3 and lines[-1].endswith("30 of 30")
    for table in (tmp_path / "s").glob("*.star"):
        assert table.with_suffix(".mrcs").stat().st_mtime_ns <= table.stat().st_mtime_ns
    assert not list((tmp_path / "s").glob(".*"))


def test_options_that_would_change_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="without --live"):
        simulated(str(tmp_path / "s"), *SMALL, "--rate", "5")
    with pytest.raises(OptionError, match="negative"):
        simulated(str(tmp_path / "s"), *SMALL, "--live", "--rate", "-5")
    assert not (tmp_path / "s").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(BeamsideError, match="is not empty"):
        simulated(str(tmp_path / "full"), *SMALL)
