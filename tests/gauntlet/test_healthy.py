"""Healthy classifications trip no guard: structures, noise, sizes, orders of arrival, CTF, few and many classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.formats.star import StarTable, read_star, write_star
from tests.gauntlet.drive import run, verdict, write_session
from tests.gauntlet.kills import began_from_a_volume


@dataclass(frozen=True)
class Healthy:
    """What is simulated, what is asked for, and in which order particles come."""

    recipe: dict[str, Any] = field(default_factory=dict)
    options: tuple[object, ...] = ()
    classes: int = 4
    order: str = "as written"
    volume: bool = False
    """Whether the classes begin as views of one volume, which takes 500 particles that it explains."""


RUNS = {
    "plain": Healthy(),
    "from a volume": Healthy({"count": 520, "snr": 2.0, "seed": 19}, ("--first-batch", "500"), classes=8, volume=True),
    "from a volume of a ring, little noise": Healthy(
        {"structure": "ring", "snr": 3.0, "count": 520, "seed": 20},
        ("--first-batch", "500", "--batch-size", "10", "--start", "volume"),
        classes=6,
        volume=True,
    ),
    "much noise": Healthy({"snr": 0.1, "count": 400, "seed": 6}),
    "pink noise": Healthy({"noise": "pink", "seed": 7}),
    "larger boxes, finer pixels": Healthy({"box_px": 48, "pixel_size_A": 5.0, "seed": 8}, ("--max-resolution", "15")),
    "preferred views": Healthy({"views": "preferred", "count": 400, "seed": 9}, ("--first-batch", "400"), classes=12),
    "preferred views, few classes": Healthy({"views": "preferred", "count": 300, "seed": 9}),
    "some junk": Healthy({"junk": 0.15, "count": 300, "seed": 10}, classes=6),
    "far shifts": Healthy({"shift_px": 4.0, "seed": 11}),
    "without CTF": Healthy({"seed": 12}, ("--no-ctf",)),
    "two classes": Healthy({"seed": 13}, classes=2),
    "many classes": Healthy({"count": 400, "seed": 14}, classes=16),
    "small batches": Healthy({"seed": 15}, ("--first-batch", "120", "--batch-size", "50")),
    "by defocus": Healthy({"seed": 16}, ("--first-batch", "100", "--batch-size", "70"), order="defocus"),
    "backwards": Healthy({"seed": 17}, ("--first-batch", "100", "--batch-size", "70"), order="backwards"),
    "mirrors share a class": Healthy({"seed": 18}, ("--mirror",)),
}


def reorder(star: Path, order: str) -> None:
    """The same particles in another order of rows."""
    tables = read_star(star)
    rows = tables["particles"]
    if order == "as written":
        return
    places = np.argsort(rows.floats("rlnDefocusU")) if order == "defocus" else np.arange(len(rows))[::-1]
    columns = {label: [values[i] for i in places.tolist()] for label, values in rows.columns.items()}
    write_star(star, [tables["optics"], StarTable(columns, name="particles")])


SLOW = ("by defocus", "backwards", "preferred views, few classes")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in RUNS])
def test_nothing_stops_and_nothing_is_suspect(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = RUNS[name]
    star = write_session(tmp_path / "session", **healthy.recipe)
    reorder(star, healthy.order)
    ran = run(capsys, star, tmp_path / "run", *healthy.options, classes=healthy.classes)
    assert ran.status == 0, ran.said
    assert [found for found in ran.findings if found[1] != "note"] == []
    assert verdict(ran.folder) == "trusted"
    assert began_from_a_volume(ran.folder) == healthy.volume
