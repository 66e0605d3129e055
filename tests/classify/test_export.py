"""The result of a run, read and continued by RELION."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from beamside.classify.export import RESULTS, write_result
from beamside.formats.relion import read_references
from beamside.formats.star import StarTable, read_star
from beamside.run.engine import Snapshot
from beamside.simulate.session_files import write_once
from beamside.simulate.volumes import load_volume
from beamside.sources.particle_export import particle_tables
from beamside.sources.particles import ParticleFile
from tests.classify.scene import BOX, PIXEL_A, options, run, session


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshot, list[Path]]:
    """A folder with particles/particles.star and result/, the finished run's snapshot, and its three files."""
    folder = tmp_path_factory.mktemp("project")
    made = session()
    write_once(folder / "particles", made, load_volume("walk", BOX, PIXEL_A)[0])
    source = ParticleFile(folder / "particles" / "particles.star")
    snapshot = run(made, options()).snapshot()
    (folder / "result").mkdir()
    records = source.poll()
    tables = particle_tables(records, root=folder / "particles", box_px=BOX, pixel_size_A=PIXEL_A)
    return folder, snapshot, write_result(folder / "result", snapshot, *tables)


def test_every_input_column_stays_and_results_are_added(project: tuple[Path, Snapshot, list[Path]]) -> None:
    folder, snapshot, (data, _, _) = project
    given = read_star(folder / "particles" / "particles.star")
    written = read_star(data)
    for label, values in given["particles"].columns.items():
        assert written["particles"].columns[label] == values
    assert written["optics"].columns["rlnVoltage"] == given["optics"].columns["rlnVoltage"]
    for label, name in RESULTS.items():
        assert np.allclose(written["particles"].floats(label), snapshot.tables["particles"][name], atol=1e-6)
    assert written["particles"].ints("rlnClassNumber").min() >= 1
    # RELION selects what has a high figure of merit.
    merit, junk = written["particles"].floats("rlnParticleFigureOfMerit"), snapshot.tables["particles"]["junk_score"]
    assert np.allclose(merit, 1 - junk, atol=1e-6)


def test_the_model_names_the_classes_beside_it(project: tuple[Path, Snapshot, list[Path]]) -> None:
    _, snapshot, (_, model, classes) = project
    found = read_references(model)
    assert np.array_equal(found.images, snapshot.arrays["class_averages"])
    assert found.files == (model, classes) and found.pixel_size_A == PIXEL_A
    tables = read_star(model)
    assert np.allclose(tables["model_classes"].floats("rlnClassDistribution").sum(), 1, atol=1e-5)
    assert np.allclose(tables["model_class_2"].floats("rlnGoldStandardFsc"), snapshot.arrays["frc"][1], atol=1e-6)


def refined(program: str, folder: Path, data: Path, reference: str, classes: int) -> StarTable:
    """The particles after one iteration of RELION from `reference`, started in `folder`."""
    out = folder / f"relion_{classes}"
    out.mkdir()
    words = f"--i {data} --ref {reference} --K {classes} --o {out}/run --ctf --iter 1 --tau2_fudge 2 --zero_mask --norm"
    words += " --particle_diameter 220 --oversampling 0 --psi_step 12 --offset_range 2 --offset_step 2 --pad 1 --j 1"
    words += " --scale --dont_combine_weights_via_disc --random_seed 1"
    done = subprocess.run([program, *words.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return read_star(out / "run_it001_data.star")["particles"]


def test_relion_goes_on_from_our_result(
    project: tuple[Path, Snapshot, list[Path]], relion: Callable[[str], str]
) -> None:
    """In the folder of the input: from classes.mrcs, which RELION takes as one reference, and from the model's all."""
    folder, snapshot, (data, model, classes) = project
    program, started_in = relion("relion_refine"), folder / "particles"
    one = refined(program, started_in, data, str(classes), 1)
    names = read_star(data)["particles"].columns["rlnImageName"]
    assert sorted(one.columns["rlnImageName"]) == sorted(names)
    # RELION finds the images of a model from where it is started.
    shutil.copy(classes, started_in)
    theirs = refined(program, started_in, data, str(model), 4)
    ours = dict(zip(names, snapshot.tables["particles"]["class_number"].tolist(), strict=True))
    their_classes = zip(theirs.columns["rlnImageName"], theirs.ints("rlnClassNumber").tolist(), strict=True)
    # RELION reads our averages as we mean them: most particles meet the class again that they come from.
    assert np.mean([ours[name] == number for name, number in their_classes]) > 0.6
