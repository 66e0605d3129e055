"""Every oddity of the list, put into a file and found there; what would stop a run stops one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.cli.main import main
from beamside.doctor.inspect import Examination, inspect
from beamside.errors import BeamsideError
from beamside.formats.mrc import write_stack
from beamside.formats.star import StarTable, write_star
from beamside.sources.particles import ParticleFile
from tests.formats.simple_files import particles, stacks, write_project
from tests.sources.test_particles import pair, pixels, rows, save

Table = dict[str, list[str]]


def names(found: Examination) -> list[str]:
    return [oddity.name for oddity in found.oddities]


def stopping(found: Examination) -> list[str]:
    return [oddity.name for oddity in found.oddities if oddity.severity == "stop"]


def test_a_healthy_set_has_nothing_odd(tmp_path: Path) -> None:
    found = inspect(pair(tmp_path, "a", 5), all_images=True)
    assert found.oddities == [] and not found.stops and found.form == "STAR 3.1"
    expected = {
        "micrographs": 1, "stacks": 1, "missing stacks": 0, "particles": 5, "active particles": 5,
        "inactive particles": 0, "classes": 0, "empty classes": [], "particles in the last class": 0,
        "class numbers out of range": 0, "particles with an earlier class": 0,
        "particles with an earlier score": 0, "particles with an earlier in-plane angle": 0,
        "particles with an earlier shift": 0, "stacks without CTF": 0, "defocus (A)": [9500.2, 9504.2],
        "astigmatism (A)": [1000.0, 1000.0], "boxes (px)": [8], "pixel sizes (A)": [2.0],
    }  # fmt: skip
    assert found.facts == expected


def test_results_of_an_earlier_search_are_counted(tmp_path: Path) -> None:
    pair(tmp_path, "a", 4)
    table = rows("a.mrcs", 4) | {
        "rlnClassNumber": ["1", "5", "5", "0"],
        "rlnAnglePsi": ["0", "3.5", "2", "1"],
        "rlnOriginXAngst": ["0.0", "0", "-2", "0"],
        "rlnOriginYAngst": ["0.0", "0", "0", "1"],
        "rlnMaxValueProbDistribution": ["0", "0", "0", "0.5"],
    }
    found = inspect(save(tmp_path / "b.star", table))
    facts = {
        kind: found.facts[f"particles with an earlier {kind}"] for kind in ("class", "score", "in-plane angle", "shift")
    }
    assert facts == {"class": 3, "score": 1, "in-plane angle": 3, "shift": 2}
    assert found.facts["particles in the last class"] == 2 and found.facts["empty classes"] == [2, 3, 4]
    assert names(found) == ["fresh.clean", "fresh.clean", "classes.collapse"] and not found.stops
    collapse = found.oddities[-1]
    assert "class 5 holds 67%" in collapse.saw and "the last one" in collapse.saw


def test_two_classes_that_were_selected_have_not_collapsed(tmp_path: Path) -> None:
    pair(tmp_path, "a", 4)
    found = inspect(save(tmp_path / "b.star", rows("a.mrcs", 4) | {"rlnClassNumber": ["1", "2", "2", "2"]}))
    assert names(found) == ["fresh.clean"]


def test_a_folder_that_is_no_run_says_what_to_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for says in ("holds no run.json. Give a run directory or a file.", "or one of its files, such as a.star."):
        assert main(["inspect", str(tmp_path)]) == 2
        assert says in capsys.readouterr().err
        pair(tmp_path, "a", 4)
        save(tmp_path / "a.star", rows("a.mrcs", 4))


def test_the_model_beside_a_table_says_how_many_classes_there_are(tmp_path: Path) -> None:
    pair(tmp_path, "a", 4)
    save(tmp_path / "run_it001_data.star", rows("a.mrcs", 4) | {"rlnClassNumber": ["1", "2", "9", "2"]})
    general = StarTable({"rlnNrClasses": ["3"]}, loop=False, name="model_general")
    write_star(tmp_path / "run_it001_model.star", [general])
    found = inspect(tmp_path / "run_it001_data.star")
    assert (found.facts["classes"], found.facts["class numbers out of range"]) == (3, 1)
    assert found.facts["empty classes"] == [3] and found.facts["particles in the last class"] == 0
    assert any("1 class number is not between 1 and 3" in o.saw and "row 3" in o.saw for o in found.oddities)


STOPS: dict[str, tuple[Callable[[Table], Table], dict[str, str], str, str]] = {
    "past the end": (lambda t: t | {"rlnImageName": ["1@a.mrcs", "9@a.mrcs", "2@a.mrcs"]}, {}, "table.ranges", "row 2"),
    "image 0": (lambda t: t | {"rlnImageName": ["1@a.mrcs", "0@a.mrcs", "2@a.mrcs"]}, {}, "table.ranges", "image 0"),
    "no stack": (lambda t: t | {"rlnImageName": ["1@no.mrcs"] * 3}, {}, "input.missing", r"no\.mrcs"),
    "no CTF": (lambda t: {k: v for k, v in t.items() if k != "rlnDefocusV"}, {}, "ctf.present", "3 particles carry no"),
    "nan": (lambda t: t | {"rlnDefocusU": ["1", "2", "nan"]}, {}, "table.readable", "rlnDefocusU is no finite"),
    "voltage": (lambda t: t, {"rlnVoltage": "inf"}, "table.readable", "rlnVoltage"),
    "pixel size": (lambda t: t, {"rlnImagePixelSize": "0"}, "table.readable", "pixel sizes are 0 A"),
    "pixel sizes": (lambda t: t | {"rlnImagePixelSize": ["2", "2", "3"]}, {}, "table.readable", "2, 3 A"),
    "group": (lambda t: t | {"rlnOpticsGroup": ["1", "2", "1"]}, {}, "table.readable", "names optics group 2"),
    "cut stack": (lambda t: t | {"rlnImageName": ["1@cut.mrcs"] * 3}, {}, "table.readable", r"cut\.mrcs"),
    "box": (lambda t: t | {"rlnImageName": ["1@a.mrcs", "1@big.mrcs", "2@a.mrcs"]}, {}, "table.readable", "16 x 16"),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_what_would_stop_a_run_is_named_and_stops_one(tmp_path: Path, case: str) -> None:
    pair(tmp_path, "a")
    write_stack(tmp_path / "big.mrcs", pixels(1, 16), 2.0)
    (tmp_path / "cut.mrcs").write_bytes((tmp_path / "a.mrcs").read_bytes()[:1100])
    change, optics, name, says = STOPS[case]
    path = save(tmp_path / "b.star", change(rows("a.mrcs", 3)), **optics)
    found = inspect(path)
    assert stopping(found)[0] == name and main(["inspect", str(path)]) == 1
    first = next(oddity for oddity in found.oddities if oddity.severity == "stop")
    assert any(re.search(says, oddity.saw) for oddity in found.oddities), first.saw
    assert first.effect and first.answer
    if case == "no CTF":
        header = ParticleFile(path).header()
        assert header is not None and header.fields["has_ctf"] is False
    else:
        with pytest.raises(BeamsideError):
            ParticleFile(path).poll()


def test_images_that_carry_nothing(tmp_path: Path) -> None:
    made = pixels(600)
    made[3], made[5], made[400, 1, 1] = 0.0, 2.5, np.nan
    write_stack(tmp_path / "a.mrcs", made, 2.0)
    path = save(tmp_path / "a.star", rows("a.mrcs", 600))
    found = inspect(path, all_images=True)
    saw = [oddity.saw for oddity in found.oddities if oddity.name == "input.finite"]
    assert [text.partition(";")[0] for text in saw] == [
        "1 of 600 images looked at is all zero",
        "1 of 600 images looked at is constant",
        "1 of 600 images looked at is not finite",
    ]
    assert "row 4 " in saw[0] and "row 6 " in saw[1] and "row 401 " in saw[2] and not found.stops
    made[:300] = 0.0
    write_stack(tmp_path / "a.mrcs", made, 2.0)
    (sampled,) = inspect(path).oddities
    assert "of 300 images looked at are all zero" in sampled.saw


def test_what_is_out_of_the_ordinary_is_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_stack(tmp_path / "a.mrcs", pixels(4), 2.0)
    table = rows(f"{tmp_path}/a.mrcs", 4) | {"rlnDefocusU": ["500", "90000", "9000", "9000"]}
    table["rlnImageName"][3] = table["rlnImageName"][2]
    found = inspect(save(tmp_path / "in" / "b.star", table))
    assert names(found) == ["input.repeated", "input.outside", "ctf.range", "ctf.range"]
    assert stopping(found) == ["input.outside"] and f"--trust {tmp_path}" in found.oddities[1].answer


def test_star_30_and_a_set_without_pixel_size(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.mrcs", pixels(2), 2.0)
    write_star(tmp_path / "a.star", [StarTable({"rlnImageName": ["1@a.mrcs", "2@a.mrcs"]})])
    found = inspect(tmp_path / "a.star")
    assert found.form == "STAR 3.0" and names(found) == ["ctf.present", "input.pixel-size"]
    assert found.facts["stacks without CTF"] == 1 and found.facts["micrographs"] is None


CS = [
    ("blob/path", "S20"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"),
    ("ctf/df_angle_rad", "<f4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"),
    ("alignments2D/class", "<u4"), ("alignments2D/shift", "<f4", (2,)),
]  # fmt: skip


def test_a_cryosparc_table(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.mrc", pixels(3), 2.0)
    made: Any = np.zeros(4, dtype=CS)
    made["blob/path"], made["blob/idx"], made["blob/psize_A"] = b"a.mrc", [0, 1, 2, 3], 2.0
    made["ctf/df1_A"] = made["ctf/df2_A"] = 15000
    made["alignments2D/class"] = [0, 2, 2, 2]
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, made)
    found = inspect(tmp_path / "a.cs")
    assert found.form == "CryoSPARC .cs" and stopping(found) == ["table.ranges"]
    assert "1 row names an image outside" in found.oddities[0].saw and "record 4" in found.oddities[0].saw
    assert (found.facts["classes"], found.facts["empty classes"]) == (3, [2])
    assert found.facts["particles with an earlier shift"] == 4 and found.facts["stacks without CTF"] == 0


def test_a_real_cryosparc_table(shared: Path) -> None:
    found = inspect(shared / "data" / "classify" / "cryosparc_P12_J24_001_particles.cs")
    assert found.facts["particles"] == 2019 and found.facts["stacks"] == 50
    assert stopping(found) == ["input.missing"] and found.facts["pixel sizes (A)"] == [2.95]
    assert (found.facts["classes"], found.facts["particles in the last class"]) == (1, 2019)


def test_a_stack_under_another_name_is_pointed_at(shared: Path) -> None:
    (stop, *_) = inspect(shared / "data" / "classify" / "empiar10076_7x320.star").oddities
    assert stop.saw.startswith("1 stack of 7 particles is not there: empiar_10076_7.mrc.")
    assert "empiar10076_7x320.mrcs lies beside the table" in stop.saw


def test_a_simple_project(tmp_path: Path) -> None:
    for number in (1, 2):
        write_stack(tmp_path / f"s{number}.mrcs", pixels(3), 2.0)
    made, held = particles(3, 3, **{"class": 2, "e3": 1.0}), stacks(3, 3)
    made[0]["state"], made[1]["stkind"], made[2]["class"] = 0, 9, 7
    held[1]["ctf"] = "no"
    classes = [{"class": n, "pop": p} for n, p in ((1, 0), (2, 5), (3, 0))]
    mics = [{"intg": "m1.mrc"}, {"intg": "m2.mrc"}]
    found = inspect(write_project(tmp_path / "p.simple", {1: mics, 2: held, 3: made, 4: classes}))
    assert found.form == "SIMPLE project" and stopping(found) == ["table.ranges", "ctf.present"]
    facts = found.facts
    assert (facts["micrographs"], facts["stacks"], facts["particles"], facts["inactive particles"]) == (2, 2, 6, 1)
    assert (facts["classes"], facts["empty classes"], facts["class numbers out of range"]) == (3, [1, 3], 1)
    assert facts["stacks without CTF"] == 1 and "input.inactive" in names(found)
    assert facts["defocus (A)"] == pytest.approx([14500, 14500])


def test_a_finished_run(classified: Path) -> None:
    found = inspect(classified, all_images=True)
    assert found.form == "run of classify" and not found.stops
    assert (found.facts["items in use"], found.facts["particles"], found.facts["verdict"]) == (240, 240, "trusted")
    assert found.facts["classes"] == 4 and found.facts["damaged checkpoints"] == 0


def test_a_damaged_run(classified: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(classified, folder)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    (newest / "values.json").write_bytes(b"{}")
    manifest = json.loads((folder / "run.json").read_text())
    copy = tmp_path / "particles.star"
    shutil.copy(manifest["inputs"][0]["path"], copy)
    manifest["inputs"][0]["path"] = str(copy)
    (folder / "run.json").write_text(json.dumps(manifest))
    copy.write_bytes(copy.read_bytes() + b"\n")
    found = inspect(folder)
    assert names(found)[:2] == ["input.changed", "files.checksum"] and found.facts["damaged checkpoints"] == 1
    copy.unlink()
    assert stopping(inspect(folder)) == ["input.missing"]


def test_json_and_what_cannot_be_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pair(tmp_path, "a", 5)
    assert main(["inspect", "--json", str(path)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["facts"]["particles"] == 5 and said["oddities"] == [] and said["stops"] is False
    assert main(["inspect", str(path)]) == 0
    assert "Nothing here would stop a run." in capsys.readouterr().out
    write_star(tmp_path / "mics.star", [StarTable({"rlnMicrographName": ["a.mrc"]}, name="micrographs")])
    for other, says in (
        (tmp_path, "holds no run.json"),
        (tmp_path / "a.mrcs", "has the ending"),
        (tmp_path / "no.star", "cannot be read"),
        (tmp_path / "mics.star", "it holds data_micrographs (1 rows), and no row with rlnImageName"),
    ):
        assert main(["inspect", str(other)]) == 2
        assert says in capsys.readouterr().err


def test_ranges_and_large_numbers_are_written_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(pair(tmp_path, "a", 5))])
    said = capsys.readouterr().out
    assert re.search(r"defocus \(A\) +9,500 to 9,504\n", said) and re.search(r"pixel sizes \(A\) +2\n", said)


@pytest.mark.parametrize("verb", ["classify", "merge"])
def test_particles_of_cryosparc_are_looked_at_only(
    verb: str, tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(shared / "data" / "classify" / "cryosparc_P12_J24_001_particles.cs")
    out = str(tmp_path / "out.star")
    assert main([verb, *([table, out] if verb == "classify" else [out, table])]) == 2
    said = capsys.readouterr().err
    assert "is a particle table of CryoSPARC" in said and "STAR file" in said and not Path(out).exists()
