"""A folder while files in it grow, pause, are renamed, cut, deleted, replaced: never a partial item, never a crash."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamside.errors import BeamsideError
from beamside.run.source import Record
from beamside.sources.particles import ParticleFolder
from tests.sources.test_particles import Clock, pair, pixels

COUNT = 6
ACTIONS = (
    "grow",
    "grow the stack",
    "pause 90 s",
    "pause 3 s",
    "rename in",
    "cut",
    "delete",
    "delete the stack",
    "touch",
)


class Microscope:
    """One table and its stack, and what can happen to them."""

    def __init__(self, folder: Path, store: Path, clock: Clock) -> None:
        self.folder, self.clock = folder, clock
        star = pair(store, "a", COUNT)
        self.table, self.stack = star.read_bytes(), (store / "a.mrcs").read_bytes()
        self.shown = {"a.star": 0, "a.mrcs": 0}

    def put(self, name: str, share: float) -> None:
        whole = self.table if name == "a.star" else self.stack
        self.shown[name] = round(share * len(whole))
        (self.folder / name).write_bytes(whole[: self.shown[name]])

    def act(self, action: str, share: float) -> None:
        match action:
            case "grow":
                self.put("a.star", share)
            case "grow the stack":
                self.put("a.mrcs", share)
            case "pause 90 s":
                self.clock.pass_s(90)
            case "pause 3 s":
                self.clock.pass_s(3)
            case "rename in":
                for name, whole in (("a.mrcs", self.stack), ("a.star", self.table)):
                    (self.folder / f".{name}.tmp").write_bytes(whole)
                    os.replace(self.folder / f".{name}.tmp", self.folder / name)
            case "cut":
                for name in ("a.star", "a.mrcs"):
                    if (self.folder / name).exists():
                        os.truncate(self.folder / name, int(share * (self.folder / name).stat().st_size))
            case "delete":
                (self.folder / "a.star").unlink(missing_ok=True)
            case "delete the stack":
                (self.folder / "a.mrcs").unlink(missing_ok=True)
            case "touch":
                for path in self.folder.glob("a.*"):
                    os.utime(path, (share, share))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from([0.0, 0.2, 0.5, 0.97, 1.0])), max_size=14))
def test_whatever_happens_every_particle_comes_once_and_whole(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, float]]
) -> None:
    base = tmp_path_factory.mktemp("growing")
    (folder := base / "in").mkdir()
    clock = Clock()
    source = ParticleFolder(folder, settle_s=5, patience_s=60, clock=clock)
    microscope, truth = Microscope(folder, base / "store", clock), pixels(COUNT)
    came: list[Record] = []

    def look() -> None:
        for _ in range(2):
            for record in source.poll():
                index = int(record.key.partition("@")[0]) - 1
                assert np.array_equal(source.batch([record]).load(np.arange(1))[0], truth[index]), "a partial item"
                came.append(record)
            source.findings()
            clock.pass_s(1)

    for action, share in actions:
        microscope.act(action, share)
        look()
    microscope.act("rename in", 1.0)
    for _ in range(30):
        look()
        clock.pass_s(6)
    assert sorted(record.key for record in came) == [f"{i + 1:06d}@a.mrcs" for i in range(COUNT)]


@pytest.mark.parametrize("how", ["cut", "delete the stack"])
def test_pixels_that_are_gone_later_are_an_error_that_says_so(tmp_path: Path, how: str) -> None:
    (folder := tmp_path / "in").mkdir()
    clock = Clock()
    source = ParticleFolder(folder, settle_s=5, clock=clock)
    microscope = Microscope(folder, tmp_path / "store", clock)
    microscope.act("rename in", 1.0)
    source.poll()
    clock.pass_s(6)
    batch = source.batch(source.poll())
    microscope.act(how, 0.5)
    with pytest.raises(BeamsideError, match=r"a\.mrcs") as caught:
        batch.load(np.arange(COUNT))
    assert caught.value.remedy
