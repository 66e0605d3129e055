"""Every malformed file gets a typed error that names the place and the remedy, before memory is taken for it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamside.errors import BeamsideError, InputError
from beamside.sources.particles import ParticleFile
from tests.corpus.make import TABLE as STAR_TABLE
from tests.corpus.make import Case, npy_bytes, sound_stack, whole_corpus, with_stack
from tests.formats.simple_files import particles, project_bytes, stacks

CORPUS = whole_corpus()
MOST_BYTES = 48 * 2**20
"""A window of text and its lines; nothing that a header promises."""
MOST_CPU_S = 2.0
ROOT = Path(__file__).parents[2]


def refused(case: Case, folder: Path) -> BeamsideError:
    """The error of a case; an AssertionError when it is read."""
    path = case.put(folder)
    begun = time.process_time()
    try:
        case.read(path)
    except BeamsideError as error:
        assert time.process_time() - begun < MOST_CPU_S, f"{case.name} took too long"
        assert str(folder) in error.where, f"{case.name}: {error.where!r} names no place"
        assert error.what and not (folder / "executed").exists() and not Path("executed").exists()
        return error
    raise AssertionError(f"{case.name} was read")


def test_there_are_enough_cases_and_each_is_one_of_its_kind() -> None:
    assert len(CORPUS) >= 300 and len({case.name for case in CORPUS}) == len(CORPUS)


KINDS = sorted({case.name.partition(":")[0] for case in CORPUS})


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures = []
    for number, case in enumerate(c for c in CORPUS if c.name.partition(":")[0] == kind):
        folder = tmp_path / str(number)
        folder.mkdir()
        tracemalloc.start()
        try:
            error = refused(case, folder)
        except Exception as other:
            failures.append(f"{case.name}: {type(other).__name__}: {other}")
            continue
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        if peak > MOST_BYTES:
            failures.append(f"{case.name}: {peak >> 20} MB were taken")
        if not error.remedy:
            failures.append(f"{case.name}: {error} has no remedy")
    assert not failures, "\n".join(failures)


def survive(limit_bytes: int) -> int:
    """Read the whole corpus in this process under a limit on its memory; how many were refused."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for case in CORPUS:
            here = Path(folder) / str(count)
            here.mkdir()
            refused(case, here)
            count += 1
    return count


def test_one_process_survives_all_of_it_in_little_memory() -> None:
    """2 GB of address space, most of which is libraries; a promise of 16 TB would end it."""
    code = "from tests.corpus.test_corpus import survive; print(survive(2 << 30))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(CORPUS)


SOUND = {
    "a.mrc": sound_stack(),
    "a.npy": npy_bytes(np.arange(6, dtype=np.float32)),
    "a.cs": npy_bytes(np.zeros(3, dtype=[("blob/path", "S9"), ("blob/idx", "<u4")])),
    "a.star": STAR_TABLE.encode(),
    "a.simple": project_bytes({2: stacks(2), 3: particles(2)}),
}
READERS = {case.name.partition(":")[0]: case.read for case in CORPUS}


@pytest.mark.parametrize("name", SOUND)
def test_the_sound_files_are_read(name: str, tmp_path: Path) -> None:
    """Without this, a reader that refuses everything would pass."""
    (tmp_path / "a.mrcs").write_bytes(sound_stack())
    (tmp_path / "s1.mrcs").write_bytes(sound_stack())
    (tmp_path / name).write_bytes(SOUND[name])
    assert READERS[name](tmp_path / name) is not None


def items_of(path: Path) -> list[str]:
    """What a run would take from a particle file, one text an item; nothing of another file, which is only read."""
    if path.suffix not in (".star", ".simple"):
        READERS[path.name](path)
        return []
    return [f"{record.key} {record.payload}" for record in ParticleFile(path).poll()]


