from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from beamside.errors import BeamsideError, FormatError, InputError
from beamside.formats.mrc import write_stack
from beamside.formats.star import StarTable, write_star
from beamside.run.engine import Header
from beamside.run.guard import Severity
from beamside.run.source import Record, Source
from beamside.sources.particle_export import particle_tables
from beamside.sources.particle_table import RESULT_LABELS, decode
from beamside.sources.particles import ParticleFile, ParticleFolder

OPTICS = {
    "rlnOpticsGroupName": "opticsGroup1",
    "rlnOpticsGroup": "1",
    "rlnVoltage": "300.0",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
    "rlnImagePixelSize": "2.000000",
}


def pixels(count: int, box_px: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, box_px, box_px)).astype(np.float32)


def rows(stack: str, count: int, **more: str) -> dict[str, list[str]]:
    columns = {
        "rlnImageName": [f"{i + 1:06d}@{stack}" for i in range(count)],
        "rlnMicrographName": ["m.mrc"] * count,
        "rlnDefocusU": [f"{10000 + i}.25" for i in range(count)],
        "rlnDefocusV": [f"{9000 + i}.25" for i in range(count)],
        "rlnDefocusAngle": ["15.0"] * count,
        "rlnOpticsGroup": ["1"] * count,
    }
    return columns | {label: [value] * count for label, value in more.items()}


