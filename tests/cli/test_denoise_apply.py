"""`beamside denoise apply`: files in and out, headers, refusals, and a folder that grows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from beamside.cli import denoise_watch
from beamside.cli.denoise_apply import Line, Worker
from beamside.cli.denoise_jobs import Job
from beamside.cli.main import main
from beamside.denoise.export import read_model, write_model
from beamside.denoise.ice import remove_ice
from beamside.denoise.model_file import Card
from beamside.denoise.networks import build
from beamside.denoise.tiling import denoise, halves_scale, sum_scale
from beamside.formats.mrc import read_map, write_stack
from beamside.formats.mrc_like import write_like


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write_model(path, build("seed3"), Card("seed3", 1.3, "halves"))
    return path


def noise(seed: int = 0, shape: tuple[int, int] = (60, 70)) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(70, 9, shape).astype(np.float32)


def written(path: Path, image: NDArray[np.generic], pixel_A: float = 1.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(image)
        file.voxel_size = pixel_A
        file.header.origin = (3.0, -4.0, 5.0)
        file.add_label("from the microscope")
    return path


def apply(model: Path | str, *arguments: object) -> int:
    threads = torch.get_num_threads()
    try:
        return main(["denoise", "apply", "--model", str(model), "--threads", "1", *map(str, arguments)])
    finally:
        torch.set_num_threads(threads)


def test_a_micrograph_keeps_its_header(model: Path, tmp_path: Path) -> None:
    image = noise()
    source = written(tmp_path / "in" / "a.mrc", image, 1.234)
    assert apply(model, source, tmp_path / "out") == 0
    with mrcfile.open(tmp_path / "out" / "a.mrc") as file:
        got, header = file.data.copy(), file.header.copy()
        assert float(file.voxel_size.x) == pytest.approx(1.234)
        assert [str(label).strip() for label in file.get_labels()][-2:] == ["from the microscope", "beamside denoise"]
    assert mrcfile.validate(tmp_path / "out" / "a.mrc")
    assert (header.origin.x, header.origin.y, header.origin.z) == (3.0, -4.0, 5.0)
    assert (header.dmin, header.dmax) == (got.min(), got.max())
    assert header.dmean == pytest.approx(got.mean()) and header.rms == pytest.approx(got.std(), rel=1e-5)
    network, card = read_model(model)
    np.testing.assert_array_equal(got, denoise(network, image, scale=sum_scale(image, card.pairs)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i2", "u2", "f4", "i1"])
def test_headers_of_any_order_and_type(tmp_path: Path, order: str, kind: str) -> None:
    source = written(tmp_path / "s.mrc", np.ones((6, 9), dtype=order + kind), 2.5)
    write_like(tmp_path / "d.mrc", noise(0, (6, 9)), source, "by a test")
    with mrcfile.open(tmp_path / "d.mrc") as file:
        np.testing.assert_array_equal(file.data, noise(0, (6, 9)))
        assert float(file.voxel_size.y) == pytest.approx(2.5)
        assert float(file.header.origin.y) == -4.0
        assert "from the microscope" in " ".join(str(label) for label in file.get_labels())
    assert mrcfile.validate(tmp_path / "d.mrc")


def test_tiff(model: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(), resolution=(1e8 / 1.7, 1e8 / 1.7), resolutionunit="CENTIMETER")
    assert apply(model, tmp_path / "a.tif", tmp_path / "out") == 0
    got, info = read_map(tmp_path / "out" / "a.mrc")
    assert got.shape[-2:] == (60, 70) and info.voxel_size_A[0] == pytest.approx(1.7, rel=1e-4)


def test_halves_are_added_unless_their_sum_is_there(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    even, odd = noise(1), noise(2)
    for name in ("a", "b"):
        written(tmp_path / "in" / f"{name}_even.mrc", even)
        written(tmp_path / "in" / f"{name}_odd.mrc", odd)
    written(tmp_path / "in" / "b_full.mrc", even + odd)
    written(tmp_path / "in" / "lonely_even.mrc", even)
    assert apply(model, tmp_path / "in", tmp_path / "out") == 2
    assert "the odd half of lonely_even.mrc is missing" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mrc", "b_full.mrc"]
    network, _ = read_model(model)
    expected = denoise(network, even + odd, scale=halves_scale(even, odd))
    np.testing.assert_array_equal(read_map(tmp_path / "out" / "a.mrc")[0].reshape(60, 70), expected)


def test_folders_keep_their_structure(model: Path, tmp_path: Path) -> None:
    for name in ("x/a.mrc", "y/a.mrc", "c.mrc"):
        written(tmp_path / "in" / name, noise())
    assert apply(model, tmp_path / "in", tmp_path / "in" / "out") == 0
    assert apply(model, tmp_path / "in", tmp_path / "in" / "out") == 0
    found = sorted(str(p.relative_to(tmp_path / "in" / "out")) for p in (tmp_path / "in" / "out").rglob("*.mrc"))
    assert found == ["c.mrc", "x/a.mrc", "y/a.mrc"]


@pytest.mark.parametrize("how", ["same path", "symbolic link", "hard link"])
def test_the_input_is_never_written_over(
    model: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "in" / "a.mrc", noise())
    before, out = source.read_bytes(), tmp_path / "out"
    out.mkdir()
    if how == "same path":
        out = source.parent
    elif how == "symbolic link":
        (out / "a.mrc").symlink_to(source)
    else:
        os.link(source, out / "a.mrc")
    assert apply(model, source.parent, out) == 2
    assert "files.distinct" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_movies_volumes_and_damage_are_set_aside_by_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "in" / "good.mrc", noise())
    write_stack(tmp_path / "in" / "movie.mrc", np.stack([noise(i) for i in range(3)]), 1.0)
    whole = written(tmp_path / "in" / "cut.mrc", noise()).read_bytes()
    (tmp_path / "in" / "cut.mrc").write_bytes(whole[:-100])
    written(tmp_path / "in" / "flat.mrc", np.ones((40, 40), np.float32))
    assert apply(model, tmp_path / "in", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert "movie.mrc: holds 3 images" in said.err and "Denoise the sum" in said.err
    assert "cut.mrc" in said.err and "flat.mrc: all pixels have one value" in said.err
    assert "1 micrographs denoised, 3 set aside" in said.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.mrc"]
    assert apply(model, tmp_path / "in" / "movie.mrc", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


def test_pixels_that_are_not_finite_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = noise()
    image[5, 6] = np.nan
    write_stack(tmp_path / "a.mrc", image[None], 1.3)
    assert apply(model, tmp_path / "a.mrc", tmp_path / "out") == 0
    assert "1 pixels are not finite" in capsys.readouterr().err
    assert np.isfinite(read_map(tmp_path / "out" / "a.mrc")[0]).all()


def test_a_model_for_another_magnification_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(model, written(tmp_path / "a.mrc", noise(), 3.0), tmp_path / "out") == 0
    assert "trained at 1.3 A" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--idle-close", "1s"], "without --watch"),
        (["--watch", "--settle", "9s", "--idle-close", "9s"], "which takes 9s"),
        (["--threads", "0"], "--threads"),
        (["--device", "abacus"], "--device abacus"),
        (["--tile", "0"], "too small"),
    ],
)
def test_what_cannot_be(
    model: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "a.mrc", noise())
    assert apply(model, *arguments, source, tmp_path / "out") == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_absent_things(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "in" / "a.mrc", noise())
    assert apply("nowhere", source, tmp_path / "out") == 2
    for never in (tmp_path / "gone" / "run", tmp_path / "gone.safetensors"):
        assert apply(never, source, tmp_path / "out", "--watch") == 2
        assert f"{never}: there is no such model or run" in capsys.readouterr().err
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "run.json").write_text('{"verb": "classify"}')
    assert apply(tmp_path / "classes", source, tmp_path / "out") == 2
    assert "is a run of 'classify', which makes no model" in capsys.readouterr().err
    assert apply(model, tmp_path / "no.mrc", tmp_path / "out") == 2
    assert apply(model, source, source) == 2
    (tmp_path / "empty").mkdir()
    assert apply(model, tmp_path / "empty", tmp_path / "out") == 2
    assert "no micrographs" in capsys.readouterr().err


def test_micrographs_are_denoised_as_they_arrive(model: Path, tmp_path: Path) -> None:
    """A half-written file waits until it is whole, a run without a model until there is one."""
    session, run = tmp_path / "session", tmp_path / "run"
    session.mkdir()
    run.mkdir()
    (run / "run.json").write_text("{}")
    whole = written(tmp_path / "whole.mrc", noise()).read_bytes()
    command = [sys.executable, "-m", "beamside", "denoise", "apply", "--model", str(run), str(session)]
    command += [str(tmp_path / "out"), "--watch", "--settle", "0.3s", "--idle-close", "4s", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    (session / "a.mrc").write_bytes(whole)
    (session / "b.mrc").write_bytes(whole[:3000])
    time.sleep(2.5)
    (run / "result").mkdir()
    (run / "result" / "model.safetensors").write_bytes(model.read_bytes())
    time.sleep(1.0)
    (session / "b.mrc").write_bytes(whole)
    (session / "late.mrc").write_bytes(whole)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "3 micrographs denoised, 0 set aside" in out
    for name in ("a", "b", "late"):
        assert mrcfile.validate(tmp_path / "out" / f"{name}.mrc")


class Hours:
    """Time that passes only while it is slept; what is to happen happens when it is due."""

    def __init__(self, due: dict[float, Callable[[], object]]) -> None:
        self.now, self.due = 0.0, due

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at in [at for at in self.due if at <= self.now]:
            self.due.pop(at)()


def test_a_micrograph_is_denoised_as_soon_as_it_has_settled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as soon as there is a model: never more than two looks later, which come every half second.

    The run whose model it will be begins later than the watch.
    """
    session, run, out = tmp_path / "session", tmp_path / "run", tmp_path / "out"
    session.mkdir()
    due: dict[float, Callable[[], object]] = {
        at: partial(written, session / f"at{at}.mrc", noise()) for at in (1.0, 20.3, 31.7)
    }
    due[5.0] = partial((run / "result").mkdir, parents=True)
    due[10.0] = partial(shutil.copy, model, run / "result" / "model.safetensors")
    hours, wrote = Hours(due), dict[str, float]()
    keep = Worker.keep

    def noted(worker: Worker, job: Job, result: NDArray[np.float32]) -> None:
        wrote[job.inputs[0].name] = hours.now
        keep(worker, job, result)

    monkeypatch.setattr(denoise_watch, "time", hours)
    monkeypatch.setattr(Worker, "keep", noted)
    assert apply(run, session, out, "--watch", "--settle", "3s", "--idle-close", "20s") == 0
    possible = {"at1.0.mrc": 10.0, "at20.3.mrc": 23.3, "at31.7.mrc": 34.7}
    assert {name: 0 <= at - possible[name] <= 1.0 for name, at in wrote.items()} == dict.fromkeys(possible, True)


