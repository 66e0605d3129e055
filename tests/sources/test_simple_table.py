"""SIMPLE projects as particles: units, stacks, what is left behind, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from beamside.errors import BeamsideError
from beamside.formats.mrc import write_stack
from beamside.sources.particles import ParticleFile
from tests.formats.simple_files import particles, stacks, write_project

STALE = {"class": 7, "corr": 0.9, "e3": 45.0, "x": 3.0, "y": -2.0, "updatecnt": 5, "res": 9.0}


def images(folder: Path, *counts: int) -> np.ndarray:
    made = [np.random.default_rng(n).normal(size=(count, 8, 8)).astype(np.float32) for n, count in enumerate(counts)]
    for number, pixels in enumerate(made, 1):
        write_stack(folder / f"s{number}.mrcs", pixels, 2.0)
    return np.concatenate(made)


def test_particles_of_a_project(tmp_path: Path) -> None:
    pixels = images(tmp_path, 3, 2)
    path = write_project(tmp_path / "p.simple", {2: stacks(3, 2), 3: particles(3, 2, dfy=1.25, phshift=1.0)})
    source = ParticleFile(path)
    header = source.header()
    assert header is not None and header.fields == {"box_px": 8, "pixel_size_A": 2.0, "has_ctf": True}
    records = source.poll()
    assert [r.key for r in records] == [f"{i}@s1.mrcs".zfill(14) for i in (1, 2, 3)] + [
        f"{i}@s2.mrcs".zfill(14) for i in (1, 2)
    ]
    batch = source.batch(records)
    assert np.array_equal(batch.load(np.arange(5)), pixels)
    expected = {"defocus_u_A": 15000, "defocus_v_A": 12500, "defocus_angle_deg": 30, "voltage_kV": 300, "cs_mm": 2.7}
    for name, value in {**expected, "amplitude_contrast": 0.1, "phase_shift_deg": 0}.items():
        assert batch.columns[name].tolist() == pytest.approx([value] * 5)
    assert batch.columns["has_ctf"].all() and source.findings() == []


def test_a_phase_plate_is_in_radians_and_must_be_declared(tmp_path: Path) -> None:
    images(tmp_path, 2)
    made = {2: stacks(2, phaseplate="yes"), 3: particles(2, phshift=np.pi / 2)}
    source = ParticleFile(write_project(tmp_path / "p.simple", made))
    assert source.batch(source.poll()).columns["phase_shift_deg"].tolist() == pytest.approx([90.0, 90.0], abs=1e-3)


def test_what_an_earlier_search_found_stays_behind(tmp_path: Path) -> None:
    images(tmp_path, 2)
    clean = ParticleFile(write_project(tmp_path / "a.simple", {2: stacks(2), 3: particles(2)}))
    made = {2: stacks(2), 3: particles(2, **STALE), 4: [{"class": 1, "pop": 0}, {"class": 2, "pop": 2}]}
    stale = ParticleFile(write_project(tmp_path / "b.simple", made))
    records = clean.poll()
    assert records == stale.poll()
    labels = {"rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"}
    assert set(json.loads(records[0].payload)["columns"]) == labels


def test_deselected_particles_and_stacks_are_left_out_and_counted(tmp_path: Path) -> None:
    images(tmp_path, 2, 2)
    made, held = particles(2, 2), stacks(2, 2)
    made[0]["state"] = 0
    held[1]["state"] = 0
    source = ParticleFile(write_project(tmp_path / "p.simple", {2: held, 3: made}))
    assert [r.key for r in source.poll()] == ["000002@s1.mrcs"]
    (finding,) = source.findings()
    assert finding.guard == "input.inactive" and "3 particles" in finding.saw


def test_without_indstk_the_stack_says_where_it_begins(tmp_path: Path) -> None:
    images(tmp_path, 2, 2)
    source = ParticleFile(write_project(tmp_path / "p.simple", {2: stacks(2, 2), 3: particles(2, 2, indstk=0)}))
    assert [r.key for r in source.poll()] == ["000001@s1.mrcs", "000002@s1.mrcs", "000001@s2.mrcs", "000002@s2.mrcs"]


def test_3d_particles_serve_where_there_are_no_2d_ones(tmp_path: Path) -> None:
    images(tmp_path, 2)
    assert len(ParticleFile(write_project(tmp_path / "p.simple", {2: stacks(2), 6: particles(2)})).poll()) == 2


@pytest.mark.parametrize("ctf", ["no", "flip"])
def test_a_stack_without_ctf_among_others(tmp_path: Path, ctf: str) -> None:
    images(tmp_path, 2, 2)
    held = stacks(2, 2)
    held[1]["ctf"] = ctf
    del held[1]["kv"]
    source = ParticleFile(write_project(tmp_path / "p.simple", {2: held, 3: particles(2, 2)}))
    header = source.header()
    assert header is not None and header.fields["has_ctf"] is True
    assert source.batch(source.poll()).columns["has_ctf"].tolist() == [True, True, False, False]
    for one in held:
        one["ctf"] = ctf
    source = ParticleFile(write_project(tmp_path / "q.simple", {2: held, 3: particles(2, 2)}))
    header = source.header()
    assert header is not None and header.fields["has_ctf"] is False


def edited(index: int, **values: object) -> list[dict[str, object]]:
    made = particles(2)
    made[index].update(values)
    return made


BAD = {
    "stack past the list": ({2: stacks(2), 3: edited(1, stkind=2)}, r"record 2 of segment ptcl2D.*names stack 2 of 1"),
    "stack 0": ({2: stacks(2), 3: edited(0, stkind=0)}, "table.ranges.*names stack 0"),
    "image past the stack": ({2: stacks(2), 3: edited(1, indstk=9)}, r"record 2 of segment.*image 9 of s1.mrcs"),
    "half an image": ({2: stacks(2), 3: edited(1, indstk=1.5)}, "indstk is 1.5, not a whole number"),
    "stack is NaN": ({2: stacks(2), 3: edited(1, stkind=float("nan"))}, "stkind is nan"),
    "defocus is NaN": ({2: stacks(2), 3: edited(1, dfx=float("nan"))}, "record 2 of segment.*rlnDefocusU is 'nan'"),
    "defocus is infinite": ({2: stacks(2), 3: edited(1, dfy=float("inf"))}, "rlnDefocusV is 'inf'"),
    "all deselected": ({2: stacks(2), 3: particles(2, state=0)}, "all 2 particles are deselected"),
    "no particles": ({2: stacks(2)}, "has no particles"),
    "no stacks": ({3: particles(2)}, "has no particles"),
    "no pixel size": ({2: stacks(2, smpd=0), 3: particles(2)}, "rlnImagePixelSize is 0"),
    "a word for a number": ({2: stacks(2, kv="x"), 3: particles(2)}, "kv is 'x'"),
    "an unnamed stack": ({2: stacks(2, stk=""), 3: particles(2)}, "names no stack"),
    "an absent stack": ({2: stacks(2, stk="no.mrcs"), 3: particles(2)}, r"no\.mrcs is not there"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_error_names_file_and_record(tmp_path: Path, case: str) -> None:
    segments, says = BAD[case]
    images(tmp_path, 2)
    path = write_project(tmp_path / "p.simple", segments)
    with pytest.raises(BeamsideError, match=says) as caught:
        ParticleFile(path).poll()
    assert str(path) in str(caught.value) and caught.value.remedy
