from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile

from beamside.errors import FormatError
from beamside.formats.mrc import read_images, write_stack
from beamside.formats.relion import Model, add_optics, read_references, write_data, write_model
from beamside.formats.star import StarTable, column, read_star, write_star

BOX_PX, COUNT, CLASSES = 32, 40, 2


def particles() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    optics = {
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnOpticsGroup": ["1"],
        "rlnVoltage": ["300.0"],
        "rlnSphericalAberration": ["2.7"],
        "rlnAmplitudeContrast": ["0.1"],
        "rlnImagePixelSize": ["4.000000"],
        "rlnImageSize": [str(BOX_PX)],
        "rlnImageDimensionality": ["2"],
    }
    rows = {
        "rlnImageName": [f"{i + 1:06d}@p.mrcs" for i in range(COUNT)],
        "rlnMicrographName": [f"m{i // 10}.mrc" for i in range(COUNT)],
        "rlnDefocusU": [f"{15000 + 10 * i}" for i in range(COUNT)],
        "rlnDefocusV": [f"{14000 + 10 * i}.50" for i in range(COUNT)],
        "rlnDefocusAngle": ["12.5"] * COUNT,
        "rlnClassNumber": ["7"] * COUNT,
        "rlnOpticsGroup": ["1"] * COUNT,
    }
    return optics, rows


def results() -> dict[str, np.ndarray]:
    return {
        "rlnClassNumber": np.arange(COUNT) % CLASSES + 1,
        "rlnAnglePsi": np.linspace(-180, 175, COUNT),
        "rlnOriginXAngst": np.full(COUNT, 1.25),
        "rlnOriginYAngst": np.full(COUNT, -2.5),
        "rlnMaxValueProbDistribution": np.full(COUNT, 0.9),
        "rlnLogLikeliContribution": np.full(COUNT, -1234.5678),
        "rlnParticleFigureOfMerit": np.full(COUNT, 0.25),
    }


def model() -> Model:
    rings = BOX_PX // 2 + 1
    return Model(
        class_images="run_it003_classes.mrcs",
        box_px=BOX_PX,
        pixel_size_A=4.0,
        occupancy=np.array([0.75, 0.25]),
        resolution_A=np.array([16.0, np.inf]),
        completeness=np.array([1.0, 0.5]),
        frc=np.linspace([1.0, 0.5], [0.0, 0.0], rings).T,
        ssnr=np.linspace([9.0, 1.0], [0.0, 0.0], rings).T,
        log_likelihood=-1.5e6,
        average_pmax=0.8,
        sigma_offset_A=3.0,
    )


def write_all(folder: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:BOX_PX, :BOX_PX] - BOX_PX // 2
    blobs = [np.exp(-((x - 4) ** 2 + y**2) / 20), np.exp(-(x**2 + (y / 2) ** 2) / 30)]
    images = np.array([3 * blobs[i % CLASSES] + rng.normal(size=x.shape) for i in range(COUNT)])
    write_stack(folder / "p.mrcs", images.astype(np.float32), 4.0)
    write_stack(folder / "run_it003_classes.mrcs", np.array(blobs, dtype=np.float32), 4.0)
    write_data(folder / "run_it003_data.star", *particles(), results())
    write_model(folder / "run_it003_model.star", model())


