"""Joining particle sets: data travel, results do not; every name leads to its image; read back by starfile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import starfile

from beamside.cli.main import main
from beamside.doctor import parts
from beamside.doctor.merge import LEFT_BEHIND, merge
from beamside.errors import BeamsideError
from beamside.formats.mrc import write_stack
from beamside.formats.star import StarTable, write_star
from beamside.sources.particles import ParticleFile
from tests.formats.simple_files import particles, stacks, write_project
from tests.sources.test_particles import OPTICS, pair, pixels, rows, save

STALE = {label: "3" for label in ("rlnClassNumber", "rlnAnglePsi", "rlnOriginXAngst", "rlnRandomSubset")}


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two sessions whose stacks have the same name, one with results of a search."""
    found = []
    for number, name in enumerate(("one", "two")):
        path = pair(tmp_path / name, "a", 3, seed=number)
        save(path, rows("a.mrcs", 3, **(STALE if number else {})))
        found.append(path)
    return found


def old_style(folder: Path, stem: str, **more: str) -> Path:
    """STAR 3.0: the optics stand in the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / f"{stem}.mrcs", pixels(2), 2.0)
    table = rows(f"{stem}.mrcs", 2, rlnVoltage="300", rlnSphericalAberration="2.7", rlnAmplitudeContrast="0.1")
    del table["rlnOpticsGroup"]
    write_star(folder / f"{stem}.star", [StarTable(table | {k: [v] * 2 for k, v in more.items()})])
    return folder / f"{stem}.star"


def test_only_data_travel_and_every_name_leads_to_its_image(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.star"
    merged = merge(out, two)
    assert (merged.particles, merged.repeated, merged.stacks, merged.optics_groups) == (6, 0, 2, 1)
    assert merged.dropped == set(STALE)
    oracle = starfile.read(out)
    assert set(oracle["particles"].columns) == set(rows("a.mrcs", 1)), "results stay behind"
    assert oracle["particles"]["rlnImageName"].tolist() == [
        f"{i:06d}@{n}/a.mrcs" for n in ("one", "two") for i in (1, 2, 3)
    ]
    assert oracle["optics"]["rlnVoltage"].tolist() == [300.0]
    source = ParticleFile(out)
    assert np.array_equal(
        source.batch(source.poll()).load(np.arange(6)), np.concatenate([pixels(3), pixels(3, seed=1)])
    )


def test_elsewhere_names_are_absolute(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "else" / "where").mkdir(parents=True)
    out = tmp_path / "else" / "where" / "out.star"
    merged = merge(out, two)
    assert merged.trust == tmp_path
    source = ParticleFile(out, trusted=[merged.trust])
    assert source.poll()[0].key == f"000001@{tmp_path}/one/a.mrcs"
    assert len(source.poll() or source._read()) == 6


def test_the_same_particle_comes_once(two: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one", target_is_directory=True)
    merged = merge(tmp_path / "out.star", [two[0], link / "a.star", two[1]])
    assert (merged.particles, merged.repeated) == (6, 3)
    assert list(merged.inputs.values()) == [3, 0, 3]


def test_other_optics_stay_apart_and_equal_ones_are_joined(tmp_path: Path) -> None:
    first = pair(tmp_path, "a", 2)
    second = pair(tmp_path, "b", 2)
    save(second, rows("b.mrcs", 2, rlnOpticsGroup="7"), rlnOpticsGroup="7", rlnVoltage="3e2")
    third = pair(tmp_path, "c", 2)
    save(third, rows("c.mrcs", 2), rlnVoltage="200")
    out = tmp_path / "out.star"
    assert merge(out, [first, second, third]).optics_groups == 2
    oracle = starfile.read(out)
    assert oracle["particles"]["rlnOpticsGroup"].tolist() == [1, 1, 1, 1, 2, 2]
    assert oracle["optics"]["rlnVoltage"].tolist() == [300.0, 200.0]
    assert oracle["optics"]["rlnOpticsGroupName"].is_unique


def test_old_and_new_star_and_simple_are_one_table(tmp_path: Path) -> None:
    old = old_style(tmp_path / "old", "o", rlnMagnification="10000", rlnDetectorPixelSize="2.0")
    new = pair(tmp_path / "new", "n", 2)
    (tmp_path / "simple").mkdir()
    write_stack(tmp_path / "simple" / "s1.mrcs", pixels(2), 2.0)
    project = write_project(
        tmp_path / "simple" / "p.simple", {2: stacks(2), 3: particles(2, **{"class": 4, "e3": 9.0})}
    )
    out = tmp_path / "out.star"
    assert merge(out, [old, new, project]).particles == 6
    oracle = starfile.read(out)
    assert oracle["optics"]["rlnImagePixelSize"].tolist() == [2.0] * len(oracle["optics"])
    assert oracle["optics"]["rlnVoltage"].tolist() == [300.0] * len(oracle["optics"])
    assert oracle["particles"]["rlnDefocusU"].tolist() == [10000.25, 10001.25] * 2 + [15000.0] * 2
    batch = ParticleFile(out)
    made = batch.batch(batch.poll())
    assert made.columns["has_ctf"].all() and set(made.columns["voltage_kV"]) == {300.0}
    # what one input lacks is 0 for numbers and None for text
    assert oracle["particles"]["rlnMicrographName"].fillna("None").tolist()[-1] == "None"


def test_parts_give_what_the_whole_gives(two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(tmp_path / "whole.star", two)
    monkeypatch.setattr(parts, "_PART_BYTES", 50)
    monkeypatch.setattr(parts, "_PEEK_BYTES", 10)
    merge(tmp_path / "parts.star", two)
    assert (tmp_path / "parts.star").read_bytes() == (tmp_path / "whole.star").read_bytes()


@pytest.mark.parametrize("how", ["path", "dots", "symlink", "hard link"])
def test_a_copy_onto_itself_is_refused(two: list[Path], tmp_path: Path, how: str) -> None:
    """Gauntlet row 8."""
    out = tmp_path / "out.star"
    if how == "path":
        out = two[1]
    elif how == "dots":
        out = tmp_path / "one" / ".." / "two" / "a.star"
    elif how == "symlink":
        out.symlink_to(two[1])
    else:
        os.link(two[1], out)
    before = two[1].read_bytes()
    with pytest.raises(BeamsideError, match=r"files\.distinct: the output is the input .*Name another"):
        merge(out, two)
    assert two[1].read_bytes() == before


def test_what_is_there_stays(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out.star").write_text("precious")
    with pytest.raises(BeamsideError, match="exists already"):
        merge(tmp_path / "out.star", two)
    with pytest.raises(BeamsideError, match="folder does not exist"):
        merge(tmp_path / "no" / "out.star", two)


BAD = {
    "past the stack": (
        lambda t: t | {"rlnImageName": ["1@a.mrcs", "9@a.mrcs", "2@a.mrcs"]},
        r"table\.ranges: names image 9.*holds 3",
    ),
    "absent stack": (lambda t: t | {"rlnImageName": ["1@no.mrcs"] * 3}, r"no\.mrcs is not there"),
    "nan": (lambda t: t | {"rlnDefocusU": ["1", "nan", "2"]}, r"row 2 .*rlnDefocusU is 'nan'"),
    "no group": (lambda t: t | {"rlnOpticsGroup": ["1", "5", "1"]}, "names optics group 5"),
    "no CTF": (lambda t: {k: v for k, v in t.items() if k != "rlnDefocusU"}, r"ctf\.present: it has no CTF"),
    "no particles": (lambda t: {"rlnMicrographName": ["m"]}, "has no rows of particles"),
}


@pytest.mark.parametrize("case", BAD)
def test_nothing_is_written_when_one_input_is_wrong(two: list[Path], tmp_path: Path, case: str) -> None:
    """Gauntlet row 12, and its like."""
    change, says = BAD[case]
    save(two[1], change(rows("a.mrcs", 3)))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BeamsideError, match=says) as caught:
        merge(tmp_path / "out.star", two)
    assert str(two[1]) in str(caught.value) and caught.value.remedy
    assert sorted(tmp_path.iterdir()) == before


def test_an_old_table_without_any_pixel_size(tmp_path: Path) -> None:
    path = old_style(tmp_path, "o")
    assert merge(tmp_path / "fine.star", [path]).particles == 2
    write_stack(tmp_path / "o.mrcs", pixels(2), 0.0)
    with pytest.raises(BeamsideError, match="no positive pixel size"):
        merge(tmp_path / "out.star", [path])
    zero = old_style(tmp_path, "z", rlnMagnification="0", rlnDetectorPixelSize="5")
    with pytest.raises(BeamsideError, match="no positive pixel size"):
        merge(tmp_path / "out.star", [zero])


def test_the_verb_says_what_it_did(two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tmp_path / "out.star"), *map(str, two), str(two[0])]) == 0
    said = capsys.readouterr().out
    assert "6 particles of 2 stacks; optics groups: 1." in said and "3 rows name a particle again" in said
    assert "merge.data-only: left behind: rlnAnglePsi" in said
    assert main(["merge", str(two[0]), str(two[1]), str(two[0])]) == 2
    assert "files.distinct" in capsys.readouterr().err


def test_nothing_of_a_search_is_kept_by_name() -> None:
    assert {"rlnClassNumber", "rlnAnglePsi", "rlnRandomSubset", "rlnGroupNumber"} <= LEFT_BEHIND
    assert not {"rlnMicrographName", "rlnCoordinateX", "rlnDefocusU", *OPTICS} & LEFT_BEHIND


MEASURE = """
import resource, sys
from pathlib import Path
from beamside.doctor.merge import merge
folder = Path(sys.argv[1])
merged = merge(folder / "out.star", [folder / "a.star", folder / "b.star"])
print(merged.particles, merged.stacks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_two_million_particles_fit_into_two_gigabytes(tmp_path: Path) -> None:
    """Stacks are holes of the right length behind a real header; the tables are written row by row."""
    write_stack(tmp_path / "one.mrcs", np.zeros((1, 64, 64), dtype=np.float32), 2.0)
    head = bytearray((tmp_path / "one.mrcs").read_bytes()[:1024])
    head[8:12] = (1000).to_bytes(4, "little")
    for name in "ab":
        (tmp_path / name).mkdir()
        table = rows("x.mrcs", 1, rlnClassNumber="3", rlnAnglePsi="1.5")
        tail = " ".join(values[0] for label, values in table.items() if label != "rlnImageName")
        with (tmp_path / f"{name}.star").open("w") as file:
            file.write("data_optics\nloop_\n" + "".join(f"_{label}\n" for label in OPTICS))
            file.write(" ".join(OPTICS.values()) + "\n\ndata_particles\nloop_\n" + "".join(f"_{k}\n" for k in table))
            for stack in range(1000):
                path = tmp_path / name / f"{stack}.mrcs"
                path.write_bytes(head)
                os.truncate(path, 1024 + 1000 * 64 * 64 * 4)
                file.writelines(f"{i:06d}@{name}/{stack}.mrcs {tail}\n" for i in range(1, 1001))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=280
    )
    particles_written, stacks_named, peak_MB = map(int, done.stdout.split())
    assert (particles_written, stacks_named) == (2_000_000, 2000) and peak_MB < 2000
    with (tmp_path / "out.star").open() as file:
        assert sum("@" in line for line in file) == 2_000_000


def test_optics_may_come_last_and_names_may_hold_spaces(tmp_path: Path) -> None:
    (tmp_path / "in put").mkdir()
    write_stack(tmp_path / "in put" / "my stack.mrcs", pixels(2), 2.0)
    group = {label: [value] for label, value in OPTICS.items()}
    table = StarTable(rows("my stack.mrcs", 2), name="particles")
    write_star(tmp_path / "in put" / "a.star", [table, StarTable(group, name="optics")])
    assert merge(tmp_path / "out.star", [tmp_path / "in put" / "a.star"]).optics_groups == 1
    oracle = starfile.read(tmp_path / "out.star")
    assert oracle["particles"]["rlnImageName"].tolist() == [f"{i:06d}@in put/my stack.mrcs" for i in (1, 2)]
    assert ParticleFile(tmp_path / "out.star").poll()[1].key == "000002@in put/my stack.mrcs"