def save(path: Path, columns: dict[str, list[str]], **optics: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    group = {label: [value] for label, value in (OPTICS | optics).items()}
    write_star(path, [StarTable(group, name="optics"), StarTable(columns, name="particles")])
    return path


def pair(folder: Path, stem: str, count: int = 3, box_px: int = 8, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / f"{stem}.mrcs", pixels(count, box_px, seed), 2.0)
    return save(folder / f"{stem}.star", rows(f"{stem}.mrcs", count))


def test_a_file_gives_all_its_particles_once(tmp_path: Path) -> None:
    source = ParticleFile(pair(tmp_path, "a", 5))
    assert isinstance(source, Source) and not source.exhausted()
    header = source.header()
    assert header is not None and header.kind == "particles"
    assert header.fields == {"box_px": 8, "pixel_size_A": 2.0, "has_ctf": True}
    records = source.poll()
    assert [r.key for r in records] == [f"{i + 1:06d}@a.mrcs" for i in range(5)]
    assert source.exhausted() and source.poll() == [] and source.findings() == []


def test_a_batch_has_named_columns_and_loads_any_rows(tmp_path: Path) -> None:
    for seed, stem in enumerate("ab"):
        pair(tmp_path, stem, 3, seed=seed)
    both = {k: v + w for (k, v), w in zip(rows("a.mrcs", 3).items(), rows("b.mrcs", 3).values(), strict=True)}
    source = ParticleFile(save(tmp_path / "both.star", both))
    batch = source.batch(source.poll())
    assert batch.columns["defocus_u_A"].tolist() == [10000.25, 10001.25, 10002.25] * 2
    assert batch.columns["defocus_v_A"].dtype == np.float64
    for name, value in {"voltage_kV": 300, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift_deg": 0}.items():
        assert set(batch.columns[name].tolist()) == {value}
    assert batch.columns["ctf_scale"].tolist() == [1.0] * 6 and batch.columns["bfactor_A2"].tolist() == [0.0] * 6
    assert batch.columns["has_ctf"].all() and batch.columns["optics_group"].tolist() == [1] * 6
    assert batch.columns["micrograph"].tolist() == ["m.mrc"] * 6
    everything = np.concatenate([pixels(3, seed=0), pixels(3, seed=1)])
    wanted = np.array([4, 0, 4, 2])
    assert np.array_equal(batch.load(wanted), everything[wanted])
    assert np.array_equal(batch.load(np.array([1])), everything[[1]])
    assert batch.load(np.array([], dtype=int)).shape[0] == 0


def test_records_come_back_in_a_later_process(tmp_path: Path) -> None:
    path = pair(tmp_path, "a")
    records = [Record(r.key, r.payload) for r in ParticleFile(path).poll()]
    before, after = ParticleFile(path).batch(records), ParticleFile(path).batch(records)
    for name, values in before.columns.items():
        assert np.array_equal(values, after.columns[name])
    assert np.array_equal(after.load(np.arange(3)), pixels(3))
    assert decode(records[0]).columns["rlnDefocusU"] == "10000.25"


def test_one_particle_has_one_name(tmp_path: Path) -> None:
    pair(tmp_path, "a", 3)
    names = ["1@a.mrcs", "000001@./a.mrcs", f"0001@{tmp_path}/a.mrcs", "2@x/../a.mrcs"]
    source = ParticleFile(save(tmp_path / "b.star", rows("a.mrcs", 3) | {"rlnImageName": names[:3]}))
    assert [r.key for r in source.poll()] == ["000001@a.mrcs"]
    assert [f.guard for f in source.findings()] == ["input.repeated"]
    (tmp_path / "x").mkdir()
    source = ParticleFile(save(tmp_path / "c.star", rows("a.mrcs", 1) | {"rlnImageName": names[3:]}))
    assert [r.key for r in source.poll()] == ["000002@a.mrcs"]


def test_earlier_results_change_nothing(tmp_path: Path) -> None:
    pair(tmp_path, "a", 4)
    clean = ParticleFile(tmp_path / "a.star")
    stale = rows("a.mrcs", 4) | {label: ["2.500000"] * 4 for label in sorted(RESULT_LABELS)}
    tainted = ParticleFile(save(tmp_path / "b.star", stale))
    assert clean.poll() == tainted.poll()


def test_stacks_are_found_as_relion_finds_them(tmp_path: Path) -> None:
    """By the STAR file, under the data root, or under the project's folder above it."""
    project = tmp_path / "project"
    write_stack(tmp_path / "out.mrcs", pixels(3), 2.0)
    pair(project / "Extract" / "job1", "a")
    under_project = save(project / "Select" / "job2" / "p.star", rows("Extract/job1/a.mrcs", 3))
    source = ParticleFile(under_project, root=project)
    assert source.poll()[0].key == "000001@Extract/job1/a.mrcs" and source.findings() == []
    assert np.array_equal(source.batch(source._read()).load(np.arange(3)), pixels(3))
    outside = ParticleFile(under_project)
    key = outside.poll()[0].key
    assert key == f"000001@{project}/Extract/job1/a.mrcs"
    assert [(f.guard, f.severity) for f in outside.findings()] == [("input.outside", Severity.NOTE)]
    for name in (str(tmp_path / "out.mrcs"), "../out.mrcs"):
        with pytest.raises(InputError, match=r"input.outside: .*out.mrcs leaves the data folder.*--trust"):
            ParticleFile(save(project / "q.star", rows(name, 3))).poll()
        away = ParticleFile(save(project / "q.star", rows(name, 3)), trusted=[tmp_path])
        assert away.poll()[0].key == f"000001@{tmp_path}/out.mrcs"
        assert np.array_equal(away.batch(away._read()).load(np.arange(3)), pixels(3))
    for name in ("/dev/null", str(tmp_path)):
        with pytest.raises(InputError, match="is not there"):
            ParticleFile(save(project / "q.star", rows(name, 3))).poll()


def test_what_star_30_says_in_its_rows(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.mrcs", pixels(3), 0.0)
    table = rows("a.mrcs", 3, rlnSphericalAberration="2.7", rlnAmplitudeContrast="0.07", rlnMagnification="38168")
    table |= {"rlnDetectorPixelSize": ["5"] * 3, "rlnVoltage": ["300", "200", "300.0"]}
    del table["rlnOpticsGroup"]
    write_star(tmp_path / "a.star", [StarTable(table)])
    source = ParticleFile(tmp_path / "a.star")
    header = source.header()
    assert header is not None and header.fields["pixel_size_A"] == pytest.approx(1.309998, abs=1e-6)
    batch = source.batch(source.poll())
    assert batch.columns["voltage_kV"].tolist() == [300, 200, 300] and batch.columns["has_ctf"].all()
    assert batch.columns["optics_group"].tolist() == [1, 2, 1]


def test_rows_without_a_ctf_say_so(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    table = rows("a.mrcs", 3)
    del table["rlnDefocusV"]
    source = ParticleFile(save(tmp_path / "b.star", table))
    header = source.header()
    assert header is not None and header.fields["has_ctf"] is False
    batch = source.batch(source.poll())
    assert not batch.columns["has_ctf"].any() and np.isfinite(batch.columns["defocus_u_A"]).all()


def test_a_pixel_size_of_the_header_is_noted(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    write_star(tmp_path / "b.star", [StarTable({"rlnImageName": ["1@a.mrcs"]})])
    source = ParticleFile(tmp_path / "b.star")
    header = source.header()
    assert header is not None and header.fields["pixel_size_A"] == 2.0
    assert [f.guard for f in source.findings()] == ["input.pixel-size"]


BAD = {
    "no stack": (lambda t: t | {"rlnImageName": ["1@no.mrcs"] * 3}, {}, r"row 1 \(line \d+\): the stack no.mrcs"),
    "past the end": (lambda t: t | {"rlnImageName": ["1@a.mrcs", "4@a.mrcs", "2@a.mrcs"]}, {}, "row 2 .*holds 3"),
    "index 0": (lambda t: t | {"rlnImageName": ["0@a.mrcs"] * 3}, {}, "row 1 .*image 0 .*3 such rows"),
    "no index": (lambda t: t | {"rlnImageName": ["x@a.mrcs"] * 3}, {}, "row 1 .*is no image name"),
    "no label": (lambda t: {k: v for k, v in t.items() if k != "rlnImageName"}, {}, "no column rlnImageName"),
    "nan": (lambda t: t | {"rlnDefocusU": ["1", "2", "nan"]}, {}, r"row 3 \(line \d+\): rlnDefocusU is 'nan'"),
    "a word": (lambda t: t | {"rlnDefocusAngle": ["1", "x", "2"]}, {}, "row 2 .*rlnDefocusAngle is 'x'"),
    "optics": (lambda t: t | {"rlnOpticsGroup": ["1", "2", "1"]}, {}, "row 2 .*names optics group 2"),
    "pixel": (lambda t: t, {"rlnImagePixelSize": "0"}, "rlnImagePixelSize is 0 A"),
    "voltage": (lambda t: t, {"rlnVoltage": "inf"}, "rlnVoltage is 'inf'"),
    "sizes": (lambda t: t | {"rlnImagePixelSize": ["2", "2", "3"]}, {}, "row 3 .*is 3 A, in the first row 2 A"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_error_names_file_and_row(tmp_path: Path, case: str) -> None:
    pair(tmp_path, "a")
    change, optics, says = BAD[case]
    path = save(tmp_path / "b.star", change(rows("a.mrcs", 3)), **optics)
    with pytest.raises(BeamsideError, match=says) as caught:
        ParticleFile(path).header()
    assert str(path) in str(caught.value) and caught.value.remedy


def test_torn_files_are_refused(tmp_path: Path) -> None:
    path = pair(tmp_path, "a")
    path.write_bytes(path.read_bytes().rstrip()[:-1])
    with pytest.raises(FormatError, match="line"):
        ParticleFile(path).poll()
    pair(tmp_path, "b")
    os.truncate(tmp_path / "b.mrcs", 1024 + 100)
    with pytest.raises(InputError, match=r"b\.mrcs .*named by .*b\.star.*still being written"):
        ParticleFile(tmp_path / "b.star").poll()
    write_stack(tmp_path / "b.mrcs", pixels(3)[:, :6], 2.0)
    with pytest.raises(InputError, match="8 x 6 px, which are not square"):
        ParticleFile(tmp_path / "b.star").poll()
    write_star(tmp_path / "m.star", [StarTable({"rlnMicrographName": ["m.mrc"]}, name="micrographs")])
    with pytest.raises(InputError, match="has no particle table"):
        ParticleFile(tmp_path / "m.star").poll()


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


def folder_of(path: Path, watch: bool = True, header: Header | None = None) -> tuple[ParticleFolder, Clock]:
    clock = Clock()
    return ParticleFolder(path, watch=watch, settle_s=5, patience_s=60, header=header, clock=clock), clock


def keys(source: ParticleFolder) -> list[str]:
    return [record.key for record in source.poll()]


def test_a_folder_waits_until_files_have_settled(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    assert isinstance(source, Source) and keys(source) == [] and source.header() is None
    pair(tmp_path / "deep" / "er", "a", 2)
    assert keys(source) == [] and source.header() is None
    clock.pass_s(4)
    assert keys(source) == []
    os.utime(tmp_path / "deep" / "er" / "a.star", ns=(1, 1))  # rewritten, and a clock that steps back
    clock.pass_s(4)
    assert keys(source) == []
    clock.pass_s(5)
    assert keys(source) == ["000001@deep/er/a.mrcs", "000002@deep/er/a.mrcs"]
    header = source.header()
    assert header is not None and header.fields["box_px"] == 8
    clock.pass_s(100)
    assert keys(source) == [] and source.findings() == [] and not source.exhausted()


def test_a_stack_that_is_still_growing_is_waited_for(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    star = pair(tmp_path, "a", 3)
    whole = (tmp_path / "a.mrcs").read_bytes()
    (tmp_path / "a.mrcs").unlink()
    for length in (None, 1000, 1024, len(whole) - 1, len(whole)):
        if length is not None:
            (tmp_path / "a.mrcs").write_bytes(whole[:length])
        keys_now = keys(source)
        clock.pass_s(6)
        keys_now += keys(source)
        assert keys_now == ([] if length != len(whole) else [f"{i + 1:06d}@a.mrcs" for i in range(3)]), length
    assert source.findings() == [] and star.exists()


def test_what_stays_away_is_reported_once_and_taken_when_it_comes(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    save(tmp_path / "a.star", rows("a.mrcs", 2))
    for _ in range(30):
        assert keys(source) == []
        clock.pass_s(6)
    (finding,) = source.findings()
    assert (finding.guard, finding.severity) == ("input.settled", Severity.SUSPECT)
    assert "a.star" in finding.saw and "a.mrcs" in finding.saw
    write_stack(tmp_path / "a.mrcs", pixels(2), 2.0)
    keys(source)
    clock.pass_s(6)
    assert len(keys(source)) == 2 and source.findings() == []


def test_rows_that_are_appended_come_out_once(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    star = pair(tmp_path, "a", 4)
    whole = star.read_text()
    lines = whole.rstrip("\n").split("\n")
    seen: list[str] = []
    torn = "\n".join(lines)[:-8]  # the last row is cut, without a line end
    for text in ("\n".join(lines[:-3]) + "\n", "\n".join(lines[:-1]) + "\n", torn, whole):
        star.write_text(text)
        keys(source)
        clock.pass_s(6)
        seen += keys(source)
    assert seen == [f"{i + 1:06d}@a.mrcs" for i in range(4)] and source.findings() == []


def test_a_last_row_that_is_never_finished_is_reported(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    star = pair(tmp_path, "a", 3)
    star.write_text(star.read_text().rstrip("\n")[:-3])
    for _ in range(20):
        keys(source)
        clock.pass_s(6)
    (finding,) = source.findings()
    assert finding.severity == Severity.SUSPECT and "no line end" in finding.saw


def test_a_renamed_file_and_a_file_seen_twice(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    pair(tmp_path, "a", 2)
    (tmp_path / ".hidden.star").write_text("data_\nnonsense\n")
    os.replace(tmp_path / "a.star", tmp_path / "z.star")
    save(tmp_path / "copy.star", rows("a.mrcs", 2))
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    keys(source)
    clock.pass_s(6)
    assert keys(source) == ["000001@a.mrcs", "000002@a.mrcs"] and source.findings() == []


def test_other_boxes_and_pixel_sizes_are_set_aside(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    pair(tmp_path, "a", 2)
    pair(tmp_path, "b", 2, box_px=16)
    write_stack(tmp_path / "c.mrcs", pixels(2), 2.0)
    save(tmp_path / "c.star", rows("c.mrcs", 2), rlnImagePixelSize="2.5")
    keys(source)
    clock.pass_s(6)
    assert keys(source) == ["000001@a.mrcs", "000002@a.mrcs"]
    boxes, sizes = source.findings()
    assert boxes.severity == sizes.severity == Severity.SUSPECT
    assert "b.star" in boxes.saw and "16 px" in boxes.saw and "8 px" in boxes.saw
    assert "c.star" in sizes.saw and "2.5 A" in sizes.saw
    agreed = Header("particles", {"box_px": 16, "pixel_size_A": 2.0, "has_ctf": True})
    resumed, clock = folder_of(tmp_path, header=agreed)
    keys(resumed)
    clock.pass_s(6)
    assert keys(resumed) == ["000001@b.mrcs", "000002@b.mrcs"] and resumed.header() == agreed


def test_damage_sets_a_file_aside_until_it_changes(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    star = pair(tmp_path, "a", 2)
    good = star.read_text()
    star.write_text(good.replace("10001.25", "nan"))
    for _ in range(3):
        assert keys(source) == []
        clock.pass_s(6)
    (finding,) = source.findings()
    assert finding.guard == "table.readable" and "row 2" in finding.saw and "a.star" in finding.saw
    star.write_text(good)
    keys(source)
    clock.pass_s(6)
    assert len(keys(source)) == 2


def test_results_and_runs_inside_the_folder_are_no_input(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path)
    pair(tmp_path, "a", 2)
    save(tmp_path / "run_it025_data.star", rows("a.mrcs", 1, rlnClassNumber="3"))
    write_star(tmp_path / "micrographs.star", [StarTable({"rlnMicrographName": ["m"]}, name="micrographs")])
    pair(tmp_path / "RUN" / "result", "b", 2)
    for name in ("run.json", "ledger.sqlite"):
        (tmp_path / "RUN" / name).touch()
    keys(source)
    clock.pass_s(6)
    assert keys(source) == ["000001@a.mrcs", "000002@a.mrcs"]
    assert sorted(f.guard for f in source.findings()) == ["input.other", "input.results"]


def test_an_unwatched_folder_is_read_once(tmp_path: Path) -> None:
    pair(tmp_path, "a", 2)
    save(tmp_path / "b.star", rows("absent.mrcs", 2))
    source, clock = folder_of(tmp_path, watch=False)
    assert keys(source) == [] and not source.exhausted()
    clock.pass_s(6)
    assert len(keys(source)) == 2 and source.exhausted() and keys(source) == []
    (finding,) = source.findings()
    assert finding.severity == Severity.SUSPECT and "absent.mrcs" in finding.saw


def test_an_unwatched_folder_without_particles_is_an_error(tmp_path: Path) -> None:
    source, clock = folder_of(tmp_path, watch=False)
    with pytest.raises(InputError, match="holds no particle STAR file"):
        source.poll()
    save(tmp_path / "b.star", rows("absent.mrcs", 2))
    source, clock = folder_of(tmp_path, watch=False)
    source.poll()
    clock.pass_s(6)
    with pytest.raises(InputError, match=r"absent\.mrcs is not there"):
        source.poll()
    with pytest.raises(InputError, match="is not a folder"):
        ParticleFolder(tmp_path / "b.star")


def test_equal_optics_groups_of_different_files_are_one(tmp_path: Path) -> None:
    for stem in "abc":
        write_stack(tmp_path / f"{stem}.mrcs", pixels(1), 2.0)
    save(tmp_path / "a.star", rows("a.mrcs", 1))
    save(tmp_path / "b.star", rows("b.mrcs", 1, rlnOpticsGroup="4"), rlnOpticsGroup="4", rlnVoltage="300")
    save(tmp_path / "c.star", rows("c.mrcs", 1), rlnVoltage="200")
    source, clock = folder_of(tmp_path)
    keys(source)
    clock.pass_s(6)
    records = list(source.poll())
    assert source.batch(records).columns["optics_group"].tolist() == [1, 1, 2]
    assert source.batch(records[2:]).columns["optics_group"].tolist() == [2]
    optics, table = particle_tables(records, root=tmp_path, box_px=8, pixel_size_A=2.0)
    assert table["rlnOpticsGroup"] == ["1", "1", "2"] and optics["rlnOpticsGroup"] == ["1", "2"]
    assert optics["rlnOpticsGroupName"] == ["opticsGroup1", "opticsGroup1_2"]
    assert optics["rlnVoltage"] == ["300.0", "200"] and table["rlnDefocusU"] == ["10000.25"] * 3


def test_every_column_comes_out_again(tmp_path: Path) -> None:
    pair(tmp_path, "a", 2)
    table = rows("a.mrcs", 2, rlnCoordinateX="12.340", rlnNote="two words")
    source = ParticleFile(save(tmp_path / "b.star", table, rlnMtfFileName="mtf.star"))
    optics, found = particle_tables(source.poll(), root=tmp_path, box_px=8, pixel_size_A=2.0)
    assert found == table and optics == {k: [v] for k, v in (OPTICS | {"rlnMtfFileName": "mtf.star"}).items()}


def test_mixed_tables_and_ambiguous_names_come_out_as_one(tmp_path: Path) -> None:
    pair(tmp_path / "one", "a", 1)
    write_stack((tmp_path / "two").resolve().with_name("a.mrcs"), pixels(1), 2.0)
    (tmp_path / "two").mkdir()
    write_stack(tmp_path / "two" / "a.mrcs", pixels(1), 2.0)
    old = rows("a.mrcs", 1, rlnVoltage="200", rlnSphericalAberration="2.7", rlnAmplitudeContrast="0.1")
    del old["rlnOpticsGroup"]
    write_star(tmp_path / "two" / "a.star", [StarTable(old | {"rlnImagePixelSize": ["2.0"]})])
    source, clock = folder_of(tmp_path)
    keys(source)
    clock.pass_s(6)
    optics, table = particle_tables(source.poll(), root=tmp_path, box_px=8, pixel_size_A=2.0)
    assert table["rlnImageName"] == [f"000001@{tmp_path}/{folder}/a.mrcs" for folder in ("one", "two")]
    assert optics["rlnVoltage"] == ["300.0", "200"] and table["rlnOpticsGroup"] == ["1", "2"]


def test_a_stack_replaced_during_the_run_is_an_error(tmp_path: Path) -> None:
    pair(tmp_path, "a", 2)
    pair(tmp_path, "b", 2)
    both = {k: v + w for (k, v), w in zip(rows("a.mrcs", 2).items(), rows("b.mrcs", 2).values(), strict=True)}
    source = ParticleFile(save(tmp_path / "both.star", both))
    batch = source.batch(source.poll())
    write_stack(tmp_path / "b.mrcs", pixels(2, box_px=10), 2.0)
    with pytest.raises(InputError, match="10 x 10 px instead of 8"):
        batch.load(np.arange(4))


def test_real_tables(shared: Path) -> None:
    source = ParticleFile(shared / "data" / "empiar10146" / "particles.star")
    records = source.poll()
    assert len(records) == 2379 and len({r.key for r in records}) == 2379
    batch = source.batch(records)
    assert batch.load(np.arange(0, 2379, 300)).shape == (8, 64, 64)
    assert json.loads(records[0].payload)["columns"]["rlnCoordinateX"] == "280.000000"