def test_input_columns_stay_and_results_take_the_place_of_old_ones(tmp_path: Path) -> None:
    write_all(tmp_path)
    optics, rows = particles()
    found = read_star(tmp_path / "run_it003_data.star")
    assert list(found) == ["optics", "particles"] and found["optics"].columns == optics
    table = found["particles"].columns
    for label, values in rows.items():
        assert table[label] == (values if label != "rlnClassNumber" else ["1", "2"] * (COUNT // 2))
    assert list(table)[: len(rows)] == list(rows)
    assert table["rlnAnglePsi"][0] == "-180.000000" and table["rlnLogLikeliContribution"][0] == "-1234.567800"
    with pytest.raises(FormatError, match="cannot be written"):
        write_data(tmp_path / "b.star", optics, rows, {"rlnClassNumber": [1]})


def test_the_model_says_what_relion_says(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = starfile.read(tmp_path / "run_it003_model.star")
    assert list(found) == ["model_general", "model_classes", "model_class_1", "model_class_2"]
    assert found["model_general"]["rlnNrClasses"] == 2 and found["model_general"]["rlnCurrentImageSize"] == 16
    classes = found["model_classes"]
    assert classes["rlnReferenceImage"].tolist() == [f"00000{k}@run_it003_classes.mrcs" for k in (1, 2)]
    assert classes["rlnEstimatedResolution"].tolist() == [16.0, 999.0]
    rings = found["model_class_1"]
    assert len(rings) == BOX_PX // 2 + 1 and rings["rlnAngstromResolution"].tolist()[:3] == [999.0, 128.0, 64.0]
    np.testing.assert_allclose(rings["rlnResolution"][1:], 1 / rings["rlnAngstromResolution"][1:], atol=1e-6)
    np.testing.assert_allclose(rings["rlnGoldStandardFsc"], model().frc[0], atol=1e-6)


def test_references_come_back_from_stack_and_model(tmp_path: Path) -> None:
    write_all(tmp_path)
    expected = read_images(tmp_path / "run_it003_classes.mrcs", [0, 1])
    for name in ("run_it003_classes.mrcs", "run_it003_model.star"):
        found = read_references(tmp_path / name)
        assert np.array_equal(found.images, expected) and found.numbers.tolist() == [1, 2]
        assert found.pixel_size_A == pytest.approx(4.0)
    selected = {"rlnReferenceImage": ["000002@Class2D/job001/run_it003_classes.mrcs"]}
    write_star(tmp_path / "class_averages.star", [StarTable(selected)])
    found = read_references(tmp_path / "class_averages.star")
    assert found.numbers.tolist() == [2] and np.array_equal(found.images[0], expected[1])


@pytest.mark.parametrize(
    ("names", "says"),
    [(["000001@absent.mrcs"], "was not found"), (["x@c.mrcs"], "was not found"), (["1@c.mrcs"] * 2, "twice")],
)
def test_references_that_cannot_be_used(tmp_path: Path, names: list[str], says: str) -> None:
    write_stack(tmp_path / "c.mrcs", np.ones((1, 4, 4), dtype=np.float32), 1.0)
    write_star(tmp_path / "m.star", [StarTable({"rlnReferenceImage": names})])
    with pytest.raises(FormatError, match=says):
        read_references(tmp_path / "m.star")
    write_star(tmp_path / "n.star", [StarTable({"rlnImageName": names})])
    with pytest.raises(FormatError, match="no table with rlnReferenceImage"):
        read_references(tmp_path / "n.star")


def test_optics_move_out_of_the_rows_of_star_30() -> None:
    rows = {
        "rlnImageName": ["1@a.mrc", "2@a.mrc", "3@a.mrc"],
        "rlnVoltage": ["300", "200", "300"],
        "rlnSphericalAberration": ["2.7"] * 3,
        "rlnAmplitudeContrast": ["0.07"] * 3,
        "rlnMagnification": ["38168"] * 3,
        "rlnDetectorPixelSize": ["5"] * 3,
    }
    optics, particles_31 = add_optics(rows, box_px=320, pixel_size_A=1.0)
    assert optics["rlnVoltage"] == ["300", "200"] and optics["rlnOpticsGroup"] == ["1", "2"]
    assert optics["rlnImagePixelSize"] == ["1.309998"] * 2 and optics["rlnImageSize"] == ["320"] * 2
    assert particles_31["rlnOpticsGroup"] == ["1", "2", "1"]
    assert particles_31["rlnMagnification"] == rows["rlnMagnification"] and "rlnVoltage" not in particles_31
    bare, _ = add_optics({"rlnImageName": ["1@a.mrc"]}, box_px=8, pixel_size_A=2.0)
    assert bare["rlnImagePixelSize"] == ["2.000000"] and bare["rlnOpticsGroup"] == ["1"]


def test_relion_goes_on_from_our_tables(tmp_path: Path, relion: Callable[[str], str]) -> None:
    write_all(tmp_path)
    (tmp_path / "out").mkdir()
    command = [relion("relion_refine"), "--i", "run_it003_data.star", "--ref", "run_it003_classes.mrcs"]
    command += ["--o", "out/run", "--iter", "1", "--K", "2", "--ctf", "--particle_diameter", "100", "--pad", "1"]
    command += ["--oversampling", "0", "--psi_step", "30", "--offset_range", "3", "--offset_step", "3", "--j", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = read_star(tmp_path / "out" / "run_it001_data.star")["particles"]
    ours = particles()[1]
    np.testing.assert_allclose(found.floats("rlnDefocusU"), [float(v) for v in ours["rlnDefocusU"]])
    assert found.columns["rlnImageName"] == ours["rlnImageName"]
    assert set(found.columns["rlnClassNumber"]) <= {"1", "2"}
    theirs = read_references(tmp_path / "out" / "run_it001_model.star")
    assert theirs.images.shape == (2, BOX_PX, BOX_PX) and theirs.pixel_size_A == pytest.approx(4.0)


def test_relion_handles_our_tables(tmp_path: Path, relion: Callable[[str], str]) -> None:
    write_all(tmp_path)
    command = [relion("relion_star_handler"), "--i", "run_it003_data.star", "--o", "selected.star"]
    command += ["--select", "rlnClassNumber", "--minval", "1", "--maxval", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = read_star(tmp_path / "selected.star")["particles"]
    assert found.columns["rlnImageName"] == particles()[1]["rlnImageName"][::CLASSES]
    assert found.floats("rlnAnglePsi").tolist() == pytest.approx(np.linspace(-180, 175, COUNT)[::2].tolist(), abs=1e-3)
    assert found.columns["rlnParticleFigureOfMerit"] == column(np.full(COUNT // 2, 0.25))