@pytest.mark.parametrize("name", SOUND)
def test_every_cut_of_a_small_file(name: str, tmp_path: Path) -> None:
    """A table cut right behind a row is a shorter table; of everything else no cut is read."""
    for stack in ("a.mrcs", "s1.mrcs"):
        (tmp_path / stack).write_bytes(sound_stack())
    path, raw = tmp_path / name, SOUND[name]
    path.write_bytes(raw)
    whole, read = items_of(path), []
    assert bool(whole) == (name in ("a.star", "a.simple"))
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        try:
            made = items_of(path)
        except BeamsideError as error:
            assert name in error.where and error.remedy, (length, error)
            continue
        assert name == "a.star" and made == whole[: len(made)], f"{name}, cut at {length}: {made}"
        read.append(length)
    assert len(read) <= 2 * len(whole), f"{name} is read when cut at {read}"


@pytest.mark.parametrize("outside", ["..", "absolute", "symlink"])
def test_what_leaves_the_folder_is_refused_unless_it_is_trusted(outside: str, tmp_path: Path) -> None:
    """The stack is sound; where it lies is all that is wrong with it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out.mrcs").write_bytes(sound_stack())
    name = {"..": "../out.mrcs", "absolute": f"{tmp_path}/out.mrcs", "symlink": "link.mrcs"}[outside]
    if outside == "symlink":
        (tmp_path / "in" / "link.mrcs").symlink_to(tmp_path / "out.mrcs")
    (tmp_path / "in" / "a.star").write_text(STAR_TABLE.replace("a.mrcs", name))
    with pytest.raises(InputError) as caught:
        ParticleFile(tmp_path / "in" / "a.star").poll()
    assert f"input.outside: the stack {name} leaves the data folder" in caught.value.what
    assert "a.star" in caught.value.where and "row 1" in caught.value.where
    assert caught.value.remedy == f"If it belongs to these particles, give --trust {os.path.realpath(tmp_path)}."
    assert (f"a link to {os.path.realpath(tmp_path)}/out.mrcs" in caught.value.what) == (outside == "symlink")
    source = ParticleFile(tmp_path / "in" / "a.star", trusted=[tmp_path])
    assert len(source.poll()) == 2
    (finding,) = source.findings()
    assert finding.guard == "input.outside" and "out.mrcs" in finding.saw
    assert ("a link to" in finding.saw) == (outside == "symlink")


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A sound file with up to four bytes changed, a piece cut out, doubled, or filled."""
    name = draw(st.sampled_from(sorted(SOUND)))
    raw = bytearray(SOUND[name])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        end = min(len(raw), at + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["byte", "cut", "double", "fill", "number"])):
            case "byte" if raw:
                raw[at] = draw(st.integers(0, 255))
            case "cut":
                del raw[at:end]
            case "double":
                raw[at:at] = raw[at:end]
            case "fill":
                raw[at:end] = bytes([draw(st.sampled_from([0, 255, 10, 32]))]) * (end - at)
            case "number":
                raw[at : at + 8] = draw(st.sampled_from([2**31 - 1, 2**63 - 1, -1, 2**40])).to_bytes(
                    8, "little", signed=True
                )
    return name, bytes(raw)


def read_or_refuse(folder: Path, name: str, raw: bytes) -> None:
    """Either is right; anything else is not."""
    (folder / name).write_bytes(raw)
    try:
        READERS[name](folder / name)
    except BeamsideError as error:
        assert error.where


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations")
    for name in ("a.mrcs", "s1.mrcs"):
        (folder / name).write_bytes(sound_stack())
    return folder


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=mutated())
def test_mutations(beside: Path, made: tuple[str, bytes]) -> None:
    read_or_refuse(beside, *made)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=mutated())
def test_many_mutations(beside: Path, made: tuple[str, bytes]) -> None:
    read_or_refuse(beside, *made)


def test_a_case_that_is_read_would_be_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was read"):
        refused(with_stack("sound", STAR_TABLE.encode()), tmp_path)
