"""Crops from more than memory holds: bounded, the same whatever the thread does, and exact after a resume."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from beamside.denoise.loader import CropLoader, augmented, draw_corners
from beamside.denoise.micrograph import HELD_OUT, TRAIN, Micrograph, Pixels, is_held_out
from beamside.denoise.normalise import Scale
from beamside.errors import CapacityError
from beamside.run.engine import Batch

SIDE = 128
MB = 2**20


def made(number: int, side: int = SIDE) -> NDArray[np.float32]:
    """(1, 2, side, side), second half = first + 1000, so that a broken pair shows."""
    first = np.random.default_rng(number).standard_normal((side, side)).astype(np.float32)
    return np.stack([first, first + 1000])[None]


def loader(count: int, *, side: int = SIDE, budget: int = 16 * MB, delay_s: float = 0.0) -> CropLoader:
    def load(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        time.sleep(delay_s)
        return made(int(rows[0]), side)

    keys = tuple(f"m{number}" for number in range(count))
    pixels = Pixels()
    pixels.add(Batch(keys, {}, load))
    found = CropLoader(pixels, 32, budget, seed=3)
    found.join([Micrograph(key, side, side, 0, Scale(0.0, 1.0), 0, 0, 9 * side * side, TRAIN, 0, side) for key in keys])
    return found


def test_the_order_does_not_depend_on_the_threads_speed() -> None:
    quick, slow = loader(5), loader(5, delay_s=0.01)
    for _ in range(12):
        assert torch.equal(quick.draw(8), slow.draw(8))
    quick.close()
    slow.close()


def test_a_resumed_loader_goes_on_with_the_same_crops() -> None:
    first = loader(5)
    for _ in range(7):
        first.draw(8)
    state = json.loads(json.dumps(first.state()))
    expected = [first.draw(8) for _ in range(9)]
    first.close()
    again = loader(5)
    again.restore(state)
    assert all(torch.equal(again.draw(8), batch) for batch in expected)
    again.close()


def test_newcomers_are_seen_next() -> None:
    found = loader(3)
    found.draw(4)
    found.members["new"] = replace(found.members["m0"], key="new")
    found.pixels.add(Batch(("new",), {}, lambda rows: made(77)))
    found.join([found.members["new"]])
    while "new" not in [slot[1] for slot in found.state()["slots"]]:
        found.draw(1)
    # Three open ones, the one that was prepared, the newcomer, and the one prepared after it.
    assert found.state()["visits"] <= 6
    found.close()


def test_prefetching_happens_in_a_thread() -> None:
    names = set()

    def load(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        names.add(threading.current_thread().name)
        return made(0)

    found = loader(2)
    found.pixels.add(Batch(("m0", "m1"), {}, load))
    for _ in range(6):
        found.draw(8)
    found.close()
    assert any(name.startswith("crops") for name in names)


def test_a_set_fifty_times_larger_stays_within_the_budget() -> None:
    """Fifty times the budget passes through the loader; what Python and numpy hold at a time never exceeds it."""
    side, budget = 512, 16 * MB
    one = 2 * side * side * 4
    count = 50 * budget // one
    found = loader(count, side=side, budget=budget)
    tracemalloc.start()
    seen: set[str] = set()
    drawn = torch.zeros(())
    while len(seen) < 40:
        drawn = found.draw(8)
        seen |= {slot[1] for slot in found.state()["slots"]}
    in_python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    crops = sum(slot.crops.numel() * slot.crops.element_size() for slot in found._slots)
    prepared = found._slots[0].crops.numel() * 2
    found.close()
    assert drawn.shape == (8, 2, 32, 32)
    assert count * one >= 50 * budget
    assert in_python + crops + 2 * prepared <= budget


def test_a_micrograph_over_the_budget_is_refused() -> None:
    found = loader(1, budget=MB // 4)
    with pytest.raises(CapacityError, match=r"capacity\.declared.*--memory"):
        found.crops_of(found.members["m0"])


def test_halves_stay_together() -> None:
    found = loader(4)
    batch = found.draw(32)
    found.close()
    # Values are cut at 8 spreads, so the second half, 1000 brighter, is 8 everywhere; a swap puts it first.
    bright = (batch == 8).flatten(2).all(2)
    assert (bright.sum(1) == 1).all() and 0 < int(bright[:, 0].sum()) < 32


def test_all_sixteen_augmentations_occur_and_no_other() -> None:
    pair = np.arange(2 * 9, dtype=np.float32).reshape(2, 3, 3)
    rng = np.random.default_rng(0)
    seen = {augmented(pair, rng)[0].tobytes() for _ in range(400)}
    wanted = set()
    for halves in (pair, pair[::-1]):
        for turns in range(4):
            turned = np.rot90(halves, turns, axes=(1, 2))
            wanted |= {turned.tobytes(), turned[:, :, ::-1].tobytes()}
    assert seen == wanted and len(wanted) == 16


def test_crops_of_a_displaced_pair_show_the_same_features() -> None:
    clean = np.random.default_rng(5).standard_normal((80, 80)).astype(np.float32)
    dy, dx = 3, -2
    pixels = np.stack([clean[10:70, 10:70], clean[10 - dy : 70 - dy, 10 - dx : 70 - dx]])
    member = Micrograph("m", 60, 60, 0, Scale(0.0, 1.0), dy, dx, 0, TRAIN, 0, 60)
    for y, x in draw_corners(member, 50, 32, np.random.default_rng(0)):
        crop = member.crop(pixels, y, x, 32, 32)
        assert crop.shape == (2, 32, 32) and np.array_equal(crop[0], crop[1])


def test_crops_of_patches_keep_to_their_grid() -> None:
    member = Micrograph("m", 640, 64, 64, Scale(0.0, 1.0), 0, 0, 0, TRAIN, 0, 512)
    corners = draw_corners(member, 100, 64, np.random.default_rng(0))
    assert {y % 64 for y, _ in corners} == {0} and max(y for y, _ in corners) == 448 and {x for _, x in corners} == {0}


def test_a_tenth_of_the_names_is_held_out() -> None:
    share = np.mean([is_held_out(f"session/mic_{n:05d}_EVN.mrc") for n in range(4000)])
    assert share == pytest.approx(0.1, abs=0.02)
    assert HELD_OUT != TRAIN
