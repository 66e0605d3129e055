"""A set fifty times larger than --memory takes no more memory than a small one, scores and controls included."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from beamside.compute import heap
from beamside.denoise.gate import independent
from beamside.denoise.held_out import CROP_PX, CROPS_ALL, CROPS_LEAST, Example, HeldOut, crops_within, measure_controls
from beamside.denoise.networks import build
from beamside.denoise.verify import pieces
from tests.denoise.test_held_out import micrograph

MB = 2**20
BUDGET = 16 * MB
CODE = """
import json, sys
from pathlib import Path
import numpy as np
from beamside.denoise.engine import Denoiser
from beamside.run.engine import Batch
from tests.denoise.scene import options
from tests.denoise.test_engine import header

count, budget, side = map(int, sys.argv[1:])

def pair(number):
    rng = np.random.default_rng(number)
    signal = np.kron(rng.standard_normal((side // 16, side // 16)), np.ones((16, 16)))
    return (signal + rng.standard_normal((2, side, side), dtype=np.float32)).astype(np.float32)

engine = Denoiser.fresh(options(steps=None, memory_bytes=budget, first_round_steps=120), header())
for start in range(0, count, 4):
    numbers = range(start, min(count, start + 4))
    columns = {"tile_px": np.zeros(len(numbers), int), "load_bytes": np.full(len(numbers), 9 * side * side)}
    keys = tuple(f"m{number}" for number in numbers)
    engine.ingest(Batch(keys, columns, lambda rows, first=start: pair(first + int(rows[0]))[None]))
while engine.rounds < 2:
    engine.step()
engine.loader.close()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps([peak, len(engine.held_out.examples), engine.loader.state()["visits"]]))
"""


def run(count: int, side: int) -> tuple[int, int, int]:
    """Peak bytes, held-out examples and opened micrographs of a training of its own process."""
    command = [sys.executable, "-c", CODE, str(count), str(BUDGET), str(side)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[2])
    peak, examples, visits = json.loads(done.stdout)
    return peak, examples, visits


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_set_fifty_times_larger_than_the_budget_stays_within_it() -> None:
    side = 512
    count = 50 * BUDGET // (2 * 4 * side * side)
    small, few, _ = run(16, side)
    large, most, visits = run(count, side)
    print(f"16 micrographs {small >> 20} MB, {count} micrographs {large >> 20} MB")
    assert count * 2 * 4 * side * side >= 50 * BUDGET and few <= most == 2 * CROPS_LEAST
    assert visits > 10
    assert large - small <= BUDGET


def test_what_is_held_out_keeps_to_its_part_of_the_budget() -> None:
    for budget, single in ((BUDGET, False), (64 * MB, True), (256 * MB, False), (1024 * MB, True)):
        count, taken = crops_within(budget, single=single)
        assert CROPS_LEAST <= count <= CROPS_ALL and taken <= max(0.06, 0.13 if budget == BUDGET else 0) * budget + 1
        assert count * (3 if single else 2) * 4 * CROP_PX**2 <= taken
    held = HeldOut(5)
    for number in range(3):
        pixels = np.random.default_rng(number).standard_normal((2, 700, 600)).astype(np.float32)
        held.add(micrograph(key=f"m{number}"), pixels, 16, None)
    assert len(held.examples) == 10


def test_scoring_takes_an_example_at_a_time() -> None:
    """It once took ten times what is held out; numpy's share is what is counted."""
    one, two = np.random.default_rng(0).standard_normal((2, 128, 128)).astype(np.float32)
    examples = [Example(one, two)] * 60
    network = build("seed3").eval()
    threads = torch.get_num_threads()
    tracemalloc.start()
    try:
        for use in (
            lambda: independent(network, examples),
            lambda: measure_controls(examples),
            lambda: sum(len(piece) for piece in pieces(b"model", examples, 1)),
        ):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            use()
            assert tracemalloc.get_traced_memory()[1] - before < 12 * one.nbytes
    finally:
        tracemalloc.stop()
        torch.set_num_threads(threads)


@pytest.mark.skipif(heap._function("malloc_trim") is None, reason="the C library cannot give memory back")
def test_memory_is_given_back() -> None:
    """Blocks too small to be mapped, freed under one that stays."""
    status = Path("/proc/self/statm")
    blocks = [bytearray(100_000) for _ in range(1000)]
    stays = [blocks.pop()]
    blocks.clear()
    before = int(status.read_text().split()[1])
    heap.give_back()
    assert len(stays) == 1 and int(status.read_text().split()[1]) <= before