def test_what_is_made_while_files_settle_is_written_only_if_they_stay(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written again while it settles, and one of which half has come, are denoised as they end."""
    session, out = tmp_path / "session", tmp_path / "out"
    session.mkdir()
    again, half, still = (session / f"{name}.mrc" for name in ("again", "half", "still"))
    whole = written(tmp_path / "whole.mrc", noise(2)).read_bytes()
    due: dict[float, Callable[[], object]] = {
        1.0: partial(written, again, noise(0)),
        2.5: partial(written, again, noise(1)),
        11.0: partial(half.write_bytes, whole[: len(whole) // 2]),
        13.0: partial(half.write_bytes, whole),
        21.0: partial(written, still, noise(3)),
    }
    hours, made = Hours(due), list[tuple[str, float]]()
    make = Worker.make

    def noted(worker: Worker, job: Job, line: Line) -> NDArray[np.float32]:
        made.append((job.inputs[0].stem, hours.now))
        return make(worker, job, line)

    monkeypatch.setattr(denoise_watch, "time", hours)
    monkeypatch.setattr(Worker, "make", noted)
    assert apply(model, session, out, "--watch", "--settle", "3s", "--idle-close", "20s") == 0
    network, card = read_model(model)
    for path, seed in ((again, 1), (half, 2), (still, 3)):
        expected = denoise(network, noise(seed), scale=sum_scale(noise(seed), card.pairs))
        np.testing.assert_array_equal(read_map(out / path.name)[0].reshape(60, 70), expected)
    times = {name: [at for other, at in made if other == name] for name in ("again", "half", "still")}
    assert [len(each) for each in times.values()] == [2, 2, 1]
    assert 21.0 < times["still"][0] < 24.0


def test_a_watch_that_gets_no_model_says_so(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "in" / "a.mrc", noise())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    given = (tmp_path / "in", tmp_path / "out", "--watch", "--settle", "0.1s", "--idle-close", "0.8s")
    assert apply(tmp_path / "run", *given) == 2
    assert "no model came in time" in capsys.readouterr().err
    assert apply(tmp_path / "run", tmp_path / "in", tmp_path / "out") == 2
    assert "has published no model yet" in capsys.readouterr().err


def test_ice_is_reduced_unless_it_is_to_be_kept(model: Path, tmp_path: Path) -> None:
    image = noise(4, (160, 170))
    source = written(tmp_path / "a.mrc", image, 1.5)
    network, card = read_model(model)
    plain = denoise(network, image, scale=sum_scale(image, card.pairs))
    reduced = plain.copy()
    remove_ice(reduced, 1.5)
    for options, expected in (((), reduced), (("--keep-ice",), plain)):
        out = tmp_path / f"out{len(options)}"
        assert apply(model, source, out, *options) == 0
        np.testing.assert_array_equal(read_map(out / "a.mrc")[0].reshape(image.shape), expected)
    assert not np.array_equal(plain, reduced)
